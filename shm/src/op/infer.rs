//! Shapes and dtypes of results: a rule for each operation.
//!
//! [`Op::infer`] is the one place that they come from. Views have their rules in `view`, the labels of a contraction theirs
//! in `contraction`.

use super::{
    AxisList, AxisSet, Distribution, Domain, Elementwise, Labels, Meta, OPERANDS_MAX, Op, OpError,
    Reduction, contraction::contract_shape,
};
use crate::dtype::{DType, Kind};
use crate::layout::{RANK_MAX, Shape};

impl Op {
    /// Dtype and shape of the result.
    pub fn infer(&self, operands: &[&Meta]) -> Result<Meta, OpError> {
        let op = self.name();
        let arity = |want: usize| match operands.len() {
            have if have == want => Ok(()),
            have => Err(OpError::Arity { op, want, have }),
        };
        match self {
            Op::Elementwise(function) => infer_elementwise(*function, operands),
            Op::Cast(dtype) => arity(1).map(|()| Meta {
                dtype: *dtype,
                shape: operands[0].shape,
            }),
            Op::Copy => arity(1).map(|()| *operands[0]),
            Op::Reduce { kind, axes, keep } => {
                arity(1)?;
                infer_reduce(op, *kind, *axes, *keep, operands[0])
            }
            Op::Scan { axis, .. } => {
                arity(1)?;
                check_axis(op, *axis, &operands[0].shape)?;
                number(op, operands[0].dtype)?;
                Ok(*operands[0])
            }
            Op::Contract { a, b, out } => {
                arity(2)?;
                infer_contract([a, b, out], operands)
            }
            Op::Pad { low, high } => {
                arity(1)?;
                infer_pad(low, high, operands[0])
            }
            Op::Concat { axis } => infer_concat(*axis, operands),
            Op::Gather { axis } => {
                arity(2)?;
                infer_gather(op, *axis, operands[0], operands[1])
            }
            Op::Scatter { axis, .. } => {
                arity(3)?;
                infer_scatter(*axis, operands[0], operands[1], operands[2])
            }
            Op::Full(meta) => arity(0).map(|()| *meta),
            Op::Iota { meta, axis } => {
                arity(0)?;
                check_axis(op, *axis, &meta.shape)?;
                number(op, meta.dtype)?;
                Ok(*meta)
            }
            Op::Random { meta, distribution } => {
                arity(0)?;
                infer_random(meta, *distribution)
            }
            Op::Reshape(_)
            | Op::Permute(_)
            | Op::Slice { .. }
            | Op::Expand(_)
            | Op::Window { .. } => {
                arity(1)?;
                self.check_view(&operands[0].shape).map(|shape| Meta {
                    dtype: operands[0].dtype,
                    shape,
                })
            }
        }
    }
}

pub(super) fn check_axis(op: &'static str, axis: u8, shape: &Shape) -> Result<(), OpError> {
    let axis = usize::from(axis);
    if axis < shape.rank() {
        Ok(())
    } else {
        Err(OpError::Axis {
            op,
            axis,
            shape: *shape,
        })
    }
}

fn number(op: &'static str, dtype: DType) -> Result<(), OpError> {
    match dtype.kind() {
        Kind::Bool => Err(OpError::DType {
            op,
            dtype,
            domain: "numbers",
        }),
        _ => Ok(()),
    }
}

fn same_dtype(op: &'static str, operands: &[&Meta]) -> Result<(), OpError> {
    match operands
        .windows(2)
        .find(|pair| pair[0].dtype != pair[1].dtype)
    {
        Some(pair) => Err(OpError::MixedDTypes {
            op,
            a: pair[0].dtype,
            b: pair[1].dtype,
        }),
        None => Ok(()),
    }
}

fn infer_elementwise(function: Elementwise, operands: &[&Meta]) -> Result<Meta, OpError> {
    let info = function.info();
    let op = info.name;
    if operands.len() != function.arity() {
        return Err(OpError::Arity {
            op,
            want: function.arity(),
            have: operands.len(),
        });
    }
    let mut values = operands;
    if function == Elementwise::Select {
        if operands[0].dtype != DType::Bool {
            return Err(OpError::DType {
                op,
                dtype: operands[0].dtype,
                domain: "a bool condition",
            });
        }
        values = &operands[1..];
    }
    same_dtype(op, values)?;
    let dtype = values[0].dtype;
    if !info.domain.contains(dtype) {
        let domain = match info.domain {
            Domain::Any => "every dtype",
            Domain::Number => "integers and floats",
            Domain::Float => "floats",
            Domain::Integer => "integers",
            Domain::Bits => "integers and bool",
            Domain::Bool => "bool",
        };
        return Err(OpError::DType { op, dtype, domain });
    }
    let mut shape = operands[0].shape;
    for operand in &operands[1..] {
        if operand.shape != shape {
            shape = shape.broadcast(&operand.shape).ok_or(OpError::Broadcast {
                op,
                a: shape,
                b: operand.shape,
            })?;
        }
    }
    Ok(Meta {
        dtype: function.result(dtype),
        shape,
    })
}

