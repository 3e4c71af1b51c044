//! Numbers of the C interface: outcomes, dtypes, kinds of operation. Each comes from the table of both sides by an
//! exhaustive match, so that a new entry there does not compile until it stands here.

#![allow(
    non_camel_case_types,
    reason = "these are the names that C programs write"
)]

use tensord_shm::dtype::DType;
use tensord_shm::error::Code;

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum tensord_code {
    /// It worked.
    TENSORD_OK = 0,
    /// A record breaks the framing rules; a bug of this library.
    TENSORD_ERR_BAD_RECORD = 1,
    /// A ring's tail moved by more than the ring holds; a bug of this library.
    TENSORD_ERR_TAIL_JUMP = 2,
    /// A control message is malformed.
    TENSORD_ERR_BAD_MESSAGE = 3,
    /// File descriptors came with a message that takes none.
    TENSORD_ERR_UNINVITED_FD = 4,
    /// No common protocol version.
    TENSORD_ERR_VERSION = 5,
    /// This process may not use that socket.
    TENSORD_ERR_DENIED = 6,
    /// The daemon does not know the operation.
    TENSORD_ERR_UNKNOWN_OPERATION = 16,
    /// The tensor belongs to another session, or to a parent process.
    TENSORD_ERR_BAD_HANDLE = 17,
    /// Shapes do not fit the operation.
    TENSORD_ERR_SHAPE = 18,
    /// Dtypes do not fit the operation.
    TENSORD_ERR_DTYPE = 19,
    /// An argument or an attribute is out of its range.
    TENSORD_ERR_ATTRIBUTE = 20,
    /// An operand carries an earlier failure.
    TENSORD_ERR_POISONED = 21,
    /// A handle is in use; a bug of this library.
    TENSORD_ERR_HANDLE_IN_USE = 22,
    /// A staging region is outside its arena; a bug of this library.
    TENSORD_ERR_STAGING = 23,
    /// The daemon holds no constant of this content.
    TENSORD_ERR_NOT_HELD = 24,
    /// Not there in the time given.
    TENSORD_ERR_WAIT_TIMEOUT = 25,
    /// Memory is not to be had.
    TENSORD_ERR_OUT_OF_MEMORY = 32,
    /// A limit of the session was reached.
    TENSORD_ERR_LIMIT = 33,
    /// The daemon is ending and takes nothing new.
    TENSORD_ERR_DRAINING = 34,
    /// Only the administration socket takes this.
    TENSORD_ERR_NOT_ADMINISTRATOR = 35,
    /// The request ended before it was launched.
    TENSORD_ERR_CANCELLED = 48,
    /// The engine ended before the request was done.
    TENSORD_ERR_LOST = 49,
    /// The device failed.
    TENSORD_ERR_DEVICE_FAULT = 50,
    /// The daemon or this library broke one of its own rules; a bug.
    TENSORD_ERR_INTERNAL = 51,
    /// The daemon cannot be reached or went away.
    TENSORD_ERR_DAEMON_LOST = 64,
}

impl From<Code> for tensord_code {
    fn from(code: Code) -> tensord_code {
        use tensord_code::*;
        match code {
            Code::BadRecord => TENSORD_ERR_BAD_RECORD,
            Code::TailJump => TENSORD_ERR_TAIL_JUMP,
            Code::BadMessage => TENSORD_ERR_BAD_MESSAGE,
            Code::UninvitedFd => TENSORD_ERR_UNINVITED_FD,
            Code::Version => TENSORD_ERR_VERSION,
            Code::Denied => TENSORD_ERR_DENIED,
            Code::UnknownOperation => TENSORD_ERR_UNKNOWN_OPERATION,
            Code::BadHandle => TENSORD_ERR_BAD_HANDLE,
            Code::Shape => TENSORD_ERR_SHAPE,
            Code::DTypes => TENSORD_ERR_DTYPE,
            Code::Attribute => TENSORD_ERR_ATTRIBUTE,
            Code::Poisoned => TENSORD_ERR_POISONED,
            Code::HandleInUse => TENSORD_ERR_HANDLE_IN_USE,
            Code::Staging => TENSORD_ERR_STAGING,
            Code::NotHeld => TENSORD_ERR_NOT_HELD,
            Code::WaitTimeout => TENSORD_ERR_WAIT_TIMEOUT,
            Code::OutOfMemory => TENSORD_ERR_OUT_OF_MEMORY,
            Code::Limit => TENSORD_ERR_LIMIT,
            Code::Draining => TENSORD_ERR_DRAINING,
            Code::NotAdministrator => TENSORD_ERR_NOT_ADMINISTRATOR,
            Code::Cancelled => TENSORD_ERR_CANCELLED,
            Code::Lost => TENSORD_ERR_LOST,
            Code::DeviceFault => TENSORD_ERR_DEVICE_FAULT,
            Code::Internal => TENSORD_ERR_INTERNAL,
            Code::DaemonLost => TENSORD_ERR_DAEMON_LOST,
        }
    }
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum tensord_dtype {
    /// One byte, 0 or 1.
    TENSORD_BOOL = 1,
    /// Signed, 8 bits.
    TENSORD_I8 = 2,
    /// Signed, 16 bits.
    TENSORD_I16 = 3,
    /// Signed, 32 bits.
    TENSORD_I32 = 4,
    /// Signed, 64 bits.
    TENSORD_I64 = 5,
    /// Unsigned, 8 bits.
    TENSORD_U8 = 6,
    /// Unsigned, 16 bits.
    TENSORD_U16 = 7,
    /// Unsigned, 32 bits.
    TENSORD_U32 = 8,
    /// Unsigned, 64 bits.
    TENSORD_U64 = 9,
    /// IEEE 754 binary16.
    TENSORD_F16 = 10,
    /// bfloat16.
    TENSORD_BF16 = 11,
    /// IEEE 754 binary32.
    TENSORD_F32 = 12,
    /// IEEE 754 binary64.
    TENSORD_F64 = 13,
}

impl From<DType> for tensord_dtype {
    fn from(dtype: DType) -> tensord_dtype {
        use tensord_dtype::*;
        match dtype {
            DType::Bool => TENSORD_BOOL,
            DType::I8 => TENSORD_I8,
            DType::I16 => TENSORD_I16,
            DType::I32 => TENSORD_I32,
            DType::I64 => TENSORD_I64,
            DType::U8 => TENSORD_U8,
            DType::U16 => TENSORD_U16,
            DType::U32 => TENSORD_U32,
            DType::U64 => TENSORD_U64,
            DType::F16 => TENSORD_F16,
            DType::Bf16 => TENSORD_BF16,
            DType::F32 => TENSORD_F32,
            DType::F64 => TENSORD_F64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_wire() {
        for &code in Code::ALL {
            assert_eq!(tensord_code::from(code) as u32, code as u32, "{code}");
        }
        for dtype in DType::ALL {
            assert_eq!(
                tensord_dtype::from(dtype) as u32,
                u32::from(dtype.wire()),
                "{dtype}"
            );
        }
    }
}
