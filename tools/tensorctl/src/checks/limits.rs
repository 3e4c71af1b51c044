//! What this machine lets a process have: files, locked memory, memory, mappings.
//!
//! The limits are those of this process. A daemon under systemd has those of its unit, so the advice names both.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::Finding;
use crate::units;

/// Descriptors that the daemon needs beside those of sessions, and for each session with one queue.
const FILES_SPARE: u64 = 128;
const FILES_PER_SESSION: u64 = 6;
/// Sessions that a machine should carry before doctor complains.
const SESSIONS_WANTED: u64 = 1_000;
/// Least memory that is worth starting with.
const MEMORY_LEAST: u64 = 256 << 20;
/// The kernel's own default of mappings per process.
const MAPPINGS_DEFAULT: u64 = 65_530;

/// All of them.
pub fn check() -> Vec<Finding> {
    let mut findings = vec![files(), locked()];
    findings.extend(memory());
    findings.push(mappings());
    findings.push(shared_folder());
    findings
}

fn files() -> Finding {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Finding::warn("open files", "RLIMIT_NOFILE cannot be read", "none known");
    };
    // The daemon raises its own limit to the hard one.
    let sessions = hard.saturating_sub(FILES_SPARE) / FILES_PER_SESSION;
    let text = format!(
        "RLIMIT_NOFILE {} (hard {}): {} sessions",
        limit(soft),
        limit(hard),
        units::count(sessions)
    );
    let advice =
        "raise the hard limit: LimitNOFILE= in the unit, /etc/security/limits.conf for users";
    match sessions {
        0..16 => Finding::fail("open files", text, advice),
        16..SESSIONS_WANTED => Finding::warn("open files", text, advice),
        _ => Finding::ok(
            "open files",
            if hard == RLIM_INFINITY {
                "RLIMIT_NOFILE unlimited".into()
            } else {
                text
            },
        ),
    }
}

/// The cpu backend locks nothing; a GPU's driver locks staging memory.
fn locked() -> Finding {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((_, hard)) => Finding::ok(
            "locked memory",
            format!(
                "RLIMIT_MEMLOCK {}; the cpu backend locks none",
                units::or_dash(Some(hard), bytes_limit)
            ),
        ),
        Err(error) => Finding::warn(
            "locked memory",
            error.to_string(),
            "none known; the cpu backend locks none",
        ),
    }
}

fn memory() -> Vec<Finding> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (Some(total), Some(available)) =
        (meminfo(&text, "MemTotal"), meminfo(&text, "MemAvailable"))
    else {
        return vec![Finding::warn(
            "memory",
            "/proc/meminfo cannot be read",
            "mount /proc; the daemon reads it too",
        )];
    };
    let found = format!(
        "{} of {} available",
        units::bytes(available),
        units::bytes(total)
    );
    let advice =
        "end something, or set engine.device_bytes in the configuration below what is there";
    let first = if available < MEMORY_LEAST {
        Finding::warn("memory", found, advice)
    } else {
        Finding::ok("memory", found)
    };
    vec![first, group(total)]
}

fn group(total: u64) -> Finding {
    let name = "cgroup memory";
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = membership.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Finding::ok(name, "no cgroup v2: no limit of that kind is read");
    };
    let Some((limit, group)) = least_limit(Path::new("/sys/fs/cgroup"), path) else {
        return Finding::ok(name, "memory.max sets no limit");
    };
    let found = format!("memory.max {} in {group}", units::bytes(limit));
    if limit < MEMORY_LEAST {
        return Finding::fail(
            name,
            found,
            "raise MemoryMax= of the unit or the container's limit",
        );
    }
    // With device_bytes = 0 the device may hold three quarters of the machine's memory.
    if limit < total / 4 * 3 {
        let advice =
            "set engine.device_bytes well below it: staging and the daemon itself count too";
        return Finding::warn(name, found, advice);
    }
    Finding::ok(name, found)
}

/// The tightest `memory.max` on the way from the root to a group.
fn least_limit(root: &Path, group: &str) -> Option<(u64, String)> {
    let mut path = group.to_owned();
    let mut least: Option<(u64, String)> = None;
    loop {
        let file = root.join(path.trim_start_matches('/')).join("memory.max");
        if let Some(limit) = fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            && least.as_ref().is_none_or(|(least, _)| limit < *least)
        {
            least = Some((
                limit,
                if path.is_empty() {
                    "/".into()
                } else {
                    path.clone()
                },
            ));
        }
        if path.is_empty() {
            return least;
        }
        path.truncate(path.rfind('/').unwrap_or(0));
    }
}

fn mappings() -> Finding {
    let file = "/proc/sys/vm/max_map_count";
    match fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
    {
        Some(count) if count < MAPPINGS_DEFAULT => Finding::warn(
            "mappings",
            format!("vm.max_map_count {}", units::count(count)),
            format!(
                "sysctl vm.max_map_count={MAPPINGS_DEFAULT}: each queue takes two mappings of the engine"
            ),
        ),
        Some(count) => Finding::ok(
            "mappings",
            format!("vm.max_map_count {}", units::count(count)),
        ),
        None => Finding::ok("mappings", format!("{file} cannot be read")),
    }
}

/// Rings and staging are memfds, which no size of a mount bounds; Python's own multiprocessing uses this folder.
fn shared_folder() -> Finding {
    let name = "/dev/shm";
    match nix::sys::statvfs::statvfs(name) {
        Ok(status) => {
            let free = status
                .blocks_available()
                .saturating_mul(status.fragment_size());
            Finding::ok(
                name,
                format!(
                    "{} free; tensord uses memfds and none of it",
                    units::bytes(free)
                ),
            )
        }
        Err(_) => Finding::ok(name, "not mounted; tensord uses memfds and does without"),
    }
}

fn limit(value: u64) -> String {
    if value == RLIM_INFINITY {
        "unlimited".into()
    } else {
        units::count(value)
    }
}

fn bytes_limit(value: u64) -> String {
    if value == RLIM_INFINITY {
        "unlimited".into()
    } else {
        units::bytes(value)
    }
}

/// A field of `/proc/meminfo`, which counts in KiB.
fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_above_a_group_counts() {
        let root = std::env::temp_dir().join(format!("tensorctl-cgroup-{}", std::process::id()));
        let deep = root.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        for (folder, limit) in [("a", "5000"), ("a/b", "max")] {
            fs::write(root.join(folder).join("memory.max"), limit).unwrap();
        }
        assert_eq!(least_limit(&root, "/a/b"), Some((5000, "/a".into())));
        fs::write(deep.join("memory.max"), "300\n").unwrap();
        assert_eq!(least_limit(&root, "/a/b"), Some((300, "/a/b".into())));
        assert_eq!(least_limit(&root, "/c"), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn meminfo_is_in_bytes() {
        let text = "MemTotal:       24671 kB\nMemAvailable:    1 kB\n";
        assert_eq!(
            (meminfo(text, "MemTotal"), meminfo(text, "Mem")),
            (Some(24671 * 1024), None)
        );
    }
}
