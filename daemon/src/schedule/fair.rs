//! Weighted fair sharing of device time, in two levels: among tenants, and among the sessions of a tenant.
//!
//! The algorithm of each level is EEVDF, *earliest eligible virtual deadline first* (I. Stoica and H. Abdel-Wahab, "Earliest
//! Eligible Virtual Deadline First: A Flexible and Accurate Mechanism for Proportional Share Resource Allocation", Old
//! Dominion University TR-95-22, 1995). A member's virtual time advances by its service over its weight; the level's stands at their
//! weighted mean. A member is eligible while it has had no more than its share, and of those who are, the one comes first
//! whose next request would have to be over first.
//!
//! # Invariants
//! - *Bounded lag.* Who is always ready is never further from its share than [`SLACK_SLICES`] and the slice that runs.
//! - *No credit.* Who was away returns with at most that lag, so that a sleeper neither starves others nor is starved, and a newcomer
//!   starts with none.
//! - *Debt stays.* Who had more than its share has had it when it returns.
//!
//! Who rides along in somebody else's launch is charged for it, and may be ahead of its share by the slack: work merges as long as
//! shares stay what they are meant to be.

use std::hash::Hash;

use tensord_shm::control::{Class, WEIGHT_MAX};

use super::policy::Policy;
use super::{Candidate, Owner};
use crate::engine_process::{SessionId, TenantId};
use crate::map::Map;

/// How far from its share somebody may be who rides along or returns, in slices.
const SLACK_SLICES: u64 = 2;
/// Members of a level that are remembered when they have nothing to do.
const MEMBERS_MAX: usize = 1 << 16;

/// Service over weight. One nanosecond of a member with the greatest weight is one.
type Virtual = i128;

fn virtual_of(ns: u64, weight: u32) -> Virtual {
    Virtual::from(ns) * Virtual::from(WEIGHT_MAX) / Virtual::from(weight.max(1))
}

/// Nanoseconds of service that a distance in virtual time is to somebody of this weight.
fn service_of(distance: Virtual, weight: u32) -> i128 {
    distance * Virtual::from(weight.max(1)) / Virtual::from(WEIGHT_MAX)
}

/// A tenant or a session.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    virtual_time: Virtual,
    weight: u32,
    /// The last round in which it was ready, and its group then.
    seen: u64,
    group: Group,
}

/// Members that share something: the tenants of a class, or the sessions of a tenant and class.
type Group = (u8, u32);

/// What the members of a group that are ready have in common.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    /// Weighted sum of their virtual times, and sum of weights, in round `round`.
    sum: Virtual,
    weights: Virtual,
    round: u64,
    /// The group's virtual time in an earlier round.
    before: Virtual,
}

impl Mean {
    fn now(&self) -> Virtual {
        match self.weights {
            0 => self.before,
            weights => self.sum.div_euclid(weights),
        }
    }
}

/// One level: members by key, in groups.
#[derive(Debug)]
struct Level<K> {
    members: Map<K, Member>,
    means: Map<Group, Mean>,
}

impl<K> Default for Level<K> {
    fn default() -> Self {
        Level {
            members: Map::default(),
            means: Map::default(),
        }
    }
}

impl<K: Hash + Eq + Copy> Level<K> {
    /// A member is ready in this round.
    fn arrive(&mut self, key: K, group: Group, weight: u32, round: u64, slack_ns: u64) {
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&key) {
            self.members.retain(|_, member| member.seen + 1 >= round);
        }
        let mean = self.means.entry(group).or_default();
        if mean.round != round {
            let before = mean.now();
            *mean = Mean {
                round,
                before,
                ..Mean::default()
            };
        }
        let member = self.members.entry(key).or_default();
        if member.seen == round {
            return;
        }
        if member.seen == 0 || member.group != group {
            member.virtual_time = mean.before;
        } else if member.seen + 1 != round {
            let least = mean.before - virtual_of(slack_ns, weight);
            member.virtual_time = member.virtual_time.max(least);
        }
        (member.seen, member.group, member.weight) = (round, group, weight);
        mean.sum += member.virtual_time * Virtual::from(weight);
        mean.weights += Virtual::from(weight);
    }

    /// Service that a member is owed: negative if it has had more than its share.
    fn lag_ns(&self, key: K) -> i128 {
        let Some(member) = self.members.get(&key) else {
            return 0;
        };
        let mean = self.means.get(&member.group).map_or(0, Mean::now);
        service_of(mean - member.virtual_time, member.weight)
    }

    /// By what the first of those who compete is found: the eligible before the others, then the earliest virtual deadline of a
    /// request of this length.
    fn urgency(&self, key: K, request_ns: u64) -> (bool, Virtual) {
        let Some(member) = self.members.get(&key) else {
            return (false, 0);
        };
        let mean = self.means.get(&member.group).map_or(0, Mean::now);
        let deadline = member.virtual_time + virtual_of(request_ns, member.weight);
        (member.virtual_time > mean, deadline)
    }

    fn charge(&mut self, key: K, ns: i64) {
        if let Some(member) = self.members.get_mut(&key) {
            let service = virtual_of(ns.unsigned_abs(), member.weight) * i128::from(ns.signum());
            member.virtual_time += service;
            if let Some(mean) = self.means.get_mut(&member.group)
                && mean.round == member.seen
            {
                mean.sum += service * Virtual::from(member.weight);
            }
        }
    }
}

