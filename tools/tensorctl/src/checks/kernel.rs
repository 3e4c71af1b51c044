//! What the kernel has of what the daemon builds on: sealed shared memory, landlock, seccomp, user namespaces.

use std::fs;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};
use tensord_shm::segment;

use super::Finding;

/// All of them.
pub fn check() -> Vec<Finding> {
    vec![memory_seals(), landlock(), seccomp(), namespaces()]
}

/// Makes the segments that the broker makes, seals them as it does, and lets them go.
fn memory_seals() -> Finding {
    let name = "sealed memory";
    let submission = segment::create_submission(segment::SLOT_COUNT_DEFAULT);
    let completion =
        segment::create_completion().and_then(|fd| segment::seal_completion(&fd).map(|()| fd));
    match submission.and(completion) {
        Ok(_) => Finding::ok(name, "memfd with shrink, grow and future-write seals"),
        Err(error) => {
            let advice = "Linux 5.1 or newer; a container's seccomp profile must allow memfd_create and fcntl seals";
            Finding::fail(name, error.to_string(), advice)
        }
    }
}

fn landlock() -> Finding {
    let name = "landlock";
    match landlock_level() {
        0 => Finding::warn(
            name,
            "not in this kernel, or not enabled",
            "the daemon runs without its path sandbox: Linux 5.13 or newer with lsm=landlock in the boot parameters",
        ),
        level => Finding::ok(
            name,
            format!("ABI {level}{}", if level == 6 { " or newer" } else { "" }),
        ),
    }
}

/// The newest ABI whose rights the kernel takes. A ruleset is made and thrown away; nobody is restricted by it.
fn landlock_level() -> u32 {
    let rulesets = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let files = |abi| rulesets().handle_access(AccessFs::from_all(abi)).is_ok();
    let takes = [
        files(ABI::V1),
        files(ABI::V2),
        files(ABI::V3),
        rulesets()
            .handle_access(AccessNet::from_all(ABI::V4))
            .is_ok(),
        files(ABI::V5),
        rulesets().scope(Scope::from_all(ABI::V6)).is_ok(),
    ];
    (1..)
        .zip(takes)
        .filter(|(_, taken)| *taken)
        .map(|(level, _)| level)
        .max()
        .unwrap_or(0)
}

fn seccomp() -> Finding {
    let name = "seccomp";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Finding::ok(name, "filters with errno")
        }
        _ => Finding::fail(
            name,
            "no filters (/proc/sys/kernel/seccomp/actions_avail)",
            "a kernel with CONFIG_SECCOMP_FILTER; without it only sandbox = false starts, which is for debugging",
        ),
    }
}

/// The daemon needs none. Inside of one it sees unmapped peers as the overflow uid and refuses them.
fn namespaces() -> Finding {
    let name = "user namespaces";
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    if fields != ["0", "0", "4294967295"] && !fields.is_empty() {
        return Finding::warn(
            name,
            format!(
                "this process is inside of one (uid_map {})",
                fields.join(" ")
            ),
            "a daemon here refuses peers from outside of it, unless their socket names the tenant: tenant = \"name:...\"",
        );
    }
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match most.trim() {
        "" | "0" => Finding::ok(name, "not available; the daemon needs none"),
        count => Finding::ok(name, format!("up to {count}; the daemon needs none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_does_not_restrict() {
        let level = landlock_level();
        assert!(level <= 6);
        let file = std::env::temp_dir().join(format!("tensorctl-landlock-{}", std::process::id()));
        fs::write(&file, "still allowed").unwrap();
        fs::remove_file(file).unwrap();
        assert_eq!(level, landlock_level());
    }
}
