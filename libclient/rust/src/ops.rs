//! Operations by name, for people who write Rust: thin over [`Session::submit`], each with its caller's line.

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::error::Code;
use tensord_shm::layout::{RANK_MAX, Shape};
use tensord_shm::op::{AxisList, AxisSet, Distribution, Elementwise, Meta, Op, Operand, Reduction};

use crate::error::Error;
use crate::session::Session;
use crate::site::Site;
use crate::submit::Arg;
use crate::tensor::Tensor;

const NO_IMMEDIATES: [Scalar; 2] = [Scalar(0); 2];

fn axis_list<T: Copy + Default>(what: &str, items: &[T]) -> Result<AxisList<T>, Error> {
    AxisList::new(items).ok_or_else(|| {
        Error::new(
            Code::Attribute,
            format!("{what}: {} values; at most {RANK_MAX}", items.len()),
        )
    })
}

fn shape(sizes: &[u64]) -> Result<Shape, Error> {
    Shape::new(sizes).ok_or_else(|| {
        Error::new(
            Code::Shape,
            format!("shape {sizes:?}: at most {RANK_MAX} axes and 2^48 elements"),
        )
    })
}

impl Session {
    /// A tensor whose every element is `value`, rounded to `dtype`.
    #[track_caller]
    pub fn full(&self, sizes: &[u64], value: f64, dtype: DType) -> Result<Tensor, Error> {
        let meta = Meta {
            dtype,
            shape: shape(sizes)?,
        };
        let fill = [Scalar::from_f64(value, dtype), Scalar(0)];
        self.submit(&Op::Full(meta), &[], fill, Site::here())
    }

    /// Numbers `start`, `start + step`, ... along one axis.
    #[track_caller]
    pub fn iota(&self, count: u64, start: f64, step: f64, dtype: DType) -> Result<Tensor, Error> {
        let meta = Meta {
            dtype,
            shape: shape(&[count])?,
        };
        let scalars = [
            Scalar::from_f64(start, dtype),
            Scalar::from_f64(step, dtype),
        ];
        self.submit(&Op::Iota { meta, axis: 0 }, &[], scalars, Site::here())
    }

    /// Random numbers that depend on the key, the shape and the dtype alone.
    #[track_caller]
    pub fn random(
        &self,
        sizes: &[u64],
        dtype: DType,
        distribution: Distribution,
        key: u64,
    ) -> Result<Tensor, Error> {
        let meta = Meta {
            dtype,
            shape: shape(sizes)?,
        };
        let op = Op::Random { meta, distribution };
        self.submit(&op, &[], [Scalar(key), Scalar(0)], Site::here())
    }

    /// Tensors joined along an axis.
    #[track_caller]
    pub fn concat(&self, tensors: &[&Tensor], axis: u8) -> Result<Tensor, Error> {
        let operands: Vec<Arg<'_>> = tensors.iter().map(|t| Operand::Tensor(*t)).collect();
        self.submit(&Op::Concat { axis }, &operands, NO_IMMEDIATES, Site::here())
    }
}

impl Tensor {
    #[track_caller]
    fn apply(&self, op: Op) -> Result<Tensor, Error> {
        let site = Site::here();
        let operands = [Operand::Tensor(self)];
        self.acting()?.submit(&op, &operands, NO_IMMEDIATES, site)
    }

    /// An elementwise function of this tensor.
    #[track_caller]
    pub fn unary(&self, function: Elementwise) -> Result<Tensor, Error> {
        let site = Site::here();
        self.acting()?
            .elementwise(function, &[Operand::Tensor(self)], site)
    }

    /// An elementwise function of this tensor and another one.
    #[track_caller]
    pub fn binary(&self, function: Elementwise, other: &Tensor) -> Result<Tensor, Error> {
        let site = Site::here();
        let operands = [Operand::Tensor(self), Operand::Tensor(other)];
        self.acting()?.elementwise(function, &operands, site)
    }

    /// An elementwise function of this tensor and a number, which is rounded to its dtype.
    #[track_caller]
    pub fn scalar(&self, function: Elementwise, other: f64) -> Result<Tensor, Error> {
        let site = Site::here();
        let scalar = Scalar::from_f64(other, self.dtype());
        let operands = [
            Operand::Tensor(self),
            Operand::Immediate(self.dtype(), scalar),
        ];
        self.acting()?.elementwise(function, &operands, site)
    }

    /// The elements converted.
    #[track_caller]
    pub fn cast(&self, dtype: DType) -> Result<Tensor, Error> {
        self.apply(Op::Cast(dtype))
    }

    /// Reduced over `axes`, or over all of them.
    #[track_caller]
    pub fn reduce(
        &self,
        kind: Reduction,
        axes: Option<&[u8]>,
        keep: bool,
    ) -> Result<Tensor, Error> {
        let axes = match axes {
            None => AxisSet::all(self.shape().rank()),
            Some(axes) => {
                let mut set = 0u16;
                for &axis in axes {
                    if usize::from(axis) >= self.shape().rank() {
                        return Err(Error::new(
                            Code::Attribute,
                            format!("axis {axis} is out of range for shape {}", self.shape()),
                        ));
                    }
                    set |= 1 << axis;
                }
                AxisSet(set)
            }
        };
        self.apply(Op::Reduce { kind, axes, keep })
    }

