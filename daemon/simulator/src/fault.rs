//! What goes wrong in a run, and when.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A client is gone in the midst of what it does.
    Dies {
        /// Number of the client.
        client: usize,
    },
    /// A client of the same kind comes in place of one that is gone.
    Returns {
        /// Number of the client.
        client: usize,
    },
    /// A client writes what is no request, or what is no record at all.
    Garbage {
        /// Number of the client.
        client: usize,
        /// Is the frame of the record broken, too?
        frame: bool,
    },
    /// The device refuses memory from here on.
    RefusesMemory,
    /// The device gives memory again.
    GivesMemory,
    /// A launch fails, and with it the device: the next engine is another epoch.
    DeviceFails,
}

impl Fault {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Dies { .. } => "a client dies",
            Fault::Returns { .. } => "a client returns",
            Fault::Garbage { frame: true, .. } => "a client breaks its ring",
            Fault::Garbage { frame: false, .. } => "a client writes garbage",
            Fault::RefusesMemory => "the device refuses memory",
            Fault::GivesMemory => "the device gives memory again",
            Fault::DeviceFails => "the device is about to fail",
        }
    }
}
