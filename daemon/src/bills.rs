//! Device time of each session since it was last reported, to be added up over sessions, engines and daemons.
//!
//! The engine notes what it charges, its process reports it to the supervisor, which keeps the totals. A session that ends
//! while the device still works for it is billed all the same: its bill stays until that is over and reported.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::engine_process::{SessionId, SessionSpec};

/// Sessions in one part of a report, so that many parts fit in a message.
const SESSIONS_MAX: usize = 8;

/// What a session has used and nobody was told of.
#[derive(Debug)]
pub struct Bill {
    tenant: String,
    uid: u32,
    account: Rc<Account>,
    unreported_ns: Cell<u64>,
}

impl Bill {
    /// Notes device time.
    pub fn charge(&self, used_ns: u64, now_ns: u64) {
        self.unreported_ns.set(self.unreported_ns.get() + used_ns);
        self.account.charge_time(used_ns, now_ns);
    }
}

/// Device time of sessions of one uid in one tenant since the last report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charged {
    /// The tenant's name.
    pub tenant: String,
    /// The uid.
    pub uid: u32,
    /// Sessions with what each used, ns.
    pub sessions: Vec<(u64, u64)>,
}

impl Charged {
    /// About how many bytes it takes in a message.
    pub fn list_bytes(&self) -> usize {
        self.tenant.len() + 64 + self.sessions.len() * 40
    }
}

/// The bills of an engine's sessions.
#[derive(Debug, Default)]
pub struct Bills {
    of: HashMap<SessionId, Rc<Bill>>,
}

impl Bills {
    /// A bill for a session that begins.
    pub fn open(&mut self, spec: &SessionSpec, account: &Rc<Account>) -> Rc<Bill> {
        let bill = Rc::new(Bill {
            tenant: spec.tenant_name.clone(),
            uid: spec.uid,
            account: Rc::clone(account),
            unreported_ns: Cell::new(0),
        });
        self.of.insert(spec.id, Rc::clone(&bill));
        bill
    }

    /// The bill of a session, which may have ended.
    pub fn get(&self, session: SessionId) -> Option<&Rc<Bill>> {
        self.of.get(&session)
    }

    /// What was used since the last call. `works`: does the device still work for it?
    pub fn take(&mut self, works: impl Fn(SessionId) -> bool) -> Vec<Charged> {
        let mut charged: HashMap<(&str, u32), Vec<(u64, u64)>> = HashMap::new();
        for (session, bill) in &self.of {
            let used_ns = bill.unreported_ns.replace(0);
            if used_ns > 0 {
                let of = charged.entry((&bill.tenant, bill.uid)).or_default();
                of.push((session.0, used_ns));
            }
        }
        let parts = charged.iter().flat_map(|(&(tenant, uid), sessions)| {
            sessions.chunks(SESSIONS_MAX).map(move |part| Charged {
                tenant: tenant.to_owned(),
                uid,
                sessions: part.to_vec(),
            })
        });
        let charged = parts.collect();
        self.of
            .retain(|session, bill| Rc::strong_count(bill) > 1 || works(*session));
        charged
    }
}
