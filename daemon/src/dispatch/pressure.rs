//! Who may run where all that sessions work on does not fit the device at once.
//!
//! A device that moves more than it computes is thrashing: each session pushes out what the next one needs. Then those whose working
//! set is larger than an equal part of the device (they cause it) take turns: as many as fit together run for a while, long beside
//! the time that bringing their tensors back takes, and the others' works wait. Who works within an equal part is never kept waiting.
//! It is the load control of paging systems (P. J. Denning, "The working set model for program behavior", CACM 1968),
//! with tensors for pages.
//!
//! Knows sessions, bytes and times; knows nothing of blocks' places, queues or plans.
//!
//! # Invariant
//! Somebody who has work may always run: a turn ends when its time is over, or when those whose turn it is have nothing to do.

use std::collections::VecDeque;

use crate::engine_process::SessionId;
use crate::map::Map;

/// Bytes moved in a nanosecond of work from which on a device thrashes: then moving takes about a quarter of the time.
const THRASHING_BYTES_PER_NS: u64 = 1;
/// Bytes moved in a nanosecond, in order of magnitude.
const MOVED_BYTES_PER_NS: u64 = 4;
/// A turn is so many times as long as bringing its tensors back.
const TURN_OVER_MOVING: u64 = 16;
/// Least and greatest length of a turn.
const TURN_NS_LEAST: u64 = 10_000_000;
const TURN_NS_MOST: u64 = 250_000_000;
/// Whoever's turn it is and has had no work for so long has none.
const GRACE_NS: u64 = 1_000_000;
/// Without the device being filled anew in this time nobody's working set is in the way of others.
const EPOCH_NS: u64 = 2_000_000_000;

/// What is known of a session that worked while tensors were moved.
#[derive(Debug, Default)]
struct Working {
    /// Blocks used in this epoch or turn.
    touched: Map<u32, u64>,
    touched_bytes: u64,
    /// Bytes that it works on, by what was seen.
    set_bytes: u64,
    /// When it last had work.
    asked_ns: u64,
    /// Launches under way.
    running: u32,
    /// Its work waits since then.
    waits_since_ns: Option<u64>,
    throttled_ns: u64,
}

/// Sessions taking turns.
#[derive(Debug)]
struct Turns {
    /// Those whose turn it is.
    admitted: Vec<SessionId>,
    /// The next ones.
    waiting: VecDeque<SessionId>,
    until_ns: u64,
    /// Bytes that they had to bring back.
    sets_bytes: u64,
    moved_bytes: u64,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Pressure {
    capacity: u64,
    sessions: Map<SessionId, Working>,
    epoch_start_ns: u64,
    in_bytes: u64,
    left_bytes: u64,
    copied_bytes: u64,
    busy_ns: u64,
    turns: Option<Turns>,
    /// Time that works waited because others' turn it was.
    pub throttled_ns: u64,
}

/// What placing one work moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// Brought to the device.
    pub in_bytes: u64,
    /// Left the device, whether it had to be copied or not.
    pub left_bytes: u64,
    /// Copied, either way.
    pub copied_bytes: u64,
}

impl Pressure {
    /// Nobody is in anybody's way on a device of `capacity` bytes.
    pub fn new(capacity: u64) -> Pressure {
        Pressure {
            capacity,
            ..Pressure::default()
        }
    }

    /// Is anything being moved at all? If not, nothing need be noted.
    pub fn is_on(&self) -> bool {
        self.turns.is_some() || self.in_bytes > 0 || self.left_bytes > 0
    }

    /// Do sessions take turns?
    pub fn takes_turns(&self) -> bool {
        self.turns.is_some()
    }

    /// How long a session's works waited for others' turns.
    pub fn throttled_ns_of(&self, session: SessionId) -> u64 {
        self.sessions
            .get(&session)
            .map_or(0, |working| working.throttled_ns)
    }

    /// A work was placed: what was moved for it, and the blocks (number and size) that it uses.
    pub fn placed(
        &mut self,
        session: SessionId,
        movement: Movement,
        blocks: impl Iterator<Item = (u32, u64)>,
        now_ns: u64,
    ) {
        self.in_bytes += movement.in_bytes;
        self.left_bytes += movement.left_bytes;
        self.copied_bytes += movement.copied_bytes;
        if !self.is_on() {
            return;
        }
        if let Some(turns) = &mut self.turns {
            turns.moved_bytes += movement.in_bytes;
        }
        let working = self.sessions.entry(session).or_default();
        working.running += 1;
        working.asked_ns = now_ns;
        for (slot, bytes) in blocks {
            if working.touched.insert(slot, bytes).is_none() {
                working.touched_bytes += bytes;
            }
        }
        self.look(now_ns);
    }

