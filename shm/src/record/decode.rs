//! Reads records: what a client wrote becomes a request, or a fault with the offending numbers.
//!
//! Works on the engine's private copy, and trusts no number in it: a count is bounded by the words that are there
//! before anything is read by it. Some of a record stays readable where the rest is not: its site, its releases and the
//! handle that has to be poisoned.

use super::{
    Compute, Encoder, FLAG_CONSTANT, FLAG_URGENCY, INLINE_BYTES_MAX, Record, RecordFault, Region,
    Request, Urgency, opcode,
};
use crate::dtype::{DType, Scalar};
use crate::elementwise::Elementwise;
use crate::handle::Handle;
use crate::layout::{RANK_MAX, Shape};
use crate::op::{
    AxisList, AxisSet, Distribution, Labels, Meta, OPERANDS_MAX, Op, Operand, Reduction, Scan,
    ScatterMode,
};

/// The third word of a record: how many words of each kind follow.
#[derive(Clone, Copy)]
struct Counts(u64);

impl Counts {
    fn dtype(self) -> Result<DType, RecordFault> {
        dtype(self.0)
    }

    fn operands(self) -> usize {
        (self.0 >> 8 & 0xff) as usize
    }

    fn releases(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }

    fn attributes(self) -> usize {
        (self.0 >> 24 & 0xff) as usize
    }

    fn immediate_mask(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Takes word after word of what follows the first three, and never one that is not there.
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
#[inline]
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
    ) || code >= opcode::FIRST_COMPUTE;
    makes
        .then(|| words.get(1).copied().and_then(Handle::from_wire))
        .flatten()
}

/// A request on tensors as its words lie, for recognising one that came before without decoding it again.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Operation code.
    pub opcode: u16,
    /// The result's name.
    pub out: Handle,
    /// The third word without its count of releases: dtype, counts and immediate mask.
    pub counts: u64,
    /// Element type of immediates.
    pub dtype: DType,
    /// Operands: handles, or immediates where the mask says so.
    pub operands: &'a [u64],
    /// Which operands are immediates.
    pub immediate_mask: u32,
    /// Scalars among the attributes.
    pub immediates: &'a [u64],
    /// The other attributes.
    pub attributes: &'a [u64],
}

impl Frame<'_> {
    /// Is the operand at a position an immediate?
    #[inline]
    pub fn is_immediate(&self, position: usize) -> bool {
        self.immediate_mask >> position & 1 == 1
    }

    /// Dtype of an immediate operand: the request's, but for the condition of a select.
    #[inline]
    pub fn operand_dtype(&self, position: usize) -> DType {
        operand_dtype(self.opcode, self.dtype, position)
    }

    /// Dtype of scalars among the attributes.
    #[inline]
    pub fn attribute_dtype(&self) -> DType {
        attribute_dtype(self.opcode, self.dtype)
    }
}

/// The record's frame, if it is a request on tensors without flags and its counts fit its length. Two records with equal frames but
/// for handles and scalars decode to the same operation, provided that their counts are true ([`is_canonical`]).
#[inline]
pub fn frame_of(words: &[u64]) -> Option<Frame<'_>> {
    let &[head, about, counts, ref rest @ ..] = words else {
        return None;
    };
    let code = (head >> 16) as u16;
    if code < opcode::FIRST_COMPUTE || head >> 8 & 0xff != 0 {
        return None;
    }
    let counted = Counts(counts);
    if counted.operands() > OPERANDS_MAX {
        return None;
    }
    let (operands, rest) = rest.split_at_checked(counted.operands())?;
    let (attributes, _) = rest.split_at_checked(counted.attributes())?;
    let (immediates, attributes) = attributes.split_at_checked(attribute_immediates(code))?;
    Some(Frame {
        opcode: code,
        out: Handle::from_wire(about)?,
        counts: counts & !(0xff << 16),
        dtype: counted.dtype().ok()?,
        operands,
        immediate_mask: counted.immediate_mask(),
        immediates,
        attributes,
    })
}

/// Does a request's frame say exactly what the encoder would have written for it? One whose counts lie may decode by words that are not
/// in its frame.
pub fn is_canonical(frame: &Frame<'_>, compute: &Compute) -> bool {
    let mut encoder = Encoder::default();
    encoder
        .request(&Request::Compute(*compute), 0)
        .is_ok_and(|()| {
            let written = frame_of(encoder.finish(None));
            written.is_some_and(|written| {
                written.counts == frame.counts && written.attributes == frame.attributes
            })
        })
}

