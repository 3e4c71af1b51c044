//! Confines a process of the daemon to what it has business with, after it has started.
//!
//! Three layers, each of which the kernel enforces for good: no new privileges and no capabilities; landlock for paths;
//! seccomp for system calls. What is refused comes back as an error (EPERM, EACCES), so a library that probes goes on.
//! Filters are inherited over exec: the supervisor's has to hold what its children start with, and theirs are tighter.
//! Where a kernel lacks landlock, that layer is missing and a warning says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::libc;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use tensord_shm::CHECKED;

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Starts the others; execs, binds, reads its configuration.
    Supervisor,
    /// Speaks with clients.
    Broker,
    /// Computes.
    Engine,
}

impl Role {
    /// As the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Supervisor => "supervisor",
            Role::Broker => "broker",
            Role::Engine => "engine",
        }
    }
}

/// Why a process could not be confined. It must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Privileges or limits.
    #[error("dropping privileges: {0}")]
    Privileges(#[from] nix::Error),
    /// Capabilities.
    #[error("dropping capabilities: {0}")]
    Capabilities(String),
    /// Paths.
    #[error("landlock: {0}")]
    Paths(#[from] landlock::RulesetError),
    /// A path of a rule.
    #[error("landlock: {0}")]
    Path(#[from] landlock::PathFdError),
    /// System calls.
    #[error("seccomp: {0}")]
    Calls(String),
}

/// What a process may do with a path and all that is beneath it.
#[derive(Clone, Debug)]
pub enum Grant {
    /// Read files and list folders.
    Read(PathBuf),
    /// Read and execute.
    Execute(PathBuf),
    /// Make and remove sockets.
    Sockets(PathBuf),
    /// Read and write existing files.
    Write(PathBuf),
    /// Read, write, make, rename and remove files.
    Files(PathBuf),
}

/// Confines the broker or an engine.
pub fn confine(role: Role) -> Result<(), SandboxError> {
    let read = |path: &str| Grant::Read(PathBuf::from(path));
    let grants = match role {
        Role::Supervisor => supervisor_grants(&[]),
        // Peers' commands and cgroups, and the overflow uid.
        Role::Broker => vec![read("/proc")],
        // What tells how many cores and how much memory there are.
        Role::Engine => [
            "/proc/self",
            "/proc/cpuinfo",
            "/proc/meminfo",
            "/sys/fs/cgroup",
            "/sys/devices/system",
        ]
        .map(read)
        .to_vec(),
    };
    confine_to(role, &grants)
}

/// Confines the supervisor. `own` are the folders of its sockets and its configuration.
pub fn confine_supervisor(own: &[Grant]) -> Result<(), SandboxError> {
    confine_to(Role::Supervisor, &supervisor_grants(own))
}

fn supervisor_grants(own: &[Grant]) -> Vec<Grant> {
    let mut grants = own.to_vec();
    // What the children read is here too: a child can only give up rights.
    grants.extend(
        [
            "/proc",
            "/sys/fs/cgroup",
            "/sys/devices/system",
            "/etc/ld.so.cache",
        ]
        .map(|path| Grant::Read(path.into())),
    );
    grants.extend(
        ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64"]
            .map(|path| Grant::Execute(path.into())),
    );
    grants.push(Grant::Write("/dev/null".into()));
    if let Ok(program) = std::env::current_exe() {
        grants.push(Grant::Execute(program));
    }
    grants
}

fn confine_to(role: Role, grants: &[Grant]) -> Result<(), SandboxError> {
    if !CHECKED {
        // Filters cost each system call something.
        return Ok(());
    }
    set_no_new_privs()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard)?;
    confine_paths(role, grants)?;
    if role != Role::Supervisor {
        for set in [
            caps::CapSet::Ambient,
            caps::CapSet::Inheritable,
            caps::CapSet::Effective,
            caps::CapSet::Permitted,
        ] {
            caps::clear(None, set)
                .map_err(|error| SandboxError::Capabilities(error.to_string()))?;
        }
    }
    confine_calls(role)
}

fn confine_paths(role: Role, grants: &[Grant]) -> Result<(), SandboxError> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?;
    if role != Role::Supervisor {
        // The supervisor has to signal its children; they have nobody to signal.
        ruleset = ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    }
    let mut ruleset = ruleset.create()?;
    for grant in grants {
        let (path, access): (&Path, BitFlags<AccessFs>) = match grant {
            Grant::Read(path) => (path, read),
            Grant::Execute(path) => (path, read | AccessFs::Execute),
            Grant::Sockets(path) => (path, read | AccessFs::MakeSock | AccessFs::RemoveFile),
            Grant::Write(path) => (path, AccessFs::ReadFile | AccessFs::WriteFile),
            Grant::Files(path) => (
                path,
                read | AccessFs::WriteFile
                    | AccessFs::MakeReg
                    | AccessFs::RemoveFile
                    | AccessFs::Truncate,
            ),
        };
        // What this machine does not have needs no rule.
        let Ok(metadata) = std::fs::metadata(path) else {
            continue;
        };
        let access = if metadata.is_dir() {
            access
        } else {
            access & AccessFs::from_file(abi)
        };
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => {}
        RulesetStatus::PartiallyEnforced => {
            tracing::debug!(
                role = role.name(),
                "this kernel knows a part of the landlock rules"
            );
        }
        RulesetStatus::NotEnforced => tracing::warn!(
            role = role.name(),
            "this kernel has no landlock: paths are guarded by file permissions and seccomp alone"
        ),
    }
    Ok(())
}

