//! Requests as they stand in a submission ring: typed on both sides, words in between.
//!
//! ```text
//! word 0   length in 64-byte units (8 bits) | flags (8) | opcode (16) | site (32)
//! word 1   output handle, or the one handle that the request is about
//! word 2   dtype (8) | operand count (8) | release count (8) | attribute words (8) | immediate mask (32)
//! words    operands: a handle each, or an element's bits where the immediate mask says so
//! words    attributes, as each operation lays them out
//! words    handles released once this record is accepted
//! word     class (8) | device (8) | deadline in us (48), when flag URGENCY is set
//! ```
//!
//! Decoding never trusts a count: every read of the private copy is bounded by its length, and what does not fit is
//! a [`RecordFault`] with the offending numbers. Nothing here knows which handles exist.

use thiserror::Error;

use crate::dtype::{DType, Scalar};
use crate::elementwise::Elementwise;
use crate::handle::Handle;
use crate::layout::{RANK_MAX, Shape};
use crate::op::{
    AxisList, AxisSet, Distribution, Labels, Meta, OPERANDS_MAX, Op, Operand, Reduction, Scan,
    ScatterMode,
};

/// Most words of one record.
pub const WORDS_MAX: usize = 128;
/// Words of the shortest record.
pub const WORDS_MIN: usize = 8;
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

/// Priority of one request, where it differs from its session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgency {
    /// 0 realtime, 1 normal, 2 idle.
    pub class: u8,
    /// Index of the device among those that hello named.
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

// ---------------------------------------------------------------------------------------------- encoding

/// Builds one record in a private buffer.
#[derive(Debug)]
pub struct Encoder {
    words: [u64; WORDS_MAX],
    len: usize,
    releases: u8,
    attributes_from: usize,
}

/// More words than a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("request needs more than {WORDS_MAX} words")]
pub struct TooLong;

impl Default for Encoder {
    fn default() -> Self {
        Encoder {
            words: [0; WORDS_MAX],
            len: 0,
            releases: 0,
            attributes_from: 0,
        }
    }
}

impl Encoder {
    fn begin(&mut self, opcode: u16, site: u32, flags: u64, about: u64) {
        self.words[0] = flags << 8 | u64::from(opcode) << 16 | u64::from(site) << 32;
        self.words[1] = about;
        self.words[2] = 0;
        self.len = 3;
        self.releases = 0;
        self.attributes_from = 3;
    }

    fn word(&mut self, word: u64) -> Result<(), TooLong> {
        *self.words.get_mut(self.len).ok_or(TooLong)? = word;
        self.len += 1;
        Ok(())
    }

    fn list<T: Copy, W: Fn(T) -> u64>(&mut self, items: &[T], as_word: W) -> Result<(), TooLong> {
        self.word(items.len() as u64)?;
        items.iter().try_for_each(|&item| self.word(as_word(item)))
    }

    fn bytes(&mut self, items: &[u8]) -> Result<(), TooLong> {
        // Axis numbers and labels: twelve at most, packed after their count into two words.
        let mut packed = [0u8; 16];
        packed[0] = items.len() as u8;
        packed[1..1 + items.len()].copy_from_slice(items);
        for half in packed.chunks_exact(8) {
            self.word(u64::from_le_bytes(
                half.try_into().expect("chunks of eight"),
            ))?;
        }
        Ok(())
    }

    fn meta(&mut self, meta: Meta) -> Result<(), TooLong> {
        self.set_dtype(meta.dtype);
        self.list(&meta.shape, |size| size)
    }

    fn set_dtype(&mut self, dtype: DType) {
        self.words[2] |= u64::from(dtype.wire());
    }

    /// The fast path for elementwise functions: no [`Op`] is built. Operands are handles' wire words, or immediates
    /// where `immediate_mask` has their bit.
    pub fn elementwise(
        &mut self,
        function: Elementwise,
        dtype: DType,
        out: Handle,
        site: u32,
        operands: &[u64],
        immediate_mask: u32,
    ) {
        self.begin(function.wire(), site, 0, out.wire());
        let count = operands.len().min(3);
        self.words[2] =
            u64::from(dtype.wire()) | (count as u64) << 8 | u64::from(immediate_mask) << 32;
        self.words[3..3 + count].copy_from_slice(&operands[..count]);
        self.len = 3 + count;
        self.attributes_from = self.len;
    }

