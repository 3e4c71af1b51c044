//! Runs a plan in the backend and in the naive interpreter, and compares bits.

mod bands;
pub mod naive;
pub mod random;
mod rows;

use std::sync::Arc;

use naive::{Memory, Naive};
use random::{Builder, Rng};
use tensord_cpu::{CpuBackend, CpuConfig, Isa};
use tensord_plan::{Backend, BufferId, Instance, Launch, LaunchId, Operand, Params, Plan};
use tensord_shm::dtype::{DType, Scalar};

/// A plan with one set of parameters, and what its inputs hold.
pub struct Case {
    pub plan: Arc<Plan>,
    pub params: Arc<Params>,
    immediates: Vec<DType>,
    index_inputs: Vec<(u32, u64)>,
}

/// Values of one instance.
#[derive(Clone)]
pub struct Values {
    pub inputs: Vec<Vec<u8>>,
    pub immediates: Vec<Scalar>,
}

impl Case {
    /// `None` where the random parameters do not fit (an access below its buffer's start, say).
    pub fn random(seed: u64, steps: impl Fn(&mut Builder)) -> Option<Case> {
        let mut builder = Builder::new(seed);
        steps(&mut builder);
        let (plan, values, builder) = builder.finish();
        let params = Params::new(&plan, values).ok()?;
        Some(Case {
            plan: Arc::new(plan),
            params: Arc::new(params),
            immediates: builder.immediates,
            index_inputs: builder.index_inputs,
        })
    }

    /// A plan whose immediates are all f32.
    pub fn of(plan: Plan, params: Arc<Params>) -> Case {
        Case {
            immediates: vec![DType::F32; plan.immediates as usize],
            plan: Arc::new(plan),
            params,
            index_inputs: Vec::new(),
        }
    }

    pub fn values(&self, seed: u64) -> Values {
        let mut rng = Rng(seed);
        let inputs = self
            .plan
            .inputs
            .iter()
            .zip(self.params.input_bytes())
            .enumerate();
        let inputs = inputs.map(|(k, (&dtype, &bytes))| {
            let range = self
                .index_inputs
                .iter()
                .find(|&&(input, _)| input as usize == k);
            let count = bytes as usize / dtype.size();
            (0..count)
                .flat_map(|_| {
                    let scalar = match range {
                        Some(&(_, extent)) => {
                            let reach = 2 * extent as i64 + 4;
                            Scalar((rng.below(reach as u64) as i64 - extent as i64 - 2) as u64)
                        }
                        None => rng.scalar(dtype),
                    };
                    scalar.0.to_le_bytes()[..dtype.size()].to_vec()
                })
                .collect()
        });
        Values {
            inputs: inputs.collect(),
            immediates: self
                .immediates
                .iter()
                .map(|&dtype| rng.scalar(dtype))
                .collect(),
        }
    }

    /// What the definitions give.
    pub fn expected(&self, values: &Values) -> Vec<Vec<u8>> {
        let bytes = |&bytes: &u64| vec![0xa5; bytes as usize];
        let temps = self.plan.temps.iter().zip(self.params.temp_counts());
        let mut naive = Naive {
            plan: &self.plan,
            params: &self.params,
            memory: Memory {
                inputs: values.inputs.clone(),
                outputs: self.params.output_bytes().iter().map(bytes).collect(),
                temps: temps
                    .map(|(t, &n)| vec![0; n as usize * t.dtype.size()])
                    .collect(),
                immediates: values.immediates.clone(),
            },
        };
        naive.run();
        naive.memory.outputs
    }

