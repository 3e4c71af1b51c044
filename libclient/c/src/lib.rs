//! The C interface of tensord: opaque sessions and tensors over the Rust client, with codes for outcomes.
//!
//! `include/tensord.h` is made from this crate by cbindgen; a test holds it to that. Every function that can fail gives
//! a [`codes::tensord_code`] and leaves a message for [`guard::tensord_last_error`] in its thread.
//!
//! # Invariants
//! No panic crosses the boundary, and no pointer that comes in is used before it was compared with NULL. What a pointer
//! points at is the caller's duty and stated at each function.

pub mod codes;
pub mod guard;
pub mod session;
pub mod submit;
pub mod tensor;
