//! Random programs: sequences of typed requests with releases at random points, and results that are read back.
//!
//! A program's structure comes from its seed alone, its values from a second seed: two sessions that run one seed on
//! different data submit equal plans with other instances. Constants take their values from the structure, so that
//! sessions share them. Among the shapes are `[N, 1]`, empty ones and ranks up to 12, among the values NaN,
//! infinities, subnormals and the extremes of integers: the classes in which fusers tend to go wrong.

mod element;
mod generate;

use tensord_client::{Arg as ClientArg, Error, Fetched, Session, Site, Tensor};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::{Op, Operand};

use crate::reference::{Value, evaluate, same_bits};

/// An operand: an earlier tensor, or a scalar in the request.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// The tensor that step `k` made.
    Slot(usize),
    /// A scalar.
    Immediate(DType, Scalar),
}

/// A request. Inputs and computations name their result by their own position among the steps.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a program has a few dozen steps")]
pub enum Step {
    /// A value goes in.
    Input {
        /// The value.
        value: Value,
        /// Shared by content?
        constant: bool,
    },
    /// An operation.
    Compute {
        /// Which.
        op: Op,
        /// On what.
        args: Vec<Arg>,
        /// Scalars that belong to the operation.
        immediates: [Scalar; 2],
    },
    /// The tensor that step `k` made is not named any more.
    Release(usize),
}

/// A program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its structure's seed.
    pub seed: u64,
    /// The requests, in order.
    pub steps: Vec<Step>,
    /// The tensors read back.
    pub results: Vec<usize>,
    /// Are the others released before the results are demanded?
    pub release_first: bool,
}

impl Program {
    /// What the results are, by the reference.
    pub fn expected(&self) -> Vec<Value> {
        let mut values: Vec<Option<Value>> = Vec::new();
        for step in &self.steps {
            let value = match step {
                Step::Input { value, .. } => Some(value.clone()),
                Step::Compute {
                    op,
                    args,
                    immediates,
                } => {
                    let scalars: Vec<Option<Value>> = args
                        .iter()
                        .map(|arg| match arg {
                            Arg::Slot(_) => None,
                            Arg::Immediate(dtype, scalar) => Some(Value::scalar(*dtype, *scalar)),
                        })
                        .collect();
                    let operands: Vec<&Value> = args
                        .iter()
                        .zip(&scalars)
                        .map(|(arg, scalar)| match arg {
                            Arg::Slot(step) => values[*step].as_ref().expect("made before"),
                            Arg::Immediate(..) => scalar.as_ref().expect("just made"),
                        })
                        .collect();
                    Some(evaluate(op, &operands, *immediates))
                }
                Step::Release(_) => None,
            };
            values.push(value);
        }
        self.results
            .iter()
            .map(|&step| values[step].clone().expect("a result is a tensor"))
            .collect()
    }

    /// Submits everything; gives the results, not waited for.
    pub fn submit(&self, session: &Session) -> Result<Vec<Tensor>, Error> {
        let mut tensors: Vec<Option<Tensor>> = Vec::new();
        for step in &self.steps {
            let tensor = match step {
                Step::Input { value, constant } => {
                    let bytes = value.to_bytes();
                    Some(match constant {
                        true => session.constant(&bytes, value.meta, Site::UNKNOWN)?,
                        false => session.upload(&bytes, value.meta, Site::UNKNOWN)?,
                    })
                }
                Step::Compute {
                    op,
                    args,
                    immediates,
                } => {
                    let operands: Vec<ClientArg<'_>> = args
                        .iter()
                        .map(|arg| match arg {
                            Arg::Slot(step) => {
                                let tensor = tensors[*step].as_ref();
                                Operand::Tensor(tensor.expect("named before it was released"))
                            }
                            Arg::Immediate(dtype, scalar) => Operand::Immediate(*dtype, *scalar),
                        })
                        .collect();
                    Some(session.submit(op, &operands, *immediates, Site::UNKNOWN)?)
                }
                Step::Release(step) => {
                    tensors[*step] = None;
                    None
                }
            };
            tensors.push(tensor);
        }
        let result = |step: &usize| tensors[*step].clone().expect("results stay named");
        let results: Vec<Tensor> = self.results.iter().map(result).collect();
        if !self.release_first {
            // What is demanded now may not count on the others being released.
            session.flush()?;
        }
        Ok(results)
    }

    /// Compares results of two runs with each other, and with the reference.
    pub fn judge(&self, merged: &[Fetched], alone: &[Fetched]) -> Result<(), String> {
        for (k, (a, b)) in merged.iter().zip(alone).enumerate() {
            if !same_bits(a, b, a.meta().dtype) {
                let step = self.results[k];
                let dtype = a.meta().dtype;
                let (a_bits, b_bits) = (Value::bits_of(a, dtype), Value::bits_of(b, dtype));
                let at = (0..a_bits.len()).find(|&at| a_bits[at] != b_bits[at]);
                let at = at.expect("some element differs");
                return Err(format!(
                    "seed {}: result {step} ({dtype} {}) has other bits merged than alone: element {at}: {:#x}, alone {:#x}\n{self}",
                    self.seed,
                    a.meta().shape,
                    a_bits[at],
                    b_bits[at]
                ));
            }
        }
        for (value, have) in self.expected().iter().zip(merged) {
            value
                .check(have)
                .map_err(|why| format!("seed {}: {why}\n{self}", self.seed))?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Input { value, constant } => {
                    let what = if *constant { "constant" } else { "input" };
                    writeln!(f, "{at}: {what} {} {}", value.meta.dtype, value.meta.shape)?;
                }
                Step::Compute { op, args, .. } => writeln!(f, "{at}: {op:?} of {args:?}")?,
                Step::Release(step) => writeln!(f, "{at}: release {step}")?,
            }
        }
        writeln!(f, "results {:?}", self.results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_structure_and_data_fill_it() {
        for seed in 0..300 {
            let (one, two) = (Program::random(seed, 1), Program::random(seed, 2));
            assert_eq!(one.steps.len(), two.steps.len(), "seed {seed}");
            assert_eq!(one.results, two.results);
            for (a, b) in one.expected().iter().zip(two.expected()) {
                assert_eq!(a.meta, b.meta);
            }
        }
    }
}
