//! Who a peer is: what the kernel says of it, and which tenant its listening socket makes of that.
//!
//! `SO_PEERCRED` was frozen when the peer connected, so it reads the same in every later broker. A cgroup is not frozen:
//! it is read once, at the first look, and the session keeps the answer.

use std::os::fd::OwnedFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tensord_shm::control::ControlError;
use tensord_shm::error::Code;

use crate::config::TenantRule;

/// The tenant of connections over the administration socket.
pub(super) const ADMINISTRATION: &str = "administration";

/// Who a peer is.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) command: String,
    /// Name of its tenant: `uid:1000`, `cgroup:/user.slice`, `name:web`.
    pub(super) tenant: String,
}

/// Names peers.
pub(super) struct Identity {
    /// What the kernel shows in place of a uid that this user namespace does not map.
    overflow_uid: u32,
}

impl Identity {
    pub(super) fn new() -> Identity {
        let overflow_uid = std::fs::read_to_string("/proc/sys/kernel/overflowuid")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(65_534);
        Identity { overflow_uid }
    }

    /// Who is at the other end.
    pub(super) fn of(
        &self,
        socket: &OwnedFd,
        rule: &TenantRule,
        admin: bool,
    ) -> Result<Peer, ControlError> {
        let credentials = getsockopt(socket, PeerCredentials).map_err(|errno| {
            ControlError::new(
                Code::Denied,
                format!("the kernel does not say who you are: {errno}"),
            )
        })?;
        let (pid, uid) = (credentials.pid(), credentials.uid());
        let tenant = if admin {
            ADMINISTRATION.to_owned()
        } else {
            self.tenant(pid, uid, rule)?
        };
        Ok(Peer {
            pid,
            uid,
            command: command_of(pid),
            tenant,
        })
    }

    fn tenant(&self, pid: i32, uid: u32, rule: &TenantRule) -> Result<String, ControlError> {
        match rule {
            TenantRule::Name(name) => Ok(format!("name:{name}")),
            TenantRule::Uid if uid == self.overflow_uid => Err(ControlError::new(
                Code::Denied,
                format!(
                    "your uid is not mapped into the daemon's user namespace (it sees {uid}), so you cannot be told from \
                     others; connect to a socket whose [[listen]] entry says tenant = \"name:...\""
                ),
            )),
            TenantRule::Uid => Ok(format!("uid:{uid}")),
            TenantRule::Cgroup => cgroup_of(pid).map(|path| format!("cgroup:{path}")).ok_or_else(|| {
                ControlError::new(Code::Denied, format!("the cgroup of process {pid} cannot be read, and it names the tenant here"))
            }),
        }
    }
}

/// The unified hierarchy's path of a process.
fn cgroup_of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}

/// The command's name, which its process chose: for people, never for decisions.
fn command_of(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim_end()
        .chars()
        .map(|character| {
            if character.is_control() {
                '?'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_whose_uid_is_not_mapped_needs_a_named_tenant() {
        let identity = Identity {
            overflow_uid: 65_534,
        };
        assert_eq!(
            identity.tenant(1, 1_000, &TenantRule::Uid).unwrap(),
            "uid:1000"
        );
        let refused = identity.tenant(1, 65_534, &TenantRule::Uid).unwrap_err();
        assert_eq!(refused.code, Code::Denied);
        assert!(refused.text.contains("tenant = \"name:"), "{refused}");
        assert_eq!(
            identity
                .tenant(1, 65_534, &TenantRule::Name("web".into()))
                .unwrap(),
            "name:web"
        );
    }
}
