//! Engines come and go: sessions are attached, their segments made and closed, and made anew in each epoch.
//!
//! The order for a queue, in every epoch: made here, mapped writable by the engine, acknowledged, closed to all other
//! writers here, kept by the supervisor, told to the client. Segments of an ended epoch are never mapped again but once,
//! read-only, to wake who sleeps on them.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use tensord_shm::completion::Reader;
use tensord_shm::control::{ControlError, EngineLost, Reply};
use tensord_shm::error::Code;
use tensord_shm::segment::{
    CompletionMap, SubmissionMap, create_completion, create_submission, seal_completion,
};

use super::session::{KEY_SESSION, Queue, Segments, Session};
use super::{Broker, FIRST_ENGINE, FIRST_SESSION};
use crate::link::{EngineOrder, EngineReport, FromBroker, Link, Refused};

/// An engine as the broker knows it, over all its epochs.
pub(super) struct Engine {
    pub(super) device: String,
    pub(super) tenant: Option<u32>,
    pub(super) epoch: u32,
    pub(super) pid: i32,
    /// Requests that ended with its epochs.
    pub(super) lost: u64,
    /// How its last epoch ended, if one did.
    pub(super) last_end: Option<End>,
    /// None between two epochs.
    link: Option<Link>,
}

/// The end of an epoch.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) epoch: u32,
    /// Why, for people.
    pub(super) cause: String,
    /// The session whose work the engine ran alone.
    pub(super) blamed: Option<u64>,
}

impl Engine {
    pub(super) fn new(
        device: String,
        tenant: Option<u32>,
        epoch: u32,
        pid: i32,
        link: Link,
    ) -> Engine {
        Engine {
            device,
            tenant,
            epoch,
            pid,
            lost: 0,
            last_end: None,
            link: Some(link),
        }
    }

    /// Whether orders wait to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_waiting)
    }

    /// Whether it can be ordered something.
    pub(super) fn is_up(&self) -> bool {
        self.link.is_some()
    }
}

