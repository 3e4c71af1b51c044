//! What is wanted of a queue becomes work: a trace known as a whole at once, anything else through the window and the fuser.

use tensord_shm::error::Code;

use super::Engine;
use crate::graph::trace::{Lesson, Replay};
use crate::graph::value::{Failure, State, Value};
use crate::graph::window::Cut;
use crate::ingest::Queue;
use crate::schedule::Work;
use crate::session::Session;
use crate::stages::Stage;

/// Operations that are worth a launch even if nobody waits for them. A trace is planned at just this length, so that a
/// stream of operations without end is cut where it was cut before.
const LAUNCH_WORTH: usize = 256;
/// Steps of a trace, views and notes among them, that are planned whatever they are.
const STEPS_MAX: usize = 1024;
/// Most operations of one plan.
const WINDOW_MAX: usize = 512;
/// Bytes that a device writes in a nanosecond, in order of magnitude.
const BYTES_PER_NS: u64 = 8;

/// How long a queue must be silent before unfinished work runs: `quiet_us`, and as long again as a device would take to write
/// its largest result. Large work that runs a moment too early writes a value whose release was on its way.
pub(super) fn silence_ns(queue: &Queue, quiet_ns: u64) -> u64 {
    quiet_ns + queue.largest_bytes() / BYTES_PER_NS
}

/// Is a queue's trace worth a launch even if nobody waits for it?
#[inline]
pub(super) fn is_full(queue: &Queue) -> bool {
    queue.trace.operations() >= LAUNCH_WORTH || queue.trace.len() >= STEPS_MAX
}

impl Engine {
    /// The timeline value up to which a queue's operations are wanted now; 0 if nothing is.
    fn wanted(&mut self, place: (usize, usize), now_ns: u64) -> u64 {
        let (quiet_ns, draining) = (self.settings.quiet_ns, self.draining);
        let Some(queue) = self.queue(place) else {
            return 0;
        };
        let Some(first) = queue.first_unplanned() else {
            return 0;
        };
        let all = queue.window.len() >= LAUNCH_WORTH
            || queue.starved
            || draining
            || now_ns.saturating_sub(queue.news_ns) >= silence_ns(queue, quiet_ns);
        // Records that lie behind may let go what these make.
        let whole = queue.ends.consumer.batch_left() == 0;
        match queue.demand.max(queue.demanded) {
            _ if all => u64::MAX,
            demand if demand >= first && whole => demand,
            _ => 0,
        }
    }