    /// Encodes a request. Releases and urgency may be added before [`Encoder::finish`].
    pub fn request(&mut self, request: &Request, site: u32) -> Result<(), TooLong> {
        let flag = |constant: bool| if constant { FLAG_CONSTANT } else { 0 };
        match request {
            Request::NoOp => self.begin(opcode::NOOP, site, 0, 0),
            Request::Release => self.begin(opcode::RELEASE, site, 0, 0),
            Request::Flush => self.begin(opcode::FLUSH, site, 0, 0),
            Request::Compute(compute) => self.compute(compute, site)?,
            Request::UploadInline {
                out,
                meta,
                constant,
                words,
            } => {
                self.begin(opcode::UPLOAD_INLINE, site, flag(*constant), out.wire());
                self.meta(*meta)?;
                self.list(words, |word| word)?;
            }
            Request::Upload {
                out,
                meta,
                constant,
                from,
            } => {
                self.begin(opcode::UPLOAD, site, flag(*constant), out.wire());
                self.meta(*meta)?;
                self.region(from)?;
            }
            Request::UploadBegin {
                out,
                meta,
                constant,
            } => {
                self.begin(opcode::UPLOAD_BEGIN, site, flag(*constant), out.wire());
                self.meta(*meta)?;
            }
            Request::UploadWrite { to, at, from } => {
                self.begin(opcode::UPLOAD_WRITE, site, 0, to.wire());
                self.word(*at)?;
                self.region(from)?;
            }
            Request::UploadSeal { to } => self.begin(opcode::UPLOAD_SEAL, site, 0, to.wire()),
            Request::Bind { out, meta, hash } => {
                self.begin(opcode::BIND, site, 0, out.wire());
                self.meta(*meta)?;
                for part in hash.chunks_exact(8) {
                    self.word(u64::from_le_bytes(
                        part.try_into().expect("chunks of eight"),
                    ))?;
                }
            }
            Request::Download { of, at, to } => {
                self.begin(opcode::DOWNLOAD, site, 0, of.wire());
                self.word(*at)?;
                self.region(to)?;
            }
            Request::WaitQueue {
                queue,
                value,
                timeout_us,
            } => {
                self.begin(opcode::WAIT_QUEUE, site, 0, u64::from(*queue));
                self.word(*value)?;
                self.word(*timeout_us)?;
            }
            Request::Cancel { first, last } => {
                self.begin(opcode::CANCEL, site, 0, 0);
                self.word(*first)?;
                self.word(*last)?;
            }
        }
        self.seal_attributes();
        Ok(())
    }

    fn region(&mut self, region: &Region) -> Result<(), TooLong> {
        self.word(u64::from(region.arena))?;
        self.word(region.offset)?;
        self.word(region.len)
    }

    fn compute(&mut self, compute: &Compute, site: u32) -> Result<(), TooLong> {
        self.begin(opcode_of(&compute.op), site, 0, compute.out.wire());
        let mut mask = 0u64;
        for (k, operand) in compute.operands().iter().enumerate() {
            match operand {
                Operand::Tensor(handle) => self.word(handle.wire())?,
                Operand::Immediate(_, scalar) => {
                    mask |= 1 << k;
                    self.word(scalar.0)?;
                }
            }
        }
        self.words[2] |= u64::from(compute.operand_count) << 8 | mask << 32;
        self.attributes_from = self.len;
        for k in 0..compute.op.attribute_immediates() {
            self.word(compute.immediates[k].0)?;
        }
        match &compute.op {
            Op::Full(meta) => return self.meta(*meta),
            Op::Iota { meta, axis } => {
                self.meta(*meta)?;
                return self.word(u64::from(*axis));
            }
            Op::Random { meta, distribution } => {
                self.meta(*meta)?;
                return self.word(*distribution as u64);
            }
            _ => self.set_dtype(compute.dtype),
        }
        match &compute.op {
            Op::Cast(to) => self.word(u64::from(to.wire())),
            Op::Reduce { kind, axes, keep } => {
                self.word(*kind as u64 | u64::from(axes.0) << 8 | u64::from(*keep) << 24)
            }
            Op::Scan { kind, axis } => self.word(*kind as u64 | u64::from(*axis) << 8),
            Op::Contract { a, b, out } => {
                self.bytes(a)?;
                self.bytes(b)?;
                self.bytes(out)
            }
            Op::Reshape(shape) | Op::Expand(shape) => self.list(shape, |size| size),
            Op::Permute(order) => self.bytes(order),
            Op::Slice {
                starts,
                steps,
                lens,
            } => {
                self.list(starts, |v| v as u64)?;
                self.list(steps, |v| v as u64)?;
                self.list(lens, |v| v)
            }
            Op::Window {
                axes,
                sizes,
                strides,
                dilations,
            } => {
                self.bytes(axes)?;
                self.list(sizes, |v| v)?;
                self.list(strides, |v| v)?;
                self.list(dilations, |v| v)
            }
            Op::Pad { low, high } => {
                self.list(low, |v| v)?;
                self.list(high, |v| v)
            }
            Op::Concat { axis } | Op::Gather { axis } => self.word(u64::from(*axis)),
            Op::Scatter { axis, mode } => self.word(u64::from(*axis) | (*mode as u64) << 8),
            Op::Elementwise(_) | Op::Copy | Op::Full(_) | Op::Iota { .. } | Op::Random { .. } => {
                Ok(())
            }
        }
    }

