//! A contraction bound to parameters: how its operands and its result lie, as the kernels see them. Made once, where a plan is
//! bound, and read by every launch.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tensord_plan::{Contract, Params};

use super::K_BLOCK;
use super::kernel::small::{self, Steps};
use super::layout::{Dims, Layout, OperandLayout};

/// Most products of elements, and rows, of a small product.
const SMALL_WORK_MAX: usize = 4096;
pub(super) const SMALL_ROWS_MAX: usize = 64;

/// Names of forms: no two have the same.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// A contraction with one set of parameters.
#[derive(Debug)]
pub struct Form {
    pub(super) name: u64,
    pub(super) layout: Layout,
    /// With n along lanes, and with m; made when first run that way.
    shapes: [OnceLock<Shape>; 2],
}

impl Form {
    /// Looks at every access of the contraction's bare loads and store.
    pub fn new(contract: &Contract, params: &Params) -> Form {
        Form {
            name: NAMES.fetch_add(1, Ordering::Relaxed),
            layout: Layout::new(contract, params),
            shapes: Default::default(),
        }
    }

    /// In terms of rows and lanes, with m along lanes if `swapped`.
    pub(super) fn shape(&self, swapped: bool) -> &Shape {
        self.shapes[usize::from(swapped)].get_or_init(|| Shape::new(self.layout.clone(), swapped))
    }
}

/// One instance's shapes in terms of rows and lanes.
#[derive(Debug)]
pub(super) struct Shape {
    pub batch: usize,
    pub rows: usize,
    pub lanes: usize,
    pub k: usize,
    /// Batch positions that became rows, 1 if none did.
    pub fold: usize,
    pub row_operand: Option<OperandLayout>,
    pub lane_operand: Option<OperandLayout>,
    pub out: Option<OutShape>,
    /// Steps of a product, where products of this shape are small and even enough to run one behind the other.
    pub small: Option<Steps>,
}

/// A result that is stored as it is.
#[derive(Debug)]
pub(super) struct OutShape {
    pub offset: i64,
    pub batch: Dims,
    pub rows: Dims,
    pub lanes: Dims,
}

impl Shape {
    fn new(layout: Layout, swapped: bool) -> Shape {
        let (rows, lanes, row_operand, lane_operand) = if swapped {
            (layout.n, layout.m, layout.b, layout.a)
        } else {
            (layout.m, layout.n, layout.a, layout.b)
        };
        let mut shape = Shape {
            batch: layout.batch,
            rows,
            lanes,
            k: layout.k,
            fold: 1,
            row_operand,
            lane_operand,
            out: layout.out.map(|out| OutShape {
                offset: out.offset,
                batch: out.batch,
                rows: if swapped {
                    out.n.clone()
                } else {
                    out.m.clone()
                },
                lanes: if swapped { out.m } else { out.n },
            }),
            small: None,
        };
        let unchanging = shape
            .lane_operand
            .as_ref()
            .is_some_and(|operand| operand.batch.is_invariant());
        if shape.batch > 1 && unchanging {
            shape.fold();
        }
        shape.small = shape.steps(swapped);
        shape
    }

    /// The steps of one product, if all are even and the product is small.
    fn steps(&self, swapped: bool) -> Option<Steps> {
        let (rows, lanes, k) = (self.rows, self.lanes, self.k);
        let small = rows * lanes * k <= SMALL_WORK_MAX
            && (1..=small::LANES_MAX).contains(&lanes)
            && (1..=SMALL_ROWS_MAX).contains(&rows)
            && (1..=K_BLOCK).contains(&k)
            && k * lanes.next_power_of_two().max(4) <= small::LANE_ELEMENTS_MAX;
        if !small {
            return None;
        }
        let (a, b) = (self.row_operand.as_ref()?, self.lane_operand.as_ref()?);
        if !a.bounds.is_empty() || !b.bounds.is_empty() {
            return None;
        }
        let (out_row, out_lane) = match &self.out {
            Some(out) => (out.rows.step(0, rows)?, out.lanes.step(0, lanes)?),
            // Rows are batch and n then, which an epilogue does not take as one.
            None if swapped && self.fold > 1 => return None,
            None if swapped => (1, rows as i64),
            None => (lanes as i64, 1),
        };
        Some(Steps {
            rows,
            lanes,
            k,
            a_row: a.rows.step(0, rows)? as isize,
            a_k: a.k.step(0, k)? as isize,
            b_lane: b.rows.step(0, lanes)? as isize,
            b_k: b.k.step(0, k)? as isize,
            out_row: out_row as isize,
            out_lane: out_lane as isize,
        })
    }

    /// Makes the batch positions rows.
    fn fold(&mut self) {
        self.rows *= self.batch;
        self.fold = self.batch;
        self.batch = 1;
        self.row_operand = self.row_operand.as_ref().map(OperandLayout::folded);
        self.lane_operand = self.lane_operand.as_ref().map(|operand| OperandLayout {
            batch: Dims::default(),
            ..operand.clone()
        });
        self.out = self.out.take().map(|out| OutShape {
            offset: out.offset,
            batch: Dims::default(),
            rows: Dims::concat(&out.batch, &out.rows),
            lanes: out.lanes,
        });
    }
}
