//! What a tensord client and the daemon must agree on: rings, records, operations, control messages.
