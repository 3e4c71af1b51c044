//! Which instances run as one product, which operand's index runs along lanes, and how the work is cut in units.
//!
//! The kernels see rows and lanes. As a rule rows are m and lanes n; where the other way wastes fewer lanes, keeps a constant
//! packed or lets instances share an operand, the operands change places, which is invisible in the results: the order
//! of a sum is along k alone. Batch positions over which the lane operand does not change are rows like any other.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use tensord_plan::{Access, Body, Buffer, Contract};
use tensord_shm::dtype::Scalar;

use super::form::{SMALL_ROWS_MAX, Shape};
use super::kernel::small::Steps;
use super::layout::{Layout, bare_load};
use super::number::{Compute, Storage};
use super::packs::{Key, Packed, Packs};
use super::{Binding, Contraction, Isa, K_BLOCK, Side, with_storage};

/// Rows of a unit whose panels are ready, and of a packed block of rows.
pub(super) const ROW_BLOCK: usize = 96;
/// Rows of a unit that packs its own panels: enough to be worth it.
const ROW_BLOCK_PACKING: usize = 768;
/// Lanes of a unit.
const LANE_BLOCK: usize = 512;
/// Lanes of a unit that packs its own panels: they stay in the second-level cache.
const LANE_BLOCK_PACKING: usize = 256;

/// A lane operand that is shared or constant is worth packing from this many elements.
const SMALL_SHARED_MAX: usize = 128;
/// So many products are searched one by one before a table is kept of the others.
const GROUPS_SEARCHED: usize = 8;
/// What packing a row or a lane costs, in rows of kernels.
const PACKING: usize = 4;
/// What a kernel's start costs for each of its lanes, in rows.
const KERNEL_START: usize = 2;
/// Multiply-adds of a lane in the time of storing one element of a result that is not adjacent along lanes.
const SCATTERING: usize = 32;
/// Products of elements that make a unit of small products.
const SMALL_UNIT_WORK: usize = 1 << 16;

/// An instance in a product.
#[derive(Debug)]
pub(super) struct Member {
    pub binding: usize,
    pub first_row: usize,
    pub rows: usize,
}

/// One product.
#[derive(Debug)]
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

/// Does a bare load read padding, which is a value of the instance?
fn is_filled(contract: &Contract) -> bool {
    [&contract.a, &contract.b]
        .into_iter()
        .any(|body| bare_load(body).is_some_and(|access| access.fill.is_some()))
}

/// Do two instances of one form have the same operand?
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

/// An estimate of what the launch costs with `lanes_of` along lanes. The unit is what one row of a kernel takes for one lane:
/// `k` multiply-adds.
fn cost(
    contract: &Contract,
    bindings: &[Binding<'_>],
    layout: &Layout,
    lanes_of: Side,
    nr: usize,
) -> usize {
    let swapped = lanes_of == Side::A;
    let (rows, lanes, row_operand, lane_operand) = match swapped {
        true => (layout.n, layout.m, &layout.b, &layout.a),
        false => (layout.m, layout.n, &layout.a, &layout.b),
    };
    let first = &bindings[0];
    let last = &bindings[bindings.len() - 1];
    let shared = bindings.len() > 1 && same_operand(contract, lanes_of, first, last);
    let unchanging = lane_operand
        .as_ref()
        .is_some_and(|o| o.batch.is_invariant());
    let (mut rows, mut products) = (rows, bindings.len());
    if shared {
        (rows, products) = (rows * products, 1);
    }
    if unchanging {
        rows *= layout.batch;
    } else {
        products *= layout.batch;
    }
    let lane_packing = match lane_operand {
        _ if constant(contract, lanes_of, first).is_some() => 0,
        Some(o) if o.bounds.is_empty() && o.rows.step(0, lanes) == Some(1) => 1,
        _ => PACKING,
    };
    let in_place = row_operand
        .as_ref()
        .is_some_and(|o| o.bounds.is_empty() && o.k.step(0, layout.k) == Some(1));
    let row_packing = if in_place { 0 } else { PACKING };
    let adjacent = match &layout.out {
        Some(out) if swapped => out.m.step(0, lanes) == Some(1),
        Some(out) => out.n.step(0, lanes) == Some(1),
        None => !swapped,
    };
    let scattering = if adjacent || lanes == 1 {
        0
    } else {
        rows * lanes * SCATTERING / layout.k.max(1)
    };
    let kernels = lanes.next_multiple_of(nr) * (rows + KERNEL_START + lane_packing);
    products * (kernels + rows * row_packing + scattering)
}

/// # Safety
/// See [`Contraction::new`].
pub(super) unsafe fn plan<'a>(
    contract: &'a Contract,
    bindings: &'a [Binding<'a>],
    isa: Isa,
    packs: &mut Packs,
) -> Contraction<'a> {
    let groups = match bindings {
        // Small products come one by one, in millions: how they run is decided once for each form.
        [alone] if !is_filled(contract) => {
            let constants = [Side::A, Side::B].map(|side| {
                let (input, offset) = constant(contract, side, alone)?;
                Some((alone.instance.inputs[input].buffer, offset))
            });
            packs.alone(alone.form.name, &constants).unwrap_or_else(|| {
                // SAFETY: handed on.
                let groups = unsafe { divided(contract, bindings, isa, packs) };
                packs.keep_alone(alone.form.name, constants, groups.clone());
                groups
            })
        }
        // SAFETY: handed on.
        _ => unsafe { divided(contract, bindings, isa, packs) },
    };
    Contraction {
        contract,
        bindings,
        isa,
        units: groups
            .last()
            .map_or(0, |group| group.first_unit + group.units()),
        groups,
    }
}

