//! The real engine in virtual time: clients, their times and their faults come from a seed, and checkers watch.
//!
//! A run is [`World`]: the engine of `tensord-daemon` as it is, over the `sim` backend, in one thread. The same seed gives the same
//! schedule, so a run that breaks a rule can be had again. [`seed`] makes a run of a number.

#![forbid(unsafe_code)]

pub mod checks;
pub mod client;
pub mod fault;
mod outcome;
pub mod random;
pub mod recording;
pub mod replay;
pub mod scenario;
pub mod seed;
mod setup;
pub mod story;
pub mod wire;
mod world;

pub use outcome::{ClientOutcome, Failure, Outcome};
pub use setup::{Host, Setup};
pub use world::{Between, World};
