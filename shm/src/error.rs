//! Codes with which a request, a session or a control message can fail.
//!
//! One enum is the wire format; the C header, the Python exceptions and the manual come from it by exhaustive `match`.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $kind:ident;)*) => {
        /// Why something failed. Numbers are the wire format: append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Code { $($(#[$doc])* $variant = $number,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code with this wire number, if there is one.
            pub fn from_wire(number: u32) -> Option<Code> {
                match number { $($number => Some(Code::$variant),)* _ => None }
            }

            /// The name by which messages, C and Python know it.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// Who is at fault, and so who is told.
            pub fn fault(self) -> Fault {
                match self { $(Code::$variant => Fault::$kind,)* }
            }
        }
    };
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The client broke the protocol: its session ends.
    Client,
    /// A request cannot be served (limit, unsupported, bad operand): that request fails, nothing else.
    Refusal,
    /// The device or the daemon failed: everyone involved is told.
    Device,
}

codes! {
    /// A record's length, padding or header words break the framing rules.
    BadRecord = 1, "bad_record", Client;
    /// The ring's tail moved by more than the ring holds, or backwards.
    TailJump = 2, "tail_jump", Client;
    /// A control message is malformed.
    BadMessage = 3, "bad_message", Client;
    /// File descriptors came with a message that takes none.
    UninvitedFd = 4, "uninvited_fd", Client;
    /// No common protocol version.
    Version = 5, "version", Refusal;
    /// The peer's identity may not use this socket.
    Denied = 6, "denied", Refusal;
    /// The operation code is not known to this daemon.
    UnknownOperation = 16, "unknown_operation", Refusal;
    /// A handle was never defined, was released, or belongs to another epoch or session.
    BadHandle = 17, "bad_handle", Refusal;
    /// Shapes do not fit the operation.
    Shape = 18, "shape", Refusal;
    /// Dtypes do not fit the operation.
    DTypes = 19, "dtype", Refusal;
    /// An attribute (axis, permutation, label, region) is out of its range.
    Attribute = 20, "attribute", Refusal;
    /// An operand carries an earlier failure.
    Poisoned = 21, "poisoned", Refusal;
    /// The output handle is in use.
    HandleInUse = 22, "handle_in_use", Refusal;
    /// A staging region is outside its arena.
    Staging = 23, "staging", Refusal;
    /// No constant of this hash is held for this tenant.
    NotHeld = 24, "not_held", Refusal;
    /// A wait for another queue did not come true in time.
    WaitTimeout = 25, "wait_timeout", Refusal;
    /// Device memory: the session's or tenant's limit, or the device is full.
    OutOfMemory = 32, "out_of_memory", Refusal;
    /// A limit on handles, requests, queues, sessions or staging was reached.
    Limit = 33, "limit", Refusal;
    /// The daemon is draining and takes nothing new.
    Draining = 34, "draining", Refusal;
    /// Control command on a socket that does not take it.
    NotAdministrator = 35, "not_administrator", Refusal;
    /// The request was accepted and ended before it was launched.
    Cancelled = 48, "cancelled", Refusal;
    /// The engine ended before the request was done.
    Lost = 49, "lost", Device;
    /// The device failed while it ran this request.
    DeviceFault = 50, "device_fault", Device;
    /// The daemon broke one of its own rules; a bug.
    Internal = 51, "internal", Device;
    /// The daemon could not be reached or went away.
    DaemonLost = 64, "daemon_lost", Device;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
