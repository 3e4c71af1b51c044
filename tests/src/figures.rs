//! Measured lines: one for each figure, in the form that `make figures` collects.

use std::fmt::Display;

/// Prints `figure: NAME: VALUE (COMMAND)`, where the command is what measures it again.
pub fn figure(name: &str, value: impl Display, command: &str) {
    println!("figure: {name}: {value} ({command})");
}
