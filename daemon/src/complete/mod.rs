//! Gives every request its one outcome: timelines, failures, charges.
//!
//! In: finished launches and refused works. Out: timelines moved on, sleepers woken, device time charged.

use tensord_plan::Completed;
use tensord_shm::error::Code;

use crate::dispatch::{InFlight, Placed, fail_outputs};
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
            let busy_ns = done.iter().map(|completed| completed.busy_ns).sum();
            self.stages.finished(busy_ns, &*self.clock);
        }
        for completed in done.drain(..) {
            self.finish_launch(&completed);
        }
        self.done = done;
        any
    }

    fn finish_launch(&mut self, completed: &Completed) {
        let Some(InFlight { works, .. }) = self.device.finish(completed.id) else {
            return;
        };
        if let Some(fault) = &completed.fault {
            self.device_failed(fault);
        }
        self.busy_ns += completed.busy_ns;
        self.count_launch(&works);
        // Device time is split by the first cost estimate of each instance, in 1/1024ths so that it adds up.
        let costs: Vec<u64> = works.iter().map(|placed| placed.work.cost()).collect();
        let sum: u64 = costs.iter().sum::<u64>().max(1);
        if let Some(guard) = &mut self.scheduler.guard
            && let Some(first) = works.first()
        {
            guard.ran(&first.work.template.plan, &costs, completed.busy_ns);
        }
        let mut left = completed.busy_ns;
        let last = works.len().saturating_sub(1);
        for (index, (placed, cost)) in works.into_iter().zip(costs).enumerate() {
            let share = (u128::from(completed.busy_ns) * u128::from(cost) / u128::from(sum)) as u64;
            let share = if index == last { left } else { share.min(left) };
            left -= share;
            self.finish_work(&placed, share);
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

    fn finish_work(&mut self, placed: &Placed, share_ns: u64) {
        let Some(session) = self.sessions[placed.place.0]
            .as_mut()
            .filter(|s| s.spec.id == placed.session)
        else {
            return;
        };
        session.device_ns += share_ns;
        self.scheduler
            .turn
            .charge(session.spec.tenant, session.spec.id, share_ns);
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
        let Some(queue) = session
            .queues
            .get_mut(placed.place.1)
            .and_then(Option::as_mut)
        else {
            return;
        };
        for &(number, site) in &placed.work.requests {
            queue.fail(number, site, failure);
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
                queue.fail(number, site, failure);
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
