//! How the operands and the result of one instance lie in memory, over flattened groups of axes.
//!
//! Each group (batch, rows, k) is addressed by one row-major position. Axes of size 1 are dropped and axes that continue one
//! another are joined, so that most groups end as a single axis with one stride, which the fast paths look for. Guards that
//! hold everywhere are dropped too.

use std::ops::{Deref, DerefMut};

use tensord_plan::{Access, Contract, Instr, PaddedAxis, Params, Slot};

/// Axes of one group as one operand sees them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Dims {
    axes: Axes,
    /// One list of coefficients for each guard, as long as `axes`.
    guards: Vec<Vec<i64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Axis {
    size: usize,
    stride: i64,
}

/// Axes, the usual few of them in place: a launch makes nine lists, and must not allocate for each.
#[derive(Clone, Debug, Default)]
struct Axes {
    len: usize,
    few: [Axis; AXES_IN_PLACE],
    /// All of them, where they are more.
    many: Vec<Axis>,
}

const AXES_IN_PLACE: usize = 4;

impl Axes {
    fn push(&mut self, axis: Axis) {
        if self.len < AXES_IN_PLACE {
            self.few[self.len] = axis;
        } else {
            if self.len == AXES_IN_PLACE {
                self.many.extend(self.few);
            }
            self.many.push(axis);
        }
        self.len += 1;
    }
}

impl Deref for Axes {
    type Target = [Axis];

    fn deref(&self) -> &[Axis] {
        match self.len {
            0..=AXES_IN_PLACE => &self.few[..self.len],
            _ => &self.many,
        }
    }
}

impl DerefMut for Axes {
    fn deref_mut(&mut self) -> &mut [Axis] {
        match self.len {
            0..=AXES_IN_PLACE => &mut self.few[..self.len],
            _ => &mut self.many,
        }
    }
}

impl PartialEq for Axes {
    fn eq(&self, other: &Axes) -> bool {
        **self == **other
    }
}

impl Eq for Axes {}

impl Dims {
    fn new(sizes: &[i64], strides: &[i64], guards: Vec<&[i64]>) -> Dims {
        let mut dims = Dims {
            axes: Axes::default(),
            guards: vec![Vec::new(); guards.len()],
        };
        for (k, (&size, &stride)) in sizes.iter().zip(strides).enumerate() {
            if size == 1 {
                continue;
            }
            let joins = dims.axes.last().is_some_and(|outer| {
                outer.stride == stride.wrapping_mul(size)
                    && dims
                        .guards
                        .iter()
                        .zip(&guards)
                        .all(|(have, add)| have.last() == Some(&add[k].wrapping_mul(size)))
            });
            let size = size as usize;
            if joins {
                let last = dims.axes.last_mut().expect("it joins one");
                *last = Axis {
                    size: last.size * size,
                    stride,
                };
                for (have, add) in dims.guards.iter_mut().zip(&guards) {
                    *have.last_mut().expect("as long as the axes") = add[k];
                }
            } else {
                dims.axes.push(Axis { size, stride });
                for (have, add) in dims.guards.iter_mut().zip(&guards) {
                    have.push(add[k]);
                }
            }
        }
        dims
    }

    /// `outer` and behind it `inner`, as one group.
    pub(super) fn concat(outer: &Dims, inner: &Dims) -> Dims {
        let axes = [&outer.axes[..], &inner.axes[..]].concat();
        let sizes: Vec<i64> = axes.iter().map(|axis| axis.size as i64).collect();
        let strides: Vec<i64> = axes.iter().map(|axis| axis.stride).collect();
        let guards: Vec<Vec<i64>> = outer
            .guards
            .iter()
            .zip(&inner.guards)
            .map(|(a, b)| [&a[..], &b[..]].concat())
            .collect();
        Dims::new(&sizes, &strides, guards.iter().map(|g| &g[..]).collect())
    }

    /// Every position has the same address and the same coordinates: the group's index does not matter.
    pub(super) fn is_invariant(&self) -> bool {
        self.axes.iter().all(|axis| axis.stride == 0)
            && self.guards.iter().flatten().all(|&c| c == 0)
    }