    /// The device worked for so long.
    pub fn ran(&mut self, busy_ns: u64) {
        self.busy_ns += busy_ns;
    }

    /// A work is over.
    pub fn finished(&mut self, session: SessionId, now_ns: u64) {
        if let Some(working) = self.sessions.get_mut(&session) {
            working.running = working.running.saturating_sub(1);
            working.asked_ns = now_ns;
        }
    }

    /// A session has work that could run: may it? `exempt` is who never waits for others' tensors.
    pub fn may_run(&mut self, session: SessionId, exempt: bool, now_ns: u64) -> bool {
        let Some(turns) = &self.turns else {
            return true;
        };
        let share = self.share();
        let working = self.sessions.entry(session).or_default();
        working.asked_ns = now_ns;
        let waits = |turns: &Turns| {
            working.set_bytes > share && !exempt && !turns.admitted.contains(&session)
        };
        if !waits(turns) {
            self.waited(session, now_ns, false);
            return true;
        }
        let over = now_ns >= turns.until_ns || self.idle_from(turns) <= now_ns;
        if let Some(turns) = &mut self.turns
            && !turns.waiting.contains(&session)
        {
            turns.waiting.push_back(session);
        }
        if over {
            self.rotate(now_ns);
        }
        let may = self
            .turns
            .as_ref()
            .is_none_or(|turns| turns.admitted.contains(&session));
        self.waited(session, now_ns, !may);
        may
    }

    /// When somebody who waits may run at the latest, as things are.
    pub fn next_ns(&self) -> Option<u64> {
        let turns = self.turns.as_ref()?;
        let waits = !turns.waiting.is_empty();
        waits.then(|| turns.until_ns.min(self.idle_from(turns)))
    }

