//! Which instances run as one product, which operand's index runs along lanes, and how the work is cut in units.
//!
//! The kernels see rows and lanes. As a rule rows are m and lanes n; where the other way wastes fewer lanes, keeps a constant
//! packed or lets instances share an operand, the operands change places, which is invisible in the results: the order
//! of a sum is along k alone. Batch positions over which the lane operand does not change are rows like any other.

use std::collections::HashMap;
use std::sync::Arc;

use tensord_plan::{Access, Body, Buffer, Contract};
use tensord_shm::dtype::Scalar;

use super::kernel::small::{self, Steps};
use super::layout::{Dims, Layout, OperandLayout, bare_load};
use super::number::{Compute, Storage};
use super::packs::{Key, Packed, Packs};
use super::recent::Recent;
use super::{Binding, Contraction, Isa, K_BLOCK, Side, with_storage};

/// Rows of a unit whose panels are ready, and of a packed block of rows.
pub(super) const ROW_BLOCK: usize = 96;
/// Rows of a unit that packs its own panels: enough to be worth it.
const ROW_BLOCK_PACKING: usize = 768;
/// Lanes of a unit.
const LANE_BLOCK: usize = 512;
/// Lanes of a unit that packs its own panels: they stay in the second-level cache.
const LANE_BLOCK_PACKING: usize = 256;

/// Most products of elements, and rows, of a small product.
const SMALL_WORK_MAX: usize = 4096;
const SMALL_ROWS_MAX: usize = 64;
/// A lane operand that is shared or constant is worth packing from this many elements.
const SMALL_SHARED_MAX: usize = 128;
/// So many products are searched one by one before a table is kept of the others.
const GROUPS_SEARCHED: usize = 8;
/// Products of elements that make a unit of small products.
const SMALL_UNIT_WORK: usize = 1 << 16;

/// One instance's shapes in terms of rows and lanes.
pub(super) struct Shape {
    pub batch: usize,
    pub rows: usize,
    pub lanes: usize,
    pub k: usize,
    /// Batch positions that became rows, 1 if none did.
    pub fold: usize,
    pub row_operand: Option<OperandLayout>,
    pub lane_operand: Option<OperandLayout>,
    pub out: Option<OutShape>,
    /// Steps of a product, where products of this shape are small and even enough to run one behind the other.
    pub small: Option<Steps>,
}

/// A result that is stored as it is.
pub(super) struct OutShape {
    pub offset: i64,
    pub batch: Dims,
    pub rows: Dims,
    pub lanes: Dims,
}

/// An instance in a product.
pub(super) struct Member {
    pub binding: usize,
    pub shape: usize,
    pub first_row: usize,
    pub rows: usize,
}

/// One product.
pub(super) struct Group {
    pub members: Vec<Member>,
    pub batch: usize,
    pub rows: usize,
    pub lanes: usize,
    pub k: usize,
    pub row_block: usize,
    pub lane_block: usize,
    pub first_unit: usize,
    pub packed: Option<Arc<Packed>>,
    /// Rows are n and lanes m.
    pub swapped: bool,
    /// Steps of many small products: members' rows are the positions of their batches then.
    pub small: Option<Steps>,
}

impl Group {
    fn units(&self) -> usize {
        self.batch * self.rows.div_ceil(self.row_block) * self.lanes.div_ceil(self.lane_block)
    }

    /// Which operand runs along lanes.
    pub(super) fn lane_side(&self) -> Side {
        if self.swapped { Side::A } else { Side::B }
    }

    /// Which operand runs along rows.
    pub(super) fn row_side(&self) -> Side {
        if self.swapped { Side::B } else { Side::A }
    }
}

impl Shape {
    pub(super) fn new(layout: Layout, swapped: bool) -> Shape {
        let (rows, lanes, row_operand, lane_operand) = if swapped {
            (layout.n, layout.m, layout.b, layout.a)
        } else {
            (layout.m, layout.n, layout.a, layout.b)
        };
        let mut shape = Shape {
            batch: layout.batch,
            rows,
            lanes,
            k: layout.k,
            fold: 1,
            row_operand,
            lane_operand,
            out: layout.out.map(|out| OutShape {
                offset: out.offset,
                batch: out.batch,
                rows: if swapped {
                    out.n.clone()
                } else {
                    out.m.clone()
                },
                lanes: if swapped { out.m } else { out.n },
            }),
            small: None,
        };
        let unchanging = shape
            .lane_operand
            .as_ref()
            .is_some_and(|operand| operand.batch.is_invariant());
        if shape.batch > 1 && unchanging {
            shape.fold();
        }
        shape.small = shape.steps(swapped);
        shape
    }

