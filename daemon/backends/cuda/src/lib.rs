//! CUDA for tensord: what this machine has of it.
