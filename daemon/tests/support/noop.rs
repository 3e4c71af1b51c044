//! An engine that answers each record by moving the timeline, so that everything around an engine can be tested.
//!
//! A record with opcode `WAIT_QUEUE` is held for good, with everything behind it: for what is lost or not drained.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tensord_daemon::engine_process::{
    ConstantKey, EngineCore, EngineStart, Progress, QueueEnds, Refusal, SessionFault, SessionId,
    SessionSpec, SessionTotals,
};
use tensord_shm::completion::parking_fence;
use tensord_shm::error::Code;
use tensord_shm::record::opcode;
use tensord_shm::ring::RecordBuf;
use tensord_shm::staging::StagingMap;

#[derive(Default)]
struct Session {
    queues: BTreeMap<u32, Queue>,
    arenas: u32,
    totals: SessionTotals,
}

struct Queue {
    ends: QueueEnds,
    held: bool,
    frozen: bool,
}

/// The engine.
#[derive(Default)]
pub struct Noop {
    sessions: BTreeMap<u64, Session>,
    faults: Vec<SessionFault>,
    accepted: u64,
}

pub fn make(_: &EngineStart) -> Result<Box<dyn EngineCore>, String> {
    Ok(Box::new(Noop::default()))
}

impl Noop {
    fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.sessions
            .values()
            .flat_map(|session| session.queues.values())
    }

    fn set_need_wakeup(&mut self, need: bool) {
        for session in self.sessions.values_mut() {
            for queue in session.queues.values_mut() {
                queue.ends.completion.set_need_wakeup(need);
            }
        }
    }

    fn serve(
        queue: &mut Queue,
        totals: &mut SessionTotals,
        record: &mut RecordBuf,
    ) -> Result<u64, String> {
        let mut taken = 0;
        queue
            .ends
            .consumer
            .refresh()
            .map_err(|fault| fault.to_string())?;
        while !queue.held
            && queue
                .ends
                .consumer
                .pop(record)
                .map_err(|fault| fault.to_string())?
                .is_some()
        {
            taken += 1;
            queue.held = (record.words()[0] >> 16) as u16 == opcode::WAIT_QUEUE;
            totals.ok += u64::from(!queue.held);
        }
        if taken > 0 {
            let done = queue.ends.consumer.record_count() - u64::from(queue.held);
            queue.ends.completion.set_head(queue.ends.consumer.head());
            queue.ends.completion.set_timeline(done);
        }
        queue
            .ends
            .completion
            .wake_if_asleep(&queue.ends.submission, queue.ends.notice.as_ref());
        Ok(taken)
    }
}

impl EngineCore for Noop {
    fn attach(&mut self, spec: SessionSpec) -> Result<(), Refusal> {
        self.sessions.insert(spec.id.0, Session::default());
        Ok(())
    }

    fn add_queue(&mut self, session: SessionId, queue: QueueEnds) -> Result<(), Refusal> {
        let session = self
            .sessions
            .get_mut(&session.0)
            .expect("the shell attaches first");
        session.queues.insert(
            queue.id,
            Queue {
                ends: queue,
                held: false,
                frozen: false,
            },
        );
        Ok(())
    }

    fn add_staging(&mut self, session: SessionId, _: StagingMap) -> Result<u32, Refusal> {
        let session = self
            .sessions
            .get_mut(&session.0)
            .expect("the shell attaches first");
        session.arenas += 1;
        Ok(session.arenas - 1)
    }

    fn detach(&mut self, session: SessionId) -> SessionTotals {
        self.sessions
            .remove(&session.0)
            .map(|session| session.totals)
            .unwrap_or_default()
    }

    fn add_constant(&mut self, _: ConstantKey, _: OwnedFd) {}

    fn take_sealed(&mut self) -> Vec<(ConstantKey, OwnedFd)> {
        Vec::new()
    }

    fn take_faults(&mut self) -> Vec<SessionFault> {
        std::mem::take(&mut self.faults)
    }

    fn doorbell(&mut self, session: SessionId, queue: u32) {
        let queue = self
            .sessions
            .get_mut(&session.0)
            .and_then(|session| session.queues.get_mut(&queue));
        if let Some(queue) = queue {
            queue.ends.completion.set_need_wakeup(false);
        }
    }

    fn tick(&mut self) -> Progress {
        let mut record = RecordBuf::new();
        let mut taken = 0;
        for (id, session) in &mut self.sessions {
            for queue in session
                .queues
                .values_mut()
                .filter(|queue| !queue.held && !queue.frozen)
            {
                match Noop::serve(queue, &mut session.totals, &mut record) {
                    Ok(count) => taken += count,
                    Err(text) => {
                        queue.frozen = true;
                        queue
                            .ends
                            .completion
                            .latch_fault(Code::TailJump as u32, queue.ends.notice.as_ref());
                        self.faults.push(SessionFault {
                            session: SessionId(*id),
                            code: Code::TailJump,
                            text,
                        });
                    }
                }
            }
        }
        self.accepted += taken;
        if taken > 0 {
            Progress::Busy
        } else {
            Progress::Idle
        }
    }

    fn prepare_park(&mut self) -> bool {
        self.set_need_wakeup(true);
        parking_fence();
        let news = self
            .queues()
            .any(|queue| !queue.held && !queue.frozen && queue.ends.consumer.is_behind());
        if news {
            self.set_need_wakeup(false);
        }
        !news
    }

    fn next_deadline(&self) -> Option<Duration> {
        None
    }

    fn begin_drain(&mut self) {}

    fn is_drained(&self) -> bool {
        self.queues().all(|queue| !queue.held)
    }

    fn stat_json(&self) -> String {
        let sessions: Vec<serde_json::Value> = self
            .sessions
            .iter()
            .map(|(id, session)| serde_json::json!({ "id": id, "requests": session.totals.ok }))
            .collect();
        serde_json::json!({
            "device": "noop",
            "uuid": "noop",
            "busy_us": 0,
            "counters": { "requests_accepted": self.accepted },
            "sessions": sessions,
        })
        .to_string()
    }
}