    /// What the backend gives for some instances in one launch.
    pub fn run(&self, device: &mut Device, all: &[&Values]) -> Vec<Vec<Vec<u8>>> {
        let backend = &mut device.backend;
        let operand = |buffer| Operand {
            buffer,
            offset: 0,
            constant: false,
        };
        let mut buffers: Vec<BufferId> = Vec::new();
        let mut make = |backend: &mut CpuBackend, bytes: &[u8]| {
            let buffer = backend.alloc(bytes.len() as u64).unwrap();
            let fill = &mut |at: u64, to: &mut [u8]| {
                to.copy_from_slice(&bytes[at as usize..at as usize + to.len()]);
            };
            backend.write(buffer, 0, bytes.len() as u64, fill).unwrap();
            buffers.push(buffer);
            operand(buffer)
        };
        let instances: Vec<Instance> = all
            .iter()
            .map(|values| Instance {
                params: self.params.clone(),
                immediates: values.immediates.clone(),
                inputs: values
                    .inputs
                    .iter()
                    .map(|bytes| make(backend, bytes))
                    .collect(),
                outputs: self
                    .params
                    .output_bytes()
                    .iter()
                    .map(|&bytes| make(backend, &vec![0xa5; bytes as usize]))
                    .collect(),
            })
            .collect();
        let outputs: Vec<Vec<Operand>> = instances.iter().map(|i| i.outputs.clone()).collect();
        match device.slice_ns {
            u64::MAX => launch(backend, &self.plan, vec![instances], u64::MAX),
            // Two launches at once, in turns.
            slice_ns => {
                let half = instances.len() / 2;
                let halves = vec![instances[half..].to_vec(), instances[..half].to_vec()];
                launch(backend, &self.plan, halves, slice_ns);
            }
        }
        let results = outputs.iter().map(|outputs| {
            let sizes = self.params.output_bytes();
            let outputs = outputs.iter().zip(sizes);
            outputs
                .map(|(operand, &bytes)| read(backend, operand.buffer, bytes))
                .collect()
        });
        let results = results.collect();
        buffers.into_iter().for_each(|buffer| backend.free(buffer));
        results
    }

    pub fn assert_same(&self, what: &str, have: &[Vec<u8>], want: &[Vec<u8>]) {
        for (k, (have, want)) in have.iter().zip(want).enumerate() {
            let (dtype, _) = self.plan.outputs[k];
            let size = dtype.size();
            for (element, (a, b)) in have.chunks(size).zip(want.chunks(size)).enumerate() {
                let nan = |bytes: &[u8]| {
                    let mut bits = [0; 8];
                    bits[..size].copy_from_slice(bytes);
                    dtype.is_float() && Scalar(u64::from_le_bytes(bits)).to_f64(dtype).is_nan()
                };
                assert!(
                    a == b || nan(a) && nan(b),
                    "{what}: output {k} ({dtype}) element {element}: {a:x?}, not {b:x?}, of {:#?} with {:?}",
                    self.plan,
                    self.params.values(),
                );
            }
        }
    }
}

/// Starts launches and resumes them in turn until they are over.
pub fn launch(
    backend: &mut CpuBackend,
    plan: &Arc<Plan>,
    launches: Vec<Vec<Instance>>,
    slice_ns: u64,
) {
    let mut left = launches.len();
    for (k, instances) in launches.into_iter().enumerate() {
        let launch = Launch {
            id: LaunchId(7 + k as u64),
            plan: plan.clone(),
            instances,
        };
        backend.launch(launch, slice_ns).unwrap();
    }
    while left > 0 {
        let mut done = Vec::new();
        backend.wait(&mut done);
        assert!(
            !done.is_empty(),
            "{left} launches are neither over nor stopped"
        );
        for ran in done {
            assert_eq!(ran.fault, None);
            match ran.over {
                true => left -= 1,
                false => backend.resume(ran.id, slice_ns),
            }
        }
    }
}

pub fn read(backend: &mut CpuBackend, buffer: BufferId, bytes: u64) -> Vec<u8> {
    let mut all = Vec::new();
    backend
        .read(buffer, 0, bytes, &mut |_, piece| {
            all.extend_from_slice(piece)
        })
        .unwrap();
    all
}

/// A backend, and how long a slice of its launches is.
pub struct Device {
    pub backend: CpuBackend,
    pub slice_ns: u64,
}

/// Backends that must all give the same: each level, on the caller's thread, and on pools of one and three threads; whole
/// launches, and some that stop after each part.
pub fn backends() -> Vec<(String, Device)> {
    let mut all = Vec::new();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let whole = [(1, u64::MAX), (1, 0), (3, 0)].map(|how| (how, u64::MAX));
        let sliced = [(1, u64::MAX), (3, 0)].map(|how| (how, 0));
        for ((threads, inline_ns_max), slice_ns) in whole.into_iter().chain(sliced) {
            let config = CpuConfig {
                isa: Some(isa),
                threads,
                inline_ns_max: Some(inline_ns_max),
                ..CpuConfig::default()
            };
            let name =
                format!("{isa}, {threads} threads, inline {inline_ns_max}, slices {slice_ns}");
            let backend = CpuBackend::new(config).unwrap();
            all.push((name, Device { backend, slice_ns }));
        }
    }
    all
}