    /// The steps of one product, if all are even and the product is small.
    fn steps(&self, swapped: bool) -> Option<Steps> {
        let (rows, lanes, k) = (self.rows, self.lanes, self.k);
        let small = rows * lanes * k <= SMALL_WORK_MAX
            && (1..=small::LANES_MAX).contains(&lanes)
            && (1..=SMALL_ROWS_MAX).contains(&rows)
            && (1..=K_BLOCK).contains(&k)
            && k * lanes.next_power_of_two().max(4) <= small::LANE_ELEMENTS_MAX;
        if !small {
            return None;
        }
        let (a, b) = (self.row_operand.as_ref()?, self.lane_operand.as_ref()?);
        if !a.bounds.is_empty() || !b.bounds.is_empty() {
            return None;
        }
        let (out_row, out_lane) = match &self.out {
            Some(out) => (out.rows.step(0, rows)?, out.lanes.step(0, lanes)?),
            // Rows are batch and n then, which an epilogue does not take as one.
            None if swapped && self.fold > 1 => return None,
            None if swapped => (1, rows as i64),
            None => (lanes as i64, 1),
        };
        Some(Steps {
            rows,
            lanes,
            k,
            a_row: a.rows.step(0, rows)? as isize,
            a_k: a.k.step(0, k)? as isize,
            b_lane: b.rows.step(0, lanes)? as isize,
            b_k: b.k.step(0, k)? as isize,
            out_row: out_row as isize,
            out_lane: out_lane as isize,
        })
    }

    /// Makes the batch positions rows.
    fn fold(&mut self) {
        self.rows *= self.batch;
        self.fold = self.batch;
        self.batch = 1;
        self.row_operand = self.row_operand.as_ref().map(OperandLayout::folded);
        self.lane_operand = self.lane_operand.as_ref().map(|operand| OperandLayout {
            batch: Dims::default(),
            ..operand.clone()
        });
        self.out = self.out.take().map(|out| OutShape {
            offset: out.offset,
            batch: Dims::default(),
            rows: Dims::concat(&out.batch, &out.rows),
            lanes: out.lanes,
        });
    }
}

fn body(contract: &Contract, side: Side) -> &Body {
    match side {
        Side::A => &contract.a,
        Side::B => &contract.b,
    }
}

fn address(binding: &Binding<'_>, side: Side) -> *const u8 {
    match side {
        Side::A => binding.a,
        Side::B => binding.b,
    }
}

/// What stands in the padding of a bare load.
pub(super) fn fill(access: &Access, binding: &Binding<'_>) -> Scalar {
    access.fill.map_or(Scalar(0), |immediate| {
        binding.instance.immediates[immediate.0 as usize]
    })
}

fn same_params(a: &Binding<'_>, b: &Binding<'_>) -> bool {
    let (a, b) = (&a.instance.params, &b.instance.params);
    Arc::ptr_eq(a, b) || a.values() == b.values()
}

/// Do two instances of equal parameters have the same operand?
fn same_operand(contract: &Contract, side: Side, a: &Binding<'_>, b: &Binding<'_>) -> bool {
    let body = body(contract, side);
    if let Some(access) = bare_load(body) {
        return address(a, side) == address(b, side) && fill(access, a) == fill(access, b);
    }
    a.instance.immediates == b.instance.immediates
        && body.loads.iter().all(|access| match access.buffer {
            Buffer::Input(k) => {
                let (a, b) = (a.instance.inputs[k as usize], b.instance.inputs[k as usize]);
                (a.buffer, a.offset) == (b.buffer, b.offset)
            }
            _ => false,
        })
}

/// Is the operand a constant that can be kept packed?
fn constant(contract: &Contract, side: Side, binding: &Binding<'_>) -> Option<(usize, u64)> {
    let access = bare_load(body(contract, side))?;
    let Buffer::Input(k) = access.buffer else {
        return None;
    };
    let input = binding.instance.inputs[k as usize];
    input.constant.then_some((k as usize, input.offset))
}

