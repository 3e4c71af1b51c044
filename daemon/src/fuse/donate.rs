//! Looks over a finished plan: how long memory lives, and which input may give its memory to an output.

use tensord_plan::{Access, Body, Buffer, Instr, Map, Plan, Step};

/// All accesses of a step: loads, then stores.
fn accesses(step: &Step) -> (Vec<&Access>, Vec<&Access>) {
    match step {
        Step::Map(map) => (
            map.body.loads.iter().collect(),
            map.stores.iter().map(|s| &s.access).collect(),
        ),
        Step::Reduce(reduce) => (
            reduce
                .body
                .loads
                .iter()
                .chain(&reduce.epilogue.loads)
                .collect(),
            reduce.stores.iter().map(|s| &s.access).collect(),
        ),
        Step::Contract(contract) => (
            contract
                .a
                .loads
                .iter()
                .chain(&contract.b.loads)
                .chain(&contract.epilogue.loads)
                .collect(),
            contract.stores.iter().map(|s| &s.access).collect(),
        ),
        Step::Scan(scan) => (vec![&scan.from], vec![&scan.to]),
        Step::Scatter(scatter) => (vec![&scatter.index, &scatter.updates], vec![&scatter.to]),
    }
}

/// First and last step that touch a buffer.
pub fn live_range(plan: &Plan, buffer: Buffer) -> (u32, u32) {
    let touching: Vec<u32> = (0u32..)
        .zip(&plan.steps)
        .filter(|(_, step)| {
            let (loads, stores) = accesses(step);
            loads
                .iter()
                .chain(&stores)
                .any(|access| access.buffer == buffer)
        })
        .map(|(index, _)| index)
        .collect();
    (
        touching.first().copied().unwrap_or(0),
        touching.last().copied().unwrap_or(0),
    )
}

/// Most pairs that a plan lists.
const DONATIONS_MAX: usize = 64;

/// Pairs of (input, output) where the input is read once in the whole plan, by the map that writes the output, element for
/// element: the output may then be written over the input. Which inputs end with a launch is known only there, so an
/// output has every input that fits: of `p - lr * g` it is `p` that ends, and `g` that is read first.
pub fn donations(plan: &Plan, values: &[i64]) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for step in &plan.steps {
        let Step::Map(map) = step else { continue };
        let rank = usize::from(map.rank);
        for store in &map.stores {
            let Buffer::Output(output) = store.access.buffer else {
                continue;
            };
            if reads(plan, store.access.buffer) > 0 {
                continue;
            }
            let loads = map.body.loads.iter().enumerate();
            found.extend(loads.filter_map(|(load, access)| {
                let Buffer::Input(input) = access.buffer else {
                    return None;
                };
                let fits = same_place(access, &store.access, values, rank)
                    && !gathered(&map.body, load)
                    && !stored_as_it_is(map, load)
                    && reads(plan, Buffer::Input(input)) == 1;
                fits.then_some((input, output))
            }));
        }
    }
    found.truncate(DONATIONS_MAX);
    found
}

fn same_place(load: &Access, store: &Access, values: &[i64], rank: usize) -> bool {
    let run =
        |slot: tensord_plan::Slot, len: usize| &values[slot.0 as usize..slot.0 as usize + len];
    load.dtype == store.dtype
        && load.padded.is_empty()
        && run(load.offset, 1) == run(store.offset, 1)
        && run(load.strides, rank) == run(store.strides, rank)
}

fn gathered(body: &Body, load: usize) -> bool {
    body.instrs
        .iter()
        .any(|instr| matches!(instr, Instr::Gather { load: base, .. } if *base as usize == load))
}

/// Does a store write what was loaded there, unchanged? A backend may then read it in place as late as at that store, after
/// the output that got the memory was written.
fn stored_as_it_is(map: &Map, load: usize) -> bool {
    map.stores.iter().any(|store| {
        let made = &map.body.instrs[store.value.0 as usize];
        matches!(made, Instr::Load(from) if *from as usize == load)
    })
}

fn reads(plan: &Plan, buffer: Buffer) -> usize {
    plan.steps
        .iter()
        .map(|step| {
            accesses(step)
                .0
                .iter()
                .filter(|access| access.buffer == buffer)
                .count()
        })
        .sum()
}
