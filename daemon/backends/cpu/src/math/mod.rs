//! The elementwise functions: every function of the operation table, cast, index and random draw, as tile functions.
//!
//! A tile is a run of elements in memory, 64-byte aligned and padded to a multiple of [`LANES`] elements, so that no loop has
//! a tail; the padding may hold anything. Tiles hold f16 and bf16 as f32 values already rounded to the dtype
//! ([`tile_size`]), bool as bytes 0 and 1, all else as itself. [`load`] and [`store`] go between tiles and memory.
//!
//! # For the tile machine
//! Ask once, when a plan is prepared: [`elementwise`], [`cast`], [`iota`], [`random`] give a [`Kernel`] or a function pointer
//! for an instruction set; running it is one or two indirect calls. The functions of single elements, to be inlined in
//! loops of the machine's own, are in [`basic`], [`single`] and [`double`]; such loops must be compiled with the
//! features of their level. Results never depend on the level, the position in a tile, or the neighbours.
//!
//! It knows nothing of plans, shapes or strides.

pub mod basic;
mod coefficients;
pub mod convert;
pub mod double;
pub mod integer;
mod kernel;
mod pieces;
pub mod random;
pub mod single;
mod storage;
mod table;
mod trigonometry;

use tensord_shm::dtype::DType;

pub use kernel::{LANES, TileFn};
pub use random::{RandomFn, random};
pub use storage::{LoadFn, StoreFn, load, store};
pub use table::{IotaFn, cast, elementwise, iota, round};

/// Bytes of one element in a tile.
pub const fn tile_size(dtype: DType) -> usize {
    match dtype {
        DType::F16 | DType::Bf16 => 4,
        other => other.size(),
    }
}

/// A function of tiles, with the rounding that follows it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    main: TileFn,
    /// Rounds to f16 or bf16, in place.
    then: Option<TileFn>,
}

impl Kernel {
    /// The function, and the rounding of its result to a narrower dtype where there is one: for machines that make both one step.
    pub fn parts(self) -> (TileFn, Option<TileFn>) {
        (self.main, self.then)
    }

    /// Runs it.
    ///
    /// # Safety
    /// As [`TileFn`].
    #[inline]
    pub unsafe fn run(self, dst: *mut u8, a: *const u8, b: *const u8, c: *const u8, n: usize) {
        // SAFETY: the caller keeps the rules.
        unsafe { (self.main)(dst, a, b, c, n) };
        if let Some(then) = self.then {
            // SAFETY: `dst` now holds n elements, and rounding in place is allowed.
            unsafe { then(dst, dst, dst, dst, n) };
        }
    }
}