/// An estimate of what the launch costs with `lanes_of` along lanes, in units of one kernel row over one lane.
fn cost(
    contract: &Contract,
    bindings: &[Binding<'_>],
    layout: &Layout,
    lanes_of: Side,
    nr: usize,
) -> usize {
    let (rows, lanes, operand) = match lanes_of {
        Side::A => (layout.n, layout.m, &layout.a),
        Side::B => (layout.m, layout.n, &layout.b),
    };
    let first = &bindings[0];
    let last = &bindings[bindings.len() - 1];
    let shared = bindings.len() > 1 && same_operand(contract, lanes_of, first, last);
    let unchanging = operand.as_ref().is_some_and(|o| o.batch.is_invariant());
    let (mut rows, mut products) = (rows, bindings.len());
    if shared {
        (rows, products) = (rows * products, 1);
    }
    if unchanging {
        rows *= layout.batch;
    } else {
        products *= layout.batch;
    }
    let packing = if constant(contract, lanes_of, first).is_some() {
        0
    } else if operand
        .as_ref()
        .is_some_and(|o| o.bounds.is_empty() && o.rows.step(0, lanes) == Some(1))
    {
        1
    } else {
        4
    };
    products * lanes.next_multiple_of(nr) * (rows + 2 + packing)
}

/// # Safety
/// See [`Contraction::new`].
pub(super) unsafe fn plan<'a>(
    contract: &'a Contract,
    bindings: &'a [Binding<'a>],
    isa: Isa,
    packs: &mut Packs,
) -> Contraction<'a> {
    let mut contraction = Contraction {
        contract,
        bindings,
        isa,
        shapes: Vec::new(),
        groups: Vec::new(),
        units: 0,
    };
    if bindings.is_empty() {
        return contraction;
    }
    let nr = with_storage!(contract.dtype, S => <S as Storage>::Compute::kernels(isa).nr);
    let recent = &mut packs.recent;
    let layout = recent.layout(contract, &bindings[0].instance.params);
    let ways = [Side::B, Side::A].map(|side| cost(contract, bindings, &layout, side, nr));
    let swapped = ways[1] < ways[0];
    // Conversion and padding are the packers' work, and what is shared is worth a pack.
    let side = if swapped { Side::A } else { Side::B };
    let (rows, lanes) = (
        layout.n.max(layout.m),
        if swapped { layout.m } else { layout.n },
    );
    let shared = bindings.len() > 1 && same_operand(contract, side, &bindings[0], &bindings[1])
        || constant(contract, side, &bindings[0]).is_some();
    let small = with_storage!(contract.dtype, S => <S as Storage>::SAME)
        && rows <= SMALL_ROWS_MAX
        && !(shared && lanes * layout.k > SMALL_SHARED_MAX);
    join(&mut contraction, recent, swapped, small);
    for group in &mut contraction.groups {
        let shape = &contraction.shapes[group.members[0].shape];
        if let Some(steps) = &group.small {
            let work = steps.rows * steps.lanes * steps.k;
            group.row_block = (SMALL_UNIT_WORK / work).max(16);
            group.lane_block = group.lanes;
            group.first_unit = contraction.units;
            contraction.units += group.units();
            continue;
        }
        // SAFETY: handed on.
        group.packed = unsafe { packed(contract, bindings, shape, group, nr, isa, packs) };
        divide(shape, group);
        group.first_unit = contraction.units;
        contraction.units += group.units();
    }
    contraction
}

