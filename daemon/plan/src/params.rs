//! An instance's parameters, checked once against its plan.
//!
//! [`Params::new`] walks every access of the plan with the given sizes and strides and computes the bytes that each input and
//! output must have. A backend that compares these with the buffers it is handed can address memory without checking
//! each element: this is what its unsafe code rests on.

use thiserror::Error;

use crate::program::{Access, Body, Buffer, Guard, Instr, Plan, Slot, Step};

/// Highest rank of an iteration space.
pub const SPACE_RANK_MAX: usize = 24;

/// The parameters of one instance, consistent with one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    values: Vec<i64>,
    input_bytes: Vec<u64>,
    output_bytes: Vec<u64>,
    temp_counts: Vec<u64>,
    cost_bytes: u64,
    cost_flops: u64,
}

/// Parameters that do not fit their plan. Always a bug of the fuser, and caught before memory is touched.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum BoundsError {
    #[error("{have} parameters for a plan of {want} slots")]
    Count { have: usize, want: u32 },
    #[error("size {value} in slot {slot} is negative or too large")]
    Size { slot: u32, value: i64 },
    #[error("step {step}: {buffer:?} is reached at element {low}, below its start")]
    Below {
        step: usize,
        buffer: Buffer,
        low: i64,
    },
    #[error("step {step}: {buffer:?} of {count} elements is reached at element {high}")]
    Beyond {
        step: usize,
        buffer: Buffer,
        count: i64,
        high: i64,
    },
    #[error("step {step} names {buffer:?}, which the plan does not have")]
    NoBuffer { step: usize, buffer: Buffer },
    #[error("step {step}: offsets overflow")]
    Overflow { step: usize },
    #[error("step {step}: iteration space of rank {rank}")]
    Rank { step: usize, rank: usize },
}

/// An access with its padded axes added in: element `offset + sum(strides[k] * index[k])`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// In elements.
    pub offset: i64,
    /// In elements; entries beyond the rank are 0.
    pub strides: [i64; SPACE_RANK_MAX],
}

impl Params {
    /// Checks `values` against `plan`.
    pub fn new(plan: &Plan, values: Vec<i64>) -> Result<Params, BoundsError> {
        if values.len() != plan.slots as usize {
            return Err(BoundsError::Count {
                have: values.len(),
                want: plan.slots,
            });
        }
        let mut params = Params {
            values,
            input_bytes: vec![0; plan.inputs.len()],
            output_bytes: vec![0; plan.outputs.len()],
            temp_counts: Vec::with_capacity(plan.temps.len()),
            cost_bytes: 0,
            cost_flops: 0,
        };
        for temp in &plan.temps {
            params.temp_counts.push(params.count(temp.count)?);
        }
        for (k, (dtype, count)) in plan.outputs.iter().enumerate() {
            params.output_bytes[k] = params.count(*count)? * dtype.size() as u64;
        }
        for (index, step) in plan.steps.iter().enumerate() {
            params.check_step(plan, index, step)?;
        }
        Ok(params)
    }

    /// The value in a slot.
    pub fn get(&self, slot: Slot) -> i64 {
        self.values[slot.0 as usize]
    }

    /// The run of `len` values from a slot.
    pub fn run(&self, slot: Slot, len: usize) -> &[i64] {
        &self.values[slot.0 as usize..slot.0 as usize + len]
    }

    /// All values: instances with equal values (and equal plans) have equal shapes and layouts.
    pub fn values(&self) -> &[i64] {
        &self.values
    }

    /// Bytes that each input's memory must have.
    pub fn input_bytes(&self) -> &[u64] {
        &self.input_bytes
    }

    /// Bytes of each output.
    pub fn output_bytes(&self) -> &[u64] {
        &self.output_bytes
    }

    /// Elements of each temporary.
    pub fn temp_counts(&self) -> &[u64] {
        &self.temp_counts
    }

    /// Bytes read and written by all steps, before caches, and elementary operations: the first cost estimate.
    pub fn cost(&self) -> (u64, u64) {
        (self.cost_bytes, self.cost_flops)
    }

    /// The access's offset and strides over a space of `rank` axes, padded axes included.
    pub fn address(&self, access: &Access, rank: usize) -> Address {
        let mut strides = [0i64; SPACE_RANK_MAX];
        strides[..rank].copy_from_slice(self.run(access.strides, rank));
        let mut offset = self.get(access.offset);
        for axis in &access.padded {
            let step = self.get(axis.stride);
            offset += step * self.get(axis.guard.offset);
            for (stride, coefficient) in strides
                .iter_mut()
                .zip(self.run(axis.guard.coefficients, rank))
            {
                *stride += step * coefficient;
            }
        }
        Address { offset, strides }
    }