/// Dtype of an immediate operand: the request's, but for the condition of a select.
fn operand_dtype(opcode: u16, dtype: DType, position: usize) -> DType {
    match opcode == Elementwise::Select.wire() && position == 0 {
        true => DType::Bool,
        false => dtype,
    }
}

/// How many scalars stand before the other attributes.
fn attribute_immediates(opcode: u16) -> usize {
    match opcode {
        opcode::PAD | opcode::FULL | opcode::RANDOM => 1,
        opcode::IOTA => 2,
        _ => 0,
    }
}

fn attribute_dtype(opcode: u16, dtype: DType) -> DType {
    // The key of `random` is no element of the result: all its bits count.
    match opcode {
        opcode::RANDOM => DType::U64,
        _ => dtype,
    }
}

/// The attribute words of a record, bounded by its length.
#[inline]
pub fn attributes_of(words: &[u64]) -> &[u64] {
    let Some(counts) = words.get(2).copied().map(Counts) else {
        return &[];
    };
    let from = 3 + counts.operands();
    words.get(from..from + counts.attributes()).unwrap_or(&[])
}

/// The handles that a record releases, as words not yet checked. Readable even where the rest of the record is not.
#[inline]
pub fn releases_of(words: &[u64]) -> &[u64] {
    words.get(place_of_releases(words)).unwrap_or(&[])
}

/// [`releases_of`], to strike out what was released already: 0 names nothing.
pub fn releases_of_mut(words: &mut [u64]) -> &mut [u64] {
    words.get_mut(place_of_releases(words)).unwrap_or_default()
}

#[inline]
fn place_of_releases(words: &[u64]) -> std::ops::Range<usize> {
    let Some(counts) = words.get(2).copied().map(Counts) else {
        return 0..0;
    };
    let from = 3 + counts.operands() + counts.attributes();
    from..from + counts.releases()
}

/// The handles that a record releases; what is no handle is left out.
#[inline]
pub fn released_by(words: &[u64]) -> impl Iterator<Item = Handle> + '_ {
    let words = releases_of(words).iter();
    words.filter_map(|&word| Handle::from_wire(word))
}

/// Is it a [`Request::NoOp`] that releases nothing?
#[inline(always)]
pub fn says_nothing(words: &[u64]) -> bool {
    const FLAGS_AND_OPCODE: u64 = 0xffff_ff00;
    matches!(words, [head, _, 0, ..] if head & FLAGS_AND_OPCODE == (opcode::NOOP as u64) << 16)
}

/// Decodes the private copy of a record.
pub fn decode(words: &[u64]) -> Result<Record, RecordFault> {
    let &[head, about, counts, ref rest @ ..] = words else {
        return Err(RecordFault::Short {
            have: words.len(),
            want: 3,
        });
    };
    let counts = Counts(counts);
    let flags = head >> 8 & 0xff;
    let code = (head >> 16) as u16;
    let constant = flags & FLAG_CONSTANT != 0;
    let mut reader = Reader {
        words: rest,
        at: counts.operands(),
    };
    let meta = |reader: &mut Reader| -> Result<Meta, RecordFault> {
        Ok(Meta {
            dtype: counts.dtype()?,
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
            reader.at = counts.operands() + counts.attributes() + counts.releases();
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

fn decode_compute(
    code: u16,
    about: u64,
    counts: Counts,
    reader: &mut Reader,
) -> Result<Compute, RecordFault> {
    let out = handle(about)?;
    let kind = counts.dtype()?;
    let operand_count = counts.operands();
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
        *operand = match counts.immediate_mask() >> k & 1 {
            1 => {
                let dtype = operand_dtype(code, kind, k);
                Operand::Immediate(dtype, Scalar(word).truncated(dtype))
            }
            _ => Operand::Tensor(handle(word)?),
        };
    }
    let mut immediates = [Scalar(0); 2];
    for immediate in &mut immediates[..attribute_immediates(code)] {
        *immediate = Scalar(reader.word()?).truncated(attribute_dtype(code, kind));
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