/// Sorts instances into products.
fn join(contraction: &mut Contraction<'_>, recent: &mut Recent, swapped: bool, small: bool) {
    let (contract, bindings) = (contraction.contract, contraction.bindings);
    let side = if swapped { Side::A } else { Side::B };
    let shapes = &mut contraction.shapes;
    let groups: &mut Vec<Group> = &mut contraction.groups;
    // The binding whose parameters each shape was made from.
    let mut leaders = vec![0usize];
    shapes.push(recent.shape(contract, &bindings[0].instance.params, swapped));
    let mut by_address: HashMap<(usize, usize), usize> = HashMap::new();
    let mut last_shape = 0;
    for (index, binding) in bindings.iter().enumerate() {
        if !same_params(&bindings[leaders[last_shape]], binding) {
            let known = leaders
                .iter()
                .position(|&leader| same_params(&bindings[leader], binding));
            last_shape = known.unwrap_or_else(|| {
                shapes.push(recent.shape(contract, &binding.instance.params, swapped));
                leaders.push(index);
                shapes.len() - 1
            });
        }
        let shape = &shapes[last_shape];
        let fits = |group: &Group| {
            let first = &group.members[0];
            first.shape == last_shape
                && (group.small.is_some()
                    || same_operand(contract, side, &bindings[first.binding], binding))
        };
        let key = || {
            let small = small && shape.small.is_some();
            (last_shape, identity(contract, side, binding, small))
        };
        let near = groups.iter().take(GROUPS_SEARCHED).position(fits);
        let found = near.or_else(|| {
            let far = groups.len() > GROUPS_SEARCHED;
            let index = far.then(|| by_address.get(&key()).copied()).flatten();
            index.filter(|&group| fits(&groups[group]))
        });
        let group = match found {
            Some(group) => &mut groups[group],
            None => {
                if groups.len() >= GROUPS_SEARCHED {
                    by_address.insert(key(), groups.len());
                }
                let small = shape.small.filter(|_| small);
                groups.push(Group {
                    members: Vec::new(),
                    batch: if small.is_some() { 1 } else { shape.batch },
                    rows: 0,
                    lanes: shape.lanes,
                    k: shape.k,
                    row_block: 1,
                    lane_block: 1,
                    first_unit: 0,
                    packed: None,
                    swapped,
                    small,
                });
                groups.last_mut().expect("one was just pushed")
            }
        };
        let rows = if group.small.is_some() {
            shape.batch
        } else {
            shape.rows
        };
        group.members.push(Member {
            binding: index,
            shape: last_shape,
            first_row: group.rows,
            rows,
        });
        group.rows += rows;
    }
}

/// A number that instances with the same operand have in common; small products need not share any.
fn identity(contract: &Contract, side: Side, binding: &Binding<'_>, small: bool) -> usize {
    if small {
        return 0;
    }
    let body = body(contract, side);
    if bare_load(body).is_some() {
        return address(binding, side) as usize;
    }
    match body.loads.first().map(|access| access.buffer) {
        Some(Buffer::Input(k)) => {
            let input = binding.instance.inputs[k as usize];
            (u64::from(input.buffer.0) << 32 ^ input.offset) as usize
        }
        _ => 0,
    }
}

/// The lane operand's panels, where it is a constant.
///
/// # Safety
/// See [`Contraction::new`].
unsafe fn packed(
    contract: &Contract,
    bindings: &[Binding<'_>],
    shape: &Shape,
    group: &Group,
    nr: usize,
    isa: Isa,
    packs: &mut Packs,
) -> Option<Arc<Packed>> {
    let binding = &bindings[group.members[0].binding];
    let side = group.lane_side();
    let (input, byte_offset) = constant(contract, side, binding)?;
    let layout = shape.lane_operand.as_ref()?;
    let positions = (shape.batch * shape.lanes) as u64 * shape.k as u64;
    // Windows that overlap would be held several times over.
    if positions == 0 || positions > 2 * layout.span() {
        return None;
    }
    let access = bare_load(body(contract, side))?;
    let key = Key {
        byte_offset,
        dtype: contract.dtype,
        layout,
        counts: [shape.batch, shape.lanes, shape.k],
        fill: fill(access, binding),
        nr,
    };
    let elements = shape.batch * shape.lanes.next_multiple_of(nr) * shape.k;
    let buffer = binding.instance.inputs[input].buffer;
    let base = address(binding, side);
    with_storage!(contract.dtype, S => {
        let bytes = elements * size_of::<<S as Storage>::Compute>();
        // SAFETY: the operand is a bare load, whose elements the caller's contract covers.
        packs.find(buffer, &key, bytes as u64, || unsafe {
            super::tables::pack_whole::<S>(base, &key, isa)
        })
    })
}

/// Chooses the blocks of a unit.
fn divide(shape: &Shape, group: &mut Group) {
    let in_place = shape.lane_operand.as_ref().is_some_and(|operand| {
        operand.bounds.is_empty() && group.rows <= super::run::IN_PLACE_ROWS_MAX
    });
    let ready = group.packed.is_some() || in_place;
    (group.row_block, group.lane_block) = if ready {
        (ROW_BLOCK, LANE_BLOCK)
    } else {
        (ROW_BLOCK_PACKING, LANE_BLOCK_PACKING)
    };
}

/// Offset of a block of k, a lane block and a batch position in a pack, in elements.
pub(super) fn pack_offset(counts: [usize; 3], nr: usize, batch: usize, k: usize) -> usize {
    let [_, lanes, k_count] = counts;
    let padded = lanes.next_multiple_of(nr);
    debug_assert!(k.is_multiple_of(K_BLOCK));
    batch * padded * k_count + k * padded
}
