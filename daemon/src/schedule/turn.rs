//! Whose turn it is: the tenant that has had the least device time, and of its sessions the one that has had the least.
//!
//! Who returns after a pause starts level with those who are there, so that nobody saves time up and nobody is starved
//! by a newcomer.

use super::Candidate;
use crate::engine_process::{SessionId, TenantId};
use crate::map::Map;

/// Device time had, of tenants and of sessions, in nanoseconds on a scale of their own.
#[derive(Debug, Default)]
pub struct FairTurn {
    tenants: Map<TenantId, u64>,
    sessions: Map<SessionId, u64>,
    /// Nobody who is served is behind this.
    tenant_floor: u64,
    session_floor: Map<TenantId, u64>,
}

impl FairTurn {
    /// The candidate among `open` whose turn it is.
    pub fn next(&self, candidates: &[Candidate], open: &[usize]) -> Option<usize> {
        open.iter().copied().min_by_key(|&k| {
            let candidate = &candidates[k];
            (
                self.tenant(candidate.tenant),
                self.session(candidate),
                candidate.ready_ns,
            )
        })
    }

    fn tenant(&self, tenant: TenantId) -> u64 {
        self.tenants
            .get(&tenant)
            .copied()
            .unwrap_or(0)
            .max(self.tenant_floor)
    }

    fn session(&self, candidate: &Candidate) -> u64 {
        let floor = self
            .session_floor
            .get(&candidate.tenant)
            .copied()
            .unwrap_or(0);
        self.sessions
            .get(&candidate.session)
            .copied()
            .unwrap_or(0)
            .max(floor)
    }

    /// The chosen one is served: those who wait longest without being served define the floor.
    pub fn served(&mut self, candidate: &Candidate) {
        self.tenant_floor = self.tenant(candidate.tenant);
        let floor = self.session(candidate);
        self.session_floor.insert(candidate.tenant, floor);
    }

    /// Charges device time.
    pub fn charge(&mut self, tenant: TenantId, session: SessionId, ns: u64) {
        let floor = self.tenant_floor;
        let had = self.tenants.entry(tenant).or_default();
        *had = (*had).max(floor) + ns;
        let floor = self.session_floor.get(&tenant).copied().unwrap_or(0);
        let had = self.sessions.entry(session).or_default();
        *had = (*had).max(floor) + ns;
    }

    /// Forgets a session that ended.
    pub fn forget_session(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Forgets a tenant without sessions.
    pub fn forget_tenant(&mut self, tenant: TenantId) {
        self.tenants.remove(&tenant);
        self.session_floor.remove(&tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn candidate(tenant: u32, session: u64) -> Candidate {
        Candidate {
            tenant: TenantId(tenant),
            session: SessionId(session),
            place: (0, 0),
            plan: Arc::default(),
            cost: 1,
            ready_ns: 0,
            batch: true,
        }
    }

    /// Serves the candidates `turns` times, each turn costing what `cost` says; gives the time each one had.
    fn serve(candidates: &[Candidate], turns: usize, cost: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut turn = FairTurn::default();
        let mut had = vec![0; candidates.len()];
        let open: Vec<usize> = (0..candidates.len()).collect();
        for _ in 0..turns {
            let k = turn.next(candidates, &open).expect("somebody is there");
            turn.served(&candidates[k]);
            turn.charge(candidates[k].tenant, candidates[k].session, cost(k));
            had[k] += cost(k);
        }
        had
    }

    #[test]
    fn a_tenant_with_many_sessions_gets_no_more_than_one_with_one() {
        let candidates: Vec<_> = (0..6).map(|k| candidate(u32::from(k > 0), k)).collect();
        let had = serve(&candidates, 1000, |_| 10);
        assert_eq!(had[0], had[1..].iter().sum::<u64>());
    }

    #[test]
    fn time_counts_and_not_turns() {
        let candidates = [candidate(0, 1), candidate(0, 2)];
        let had = serve(&candidates, 1100, |k| if k == 0 { 10 } else { 100 });
        assert!(had[0].abs_diff(had[1]) <= 100, "{had:?}");
    }

    #[test]
    fn a_newcomer_starts_level() {
        let mut turn = FairTurn::default();
        let old = candidate(0, 1);
        for _ in 0..100 {
            turn.served(&old);
            turn.charge(old.tenant, old.session, 10);
        }
        let both = [old, candidate(0, 2)];
        turn.served(&both[1]);
        turn.charge(both[1].tenant, both[1].session, 20);
        assert_eq!(
            turn.next(&both, &[0, 1]),
            Some(0),
            "one turn was all the newcomer was ahead"
        );
    }
}