/// Fair sharing among tenants and sessions.
#[derive(Debug, Default)]
pub struct Fair {
    tenants: Level<(Class, TenantId)>,
    sessions: Level<SessionId>,
    round: u64,
    slack_ns: u64,
    slice_ns: u64,
}

impl Fair {
    fn request_ns(&self, candidate: &Candidate) -> u64 {
        candidate.cost_ns.min(self.slice_ns)
    }
}

impl Policy for Fair {
    fn begin(&mut self, candidates: &[Candidate], slice_ns: u64) {
        self.round += 1;
        self.slice_ns = slice_ns;
        self.slack_ns = slice_ns.saturating_mul(SLACK_SLICES);
        for Candidate { owner, .. } in candidates {
            let class = owner.class as u8;
            let (round, slack_ns) = (self.round, self.slack_ns);
            let tenant = (owner.class, owner.tenant);
            self.tenants
                .arrive(tenant, (class, 0), owner.tenant_weight, round, slack_ns);
            let group = (class, owner.tenant.0);
            self.sessions
                .arrive(owner.session, group, owner.weight, round, slack_ns);
        }
    }

    fn first(&self, candidates: &[Candidate], open: &[usize]) -> Option<usize> {
        open.iter().copied().min_by_key(|&k| {
            let candidate = &candidates[k];
            let owner = &candidate.owner;
            (
                // Tenants ask for slices, whatever their sessions ask for.
                self.tenants
                    .urgency((owner.class, owner.tenant), self.slice_ns),
                owner.tenant,
                self.sessions
                    .urgency(owner.session, self.request_ns(candidate)),
                candidate.ready_ns,
            )
        })
    }

    fn lag_ns(&self, owner: &Owner) -> i64 {
        let tenant = self.tenants.lag_ns((owner.class, owner.tenant));
        let session = self.sessions.lag_ns(owner.session);
        i64::try_from(tenant.min(session)).unwrap_or(i64::MIN)
    }

    fn may_ride(&self, owner: &Owner) -> bool {
        self.lag_ns(owner) >= -(self.slack_ns as i64)
    }

    fn charge(&mut self, owner: &Owner, ns: i64) {
        self.tenants.charge((owner.class, owner.tenant), ns);
        self.sessions.charge(owner.session, ns);
    }

