//! Gives every request its one outcome: timelines, failures, charges.
//!
//! In: finished launches and refused works. Out: timelines moved on, sleepers woken, device time charged.

use tensord_plan::Ran;
use tensord_shm::error::Code;

use crate::dispatch::{Placed, fail_outputs};
use crate::engine::Engine;
use crate::graph::value::Failure;
use crate::ingest::{Download, Hashing};
use crate::session::Session;
use crate::stages::Stage;

impl Engine {
    /// Takes in what the backend has finished.
    pub(crate) fn complete(&mut self) -> bool {
        if self.device.in_flight.is_empty() {
            return false;
        }
        let mut done = std::mem::take(&mut self.done);
        self.device.backend.poll(&mut done);
        let any = !done.is_empty();
        if any {
            let busy_ns = done.iter().map(|ran| ran.busy_ns).sum();
            self.stages.finished(busy_ns, &*self.clock);
        }
        for ran in done.drain(..) {
            self.finish_slice(&ran);
        }
        self.done = done;
        any
    }

    fn finish_slice(&mut self, ran: &Ran) {
        if let Some(fault) = &ran.fault {
            return self.device_failed(fault);
        }
        self.busy_ns += ran.busy_ns;
        self.device.pressure.ran(ran.busy_ns);
        let Some(mut launch) = self.device.take(ran.id) else {
            return;
        };
        self.charge_slice(&mut launch.works, ran.busy_ns);
        launch.busy_ns += ran.busy_ns;
        launch.stopped = true;
        if ran.over {
            self.learn(&launch.works, launch.busy_ns);
            self.count_launch(&launch.works);
            for placed in &launch.works {
                self.finish_work(placed);
            }
        } else {
            self.device.in_flight.push(launch);
            self.abandon_orphans();
        }
    }

    /// Ends launches that were stopped and whose sessions are all gone.
    pub(crate) fn abandon_orphans(&mut self) {
        let sessions = &self.sessions;
        let alive = |placed: &Placed| {
            let session = sessions[placed.place.0].as_ref();
            session.is_some_and(|session| session.spec.id == placed.session)
        };
        self.device
            .abandon(|launch| launch.stopped && !launch.works.iter().any(alive));
    }

    /// Device time is split by the first cost estimate of each instance. Where the first one, for which the launch was made, has
    /// hurried others, those pay no more than they would have in the quickest launches of their plan, and it pays the rest; so it
    /// does with what cannot be split.
    fn charge_slice(&mut self, works: &mut [Placed], busy_ns: u64) {
        let cost_of = |placed: &Placed| u128::from(placed.work.cost());
        let sum = works.iter().map(cost_of).sum::<u128>().max(1);
        let Some((first, others)) = works.split_first_mut() else {
            return;
        };
        let now_ns = self.clock.now_ns();
        let mut left_ns = busy_ns;
        for placed in others {
            let share = u128::from(busy_ns) * cost_of(placed) / sum;
            let mut share_ns = u64::try_from(share).unwrap_or(u64::MAX).min(left_ns);
            if self.hurries(first, placed)
                && let Some(guard) = &self.scheduler.guard
            {
                let (work, plan) = (&placed.work, &placed.work.template.plan);
                share_ns = share_ns.min(guard.best_ns(plan, work.cost()).unwrap_or(share_ns));
            }
            left_ns -= share_ns;
            self.charge(placed, share_ns, now_ns);
        }
        self.charge(first, left_ns, now_ns);
    }

    /// Does the first one have a deadline or a higher class than the other?
    fn hurries(&self, first: &Placed, other: &Placed) -> bool {
        let class = |placed: &Placed| {
            let session = self.sessions[placed.place.0].as_ref();
            session.map(|session| session.spec.class)
        };
        first.work.deadline_ns.is_some() && other.work.deadline_ns.is_none()
            || class(first) > class(other)
    }

    fn charge(&mut self, placed: &mut Placed, ns: u64, now_ns: u64) {
        let Some(session) = self.sessions[placed.place.0]
            .as_mut()
            .filter(|s| s.spec.id == placed.session)
        else {
            // It ended meanwhile, and the device worked for it.
            if let Some(bill) = self.bills.get(placed.session) {
                bill.charge(ns, now_ns);
            }
            return;
        };
        session.device_ns += ns;
        session.bill.charge(ns, now_ns);
        let before = placed.charged_ns.min(ns);
        placed.charged_ns -= before;
        let owner = session.owner();
        self.scheduler.charge(&owner, (ns - before) as i64);
    }

    /// What a launch took is what works like these will take.
    fn learn(&mut self, works: &[Placed], busy_ns: u64) {
        let Some(first) = works.first() else { return };
        let plan = &first.work.template.plan;
        let costs: Vec<u64> = works.iter().map(|placed| placed.work.cost()).collect();
        self.scheduler.costs.ran(plan, &costs, busy_ns);
        if let Some(guard) = &mut self.scheduler.guard {
            guard.ran(plan, &costs, busy_ns);
        }
    }

    fn count_launch(&mut self, works: &[Placed]) {
        let counters = &mut self.counters;
        counters.launches += 1;
        counters.instances += works.len() as u64;
        for placed in works {
            let operations = u64::from(placed.work.template.plan.operations);
            counters.ops += operations;
            counters.ops_fused += if operations > 1 { operations } else { 0 };
        }
        if let [first, rest @ ..] = works
            && !rest.is_empty()
        {
            counters.instances_batched += works.len() as u64;
            counters.cross_session_launches +=
                u64::from(rest.iter().any(|other| other.session != first.session));
        }
    }

