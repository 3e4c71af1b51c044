//! The one error of this library: what failed, with which values, where it was asked for, and what to do.

use std::fmt;

use tensord_shm::control::ControlError;
use tensord_shm::control_socket::ControlSocketError;
use tensord_shm::error::Code;
use tensord_shm::op::{Meta, OpError};
use tensord_shm::segment::SegmentFault;

use crate::site::{Place, Site};

/// Why a call or a request failed. Cheap to move; errors are rare, so what they carry is boxed.
#[derive(Clone)]
pub struct Error(Box<Detail>);

#[derive(Clone)]
struct Detail {
    code: Code,
    message: String,
    operation: Option<&'static str>,
    result: Option<Meta>,
    site: Site,
}

impl Error {
    /// An error with a code and a message.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error(Box::new(Detail {
            code,
            message: message.into(),
            operation: None,
            result: None,
            site: Site::UNKNOWN,
        }))
    }

    pub(crate) fn at(mut self, site: Site) -> Error {
        self.0.site = site;
        self
    }

    pub(crate) fn of_operation(mut self, name: &'static str) -> Error {
        self.0.operation = Some(name);
        self
    }

    pub(crate) fn with_result(mut self, meta: Meta) -> Error {
        self.0.result = Some(meta);
        self
    }

    /// What kind of failure, by the codes that go over the wire.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What was wrong, with which values, and what to do.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Name of the operation that failed first, where one did.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// Dtype and shape of the tensor that was asked for, where there is one.
    pub fn result(&self) -> Option<Meta> {
        self.0.result
    }

    /// Where the failed request was asked for.
    pub fn site(&self) -> Site {
        self.0.site
    }

    /// Where the failed request was asked for, as file and line.
    pub fn place(&self) -> Option<Place> {
        self.0.site.place()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.0.message, self.0.code)?;
        match self.place() {
            Some(place) => write!(f, " (asked for at {place})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<OpError> for Error {
    fn from(error: OpError) -> Error {
        Error::new(error.code(), error.to_string())
    }
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Error {
        Error::new(error.code, error.text)
    }
}

impl From<ControlSocketError> for Error {
    fn from(error: ControlSocketError) -> Error {
        Error::new(
            Code::DaemonLost,
            format!("{error}; open a new session once the daemon is back"),
        )
    }
}

impl From<SegmentFault> for Error {
    fn from(error: SegmentFault) -> Error {
        Error::new(
            Code::Internal,
            format!("the daemon sent shared memory that cannot be used: {error}"),
        )
    }
}

/// What the name of an operation code is, for messages.
pub(crate) fn operation_name(opcode: u16) -> &'static str {
    use tensord_shm::op::Elementwise;
    use tensord_shm::record::opcode as code;
    if let Some(function) = Elementwise::from_wire(opcode) {
        return function.info().name;
    }
    match opcode {
        code::UPLOAD_INLINE
        | code::UPLOAD
        | code::UPLOAD_BEGIN
        | code::UPLOAD_WRITE
        | code::UPLOAD_SEAL => "upload",
        code::BIND => "constant",
        code::DOWNLOAD => "download",
        code::WAIT_QUEUE => "wait for another queue",
        code::CANCEL => "cancel",
        code::CAST => "cast",
        code::REDUCE => "reduction",
        code::SCAN => "cumulative operation",
        code::CONTRACT => "contract",
        code::RESHAPE => "reshape",
        code::PERMUTE => "permute",
        code::SLICE => "slice",
        code::EXPAND => "expand",
        code::WINDOW => "window",
        code::PAD => "pad",
        code::CONCAT => "concat",
        code::GATHER => "gather",
        code::SCATTER => "scatter",
        code::COPY => "copy",
        code::FULL => "full",
        code::IOTA => "iota",
        code::RANDOM => "random",
        _ => "request",
    }
}
