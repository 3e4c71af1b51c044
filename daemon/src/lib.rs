//! An operating-system service for tensors: supervisor, broker and engine.
