//! Watches and steers a running tensord.
fn main() {}
