//! The cpu backend of tensord: tile machine, reductions, contraction kernel.
//!
//! [`CpuBackend`] runs plans on the processor. Entry points, in the order in which a launch meets them: `backend` (buffers, launch
//! policy), `prepare` (a plan, once), `launch` (an instance table, each time), `bands` (steps that go through their rows together), `step` and its siblings `reduce`, `scan`,
//! `scatter`, `product` (one loop nest each), and under them the tile machine (`tile`), the contraction kernel (`contract`) and
//! the vector functions (`math`).
//!
//! # Safety
//! Unsafe code rests on three checks and repeats none of them per element: `tensord_plan::Params` proves which elements an
//! instance reaches, `launch` compares that with the buffers at hand before any address is made, and `isa`
//! answers for the instructions used.

#![deny(unsafe_op_in_unsafe_fn)]

mod backend;
mod bands;
pub mod clock;
pub mod contract;
mod fold;
mod isa;
mod launch;
pub mod math;
mod memory;
mod pool;
mod prepare;
mod product;
mod reduce;
mod scan;
mod scatter;
mod scratch;
mod slice;
mod step;
mod strided;
mod tile;

pub use backend::{CpuBackend, CpuConfig, CpuError};
pub use isa::{Isa, IsaError};
