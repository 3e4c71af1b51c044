//! What `doctor` looks at, by subject. Each check reads and says; none changes anything.

pub mod gpu;
pub mod kernel;
pub mod limits;
pub mod processor;
pub mod socket;

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, with less than it could.
    Warn,
    /// Something will not work.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    pub advice: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn with_advice(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            name,
            verdict,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    /// It works, with less than it could.
    pub fn warn(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding::with_advice(name, Verdict::Warn, found, advice)
    }

    /// Something will not work.
    pub fn fail(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding::with_advice(name, Verdict::Fail, found, advice)
    }
}
