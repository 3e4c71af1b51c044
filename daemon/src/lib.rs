//! An operating-system service for tensors: supervisor, broker and engine.
#![forbid(unsafe_code)]

pub mod broker;
pub mod config;
pub mod engine_process;
pub mod limits;
pub mod link;
pub mod log;
pub mod notify;
pub mod process;
pub mod sandbox;
pub mod supervisor;
