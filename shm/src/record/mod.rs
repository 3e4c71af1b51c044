//! Requests as they stand in a submission ring: typed on both sides, words in between.
//!
//! ```text
//! word 0   length in 64-byte units (8 bits) | flags (8) | opcode (16) | site (32)
//! word 1   output handle, or the one handle that the request is about
//! word 2   dtype (8) | operand count (8) | release count (8) | attribute words (8) | immediate mask (32)
//! words    operands: a handle each, or an element's bits where the immediate mask says so
//! words    attributes, as each operation lays them out
//! words    handles released once this record is accepted, 0 being none; one that names nothing fails a RELEASE and no other
//! word     class (8) | device (8) | deadline in us (48), when flag URGENCY is set
//! ```
//!
//! Decoding never trusts a count: every read of the private copy is bounded by its length, and what does not fit is
//! a [`RecordFault`] with the offending numbers. Nothing here knows which handles exist.

mod decode;
mod encode;

use thiserror::Error;

pub use decode::{
    Frame, attributes_of, decode, frame_of, is_canonical, output_of, released_by, releases_of,
    releases_of_mut, says_nothing, site_of,
};
pub use encode::{Encoder, Line, TooLong, opcode_of};

use crate::dtype::{DType, Scalar};
use crate::handle::Handle;
use crate::op::{Meta, OPERANDS_MAX, Op, Operand};

/// Most words of one record.
pub const WORDS_MAX: usize = 128;
/// Words of the shortest record.
pub const WORDS_MIN: usize = 8;
/// Words before the operands.
pub const FRAME_WORDS: usize = 3;
/// Most bytes of a value inside a record.
pub const INLINE_BYTES_MAX: usize = 800;

/// Flag: the last used word is an [`Urgency`].
const FLAG_URGENCY: u64 = 1;
/// Flag of uploads: share by content.
const FLAG_CONSTANT: u64 = 2;

/// Operation codes. Elementwise functions have their own numbers, 32 to 255. Append only.
#[allow(missing_docs)]
pub mod opcode {
    pub const PADDING: u16 = 0;
    pub const NOOP: u16 = 1;
    pub const RELEASE: u16 = 2;
    pub const UPLOAD_INLINE: u16 = 3;
    pub const UPLOAD: u16 = 4;
    pub const UPLOAD_BEGIN: u16 = 5;
    pub const UPLOAD_WRITE: u16 = 6;
    pub const UPLOAD_SEAL: u16 = 7;
    pub const BIND: u16 = 8;
    pub const DOWNLOAD: u16 = 9;
    pub const WAIT_QUEUE: u16 = 10;
    pub const CANCEL: u16 = 11;
    pub const FLUSH: u16 = 12;
    /// Requests on tensors begin here, with the elementwise functions.
    pub const FIRST_COMPUTE: u16 = 32;
    pub const CAST: u16 = 256;
    pub const REDUCE: u16 = 257;
    pub const SCAN: u16 = 258;
    pub const CONTRACT: u16 = 259;
    pub const RESHAPE: u16 = 260;
    pub const PERMUTE: u16 = 261;
    pub const SLICE: u16 = 262;
    pub const EXPAND: u16 = 263;
    pub const WINDOW: u16 = 264;
    pub const PAD: u16 = 265;
    pub const CONCAT: u16 = 266;
    pub const GATHER: u16 = 267;
    pub const SCATTER: u16 = 268;
    pub const COPY: u16 = 269;
    pub const FULL: u16 = 270;
    pub const IOTA: u16 = 271;
    pub const RANDOM: u16 = 272;
    /// One past the highest; hello negotiates it.
    pub const COUNT: u16 = 273;
}

/// How urgent what a request demands is. Engines heed it on [`Request::Flush`], which is one with everything before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Urgency {
    /// Number of a [`Class`](crate::control::Class); 0 is the session's. Not heeded yet.
    pub class: u8,
    /// Index of the device among those that hello named. Not heeded yet.
    pub device: u8,
    /// Microseconds from acceptance until the result is wanted; 0 is none. 48 bits.
    pub deadline_us: u64,
}

/// A region of a staging arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which arena of the session.
    pub arena: u32,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// An operation on tensors, as a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// The operation and its attributes.
    pub op: Op,
    /// Dtype of immediate operands.
    pub dtype: DType,
    /// The result's name, chosen by the client.
    pub out: Handle,
    operand_count: u8,
    operands: [Operand<Handle>; OPERANDS_MAX],
    /// Scalars that belong to the operation (see [`Op::attribute_immediates`]), in its result's dtype.
    pub immediates: [Scalar; 2],
}

