//! The contraction kernel against its definition, bit for bit.
//!
//! Each shape is run whole, one row alone, over other layouts of both operands, divided in several ways, joined over
//! instances that share an operand, with computed operands and epilogues, on every instruction set of this processor. All
//! must give the bits of a reference that follows the definition of the order element by element.

mod contract_support;

use contract_support::{Case, Runner, check_case};
use tensord_shm::dtype::DType;

#[test]
fn ten_thousand_random_shapes_in_f32() {
    for seed in 0..10_000 {
        check_case(&Case::random(seed, DType::F32));
    }
}

#[test]
fn random_shapes_in_other_dtypes() {
    for dtype in DType::ALL {
        if matches!(dtype, DType::F32 | DType::Bool) {
            continue;
        }
        for seed in 0..500 {
            check_case(&Case::random(1_000_000 + seed, dtype));
        }
    }
}

#[test]
fn block_boundaries_of_k() {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::I8] {
        for k in [0, 1, 2, 255, 256, 257, 511, 512, 513, 769] {
            for (m, n) in [(1, 1), (1, 33), (7, 17), (13, 96), (40, 5)] {
                check_case(&Case::plain(
                    k ^ m << 8 ^ n << 16,
                    dtype,
                    &[],
                    &[m],
                    &[n],
                    &[k],
                ));
            }
        }
    }
}

#[test]
fn empty_groups() {
    for sizes in [[0, 3, 3, 3], [2, 0, 3, 3], [2, 3, 0, 3], [2, 3, 3, 0]] {
        let [batch, m, n, k] = sizes;
        check_case(&Case::plain(1, DType::F32, &[batch], &[m], &[n], &[k]));
    }
}

#[test]
fn sizes_beyond_one_unit() {
    for (batch, m, n, k) in [
        (1, 97, 513, 70),
        (1, 800, 33, 30),
        (1, 3, 1100, 300),
        (1, 1100, 3, 300),
        (1, 200, 530, 20),
        (300, 4, 4, 4),
        (33, 1, 20, 30),
        (500, 1, 1, 9),
    ] {
        for seed in 0..4 {
            check_case(&Case::plain(seed, DType::F32, &[batch], &[m], &[n], &[k]));
        }
    }
}

#[test]
fn many_instances_share_several_operands() {
    for seed in [8, 9, 10, 11, 20, 21, 22, 23] {
        for (m, n, k) in [(1, 40, 70), (3, 20, 300), (2, 3, 5), (20, 1, 9)] {
            let mut case = Case::plain(seed, DType::F32, &[], &[m], &[n], &[k]);
            case.instances = Some((50, 20));
            check_case(&case);
        }
    }
}

#[test]
fn a_constant_is_packed_once_and_forgotten_with_its_buffer() {
    let case = Case::plain(7, DType::F32, &[], &[4], &[64], &[300]);
    let mut runner = Runner::new(&case);
    runner.constant_b();
    runner.check();
    let held = runner.packed_bytes();
    assert!(held >= 64 * 300 * 4);
    runner.check();
    assert_eq!(runner.packed_bytes(), held);
    runner.forget_b();
    assert_eq!(runner.packed_bytes(), 0);
    runner.reverse_b();
    runner.check();
}

#[test]
fn packs_stay_within_their_budget() {
    contract_support::packs_within_budget();
}
