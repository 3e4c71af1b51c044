//! What an engine keeps of a session: its handles, queues, arenas and accounts.

use std::rc::Rc;

use tensord_shm::staging::StagingMap;

use crate::dispatch::memory::Account;
use crate::engine_process::{SessionSpec, SessionTotals};
use crate::graph::handles::Handles;
use crate::ingest::Queue;
use crate::schedule::{Owner, Seat};

/// A session. Everything that it holds is freed when this is dropped.
pub struct Session {
    /// Who it is and what it may.
    pub spec: SessionSpec,
    /// Its tensors.
    pub handles: Handles,
    /// Its queues, by number.
    pub queues: Vec<Option<Queue>>,
    /// Its staging arenas, by number.
    pub staging: Vec<StagingMap>,
    /// Where the scheduler keeps its accounts.
    pub seat: Seat,
    /// Its device memory.
    pub account: Rc<Account>,
    /// What became of its requests.
    pub totals: SessionTotals,
    /// Requests accepted.
    pub accepted: u64,
    /// Device time charged to it.
    pub device_ns: u64,
    /// Time that its work was ready and did not run.
    pub wait_ns: u64,
}

impl Session {
    /// A session that did nothing yet.
    pub fn new(spec: SessionSpec, seat: Seat, tenant: &Rc<Account>) -> Session {
        Session {
            handles: Handles::new(spec.limits.handles),
            account: Account::of_session(spec.limits.device_bytes, tenant),
            spec,
            seat,
            queues: Vec::new(),
            staging: Vec::new(),
            totals: SessionTotals::default(),
            accepted: 0,
            device_ns: 0,
            wait_ns: 0,
        }
    }

    /// Whose device time its work is.
    pub fn owner(&self) -> Owner {
        Owner {
            class: self.spec.class,
            tenant: self.spec.tenant,
            tenant_weight: self.spec.tenant_weight,
            session: self.spec.id,
            weight: self.spec.weight,
            seat: self.seat,
        }
    }

    /// A queue by its number.
    pub fn queue(&mut self, number: usize) -> Option<&mut Queue> {
        self.queues.get_mut(number).and_then(Option::as_mut)
    }

    /// Requests accepted and not finished.
    pub fn in_flight(&self) -> u64 {
        self.queues.iter().flatten().map(Queue::in_flight).sum()
    }
}
