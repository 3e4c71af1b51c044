//! Gives a program its sizes, strides and offsets: one [`Bound`] serves all instances with equal parameters.
//!
//! Adjacent axes become one wherever every address of the program allows it, so that most elementwise work ends as a
//! single contiguous axis. Row-major order is untouched by that.

use tensord_plan::{Access, Buffer, Guard, Params, Plan};
use tensord_shm::dtype::DType;

use super::kernels::LANES;
use super::program::{FormSource, Op, Program};
use super::rows::{Form, Gathered, Guarded};

/// Elements in a tile at most.
pub const TILE: usize = 1024;
/// Bytes that a tile's slots should fit in: half of a usual first-level cache.
const SLOTS_BYTES: usize = 24 << 10;

/// Elements of a row from which a tile of its own is cheaper than writing out what the row has only one of.
const REPEATS_MIN: u64 = 256;

/// A load with its address.
#[derive(Clone, Debug)]
pub struct BoundLoad {
    /// Column of the instance table.
    pub column: u32,
    /// Dtype of its elements in memory.
    pub dtype: DType,
    /// Where elements lie, in elements.
    pub form: Form,
    /// Where they are there at all.
    pub guards: Vec<Guarded>,
    /// Immediate for where they are not.
    pub fill: Option<u32>,
    /// Does the whole space lie contiguous?
    pub flat: bool,
}

/// A store with its address.
#[derive(Clone, Debug)]
pub struct BoundStore {
    /// Column of the instance table.
    pub column: u32,
    /// Dtype of its elements in memory.
    pub dtype: DType,
    /// Where elements lie, in elements.
    pub form: Form,
    /// Does the whole space lie contiguous?
    pub flat: bool,
}

/// A program's sizes and addresses.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Sizes of the coalesced axes.
    pub sizes: Vec<u64>,
    /// Elements of the space.
    pub count: u64,
    /// The program's loads.
    pub loads: Vec<BoundLoad>,
    /// The program's stores.
    pub stores: Vec<BoundStore>,
    /// The program's affine functions.
    pub forms: Vec<Form>,
    /// The program's masks.
    pub masks: Vec<Vec<Guarded>>,
    /// For each load, what gathers through it add.
    pub gathers: Vec<Option<Gathered>>,
    /// Elements in a tile.
    pub tile: usize,
    /// Is every access flat?
    pub flat: bool,
    /// May a tile be longer than `tile`, if it is whole lanes, because nothing of it comes to lie in a slot?
    pub streams: bool,
    /// Does some load give one element for a whole row?
    pub repeats: bool,
    /// Is what is stored read again before much else is?
    pub read_soon: bool,
}

/// Column of a buffer in the instance table: inputs, outputs, temporaries.
pub fn column(plan: &Plan, buffer: Buffer) -> u32 {
    match buffer {
        Buffer::Input(k) => k,
        Buffer::Output(k) => plan.inputs.len() as u32 + k,
        Buffer::Temp(k) => (plan.inputs.len() + plan.outputs.len()) as u32 + k,
    }
}

struct Binder<'a> {
    plan: &'a Plan,
    params: &'a Params,
    rank: usize,
    order: &'a [usize],
}

impl Binder<'_> {
    fn pick(&self, strides: &[i64]) -> Vec<i64> {
        self.order.iter().map(|&axis| strides[axis]).collect()
    }

    fn access(&self, access: &Access) -> (u32, DType, Form) {
        let address = self.params.address(access, self.rank);
        let form = Form {
            offset: address.offset,
            strides: self.pick(&address.strides),
        };
        let column = column(self.plan, access.buffer);
        (column, access.dtype, form)
    }

    fn guard(&self, guard: &Guard) -> Guarded {
        Guarded {
            form: Form {
                offset: self.params.get(guard.offset),
                strides: self.pick(self.params.run(guard.coefficients, self.rank)),
            },
            extent: self.params.get(guard.extent),
        }
    }

    fn load(&self, access: &Access) -> BoundLoad {
        let (column, dtype, form) = self.access(access);
        BoundLoad {
            column,
            dtype,
            form,
            guards: access.padded.iter().map(|p| self.guard(&p.guard)).collect(),
            fill: access.fill.map(|fill| fill.0),
            flat: false,
        }
    }

    fn form(&self, source: &FormSource) -> Form {
        match source {
            FormSource::Axis(axis) => Form {
                offset: 0,
                strides: self
                    .order
                    .iter()
                    .map(|&from| i64::from(from == usize::from(*axis)))
                    .collect(),
            },
            FormSource::Slots(offset, strides) => Form {
                offset: self.params.get(*offset),
                strides: self.pick(self.params.run(*strides, self.rank)),
            },
        }
    }
}