    /// The distance between neighbours among positions `start..start + len`, if it is one; 0 for a single position.
    /// Says nothing of guards.
    pub(super) fn step(&self, start: usize, len: usize) -> Option<i64> {
        if len <= 1 {
            return Some(0);
        }
        let inner = self.axes.last()?;
        (len <= self.run_at(start)).then_some(inner.stride)
    }

    /// Positions from this one on that differ in the innermost axis alone. Most groups have one axis, and divisions are slow.
    fn run_at(&self, position: usize) -> usize {
        match &self.axes[..] {
            [] | [_] => usize::MAX,
            [.., inner] => inner.size - position % inner.size,
        }
    }

    /// The address of a position.
    pub(super) fn at(&self, position: usize) -> i64 {
        self.dot(position, |k| self.axes[k].stride)
    }

    /// What a position adds to the coordinate of guard `g`.
    pub(super) fn guard_at(&self, g: usize, position: usize) -> i64 {
        self.dot(position, |k| self.guards[g][k])
    }

    fn dot(&self, mut position: usize, coefficient: impl Fn(usize) -> i64) -> i64 {
        // What is left for the outermost axis is its index.
        let mut sum = 0;
        for (k, axis) in self.axes.iter().enumerate().skip(1).rev() {
            sum += coefficient(k) * (position % axis.size) as i64;
            position /= axis.size;
        }
        match self.axes.len() {
            0 => 0,
            _ => sum + coefficient(0) * position as i64,
        }
    }

    /// Appends the addresses of positions `start..start + len`, each plus `base`.
    pub(super) fn walk(&self, base: i64, start: usize, len: usize, out: &mut Vec<i64>) {
        self.walk_with(base, start, len, out, |k| self.axes[k].stride);
    }

    /// Appends what positions `start..start + len` add to the coordinate of guard `g`, each plus `base`.
    pub(super) fn walk_guard(
        &self,
        g: usize,
        base: i64,
        start: usize,
        len: usize,
        out: &mut Vec<i64>,
    ) {
        self.walk_with(base, start, len, out, |k| self.guards[g][k]);
    }

    fn walk_with(
        &self,
        base: i64,
        start: usize,
        len: usize,
        out: &mut Vec<i64>,
        coefficient: impl Fn(usize) -> i64,
    ) {
        let step = match self.axes.len() {
            0 => 0,
            rank => coefficient(rank - 1),
        };
        let (mut position, mut left) = (start, len);
        while left > 0 {
            let run = self.run_at(position).min(left);
            let first = base + self.dot(position, &coefficient);
            out.extend((0..run as i64).map(|k| first + k * step));
            position += run;
            left -= run;
        }
    }

    /// Lowest and highest of `sum(coefficients * index)`.
    fn range(&self, coefficients: impl Iterator<Item = i64>) -> (i64, i64) {
        self.axes
            .iter()
            .zip(coefficients)
            .fold((0, 0), |(low, high), (axis, c)| {
                let end = c * (axis.size as i64 - 1);
                (low + end.min(0), high + end.max(0))
            })
    }

    fn guard_range(&self, g: usize) -> (i64, i64) {
        self.range(self.guards[g].iter().copied())
    }

    fn reach(&self) -> i64 {
        let (low, high) = self.range(self.axes.iter().map(|axis| axis.stride));
        high - low
    }
}

/// A condition that an element is there: `0 <= offset + coordinates < extent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bound {
    pub offset: i64,
    pub extent: i64,
}

/// An operand that is read as it lies in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OperandLayout {
    /// In elements.
    pub offset: i64,
    pub batch: Dims,
    pub rows: Dims,
    pub k: Dims,
    pub bounds: Vec<Bound>,
}

impl OperandLayout {
    /// With the batch axes in front of the row axes.
    pub(super) fn folded(&self) -> OperandLayout {
        OperandLayout {
            offset: self.offset,
            batch: Dims {
                axes: Axes::default(),
                guards: vec![Vec::new(); self.bounds.len()],
            },
            rows: Dims::concat(&self.batch, &self.rows),
            k: self.k.clone(),
            bounds: self.bounds.clone(),
        }
    }

