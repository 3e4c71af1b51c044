//! Builds records: a request of the client's becomes words in a private buffer.
//!
//! Attributes first, then releases, then the urgency, so that releases can be added until the record goes out. What does
//! not fit is [`TooLong`]; whether the request makes any sense is for inference to say, before it is encoded.

use thiserror::Error;

use super::{
    FLAG_CONSTANT, FLAG_URGENCY, FRAME_WORDS, Region, Request, Urgency, WORDS_MAX, WORDS_MIN,
    opcode,
};
use crate::dtype::{DType, Scalar};
use crate::elementwise::Elementwise;
use crate::handle::Handle;
use crate::op::{Meta, OPERANDS_MAX, Op, Operand};
use crate::ring::record_header;

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

/// A record of one 64-byte unit: an elementwise function, without building an [`Op`], and a few releases.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    words: [u64; WORDS_MIN],
    len: usize,
}

impl Line {
    /// What [`Encoder::request`] would write. Operands are handles' wire words, or immediates where `immediate_mask` has their bit;
    /// those behind the function's arity do not count.
    #[inline(always)]
    pub fn elementwise(
        function: Elementwise,
        (out, dtype): (Handle, DType),
        (operands, immediate_mask): (&[u64; 3], u32),
        site: u32,
    ) -> Line {
        let arity = function.arity();
        let counts =
            u64::from(dtype.wire()) | (arity as u64) << 8 | u64::from(immediate_mask) << 32;
        let head = record_header(1, 0, function.wire(), site);
        let mut words = [head, out.wire(), counts, 0, 0, 0, 0, 0];
        for (word, operand) in words[3..].iter_mut().zip(&operands[..arity.min(3)]) {
            *word = *operand;
        }
        Line {
            words,
            len: 3 + arity,
        }
    }

    /// What [`Encoder::request`] would write for [`Request::NoOp`].
    #[inline(always)]
    pub fn no_op(site: u32) -> Line {
        let mut words = [0; WORDS_MIN];
        words[0] = record_header(1, 0, opcode::NOOP, site);
        Line {
            words,
            len: FRAME_WORDS,
        }
    }

    /// Adds a handle to release once the record is accepted. False where the unit is full.
    #[inline(always)]
    pub fn release(&mut self, handle: Handle) -> bool {
        let Some(word) = self.words.get_mut(self.len) else {
            return false;
        };
        *word = handle.wire();
        self.len += 1;
        self.words[2] += 1 << 16;
        true
    }

    /// The whole record, padded with zeros.
    #[inline(always)]
    pub fn words(&self) -> &[u64; WORDS_MIN] {
        &self.words
    }
}

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

    /// Encodes a request. Releases and urgency may be added before [`Encoder::finish`].
    pub fn request(&mut self, request: &Request, site: u32) -> Result<(), TooLong> {
        let flag = |constant: bool| if constant { FLAG_CONSTANT } else { 0 };
        match request {
            Request::NoOp => self.begin(opcode::NOOP, site, 0, 0),
            Request::Release => self.begin(opcode::RELEASE, site, 0, 0),
            Request::Flush => self.begin(opcode::FLUSH, site, 0, 0),
            Request::Compute(compute) => {
                let mut words = [0u64; OPERANDS_MAX];
                let mut mask = 0;
                for (k, operand) in compute.operands().iter().enumerate() {
                    words[k] = match operand {
                        Operand::Tensor(handle) => handle.wire(),
                        Operand::Immediate(_, scalar) => {
                            mask |= 1 << k;
                            scalar.0
                        }
                    };
                }
                let operands = (&words[..compute.operands().len()], mask);
                let result = (compute.out, compute.dtype);
                return self.operation(&compute.op, result, operands, &compute.immediates, site);
            }
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

    /// Encodes an operation on tensors without building a [`super::Compute`]: what [`Encoder::request`] would write for it. Operands are
    /// handles' wire words, or immediates where the mask has their bit; `out` with the dtype of the immediates.
    pub fn operation(
        &mut self,
        op: &Op,
        (out, dtype): (Handle, DType),
        (operands, immediate_mask): (&[u64], u32),
        immediates: &[Scalar; 2],
        site: u32,
    ) -> Result<(), TooLong> {
        self.begin(opcode_of(op), site, 0, out.wire());
        operands.iter().try_for_each(|&word| self.word(word))?;
        self.words[2] |= (operands.len() as u64) << 8 | u64::from(immediate_mask) << 32;
        self.attributes_from = self.len;
        for immediate in &immediates[..op.attribute_immediates()] {
            self.word(immediate.0)?;
        }
        self.attributes(op, dtype)?;
        self.seal_attributes();
        Ok(())
    }

    fn attributes(&mut self, op: &Op, dtype: DType) -> Result<(), TooLong> {
        match op {
            Op::Full(meta) => return self.meta(*meta),
            Op::Iota { meta, axis } => {
                self.meta(*meta)?;
                return self.word(u64::from(*axis));
            }
            Op::Random { meta, distribution } => {
                self.meta(*meta)?;
                return self.word(*distribution as u64);
            }
            _ => self.set_dtype(dtype),
        }
        match op {
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

/// The code of an operation's records.
pub fn opcode_of(op: &Op) -> u16 {
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

#[cfg(test)]
mod tests {
    use super::super::Compute;
    use super::*;

    fn handle(index: u32) -> Handle {
        Handle {
            index,
            generation: 3,
        }
    }

    #[test]
    fn a_line_is_the_record_of_its_operation() {
        let one = Scalar(0x3f80_0000);
        let words = [handle(1).wire(), one.0, handle(2).wire()];
        let operands = [
            Operand::Tensor(handle(1)),
            Operand::Immediate(DType::F32, one),
            Operand::Tensor(handle(2)),
        ];
        for &function in Elementwise::ALL {
            let operands = &operands[..function.arity()];
            let mask = if operands.len() > 1 { 0b010 } else { 0 };
            let (out, op) = (handle(9), Op::Elementwise(function));
            let compute = Compute::new(op, DType::F32, out, operands, [Scalar(0); 2]);
            let request = Request::Compute(compute.expect("few operands"));
            let mut encoder = Encoder::default();
            encoder.request(&request, 77).expect("few words");
            let free = encoder.free_in_unit();
            for released in 0..=free {
                let mut line = Line::elementwise(function, (out, DType::F32), (&words, mask), 77);
                encoder.request(&request, 77).expect("few words");
                for index in 0..released as u32 {
                    assert!(line.release(handle(20 + index)), "{function:?}");
                    assert!(encoder.release(handle(20 + index)), "{function:?}");
                }
                assert_eq!(line.words(), encoder.finish(None), "{function:?}");
                let is_full = released == free;
                assert_eq!(line.release(handle(40)), !is_full, "{function:?}");
            }
        }
    }

    #[test]
    fn what_says_nothing_is_a_no_op_whatever_else_stands_in_it() {
        use super::super::{decode, says_nothing};
        let mut encoder = Encoder::default();
        encoder.request(&Request::NoOp, 77).expect("few words");
        let mut line = Line::no_op(77);
        assert_eq!(line.words(), encoder.finish(None));
        assert!(says_nothing(line.words()));
        for word in 0..WORDS_MIN {
            for bit in 0..64 {
                let mut words = *line.words();
                words[word] ^= 1 << bit;
                if says_nothing(&words) {
                    let request = decode(&words).expect("a no-op").request;
                    assert_eq!(request, Request::NoOp, "bit {bit} of word {word}");
                }
            }
        }
        assert!(line.release(handle(1)));
        assert!(!says_nothing(line.words()));
        assert!(!says_nothing(&[]));
    }
}
