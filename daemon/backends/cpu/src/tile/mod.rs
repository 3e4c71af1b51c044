//! The tile machine: runs the straight-line code of a plan over tiles of about a thousand elements, without compiling it.
//!
//! `program` translates a body once for each plan, `bind` gives it sizes and addresses once for each set of
//! parameters, `eval` runs it over tiles, `chain` keeps values of consecutive arithmetic in registers (`vectors`) and `affine`
//! joins what of it is scalar, `rows` moves elements between tiles and strided memory, and `kernels` names the vector
//! functions. The steps of a plan (`crate::step`, `crate::reduce`, ...) are loops over this.

pub mod affine;
pub mod bind;
pub mod chain;
pub mod eval;
pub mod kernels;
pub mod program;
pub mod rows;
mod vectors;

pub use bind::Bound;
pub use eval::{Evaluator, Table, Tables};
pub use program::Program;
