//! CUDA for tensord: what this machine has of it.
//!
//! Nothing here is linked: every library is looked for at run time, so one binary serves machines with a GPU and without.

mod probe;

pub use probe::{Device, Driver, Library, Node, Report, probe};