    fn count(&self, slot: Slot) -> Result<u64, BoundsError> {
        let value = self.get(slot);
        u64::try_from(value)
            .ok()
            .filter(|&v| v <= tensord_shm::layout::ELEMENTS_MAX)
            .ok_or(BoundsError::Size {
                slot: slot.0,
                value,
            })
    }

    fn space(&self, step: usize, sizes: Slot, rank: usize) -> Result<Vec<u64>, BoundsError> {
        if rank > SPACE_RANK_MAX {
            return Err(BoundsError::Rank { step, rank });
        }
        (0..rank).map(|k| self.count(sizes.plus(k))).collect()
    }

    fn check_step(&mut self, plan: &Plan, index: usize, step: &Step) -> Result<(), BoundsError> {
        match step {
            Step::Map(map) => {
                let space = self.space(index, map.sizes, map.rank.into())?;
                self.check_body(plan, index, &map.body, &space)?;
                for store in &map.stores {
                    self.check_access(plan, index, &store.access, &space, 0)?;
                }
            }
            Step::Reduce(reduce) => {
                let outer = usize::from(reduce.outer);
                let space = self.space(index, reduce.sizes, outer + usize::from(reduce.inner))?;
                self.check_body(plan, index, &reduce.body, &space)?;
                self.check_body(plan, index, &reduce.epilogue, &space[..outer])?;
                for store in &reduce.stores {
                    self.check_access(plan, index, &store.access, &space[..outer], 0)?;
                }
            }
            Step::Contract(contract) => {
                let [batch, m, n, k] =
                    [contract.batch, contract.m, contract.n, contract.k].map(usize::from);
                let space = self.space(index, contract.sizes, batch + m + n + k)?;
                let (head, rest) = space.split_at(batch);
                let (rows, rest) = rest.split_at(m);
                let (columns, summed) = rest.split_at(n);
                self.check_body(plan, index, &contract.a, &[head, rows, summed].concat())?;
                self.check_body(plan, index, &contract.b, &[head, columns, summed].concat())?;
                let out = [head, rows, columns].concat();
                self.check_body(plan, index, &contract.epilogue, &out)?;
                for store in &contract.stores {
                    self.check_access(plan, index, &store.access, &out, 0)?;
                }
                let products = space
                    .iter()
                    .fold(2u64, |work, &size| work.saturating_mul(size));
                self.cost_flops = self.cost_flops.saturating_add(products);
            }
            Step::Scan(scan) => {
                let space = self.space(index, scan.sizes, scan.rank.into())?;
                self.check_access(plan, index, &scan.from, &space, 0)?;
                self.check_access(plan, index, &scan.to, &space, 0)?;
            }
            Step::Scatter(scatter) => {
                let [before, middle, behind] =
                    [scatter.before, scatter.index_rank, scatter.behind].map(usize::from);
                let space = self.space(index, scatter.sizes, before + middle + behind)?;
                self.check_access(plan, index, &scatter.updates, &space, 0)?;
                self.check_access(
                    plan,
                    index,
                    &scatter.index,
                    &space[before..before + middle],
                    0,
                )?;
                let rows = [&space[..before], &space[before + middle..]].concat();
                // An empty axis is never written: every index is out of range.
                if self.count(scatter.extent)? > 0 {
                    let reach = self.reach(index, scatter.extent, scatter.stride)?;
                    self.check_access(plan, index, &scatter.to, &rows, reach)?;
                }
            }
        }
        Ok(())
    }

    /// How far a gathered or scattered axis reaches beyond its element 0.
    fn reach(&self, step: usize, extent: Slot, stride: Slot) -> Result<i64, BoundsError> {
        let last = self.count(extent)? as i64 - 1;
        self.get(stride)
            .checked_mul(last.max(0))
            .ok_or(BoundsError::Overflow { step })
    }