impl Broker {
    /// An engine started, or was there before this broker.
    pub(super) fn engine_came(&mut self, number: u32, mut engine: Engine) -> anyhow::Result<()> {
        let token = Token(FIRST_ENGINE + number as usize);
        anyhow::ensure!(
            token.0 < FIRST_SESSION,
            "engine {number} is beyond what this broker can tell apart"
        );
        let raw = engine.link.as_ref().map(Link::raw).unwrap_or(-1);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut SourceFd(&raw), token, interest)?;
        tracing::info!(
            engine = number,
            epoch = engine.epoch,
            device = engine.device,
            "engine is up"
        );
        if let Some(before) = self.engines.get(&number) {
            engine.lost = before.lost;
            engine.last_end = before.last_end.clone();
        }
        self.engines.insert(number, engine);
        if self.ready {
            self.adopt(number);
        }
        Ok(())
    }

    /// An engine ended. Who sleeps on its queues is woken at once; new segments come with the next epoch.
    pub(super) fn engine_went(&mut self, number: u32, end: End, restarts: bool) {
        let Some(engine) = self
            .engines
            .get_mut(&number)
            .filter(|engine| engine.epoch == end.epoch)
        else {
            return;
        };
        engine.last_end = Some(end.clone());
        if let Some(link) = engine.link.take() {
            let _ = self.poll.registry().deregister(&mut SourceFd(&link.raw()));
        }
        if !restarts {
            self.engines.remove(&number);
        }
        // What it had of ended sessions is gone with it.
        let ended: Vec<u32> = self
            .ending
            .extract_if(|_, ending| ending.engine == number)
            .map(|(_, e)| e.tenant)
            .collect();
        for tenant in ended {
            self.settle_tenant(tenant);
        }
        for id in self.sessions_of(number) {
            self.lose_epoch(id, &end);
        }
        self.stat.engine_went(number);
        self.finish_stat(false);
    }

    /// Tells an engine, which an earlier broker may have given sessions, whom this one knows.
    pub(super) fn resync(&mut self, number: u32) {
        let Some(epoch) = self.engines.get(&number).map(|engine| engine.epoch) else {
            return;
        };
        // What was asked and never kept is not known to the client either: it asks again.
        for session in self
            .sessions
            .values_mut()
            .filter(|session| !session.record.open)
        {
            session.queues.clear();
            session.arenas.clear();
            session.engine = None;
        }
        let known: Vec<u64> = self
            .sessions
            .values()
            .filter(|session| session.engine == Some(number) && session.is_in_epoch(epoch))
            .map(|session| session.id)
            .collect();
        self.order(number, &EngineOrder::Resync, &[]);
        for session in known {
            self.order(number, &EngineOrder::Known { session }, &[]);
        }
        self.order(number, &EngineOrder::Resynced, &[]);
        self.adopt(number);
    }

    /// Tells clients of epochs that they may not have heard of: their last broker may have ended before it told them.
    pub(super) fn renotify(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let grants: Vec<_> = session
            .queues
            .iter()
            .filter(|queue| {
                queue
                    .segments
                    .as_ref()
                    .is_some_and(|segments| segments.epoch != queue.epoch_first)
            })
            .filter_map(|queue| Some((queue.grant()?, queue.grant_fds(false))))
            .collect();
        for (grant, fds) in grants {
            self.reply(id, 0, Reply::Epoch(grant), &fds);
        }
    }

    /// Brings an engine's sessions into its epoch: those of an ended one, and those that wait for an engine.
    fn adopt(&mut self, number: u32) {
        let Some(epoch) = self.engines.get(&number).map(|engine| engine.epoch) else {
            return;
        };
        for id in self.sessions_of(number) {
            let session = &self.sessions[&id];
            if !session.is_in_epoch(epoch)
                && session.queues.iter().any(|queue| queue.segments.is_some())
            {
                let end = End {
                    epoch: epoch.saturating_sub(1),
                    cause: "the engine was started again".to_owned(),
                    blamed: None,
                };
                self.lose_epoch(id, &end);
            }
        }
        let wanting: Vec<u64> = self
            .sessions
            .values()
            .filter(|session| session.queues.iter().any(|queue| queue.segments.is_none()))
            .map(|session| session.id)
            .collect();
        for id in wanting {
            self.bring_up(id);
        }
    }

    fn sessions_of(&self, number: u32) -> Vec<u64> {
        self.sessions
            .values()
            .filter(|session| session.engine == Some(number))
            .map(|session| session.id)
            .collect()
    }

    /// The engine that serves a tenant, if it is up; one is asked for where a tenant needs its own.
    fn engine_for(&mut self, tenant: u32) -> Option<u32> {
        let wanted = self.is_isolated().then_some(tenant);
        if let Some((number, engine)) = self
            .engines
            .iter()
            .find(|(_, engine)| engine.tenant == wanted)
        {
            return engine.is_up().then_some(*number);
        }
        if let Some(tenant) = wanted {
            // Asked again for each session that waits: the supervisor starts one.
            self.tell_supervisor(&FromBroker::WantEngine { tenant }, &[]);
        }
        None
    }

    /// Gives a session's queues their segments, once its engine is up.
    pub(super) fn bring_up(&mut self, id: u64) {
        let Some(tenant) = self.sessions.get(&id).map(|session| session.tenant) else {
            return;
        };
        let Some(number) = self.engine_for(tenant) else {
            return;
        };
        let (Some(session), Some(engine)) =
            (self.sessions.get_mut(&id), self.engines.get_mut(&number))
        else {
            return;
        };
        let epoch = engine.epoch;
        let mut orders = Vec::new();
        if !session.is_in_epoch(epoch) {
            orders.push((
                EngineOrder::Attach(Box::new(session.record.clone())),
                Vec::new(),
            ));
            for arena in &session.arenas {
                orders.push((
                    arena_order(id, arena.index, arena.bytes),
                    vec![Rc::clone(&arena.memory)],
                ));
            }
        }
        session.engine = Some(number);
        for queue in session
            .queues
            .iter_mut()
            .filter(|queue| queue.segments.is_none())
        {
            let made = create_submission(queue.slot_count)
                .and_then(|submission| Ok((submission, create_completion()?)));
            let (submission, completion) = match made {
                Ok((submission, completion)) => (Rc::new(submission), Rc::new(completion)),
                Err(fault) => {
                    let text = format!("the daemon cannot make a queue's shared memory: {fault}");
                    return self.end(id, Some(ControlError::new(Code::OutOfMemory, text)));
                }
            };
            queue.segments = Some(Segments {
                epoch,
                submission,
                completion,
                ready: false,
            });
            orders.push(queue_order(id, queue));
        }
        for (order, fds) in orders {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            self.order(number, &order, &fds);
        }
    }

    /// Orders something of an engine; false when it is not there, and then all of its sessions are about to hear so.
    pub(super) fn order(
        &mut self,
        number: u32,
        order: &EngineOrder,
        fds: &[BorrowedFd<'_>],
    ) -> bool {
        let link = self
            .engines
            .get_mut(&number)
            .and_then(|engine| engine.link.as_mut());
        // A link that fails belongs to an engine that has ended: the supervisor says so presently.
        link.is_some_and(|link| link.send(order, fds).is_ok())
    }

    pub(super) fn hear_engine(&mut self, number: u32) {
        let Some(link) = self
            .engines
            .get_mut(&number)
            .and_then(|engine| engine.link.as_mut())
        else {
            return;
        };
        // An engine that hung up is reported by the supervisor, with the cause.
        let _ = link.flush();
        let (reports, _) = link.receive_all::<EngineReport>();
        for (report, fds) in reports {
            self.take_report(number, report, fds);
        }
    }

    fn take_report(&mut self, number: u32, report: EngineReport, fds: Vec<OwnedFd>) {
        match report {
            EngineReport::QueueReady { session, queue } => self.queue_ready(session, queue),
            EngineReport::StagingReady { session, index } => self.staging_ready(session, index),
            EngineReport::Refused {
                session,
                what,
                code,
                text,
            } => {
                let code = Code::from_wire(code).unwrap_or(Code::Internal);
                self.refused(session, what, ControlError::new(code, text));
            }
            EngineReport::Fault {
                session,
                code,
                text,
            } => {
                self.faults += 1;
                crate::client_log!(debug, session, "protocol error in a ring: {text}");
                let code = Code::from_wire(code).unwrap_or(Code::Internal);
                self.end(session, Some(ControlError::new(code, text)));
            }
            EngineReport::Detached { session, totals } => {
                self.totals.ok += totals.ok;
                self.totals.failed += totals.failed;
                self.totals.cancelled += totals.cancelled;
                if let Some(ending) = self.ending.remove(&session) {
                    self.settle_tenant(ending.tenant);
                }
            }
            EngineReport::Stat { token } => {
                self.stat.answer(number, token, fds);
                self.finish_stat(false);
            }
        }
    }

    /// The engine has mapped a queue: close it to other writers, keep it, tell the client.
    fn queue_ready(&mut self, id: u64, number: u32) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(queue) = session.queues.iter_mut().find(|queue| queue.id == number) else {
            return;
        };
        let Some(segments) = queue.segments.as_mut().filter(|segments| !segments.ready) else {
            return;
        };
        if let Err(fault) = seal_completion(&segments.completion) {
            let text = format!("a queue could not be closed to other writers: {fault}");
            return self.end(id, Some(ControlError::new(Code::Internal, text)));
        }
        segments.ready = true;
        let answer = queue.answer.take();
        let (Some(grant), Some((key, record, kept))) = (queue.grant(), queue.kept()) else {
            return;
        };
        let fds = queue.grant_fds(answer.is_some());
        let opens = !session.record.open;
        session.record.open = true;
        let session_record = session.kept();
        let kept: Vec<BorrowedFd<'_>> = kept.iter().map(|fd| fd.as_fd()).collect();
        self.tell_supervisor(
            &FromBroker::Keep {
                session: id,
                key,
                record,
            },
            &kept,
        );
        if opens {
            self.tell_supervisor(
                &FromBroker::Keep {
                    session: id,
                    key: KEY_SESSION,
                    record: session_record,
                },
                &[],
            );
        }
        match answer {
            Some(sequence) if number == 0 => {
                let welcome = self.welcome_message(id, grant);
                self.reply(id, sequence, Reply::Welcome(welcome), &fds);
            }
            Some(sequence) => self.reply(id, sequence, Reply::Queue(grant), &fds),
            None => self.reply(id, 0, Reply::Epoch(grant), &fds),
        }
    }

    /// The engine has mapped an arena: keep it, tell the client.
    fn staging_ready(&mut self, id: u64, index: u32) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(arena) = session.arenas.iter_mut().find(|arena| arena.index == index) else {
            return;
        };
        arena.ready = true;
        let Some(sequence) = arena.answer.take() else {
            return;
        };
        let (grant, memory, (key, record)) =
            (arena.grant(), Rc::clone(&arena.memory), arena.kept());
        self.tell_supervisor(
            &FromBroker::Keep {
                session: id,
                key,
                record,
            },
            &[memory.as_fd()],
        );
        self.reply(id, sequence, Reply::Staging(grant), &[memory]);
    }

    fn refused(&mut self, id: u64, what: Refused, error: ControlError) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let answer = match what {
            Refused::Session => session
                .queues
                .first_mut()
                .and_then(|queue| queue.answer.take()),
            Refused::Queue(number) => session
                .queues
                .iter_mut()
                .find(|queue| queue.id == number)
                .and_then(|queue| queue.answer.take()),
            Refused::Staging(index) => session
                .arenas
                .iter_mut()
                .find(|arena| arena.index == index)
                .and_then(|arena| arena.answer.take()),
        };
        match (answer, what) {
            (Some(sequence), Refused::Queue(number)) if number > 0 => {
                session.queues.retain(|queue| queue.id != number);
                self.reply(id, sequence, Reply::Error(error), &[]);
            }
            (Some(sequence), Refused::Staging(index)) => {
                session.arenas.retain(|arena| arena.index != index);
                self.reply(id, sequence, Reply::Error(error), &[]);
            }
            // Without its first queue, or what it had in the epoch before, there is no session.
            (Some(sequence), _) => {
                self.reply(id, sequence, Reply::Error(error), &[]);
                self.end(id, None);
            }
            (None, _) => self.end(id, Some(error)),
        }
    }

    /// An epoch is over for a session: what was lost is counted, the client is told, whoever sleeps is woken.
    fn lose_epoch(&mut self, id: u64, end: &End) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let mut lost = 0;
        let mut sleepers = Vec::new();
        for queue in &mut session.queues {
            if let Some(segments) = queue.segments.take().filter(|segments| segments.ready)
                && let Some((count, completion)) = count_lost(&segments, queue.slot_count)
            {
                lost += count;
                sleepers.push(completion);
            }
        }
        for arena in &mut session.arenas {
            arena.ready = false;
        }
        let open = session.record.open;
        if let Some(engine) = session
            .engine
            .and_then(|number| self.engines.get_mut(&number))
        {
            engine.lost += lost;
        }
        self.totals.lost += lost;
        if open {
            let lost = EngineLost {
                epoch: end.epoch,
                lost,
                blamed: end.blamed == Some(id),
                cause: end.cause.clone(),
            };
            self.reply(id, 0, Reply::EngineLost(lost), &[]);
        }
        // Last: who wakes looks at his socket, and sleeps again if the news is not there yet.
        for completion in sleepers {
            completion.wake_all();
        }
    }
}

