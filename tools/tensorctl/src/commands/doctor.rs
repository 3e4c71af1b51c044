//! `tensorctl doctor`: looks at what the daemon builds on and says what to do. Exit status 1 where something will not work.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::checks::{Finding, Verdict, gpu, kernel, limits, processor, socket};

/// See the file's head.
pub fn run(named: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let cuda = tensord_cuda::probe();
    let mut findings = socket::check(named);
    findings.extend(limits::check());
    findings.extend(processor::check());
    findings.extend(kernel::check());
    findings.extend(gpu::check(&cuda));
    let failed = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fail);
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(
            out,
            "{:#}",
            json!({ "ok": !failed, "checks": findings, "cuda": cuda })
        )?;
    } else {
        print(&mut out, &findings)?;
    }
    Ok(ExitCode::from(u8::from(failed)))
}

fn print(out: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    let colours = io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let width = findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or(0);
    for finding in findings {
        let (word, colour) = match finding.verdict {
            Verdict::Ok => ("ok  ", 32),
            Verdict::Warn => ("warn", 33),
            Verdict::Fail => ("fail", 31),
        };
        let word = if colours {
            format!("\x1b[{colour}m{word}\x1b[0m")
        } else {
            word.to_owned()
        };
        writeln!(out, "{word}  {:<width$}  {}", finding.name, finding.found)?;
        if let Some(advice) = &finding.advice {
            writeln!(out, "      {:<width$}  -> {advice}", "")?;
        }
    }
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    writeln!(
        out,
        "{} ok, {} to improve, {} that will not work",
        count(Verdict::Ok),
        count(Verdict::Warn),
        count(Verdict::Fail)
    )
}
