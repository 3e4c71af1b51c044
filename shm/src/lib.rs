//! What a tensord client and the daemon must agree on: rings, records, operations, control messages.
pub mod address;
pub mod control;
pub mod control_socket;
pub mod error;
