//! Fused programs in canonical form, and the interface of a backend that runs them.