    fn forget_session(&mut self, session: SessionId) {
        self.sessions.members.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::candidate;
    use super::*;

    const SLICE_NS: u64 = 500_000;

    /// Sessions as (tenant, tenant's weight, weight, cost of a request).
    struct Crowd {
        fair: Fair,
        candidates: Vec<Candidate>,
        had_ns: Vec<u64>,
    }

    impl Crowd {
        fn new(sessions: &[(u32, u32, u32, u64)]) -> Crowd {
            let candidates = sessions.iter().enumerate().map(|(k, &session)| {
                let (tenant, tenant_weight, weight, cost_ns) = session;
                let mut candidate = candidate(tenant, k as u64);
                candidate.owner.tenant_weight = tenant_weight;
                candidate.owner.weight = weight;
                candidate.cost_ns = cost_ns;
                candidate
            });
            Crowd {
                fair: Fair::default(),
                candidates: candidates.collect(),
                had_ns: vec![0; sessions.len()],
            }
        }

        /// One launch among those that are ready; with `merging` all of them ride along that may. Gives who was first.
        fn launch(&mut self, ready: &[usize], merging: bool) -> usize {
            let there: Vec<Candidate> = ready.iter().map(|&k| self.candidates[k].clone()).collect();
            self.fair.begin(&there, SLICE_NS);
            let open: Vec<usize> = (0..there.len()).collect();
            let first = self.fair.first(&there, &open).expect("somebody is ready");
            for (k, other) in there.iter().enumerate() {
                if k == first || merging && self.fair.may_ride(&other.owner) {
                    let ns = other.cost_ns.min(SLICE_NS);
                    self.fair.charge(&other.owner, ns as i64);
                    self.had_ns[ready[k]] += ns;
                }
            }
            ready[first]
        }

        fn run(&mut self, ns: u64, merging: bool) -> Vec<f64> {
            let all: Vec<usize> = (0..self.candidates.len()).collect();
            while self.had_ns.iter().sum::<u64>() < ns {
                self.launch(&all, merging);
            }
            let sum = self.had_ns.iter().sum::<u64>() as f64;
            self.had_ns.iter().map(|&had| had as f64 / sum).collect()
        }
    }

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn shares_follow_weights_whatever_requests_cost() {
        for (weights, costs) in [
            ([75, 25], [30_000, 170_000]),
            ([9_000, 1_000], [400_000, 7_000]),
        ] {
            for merging in [false, true] {
                let sessions = [0, 1].map(|k| (0, 100, weights[k], costs[k]));
                let shares = Crowd::new(&sessions).run(SECOND_NS, merging);
                let wanted = f64::from(weights[0]) / f64::from(weights[0] + weights[1]);
                assert!((shares[0] - wanted).abs() < 0.01, "{weights:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn a_tenant_with_many_sessions_gets_no_more_than_one_with_one() {
        let mut sessions = vec![(0, 100, 100, 100_000)];
        sessions.extend([(1, 100, 100, 100_000); 50]);
        for merging in [false, true] {
            let shares = Crowd::new(&sessions).run(SECOND_NS, merging);
            assert!((shares[0] - 0.5).abs() < 0.01, "{}", shares[0]);
        }
    }

    #[test]
    fn a_tenants_weight_is_its_share() {
        let shares =
            Crowd::new(&[(0, 300, 1, 50_000), (1, 100, 10_000, 50_000)]).run(SECOND_NS, true);
        assert!((shares[0] - 0.75).abs() < 0.01, "{shares:?}");
    }

    #[test]
    fn equal_sessions_have_a_jain_index_near_one() {
        let costs = [3, 7, 20, 50, 90, 200, 300, 500];
        let sessions = costs.map(|us| (0, 100, 100, us * 1_000));
        let shares = Crowd::new(&sessions).run(SECOND_NS, false);
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        assert!(1.0 / (8.0 * squares) > 0.999, "{shares:?}");
    }

    #[test]
    fn while_all_are_ready_nobody_is_further_from_its_share_than_slack_and_slice() {
        let sessions = [
            (0, 100, 100, 400_000),
            (0, 100, 300, 20_000),
            (1, 50, 1, 90_000),
        ];
        for merging in [false, true] {
            let mut crowd = Crowd::new(&sessions);
            for _ in 0..20_000 {
                crowd.launch(&[0, 1, 2], merging);
                for candidate in &crowd.candidates {
                    let lag_ns = crowd.fair.lag_ns(&candidate.owner);
                    let bound = (SLICE_NS * (SLACK_SLICES + 1)) as i64;
                    assert!(lag_ns.abs() <= bound, "{lag_ns}");
                }
            }
        }
    }

    #[test]
    fn a_newcomer_starts_level() {
        let mut crowd = Crowd::new(&[(0, 100, 100, 100_000); 2]);
        (0..1_000).for_each(|_| drop(crowd.launch(&[0], false)));
        let newcomers = (0..10)
            .filter(|_| crowd.launch(&[0, 1], false) == 1)
            .count();
        assert_eq!(newcomers, 5);
    }

    #[test]
    fn a_sleeper_returns_with_at_most_the_slack() {
        let mut crowd = Crowd::new(&[(0, 100, 100, 100_000); 2]);
        crowd.launch(&[0, 1], false);
        crowd.launch(&[0, 1], false);
        (0..10_000).for_each(|_| drop(crowd.launch(&[0], false)));
        let in_a_row = (0..100)
            .take_while(|_| crowd.launch(&[0, 1], false) == 1)
            .count();
        let most = (SLICE_NS * SLACK_SLICES / 100_000) as usize;
        assert!((1..=most + 1).contains(&in_a_row), "{in_a_row}");
    }

    #[test]
    fn who_had_more_than_its_share_has_had_it_when_it_returns() {
        let mut crowd = Crowd::new(&[(0, 100, 100, 100_000); 2]);
        crowd.launch(&[0, 1], false);
        let greedy = crowd.candidates[1].owner;
        crowd.fair.charge(&greedy, 1_000_000);
        crowd.launch(&[0], false);
        let others = (0..10)
            .take_while(|_| crowd.launch(&[0, 1], false) == 0)
            .count();
        assert!(others >= 8, "{others}");
    }
}
