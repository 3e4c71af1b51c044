//! What must hold in every run, whatever the seed: one file for each rule.
//!
//! A checker sees what clients, the device and the engine's books show, never how the engine came to it. Each is shown to fail
//! by a double that breaks its rule (`tests/doubles.rs`).

pub mod charges;
pub mod lag;
pub mod outcomes;

use std::fmt;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every accepted request has exactly one outcome.
    OneOutcome,
    /// A result is made from what its own request named and nothing else.
    OwnContent,
    /// Charges add up to the time that the device was busy.
    Charges,
    /// The engine keeps the rules of its backend: memory in use is left alone, and zeroed before it changes its tenant.
    BackendRules,
    /// Sessions that could use the device all the time get their shares of it.
    Lag,
    /// Everything comes to an end once nothing new is asked for.
    Liveness,
    /// A client that kept the rules gets no error.
    NoFailure,
    /// What is left when everybody is gone: nothing.
    Leftovers,
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// Where, with the values.
    pub text: String,
}

impl Violation {
    /// Of a rule.
    pub fn new(check: Check, text: impl Into<String>) -> Violation {
        Violation {
            check,
            text: text.into(),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Check::OneOutcome => "one outcome for each request",
            Check::OwnContent => "results made from what was asked for",
            Check::Charges => "charges that add up",
            Check::BackendRules => "rules of the backend",
            Check::Lag => "bounded lag",
            Check::Liveness => "everything ends",
            Check::NoFailure => "no failure without a cause",
            Check::Leftovers => "nothing left behind",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.text)
    }
}