impl Bound {
    /// Binds over a space of `sizes`, whose axes the result walks in the order `order`.
    pub fn new(
        plan: &Plan,
        program: &Program,
        params: &Params,
        sizes: &[u64],
        order: &[usize],
    ) -> Bound {
        let binder = Binder {
            plan,
            params,
            rank: sizes.len(),
            order,
        };
        let mut bound = Bound {
            sizes: order.iter().map(|&axis| sizes[axis]).collect(),
            count: sizes.iter().product(),
            loads: program.loads.iter().map(|a| binder.load(a)).collect(),
            stores: program
                .stores
                .iter()
                .map(|store| {
                    let (column, dtype, form) = binder.access(&store.access);
                    BoundStore {
                        column,
                        dtype,
                        form,
                        flat: false,
                    }
                })
                .collect(),
            forms: program.forms.iter().map(|f| binder.form(f)).collect(),
            masks: program
                .masks
                .iter()
                .map(|guards| guards.iter().map(|g| binder.guard(g)).collect())
                .collect(),
            gathers: vec![None; program.loads.len()],
            tile: 0,
            flat: true,
            streams: false,
            repeats: false,
            read_soon: false,
        };
        for placed in &program.ops {
            if let Op::Gather {
                load,
                extent,
                stride,
                ..
            } = placed.op
            {
                bound.gathers[usize::from(load)] = Some(Gathered {
                    extent: params.get(extent),
                    stride: params.get(stride),
                });
            }
        }
        bound.coalesce();
        bound.mark_flat();
        bound.tile = tile_len(program, &bound);
        bound.streams = bound.flat && program.is_one_run();
        bound.repeats = bound.loads.iter().any(|load| {
            let strides = &load.form.strides;
            load.guards.is_empty() && strides.len() > 1 && strides.last() == Some(&0)
        });
        bound
    }

    fn strides_mut(&mut self) -> Vec<&mut Vec<i64>> {
        let mut all: Vec<&mut Vec<i64>> = Vec::new();
        for load in &mut self.loads {
            all.push(&mut load.form.strides);
            all.extend(load.guards.iter_mut().map(|g| &mut g.form.strides));
        }
        all.extend(self.stores.iter_mut().map(|s| &mut s.form.strides));
        all.extend(self.forms.iter_mut().map(|f| &mut f.strides));
        all.extend(self.masks.iter_mut().flatten().map(|g| &mut g.form.strides));
        all
    }

    fn coalesce(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut sizes = std::mem::take(&mut self.sizes);
        let mut all = self.strides_mut();
        let mut axis = sizes.len();
        while axis > 0 {
            axis -= 1;
            if sizes[axis] == 1 {
                sizes.remove(axis);
                for strides in &mut all {
                    strides.remove(axis);
                }
                continue;
            }
            let Some(&inner) = sizes.get(axis + 1) else {
                continue;
            };
            let joins = all
                .iter()
                .all(|strides| strides[axis + 1].checked_mul(inner as i64) == Some(strides[axis]));
            if joins {
                sizes[axis] *= inner;
                sizes.remove(axis + 1);
                for strides in &mut all {
                    strides[axis] = strides[axis + 1];
                    strides.remove(axis + 1);
                }
            }
        }
        self.sizes = sizes;
    }

    fn mark_flat(&mut self) {
        let sizes = &self.sizes;
        let row_major = |form: &Form| {
            let mut step = 1i64;
            form.strides
                .iter()
                .zip(sizes)
                .rev()
                .all(|(&stride, &size)| {
                    let fits = stride == step;
                    step = step.saturating_mul(size as i64);
                    fits
                })
        };
        for load in &mut self.loads {
            load.flat = load.guards.is_empty() && row_major(&load.form);
            self.flat &= load.flat;
        }
        for store in &mut self.stores {
            store.flat = row_major(&store.form);
            self.flat &= store.flat;
        }
        self.flat &= self.masks.is_empty();
    }

    /// Do the elements of the first load lie one behind the other in rows of `row`?
    pub fn rows_lie_together(&self, row: u64) -> bool {
        self.loads.first().is_some_and(|load| {
            let unit = load.form.strides.last() == Some(&1);
            let whole = self
                .sizes
                .last()
                .is_some_and(|size| size.is_multiple_of(row.max(1)));
            load.flat || load.guards.is_empty() && unit && whole
        })
    }

    /// Elements of the tile that begins at element `at` of an instance: cut so that strided accesses see whole rows.
    pub fn tile_at(&self, at: u64) -> usize {
        let left = self.count - at;
        if self.streams && left >= LANES as u64 {
            return (left / LANES as u64 * LANES as u64) as usize;
        }
        let most = left.min(self.tile as u64);
        let row = match self.sizes.last() {
            Some(&row) if !self.flat && self.sizes.len() > 1 && row >= 128 => row,
            _ => return most as usize,
        };
        let whole = most / row * row;
        match at % row {
            // One row, where that makes a load a scalar.
            0 if self.repeats && row >= REPEATS_MIN && whole > 0 => row as usize,
            0 if whole > 0 => whole as usize,
            behind => most.min(row - behind) as usize,
        }
    }
}

fn tile_len(program: &Program, bound: &Bound) -> usize {
    let slots = (program.slot_count - program.scalars.len() - 1).max(1);
    let fits = SLOTS_BYTES / (slots * program.width.max(1));
    let tile = (fits / 64 * 64).clamp(128, TILE);
    tile.min((bound.count.max(1) as usize).next_multiple_of(16).max(64))
}
