//! What clients ask over the socket, one function for each request.
//!
//! Every request may come twice: the second one finds what the first one made, by its sequence number, and gets the
//! same answer. A refusal is an answer and the session goes on; only a broken protocol ends it.

use std::rc::Rc;

use std::os::fd::AsFd;
use tensord_shm::control::{
    Class, ControlError, DEVICE_ANY, Hello, Message, QueueGrant, QueueRequest, Reply, Request,
    Resource, Set, Target, VERSION_MAX, VERSION_MIN, Welcome,
};
use tensord_shm::doorbell::{Doorbell, notice_pair};
use tensord_shm::error::Code;
use tensord_shm::record::opcode;
use tensord_shm::segment::{SLOT_COUNT_MIN, STAGING_BYTES_MAX, STAGING_GRANULE, create_staging};

use super::Broker;
use super::epochs::arena_order;
use super::session::{Arena, Queue};
use crate::client_log;
use crate::limits::STAGING_ARENAS_MAX;
use crate::link::FromBroker;

impl Broker {
    pub(super) fn serve(&mut self, id: u64, message: Message<Request>) {
        let sequence = message.sequence;
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (open, admin) = (session.record.open, session.admin);
        let done = match message.body {
            Request::Hello(hello) => self.hello(id, sequence, hello),
            Request::Stat => {
                self.ask_stat(id, sequence);
                Ok(())
            }
            Request::Limits => {
                self.ask_limits(id, sequence);
                Ok(())
            }
            Request::Drain if admin => {
                self.log_steering(
                    id,
                    "asked to drain",
                    "the daemon takes nothing new and ends",
                );
                self.tell_supervisor(&FromBroker::Drain, &[]);
                self.done(id, sequence)
            }
            Request::Kill { session } if admin => self
                .kill(id, session)
                .and_then(|()| self.done(id, sequence)),
            Request::Nice { .. } | Request::Limit { .. } if self.stat.waits(id, sequence) => Ok(()),
            Request::Nice {
                target,
                class,
                weight,
            } if admin => self
                .nice(id, target, class, weight)
                .map(|done| self.tell_changed(id, sequence, done)),
            Request::Drain | Request::Kill { .. } | Request::Nice { .. } => {
                Err(needs_administration())
            }
            Request::Limit { target, .. }
                if !admin && target != Target::Own && target != Target::Session(id) =>
            {
                Err(needs_administration())
            }
            Request::Limit { target, changes } if open || admin => self
                .limit(id, target, &changes)
                .map(|done| self.tell_changed(id, sequence, done)),
            Request::Set(set) if open || admin => {
                self.set(id, set).and_then(|()| self.done(id, sequence))
            }
            Request::Queue(request) if open => self.queue(id, sequence, &request),
            Request::Staging { bytes } if open => self.staging(id, sequence, bytes),
            Request::Goodbye => {
                self.reply(id, sequence, Reply::Done, &[]);
                self.end(id, None);
                Ok(())
            }
            Request::Set(_)
            | Request::Queue(_)
            | Request::Staging { .. }
            | Request::Limit { .. } => Err(ControlError::new(
                Code::BadMessage,
                "the first message of a session is hello",
            )),
        };
        if let Err(error) = done {
            client_log!(debug, session = id, "refused: {error}");
            self.reply(id, sequence, Reply::Error(error), &[]);
        }
    }

    fn done(&mut self, id: u64, sequence: u64) -> Result<(), ControlError> {
        self.reply(id, sequence, Reply::Done, &[]);
        Ok(())
    }

    fn refuse_while_draining(&self) -> Result<(), ControlError> {
        if self.draining {
            return Err(ControlError::new(
                Code::Draining,
                "the daemon is draining and takes nothing new; try again later",
            ));
        }
        Ok(())
    }

