//! An operating-system service for tensors: supervisor, broker and engine.
#![forbid(unsafe_code)]

pub mod account;
pub mod bills;
pub mod broker;
pub mod clock;
pub mod complete;
pub mod config;
pub mod courtesy;
pub mod dispatch;
pub mod engine;
pub mod engine_process;
pub mod fuse;
pub mod graph;
pub mod ingest;
pub mod limits;
pub mod link;
pub mod log;
pub mod map;
pub mod notify;
pub mod process;
pub mod sandbox;
pub mod schedule;
pub mod session;
pub mod slate;
pub mod stages;
pub mod stats;
pub mod supervisor;
