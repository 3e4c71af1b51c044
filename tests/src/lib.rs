//! What tensord promises, tested from outside.
