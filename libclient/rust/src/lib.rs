//! The Rust client of tensord: sessions, queues, tensors.
