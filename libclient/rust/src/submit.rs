//! Submitting operations: shapes are checked at the call, the result is named here, and nothing is waited for.
//!
//! The fast path is [`Session::elementwise`] with operands that this queue made in this epoch: no allocation but the
//! tensor's own, no [`Op`], one record written in place. Everything else goes through [`Session::submit`], which brings
//! operands from where they are: another queue, an earlier epoch, a parent process.

use std::sync::{Arc, TryLockError};

use smallvec::SmallVec;
use tensord_shm::completion::Reader;
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::layout::Shape;
use tensord_shm::op::{Elementwise, Meta, OPERANDS_MAX, Op, Operand, scalar_meta};
use tensord_shm::record::{Compute, Line, Request, opcode, opcode_of};

use crate::error::Error;
use crate::lane::Lane;
use crate::ring::{ForeignUse, Mark};
use crate::session::Session;
use crate::site::Site;
use crate::tensor::Tensor;

/// How long a queue may wait for another one before its request fails: queues that wait in a circle must end.
const WAIT_QUEUE_TIMEOUT_US: u64 = 30_000_000;
/// Times that operands are looked for again because an engine ended meanwhile.
const ATTEMPTS: u32 = 8;

/// An operand of a submission: a tensor, or a scalar that travels inside the record.
pub type Arg<'a> = Operand<&'a Tensor>;

