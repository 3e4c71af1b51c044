//! Sessions that could use the device all the time get their shares of it, up to a bound.
//!
//! While two sessions of one tenant and class both have work, what each was charged is compared with its weight; while two tenants
//! both have work of a class, what their sessions of that class were charged together. The difference since both became hungry must stay below
//! the bound: this is the lag of fair queueing (Parekh and Gallager 1993; for EEVDF Stoica et al. 1996).

use std::collections::BTreeMap;

use tensord_daemon::engine::{Books, SessionBooks};
use tensord_daemon::engine_process::{SessionId, TenantId};
use tensord_shm::control::Class;

use super::{Check, Violation};

/// What a session is entitled to.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Its class.
    pub class: Class,
    /// Its weight among its tenant's sessions.
    pub weight: u32,
    /// Its tenant's weight.
    pub tenant_weight: u32,
}

/// What each session is entitled to.
pub type Shares = BTreeMap<SessionId, Share>;

/// A pair, and what each of it had when both became hungry, in nanoseconds by weight.
type Pairs<K> = BTreeMap<(K, K), (f64, f64)>;

/// The lags of all pairs.
#[derive(Debug, Default)]
pub struct Lag {
    /// Largest difference in nanoseconds of device time at weight 100; `None` observes only.
    pub bound_ns: Option<u64>,
    /// The largest seen, between sessions and between tenants.
    pub largest_ns: (u64, u64),
    sessions: Pairs<SessionId>,
    tenants: Pairs<(TenantId, Class)>,
}

/// Of whom, what it had by weight, and whether it is hungry now.
struct Had<K> {
    who: K,
    group: (Option<TenantId>, Class),
    had: f64,
}

impl Lag {
    /// Nothing seen yet.
    pub fn new(bound_ns: Option<u64>) -> Lag {
        Lag {
            bound_ns,
            ..Lag::default()
        }
    }

    /// Looks at the books after a launch ended or a session became hungry.
    pub fn look(&mut self, books: &Books, shares: &Shares) -> Result<(), Violation> {
        let hungry = |session: &&SessionBooks| session.is_hungry;
        let sessions: Vec<Had<SessionId>> = books
            .sessions
            .iter()
            .filter(hungry)
            .filter_map(|session| {
                let share = shares.get(&session.id)?;
                Some(Had {
                    who: session.id,
                    group: (Some(session.tenant), share.class),
                    had: session.device_ns as f64 * 100.0 / f64::from(share.weight),
                })
            })
            .collect();
        let seen = observe(&mut self.sessions, &sessions);
        self.largest_ns.0 = self.largest_ns.0.max(self.judge(seen)?);
        let mut sums: BTreeMap<(TenantId, Class), (f64, bool)> = BTreeMap::new();
        for session in &books.sessions {
            let Some(share) = shares.get(&session.id) else {
                continue;
            };
            let sum = sums.entry((session.tenant, share.class)).or_default();
            sum.0 += session.device_ns as f64 * 100.0 / f64::from(share.tenant_weight);
            sum.1 |= session.is_hungry;
        }
        let tenants: Vec<Had<(TenantId, Class)>> = sums
            .into_iter()
            .filter(|(_, (_, hungry))| *hungry)
            .map(|(who, (had, _))| Had {
                who,
                group: (None, who.1),
                had,
            })
            .collect();
        let seen = observe(&mut self.tenants, &tenants);
        self.largest_ns.1 = self.largest_ns.1.max(self.judge(seen)?);
        Ok(())
    }

    fn judge(&self, seen: Option<(u64, String)>) -> Result<u64, Violation> {
        match (seen, self.bound_ns) {
            (Some((lag_ns, pair)), Some(bound_ns)) if lag_ns > bound_ns => {
                let text = format!(
                    "{pair} are {lag_ns} ns apart by weight while both have work; {bound_ns} is the bound"
                );
                Err(Violation::new(Check::Lag, text))
            }
            (seen, _) => Ok(seen.map_or(0, |(lag_ns, _)| lag_ns)),
        }
    }
}

/// Notes new pairs, forgets those of which one is not hungry any more, and gives the largest difference.
fn observe<K: Copy + Ord + std::fmt::Debug>(
    pairs: &mut Pairs<K>,
    hungry: &[Had<K>],
) -> Option<(u64, String)> {
    let before = std::mem::take(pairs);
    let mut largest: Option<(u64, String)> = None;
    for (k, a) in hungry.iter().enumerate() {
        for b in hungry[k + 1..].iter().filter(|b| b.group == a.group) {
            let key = (a.who, b.who);
            let &(a_had, b_had) = before.get(&key).unwrap_or(&(a.had, b.had));
            pairs.insert(key, (a_had, b_had));
            let lag_ns = ((a.had - a_had) - (b.had - b_had)).abs() as u64;
            if largest.as_ref().is_none_or(|(most, _)| lag_ns > *most) {
                largest = Some((lag_ns, format!("{:?} and {:?}", a.who, b.who)));
            }
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensord_daemon::engine_process::SessionTotals;

    fn books(had: &[(u64, u32, u64, bool)]) -> Books {
        let session = |&(id, tenant, device_ns, is_hungry): &(u64, u32, u64, bool)| SessionBooks {
            id: SessionId(id),
            tenant: TenantId(tenant),
            device_ns,
            accepted: 0,
            totals: SessionTotals::default(),
            is_hungry,
        };
        Books {
            busy_ns: 0,
            sessions: had.iter().map(session).collect(),
        }
    }

    fn share(weight: u32) -> Share {
        Share {
            class: Class::Normal,
            weight,
            tenant_weight: 100,
        }
    }

    #[test]
    fn what_hungry_sessions_get_is_compared_by_weight_from_when_both_were_hungry() {
        let shares: Shares = [(1, 100), (2, 200)]
            .map(|(id, weight)| (SessionId(id), share(weight)))
            .into();
        let mut lag = Lag::new(Some(100));
        let mut look = |had: &[_]| lag.look(&books(had), &shares);
        assert!(look(&[(1, 0, 5000, true), (2, 0, 0, false)]).is_ok());
        assert!(
            look(&[(1, 0, 5000, true), (2, 0, 0, true)]).is_ok(),
            "a newcomer"
        );
        assert!(
            look(&[(1, 0, 5200, true), (2, 0, 300, true)]).is_ok(),
            "50 apart"
        );
        assert!(
            look(&[(1, 0, 5400, true), (2, 0, 300, true)]).is_err(),
            "250 apart"
        );
        assert!(
            look(&[(1, 0, 5400, true), (2, 0, 300, false)]).is_ok(),
            "it had enough"
        );
        assert!(
            look(&[(1, 0, 5400, true), (2, 0, 300, true)]).is_ok(),
            "level again"
        );
    }

    #[test]
    fn a_tenants_sessions_count_together() {
        let shares: Shares = [1, 2, 3].map(|id| (SessionId(id), share(100))).into();
        let mut lag = Lag::new(Some(100));
        let mut look = |had: &[_]| lag.look(&books(had), &shares);
        assert!(look(&[(1, 0, 0, true), (2, 1, 0, true), (3, 1, 0, true)]).is_ok());
        assert!(look(&[(1, 0, 200, true), (2, 1, 100, true), (3, 1, 100, true)]).is_ok());
        assert!(look(&[(1, 0, 200, true), (2, 1, 200, true), (3, 1, 200, true)]).is_err());
    }
}