/// Products, each with its blocks and its packed constant.
///
/// # Safety
/// See [`Contraction::new`].
unsafe fn divided(
    contract: &Contract,
    bindings: &[Binding<'_>],
    isa: Isa,
    packs: &mut Packs,
) -> Arc<[Group]> {
    let Some(first) = bindings.first() else {
        return Arc::default();
    };
    let nr = with_storage!(contract.dtype, S => <S as Storage>::Compute::kernels(isa).nr);
    let layout = &first.form.layout;
    let ways = [Side::B, Side::A].map(|side| cost(contract, bindings, layout, side, nr));
    let swapped = ways[1] < ways[0];
    // Conversion and padding are the packers' work, and what is shared is worth a pack.
    let side = if swapped { Side::A } else { Side::B };
    let (rows, lanes) = (
        layout.n.max(layout.m),
        if swapped { layout.m } else { layout.n },
    );
    let shared = bindings.len() > 1 && same_operand(contract, side, &bindings[0], &bindings[1])
        || constant(contract, side, first).is_some();
    let small = with_storage!(contract.dtype, S => <S as Storage>::SAME)
        && rows <= SMALL_ROWS_MAX
        && !(shared && lanes * layout.k > SMALL_SHARED_MAX);
    let mut groups = join(contract, bindings, swapped, small);
    let mut units = 0;
    for group in &mut groups {
        group.first_unit = units;
        if let Some(steps) = &group.small {
            let work = steps.rows * steps.lanes * steps.k;
            group.row_block = (SMALL_UNIT_WORK / work).max(16);
            group.lane_block = group.lanes;
        } else {
            // SAFETY: handed on.
            group.packed = unsafe { packed(contract, bindings, group, nr, isa, packs) };
            let form = bindings[group.members[0].binding].form;
            divide(form.shape(swapped), group);
        }
        units += group.units();
    }
    groups.into()
}

/// Sorts instances into products.
fn join(contract: &Contract, bindings: &[Binding<'_>], swapped: bool, small: bool) -> Vec<Group> {
    let side = if swapped { Side::A } else { Side::B };
    let mut groups: Vec<Group> = Vec::new();
    let mut by_address: HashMap<(u64, usize), usize> = HashMap::new();
    for (index, binding) in bindings.iter().enumerate() {
        let shape = binding.form.shape(swapped);
        let fits = |group: &Group| {
            let first = &bindings[group.members[0].binding];
            std::ptr::eq(first.form, binding.form)
                && (group.small.is_some() || same_operand(contract, side, first, binding))
        };
        let key = || {
            let small = small && shape.small.is_some();
            let operand = identity(contract, side, binding, small);
            (binding.form.name, operand)
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
            first_row: group.rows,
            rows,
        });
        group.rows += rows;
    }
    groups
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
    group: &Group,
    nr: usize,
    isa: Isa,
    packs: &mut Packs,
) -> Option<Arc<Packed>> {
    let binding = &bindings[group.members[0].binding];
    let side = group.lane_side();
    let (input, byte_offset) = constant(contract, side, binding)?;
    let shape = binding.form.shape(group.swapped);
    let layout = shape.lane_operand.as_ref()?;
    let positions = (shape.batch * shape.lanes) as u64 * shape.k as u64;
    // Windows that overlap would be held several times over.
    if positions == 0 || positions > 2 * layout.span() {
        return None;
    }
    let access = bare_load(body(contract, side))?;
    let key = Key {
        form: (binding.form.name, group.swapped),
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