    fn seal_attributes(&mut self) {
        self.words[2] |= ((self.len - self.attributes_from) as u64) << 24;
    }

    /// Words that one more release, and an urgency, would still find.
    pub fn room(&self) -> usize {
        WORDS_MAX - self.len - 1
    }

    /// Words used so far in the last started 64-byte unit leave this many free: releases there cost nothing.
    pub fn free_in_unit(&self) -> usize {
        self.len.next_multiple_of(8) - self.len
    }

    /// Adds a handle to release once the record is accepted. False where the record is full.
    pub fn release(&mut self, handle: Handle) -> bool {
        if self.room() == 0 || self.releases == u8::MAX {
            return false;
        }
        self.words[self.len] = handle.wire();
        self.len += 1;
        self.releases += 1;
        true
    }

    /// Completes the record, padded with zeros to whole 64-byte units.
    pub fn finish(&mut self, urgency: Option<Urgency>) -> &[u64] {
        self.words[2] |= u64::from(self.releases) << 16;
        if let Some(urgency) = urgency {
            self.words[0] |= FLAG_URGENCY << 8;
            self.words[self.len] = u64::from(urgency.class)
                | u64::from(urgency.device) << 8
                | urgency.deadline_us << 16;
            self.len += 1;
        }
        let end = self.len.next_multiple_of(8);
        self.words[self.len..end].fill(0);
        self.words[0] |= (end / 8) as u64;
        &self.words[..end]
    }
}

fn opcode_of(op: &Op) -> u16 {
    match op {
        Op::Elementwise(function) => function.wire(),
        Op::Cast(_) => opcode::CAST,
        Op::Reduce { .. } => opcode::REDUCE,
        Op::Scan { .. } => opcode::SCAN,
        Op::Contract { .. } => opcode::CONTRACT,
        Op::Reshape(_) => opcode::RESHAPE,
        Op::Permute(_) => opcode::PERMUTE,
        Op::Slice { .. } => opcode::SLICE,
        Op::Expand(_) => opcode::EXPAND,
        Op::Window { .. } => opcode::WINDOW,
        Op::Pad { .. } => opcode::PAD,
        Op::Concat { .. } => opcode::CONCAT,
        Op::Gather { .. } => opcode::GATHER,
        Op::Scatter { .. } => opcode::SCATTER,
        Op::Copy => opcode::COPY,
        Op::Full(_) => opcode::FULL,
        Op::Iota { .. } => opcode::IOTA,
        Op::Random { .. } => opcode::RANDOM,
    }
}

// ---------------------------------------------------------------------------------------------- decoding

struct Reader<'a> {
    words: &'a [u64],
    at: usize,
}

