//! Shapes, and layouts: how a tensor's elements lie in a buffer.
//!
//! Views change only the layout. All sizes are checked here, once, so that no later arithmetic on an accepted
//! layout can overflow: element counts stay below 2^48.

use std::fmt;
use std::ops::Deref;

/// Highest rank of a tensor.
pub const RANK_MAX: usize = 12;
/// Highest element count of a tensor or a view.
pub const ELEMENTS_MAX: u64 = 1 << 48;

/// Sizes of a tensor's axes, outermost first.
#[derive(Clone, Copy)]
pub struct Shape {
    rank: u8,
    sizes: [u64; RANK_MAX],
}

impl Shape {
    /// The shape of a scalar.
    pub const SCALAR: Shape = Shape {
        rank: 0,
        sizes: [0; RANK_MAX],
    };

    /// A shape, if rank and element count are within bounds. An axis may be 0; the bound holds for the
    /// product of the others, so that strides never overflow.
    pub fn new(sizes: &[u64]) -> Option<Shape> {
        if sizes.len() > RANK_MAX {
            return None;
        }
        let mut product: u64 = 1;
        for &size in sizes {
            product = product
                .checked_mul(size.max(1))
                .filter(|&p| p <= ELEMENTS_MAX)?;
        }
        let mut shape = Shape {
            rank: sizes.len() as u8,
            sizes: [0; RANK_MAX],
        };
        shape.sizes[..sizes.len()].copy_from_slice(sizes);
        Some(shape)
    }

    /// Number of axes.
    #[inline]
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// Number of elements.
    #[inline]
    pub fn count(&self) -> u64 {
        self.iter().product()
    }

    /// NumPy broadcasting of two shapes, or `None` where an axis has two sizes and neither is 1.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let mut sizes = [0u64; RANK_MAX];
        for (from_end, out) in sizes[..rank].iter_mut().rev().enumerate() {
            let get = |s: &Shape| s.len().checked_sub(from_end + 1).map_or(1, |axis| s[axis]);
            *out = match (get(self), get(other)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Shape::new(&sizes[..rank])
    }

    /// Row-major strides in elements.
    pub fn contiguous_strides(&self) -> [i64; RANK_MAX] {
        let mut strides = [0i64; RANK_MAX];
        let mut step = 1i64;
        for axis in (0..self.rank()).rev() {
            strides[axis] = step;
            step *= self.sizes[axis].max(1) as i64;
        }
        strides
    }
}

impl Deref for Shape {
    type Target = [u64];
    #[inline]
    fn deref(&self) -> &[u64] {
        &self.sizes[..usize::from(self.rank)]
    }
}

impl PartialEq for Shape {
    #[inline]
    fn eq(&self, other: &Shape) -> bool {
        // Few axes: a call that compares memory costs more.
        self.rank == other.rank && self.iter().zip(other.iter()).all(|(a, b)| a == b)
    }
}
impl Eq for Shape {}

impl std::hash::Hash for Shape {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[")?;
        for (axis, size) in self.iter().enumerate() {
            write!(f, "{}{size}", if axis == 0 { "" } else { ", " })?;
        }
        write!(f, "]")
    }
}

/// Where the elements of a view lie: element (i0, i1, ...) is at `offset + sum(i_k * strides[k])`, counted in
/// elements from the start of the source. A source's own canonical layout is row-major from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Sizes of the axes.
    pub shape: Shape,
    /// Steps in elements, one for each axis; 0 repeats an element; entries beyond the rank are 0.
    pub strides: [i64; RANK_MAX],
    /// Element at which index (0, 0, ...) lies.
    pub offset: i64,
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shape)?;
        if !self.is_contiguous() {
            write!(
                f,
                " strides {:?} offset {}",
                &self.strides[..self.shape.rank()],
                self.offset
            )?;
        }
        Ok(())
    }
}

impl Layout {
    /// Row-major from element 0.
    pub fn contiguous(shape: Shape) -> Layout {
        Layout {
            shape,
            strides: shape.contiguous_strides(),
            offset: 0,
        }
    }

    /// Does it read its elements in row-major order from `offset`, without gaps?
    pub fn is_dense(&self) -> bool {
        let mut step = 1i64;
        for axis in (0..self.shape.rank()).rev() {
            let size = self.shape[axis];
            if size == 0 {
                return true;
            }
            if size != 1 && self.strides[axis] != step {
                return false;
            }
            step *= size as i64;
        }
        true
    }

    /// Dense from element 0?
    pub fn is_contiguous(&self) -> bool {
        self.offset == 0 && self.is_dense()
    }