impl Compute {
    /// A request for `op`. `None` where there are more than [`OPERANDS_MAX`] operands.
    pub fn new(
        op: Op,
        dtype: DType,
        out: Handle,
        operands: &[Operand<Handle>],
        immediates: [Scalar; 2],
    ) -> Option<Compute> {
        let mut all = [Operand::Immediate(dtype, Scalar(0)); OPERANDS_MAX];
        all.get_mut(..operands.len())?.copy_from_slice(operands);
        Some(Compute {
            op,
            dtype,
            out,
            operand_count: operands.len() as u8,
            operands: all,
            immediates,
        })
    }

    /// The operands, in order.
    pub fn operands(&self) -> &[Operand<Handle>] {
        &self.operands[..usize::from(self.operand_count)]
    }
}

/// What a record asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "short-lived, one at a time; boxing would allocate for each request"
)]
pub enum Request {
    /// Nothing; counts on the timeline.
    NoOp,
    /// Nothing but the releases that it carries.
    Release,
    /// An operation.
    Compute(Compute),
    /// A value in the record itself, row-major, at most [`INLINE_BYTES_MAX`] bytes.
    UploadInline {
        /// The new tensor.
        out: Handle,
        /// Its dtype and shape.
        meta: Meta,
        /// Share by content?
        constant: bool,
        /// The bytes, in words.
        words: Vec<u64>,
    },
    /// A value in staging, row-major.
    Upload {
        /// The new tensor.
        out: Handle,
        /// Its dtype and shape.
        meta: Meta,
        /// Share by content?
        constant: bool,
        /// Where the bytes lie.
        from: Region,
    },
    /// Starts a tensor that is written in pieces.
    UploadBegin {
        /// The new tensor; unusable as an operand until sealed.
        out: Handle,
        /// Its dtype and shape.
        meta: Meta,
        /// Share by content?
        constant: bool,
    },
    /// A piece of it.
    UploadWrite {
        /// The tensor begun.
        to: Handle,
        /// First byte written.
        at: u64,
        /// Where the bytes lie.
        from: Region,
    },
    /// Ends it. Bytes never written are zero.
    UploadSeal {
        /// The tensor begun.
        to: Handle,
    },
    /// Names a constant that the tenant may already hold; fails with `not_held` otherwise.
    Bind {
        /// The new tensor.
        out: Handle,
        /// Its dtype and shape.
        meta: Meta,
        /// BLAKE3 of its bytes, row-major.
        hash: [u8; 32],
    },
    /// Writes bytes of a value, row-major, to staging.
    Download {
        /// The tensor.
        of: Handle,
        /// First byte of its row-major value.
        at: u64,
        /// Where the bytes go; its length is how many.
        to: Region,
    },
    /// Orders this queue behind another queue of the session.
    WaitQueue {
        /// The other queue.
        queue: u32,
        /// Its timeline value.
        value: u64,
        /// Fails with `wait_timeout` after this many microseconds.
        timeout_us: u64,
    },
    /// Cancels what is accepted and not launched of this queue, from value `first` to `last`.
    Cancel {
        /// First timeline value.
        first: u64,
        /// Last timeline value.
        last: u64,
    },
    /// Demands everything before it, without anybody waiting.
    Flush,
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Source position, as interned by the client library; 0 is unknown.
    pub site: u32,
    /// What it asks.
    pub request: Request,
    /// Priority, where it has one of its own.
    pub urgency: Option<Urgency>,
}

/// Why a record cannot be decoded. Framing faults end the session; the others fail the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum RecordFault {
    #[error("record of {have} words ends before word {want}")]
    Short { have: usize, want: usize },
    #[error("opcode {0} is not known")]
    Opcode(u16),
    #[error("dtype {0} is not known")]
    DType(u8),
    #[error("attribute {what} has the impossible value {value}")]
    Attribute { what: &'static str, value: u64 },
    #[error("word {word:#x} is no handle: its generation is 0")]
    Handle { word: u64 },
    #[error("{have} operands; at most {OPERANDS_MAX}")]
    Operands { have: usize },
}

impl RecordFault {
    /// The wire code of this fault.
    pub fn code(&self) -> crate::error::Code {
        use crate::error::Code;
        match self {
            RecordFault::Short { .. } => Code::BadRecord,
            RecordFault::Opcode(_) => Code::UnknownOperation,
            RecordFault::DType(_) => Code::DTypes,
            RecordFault::Handle { .. } => Code::BadHandle,
            RecordFault::Attribute { .. } | RecordFault::Operands { .. } => Code::Attribute,
        }
    }
}
