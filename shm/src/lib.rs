//! What a tensord client and the daemon must agree on: rings, records, operations, control messages.
//!
//! This crate is the trust boundary. The types in [`op`] and [`record`] are what both sides understand;
//! the segments and rings carry them between processes that do not trust each other. `PROTOCOL.md` names every shared
//! word with its writer and its ordering.

/// Is what clients send checked? True in every build but the one against which the cost of checking is measured, which is right for
/// clients that keep the rules and gives in to any that does not. Whoever checks something that such clients never do asks this first.
pub const CHECKED: bool = !cfg!(feature = "unchecked-for-benchmark");

pub mod address;
pub mod completion;
pub mod control;
pub mod control_socket;
pub mod doorbell;
pub mod dtype;
pub mod elementwise;
pub mod error;
pub mod fork;
pub mod handle;
pub mod layout;
pub mod op;
pub mod private;
pub mod record;
pub mod ring;
pub mod sealed;
pub mod segment;
pub mod staging;
mod sync;