    /// Lowest and highest element touched, or `None` for an empty view.
    pub fn extent(&self) -> Option<(i64, i64)> {
        let (mut low, mut high) = (self.offset, self.offset);
        for (axis, &size) in self.shape.iter().enumerate() {
            let last = (size as i64).checked_sub(1).filter(|&l| l >= 0)?;
            let reach = self.strides[axis] * last;
            if reach < 0 {
                low += reach
            } else {
                high += reach
            }
        }
        Some((low, high))
    }

    /// Axes reordered: output axis `k` is input axis `order[k]`. The caller has checked the permutation.
    pub fn permute(&self, order: &[u8]) -> Layout {
        let mut sizes = [0u64; RANK_MAX];
        let mut strides = [0i64; RANK_MAX];
        for (k, &axis) in order.iter().enumerate() {
            sizes[k] = self.shape[usize::from(axis)];
            strides[k] = self.strides[usize::from(axis)];
        }
        let shape =
            Shape::new(&sizes[..order.len()]).expect("a permutation keeps the element count");
        Layout {
            shape,
            strides,
            offset: self.offset,
        }
    }

    /// Repeats along axes of size 1, and adds leading axes, until the shape is `shape` (checked by the caller).
    pub fn expand(&self, shape: Shape) -> Layout {
        let mut strides = [0i64; RANK_MAX];
        let lead = shape.rank() - self.shape.rank();
        for axis in 0..self.shape.rank() {
            if self.shape[axis] == shape[lead + axis] {
                strides[lead + axis] = self.strides[axis];
            }
        }
        Layout {
            shape,
            strides,
            offset: self.offset,
        }
    }

    /// The same elements in row-major order as another shape, where strides allow it without moving data.
    pub fn reshape(&self, shape: Shape) -> Option<Layout> {
        if shape.count() == 0 {
            return Some(Layout {
                shape,
                strides: shape.contiguous_strides(),
                offset: self.offset,
            });
        }
        // Walk both shapes from the innermost axis; a group of old axes that lies evenly serves a group of new ones.
        let mut strides = [0i64; RANK_MAX];
        let (mut old, mut new) = (self.shape.rank(), shape.rank());
        loop {
            while old > 0 && self.shape[old - 1] == 1 {
                old -= 1;
            }
            if old == 0 {
                break;
            }
            let step = self.strides[old - 1];
            let mut have = self.shape[old - 1];
            old -= 1;
            let mut want = 1u64;
            while want != have {
                if want < have && new > 0 {
                    new -= 1;
                    strides[new] = step * want as i64;
                    want *= shape[new];
                } else if old > 0 {
                    old -= 1;
                    if self.shape[old] != 1 && self.strides[old] != step * have as i64 {
                        return None;
                    }
                    have *= self.shape[old];
                } else {
                    return None;
                }
            }
        }
        // What is left of the new shape are axes of size 1: any stride will do.
        Some(Layout {
            shape,
            strides,
            offset: self.offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: &[u64]) -> Shape {
        Shape::new(sizes).expect("small")
    }

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(shape(&[3, 1]).broadcast(&shape(&[4])), Some(shape(&[3, 4])));
        assert_eq!(shape(&[]).broadcast(&shape(&[0, 2])), Some(shape(&[0, 2])));
        assert_eq!(shape(&[0]).broadcast(&shape(&[1])), Some(shape(&[0])));
        assert_eq!(shape(&[2]).broadcast(&shape(&[3])), None);
    }

    #[test]
    fn oversized_shapes_are_refused_even_beside_a_zero() {
        assert!(Shape::new(&[1 << 40, 1 << 40, 0]).is_none());
        assert!(Shape::new(&[1; 13]).is_none());
    }

    #[test]
    fn reshape_is_a_view_exactly_where_strides_allow() {
        let base = Layout::contiguous(shape(&[2, 3, 4]));
        assert_eq!(base.reshape(shape(&[6, 4])).map(|l| l.strides[0]), Some(4));
        assert_eq!(
            base.reshape(shape(&[2, 1, 12])).map(|l| l.strides[2]),
            Some(1)
        );
        let turned = base.permute(&[1, 0, 2]);
        assert_eq!(turned.reshape(shape(&[6, 4])), None);
        let split = turned
            .reshape(shape(&[3, 2, 2, 2]))
            .expect("splits an axis");
        assert_eq!(&split.strides[..4], &[4, 12, 2, 1]);
        let scalar = Layout::contiguous(shape(&[1])).expand(shape(&[5]));
        assert_eq!(
            scalar.reshape(shape(&[5, 1])).map(|l| l.strides[0]),
            Some(0)
        );
    }
}