impl Reader<'_> {
    fn word(&mut self) -> Result<u64, RecordFault> {
        let word = *self.words.get(self.at).ok_or(RecordFault::Short {
            have: self.words.len(),
            want: self.at,
        })?;
        self.at += 1;
        Ok(word)
    }

    fn list<T: Copy + Default>(
        &mut self,
        what: &'static str,
        from_word: impl Fn(u64) -> T,
    ) -> Result<AxisList<T>, RecordFault> {
        let len = self.word()?;
        if len > RANK_MAX as u64 {
            return Err(RecordFault::Attribute { what, value: len });
        }
        let mut items = [T::default(); RANK_MAX];
        for item in &mut items[..len as usize] {
            *item = from_word(self.word()?);
        }
        AxisList::new(&items[..len as usize]).ok_or(RecordFault::Attribute { what, value: len })
    }

    fn shape(&mut self) -> Result<Shape, RecordFault> {
        let sizes = self.list("shape", |size| size)?;
        Shape::new(&sizes).ok_or(RecordFault::Attribute {
            what: "shape",
            value: sizes.len() as u64,
        })
    }

    fn bytes(&mut self, what: &'static str) -> Result<AxisList<u8>, RecordFault> {
        let mut packed = [0u8; 16];
        for half in packed.chunks_exact_mut(8) {
            half.copy_from_slice(&self.word()?.to_le_bytes());
        }
        let len = usize::from(packed[0]);
        let fault = RecordFault::Attribute {
            what,
            value: len as u64,
        };
        let items = packed[1..].get(..len).ok_or(fault)?;
        AxisList::new(items).ok_or(fault)
    }

    fn region(&mut self) -> Result<Region, RecordFault> {
        let arena = self.word()?;
        let arena = u32::try_from(arena).map_err(|_| RecordFault::Attribute {
            what: "arena",
            value: arena,
        })?;
        Ok(Region {
            arena,
            offset: self.word()?,
            len: self.word()?,
        })
    }

    fn axis(&mut self) -> Result<u8, RecordFault> {
        let word = self.word()?;
        u8::try_from(word).map_err(|_| RecordFault::Attribute {
            what: "axis",
            value: word,
        })
    }
}

fn handle(word: u64) -> Result<Handle, RecordFault> {
    Handle::from_wire(word).ok_or(RecordFault::Handle { word })
}

fn dtype(number: u64) -> Result<DType, RecordFault> {
    DType::from_wire(number as u8).ok_or(RecordFault::DType(number as u8))
}

/// The site that a record names, whatever else is wrong with it.
pub fn site_of(words: &[u64]) -> u32 {
    words.first().map_or(0, |word| (word >> 32) as u32)
}

/// The output handle that a record names, for poisoning it when the rest is wrong. Only meaningful for records
/// that make a tensor.
pub fn output_of(words: &[u64]) -> Option<Handle> {
    let code = (words.first()? >> 16) as u16;
    let makes = matches!(
        code,
        opcode::UPLOAD_INLINE | opcode::UPLOAD | opcode::UPLOAD_BEGIN | opcode::BIND
    ) || code >= 32;
    makes
        .then(|| words.get(1).copied().and_then(Handle::from_wire))
        .flatten()
}

/// An elementwise request, read without building a [`Record`]: the commonest request by far.
#[derive(Clone, Copy, Debug)]
pub struct ElementwiseRecord<'a> {
    /// The function.
    pub function: Elementwise,
    /// Dtype of immediate operands.
    pub dtype: DType,
    /// The result's name.
    pub out: Handle,
    /// Wire words of the operands, as many as the function takes.
    pub operands: &'a [u64],
    /// Which of them are immediates.
    pub immediate_mask: u32,
}

/// The record as an elementwise request without urgency; `None` where it is anything else or anything is wrong with it,
/// for [`decode`] to say what.
pub fn elementwise_of(words: &[u64]) -> Option<ElementwiseRecord<'_>> {
    let &[head, about, counts, ref rest @ ..] = words else {
        return None;
    };
    let function = Elementwise::from_wire((head >> 16) as u16)?;
    let count = (counts >> 8 & 0xff) as usize;
    if head >> 8 & FLAG_URGENCY != 0 || count != function.arity() {
        return None;
    }
    Some(ElementwiseRecord {
        function,
        dtype: DType::from_wire(counts as u8)?,
        out: Handle::from_wire(about)?,
        operands: rest.get(..count)?,
        immediate_mask: (counts >> 32) as u32,
    })
}

/// The attribute words of a record, bounded by its length.
pub fn attributes_of(words: &[u64]) -> &[u64] {
    let Some(&counts) = words.get(2) else {
        return &[];
    };
    let from = 3 + (counts >> 8 & 0xff) as usize;
    words
        .get(from..from + (counts >> 24 & 0xff) as usize)
        .unwrap_or(&[])
}

