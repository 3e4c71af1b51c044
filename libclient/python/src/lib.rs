//! The Python package of tensord.