    /// Elements between the lowest and the highest address, at least: an operand whose windows overlap has fewer
    /// of these than positions.
    pub(super) fn span(&self) -> u64 {
        (self.batch.reach() + self.rows.reach() + self.k.reach() + 1) as u64
    }
}

/// A result that is stored as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResultLayout {
    /// In elements.
    pub offset: i64,
    pub batch: Dims,
    pub m: Dims,
    pub n: Dims,
}

/// Everything about one instance's shapes; `None` for what a body computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Option<OperandLayout>,
    pub b: Option<OperandLayout>,
    pub out: Option<ResultLayout>,
}

/// The access of a body that is a bare load.
pub(super) fn bare_load(body: &tensord_plan::Body) -> Option<&Access> {
    match body.instrs[..] {
        [Instr::Load(k)] => Some(&body.loads[k as usize]),
        _ => None,
    }
}

/// The access of the result, where the epilogue stores it once and does nothing else.
pub(super) fn bare_store(contract: &Contract) -> Option<&Access> {
    match (&contract.epilogue.instrs[..], &contract.stores[..]) {
        ([Instr::Reduced { .. }], [store]) => Some(&store.access),
        _ => None,
    }
}

impl Layout {
    pub(super) fn new(contract: &Contract, params: &Params) -> Layout {
        let counts = [contract.batch, contract.m, contract.n, contract.k].map(usize::from);
        let [batch, m, n, k] = counts;
        let sizes = params.run(contract.sizes, batch + m + n + k);
        let (batch, rest) = sizes.split_at(batch);
        let (m, rest) = rest.split_at(m);
        let (n, k) = rest.split_at(n);
        let product = |sizes: &[i64]| sizes.iter().product::<i64>() as usize;
        let operand = |body, rows| {
            bare_load(body).map(|access| operand_layout(params, access, [batch, rows, k]))
        };
        Layout {
            batch: product(batch),
            m: product(m),
            n: product(n),
            k: product(k),
            a: operand(&contract.a, m),
            b: operand(&contract.b, n),
            out: bare_store(contract).map(|access| {
                let layout = operand_layout(params, access, [batch, m, n]);
                ResultLayout {
                    offset: layout.offset,
                    batch: layout.batch,
                    m: layout.rows,
                    n: layout.k,
                }
            }),
        }
    }
}

fn operand_layout(params: &Params, access: &Access, groups: [&[i64]; 3]) -> OperandLayout {
    let rank = groups.iter().map(|group| group.len()).sum();
    let address = params.address(access, rank);
    let build = |padded: &[&PaddedAxis]| -> [Dims; 3] {
        let mut from = 0;
        groups.map(|sizes| {
            let range = from..from + sizes.len();
            from = range.end;
            let guards = padded
                .iter()
                .map(|axis| coefficients(params, axis.guard.coefficients, &range))
                .collect();
            Dims::new(sizes, &address.strides[range], guards)
        })
    };
    let empty = groups.iter().any(|sizes| sizes.contains(&0));
    let all: Vec<&PaddedAxis> = access.padded.iter().collect();
    let dims = build(&all);
    let needed = |g: usize, axis: &PaddedAxis| {
        let ranges = [0, 1, 2].map(|d: usize| dims[d].guard_range(g));
        let offset = params.get(axis.guard.offset);
        let low = offset + ranges.iter().map(|r| r.0).sum::<i64>();
        let high = offset + ranges.iter().map(|r| r.1).sum::<i64>();
        !empty && (low < 0 || high >= params.get(axis.guard.extent))
    };
    let kept: Vec<&PaddedAxis> = all
        .iter()
        .enumerate()
        .filter(|(g, axis)| needed(*g, axis))
        .map(|(_, axis)| *axis)
        .collect();
    let [batch, rows, k] = if kept.len() == all.len() {
        dims
    } else {
        build(&kept)
    };
    OperandLayout {
        offset: address.offset,
        batch,
        rows,
        k,
        bounds: kept
            .iter()
            .map(|axis| Bound {
                offset: params.get(axis.guard.offset),
                extent: params.get(axis.guard.extent),
            })
            .collect(),
    }
}

fn coefficients<'a>(params: &'a Params, run: Slot, range: &std::ops::Range<usize>) -> &'a [i64] {
    &params.run(run, range.end)[range.clone()]
}
