//! Fused programs in canonical form, and the interface of a backend that runs them.
//!
//! A [`Plan`] says what to compute without saying for which tensors or sizes: every size, stride and offset
//! is a [`Slot`] into the instance's parameters, every scalar operand an [`Immediate`] slot, every tensor a numbered
//! input, output or temporary. So one plan serves sizes 1 to 10,000 and any number of instances, and two windows of
//! different sessions that do the same thing have equal plans.
//!
//! The fuser makes plans, the backends run them; neither knows the other.

#![forbid(unsafe_code)]

mod backend;
mod params;
mod program;

pub use backend::{
    Backend, BackendInfo, BackendStats, BufferId, DeviceFault, Instance, Launch, LaunchId, Operand,
    Ran, SealedMemory,
};
pub use params::{Address, BoundsError, Params, SPACE_RANK_MAX};
pub use program::{
    Access, Body, Buffer, Contract, Guard, Immediate, Instr, Map, PaddedAxis, Plan, Reduce,
    ScanStep, ScatterStep, Slot, Step, Store, TempSpec, ValueId,
};