impl Session {
    /// Whether the session is attached to an engine of that epoch.
    fn is_in_epoch(&self, epoch: u32) -> bool {
        let epochs: HashSet<u32> = self
            .queues
            .iter()
            .filter_map(|q| q.segments.as_ref())
            .map(|s| s.epoch)
            .collect();
        epochs.contains(&epoch)
    }
}

/// The order by which an engine gets an arena.
pub(super) fn arena_order(session: u64, index: u32, bytes: u64) -> EngineOrder {
    EngineOrder::AddStaging {
        session,
        index,
        bytes,
    }
}

fn queue_order(session: u64, queue: &Queue) -> (EngineOrder, Vec<Rc<OwnedFd>>) {
    let mut fds = queue.grant_fds(false);
    fds.push(Rc::clone(&queue.doorbell));
    fds.extend(queue.notice.as_ref().map(|(sender, _)| Rc::clone(sender)));
    (
        EngineOrder::AddQueue {
            session,
            queue: queue.id,
            slot_count: queue.slot_count,
        },
        fds,
    )
}

/// The number of requests that ended with a queue's epoch, and where its sleepers are woken.
fn count_lost(segments: &Segments, slot_count: u32) -> Option<(u64, Reader)> {
    let completion = CompletionMap::map(segments.completion.as_fd()).map(Reader::new);
    let submission = SubmissionMap::map(segments.submission.as_fd(), slot_count);
    match (completion, submission) {
        (Ok(completion), Ok(submission)) => {
            let lost = submission.lost_count(completion.timeline());
            Some((lost, completion))
        }
        (Err(fault), _) | (_, Err(fault)) => {
            tracing::warn!("sleepers of an ended epoch wake by their own timeout: {fault}");
            None
        }
    }
}
