//! A tensord whose engine does no work: it takes each record out of its ring and calls it done.
//!
//! Supervisor, broker, rings, polling, parking and waking are the daemon's own, so a client that works as it would with
//! tensord shows what waiting itself allows. What it fetches is whatever lies in its staging memory.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tensord_daemon::engine_process::{
    ConstantKey, EngineCore, EngineStart, Progress, QueueEnds, Refusal, SessionId, SessionSpec,
    SessionTotals,
};
use tensord_shm::completion::parking_fence;
use tensord_shm::ring::RecordBuf;
use tensord_shm::staging::StagingMap;

/// As the engine's: looks at rings that take about a microsecond, and how long a silent queue is polled.
const LOOKS: usize = 48;
const POLL: Duration = Duration::from_millis(2);

struct Queue {
    session: SessionId,
    ends: QueueEnds,
    active: bool,
    news: Instant,
}

#[derive(Default)]
struct Session {
    arenas: u32,
    done: u64,
}

#[derive(Default)]
struct Echo {
    sessions: HashMap<SessionId, Session>,
    queues: Vec<Queue>,
    record: RecordBuf,
}

impl Echo {
    fn active(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter().filter(|queue| queue.active)
    }

    fn active_mut(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.queues.iter_mut().filter(|queue| queue.active)
    }
}

impl EngineCore for Echo {
    fn attach(&mut self, spec: SessionSpec) -> Result<(), Refusal> {
        self.sessions.insert(spec.id, Session::default());
        Ok(())
    }

    fn add_queue(&mut self, session: SessionId, ends: QueueEnds) -> Result<(), Refusal> {
        self.queues.push(Queue {
            session,
            ends,
            active: true,
            news: Instant::now(),
        });
        Ok(())
    }

    fn add_staging(&mut self, session: SessionId, _: StagingMap) -> Result<u32, Refusal> {
        let session = self.sessions.entry(session).or_default();
        session.arenas += 1;
        Ok(session.arenas - 1)
    }

    fn detach(&mut self, session: SessionId) -> SessionTotals {
        self.queues.retain(|queue| queue.session != session);
        let done = self.sessions.remove(&session).unwrap_or_default().done;
        SessionTotals {
            ok: done,
            ..SessionTotals::default()
        }
    }

    fn add_constant(&mut self, _: ConstantKey, _: OwnedFd) {}

    fn take_sealed(&mut self) -> Vec<(ConstantKey, OwnedFd)> {
        Vec::new()
    }

    fn doorbell(&mut self, session: SessionId, id: u32) {
        let named = |queue: &&mut Queue| queue.session == session && queue.ends.id == id;
        if let Some(queue) = self.queues.iter_mut().find(named) {
            queue.ends.completion.set_need_wakeup(false);
            queue.active = true;
            queue.news = Instant::now();
        }
    }

    fn tick(&mut self) -> Progress {
        let now = Instant::now();
        let mut busy = false;
        let mut record = std::mem::take(&mut self.record);
        for queue in self.queues.iter_mut().filter(|queue| queue.active) {
            let ends = &mut queue.ends;
            // A broken ring is one without news.
            let _ = ends.consumer.refresh();
            let mut taken = 0;
            while let Ok(Some(_)) = ends.consumer.pop(&mut record) {
                taken += 1;
            }
            if taken > 0 {
                busy = true;
                queue.news = now;
                ends.completion.set_head(ends.consumer.head());
                ends.completion.set_timeline(ends.consumer.record_count());
                ends.completion
                    .wake_if_asleep(&ends.submission, ends.notice.as_ref());
                if let Some(session) = self.sessions.get_mut(&queue.session) {
                    session.done += taken;
                }
            } else {
                ends.completion
                    .wake_if_asleep(&ends.submission, ends.notice.as_ref());
                queue.active = now - queue.news < POLL || !ends.completion.park(&ends.consumer);
            }
        }
        self.record = record;
        if busy { Progress::Busy } else { Progress::Idle }
    }

    fn watch(&self) -> bool {
        let looks = LOOKS / self.active().count().max(1);
        (0..looks).any(|_| {
            std::hint::spin_loop();
            self.active().any(|queue| queue.ends.consumer.is_behind())
        })
    }

    fn prepare_park(&mut self) -> bool {
        for queue in self.active_mut() {
            queue.ends.completion.set_head(queue.ends.consumer.head());
            queue.ends.completion.set_need_wakeup(true);
        }
        parking_fence();
        let news = self.active().any(|queue| queue.ends.consumer.is_behind());
        if news {
            self.active_mut()
                .for_each(|queue| queue.ends.completion.set_need_wakeup(false));
        }
        !news
    }

    fn next_deadline(&self) -> Option<Duration> {
        let quiet = self.active().map(|queue| queue.news + POLL).min()?;
        Some(quiet.saturating_duration_since(Instant::now()))
    }

    fn begin_drain(&mut self) {}

    fn is_drained(&self) -> bool {
        true
    }

    fn stat_json(&self) -> String {
        serde_json::json!({
            "device": "echo", "uuid": "echo", "busy_us": 0, "counters": {}, "sessions": [],
        })
        .to_string()
    }
}

fn make(_: &EngineStart) -> Result<Box<dyn EngineCore>, String> {
    Ok(Box::new(Echo::default()))
}

fn main() -> ExitCode {
    tensord_daemon::process::main(make)
}
