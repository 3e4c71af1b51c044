//! The contraction kernel: sums of products over any layouts, in one fixed order.
//!
//! `out[batch, m, n] = sum over k of a[batch, m, k] * b[batch, n, k]`, each index a group of axes with strides of its own:
//! 0, negative, overlapping (windows) or padded. [`Contraction::new`] looks at all instances of a launch, joins those that
//! share an operand into one larger product, chooses which operand's index runs along vector lanes, and cuts the
//! work in units; [`Contraction::run_unit`] does one of them, on any thread.
//!
//! Inside a unit both operands are read where they lie if a microkernel can step through them, and else
//! packed block by block, straight from the instances' own memory: neither merged rows nor windows are ever written out.
//! Constants stay packed between launches ([`Packs`]). Prologues and epilogues that are more than a load or a store are
//! computed by the caller ([`Bodies`]), block by block.
//!
//! # Invariant
//! The order of each sum is that of [`Contract`]: blocks of 256 along k, in each one chain of fused multiply-adds from +0, block
//! sums added ascending. Lanes run along m, n or batch, never along k, so that a result's bits depend on its own row
//! and column alone.
//!
//! # What it does not know
//! Buffers, temporaries and threads: it is handed addresses that were checked against [`tensord_plan::Params`].

mod finish;
mod form;
mod groups;
mod kernel;
mod layout;
mod load;
mod number;
mod operands;
mod packs;
mod run;
mod scratch;
mod tables;

use std::ops::Range;
use std::sync::Arc;

use tensord_plan::{Contract, Instance};

use crate::isa::Isa;
use number::with_storage;

pub use form::Form;
pub use packs::Packs;
pub use scratch::Scratch;

/// Length of a block of k: part of the definition of `contract`.
pub const K_BLOCK: usize = 256;

/// One of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first, over batch, m, k.
    A,
    /// The second, over batch, n, k.
    B,
}