/// What every process needs to live: memory, time, signals of its own, files that are open, polls.
const CALLS_ALL: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrusage,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_tgkill,
    // Let through here and made absent by the filter beside this one: see `confine_calls`.
    libc::SYS_clone3,
];

/// The older names of calls above, which some machines have and C libraries still use there.
#[cfg(target_arch = "x86_64")]
const CALLS_OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_dup2,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_arch_prctl,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const CALLS_OLD: &[i64] = &[];

const CALLS_BROKER: &[i64] = &[libc::SYS_shutdown, libc::SYS_getsockopt];

/// Worker threads and where they run.
const CALLS_ENGINE: &[i64] = &[
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
];

/// Starting children, listening, and what the children do while they start.
const CALLS_SUPERVISOR: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_clone,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_open,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_umask,
    libc::SYS_chdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fsync,
    libc::SYS_flock,
    libc::SYS_fdatasync,
    libc::SYS_mkdirat,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_signalfd4,
    libc::SYS_pipe2,
    libc::SYS_prlimit64,
    libc::SYS_prctl,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];
#[cfg(target_arch = "x86_64")]
const CALLS_SUPERVISOR_OLD: &[i64] = &[
    libc::SYS_vfork,
    libc::SYS_fork,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_chmod,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_pipe,
];
#[cfg(not(target_arch = "x86_64"))]
const CALLS_SUPERVISOR_OLD: &[i64] = &[];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn confine_calls(role: Role) -> Result<(), SandboxError> {
    let fail = |error: &dyn std::fmt::Display| SandboxError::Calls(error.to_string());
    // clone3 hides its flags behind a pointer: absent, the C library takes clone, whose flags can be seen. It has a
    // filter of its own because one filter knows one refusal; of two refusals the later filter's would be heard.
    let absent: Rules = [(libc::SYS_clone3, Vec::new())].into();
    let enosys = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let eperm = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let allowed = allowed_calls(role).map_err(|error| fail(&error))?;
    for (rules, mismatch, matching) in [
        (absent, SeccompAction::Allow, enosys),
        (allowed, eperm, SeccompAction::Allow),
    ] {
        let arch = std::env::consts::ARCH
            .try_into()
            .map_err(|error| fail(&error))?;
        let filter =
            SeccompFilter::new(rules, mismatch, matching, arch).map_err(|error| fail(&error))?;
        let program: BpfProgram = filter
            .try_into()
            .map_err(|error: seccompiler::BackendError| fail(&error))?;
        // The last filter forbids prctl and seccomp themselves, so it has to be the last.
        seccompiler::apply_filter(&program).map_err(|error| fail(&error))?;
    }
    Ok(())
}

fn allowed_calls(role: Role) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    let mut allow = |calls: &[i64]| rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    allow(CALLS_ALL);
    allow(CALLS_OLD);
    match role {
        Role::Supervisor => {
            for calls in [
                CALLS_SUPERVISOR,
                CALLS_SUPERVISOR_OLD,
                CALLS_BROKER,
                CALLS_ENGINE,
            ] {
                allow(calls);
            }
        }
        Role::Broker => allow(CALLS_BROKER),
        Role::Engine => allow(CALLS_ENGINE),
    }
    let argument = |index: u8,
                    operator: SeccompCmpOp,
                    value: u64|
     -> Result<SeccompRule, seccompiler::BackendError> {
        SeccompRule::new(vec![SeccompCondition::new(
            index,
            SeccompCmpArgLen::Dword,
            operator,
            value,
        )?])
    };
    let unix = u64::from(libc::AF_UNIX.cast_unsigned());
    if role != Role::Engine {
        rules.insert(
            libc::SYS_socketpair,
            vec![argument(0, SeccompCmpOp::Eq, unix)?],
        );
    }
    if role == Role::Supervisor {
        rules.insert(libc::SYS_socket, vec![argument(0, SeccompCmpOp::Eq, unix)?]);
    }
    if role == Role::Engine {
        let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
        rules.insert(
            libc::SYS_clone,
            vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?],
        );
        let set_name = u64::from(libc::PR_SET_NAME.cast_unsigned());
        rules.insert(
            libc::SYS_prctl,
            vec![argument(0, SeccompCmpOp::Eq, set_name)?],
        );
    }
    rules.insert(
        libc::SYS_ioctl,
        vec![
            argument(1, SeccompCmpOp::Eq, libc::FIONBIO)?,
            argument(1, SeccompCmpOp::Eq, libc::FIOCLEX)?,
        ],
    );
    Ok(rules)
}

/// One thing that a confined process has no business with, and what became of the attempt.
#[derive(Debug)]
pub struct Probe {
    /// What was tried.
    pub what: &'static str,
    /// What the kernel said: `Ok` means that it was let through.
    pub outcome: Result<(), nix::Error>,
}

/// Tries what no process of the daemon has business with. Call it after [`confine`].
pub fn probe() -> Vec<Probe> {
    use nix::fcntl::{OFlag, open};
    use nix::mount::{MsFlags, mount};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use nix::sys::stat::Mode;
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/root".into());
    let open =
        |path: &Path| open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(drop);
    let nothing: Option<&str> = None;
    let internet = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    vec![
        Probe {
            what: "ptrace",
            outcome: nix::sys::ptrace::traceme(),
        },
        Probe {
            what: "mount",
            outcome: mount(nothing, "/", nothing, MsFlags::MS_REMOUNT, nothing),
        },
        Probe {
            what: "socket(AF_INET)",
            outcome: internet.map(drop),
        },
        Probe {
            what: "open /etc/shadow",
            outcome: open(Path::new("/etc/shadow")),
        },
        Probe {
            what: "open $HOME",
            outcome: open(Path::new(&home)),
        },
    ]
}
