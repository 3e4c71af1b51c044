//! Rows of a matrix: exponentials, greatest elements, sums, softmax and layer norm.

#[allow(dead_code, reason = "tests need more of it")]
#[path = "../../tests/plans_support/rows.rs"]
mod plans;

use plans::{ALL, MATRIX, ROWS, X, Y, body, layer_norm, map, params, plan, reduce, softmax};
use tensord_shm::op::{Elementwise, Reduction};

use super::Bench;

impl Bench {
    /// All of them, over a large matrix and over small ones of many instances.
    pub fn rows(&mut self) {
        let row = |kind| {
            plan(
                vec![reduce(kind, body(&[(X, MATRIX)], &[]), &[], Y)],
                vec![],
                ROWS,
            )
        };
        let one = |function| {
            plan(
                vec![map(body(&[(X, MATRIX)], &[(function, [0, 0])]), Y)],
                vec![],
                ALL,
            )
        };
        for (name, plan) in [
            ("sums", row(Reduction::Sum)),
            ("greatest", row(Reduction::Max)),
            ("exp", one(Elementwise::Exp)),
            ("log", one(Elementwise::Log)),
            ("tanh", one(Elementwise::Tanh)),
            ("sigmoid", one(Elementwise::Sigmoid)),
            ("softmax", softmax()),
            ("layer norm", layer_norm()),
        ] {
            for (rows, columns, instances) in
                [(1024, 1024, 1), (16, 1024, 1), (4, 32, 1), (4, 32, 16)]
            {
                let params = params(&plan, rows, columns);
                let name = format!("{name} of {rows} x {columns}, {instances} instances");
                self.case(&name, &plan, &params, instances);
            }
        }
    }
}
