//! What an engine keeps of a session: its handles, queues, arenas and accounts.

use std::rc::Rc;

use tensord_shm::control::{Level, LimitReached, Resource};
use tensord_shm::error::Code;
use tensord_shm::staging::StagingMap;

use crate::account::Account;
use crate::bills::Bill;
use crate::config::Quotas;
use crate::engine_process::{SessionSpec, SessionTotals};
use crate::graph::handles::Handles;
use crate::ingest::Queue;
use crate::limits::HANDLES_MAX;
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
    /// What it holds, below the accounts of its uid and its tenant.
    pub account: Rc<Account>,
    /// Its device time that was not reported yet.
    pub bill: Rc<Bill>,
    /// What became of its requests.
    pub totals: SessionTotals,
    /// Requests accepted.
    pub accepted: u64,
    /// Requests that may be in flight, by all limits above it, as of the last [`Session::make_room`].
    pub in_flight_max: u64,
    /// Device time charged to it.
    pub device_ns: u64,
    /// Time that its work was ready and did not run.
    pub wait_ns: u64,
}

impl Session {
    /// A session that did nothing yet.
    pub fn new(spec: SessionSpec, seat: Seat, account: Rc<Account>, bill: Rc<Bill>) -> Session {
        Session {
            handles: Handles::new(spec.limits.handles),
            account,
            bill,
            in_flight_max: 0,
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

    /// Requests accepted that have no outcome.
    pub fn in_flight(&self) -> u64 {
        let SessionTotals {
            ok,
            failed,
            cancelled,
            ..
        } = self.totals;
        self.accepted - ok - failed - cancelled
    }

    /// The limits under which it stands have changed.
    pub fn set_quotas(&mut self, quotas: &Quotas, now_ns: u64) {
        self.spec.quotas = *quotas;
        self.account.set_limits(&quotas.session, now_ns);
        let uid = self.account.at(Level::Uid);
        uid.set_limits(&quotas.uid, now_ns);
        uid.at(Level::Tenant).set_limits(&quotas.tenant, now_ns);
        let handles = quotas.session.get(Resource::Handles);
        self.handles
            .raise_limit(u32::try_from(handles).unwrap_or(u32::MAX).min(HANDLES_MAX));
    }

    /// Brings what its accounts say of requests and handles up to date.
    pub fn recount(&self) {
        let (requests, handles) = (self.in_flight(), u64::from(self.handles.bound()));
        if self.account.used(Resource::Requests) != requests {
            self.account.recount(Resource::Requests, requests);
        }
        if self.account.used(Resource::Handles) != handles {
            self.account.recount(Resource::Handles, handles);
        }
    }

    /// Works out how many requests and handles it may have until others of its uid and tenant are looked at.
    pub fn make_room(&mut self) {
        self.recount();
        let (room, _) = self.account.room(Resource::Requests);
        self.in_flight_max = self.in_flight().saturating_add(room);
        let (room, _) = self.account.room(Resource::Handles);
        let bound_max = u64::from(self.handles.bound()).saturating_add(room);
        self.handles
            .set_bound_max(u32::try_from(bound_max).unwrap_or(u32::MAX));
    }

    /// Which limit made something of this session fail with `code`, if one did.
    pub fn limit_reached(&self, code: Code) -> Option<LimitReached> {
        let refused = self.account.take_refusal(code);
        let full = code == Code::Limit && self.handles.is_full();
        refused.or_else(|| full.then(|| self.account.room(Resource::Handles).1.told()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.account.recount(Resource::Requests, 0);
        self.account.recount(Resource::Handles, 0);
    }
}