    fn hello(&mut self, id: u64, sequence: u64, hello: Hello) -> Result<(), ControlError> {
        if hello.version_min > VERSION_MAX || hello.version_max < VERSION_MIN {
            let text = format!(
                "this daemon speaks protocol versions {VERSION_MIN} to {VERSION_MAX}, the client {} to {}; \
                 install a client of this daemon's version",
                hello.version_min, hello.version_max
            );
            return Err(ControlError::new(Code::Version, text));
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if let Some(queue) = session.queues.first_mut() {
            if session.record.hello_sequence != sequence {
                return Err(ControlError::new(
                    Code::BadMessage,
                    "this session has said hello already",
                ));
            }
            match queue.grant() {
                Some(grant) => {
                    let fds = queue.grant_fds(true);
                    let welcome = self.welcome_message(id, grant);
                    self.reply(id, sequence, Reply::Welcome(welcome), &fds);
                }
                None => queue.answer = Some(sequence),
            }
            return Ok(());
        }
        self.refuse_while_draining()?;
        if hello.device != DEVICE_ANY && hello.device != 0 {
            let text = format!(
                "there is no device {}; this daemon has one, number 0",
                hello.device
            );
            return Err(ControlError::new(Code::Attribute, text));
        }
        let queue = self.make_queue(0, sequence, hello.slot_count, hello.notify)?;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        let record = &mut session.record;
        record.class_asked = hello.class as u8;
        record.weight_asked = hello.weight;
        record.name = printable(&hello.name);
        record.fuse = hello.fuse;
        record.batch = hello.batch;
        record.hello_sequence = sequence;
        session.queues.push(queue);
        self.stand(id);
        self.bring_up(id);
        Ok(())
    }

    pub(super) fn welcome_message(&self, id: u64, queue: QueueGrant) -> Welcome {
        let session = &self.sessions[&id];
        let engine = session.engine.and_then(|number| self.engines.get(&number));
        Welcome {
            version: VERSION_MAX,
            operation_count: opcode::COUNT.into(),
            session: id,
            device_count: 1,
            device: 0,
            class: Class::from_wire(session.record.class).unwrap_or_default(),
            weight: session.record.weight,
            limits: self.config.limits.told(&session.record.quotas.session),
            queue,
            device_name: engine.map_or_else(
                || self.config.device.clone(),
                |engine| engine.device.clone(),
            ),
        }
    }

    /// A queue without segments yet: they come with the engine.
    fn make_queue(
        &self,
        id: u32,
        sequence: u64,
        slot_count: u32,
        notify: bool,
    ) -> Result<Queue, ControlError> {
        let limits = &self.config.limits;
        let slot_count = match slot_count {
            0 => limits.ring_slots,
            wanted => wanted
                .clamp(SLOT_COUNT_MIN, limits.ring_slots_max.max(SLOT_COUNT_MIN))
                .next_power_of_two(),
        };
        let fail = |error: std::io::Error| {
            ControlError::new(
                Code::Limit,
                format!("the daemon cannot make a queue: {error}"),
            )
        };
        let doorbell = Doorbell::create()
            .and_then(|doorbell| doorbell.as_fd().try_clone_to_owned())
            .map_err(fail)?;
        let notice = if notify {
            let (sender, receiver) = notice_pair().map_err(fail)?;
            let sender = sender.as_fd().try_clone_to_owned().map_err(fail)?;
            Some((
                Rc::new(sender),
                Rc::new(receiver.as_fd().try_clone_to_owned().map_err(fail)?),
            ))
        } else {
            None
        };
        Ok(Queue {
            id,
            slot_count,
            doorbell: Rc::new(doorbell),
            notice,
            segments: None,
            sequence,
            answer: Some(sequence),
            epoch_first: self
                .engines
                .values()
                .map(|engine| engine.epoch)
                .max()
                .unwrap_or(0),
        })
    }

    fn queue(
        &mut self,
        id: u64,
        sequence: u64,
        request: &QueueRequest,
    ) -> Result<(), ControlError> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if let Some(queue) = session
            .queues
            .iter_mut()
            .find(|queue| queue.id > 0 && queue.sequence == sequence)
        {
            match queue.grant() {
                Some(grant) => {
                    let fds = queue.grant_fds(true);
                    self.reply(id, sequence, Reply::Queue(grant), &fds);
                }
                None => queue.answer = Some(sequence),
            }
            return Ok(());
        }
        let number = session
            .queues
            .iter()
            .map(|queue| queue.id + 1)
            .max()
            .unwrap_or(0);
        let count = session.queues.len();
        self.refuse_while_draining()?;
        let limit = self.config.limits.queues;
        if count >= limit as usize {
            let text = format!(
                "queues of the session: {count} in use and 1 more wanted, the limit is {limit}"
            );
            return Err(ControlError::new(Code::Limit, text));
        }
        let queue = self.make_queue(number, sequence, request.slot_count, request.notify)?;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.queues.push(queue);
        }
        self.bring_up(id);
        Ok(())
    }

    fn staging(&mut self, id: u64, sequence: u64, bytes: u64) -> Result<(), ControlError> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if let Some(arena) = session
            .arenas
            .iter_mut()
            .find(|arena| arena.sequence == sequence)
        {
            if arena.ready && arena.answer.is_none() {
                let (grant, memory) = (arena.grant(), Rc::clone(&arena.memory));
                self.reply(id, sequence, Reply::Staging(grant), &[memory]);
            } else {
                arena.answer = Some(sequence);
            }
            return Ok(());
        }
        self.refuse_while_draining()?;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if session.arenas.len() >= STAGING_ARENAS_MAX as usize {
            let text = format!("staging arenas of the session: the limit is {STAGING_ARENAS_MAX}");
            return Err(ControlError::new(Code::Limit, text));
        }
        if bytes == 0 || bytes > STAGING_BYTES_MAX {
            let text = format!(
                "staging of {bytes} bytes was asked for; the range is 1 to {STAGING_BYTES_MAX}"
            );
            return Err(ControlError::new(Code::Limit, text));
        }
        let bytes = bytes.next_multiple_of(STAGING_GRANULE);
        let charge = session
            .account
            .charge(Resource::Staging, bytes)
            .map_err(|over| {
                ControlError::new(over.code(), format!("{over}; transfer less at once"))
            })?;
        let memory = create_staging(bytes).map_err(|fault| {
            ControlError::new(
                Code::OutOfMemory,
                format!("the machine cannot give {bytes} bytes of staging: {fault}"),
            )
        })?;
        let index = u32::try_from(session.arenas.len()).expect("arenas are few");
        let memory = Rc::new(memory);
        session.arenas.push(Arena {
            index,
            bytes,
            memory: Rc::clone(&memory),
            sequence,
            answer: Some(sequence),
            ready: false,
            charge,
        });
        // Between two epochs the arena goes to the next engine with everything else.
        let attached = session.queues.iter().any(|queue| queue.segments.is_some());
        if let (Some(number), true) = (session.engine, attached) {
            self.order(number, &arena_order(id, index, bytes), &[memory.as_fd()]);
        }
        Ok(())
    }

    fn set(&mut self, id: u64, set: Set) -> Result<(), ControlError> {
        let admin = self.sessions.get(&id).is_some_and(|session| session.admin);
        let target = if set.session == 0 { id } else { set.session };
        if target != id && !admin {
            let text = format!(
                "session {target} is not yours; the administration socket can change others"
            );
            return Err(ControlError::new(Code::NotAdministrator, text));
        }
        let Some(session) = self
            .sessions
            .get_mut(&target)
            .filter(|session| session.record.open)
        else {
            return Err(no_such_session(target));
        };
        let class = Class::from_wire(session.record.class).unwrap_or_default();
        if !admin && set.class.is_some_and(|wanted| wanted > class) {
            let text = format!("class can only go down here; it is {}", class.name());
            return Err(ControlError::new(Code::NotAdministrator, text));
        }
        if !admin
            && set
                .weight
                .is_some_and(|wanted| wanted > session.record.weight)
        {
            let text = format!(
                "weight can only go down here; it is {}",
                session.record.weight
            );
            return Err(ControlError::new(Code::NotAdministrator, text));
        }
        if let Some(name) = &set.name {
            session.record.name = printable(name);
        }
        let record = &mut session.record;
        if let Some(class) = set.class {
            record.class_asked = class as u8;
            // What an administrator gives goes beyond ceilings, what a client takes goes below.
            record.class_fixed = (admin || record.class_fixed.is_some()).then_some(class as u8);
        }
        if let Some(weight) = set.weight {
            record.weight_asked = weight;
            record.weight_fixed = (admin || record.weight_fixed.is_some()).then_some(weight);
        }
        self.stand(target);
        self.keep_record(target);
        Ok(())
    }

    fn kill(&mut self, id: u64, target: u64) -> Result<(), ControlError> {
        let Some(session) = self.sessions.get(&target) else {
            return Err(no_such_session(target));
        };
        let record = &session.record;
        let text = format!(
            "session {target} (process {}, uid {}, {:?})",
            record.pid, record.uid, record.name
        );
        self.log_steering(id, "a session was ended", &text);
        self.end(
            target,
            Some(ControlError::new(
                Code::Cancelled,
                "an administrator ended this session",
            )),
        );
        Ok(())
    }
}

/// The answer to a command that a tenant's socket does not take.
pub(super) fn needs_administration() -> ControlError {
    ControlError::new(
        Code::NotAdministrator,
        "this command needs the administration socket (tensord-admin.sock beside the daemon's)",
    )
}

pub(super) fn no_such_session(id: u64) -> ControlError {
    ControlError::new(
        Code::BadHandle,
        format!("there is no session {id}; `tensorctl ps` lists them"),
    )
}

/// A name for terminals: a client must not be able to steer them.
fn printable(name: &str) -> String {
    name.chars()
        .map(|character| {
            if character.is_control() {
                '?'
            } else {
                character
            }
        })
        .collect()
}
