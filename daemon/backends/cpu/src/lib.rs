//! The cpu backend of tensord: tile machine, reductions, contraction kernel.
