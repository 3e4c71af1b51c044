//! Following a record is describing it, and nothing else: two tables take the same records, one of them without patterns, and agree on
//! every branch.

use super::*;
use crate::graph::value::State;
use tensord_shm::dtype::DType;
use tensord_shm::elementwise::Elementwise;
use tensord_shm::op::{AxisList, AxisSet, Reduction};
use tensord_shm::record::{Compute, Encoder};

/// One side: a trace with its table of handles.
struct Side {
    trace: Trace,
    handles: Handles,
}

impl Side {
    fn new(outside: &[(Handle, Meta)]) -> Side {
        let mut handles = Handles::new(64);
        for &(handle, meta) in outside {
            let value = Value::new(meta, State::Waiting);
            handles.bind(handle, Binding { value, view: None });
        }
        Side {
            trace: Trace::default(),
            handles,
        }
    }

    fn describe(&mut self, branches: &mut Branches, words: &[u64], number: u64) -> Accepted {
        self.trace
            .accept(branches, &mut self.handles, words, (number, 0))
    }

    fn follow(&mut self, branches: &mut Branches, words: &[u64], number: u64) -> (Accepted, bool) {
        match self
            .trace
            .follow(branches, &mut self.handles, words, (number, 0))
        {
            Accepted::Strange => (self.describe(branches, words, number), false),
            accepted => (accepted, true),
        }
    }
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

/// Choices that are the same for each round, but for one now and then.
struct Choices<'a> {
    usual: Random,
    other: &'a mut Random,
}

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let usual = self.usual.below(bound);
        match self.other.below(100) {
            0 => self.other.below(bound),
            _ => usual,
        }
    }
}

fn handle(index: u32, generation: u32) -> Handle {
    Handle { index, generation }
}

/// Four tensors, one of which has another shape in some rounds.
fn outside(round: u32) -> Vec<(Handle, Meta)> {
    let odd: &[u64] = if round.is_multiple_of(9) {
        &[1, 3]
    } else {
        &[3]
    };
    let metas = [&[4, 3], &[4, 3], odd, &[4, 3]].map(|sizes| Meta {
        dtype: DType::F32,
        shape: Shape::new(sizes).expect("a shape"),
    });
    (0..).map(|k| handle(k, 1)).zip(metas).collect()
}

fn words_of(op: Op, out: Handle, operands: &[Operand<Handle>], released: &[Handle]) -> Vec<u64> {
    let compute = Compute::new(op, DType::F32, out, operands, [Scalar(0); 2]);
    let compute = compute.expect("few operands");
    let mut encoder = Encoder::default();
    encoder
        .request(&Request::Compute(compute), 0)
        .expect("few words");
    for &handle in released {
        assert!(encoder.release(handle), "few releases");
    }
    encoder.finish(None).to_vec()
}

/// A record that mostly is the one that this place of one of eight sequences always has.
fn record(random: &mut Random, step: u32, round: u32) -> Vec<u64> {
    // What a place has does not depend on the round, but for the generations.
    let choose = &mut Choices {
        usual: Random(u64::from(step * 8 + round % 8) * 977),
        other: random,
    };
    let out = handle(8 + step, 1 + round);
    let operand = |choose: &mut Choices<'_>| match choose.below(6) {
        0 => Operand::Immediate(DType::F32, Scalar(choose.below(9) as u64)),
        k if k < 3 || step == 0 => Operand::Tensor(handle(choose.below(4) as u32, 1)),
        _ => Operand::Tensor(handle(8 + choose.below(step as usize) as u32, 1 + round)),
    };
    let first = match operand(choose) {
        Operand::Immediate(..) => Operand::Tensor(handle(0, 1)),
        tensor => tensor,
    };
    let released: Vec<Handle> = (0..choose.below(3))
        .map(|_| match choose.below(3) {
            0 => out,
            1 => handle(20 + choose.below(20) as u32, 7),
            _ => handle(8 + choose.below(step as usize + 1) as u32, 1 + round),
        })
        .collect();
    let (op, operands) = match choose.below(5) {
        0 => (
            Op::Permute(AxisList::new(&[1, 0]).expect("two axes")),
            vec![first],
        ),
        1 => (
            Op::Reduce {
                kind: Reduction::Sum,
                axes: AxisSet(1),
                keep: false,
            },
            vec![first],
        ),
        _ => (
            Op::Elementwise(Elementwise::Add),
            vec![first, operand(choose)],
        ),
    };
    words_of(op, out, &operands, &released)
}

#[test]
fn a_followed_record_is_where_describing_it_leads() {
    let mut random = Random(1);
    let mut branches = Branches::default();
    let (mut followed, mut described, mut begun) = (0, 0, 0);
    // A queue remembers them from trace to trace.
    let mut firsts = Firsts::default();
    for round in 0..400 {
        let mut fast = Side::new(&outside(round));
        fast.trace.firsts = firsts;
        let mut plain = Side::new(&outside(round));
        for step in 0..16 {
            let words = record(&mut random, step, round);
            let number = u64::from(step) + 1;
            let (ours, was_followed) = fast.follow(&mut branches, &words, number);
            let theirs = plain.describe(&mut branches, &words, number);
            assert_eq!(ours, theirs, "round {round}, step {step}");
            followed += u32::from(was_followed);
            described += u32::from(!was_followed);
            begun += u32::from(was_followed && step == 0);
            assert_eq!(fast.trace.seen.scalars, plain.trace.seen.scalars);
            assert_eq!(
                fast.trace.seen.externals.len(),
                plain.trace.seen.externals.len()
            );
            let ends = (fast.trace.at(), plain.trace.at());
            if let (Some(ours), Some(theirs)) = ends {
                assert!(Rc::ptr_eq(ours, theirs), "round {round}, step {step}");
            }
            for index in 0..64 {
                for generation in [1, 1 + round, 7] {
                    let handle = handle(index, generation);
                    let places = [&fast, &plain].map(|side| side.handles.mark(handle));
                    let places = places.map(|mark| mark.map(Mark::place));
                    assert_eq!(places[0], places[1], "round {round}, step {step}");
                }
            }
        }
        firsts = fast.trace.firsts;
    }
    // Both ways were gone often, from the first record on.
    assert!(
        followed > 1000 && described > 1000 && begun > 20,
        "{followed}, {described}, {begun}"
    );
}
