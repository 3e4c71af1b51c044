//! Views: which ones a shape allows, and what they make of a layout.
//!
//! Attributes come from the client's record, so sizes, steps and reaches are computed without overflow.

use super::infer::check_axis;
use super::{AxisList, AxisSet, Op, OpError};
use crate::layout::{ELEMENTS_MAX, Layout, RANK_MAX, Shape};

impl Op {
    /// Shape of a view's result.
    pub(super) fn check_view(&self, from: &Shape) -> Result<Shape, OpError> {
        let op = self.name();
        let counted = |have: usize| match have == from.rank() {
            true => Ok(()),
            false => Err(OpError::AttributeCount {
                op,
                have,
                rank: from.rank(),
            }),
        };
        match self {
            Op::Reshape(to) => match (from.count(), to.count()) {
                (a, b) if a == b => Ok(*to),
                (from_count, to_count) => Err(OpError::Reshape {
                    from: *from,
                    to: *to,
                    from_count,
                    to_count,
                }),
            },
            Op::Permute(order) => permuted_shape(from, order),
            Op::Slice {
                starts,
                steps,
                lens,
            } => {
                counted(starts.len())?;
                counted(steps.len())?;
                counted(lens.len())?;
                for (axis, &size) in from.iter().enumerate() {
                    let (start, step, len) = (starts[axis], steps[axis], lens[axis]);
                    if !slice_fits(size, start, step, len) {
                        return Err(OpError::Slice {
                            axis,
                            size,
                            start,
                            step,
                            len,
                        });
                    }
                }
                Shape::new(lens).ok_or(OpError::TooLarge { op })
            }
            Op::Expand(to) => match expands(from, to) {
                true => Ok(*to),
                false => Err(OpError::Expand {
                    from: *from,
                    to: *to,
                }),
            },
            Op::Window {
                axes,
                sizes,
                strides,
                dilations,
            } => window_shape(from, axes, sizes, strides, dilations),
            _ => Err(OpError::Arity {
                op,
                want: 0,
                have: 1,
            }),
        }
    }

    /// The view applied to a layout, after [`Op::infer`] accepted its shape. `None` for a reshape that
    /// strides do not allow, and for operations that are no views.
    pub fn apply_view(&self, layout: &Layout) -> Option<Layout> {
        match self {
            Op::Reshape(to) => layout.reshape(*to),
            Op::Permute(order) => Some(layout.permute(order)),
            Op::Expand(to) => Some(layout.expand(*to)),
            Op::Slice {
                starts,
                steps,
                lens,
            } => {
                let mut out = *layout;
                out.shape = Shape::new(lens)?;
                for axis in 0..lens.len() {
                    if lens[axis] > 0 {
                        out.offset += starts[axis] * layout.strides[axis];
                    }
                    out.strides[axis] = if lens[axis] > 1 {
                        layout.strides[axis] * steps[axis]
                    } else {
                        0
                    };
                }
                Some(out)
            }
            Op::Window {
                axes,
                sizes,
                strides,
                dilations,
            } => {
                let mut out = *layout;
                out.shape = window_shape(&layout.shape, axes, sizes, strides, dilations).ok()?;
                for (k, &axis) in axes.iter().enumerate() {
                    let axis = usize::from(axis);
                    let step = layout.strides[axis];
                    // A factor beyond the axis's size can only belong to an axis of one position.
                    let scaled =
                        |size: u64, factor: u64| if size > 1 { step * factor as i64 } else { 0 };
                    out.strides[axis] = scaled(out.shape[axis], strides[k]);
                    let appended = layout.shape.rank() + k;
                    out.strides[appended] = scaled(out.shape[appended], dilations[k]);
                }
                // No position at all: nothing is read, whatever the strides say.
                Some(out)
            }
            _ => None,
        }
    }
}

fn permuted_shape(from: &Shape, order: &AxisList<u8>) -> Result<Shape, OpError> {
    let seen = order.iter().fold(0u32, |set, &axis| {
        set | 1u32.checked_shl(axis.into()).unwrap_or(0)
    });
    if order.len() != from.rank() || seen != u32::from(AxisSet::all(from.rank()).0) {
        return Err(OpError::Permutation {
            shape: *from,
            order: order.to_vec(),
            rank: from.rank(),
        });
    }
    Ok(Layout::contiguous(*from).permute(order).shape)
}

fn expands(from: &Shape, to: &Shape) -> bool {
    to.rank() >= from.rank()
        && from
            .iter()
            .rev()
            .zip(to.iter().rev())
            .all(|(&have, &want)| have == want || have == 1)
}

fn slice_fits(size: u64, start: i64, step: i64, len: u64) -> bool {
    if len == 0 {
        return step != 0;
    }
    let (Ok(size), Ok(len)) = (i64::try_from(size), i64::try_from(len)) else {
        return false;
    };
    let last = step
        .checked_mul(len - 1)
        .and_then(|reach| start.checked_add(reach));
    step != 0 && (0..size).contains(&start) && last.is_some_and(|last| (0..size).contains(&last))
}

fn window_shape(
    from: &Shape,
    axes: &AxisList<u8>,
    sizes: &AxisList<u64>,
    strides: &AxisList<u64>,
    dilations: &AxisList<u64>,
) -> Result<Shape, OpError> {
    let op = "window";
    for have in [sizes.len(), strides.len(), dilations.len()] {
        if have != axes.len() {
            return Err(OpError::AttributeCount {
                op,
                have,
                rank: axes.len(),
            });
        }
    }
    let mut out = [0u64; 2 * RANK_MAX];
    out[..from.rank()].copy_from_slice(from);
    let mut seen = 0u32;
    for (k, &axis) in axes.iter().enumerate() {
        check_axis(op, axis, from)?;
        let bad = seen >> axis & 1 == 1 || sizes[k] == 0 || strides[k] == 0 || dilations[k] == 0;
        if bad || sizes[k].max(strides[k]).max(dilations[k]) > ELEMENTS_MAX {
            return Err(OpError::Window {
                axis: axis.into(),
                shape: *from,
            });
        }
        seen |= 1 << axis;
        let reach = (sizes[k] - 1)
            .checked_mul(dilations[k])
            .ok_or(OpError::TooLarge { op })?;
        let axis = usize::from(axis);
        out[axis] = from[axis]
            .checked_sub(reach + 1)
            .map_or(0, |room| room / strides[k] + 1);
        out[from.rank() + k] = sizes[k];
    }
    let rank = from.rank() + axes.len();
    if rank > RANK_MAX {
        return Err(OpError::TooLarge { op });
    }
    Shape::new(&out[..rank]).ok_or(OpError::TooLarge { op })
}