    /// The same elements in row-major order as another shape.
    #[track_caller]
    pub fn reshape(&self, sizes: &[u64]) -> Result<Tensor, Error> {
        self.apply(Op::Reshape(shape(sizes)?))
    }

    /// Axes reordered: axis `k` of the result is axis `order[k]` of this.
    #[track_caller]
    pub fn permute(&self, order: &[u8]) -> Result<Tensor, Error> {
        self.apply(Op::Permute(axis_list("permute", order)?))
    }

    /// Repeated along axes of size 1, with leading axes added.
    #[track_caller]
    pub fn expand(&self, sizes: &[u64]) -> Result<Tensor, Error> {
        self.apply(Op::Expand(shape(sizes)?))
    }

    /// Along each axis `lens[k]` elements from `starts[k]`, `steps[k]` apart.
    #[track_caller]
    pub fn slice(&self, starts: &[i64], steps: &[i64], lens: &[u64]) -> Result<Tensor, Error> {
        self.apply(Op::Slice {
            starts: axis_list("slice", starts)?,
            steps: axis_list("slice", steps)?,
            lens: axis_list("slice", lens)?,
        })
    }

    /// Sliding windows over the named axes: see [`Op::Window`].
    #[track_caller]
    pub fn window(
        &self,
        axes: &[u8],
        sizes: &[u64],
        strides: &[u64],
        dilations: &[u64],
    ) -> Result<Tensor, Error> {
        self.apply(Op::Window {
            axes: axis_list("window", axes)?,
            sizes: axis_list("window", sizes)?,
            strides: axis_list("window", strides)?,
            dilations: axis_list("window", dilations)?,
        })
    }

    /// Elements of value `fill` before and behind each axis.
    #[track_caller]
    pub fn pad(&self, low: &[u64], high: &[u64], fill: f64) -> Result<Tensor, Error> {
        let op = Op::Pad {
            low: axis_list("pad", low)?,
            high: axis_list("pad", high)?,
        };
        let fill = [Scalar::from_f64(fill, self.dtype()), Scalar(0)];
        let operands = [Operand::Tensor(self)];
        self.acting()?.submit(&op, &operands, fill, Site::here())
    }

    /// Rows along `axis` by index (int64).
    #[track_caller]
    pub fn gather(&self, index: &Tensor, axis: u8) -> Result<Tensor, Error> {
        let operands = [Operand::Tensor(self), Operand::Tensor(index)];
        let op = Op::Gather { axis };
        self.acting()?
            .submit(&op, &operands, NO_IMMEDIATES, Site::here())
    }

    /// Einsum of two operands with explicit labels of the output: `"ik,kj->ij"`.
    #[track_caller]
    pub fn contract(&self, other: &Tensor, labels: &str) -> Result<Tensor, Error> {
        let op = parse_contract(labels)?;
        let operands = [Operand::Tensor(self), Operand::Tensor(other)];
        self.acting()?
            .submit(&op, &operands, NO_IMMEDIATES, Site::here())
    }
}

/// The operation that `"ik,kj->ij"` writes. Labels are letters; case matters.
pub fn parse_contract(labels: &str) -> Result<Op, Error> {
    let fault = |why: &str| {
        Error::new(
            Code::Attribute,
            format!("contract {labels:?}: {why}; write it as \"ik,kj->ij\""),
        )
    };
    let (operands, out) = labels
        .split_once("->")
        .ok_or_else(|| fault("no \"->\" before the labels of the output"))?;
    let (a, b) = operands
        .split_once(',')
        .ok_or_else(|| fault("no \",\" between two operands"))?;
    let list = |text: &str| {
        let mut found = Vec::new();
        for letter in text.chars().filter(|c| !c.is_whitespace()) {
            found.push(match letter {
                'a'..='z' => letter as u8 - b'a',
                'A'..='Z' => letter as u8 - b'A' + 26,
                _ => return Err(fault(&format!("{letter:?} is no letter"))),
            });
        }
        AxisList::new(&found).ok_or_else(|| fault("more than 12 labels for one operand"))
    };
    Ok(Op::Contract {
        a: list(a)?,
        b: list(b)?,
        out: list(out)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contractions_are_read_as_written() {
        let Ok(Op::Contract { a, b, out }) = parse_contract("ik, kj -> ij") else {
            panic!("it is well formed")
        };
        assert_eq!(
            (&a[..], &b[..], &out[..]),
            (&[8, 10][..], &[10, 9][..], &[8, 9][..])
        );
        for bad in ["ik,kj", "ik->i", "i1,k->i", "abcdefghijklm,a->a"] {
            let error = parse_contract(bad).expect_err(bad);
            assert!(error.message().contains(bad), "{error}");
        }
    }
}
