//! Index arithmetic: coordinates as affine functions of a step's variables.
//!
//! A view is kept as strides over row-major elements. To compute a producer inside its consumer, the fuser needs the
//! producer's *coordinates* for each index of the view. [`decompose`] finds them where each coordinate is an affine function
//! without carries (permutations, slices, expansions, windows, splits of axes), and says so where it is not.

use tensord_shm::layout::{Layout, Shape};

/// `offset + sum(terms[v] * variable[v])`. Missing terms are 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Affine {
    /// The constant.
    pub offset: i64,
    /// Coefficients.
    pub terms: Vec<i64>,
}

impl Affine {
    /// A constant.
    pub fn constant(offset: i64) -> Affine {
        Affine {
            offset,
            terms: Vec::new(),
        }
    }

    /// One variable.
    pub fn variable(index: usize) -> Affine {
        let mut terms = vec![0; index + 1];
        terms[index] = 1;
        Affine { offset: 0, terms }
    }

    /// Adds `factor * other`.
    pub fn add_scaled(&mut self, other: &Affine, factor: i64) {
        if factor == 0 {
            return;
        }
        self.offset += factor * other.offset;
        if self.terms.len() < other.terms.len() {
            self.terms.resize(other.terms.len(), 0);
        }
        for (term, add) in self.terms.iter_mut().zip(&other.terms) {
            *term += factor * add;
        }
    }

    /// The coefficient of a variable.
    pub fn term(&self, variable: usize) -> i64 {
        self.terms.get(variable).copied().unwrap_or(0)
    }

    /// Without trailing zeros, so that equal functions compare equal.
    pub fn trimmed(mut self) -> Affine {
        while self.terms.last() == Some(&0) {
            self.terms.pop();
        }
        self
    }
}

/// The address `offset + sum(strides * coordinates)` of a layout at these coordinates.
pub fn address(layout: &Layout, coordinates: &[Affine]) -> Affine {
    let mut flat = Affine::constant(layout.offset);
    for (axis, coordinate) in coordinates.iter().enumerate() {
        flat.add_scaled(coordinate, layout.strides[axis]);
    }
    flat.trimmed()
}

/// Coordinates in `shape` of each index of `view`, which reads a row-major tensor of that shape: one affine function of the
/// view's axes for each axis of `shape`. `None` where a coordinate would need a carry.
pub fn decompose(view: &Layout, shape: &Shape) -> Option<Vec<Affine>> {
    if shape.count() == 0 || view.shape.count() == 0 {
        return None;
    }
    let strides = shape.contiguous_strides();
    let mut coordinates = vec![Affine::constant(0); shape.rank()];
    let mut ranges = vec![(0i64, 0i64); shape.rank()];
    // Splits a distance into steps along the axes, outermost first; size-1 axes take none.
    let split = |mut distance: i64, mut give: Box<dyn FnMut(usize, i64) + '_>| {
        for axis in 0..shape.rank() {
            if shape[axis] > 1 {
                give(axis, distance / strides[axis]);
                distance %= strides[axis];
            }
        }
    };
    split(
        view.offset,
        Box::new(|axis, step| {
            coordinates[axis].offset = step;
            ranges[axis] = (step, step);
        }),
    );
    for (variable, &size) in view.shape.iter().enumerate() {
        let stride = view.strides[variable];
        if size <= 1 || stride == 0 {
            continue;
        }
        let sign = stride.signum();
        split(
            stride.abs(),
            Box::new(|axis, step| {
                if step != 0 {
                    let step = sign * step;
                    coordinates[axis].terms.resize(variable + 1, 0);
                    coordinates[axis].terms[variable] = step;
                    let reach = step * (size as i64 - 1);
                    let range = &mut ranges[axis];
                    if reach < 0 {
                        range.0 += reach
                    } else {
                        range.1 += reach
                    }
                }
            }),
        );
    }
    let fits = ranges
        .iter()
        .zip(shape.iter())
        .all(|(range, &size)| range.0 >= 0 && range.1 < size as i64);
    fits.then_some(coordinates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensord_shm::op::{AxisList, Op};

    fn shape(sizes: &[u64]) -> Shape {
        Shape::new(sizes).expect("small")
    }

    /// Checks a decomposition by walking all indices of the view.
    fn agrees(view: &Layout, of: &Shape) -> bool {
        let Some(coordinates) = decompose(view, of) else {
            return false;
        };
        let canonical = Layout::contiguous(*of);
        let count = view.shape.count();
        (0..count).all(|flat| {
            let mut rest = flat;
            let mut index = vec![0i64; view.shape.rank()];
            for axis in (0..view.shape.rank()).rev() {
                index[axis] = (rest % view.shape[axis]) as i64;
                rest /= view.shape[axis];
            }
            let at = |affine: &Affine| {
                affine.offset
                    + (0..index.len())
                        .map(|v| affine.term(v) * index[v])
                        .sum::<i64>()
            };
            let want = view.offset
                + (0..index.len())
                    .map(|v| view.strides[v] * index[v])
                    .sum::<i64>();
            let in_range = coordinates
                .iter()
                .zip(of.iter())
                .all(|(c, &size)| (0..size as i64).contains(&at(c)));
            in_range && at(&address(&canonical, &coordinates)) == want
        })
    }

    #[test]
    fn views_without_carries_decompose() {
        let of = shape(&[4, 6, 5]);
        let base = Layout::contiguous(of);
        assert!(agrees(&base, &of));
        assert!(agrees(&base.permute(&[2, 0, 1]), &of));
        let list = |items: &[u64]| AxisList::new(items).expect("short");
        let reversed = Op::Slice {
            starts: AxisList::new(&[3, 4, 0]).expect("short"),
            steps: AxisList::new(&[-1, -2, 1]).expect("short"),
            lens: list(&[4, 2, 5]),
        };
        assert!(agrees(&reversed.apply_view(&base).expect("a view"), &of));
        let window = Op::Window {
            axes: AxisList::new(&[1u8]).expect("short"),
            sizes: list(&[3]),
            strides: list(&[2]),
            dilations: list(&[1]),
        };
        assert!(agrees(&window.apply_view(&base).expect("a view"), &of));
        assert!(agrees(
            &base.reshape(shape(&[2, 2, 3, 2, 5])).expect("splits"),
            &of
        ));
    }

    #[test]
    fn a_merged_axis_needs_a_carry_and_is_refused() {
        let of = shape(&[4, 5]);
        let merged = Layout::contiguous(of).reshape(shape(&[20])).expect("dense");
        assert_eq!(decompose(&merged, &of), None);
    }
}
