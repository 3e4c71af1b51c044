//! tensord's product kernel and `gemm`, in one process and in turns: `product THREADS RUNS MS MxKxN ...`.
//!
//! Row-major f32, the second operand constant: tensord keeps its packed panels, `gemm` has no place to keep them. A launch of
//! tensord has as many equal steps as make it long enough that starting it does not count. Prints one JSON object for each product.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tensord_cpu::{CpuBackend, CpuConfig};
use tensord_plan::{Backend, Instance, Launch, LaunchId, Operand, Plan};

#[path = "../../../../daemon/backends/cpu/benches/launch/product_plan.rs"]
mod product_plan;

type Failure = Box<dyn std::error::Error>;

/// Floating-point operations that one launch has at least.
const LAUNCH_FLOPS: usize = 4 << 20;
const STEPS_MAX: usize = 256;

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|k| (k % 251) as f32 / 251.0 - 0.5).collect()
}

/// One product, both ways.
struct Case {
    sizes: [usize; 3],
    threads: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    backend: CpuBackend,
    plan: Arc<Plan>,
    instance: Instance,
}

impl Case {
    fn new(sizes: [usize; 3], threads: usize) -> Result<Case, Failure> {
        let [m, k, n] = sizes;
        let steps = (LAUNCH_FLOPS / (2 * m * k * n)).clamp(1, STEPS_MAX);
        let plan = Arc::new(product_plan::products(steps));
        let params = Arc::new(product_plan::params(&plan, sizes)?);
        let mut backend = CpuBackend::new(CpuConfig {
            threads,
            // One thread is this one.
            inline_ns_max: Some(if threads == 1 { u64::MAX } else { 0 }),
            ..CpuConfig::default()
        })?;
        let (a, b) = (numbers(m * k), numbers(k * n));
        let mut upload = |values: &[f32], constant| -> Result<Operand, Failure> {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let buffer = backend.alloc(bytes.len() as u64)?;
            backend.write(buffer, 0, bytes.len() as u64, &mut |at, to| {
                to.copy_from_slice(&bytes[at as usize..][..to.len()]);
            })?;
            Ok(Operand {
                buffer,
                offset: 0,
                constant,
            })
        };
        let inputs = vec![upload(&a, false)?, upload(&b, true)?];
        let outputs = vec![upload(&vec![0.0; m * n], false)?];
        Ok(Case {
            sizes,
            threads,
            a,
            b,
            c: vec![0.0; m * n],
            backend,
            plan,
            instance: Instance {
                params,
                immediates: vec![],
                inputs,
                outputs,
            },
        })
    }

    /// One launch; gives the products in it.
    fn tensord(&mut self) -> Result<usize, Failure> {
        let mut done = Vec::new();
        self.backend.launch(Launch {
            id: LaunchId(0),
            plan: Arc::clone(&self.plan),
            instances: vec![self.instance.clone()],
        }, u64::MAX)?;
        self.backend.wait(&mut done);
        match done.pop().and_then(|completed| completed.fault) {
            None => Ok(self.plan.steps.len()),
            Some(fault) => Err(fault.into()),
        }
    }

    fn gemm(&mut self) -> usize {
        let [m, k, n] = self.sizes;
        let parallelism = match self.threads {
            1 => gemm::Parallelism::None,
            threads => gemm::Parallelism::Rayon(threads),
        };
        // SAFETY: row-major matrices of these sizes, the result apart from the operands.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                black_box(self.c.as_mut_ptr()),
                1,
                n as isize,
                false,
                black_box(self.a.as_ptr()),
                1,
                k as isize,
                black_box(self.b.as_ptr()),
                1,
                n as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
        1
    }

    /// Both give the same product, up to rounding.
    fn check(&mut self) -> Result<(), Failure> {
        self.tensord()?;
        self.gemm();
        let out = self.instance.outputs[0].buffer;
        let mut bytes = vec![0u8; self.c.len() * 4];
        let len = bytes.len() as u64;
        self.backend.read(out, 0, len, &mut |at, from| {
            bytes[at as usize..][..from.len()].copy_from_slice(from);
        })?;
        let bound = 1e-5 * self.sizes[1] as f32;
        for (have, want) in bytes.chunks_exact(4).zip(&self.c) {
            let have = f32::from_le_bytes(have.try_into()?);
            if (have - want).abs() > bound {
                return Err(format!("{:?}: {have} and {want}", self.sizes).into());
            }
        }
        Ok(())
    }

    /// GFLOP/s of `step`, which gives the number of products that it did.
    fn rate(
        &mut self,
        run_for: Duration,
        mut step: impl FnMut(&mut Case) -> Result<usize, Failure>,
    ) -> Result<f64, Failure> {
        let start = Instant::now();
        let mut products = 0;
        while products == 0 || start.elapsed() < run_for {
            products += step(self)?;
        }
        let flops = 2 * self.sizes.iter().product::<usize>() * products;
        Ok(flops as f64 / start.elapsed().as_secs_f64() / 1e9)
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [threads, runs, ms, cases @ ..] = &arguments[..] else {
        return Err("usage: product THREADS RUNS MS MxKxN ...".into());
    };
    let (threads, runs): (usize, usize) = (threads.parse()?, runs.parse()?);
    let run_for = Duration::from_millis(ms.parse()?);
    for text in cases {
        let sizes: Vec<usize> = text.split('x').map(str::parse).collect::<Result<_, _>>()?;
        let mut case = Case::new(sizes.try_into().map_err(|_| "MxKxN")?, threads)?;
        case.check()?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            ours.push(case.rate(run_for, Case::tensord)?);
            theirs.push(case.rate(run_for, |case| Ok(case.gemm()))?);
        }
        println!(
            "{}",
            serde_json::json!({ "product": text, "tensord": ours, "gemm": theirs })
        );
    }
    Ok(())
}