/// Decodes the private copy of a record.
pub fn decode(words: &[u64]) -> Result<Record, RecordFault> {
    let &[head, about, counts, ref rest @ ..] = words else {
        return Err(RecordFault::Short {
            have: words.len(),
            want: 3,
        });
    };
    let flags = head >> 8 & 0xff;
    let code = (head >> 16) as u16;
    let operand_count = (counts >> 8 & 0xff) as usize;
    let release_count = (counts >> 16 & 0xff) as usize;
    let attribute_words = (counts >> 24 & 0xff) as usize;
    let constant = flags & FLAG_CONSTANT != 0;
    let mut reader = Reader {
        words: rest,
        at: operand_count,
    };
    let meta = |reader: &mut Reader| -> Result<Meta, RecordFault> {
        Ok(Meta {
            dtype: dtype(counts & 0xff)?,
            shape: reader.shape()?,
        })
    };
    let request = match code {
        opcode::NOOP => Request::NoOp,
        opcode::RELEASE => Request::Release,
        opcode::FLUSH => Request::Flush,
        opcode::UPLOAD_INLINE => {
            let (out, meta) = (handle(about)?, meta(&mut reader)?);
            let len = reader.word()?;
            if len as usize > INLINE_BYTES_MAX / 8 {
                return Err(RecordFault::Attribute {
                    what: "inline length",
                    value: len,
                });
            }
            let words = (0..len)
                .map(|_| reader.word())
                .collect::<Result<Vec<u64>, _>>()?;
            Request::UploadInline {
                out,
                meta,
                constant,
                words,
            }
        }
        opcode::UPLOAD => Request::Upload {
            out: handle(about)?,
            meta: meta(&mut reader)?,
            constant,
            from: reader.region()?,
        },
        opcode::UPLOAD_BEGIN => Request::UploadBegin {
            out: handle(about)?,
            meta: meta(&mut reader)?,
            constant,
        },
        opcode::UPLOAD_WRITE => Request::UploadWrite {
            to: handle(about)?,
            at: reader.word()?,
            from: reader.region()?,
        },
        opcode::UPLOAD_SEAL => Request::UploadSeal { to: handle(about)? },
        opcode::BIND => {
            let (out, meta) = (handle(about)?, meta(&mut reader)?);
            let mut hash = [0u8; 32];
            for part in hash.chunks_exact_mut(8) {
                part.copy_from_slice(&reader.word()?.to_le_bytes());
            }
            Request::Bind { out, meta, hash }
        }
        opcode::DOWNLOAD => Request::Download {
            of: handle(about)?,
            at: reader.word()?,
            to: reader.region()?,
        },
        opcode::WAIT_QUEUE => {
            let queue = u32::try_from(about).map_err(|_| RecordFault::Attribute {
                what: "queue",
                value: about,
            })?;
            Request::WaitQueue {
                queue,
                value: reader.word()?,
                timeout_us: reader.word()?,
            }
        }
        opcode::CANCEL => Request::Cancel {
            first: reader.word()?,
            last: reader.word()?,
        },
        code => Request::Compute(decode_compute(code, about, counts, &mut reader)?),
    };
    let urgency = match flags & FLAG_URGENCY {
        0 => None,
        _ => {
            reader.at = operand_count + attribute_words + release_count;
            let word = reader.word()?;
            Some(Urgency {
                class: word as u8,
                device: (word >> 8) as u8,
                deadline_us: word >> 16,
            })
        }
    };
    Ok(Record {
        site: (head >> 32) as u32,
        request,
        urgency,
    })
}

/// The handles that a record releases, as words not yet checked. Readable even where the rest of the record is not.
pub fn releases_of(words: &[u64]) -> &[u64] {
    let Some(&counts) = words.get(2) else {
        return &[];
    };
    let from = 3 + (counts >> 8 & 0xff) as usize + (counts >> 24 & 0xff) as usize;
    words
        .get(from..from + (counts >> 16 & 0xff) as usize)
        .unwrap_or(&[])
}

