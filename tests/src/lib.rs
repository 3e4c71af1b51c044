//! What the tests of tensord share: a naive reference of the operation table, random programs, a daemon to test.

#![forbid(unsafe_code)]

pub mod daemon;
pub mod figures;
pub mod programs;
pub mod random;
pub mod raw;
pub mod reference;