    /// Forgets a session that ended.
    pub fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        if let Some(turns) = &mut self.turns {
            turns.admitted.retain(|other| *other != session);
            turns.waiting.retain(|other| *other != session);
        }
    }

    // ------------------------------------------------------------------ inside

    /// An equal part of the device for each session that works.
    fn share(&self) -> u64 {
        self.capacity / self.sessions.len().max(1) as u64
    }

    /// From when on nobody whose turn it is has had work for a while.
    fn idle_from(&self, turns: &Turns) -> u64 {
        let idle = |session: &SessionId| match self.sessions.get(session) {
            Some(working) if working.running > 0 => u64::MAX,
            Some(working) => working.asked_ns + GRACE_NS,
            None => 0,
        };
        turns.admitted.iter().map(idle).max().unwrap_or(0)
    }

    /// Keeps the time that a session waits.
    fn waited(&mut self, session: SessionId, now_ns: u64, waits: bool) {
        let Some(working) = self.sessions.get_mut(&session) else {
            return;
        };
        if let Some(since) = working.waits_since_ns {
            let ns = now_ns.saturating_sub(since);
            working.throttled_ns += ns;
            self.throttled_ns += ns;
        }
        working.waits_since_ns = waits.then_some(now_ns);
    }

    /// Ends an epoch when the device was filled anew one and a half times, or long enough was not. What was brought in until then shows
    /// that the working sets do not fit together: more of it than the device holds was different blocks.
    fn look(&mut self, now_ns: u64) {
        let moved = self.in_bytes.min(self.left_bytes) >= self.capacity / 2 * 3;
        let long = now_ns.saturating_sub(self.epoch_start_ns) >= EPOCH_NS;
        if self.turns.is_some() || !(moved || long) {
            return;
        }
        let thrashing = moved && self.copied_bytes / THRASHING_BYTES_PER_NS > self.busy_ns;
        for working in self.sessions.values_mut() {
            working.set_bytes = working.touched_bytes.max(working.set_bytes / 8 * 7);
        }
        let gone = |working: &Working| {
            working.running == 0 && now_ns.saturating_sub(working.asked_ns) > EPOCH_NS
        };
        self.sessions.retain(|_, working| !gone(working));
        if thrashing {
            self.begin_turns(now_ns);
        }
        self.begin_epoch(now_ns);
    }

    fn begin_epoch(&mut self, now_ns: u64) {
        self.epoch_start_ns = now_ns;
        (self.in_bytes, self.left_bytes) = (0, 0);
        (self.copied_bytes, self.busy_ns) = (0, 0);
        for working in self.sessions.values_mut() {
            working.touched.clear();
            working.touched_bytes = 0;
        }
    }

    fn begin_turns(&mut self, now_ns: u64) {
        let share = self.share();
        let mut offenders: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, working)| working.set_bytes > share)
            .map(|(session, _)| *session)
            .collect();
        if self.sessions.len() < 2 || offenders.is_empty() {
            return;
        }
        offenders.sort_unstable();
        let (sessions, capacity) = (self.sessions.len(), self.capacity);
        crate::client_log!(
            warn,
            "{sessions} sessions work on more than the device's {capacity} bytes; {} of them, each on more than {share}, take turns",
            offenders.len()
        );
        self.turns = Some(Turns {
            admitted: Vec::new(),
            waiting: offenders.into(),
            until_ns: 0,
            sets_bytes: 0,
            moved_bytes: 0,
        });
        self.rotate(now_ns);
    }

    /// The turn of those who waited longest.
    fn rotate(&mut self, now_ns: u64) {
        let Some(mut turns) = self.turns.take() else {
            return;
        };
        // More was brought back than what they were thought to work on: they work on more.
        let more = turns.moved_bytes > turns.sets_bytes.saturating_mul(2);
        for (session, working) in &mut self.sessions {
            let seen = working.touched_bytes;
            let had_turn = turns.admitted.contains(session);
            working.set_bytes = match had_turn {
                true if more => (seen.max(working.set_bytes) * 2).min(self.capacity),
                true => seen.max(working.set_bytes / 2),
                false => seen.max(working.set_bytes),
            };
        }
        let gone = |working: &Working| {
            working.running == 0 && now_ns.saturating_sub(working.asked_ns) > EPOCH_NS
        };
        self.sessions.retain(|_, working| !gone(working));
        self.begin_epoch(now_ns);
        let share = self.share();
        let set = |session: &SessionId| self.sessions.get(session).map_or(0, |w| w.set_bytes);
        let all: u64 = self.sessions.values().map(|w| w.set_bytes).sum();
        if all <= self.capacity {
            return self.end_turns(now_ns);
        }
        let innocent: u64 = self
            .sessions
            .values()
            .map(|working| working.set_bytes)
            .filter(|bytes| *bytes <= share)
            .sum();
        let mut room = self.capacity.saturating_sub(innocent);
        let ended = std::mem::take(&mut turns.admitted);
        turns.sets_bytes = 0;
        turns.moved_bytes = 0;
        turns.waiting.retain(|session| set(session) > 0);
        let mut still = VecDeque::new();
        for session in turns.waiting.drain(..).chain(ended) {
            let bytes = set(&session);
            // The first one runs whatever it needs.
            if turns.admitted.is_empty() || bytes <= room {
                room = room.saturating_sub(bytes);
                turns.sets_bytes += bytes;
                turns.admitted.push(session);
            } else {
                still.push_back(session);
            }
        }
        // Those whose turn it was wait only if they have work: they will ask.
        turns.waiting = still;
        turns.waiting.retain(|session| set(session) > share);
        let turn_ns = turns.sets_bytes / MOVED_BYTES_PER_NS * TURN_OVER_MOVING;
        turns.until_ns = now_ns + turn_ns.clamp(TURN_NS_LEAST, TURN_NS_MOST);
        self.turns = Some(turns);
    }

    fn end_turns(&mut self, now_ns: u64) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.waited(session, now_ns, false);
        }
        crate::client_log!(
            info,
            "what sessions work on fits the device again: no more turns"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    /// A work takes so long, and moving one tensor of 1 MiB as long as that.
    const WORK_NS: u64 = 100_000;

    /// A device with a naive memory (least recently used leaves), and sessions that always have work: each on its own tensors of
    /// 1 MiB, one after the other.
    struct Fake {
        pressure: Pressure,
        resident: VecDeque<(u64, u64)>,
        at: Vec<u64>,
        steps: Vec<u64>,
        now_ns: u64,
        moved: u64,
    }

    impl Fake {
        fn new(sessions: usize, capacity: u64) -> Fake {
            Fake {
                pressure: Pressure::new(capacity * MIB),
                resident: VecDeque::new(),
                at: vec![0; sessions],
                steps: vec![0; sessions],
                now_ns: 0,
                moved: 0,
            }
        }

        /// Lets sessions in turn do work if they may, until `until_ns`; each works on so many tensors.
        fn run(&mut self, tensors: &[u64], until_ns: u64) {
            while self.now_ns < until_ns {
                let mut any = false;
                for (k, &count) in tensors.iter().enumerate() {
                    let id = SessionId(k as u64);
                    if count == 0 || !self.pressure.may_run(id, false, self.now_ns) {
                        continue;
                    }
                    any = true;
                    let tensor = (k as u64, self.at[k] % count);
                    self.at[k] += 1;
                    self.steps[k] += 1;
                    let movement = self.touch(tensor);
                    self.now_ns += WORK_NS;
                    let slot = (tensor.0 * 1000 + tensor.1) as u32;
                    let blocks = std::iter::once((slot, MIB));
                    self.pressure.placed(id, movement, blocks, self.now_ns);
                    self.pressure.ran(WORK_NS);
                    self.pressure.finished(id, self.now_ns);
                }
                if !any {
                    let next = self.pressure.next_ns().expect("somebody may run some day");
                    assert!(next >= self.now_ns);
                    self.now_ns = next.max(self.now_ns + 1);
                }
            }
        }

        fn touch(&mut self, tensor: (u64, u64)) -> Movement {
            let mut movement = Movement::default();
            if let Some(at) = self.resident.iter().position(|other| *other == tensor) {
                self.resident.remove(at);
            } else {
                self.now_ns += WORK_NS;
                self.moved += 1;
                movement.in_bytes = MIB;
                movement.copied_bytes = MIB;
                if self.resident.len() as u64 * MIB >= self.pressure.capacity {
                    self.resident.pop_front();
                    movement.left_bytes = MIB;
                }
            }
            self.resident.push_back(tensor);
            movement
        }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn sessions_that_fit_never_wait() {
        let mut fake = Fake::new(4, 64);
        fake.run(&[16, 16, 16, 16], 5 * SECOND);
        assert!(!fake.pressure.takes_turns());
        assert_eq!((fake.moved, fake.pressure.throttled_ns), (64, 0));
    }

    #[test]
    fn sessions_that_do_not_fit_take_turns_and_hardly_anything_is_moved() {
        let mut fake = Fake::new(8, 64);
        fake.run(&[32; 8], SECOND);
        assert!(fake.pressure.takes_turns());
        let moved = fake.moved;
        fake.steps.fill(0);
        fake.run(&[32; 8], 21 * SECOND);
        let steps = fake.steps.iter().sum::<u64>();
        let moved = fake.moved - moved;
        assert!(moved * 8 < steps, "{moved} moved in {steps} steps");
        let (least, most) = (fake.steps.iter().min(), fake.steps.iter().max());
        let (least, most) = (least.expect("eight"), most.expect("eight"));
        assert!(least * 10 >= most * 8, "equal turns: {:?}", fake.steps);
        assert!(fake.pressure.throttled_ns > SECOND);
    }

    #[test]
    fn who_works_within_a_share_is_never_kept_waiting() {
        let mut fake = Fake::new(3, 64);
        fake.run(&[4, 60, 60], 10 * SECOND);
        assert!(fake.pressure.takes_turns());
        assert_eq!(fake.pressure.throttled_ns_of(SessionId(0)), 0);
        assert!(fake.pressure.throttled_ns_of(SessionId(1)) > SECOND);
        assert!(fake.pressure.throttled_ns_of(SessionId(2)) > SECOND);
    }

    #[test]
    fn one_session_alone_never_waits_for_anybody() {
        let mut fake = Fake::new(1, 64);
        fake.run(&[200], 5 * SECOND);
        assert!(!fake.pressure.takes_turns());
    }

    #[test]
    fn turns_end_when_everything_fits_again() {
        let mut fake = Fake::new(4, 64);
        fake.run(&[40; 4], 2 * SECOND);
        assert!(fake.pressure.takes_turns());
        fake.run(&[10; 4], 12 * SECOND);
        assert!(!fake.pressure.takes_turns());
    }

    #[test]
    fn turns_end_when_the_others_are_gone() {
        let mut fake = Fake::new(4, 64);
        fake.run(&[40; 4], 2 * SECOND);
        (1..4).for_each(|k| fake.pressure.forget(SessionId(k)));
        let waited = fake.pressure.throttled_ns;
        fake.run(&[40, 0, 0, 0], 3 * SECOND);
        assert!(fake.pressure.throttled_ns - waited < TURN_NS_MOST);
    }
}