/// Values in the form in which a tile machine holds them: f16 and bf16 as f32, every other dtype as itself.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum LanesMut<'a> {
    I8(&'a mut [i8]),
    I16(&'a mut [i16]),
    I32(&'a mut [i32]),
    I64(&'a mut [i64]),
    U8(&'a mut [u8]),
    U16(&'a mut [u16]),
    U32(&'a mut [u32]),
    U64(&'a mut [u64]),
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
}

/// Which part of a computed operand is wanted. The value for row `r` and position `p` of k goes to
/// `(r - rows.start) * stride + (p - k.start)`.
#[derive(Clone, Debug)]
pub struct Fill {
    /// Which operand.
    pub side: Side,
    /// Index of the binding.
    pub instance: usize,
    /// Row-major positions over batch and m (of b: batch and n) together: `batch_position * m_count + m_position`.
    pub rows: Range<usize>,
    /// Row-major positions over k.
    pub k: Range<usize>,
    /// Elements from one row to the next; what lies between is not to be written.
    pub stride: usize,
}

/// Which part of the result is complete: row `r`, column `c` stands at `(r - rows.start) * stride + (c - columns.start)`.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Index of the binding.
    pub instance: usize,
    /// Row-major positions over batch and m together.
    pub rows: Range<usize>,
    /// Row-major positions over n.
    pub columns: Range<usize>,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// What the caller computes: prologues that are more than a load, epilogues that are more than a store.
///
/// Each thread has its own. Calls come in any order of positions; a position of a prologue may be asked for more than once.
pub trait Bodies {
    /// Computes a part of an operand, in lanes of the contraction's dtype.
    fn fill(&mut self, what: &Fill, out: LanesMut<'_>);

    /// Takes a part of the result, rounded to the result's dtype (i32 for i8), each element exactly once. The block
    /// may be overwritten.
    fn finish(&mut self, what: &Finish, block: LanesMut<'_>);
}

/// For contractions whose operands are bare loads and whose result is a bare store: nothing is ever asked of it.
pub struct NoBodies;

impl Bodies for NoBodies {
    fn fill(&mut self, what: &Fill, _: LanesMut<'_>) {
        unreachable!(
            "{what:?}: given for operands that are bare loads, which the kernel reads by itself"
        );
    }

    fn finish(&mut self, what: &Finish, _: LanesMut<'_>) {
        unreachable!(
            "{what:?}: given for a result that is a bare store, which the kernel writes by itself"
        );
    }
}

/// One instance with the addresses that its accesses start from.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// Parameters, immediates and the identity of inputs.
    pub instance: &'a Instance,
    /// The contraction with the instance's parameters; the same object for equal parameters, or they do not run as one.
    pub form: &'a Form,
    /// Element 0 of the memory that `a` loads, where `a` is a bare load.
    pub a: *const u8,
    /// Element 0 of the memory that `b` loads, where `b` is a bare load.
    pub b: *const u8,
    /// Element 0 of the memory that the result is stored to, where the epilogue is a bare store.
    pub out: *mut u8,
}

/// Is operand `side` a bare load, so that [`Binding`] has to say where it starts?
pub fn loads_bare(contract: &Contract, side: Side) -> bool {
    let body = match side {
        Side::A => &contract.a,
        Side::B => &contract.b,
    };
    layout::bare_load(body).is_some()
}

/// Is the epilogue a bare store, so that [`Binding`] has to say where it goes and [`Bodies::finish`] is never called?
pub fn stores_bare(contract: &Contract) -> bool {
    layout::bare_store(contract).is_some()
}

/// One contraction of a launch, over all its instances, ready to run.
pub struct Contraction<'a> {
    contract: &'a Contract,
    bindings: &'a [Binding<'a>],
    isa: Isa,
    groups: Arc<[groups::Group]>,
    units: usize,
}

// SAFETY: the pointers in it are read only by `run_unit`, whose contract makes concurrent units disjoint in what they write;
// everything else is plain data.
unsafe impl Send for Contraction<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Contraction<'_> {}

impl<'a> Contraction<'a> {
    /// Plans the work, and packs constant operands that are not packed yet.
    ///
    /// # Safety
    /// For each binding, where the body in question is a bare load or store: the address is aligned for the dtype, and the elements
    /// that [`tensord_plan::Params::address`] reaches from it (where the access's guards hold) stay readable (for
    /// `out`: writable) until the `Contraction` is dropped; no result overlaps an operand, and no two results overlap.
    /// The memory of an operand marked constant does not change until [`Packs::forget`] is called with its buffer.
    /// Each form is of this contraction and its instance's parameters. `isa` is available on this processor.
    pub unsafe fn new(
        contract: &'a Contract,
        bindings: &'a [Binding<'a>],
        isa: Isa,
        packs: &mut Packs,
    ) -> Contraction<'a> {
        // SAFETY: handed on.
        unsafe { groups::plan(contract, bindings, isa, packs) }
    }

    /// Pieces of work that may run in any order and on any threads. Results do not depend on how they are divided.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Products that run as one: instances that share an operand are one of them.
    pub fn products(&self) -> usize {
        self.groups.len()
    }

    /// Runs unit `unit`.
    ///
    /// # Safety
    /// The contract of [`Contraction::new`] still holds; each unit runs at most once, and nothing else reads or writes the
    /// results meanwhile.
    pub unsafe fn run_unit(&self, unit: usize, scratch: &mut Scratch, bodies: &mut dyn Bodies) {
        // SAFETY: handed on.
        unsafe { run::run_unit(self, unit, scratch, bodies) }
    }

    /// Runs everything on this thread.
    ///
    /// # Safety
    /// As [`Contraction::run_unit`] for every unit.
    pub unsafe fn run_all(&self, scratch: &mut Scratch, bodies: &mut dyn Bodies) {
        for unit in 0..self.units {
            // SAFETY: handed on; each unit once.
            unsafe { self.run_unit(unit, scratch, bodies) };
        }
    }
}
