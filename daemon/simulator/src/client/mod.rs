//! A simulated client: what it asks for, when, and whether what it gets is its own.
//!
//! It submits jobs, each a few requests whose results it may download, at a pace of its own. It believes nothing: of every value it knows
//! the label that must come out ([`tensord_sim::Label`]).

mod handles;
pub mod job;
mod player;
mod recorder;
mod session;
pub mod spec;

pub use session::{Client, Finished};