    fn finish_work(&mut self, placed: &Placed) {
        let Some(session) = self.sessions[placed.place.0]
            .as_mut()
            .filter(|s| s.spec.id == placed.session)
        else {
            return;
        };
        let owner = session.owner();
        self.scheduler.charge(&owner, -(placed.charged_ns as i64));
        let now_ns = self.device.memory.now_ns;
        self.device.pressure.finished(placed.session, now_ns);
        let count = placed.work.requests.len() as u64;
        session.totals.ok += count;
        self.counters.requests_ok += count;
        if let Some(queue) = session.queue(placed.place.1) {
            queue.close(placed.work.first_number);
            queue.ends.completion.release_errors(count as u32);
        }
    }

    /// A work that cannot run: all its requests fail.
    pub(crate) fn fail_work(&mut self, placed: &Placed, failure: Failure) {
        fail_outputs(&placed.work, failure);
        let Some(session) = self.sessions[placed.place.0]
            .as_mut()
            .filter(|s| s.spec.id == placed.session)
        else {
            return;
        };
        let mut reached = session.limit_reached(failure.code);
        let Some(queue) = session
            .queues
            .get_mut(placed.place.1)
            .and_then(Option::as_mut)
        else {
            return;
        };
        for &(number, site) in &placed.work.requests {
            // Told once, with the request that the others name as their origin.
            let reached = match number == failure.origin {
                true => reached.take(),
                false => None,
            };
            queue.fail(number, site, failure, reached);
        }
        queue.close(placed.work.first_number);
        let count = placed.work.requests.len() as u64;
        session.totals.failed += count;
        self.counters.requests_failed += count;
    }

    /// The outcome of one request that is no operation of a window.
    pub(crate) fn settle(
        &mut self,
        place: (usize, usize),
        number: u64,
        site: u32,
        result: Result<(), Failure>,
    ) {
        let Some(session) = self.sessions[place.0].as_mut() else {
            return;
        };
        let reached = match &result {
            Err(failure) if failure.origin == number => session.limit_reached(failure.code),
            _ => None,
        };
        let Session { queues, totals, .. } = session;
        let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut) else {
            return;
        };
        match result {
            Ok(()) => {
                totals.ok += 1;
                self.counters.requests_ok += 1;
                queue.ends.completion.release_errors(1);
            }
            Err(failure) => {
                match failure.code {
                    Code::Cancelled => {
                        totals.cancelled += 1;
                        self.counters.requests_cancelled += 1;
                    }
                    _ => {
                        totals.failed += 1;
                        self.counters.requests_failed += 1;
                    }
                }
                queue.fail(number, site, failure, reached);
            }
        }
    }

    /// Copies out values that are there, in the order in which they were asked for.
    pub(crate) fn deliver(&mut self, place: (usize, usize)) -> bool {
        let mut any = false;
        while let Some(Session {
            queues, staging, ..
        }) = self.sessions[place.0].as_mut()
            && let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut)
            && let Some(&Download {
                number,
                site,
                ref value,
                at,
                to,
            }) = queue.downloads.front()
        {
            let result = match (value.failure(), value.block()) {
                (Some(failure), _) => Err(Failure {
                    code: Code::Poisoned,
                    ..failure
                }),
                (None, Some(block)) if self.device.is_written(value) => {
                    self.stages.enter(Stage::Transfer, &*self.clock);
                    staging
                        .get(to.arena as usize)
                        .ok_or(Code::Staging)
                        .and_then(|map| self.device.download(&block, at, map, to))
                        .map_err(|code| Failure {
                            code,
                            origin: number,
                            site,
                        })
                }
                _ => break,
            };
            value.drop_use();
            queue.downloads.pop_front();
            queue.close(number);
            any = true;
            self.enter(Stage::Completion);
            self.settle(place, number, site, result);
        }
        any
    }

    /// Ends the uploads of constants whose content is safe.
    pub(crate) fn secure(&mut self, place: (usize, usize)) -> bool {
        let mut any = false;
        while let Some(queue) = self.queue(place)
            && let Some(&Hashing {
                number,
                site,
                ticket,
            }) = queue.hashing.front()
            && self.device.constants.is_settled(ticket)
        {
            any = true;
            if let Some(queue) = self.queue(place) {
                queue.hashing.pop_front();
                queue.close(number);
            }
            self.settle(place, number, site, Ok(()));
        }
        any
    }

    /// Moves a queue's timeline and wakes who waits for it.
    pub(crate) fn publish(&mut self, (session, queue): (usize, usize)) {
        if let Some(Some(session)) = self.sessions.get(session) {
            session.recount();
        }
        // As `Engine::queue`; the clock is wanted beside it.
        let Some(queue) = self
            .sessions
            .get_mut(session)
            .and_then(Option::as_mut)
            .and_then(|session| session.queue(queue))
        else {
            return;
        };
        queue.publish_head();
        let finished = queue.finished();
        let moved = finished > queue.ends.completion.timeline();
        queue.ends.completion.set_timeline(finished);
        if moved {
            self.stages.enter(Stage::Wake, &*self.clock);
        }
        queue
            .ends
            .completion
            .wake_if_asleep(&queue.ends.submission, queue.ends.notice.as_ref());
    }
}
