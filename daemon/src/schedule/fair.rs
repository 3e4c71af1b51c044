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
//! Who rides along in somebody else's launch is charged for it when it begins, and may be ahead of its share by the slack when it is over:
//! work merges as long as shares stay what they are meant to be. So works longer than the slack do not ride, and gain nothing by it.

use super::policy::Policy;
use super::{Candidate, Owner};

/// How far from its share somebody may be who rides along or returns, in slices.
const SLACK_SLICES: u64 = 2;
/// Classes, by number.
const CLASSES: usize = 4;

/// Nanoseconds of service over weight. In years of one weight's service it is exact to some ten nanoseconds.
type Virtual = f64;

/// The weighted mean of the virtual times of those who are ready.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    /// The round that it is of.
    round: u64,
    sum: f64,
    weights: f64,
    /// The mean of an earlier round.
    before: Virtual,
}

impl Mean {
    fn now(&self) -> Virtual {
        if self.weights > 0.0 {
            self.sum / self.weights
        } else {
            self.before
        }
    }

    /// Begins a round, if it has not begun.
    fn begin(&mut self, round: u64) {
        if self.round != round {
            *self = Mean {
                round,
                before: self.now(),
                ..Mean::default()
            };
        }
    }
}

/// A tenant in a class, or a session.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    virtual_time: Virtual,
    weight: f64,
    /// The last round in which it was ready; 0: it is new.
    seen: u64,
}

impl Member {
    /// It is ready in this round.
    fn arrive(&mut self, among: &mut Mean, weight: u32, round: u64, slack_ns: f64) {
        if self.seen == round {
            return;
        }
        let weight = f64::from(weight.max(1));
        if self.seen == 0 {
            self.virtual_time = among.before;
        } else if self.seen + 1 != round {
            self.virtual_time = self.virtual_time.max(among.before - slack_ns / weight);
        }
        (self.seen, self.weight) = (round, weight);
        among.sum += self.virtual_time * weight;
        among.weights += weight;
    }

    fn charge(&mut self, among: &mut Mean, ns: f64) {
        if self.weight > 0.0 {
            self.virtual_time += ns / self.weight;
        }
        if among.round == self.seen {
            among.sum += ns;
        }
    }

    /// Service that it is owed: negative if it has had more than its share.
    fn lag_ns(&self, among: &Mean) -> f64 {
        (among.now() - self.virtual_time) * self.weight
    }

    /// By what the first of those who compete is found: the eligible before the others, then the earliest virtual deadline.
    fn urgency(&self, among: &Mean, request_ns: u64) -> (bool, Virtual) {
        let deadline = self.virtual_time + request_ns as f64 / self.weight;
        (self.lag_ns(among) < -ROUNDING_NS, deadline)
    }
}

/// Less than this is no debt.
const ROUNDING_NS: f64 = 1.0;

/// A tenant in a class, and what its sessions have in common.
#[derive(Clone, Copy, Debug, Default)]
struct Tenant {
    member: Member,
    sessions: Mean,
}

/// Fair sharing among tenants and sessions, each known by its seat.
#[derive(Debug, Default)]
pub struct Fair {
    classes: [Mean; CLASSES],
    tenants: Vec<Tenant>,
    sessions: Vec<Member>,
    round: u64,
    slack_ns: f64,
    slice_ns: u64,
}

/// What is kept for a seat.
fn seated<T: Default + Clone>(seats: &mut Vec<T>, seat: u32) -> &mut T {
    let seat = seat as usize;
    if seats.len() <= seat {
        seats.resize(seat + 1, T::default());
    }
    &mut seats[seat]
}

impl Fair {
    fn lags_ns(&self, owner: &Owner) -> Option<(f64, f64)> {
        let tenant = self.tenants.get(owner.seat.tenant as usize)?;
        let session = self.sessions.get(owner.seat.session as usize)?;
        let class = &self.classes[owner.class as usize];
        Some((
            tenant.member.lag_ns(class),
            session.lag_ns(&tenant.sessions),
        ))
    }

    /// The smaller is first.
    fn order(&self, candidate: &Candidate) -> Option<(bool, Virtual, u32, bool, Virtual, u64)> {
        let owner = &candidate.owner;
        let tenant = self.tenants.get(owner.seat.tenant as usize)?;
        let session = self.sessions.get(owner.seat.session as usize)?;
        // Tenants ask for slices, whatever their sessions ask for.
        let class = &self.classes[owner.class as usize];
        let (ahead, deadline) = tenant.member.urgency(class, self.slice_ns);
        let request_ns = candidate.request_ns(self.slice_ns);
        let (session_ahead, session_deadline) = session.urgency(&tenant.sessions, request_ns);
        let seat = owner.seat.tenant;
        let ready_ns = candidate.ready_ns;
        Some((
            ahead,
            deadline,
            seat,
            session_ahead,
            session_deadline,
            ready_ns,
        ))
    }
}

impl Policy for Fair {
    fn begin(&mut self, candidates: &[Candidate], slice_ns: u64) {
        self.round += 1;
        self.slice_ns = slice_ns;
        self.slack_ns = slice_ns.saturating_mul(SLACK_SLICES) as f64;
        let (round, slack_ns) = (self.round, self.slack_ns);
        for Candidate { owner, .. } in candidates {
            let class = &mut self.classes[owner.class as usize];
            let tenant = seated(&mut self.tenants, owner.seat.tenant);
            let session = seated(&mut self.sessions, owner.seat.session);
            class.begin(round);
            tenant
                .member
                .arrive(class, owner.tenant_weight, round, slack_ns);
            tenant.sessions.begin(round);
            session.arrive(&mut tenant.sessions, owner.weight, round, slack_ns);
        }
    }

    fn first(&self, candidates: &[Candidate], open: &[usize]) -> Option<usize> {
        let order = |k: usize| Some((self.order(&candidates[k])?, k));
        let first = open
            .iter()
            .filter_map(|&k| order(k))
            .min_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        first.map(|(_, k)| k)
    }

    fn lag_ns(&self, owner: &Owner) -> i64 {
        self.lags_ns(owner)
            .map_or(0, |(tenant, session)| tenant.min(session) as i64)
    }

    fn may_ride(&self, owner: &Owner, ns: u64) -> bool {
        self.lags_ns(owner)
            .is_some_and(|(tenant, session)| tenant.min(session) - ns as f64 >= -self.slack_ns)
    }

    fn charge(&mut self, owner: &Owner, ns: i64) {
        let class = &mut self.classes[owner.class as usize];
        let tenant = seated(&mut self.tenants, owner.seat.tenant);
        let session = seated(&mut self.sessions, owner.seat.session);
        tenant.member.charge(class, ns as f64);
        session.charge(&mut tenant.sessions, ns as f64);
    }

    fn leave_session(&mut self, seat: u32) {
        *seated(&mut self.sessions, seat) = Member::default();
    }

    fn leave_tenant(&mut self, seat: u32) {
        *seated(&mut self.tenants, seat) = Tenant::default();
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
                if k == first || merging && self.fair.may_ride(&other.owner, other.cost_ns) {
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
        for _ in 0..1_000 {
            crowd.launch(&[0], false);
        }
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
        for _ in 0..10_000 {
            crowd.launch(&[0], false);
        }
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
