//! The engine's accounts in full, for who checks them: `stat` rounds to microseconds.

use super::Engine;
use crate::engine_process::{SessionId, SessionTotals, TenantId};

/// Device time and requests, to the nanosecond.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Device time of all launches that ended.
    pub busy_ns: u64,
    /// The sessions that are attached, in the order of their places.
    pub sessions: Vec<SessionBooks>,
}

/// A session's part.
#[derive(Clone, Copy, Debug)]
pub struct SessionBooks {
    /// Which.
    pub id: SessionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Device time charged to it.
    pub device_ns: u64,
    /// Requests accepted.
    pub accepted: u64,
    /// What became of them.
    pub totals: SessionTotals,
    /// Is there work of it that could run?
    pub is_hungry: bool,
}

impl Engine {
    /// The accounts now.
    pub fn books(&self) -> Books {
        let sessions = self.sessions.iter().flatten();
        Books {
            busy_ns: self.busy_ns,
            sessions: sessions
                .map(|session| SessionBooks {
                    id: session.spec.id,
                    tenant: session.spec.tenant,
                    device_ns: session.device_ns,
                    accepted: session.accepted,
                    totals: session.totals,
                    is_hungry: session
                        .queues
                        .iter()
                        .flatten()
                        .any(|queue| !queue.works.is_empty()),
                })
                .collect(),
        }
    }

    /// Did the device of a simulated engine fail? Nothing happens in it any more; the next one is another epoch.
    pub fn is_lost(&self) -> bool {
        self.lost
    }
}
