//! Plans of small networks: how many steps, and what each does.

use std::rc::Rc;

use tensord_plan::{Body, Contract, Instr};
use tensord_shm::elementwise::Elementwise;
use tensord_shm::layout::Layout;
use tensord_shm::op::{AxisList, Meta};

use super::*;
use crate::fuse::segment::{Arg, External, Source};

const F32: DType = DType::F32;
/// Positions, channels and taps.
const T: u64 = 16;
const C: u64 = 8;
const W: u64 = 3;

fn shape(sizes: &[u64]) -> Shape {
    Shape::new(sizes).expect("small")
}

fn arg(source: Source, sizes: &[u64]) -> Arg {
    Arg {
        source,
        dtype: F32,
        layout: Layout::contiguous(shape(sizes)),
    }
}

fn node(op: Op, sizes: &[u64], args: Vec<Arg>) -> SegmentNode {
    SegmentNode {
        op: Rc::new(op),
        meta: Meta {
            dtype: F32,
            shape: shape(sizes),
        },
        args,
        needed: false,
    }
}

/// Windows of `W` positions, `stride` apart, over rows of a value with one row more at each end.
fn windows(of: Source, stride: u64) -> Arg {
    let window = Op::Window {
        axes: AxisList::new(&[0]).expect("one"),
        sizes: AxisList::new(&[W]).expect("one"),
        strides: AxisList::new(&[stride]).expect("one"),
        dilations: AxisList::new(&[1]).expect("one"),
    };
    let padded = Layout::contiguous(shape(&[T + 2, C]));
    Arg {
        layout: window.apply_view(&padded).expect("a view"),
        ..arg(of, &[])
    }
}

/// Two convolutions with bias and rectifier, the second one over every `stride`th window.
fn convolutions(stride: u64) -> Segment {
    let labels = |text: &[u8]| AxisList::new(text).expect("few");
    let contract = Op::Contract {
        a: labels(b"\0\x01\x02"),
        b: labels(b"\x03\x01\x02"),
        out: labels(b"\0\x03"),
    };
    let pad = Op::Pad {
        low: AxisList::new(&[1, 0]).expect("two"),
        high: AxisList::new(&[1, 0]).expect("two"),
    };
    let mut nodes = Vec::new();
    let mut input = Source::External(0);
    for (weight, stride) in [(1, 1), (3, stride)] {
        let positions = (T + 2 - W) / stride + 1;
        let first = nodes.len() as u32;
        let out = [positions, C];
        nodes.push(node(pad, &[T + 2, C], vec![arg(input, &[T, C])]));
        let weights = arg(Source::External(weight), &[C, C, W]);
        let operands = vec![windows(Source::Internal(first), stride), weights];
        nodes.push(node(contract, &out, operands));
        let bias = arg(Source::External(weight + 1), &[C]);
        let add = vec![arg(Source::Internal(first + 1), &out), bias];
        nodes.push(node(Op::Elementwise(Elementwise::Add), &out, add));
        let zero = arg(Source::Immediate, &[]);
        let rectify = vec![arg(Source::Internal(first + 2), &out), zero];
        nodes.push(node(Op::Elementwise(Elementwise::Maximum), &out, rectify));
        input = Source::Internal(first + 3);
    }
    nodes.last_mut().expect("there are some").needed = true;
    let external = |constant| External {
        dtype: F32,
        constant,
    };
    Segment {
        nodes,
        externals: [false, true, true, true, true].map(external).to_vec(),
    }
}

fn contractions<'a>(plan: &'a Plan) -> Vec<&'a Contract> {
    let contract = |step: &'a Step| match step {
        Step::Contract(contract) => Some(&**contract),
        _ => None,
    };
    plan.steps.iter().filter_map(contract).collect()
}

/// A padded load and nothing else.
fn is_padded_load(body: &Body) -> bool {
    matches!(body.instrs[..], [Instr::Load(0)]) && body.loads[0].padded.len() == 1
}

#[test]
fn convolutions_behind_each_other_are_a_contraction_each_that_packs_what_the_one_before_has_stored()
{
    for stride in [1, 2] {
        let plan = build(&convolutions(stride)).plan;
        let contractions = contractions(&plan);
        assert_eq!((plan.steps.len(), contractions.len()), (2, 2), "{plan:#?}");
        for contract in contractions {
            assert!(
                is_padded_load(&contract.a),
                "stride {stride}: {:#?}",
                contract.a
            );
            let in_epilogue = |wanted| {
                let mut instrs = contract.epilogue.instrs.iter();
                instrs.any(|i| matches!(i, Instr::Apply { function, .. } if *function == wanted))
            };
            assert!(in_epilogue(Elementwise::Add) && in_epilogue(Elementwise::Maximum));
        }
    }
}

#[test]
fn the_plan_of_a_convolution_does_not_depend_on_how_far_its_windows_are_apart() {
    let plans = [1, 2, 4].map(|stride| build(&convolutions(stride)).plan);
    assert_eq!(plans[0], plans[1]);
    assert_eq!(plans[0], plans[2]);
}