    /// Makes work of a queue's operations if they are worth a launch. Called with the record that comes next, before it is
    /// accepted: what it lets go is let go first, so that nothing is kept that nobody wants, and struck out of it.
    pub(super) fn plan_if_full(&mut self, place: (usize, usize), words: &mut [u64], now_ns: u64) {
        let Some(Session {
            handles, queues, ..
        }) = self.sessions.get_mut(place.0).and_then(Option::as_mut)
        else {
            return;
        };
        let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut) else {
            return;
        };
        if !is_full(queue) {
            return;
        }
        queue
            .trace
            .release_early(&mut self.branches, handles, words);
        if queue.trace.operations() == 0 {
            // Nothing but views: their handles are bound for good.
            return self.expand(place);
        }
        self.plan_up_to(place, u64::MAX, now_ns);
    }

    /// Makes work of what is wanted of one queue.
    pub(super) fn plan(&mut self, place: (usize, usize), now_ns: u64) -> bool {
        let wanted = self.wanted(place, now_ns);
        wanted > 0 && self.plan_up_to(place, wanted, now_ns)
    }

    fn plan_up_to(&mut self, place: (usize, usize), wanted: u64, now_ns: u64) -> bool {
        self.enter(Stage::Lookup);
        self.note_session(place);
        let Some(Session {
            handles,
            queues,
            spec,
            ..
        }) = self.sessions.get_mut(place.0).and_then(Option::as_mut)
        else {
            return false;
        };
        let most = if spec.fuse { WINDOW_MAX } else { 1 };
        let memory = &self.device.memory;
        let budget = memory.capacity() / 2;
        let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut) else {
            return false;
        };
        let whole = queue.trace.operations() > 0 && wanted >= queue.trace.last_number();
        let fits = |queue: &Queue| {
            let needed = queue.trace.bytes_needed(|value| memory.takes(value));
            needed.is_none_or(|bytes| bytes <= budget)
        };
        if whole
            && fits(queue)
            && let Some(replay) = queue.trace.replay(handles, place.1 as u32)
        {
            self.plans.hits += 1;
            add_work(queue, work_of(replay, now_ns));
            return true;
        }
        let lesson = queue
            .trace
            .expand(handles, &mut queue.window, place.1 as u32);
        let mut lesson = whole.then_some(lesson);
        while let Some(queue) = self.queue(place)
            && let Some(first) = queue.window.first_number()
            && first <= wanted
        {
            let (look, serial) = (self.branches.number(), self.branches.number());
            let memory = &self.device.memory;
            let queue = self.sessions.get_mut(place.0).and_then(Option::as_mut);
            let Some(queue) = queue.and_then(|session| session.queue(place.1)) else {
                break;
            };
            // What does not fit the device as one piece runs in several.
            let most = match queue.window.bytes_most() > budget {
                false => most,
                true => {
                    let takes = |value: &Value| memory.takes(value);
                    let up_to = (wanted, most);
                    queue.window.count_within(up_to, budget, takes, look)
                }
            };
            let cut = queue.window.cut(wanted, most, serial);
            self.plan_cut(place, cut, lesson.take(), now_ns);
        }
        true
    }

    fn plan_cut(&mut self, place: (usize, usize), cut: Cut, lesson: Option<Lesson>, now_ns: u64) {
        self.fail_all(
            place,
            cut.failed.iter().map(|f| (f.number, f.site, f.failure)),
        );
        if cut.is_empty() {
            return;
        }
        match self.plans.find(cut.key(), || cut.segment()) {
            Ok(template) => {
                if let Some(lesson) = lesson {
                    lesson.learn(&cut, &template);
                }
                let externals = cut.externals();
                let inputs = template.inputs.iter();
                let replay = Replay {
                    immediates: cut.immediates(&template),
                    inputs: inputs.map(|&e| externals[e as usize].clone()).collect(),
                    outputs: template
                        .outputs
                        .iter()
                        .map(|&n| cut.nodes()[n as usize].value.clone())
                        .collect(),
                    requests: cut.requests().collect(),
                    first_number: cut.nodes()[0].number,
                    template,
                };
                if let Some(queue) = self.queue(place) {
                    add_work(queue, work_of(replay, now_ns));
                }
            }
            Err(error) => {
                // The fuser broke its own rule. The requests get their outcome; the daemon goes on.
                tracing::error!(%error, "a plan does not fit its window");
                let failed = |(number, site)| {
                    let code = Code::Internal;
                    (
                        number,
                        site,
                        Failure {
                            code,
                            origin: number,
                            site,
                        },
                    )
                };
                for node in cut.nodes() {
                    let (_, _, failure) = failed((node.number, node.site));
                    node.value.set(State::Failed(failure));
                }
                self.fail_all(place, cut.requests().map(failed));
            }
        }
    }

    /// Gives failed operations of a window their outcome.
    fn fail_all(
        &mut self,
        place: (usize, usize),
        failures: impl Iterator<Item = (u64, u32, Failure)>,
    ) {
        for (number, site, failure) in failures {
            self.settle(place, number, site, Err(failure));
        }
    }

    /// Makes nodes of a queue's trace.
    pub(super) fn expand(&mut self, place: (usize, usize)) {
        if let Some(Session {
            handles, queues, ..
        }) = self.sessions.get_mut(place.0).and_then(Option::as_mut)
            && let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut)
        {
            queue
                .trace
                .expand(handles, &mut queue.window, place.1 as u32);
        }
    }
}

fn work_of(replay: Replay, now_ns: u64) -> Work {
    replay.inputs.iter().for_each(|value| value.add_use());
    Work {
        template: replay.template,
        immediates: replay.immediates,
        inputs: replay.inputs,
        outputs: replay.outputs,
        first_number: replay.first_number,
        requests: replay.requests,
        ready_ns: now_ns,
        deadline_ns: None,
    }
}

fn add_work(queue: &mut Queue, mut work: Work) {
    queue.hold_open(work.first_number);
    work.deadline_ns = queue.deadline_of(work.first_number);
    queue.works.push_back(work);
}