fn decode_compute(
    code: u16,
    about: u64,
    counts: u64,
    reader: &mut Reader,
) -> Result<Compute, RecordFault> {
    let out = handle(about)?;
    let kind = dtype(counts & 0xff)?;
    let operand_count = (counts >> 8 & 0xff) as usize;
    let mask = counts >> 32;
    if operand_count > OPERANDS_MAX {
        return Err(RecordFault::Operands {
            have: operand_count,
        });
    }
    let mut operands = [Operand::Immediate(kind, Scalar(0)); OPERANDS_MAX];
    let have = reader.words.len();
    let given = reader
        .words
        .get(..operand_count)
        .ok_or(RecordFault::Short {
            have,
            want: operand_count,
        })?;
    for (k, (operand, &word)) in operands.iter_mut().zip(given).enumerate() {
        *operand = match mask >> k & 1 {
            1 if code == Elementwise::Select.wire() && k == 0 => {
                Operand::Immediate(DType::Bool, Scalar(word).truncated(DType::Bool))
            }
            1 => Operand::Immediate(kind, Scalar(word).truncated(kind)),
            _ => Operand::Tensor(handle(word)?),
        };
    }
    let mut immediates = [Scalar(0); 2];
    let immediate_count = match code {
        opcode::PAD | opcode::FULL | opcode::RANDOM => 1,
        opcode::IOTA => 2,
        _ => 0,
    };
    for immediate in &mut immediates[..immediate_count] {
        // The key of `random` is no element of the result: all its bits count.
        let word = Scalar(reader.word()?);
        *immediate = if code == opcode::RANDOM {
            word
        } else {
            word.truncated(kind)
        };
    }
    let op = decode_op(code, kind, reader)?;
    Ok(Compute {
        op,
        dtype: kind,
        out,
        operand_count: operand_count as u8,
        operands,
        immediates,
    })
}

fn decode_op(code: u16, kind: DType, reader: &mut Reader) -> Result<Op, RecordFault> {
    let bad = |what: &'static str, value: u64| RecordFault::Attribute { what, value };
    Ok(match code {
        opcode::CAST => Op::Cast(dtype(reader.word()?)?),
        opcode::REDUCE => {
            let word = reader.word()?;
            let kind = *Reduction::ALL
                .get((word & 0xff) as usize)
                .ok_or(bad("reduction", word & 0xff))?;
            Op::Reduce {
                kind,
                axes: AxisSet((word >> 8) as u16),
                keep: word >> 24 & 1 == 1,
            }
        }
        opcode::SCAN => {
            let word = reader.word()?;
            let kind = match word & 0xff {
                0 => Scan::Sum,
                1 => Scan::Prod,
                other => return Err(bad("scan", other)),
            };
            Op::Scan {
                kind,
                axis: (word >> 8) as u8,
            }
        }
        opcode::CONTRACT => {
            let (a, b, out): (Labels, Labels, Labels) = (
                reader.bytes("labels")?,
                reader.bytes("labels")?,
                reader.bytes("labels")?,
            );
            Op::Contract { a, b, out }
        }
        opcode::RESHAPE => Op::Reshape(reader.shape()?),
        opcode::EXPAND => Op::Expand(reader.shape()?),
        opcode::PERMUTE => Op::Permute(reader.bytes("permutation")?),
        opcode::SLICE => Op::Slice {
            starts: reader.list("slice starts", |w| w as i64)?,
            steps: reader.list("slice steps", |w| w as i64)?,
            lens: reader.list("slice lengths", |w| w)?,
        },
        opcode::WINDOW => Op::Window {
            axes: reader.bytes("window axes")?,
            sizes: reader.list("window sizes", |w| w)?,
            strides: reader.list("window strides", |w| w)?,
            dilations: reader.list("window dilations", |w| w)?,
        },
        opcode::PAD => Op::Pad {
            low: reader.list("pad low", |w| w)?,
            high: reader.list("pad high", |w| w)?,
        },
        opcode::CONCAT => Op::Concat {
            axis: reader.axis()?,
        },
        opcode::GATHER => Op::Gather {
            axis: reader.axis()?,
        },
        opcode::SCATTER => {
            let word = reader.word()?;
            let mode = match word >> 8 {
                0 => ScatterMode::Replace,
                1 => ScatterMode::Add,
                other => return Err(bad("scatter mode", other)),
            };
            Op::Scatter {
                axis: word as u8,
                mode,
            }
        }
        opcode::COPY => Op::Copy,
        opcode::FULL => Op::Full(Meta {
            dtype: kind,
            shape: reader.shape()?,
        }),
        opcode::IOTA => {
            let meta = Meta {
                dtype: kind,
                shape: reader.shape()?,
            };
            Op::Iota {
                meta,
                axis: reader.axis()?,
            }
        }
        opcode::RANDOM => {
            let meta = Meta {
                dtype: kind,
                shape: reader.shape()?,
            };
            let distribution = match reader.word()? {
                0 => Distribution::Bits,
                1 => Distribution::Uniform,
                2 => Distribution::Normal,
                other => return Err(bad("distribution", other)),
            };
            Op::Random { meta, distribution }
        }
        code => Op::Elementwise(Elementwise::from_wire(code).ok_or(RecordFault::Opcode(code))?),
    })
}
