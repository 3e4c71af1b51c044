//! Rows of many instances times one constant: does it matter whether they lie together?

use std::sync::Arc;

use tensord_plan::{Backend, Instance, Operand};

use super::product_plan::{DTYPE, params, products};
use super::{Bench, filled, launches};

impl Bench {
    /// 32 rows as 32 instances, each with buffers of its own or all in one, and as one instance.
    pub fn products(&mut self) {
        for (k, n) in [(64u64, 128u64), (512, 512)] {
            for (rows, instances, together) in
                [(1u64, 32usize, false), (1, 32, true), (32, 1, true)]
            {
                let what = match (instances, together) {
                    (1, _) => "one instance",
                    (_, true) => "32 instances together",
                    (_, false) => "32 instances apart",
                };
                let name = format!("32 rows times {k} x {n}, {what}");
                if self.wants(&name) {
                    self.product(&name, [rows, k, n], instances, together);
                }
            }
        }
    }

    fn product(&mut self, name: &str, [rows, k, n]: [u64; 3], instances: usize, together: bool) {
        let plan = products(1);
        let params = Arc::new(params(&plan, [rows, k, n].map(|size| size as usize)).unwrap());
        let mut made = Vec::new();
        let mut make = |bytes: u64| {
            let buffer = filled(&mut self.backend, bytes, DTYPE);
            made.push(buffer);
            buffer
        };
        let constant = Operand {
            buffer: make(k * n * 4),
            offset: 0,
            constant: true,
        };
        let count = instances as u64;
        let mut places = |bytes: u64| -> Vec<Operand> {
            let shared = together.then(|| make(bytes * count));
            let place = |at| Operand {
                buffer: shared.unwrap_or_else(|| make(bytes)),
                offset: if together { at * bytes } else { 0 },
                constant: false,
            };
            (0..count).map(place).collect()
        };
        let (inputs, outputs) = (places(rows * k * 4), places(rows * n * 4));
        let all = inputs.into_iter().zip(outputs).map(|(x, y)| Instance {
            params: params.clone(),
            immediates: vec![],
            inputs: vec![x, constant],
            outputs: vec![y],
        });
        let times = launches(&mut self.backend, &plan, &all.collect::<Vec<_>>());
        self.show(name, &plan, instances, &times);
        made.into_iter()
            .for_each(|buffer| self.backend.free(buffer));
    }
}
