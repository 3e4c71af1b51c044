//! The C interface of tensord.