impl Session {
    /// Submits an elementwise function of one to three operands, broadcast against each other.
    #[inline]
    pub fn elementwise(
        &self,
        function: Elementwise,
        operands: &[Arg<'_>],
        site: Site,
    ) -> Result<Tensor, Error> {
        let lane = self.lane();
        let Some(meta) = broadcast_into_one(function, operands) else {
            return self.submit(&Op::Elementwise(function), operands, [Scalar(0); 2], site);
        };
        let epoch = lane.state.epoch();
        let mut words = [0u64; 3];
        let Some(immediates) = lane.write_ready(operands, epoch, &mut words) else {
            return self.submit(&Op::Elementwise(function), operands, [Scalar(0); 2], site);
        };
        let result = function.result(meta.dtype);
        let mut ring = lane.lock()?;
        if ring.epoch != epoch {
            drop(ring);
            return self.submit(&Op::Elementwise(function), operands, [Scalar(0); 2], site);
        }
        let out = lane.name(&mut ring)?;
        let line = Line::elementwise(function, (out, meta.dtype), (&words, immediates), site.0);
        match ring.commit_line(line, function.wire()) {
            Ok(value) => {
                let spare = ring.take_spare();
                drop(ring);
                let mark = Mark { epoch, value };
                Ok(Tensor::like(lane, spare, (out, mark), meta, result))
            }
            Err(_) => {
                ring.give_free(out);
                lane.make_room(ring)?;
                self.submit(&Op::Elementwise(function), operands, [Scalar(0); 2], site)
            }
        }
    }

    /// Submits an operation. `immediates` are the scalars that belong to the operation itself, in its result's dtype:
    /// the fill of `pad` and `full`, start and step of `iota`, the key of `random`.
    pub fn submit(
        &self,
        op: &Op,
        operands: &[Arg<'_>],
        immediates: [Scalar; 2],
        site: Site,
    ) -> Result<Tensor, Error> {
        self.submit_inner(op, operands, immediates, site)
            .map_err(|error| match error.operation() {
                None => error.of_operation(op.name()).at(site),
                Some(_) => error,
            })
    }

    fn submit_inner(
        &self,
        op: &Op,
        operands: &[Arg<'_>],
        immediates: [Scalar; 2],
        site: Site,
    ) -> Result<Tensor, Error> {
        if operands.len() > OPERANDS_MAX {
            return Err(Error::new(
                Code::Attribute,
                format!(
                    "{} of {} operands: one request takes {OPERANDS_MAX}",
                    op.name(),
                    operands.len()
                ),
            ));
        }
        let meta = infer(op, operands)?;
        let dtype = record_dtype(operands, &meta)?;
        let lane = self.lane();
        if let Some(tensor) = lane.submit_ready(op, operands, (&meta, dtype), immediates, site)? {
            return Ok(tensor);
        }
        let mut error = None;
        for _ in 0..ATTEMPTS {
            let epoch = lane.state.epoch();
            let brought = operands
                .iter()
                .map(|operand| {
                    Ok(match operand {
                        Operand::Tensor(tensor) => Operand::Tensor(lane.bring(tensor, site)?),
                        Operand::Immediate(dtype, scalar) => Operand::Immediate(*dtype, *scalar),
                    })
                })
                .collect::<Result<Vec<Operand<Tensor>>, Error>>()?;
            let all_here = brought.iter().all(|operand| match operand {
                Operand::Tensor(tensor) => tensor.epoch() == epoch,
                Operand::Immediate(..) => true,
            });
            if !all_here {
                // The engine ended between two of them: what the broker says about it comes first.
                lane.core().look(std::time::Duration::from_millis(1))?;
                continue;
            }
            let build = |out| {
                let operands: Vec<Operand<Handle>> = brought
                    .iter()
                    .map(|operand| match operand {
                        Operand::Tensor(tensor) => Operand::Tensor(tensor.handle()),
                        Operand::Immediate(dtype, scalar) => Operand::Immediate(*dtype, *scalar),
                    })
                    .collect();
                let compute = Compute::new(*op, dtype, out, &operands, immediates);
                Request::Compute(compute.expect("the number of operands was checked"))
            };
            match lane.define(&build, opcode_of(op), meta, site, epoch) {
                Ok(tensor) => {
                    lane.note_uses(&brought, tensor.mark());
                    return Ok(tensor);
                }
                Err(lost) if lost.code() == Code::Lost => error = Some(lost),
                Err(other) => return Err(other),
            }
        }
        Err(error.unwrap_or_else(|| lane.core().lost_error(lane.state.epoch())))
    }
}

/// What an operation on these operands gives. Without an allocation for as many operands as nearly all operations have.
fn infer(op: &Op, operands: &[Arg<'_>]) -> Result<Meta, Error> {
    let scalars: SmallVec<[Meta; 2]> = operands
        .iter()
        .filter_map(|operand| match operand {
            Operand::Tensor(_) => None,
            Operand::Immediate(dtype, _) => Some(scalar_meta(*dtype)),
        })
        .collect();
    let mut scalar = scalars.iter();
    let metas: SmallVec<[&Meta; 4]> = operands
        .iter()
        .filter_map(|operand| match operand {
            Operand::Tensor(tensor) => Some(tensor.meta()),
            Operand::Immediate(..) => scalar.next(),
        })
        .collect();
    Ok(op.infer(&metas)?)
}

/// For operands of one dtype, where one of them has the result's shape already: what it is. `None` leaves the decision, and the
/// error message, to `Op::infer`.
#[inline(always)]
fn broadcast_into_one<'a>(function: Elementwise, operands: &[Arg<'a>]) -> Option<&'a Meta> {
    let info = function.info();
    if operands.len() != usize::from(info.arity) || function == Elementwise::Select {
        return None;
    }
    let mut widest: Option<&Meta> = None;
    for operand in operands {
        if let Operand::Tensor(tensor) = operand {
            let meta = tensor.meta();
            if widest.is_none_or(|widest| meta.shape.rank() > widest.shape.rank()) {
                widest = Some(meta);
            }
        }
    }
    let widest = widest?;
    let fits = operands.iter().all(|operand| match operand {
        Operand::Tensor(tensor) => {
            let meta = tensor.meta();
            let same = std::ptr::eq(meta, widest) || meta == widest;
            same || meta.dtype == widest.dtype && spreads(&meta.shape, &widest.shape)
        }
        Operand::Immediate(dtype, _) => *dtype == widest.dtype,
    });
    (fits && info.domain.contains(widest.dtype)).then_some(widest)
}

/// Does broadcasting give `whole` of a shape of at most as many axes?
fn spreads(part: &Shape, whole: &Shape) -> bool {
    let pairs = part.iter().rev().zip(whole.iter().rev());
    pairs
        .into_iter()
        .all(|(part, whole)| part == whole || *part == 1)
}

/// The dtype that stands in the record: that of its immediates, else of its last operand, else of its result.
fn record_dtype(operands: &[Arg<'_>], meta: &Meta) -> Result<DType, Error> {
    let mut dtypes = operands.iter().filter_map(|operand| match operand {
        Operand::Tensor(_) => None,
        Operand::Immediate(dtype, _) => Some(*dtype),
    });
    match (dtypes.next(), operands.last()) {
        (Some(first), _) if dtypes.all(|dtype| dtype == first) => Ok(first),
        (Some(_), _) => Err(Error::new(
            Code::DTypes,
            "scalar operands of one request must have one dtype: make one of them a tensor",
        )),
        (None, Some(Operand::Tensor(last))) => Ok(last.dtype()),
        (None, _) => Ok(meta.dtype),
    }
}

impl Lane {
    /// Writes operands as they stand in a record, and gives the mask of the immediates; `None` where this queue did not make a tensor
    /// in this epoch.
    #[inline(always)]
    fn write_ready(
        self: &Arc<Self>,
        operands: &[Arg<'_>],
        epoch: u32,
        words: &mut [u64],
    ) -> Option<u32> {
        let mut immediates = 0;
        for (k, (operand, word)) in operands.iter().zip(words).enumerate() {
            *word = match operand {
                Operand::Tensor(tensor) if tensor.is_ready_on(self, epoch) => tensor.handle_word(),
                Operand::Tensor(_) => return None,
                Operand::Immediate(_, scalar) => {
                    immediates |= 1 << k;
                    scalar.0
                }
            };
        }
        Some(immediates)
    }

    /// Submits an operation whose tensors this queue made in this epoch, or nothing if there are others, or no room.
    fn submit_ready(
        self: &Arc<Self>,
        op: &Op,
        operands: &[Arg<'_>],
        (meta, dtype): (&Meta, DType),
        immediates: [Scalar; 2],
        site: Site,
    ) -> Result<Option<Tensor>, Error> {
        let epoch = self.state.epoch();
        let mut words = [0u64; OPERANDS_MAX];
        let Some(mask) = self.write_ready(operands, epoch, &mut words) else {
            return Ok(None);
        };
        let mut ring = self.lock()?;
        if ring.epoch != epoch {
            return Ok(None);
        }
        let out = self.name(&mut ring)?;
        let mut encoder = ring.encoder.take().unwrap_or_default();
        let operands = (&words[..operands.len()], mask);
        let encoded = encoder.operation(op, (out, dtype), operands, &immediates, site.0);
        let value = encoded.map(|()| ring.commit(&mut encoder, opcode_of(op), None));
        ring.encoder = Some(encoder);
        match value {
            Ok(Ok(value)) => {
                let spare = ring.take_spare();
                drop(ring);
                let name = (out, Mark { epoch, value });
                Ok(Some(Tensor::like(self, spare, name, meta, meta.dtype)))
            }
            // The slower way waits for room, or says what is too long.
            Ok(Err(_)) | Err(_) => {
                ring.give_free(out);
                Ok(None)
            }
        }
    }

    /// Pushes a request that makes a tensor, waiting where the ring is full.
    pub(crate) fn define(
        self: &Arc<Self>,
        build: &dyn Fn(Handle) -> Request,
        code: u16,
        meta: Meta,
        site: Site,
        epoch: u32,
    ) -> Result<Tensor, Error> {
        let (out, mark) = self.define_name(build, code, site, epoch)?;
        Ok(Tensor::new(self, out, mark, meta, None))
    }

    pub(crate) fn define_name(
        &self,
        build: &dyn Fn(Handle) -> Request,
        code: u16,
        site: Site,
        epoch: u32,
    ) -> Result<(Handle, Mark), Error> {
        loop {
            let mut ring = self.lock()?;
            if ring.epoch != epoch {
                return Err(self.core().lost_error(epoch));
            }
            let out = self.name(&mut ring)?;
            match ring.push(&build(out), code, site) {
                Ok(Ok(value)) => return Ok((out, Mark { epoch, value })),
                Ok(Err(_)) => {
                    ring.give_free(out);
                    self.make_room(ring)?;
                }
                Err(too_long) => {
                    ring.give_free(out);
                    return Err(Error::new(
                        Code::BadRecord,
                        format!("{too_long}: give it fewer operands"),
                    ));
                }
            }
        }
    }

    /// A tensor that a record of this queue can name: itself, or the same constant bound again.
    pub(crate) fn bring(self: &Arc<Self>, tensor: &Tensor, site: Site) -> Result<Tensor, Error> {
        let home = tensor.lane();
        if Arc::ptr_eq(home, self) && tensor.epoch() == self.state.epoch() {
            return Ok(tensor.clone());
        }
        if !Arc::ptr_eq(home.core(), self.core()) {
            return self.adopt(tensor, site);
        }
        if tensor.epoch() != home.state.epoch() {
            home.bind_again(tensor, site)?;
        }
        if !Arc::ptr_eq(&home.state, &self.state) {
            self.order_behind(home, tensor.mark())?;
        }
        Ok(tensor.clone())
    }

    /// Binds a constant of an ended epoch under a new name.
    fn bind_again(&self, tensor: &Tensor, site: Site) -> Result<(), Error> {
        let Some(constant) = tensor.constant() else {
            return Err(self.core().lost_error(tensor.epoch()).at(site));
        };
        let (meta, hash) = (*tensor.meta(), constant.hash);
        let epoch = self.state.epoch();
        let build = |out| Request::Bind { out, meta, hash };
        let (out, mark) = self.define_name(&build, opcode::BIND, site, epoch)?;
        let mut ring = self.lock()?;
        if tensor.epoch() == mark.epoch {
            // Another thread was faster; this name was for nothing.
            ring.release(out, mark.epoch, false);
        } else {
            tensor.rebind(out, mark);
        }
        Ok(())
    }

    /// Binds a constant of another session, or of the parent process, in this one.
    fn adopt(self: &Arc<Self>, tensor: &Tensor, site: Site) -> Result<Tensor, Error> {
        let Some(constant) = tensor.constant() else {
            return Err(tensor.foreign_error(site));
        };
        // In a forked child the lock may be held for good by a thread that is not there.
        let mut adopted = match constant.adopted.try_lock() {
            Ok(adopted) => Some(adopted),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(known) = adopted.as_deref().and_then(Option::as_ref)
            && Arc::ptr_eq(known.lane().core(), self.core())
        {
            let known = known.clone();
            drop(adopted);
            return self.bring(&known, site);
        }
        let (meta, hash) = (*tensor.meta(), constant.hash);
        let epoch = self.state.epoch();
        let build = |out| Request::Bind { out, meta, hash };
        let (out, mark) = self.define_name(&build, opcode::BIND, site, epoch)?;
        let bound = Tensor::new(self, out, mark, meta, Some(hash));
        if let Some(adopted) = adopted.as_deref_mut() {
            *adopted = Some(bound.clone());
        }
        Ok(bound)
    }

    /// Orders this queue behind a point of another queue of the session, once.
    fn order_behind(&self, home: &Lane, mark: Mark) -> Result<(), Error> {
        home.state.ring().publish();
        loop {
            let mut ring = self.lock()?;
            let number = home.state.number;
            let behind = ring.waited_for.get(&number).copied().unwrap_or(0);
            if ring.epoch != mark.epoch || behind >= mark.value {
                return Ok(());
            }
            let request = Request::WaitQueue {
                queue: number,
                value: mark.value,
                timeout_us: WAIT_QUEUE_TIMEOUT_US,
            };
            let pushed = ring
                .push(&request, opcode::WAIT_QUEUE, Site::UNKNOWN)
                .expect("a wait has few words");
            if pushed.is_ok() {
                ring.waited_for.insert(number, mark.value);
                return Ok(());
            }
            self.make_room(ring)?;
        }
    }

    /// Remembers which tensors of other queues a record of this queue names.
    fn note_uses(self: &Arc<Self>, operands: &[Operand<Tensor>], mark: Mark) {
        for operand in operands {
            if let Operand::Tensor(tensor) = operand
                && !Arc::ptr_eq(&tensor.lane().state, &self.state)
            {
                let completion = self.state.ring().segments.completion.clone();
                tensor.add_use(ForeignUse {
                    reader: Reader::new(completion),
                    mark,
                });
            }
        }
    }
}
