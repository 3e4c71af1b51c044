//! The labels of a contraction: which are kept, which are summed over, and how large each is.

use super::{Labels, OpError};
use crate::layout::{RANK_MAX, Shape};

/// Highest label of a contraction.
pub const LABEL_MAX: u8 = 63;

/// What [`contract_sizes`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractSizes {
    /// Shape of the output.
    pub out: Shape,
    /// Labels summed over, in the order in which they first stand in `a`, then in `b`. Their row-major order over
    /// these labels is the order of the sum: block sums of 256, each an ascending chain of fused multiply-adds.
    pub summed: Vec<u8>,
    /// Size of each label, indexed by label; 0 entries for labels that do not occur are not meaningful.
    pub sizes: [u64; LABEL_MAX as usize + 1],
}

/// Checks the labels of a contraction against its operands.
pub fn contract_sizes(
    a: &Labels,
    b: &Labels,
    out: &Labels,
    a_shape: &Shape,
    b_shape: &Shape,
) -> Result<ContractSizes, OpError> {
    let op = "contract";
    let mut sizes = [0u64; LABEL_MAX as usize + 1];
    let mut seen = 0u64;
    let mut order = Vec::with_capacity(a.len() + b.len());
    for (labels, shape) in [(a, a_shape), (b, b_shape)] {
        if labels.len() != shape.rank() {
            return Err(OpError::LabelCount {
                have: labels.len(),
                shape: *shape,
            });
        }
        for (axis, &label) in labels.iter().enumerate() {
            if label > LABEL_MAX {
                return Err(OpError::OutputLabel { label });
            }
            let size = &mut sizes[usize::from(label)];
            if seen >> label & 1 == 0 {
                seen |= 1 << label;
                order.push(label);
                *size = shape[axis];
            } else if *size == 1 {
                *size = shape[axis];
            } else if shape[axis] != *size && shape[axis] != 1 {
                return Err(OpError::LabelSize {
                    label,
                    a: *size,
                    b: shape[axis],
                });
            }
        }
    }
    let mut kept = 0u64;
    let mut out_sizes = [0u64; RANK_MAX];
    for (axis, &label) in out.iter().enumerate() {
        if label > LABEL_MAX || seen >> label & 1 == 0 || kept >> label & 1 == 1 {
            return Err(OpError::OutputLabel { label });
        }
        kept |= 1 << label;
        out_sizes[axis] = sizes[usize::from(label)];
    }
    let out = Shape::new(&out_sizes[..out.len()]).ok_or(OpError::TooLarge { op })?;
    order.retain(|&label| kept >> label & 1 == 0);
    let work = order.iter().try_fold(out.count().max(1), |work, &label| {
        work.checked_mul(sizes[usize::from(label)].max(1))
            .filter(|&w| w <= 1 << 60)
    });
    work.ok_or(OpError::TooLarge { op })?;
    Ok(ContractSizes {
        out,
        summed: order,
        sizes,
    })
}