fn infer_reduce(
    op: &'static str,
    kind: Reduction,
    axes: AxisSet,
    keep: bool,
    operand: &Meta,
) -> Result<Meta, OpError> {
    let shape = operand.shape;
    if axes.0 & !AxisSet::all(shape.rank()).0 != 0 {
        return Err(OpError::Axis {
            op,
            axis: 15 - axes.0.leading_zeros() as usize,
            shape,
        });
    }
    let dtype = kind.result(operand.dtype).ok_or(OpError::DType {
        op,
        dtype: operand.dtype,
        domain: "numbers",
    })?;
    let mut sizes = [0u64; RANK_MAX];
    let mut rank = 0;
    for (axis, &size) in shape.iter().enumerate() {
        if !axes.contains(axis) || keep {
            sizes[rank] = if axes.contains(axis) { 1 } else { size };
            rank += 1;
        }
    }
    let shape = Shape::new(&sizes[..rank]).ok_or(OpError::TooLarge { op })?;
    Ok(Meta { dtype, shape })
}

fn infer_pad(low: &AxisList<u64>, high: &AxisList<u64>, operand: &Meta) -> Result<Meta, OpError> {
    let op = "pad";
    let rank = operand.shape.rank();
    for have in [low.len(), high.len()] {
        if have != rank {
            return Err(OpError::AttributeCount { op, have, rank });
        }
    }
    let mut sizes = [0u64; RANK_MAX];
    for (axis, &size) in operand.shape.iter().enumerate() {
        let padded = size
            .checked_add(low[axis])
            .and_then(|s| s.checked_add(high[axis]));
        sizes[axis] = padded.ok_or(OpError::TooLarge { op })?;
    }
    let shape = Shape::new(&sizes[..rank]).ok_or(OpError::TooLarge { op })?;
    Ok(Meta {
        dtype: operand.dtype,
        shape,
    })
}

fn infer_concat(axis: u8, operands: &[&Meta]) -> Result<Meta, OpError> {
    let op = "concat";
    if operands.is_empty() || operands.len() > OPERANDS_MAX {
        return Err(OpError::Arity {
            op,
            want: 1,
            have: operands.len(),
        });
    }
    same_dtype(op, operands)?;
    let first = operands[0];
    check_axis(op, axis, &first.shape)?;
    let axis = usize::from(axis);
    let mut sizes = [0u64; RANK_MAX];
    let rank = first.shape.rank();
    sizes[..rank].copy_from_slice(&first.shape);
    for operand in &operands[1..] {
        let fits = operand.shape.rank() == rank
            && (0..rank).all(|k| k == axis || operand.shape[k] == first.shape[k]);
        if !fits {
            return Err(OpError::Concat {
                axis,
                a: first.shape,
                b: operand.shape,
            });
        }
        sizes[axis] = sizes[axis]
            .checked_add(operand.shape[axis])
            .ok_or(OpError::TooLarge { op })?;
    }
    let shape = Shape::new(&sizes[..rank]).ok_or(OpError::TooLarge { op })?;
    Ok(Meta {
        dtype: first.dtype,
        shape,
    })
}

fn infer_gather(op: &'static str, axis: u8, operand: &Meta, index: &Meta) -> Result<Meta, OpError> {
    check_axis(op, axis, &operand.shape)?;
    if index.dtype != DType::I64 {
        return Err(OpError::DType {
            op,
            dtype: index.dtype,
            domain: "int64 indices",
        });
    }
    let axis = usize::from(axis);
    let (before, behind) = (&operand.shape[..axis], &operand.shape[axis + 1..]);
    let rank = operand.shape.rank() - 1 + index.shape.rank();
    if rank > RANK_MAX {
        return Err(OpError::TooLarge { op });
    }
    let sizes: Vec<u64> = before
        .iter()
        .chain(index.shape.iter())
        .chain(behind)
        .copied()
        .collect();
    let shape = Shape::new(&sizes).ok_or(OpError::TooLarge { op })?;
    Ok(Meta {
        dtype: operand.dtype,
        shape,
    })
}

fn infer_scatter(axis: u8, operand: &Meta, index: &Meta, updates: &Meta) -> Result<Meta, OpError> {
    let op = "scatter";
    let part = infer_gather(op, axis, operand, index)?;
    if updates.dtype != operand.dtype {
        return Err(OpError::MixedDTypes {
            op,
            a: operand.dtype,
            b: updates.dtype,
        });
    }
    match updates.shape == part.shape {
        true => Ok(*operand),
        false => Err(OpError::Updates {
            have: updates.shape,
            want: part.shape,
        }),
    }
}

fn infer_contract(labels: [&Labels; 3], operands: &[&Meta]) -> Result<Meta, OpError> {
    let op = "contract";
    same_dtype(op, operands)?;
    number(op, operands[0].dtype)?;
    let shapes = [&operands[0].shape, &operands[1].shape];
    let shape = contract_shape(labels, shapes)?;
    let dtype = match operands[0].dtype {
        DType::I8 => DType::I32,
        other => other,
    };
    Ok(Meta { dtype, shape })
}

fn infer_random(meta: &Meta, distribution: Distribution) -> Result<Meta, OpError> {
    let domain = match (distribution, meta.dtype.is_float()) {
        (Distribution::Bits, true) => "integers and bool for bits",
        (Distribution::Uniform | Distribution::Normal, false) => "floats",
        _ => return Ok(*meta),
    };
    Err(OpError::DType {
        op: "random",
        dtype: meta.dtype,
        domain,
    })
}
