//! Microkernels: a few rows by a few panels of columns, one block of k, sums held in registers.
//!
//! A kernel takes its rows as pointers with one common step along k, so that packed rows, rows in place and rows of different
//! instances are the same to it; and its columns as panels of `nr` adjacent ones with a common step along k, so that packed
//! panels and a row-major operand in place are the same to it too.
//!
//! # Invariant
//! Every kernel computes, for each element by itself, the chain of fused multiply-adds from +0 over ascending k: which
//! kernel ran can never be seen in a result.

mod portable;
pub(super) mod small;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::number::Compute;
use crate::contract::Isa;

/// Most rows of one kernel.
pub(super) const ROWS_MAX: usize = 8;

/// Most panels of one kernel.
pub(super) const PANELS_MAX: usize = 6;

/// Most columns of a panel on any processor.
pub(super) const NR_MAX: usize = 64;

/// What a kernel is called with.
pub(super) struct Tile<C> {
    /// Length of the block of k, at least 1.
    pub k: usize,
    /// The kernel's rows at the block's first k.
    pub a: *const *const C,
    /// Elements from one k to the next in every row.
    pub a_step: isize,
    /// The first panel's first column at the block's first k.
    pub b: *const C,
    /// Elements from one k to the next.
    pub b_step: isize,
    /// Elements from one panel to the next.
    pub b_panel: isize,
    /// Where the results of the kernel's rows go: `panels * nr` adjacent elements each, from `c_at` on.
    pub c: *const *mut C,
    /// Elements from each of `c` to the results.
    pub c_at: usize,
    /// Add to what is there, instead of replacing it.
    pub add: bool,
}

/// A microkernel of a fixed number of rows and panels.
///
/// # Safety
/// Of a `Tile`: `a` and `c` point to as many pointers as the kernel has rows; each row is readable at `k` places `a_step` apart;
/// each panel, `b + p * b_panel`, is readable at `k` places `b_step` apart for `nr` elements; each `c` is writable for
/// `panels * nr` elements from `c_at` on (and readable if `add`), and overlaps neither another nor what is read. The processor has
/// the instructions that the kernel was chosen for.
pub(super) type Kernel<C> = unsafe fn(&Tile<C>);

/// Writes rows as columns: element k of row r to `to[k * nr + r]`. Arguments: rows, length, `to`, `nr`.
///
/// # Safety
/// Each row is readable for `length` elements; `to` is writable where the rows go, and overlaps none. The processor has
/// the instructions that the function was chosen for.
pub(super) type Turn<C> = unsafe fn(&[*const C], usize, *mut C, usize);

/// The kernels of one type and instruction set.
pub(super) struct Kernels<C> {
    /// Columns of a panel.
    pub nr: usize,
    /// Most rows of a kernel.
    pub rows: usize,
    /// `table[rows - 1][panels - 1]`; one panel is always there.
    pub table: [[Option<Kernel<C>>; PANELS_MAX]; ROWS_MAX],
    /// For packing lanes whose k is adjacent, where there is something faster than element by element.
    pub turn: Option<Turn<C>>,
    /// For products of a few elements.
    pub small: small::SmallKernel<C>,
}

impl<C> Kernels<C> {
    /// The widest kernel of `rows` rows with at most `panels` panels, and its panels.
    pub(super) fn widest(&self, rows: usize, panels: usize) -> (Kernel<C>, usize) {
        let row = &self.table[rows - 1];
        (1..=panels.min(PANELS_MAX))
            .rev()
            .find_map(|p| row[p - 1].map(|kernel| (kernel, p)))
            .expect("a kernel of one panel stands in every row of the table")
    }
}

/// Kernels for f32.
pub(super) fn f32(isa: Isa) -> &'static Kernels<f32> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &x86::F32_AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &x86::F32_AVX2,
        _ => &portable::F32,
    }
}

/// Kernels for f64.
pub(super) fn f64(isa: Isa) -> &'static Kernels<f64> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &x86::F64_AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &x86::F64_AVX2,
        _ => &portable::F64,
    }
}

/// Kernels for an integer type.
pub(super) fn integer<C: Compute + portable::Integer>(isa: Isa) -> &'static Kernels<C> {
    C::table(isa)
}
