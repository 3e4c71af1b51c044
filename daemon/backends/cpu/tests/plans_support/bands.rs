//! Steps that go through the rows of a matrix together give what they give one by one: several sizes of rows, alone and several instances
//! at once, on each instruction set and number of threads, bit for bit as the naive interpreter.

use super::rows::{
    ALL, MATRIX, NOTHING, ROWS, SHARED, TRANSPOSED, X, Y, body, layer_norm, map, params, plan,
    reduce, softmax, temp,
};
use super::{Case, backends};
use tensord_plan::{Buffer, Plan};
use tensord_shm::op::Elementwise::{Add, Exp, Mul, Sub};
use tensord_shm::op::Reduction::{Max, Sum};

/// Rows and columns: of one block and of several, rows of a fraction of a vector, of parts of a tile, of several blocks of a sum.
const SIZES: [(i64, i64); 7] = [
    (3, 5),
    (2000, 7),
    (150, 129),
    (27, 1024),
    (25, 1030),
    (12, 2560),
    (2, 20_000),
];

fn check(make: impl Fn() -> Plan) {
    let mut backends = backends();
    for (rows, columns) in SIZES {
        let plan = make();
        let params = params(&plan, rows, columns);
        let case = Case::of(plan, params);
        let values: Vec<_> = (0..3).map(|seed| case.values(seed)).collect();
        let expected: Vec<_> = values.iter().map(|values| case.expected(values)).collect();
        for (name, backend) in &mut backends {
            for count in [1, 3] {
                let all: Vec<_> = values[..count].iter().collect();
                let results = case.run(backend, &all);
                for (k, (have, want)) in results.iter().zip(&expected).enumerate() {
                    let what = format!("{rows} x {columns}, {name}, instance {k} of {count}");
                    case.assert_same(&what, have, want);
                }
            }
        }
    }
}

#[test]
fn a_softmax() {
    check(softmax);
}

#[test]
fn a_layer_norm() {
    check(layer_norm);
}

#[test]
fn many_small_instances() {
    let case = Case::of(softmax(), params(&softmax(), 6, 50));
    let values: Vec<_> = (0..200).map(|seed| case.values(seed)).collect();
    let all: Vec<_> = values.iter().collect();
    for (name, backend) in &mut backends() {
        let results = case.run(backend, &all);
        for (k, (have, values)) in results.iter().zip(&values).enumerate() {
            case.assert_same(
                &format!("{name}, instance {k}"),
                have,
                &case.expected(values),
            );
        }
    }
}

/// The matrix less its rows' greatest elements, read transposed: a step between that has rows of its own.
#[test]
fn a_step_that_reads_across_rows() {
    check(|| {
        let [high, less, sum] = [0, 1, 2].map(Buffer::Temp);
        let steps = vec![
            reduce(Max, body(&[(X, MATRIX)], &[]), &[], high),
            map(body(&[(X, MATRIX), (high, SHARED)], &[(Sub, [0, 1])]), less),
            reduce(Sum, body(&[(less, TRANSPOSED)], &[]), &[], sum),
            map(
                body(
                    &[(less, TRANSPOSED), (sum, SHARED)],
                    &[(Add, [0, 1]), (Exp, [2, 2])],
                ),
                Y,
            ),
        ];
        plan(
            steps,
            vec![temp(ROWS, 0, 1), temp(ALL, 1, 3), temp(ROWS, 2, 3)],
            ALL,
        )
    });
}

/// Temporaries whose lives in the list of steps do not meet: they would share memory, were rows not at different steps.
#[test]
fn temporaries_one_after_the_other() {
    check(|| {
        let temps = [0, 1, 2, 3].map(Buffer::Temp);
        let mut steps = vec![map(body(&[(X, MATRIX)], &[(Exp, [0, 0])]), temps[0])];
        for pair in temps.windows(2) {
            steps.push(map(body(&[(pair[0], MATRIX)], &[(Mul, [0, 0])]), pair[1]));
        }
        steps.push(reduce(Sum, body(&[(temps[3], MATRIX)], &[]), &[], Y));
        let temps = (0..4).map(|k| temp(ALL, k, k + 1)).collect();
        plan(steps, temps, ROWS)
    });
}

/// All rows need the first one's sum: no band may hold both steps.
#[test]
fn a_step_that_needs_all_rows() {
    check(|| {
        let sums = Buffer::Temp(0);
        let steps = vec![
            reduce(Sum, body(&[(X, MATRIX)], &[]), &[], sums),
            reduce(
                Max,
                body(&[(X, MATRIX), (sums, NOTHING)], &[(Sub, [0, 1])]),
                &[],
                Y,
            ),
        ];
        plan(steps, vec![temp(ROWS, 0, 1)], ROWS)
    });
}