    fn check_body(
        &mut self,
        plan: &Plan,
        step: usize,
        body: &Body,
        space: &[u64],
    ) -> Result<(), BoundsError> {
        for (load, access) in body.loads.iter().enumerate() {
            let gathers: Vec<(Slot, Slot)> = body
                .instrs
                .iter()
                .filter_map(|instr| match instr {
                    Instr::Gather {
                        load: base,
                        extent,
                        stride,
                        ..
                    } if *base as usize == load => Some((*extent, *stride)),
                    _ => None,
                })
                .collect();
            let plain = body.instrs.contains(&Instr::Load(load as u32));
            if plain || gathers.is_empty() {
                self.check_access(plan, step, access, space, 0)?;
            }
            for (extent, stride) in gathers {
                // An empty axis is never read: every index is out of range.
                if self.count(extent)? > 0 {
                    let reach = self.reach(step, extent, stride)?;
                    self.check_access(plan, step, access, space, reach)?;
                }
            }
        }
        let elements = space
            .iter()
            .fold(1u64, |count, &size| count.saturating_mul(size));
        let work: u64 = body
            .instrs
            .iter()
            .map(|instr| match instr {
                Instr::Apply { function, .. } => u64::from(function.info().cost),
                _ => 1,
            })
            .sum();
        self.cost_flops = self
            .cost_flops
            .saturating_add(elements.saturating_mul(work));
        Ok(())
    }

    fn check_access(
        &mut self,
        plan: &Plan,
        step: usize,
        access: &Access,
        space: &[u64],
        reach: i64,
    ) -> Result<(), BoundsError> {
        let buffer = access.buffer;
        let overflow = BoundsError::Overflow { step };
        let missing = BoundsError::NoBuffer { step, buffer };
        let known = match buffer {
            Buffer::Input(k) => (k as usize) < plan.inputs.len(),
            Buffer::Output(k) => (k as usize) < plan.outputs.len(),
            Buffer::Temp(k) => (k as usize) < plan.temps.len(),
        };
        if !known {
            return Err(missing);
        }
        let elements = space
            .iter()
            .fold(1u64, |count, &size| count.saturating_mul(size));
        if elements == 0 {
            return Ok(());
        }
        let strides = self.run(access.strides, space.len());
        let mut range =
            affine_range(self.get(access.offset), strides, space).ok_or(overflow.clone())?;
        range = widen(range, reach).ok_or(overflow.clone())?;
        for axis in &access.padded {
            let Some((low, high)) = self
                .guarded_range(&axis.guard, space)
                .ok_or(overflow.clone())?
            else {
                return Ok(());
            };
            let step_size = self.get(axis.stride);
            let ends = [low, high].map(|c| c.checked_mul(step_size));
            let [Some(a), Some(b)] = ends else {
                return Err(overflow);
            };
            range = (
                range.0.checked_add(a.min(b)).ok_or(overflow.clone())?,
                range.1.checked_add(a.max(b)).ok_or(overflow.clone())?,
            );
        }
        self.cost_bytes = self
            .cost_bytes
            .saturating_add(elements.saturating_mul(access.dtype.size() as u64));
        let (low, high) = range;
        if low < 0 {
            return Err(BoundsError::Below { step, buffer, low });
        }
        let count = match buffer {
            Buffer::Input(k) => {
                let bytes = (high as u64 + 1)
                    .checked_mul(access.dtype.size() as u64)
                    .ok_or(overflow)?;
                let need = &mut self.input_bytes[k as usize];
                *need = (*need).max(bytes);
                return Ok(());
            }
            Buffer::Output(k) => self.output_bytes[k as usize] / access.dtype.size() as u64,
            Buffer::Temp(k) => self.temp_counts[k as usize],
        } as i64;
        if high >= count {
            return Err(BoundsError::Beyond {
                step,
                buffer,
                count,
                high,
            });
        }
        Ok(())
    }

    /// Range of the coordinate where the guard holds; the inner `None` where it never does.
    #[allow(clippy::type_complexity)]
    fn guarded_range(&self, guard: &Guard, space: &[u64]) -> Option<Option<(i64, i64)>> {
        let coefficients = self.run(guard.coefficients, space.len());
        let (low, high) = affine_range(self.get(guard.offset), coefficients, space)?;
        let (low, high) = (low.max(0), high.min(self.get(guard.extent) - 1));
        Some((low <= high).then_some((low, high)))
    }
}

fn affine_range(offset: i64, coefficients: &[i64], space: &[u64]) -> Option<(i64, i64)> {
    coefficients
        .iter()
        .zip(space)
        .try_fold((offset, offset), |range, (&coefficient, &size)| {
            widen(range, coefficient.checked_mul(size as i64 - 1)?)
        })
}

fn widen((low, high): (i64, i64), reach: i64) -> Option<(i64, i64)> {
    Some((
        low.checked_add(reach.min(0))?,
        high.checked_add(reach.max(0))?,
    ))
}
