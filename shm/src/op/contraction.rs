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

/// Labels in the order in which they first stand, with their sizes.
struct Found {
    count: usize,
    labels: [u8; 2 * RANK_MAX],
    sizes: [u64; 2 * RANK_MAX],
}

impl Found {
    fn place(&self, label: u8) -> Option<usize> {
        self.labels[..self.count].iter().position(|&l| l == label)
    }

    /// Takes in one operand.
    fn add(&mut self, labels: &Labels, shape: &Shape) -> Result<(), OpError> {
        if labels.len() != shape.rank() {
            return Err(OpError::LabelCount {
                have: labels.len(),
                shape: *shape,
            });
        }
        for (&label, &size) in labels.iter().zip(shape.iter()) {
            if label > LABEL_MAX {
                return Err(OpError::OutputLabel { label });
            }
            let Some(known) = self.place(label) else {
                (self.labels[self.count], self.sizes[self.count]) = (label, size);
                self.count += 1;
                continue;
            };
            let have = &mut self.sizes[known];
            if *have == 1 {
                *have = size;
            } else if size != *have && size != 1 {
                return Err(OpError::LabelSize {
                    label,
                    a: *have,
                    b: size,
                });
            }
        }
        Ok(())
    }

    /// Each label with its size.
    fn iter(&self) -> impl Iterator<Item = (u8, u64)> {
        let labels = self.labels[..self.count].iter().copied();
        labels.zip(self.sizes.iter().copied())
    }
}

/// Checks the labels of a contraction against its operands. Gives the output's shape, what was found, and a bit for each label kept.
fn check(
    [a, b, out]: [&Labels; 3],
    [a_shape, b_shape]: [&Shape; 2],
) -> Result<(Shape, Found, u64), OpError> {
    let mut found = Found {
        count: 0,
        labels: [0; 2 * RANK_MAX],
        sizes: [0; 2 * RANK_MAX],
    };
    found.add(a, a_shape)?;
    found.add(b, b_shape)?;
    let mut kept = 0u64;
    let mut sizes = [0u64; RANK_MAX];
    for (size, &label) in sizes.iter_mut().zip(out.iter()) {
        let once = label <= LABEL_MAX && kept >> label & 1 == 0;
        let place = found.place(label).filter(|_| once);
        *size = found.sizes[place.ok_or(OpError::OutputLabel { label })?];
        kept |= 1 << label;
    }
    let too_large = OpError::TooLarge { op: "contract" };
    let Some(shape) = Shape::new(&sizes[..out.len()]) else {
        return Err(too_large);
    };
    let work = found
        .iter()
        .filter(|(label, _)| kept >> label & 1 == 0)
        .try_fold(shape.count().max(1), |work, (_, size)| {
            work.checked_mul(size.max(1)).filter(|&w| w <= 1 << 60)
        });
    match work {
        Some(_) => Ok((shape, found, kept)),
        None => Err(too_large),
    }
}

/// Shape of a contraction's output.
pub(super) fn contract_shape(labels: [&Labels; 3], shapes: [&Shape; 2]) -> Result<Shape, OpError> {
    check(labels, shapes).map(|(shape, ..)| shape)
}

/// Checks the labels of a contraction against its operands.
pub fn contract_sizes(
    a: &Labels,
    b: &Labels,
    out: &Labels,
    a_shape: &Shape,
    b_shape: &Shape,
) -> Result<ContractSizes, OpError> {
    let (out, found, kept) = check([a, b, out], [a_shape, b_shape])?;
    let mut sizes = [0u64; LABEL_MAX as usize + 1];
    let mut summed = Vec::new();
    for (label, size) in found.iter() {
        sizes[usize::from(label)] = size;
        if kept >> label & 1 == 0 {
            summed.push(label);
        }
    }
    Ok(ContractSizes { out, summed, sizes })
}
