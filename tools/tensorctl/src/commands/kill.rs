//! `tensorctl kill`: ends sessions, named or found by uid and name.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};
use tensord_shm::control::Request;

use crate::daemon::Connection;
use crate::units::word;

/// What `kill` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Numbers of sessions, as `tensorctl ps` shows them.
    #[arg(value_name = "SESSION")]
    sessions: Vec<u64>,
    /// The sessions of this uid.
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// The sessions whose name matches (* and ?); with --uid those that are of that uid too.
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,
}

impl Options {
    fn wants(&self, session: &Value) -> bool {
        let named = self.sessions.iter().any(|id| session["id"] == *id);
        let searched = self.uid.is_some() || self.name.is_some();
        let found = self.uid.is_none_or(|uid| session["uid"] == uid)
            && self
                .name
                .as_ref()
                .is_none_or(|glob| matches(glob, session["name"].as_str().unwrap_or("")));
        named || (searched && found)
    }
}

/// Does the text match? `*` is any text, `?` any character.
fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    // Where the last star stands, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    g = *at + 1;
                    t = *taken;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|rest| *rest == '*')
}

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool, options: &Options) -> anyhow::Result<ExitCode> {
    if options.sessions.is_empty() && options.uid.is_none() && options.name.is_none() {
        bail!("whom? name sessions (tensorctl ps shows them), or say --uid or --name");
    }
    let mut connection = Connection::open(socket)?;
    let stat = connection.stat()?;
    let wanted: Vec<Value> = stat
        .sessions()
        .iter()
        .filter(|session| options.wants(session))
        .map(|session| {
            json!({
                "id": session["id"],
                "pid": session["pid"],
                "uid": session["uid"],
                "name": session["name"],
                "command": session["command"],
            })
        })
        .collect();
    let mut failed: Vec<Value> = options
        .sessions
        .iter()
        .filter(|id| !wanted.iter().any(|session| session["id"] == **id))
        .map(|id| json!({ "id": id, "error": "there is no such session" }))
        .collect();
    let mut killed = Vec::new();
    for session in wanted {
        let id = session["id"].as_u64().unwrap_or(0);
        match connection.order(&Request::Kill { session: id }) {
            Ok(()) => killed.push(session),
            Err(error) => failed.push(json!({ "id": id, "error": format!("{error:#}") })),
        }
    }
    let nobody = killed.is_empty() && failed.is_empty();
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{:#}", json!({ "killed": killed, "failed": failed }))?;
    } else {
        for session in &killed {
            writeln!(
                out,
                "ended session {}: {} (process {}, uid {}, {})",
                session["id"],
                word(&session["name"]),
                session["pid"],
                session["uid"],
                word(&session["command"])
            )?;
        }
        for session in &failed {
            let error = session["error"].as_str().unwrap_or("");
            eprintln!("tensorctl: session {}: {error}", session["id"]);
        }
        if nobody {
            eprintln!("tensorctl: no session matches (tensorctl ps shows them)");
        }
    }
    let done = failed.is_empty() && !nobody;
    Ok(ExitCode::from(u8::from(!done)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_a_shell() {
        for (glob, text, wanted) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("train-*", "train-7", true),
            ("train-*", "retrain-7", false),
            ("*-?", "train-7", true),
            ("*-?", "train-17", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "ä", true),
        ] {
            assert_eq!(matches(glob, text), wanted, "{glob} {text}");
        }
    }

    #[test]
    fn uid_and_name_narrow_and_numbers_add() {
        let session = |id: u64, uid: u32, name: &str| json!({ "id": id, "uid": uid, "name": name });
        let options = Options {
            sessions: vec![9],
            uid: Some(7),
            name: Some("a*".to_owned()),
        };
        assert!(options.wants(&session(9, 1, "x")));
        assert!(options.wants(&session(2, 7, "ab")));
        assert!(!options.wants(&session(3, 7, "b")) && !options.wants(&session(4, 8, "a")));
    }
}
