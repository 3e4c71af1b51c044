//! The wire form of control messages: which fields each kind has, and in which order.
//!
//! Kinds, flags and orders are append-only. Where a field has to lie within a range, reading it says so; what a request
//! means is not known here.

use super::fields::{Reader, Writer};
use super::{
    Change, Changes, ControlError, EngineLost, Hello, Malformed, Message, MessageBytes, NAME_BYTES,
    QueueGrant, QueueRequest, Reply, Request, Resource, SessionLimits, Set, StagingGrant,
    TENANT_BYTES, TEXT_BYTES, Target, Welcome,
};
use crate::error::Code;

mod kind {
    pub const HELLO: u16 = 1;
    pub const QUEUE: u16 = 2;
    pub const STAGING: u16 = 3;
    pub const STAT: u16 = 4;
    pub const SET: u16 = 5;
    pub const GOODBYE: u16 = 6;
    pub const DRAIN: u16 = 7;
    pub const KILL: u16 = 8;
    pub const LIMIT: u16 = 9;
    pub const NICE: u16 = 10;
    pub const LIMITS: u16 = 11;
    pub const WELCOME: u16 = 129;
    pub const QUEUE_GRANT: u16 = 130;
    pub const STAGING_GRANT: u16 = 131;
    pub const STAT_REPLY: u16 = 132;
    pub const DONE: u16 = 133;
    pub const ERROR: u16 = 134;
    pub const ENGINE_LOST: u16 = 135;
    pub const EPOCH: u16 = 136;
    pub const DRAINING: u16 = 137;
    pub const CHANGED: u16 = 138;
}

const FLAG_FUSE_OFF: u8 = 1;
const FLAG_BATCH_OFF: u8 = 2;
const FLAG_NOTIFY: u8 = 4;
const SET_NAME: u8 = 1;
const SET_CLASS: u8 = 2;
const SET_WEIGHT: u8 = 4;

impl Message<Request> {
    /// As bytes.
    pub fn encode(&self) -> MessageBytes {
        let mut out = Writer::default();
        let kind = match &self.body {
            Request::Hello(hello) => {
                hello.write(&mut out);
                kind::HELLO
            }
            Request::Queue(queue) => {
                out.u32(queue.slot_count);
                out.u8(if queue.notify { FLAG_NOTIFY } else { 0 });
                kind::QUEUE
            }
            Request::Staging { bytes } => {
                out.u64(*bytes);
                kind::STAGING
            }
            Request::Stat => kind::STAT,
            Request::Set(set) => {
                set.write(&mut out);
                kind::SET
            }
            Request::Goodbye => kind::GOODBYE,
            Request::Drain => kind::DRAIN,
            Request::Kill { session } => {
                out.u64(*session);
                kind::KILL
            }
            Request::Limit { target, changes } => {
                target.write(&mut out);
                changes.write(&mut out);
                kind::LIMIT
            }
            Request::Nice {
                target,
                class,
                weight,
            } => {
                target.write(&mut out);
                let present = [(class.is_some(), SET_CLASS), (weight.is_some(), SET_WEIGHT)];
                out.u8(flags_of(&present));
                out.u8(class.unwrap_or_default() as u8);
                out.u32(weight.unwrap_or(0));
                kind::NICE
            }
            Request::Limits => kind::LIMITS,
        };
        out.finish(kind, self.sequence)
    }

    /// From bytes as a client sent them: nothing is taken on trust.
    pub fn decode(bytes: &[u8]) -> Result<Message<Request>, Malformed> {
        let (kind, sequence, mut body) = Reader::open(bytes)?;
        if sequence == 0 {
            return Err(Malformed::Sequence);
        }
        let body = match kind {
            kind::HELLO => Request::Hello(Hello::read(&mut body)?),
            kind::QUEUE => {
                let slot_count = body.u32();
                Request::Queue(QueueRequest {
                    slot_count,
                    notify: body.u8() & FLAG_NOTIFY != 0,
                })
            }
            kind::STAGING => Request::Staging { bytes: body.u64() },
            kind::STAT => Request::Stat,
            kind::SET => Request::Set(Set::read(&mut body)?),
            kind::GOODBYE => Request::Goodbye,
            kind::DRAIN => Request::Drain,
            kind::KILL => Request::Kill {
                session: body.u64(),
            },
            kind::LIMIT => Request::Limit {
                target: Target::read(&mut body)?,
                changes: Changes::read(&mut body),
            },
            kind::NICE => {
                let target = Target::read(&mut body)?;
                let present = body.u8();
                let class = body.class()?;
                let weight = body.weight()?;
                Request::Nice {
                    target,
                    class: (present & SET_CLASS != 0).then_some(class),
                    weight: (present & SET_WEIGHT != 0).then_some(weight),
                }
            }
            kind::LIMITS => Request::Limits,
            other => return Err(Malformed::Kind(other)),
        };
        Ok(Message { sequence, body })
    }
}

impl Message<Reply> {
    /// As bytes.
    pub fn encode(&self) -> MessageBytes {
        let mut out = Writer::default();
        let kind = match &self.body {
            Reply::Welcome(welcome) => {
                welcome.write(&mut out);
                kind::WELCOME
            }
            Reply::Queue(grant) => {
                grant.write(&mut out);
                kind::QUEUE_GRANT
            }
            Reply::Staging(grant) => {
                out.u32(grant.index);
                out.u64(grant.bytes);
                kind::STAGING_GRANT
            }
            Reply::Stat { bytes } => {
                out.u64(*bytes);
                kind::STAT_REPLY
            }
            Reply::Done => kind::DONE,
            Reply::Error(error) => {
                out.u32(error.code as u32);
                out.text(&error.text, TEXT_BYTES);
                kind::ERROR
            }
            Reply::EngineLost(lost) => {
                out.u32(lost.epoch);
                out.u64(lost.lost);
                out.u8(u8::from(lost.blamed));
                out.text(&lost.cause, TEXT_BYTES);
                kind::ENGINE_LOST
            }
            Reply::Epoch(grant) => {
                grant.write(&mut out);
                kind::EPOCH
            }
            Reply::Draining => kind::DRAINING,
            Reply::Changed { sessions, text } => {
                out.u32(*sessions);
                out.text(text, TEXT_BYTES);
                kind::CHANGED
            }
        };
        out.finish(kind, self.sequence)
    }

    /// From bytes as the daemon sent them.
    pub fn decode(bytes: &[u8]) -> Result<Message<Reply>, Malformed> {
        let (kind, sequence, mut body) = Reader::open(bytes)?;
        let body = match kind {
            kind::WELCOME => Reply::Welcome(Welcome::read(&mut body)?),
            kind::QUEUE_GRANT => Reply::Queue(QueueGrant::read(&mut body)),
            kind::STAGING_GRANT => {
                let index = body.u32();
                Reply::Staging(StagingGrant {
                    index,
                    bytes: body.u64(),
                })
            }
            kind::STAT_REPLY => Reply::Stat { bytes: body.u64() },
            kind::DONE => Reply::Done,
            kind::ERROR => {
                let number = body.u32();
                // A newer daemon may know more codes: its text still says what is wrong.
                let code = Code::from_wire(number).unwrap_or(Code::Internal);
                Reply::Error(ControlError {
                    code,
                    text: body.text("text", TEXT_BYTES)?,
                })
            }
            kind::ENGINE_LOST => {
                let epoch = body.u32();
                let lost = body.u64();
                let blamed = body.u8() != 0;
                Reply::EngineLost(EngineLost {
                    epoch,
                    lost,
                    blamed,
                    cause: body.text("cause", TEXT_BYTES)?,
                })
            }
            kind::EPOCH => Reply::Epoch(QueueGrant::read(&mut body)),
            kind::DRAINING => Reply::Draining,
            kind::CHANGED => Reply::Changed {
                sessions: body.u32(),
                text: body.text("text", TEXT_BYTES)?,
            },
            other => return Err(Malformed::Kind(other)),
        };
        Ok(Message { sequence, body })
    }
}

impl Hello {
    fn write(&self, out: &mut Writer) {
        out.u16(self.version_min);
        out.u16(self.version_max);
        out.u32(self.operation_count);
        out.u32(self.device);
        out.u8(self.class as u8);
        let mut flags = 0;
        for (set, flag) in [
            (!self.fuse, FLAG_FUSE_OFF),
            (!self.batch, FLAG_BATCH_OFF),
            (self.notify, FLAG_NOTIFY),
        ] {
            flags |= if set { flag } else { 0 };
        }
        out.u8(flags);
        out.u32(self.weight);
        out.u32(self.slot_count);
        out.text(&self.name, NAME_BYTES);
    }

    fn read(body: &mut Reader<'_>) -> Result<Hello, Malformed> {
        let version_min = body.u16();
        let version_max = body.u16();
        let operation_count = body.u32();
        let device = body.u32();
        let class = body.class()?;
        let flags = body.u8();
        let weight = body.weight()?;
        let slot_count = body.u32();
        Ok(Hello {
            version_min,
            version_max,
            operation_count,
            device,
            class,
            weight,
            fuse: flags & FLAG_FUSE_OFF == 0,
            batch: flags & FLAG_BATCH_OFF == 0,
            notify: flags & FLAG_NOTIFY != 0,
            slot_count,
            name: body.text("name", NAME_BYTES)?,
        })
    }
}

impl Set {
    fn write(&self, out: &mut Writer) {
        out.u64(self.session);
        let mut present = 0;
        for (set, flag) in [
            (self.name.is_some(), SET_NAME),
            (self.class.is_some(), SET_CLASS),
            (self.weight.is_some(), SET_WEIGHT),
        ] {
            present |= if set { flag } else { 0 };
        }
        out.u8(present);
        out.u8(self.class.unwrap_or_default() as u8);
        out.u32(self.weight.unwrap_or(0));
        out.text(self.name.as_deref().unwrap_or(""), NAME_BYTES);
    }

    fn read(body: &mut Reader<'_>) -> Result<Set, Malformed> {
        let session = body.u64();
        let present = body.u8();
        let class = body.class()?;
        let weight = body.weight()?;
        let name = body.text("name", NAME_BYTES)?;
        Ok(Set {
            session,
            name: (present & SET_NAME != 0).then_some(name),
            class: (present & SET_CLASS != 0).then_some(class),
            weight: (present & SET_WEIGHT != 0).then_some(weight),
        })
    }
}

impl Target {
    fn write(&self, out: &mut Writer) {
        let (kind, number, name) = match self {
            Target::Own => (0, 0, ""),
            Target::Session(id) => (1, *id, ""),
            Target::Uid(uid) => (2, u64::from(*uid), ""),
            Target::Tenant(name) => (3, 0, name.as_str()),
        };
        out.u8(kind);
        out.u64(number);
        out.text(name, TENANT_BYTES);
    }

    fn read(body: &mut Reader<'_>) -> Result<Target, Malformed> {
        let (kind, number) = (body.u8(), body.u64());
        let name = body.text("tenant", TENANT_BYTES)?;
        match kind {
            0 => Ok(Target::Own),
            1 => Ok(Target::Session(number)),
            2 => u32::try_from(number)
                .map(Target::Uid)
                .map_err(|_| Malformed::Field {
                    field: "uid",
                    value: number,
                }),
            3 => Ok(Target::Tenant(name)),
            other => Err(Malformed::Field {
                field: "target",
                value: u64::from(other),
            }),
        }
    }
}

impl Changes {
    fn write(&self, out: &mut Writer) {
        let which = |wanted: fn(&Change) -> bool| {
            let chosen = Resource::ALL.map(|r| (wanted(&self.get(r)), 1 << r as u8));
            flags_of(&chosen)
        };
        out.u8(which(|change| matches!(change, Change::To(_))));
        out.u8(which(|change| *change == Change::Default));
        for resource in Resource::ALL {
            out.u64(match self.get(resource) {
                Change::To(limit) => limit,
                Change::Keep | Change::Default => 0,
            });
        }
    }

    fn read(body: &mut Reader<'_>) -> Changes {
        let (set, default) = (body.u8(), body.u8());
        let mut changes = Changes::default();
        for resource in Resource::ALL {
            let (limit, bit) = (body.u64(), 1 << resource as u8);
            if set & bit != 0 {
                changes.set(resource, Change::To(limit));
            } else if default & bit != 0 {
                changes.set(resource, Change::Default);
            }
        }
        changes
    }
}

/// Flags in one byte.
fn flags_of(all: &[(bool, u8)]) -> u8 {
    all.iter()
        .filter(|(set, _)| *set)
        .fold(0, |flags, (_, flag)| flags | flag)
}

impl QueueGrant {
    fn write(&self, out: &mut Writer) {
        out.u32(self.queue);
        out.u32(self.slot_count);
        out.u32(self.epoch);
    }

    fn read(body: &mut Reader<'_>) -> QueueGrant {
        QueueGrant {
            queue: body.u32(),
            slot_count: body.u32(),
            epoch: body.u32(),
        }
    }
}

impl Welcome {
    fn write(&self, out: &mut Writer) {
        out.u16(self.version);
        out.u32(self.operation_count);
        out.u64(self.session);
        out.u32(self.device_count);
        out.u32(self.device);
        out.u8(self.class as u8);
        out.u32(self.weight);
        out.u32(self.limits.queues);
        out.u32(self.limits.handles);
        out.u32(self.limits.requests_in_flight);
        out.u32(self.limits.staging_arenas);
        out.u64(self.limits.staging_bytes);
        out.u64(self.limits.device_bytes);
        self.queue.write(out);
        out.text(&self.device_name, NAME_BYTES);
    }

    fn read(body: &mut Reader<'_>) -> Result<Welcome, Malformed> {
        Ok(Welcome {
            version: body.u16(),
            operation_count: body.u32(),
            session: body.u64(),
            device_count: body.u32(),
            device: body.u32(),
            class: body.class()?,
            weight: body.weight()?,
            limits: SessionLimits {
                queues: body.u32(),
                handles: body.u32(),
                requests_in_flight: body.u32(),
                staging_arenas: body.u32(),
                staging_bytes: body.u64(),
                device_bytes: body.u64(),
            },
            queue: QueueGrant::read(body),
            device_name: body.text("device_name", NAME_BYTES)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Class, HEADER_BYTES, WEIGHT_DEFAULT, WEIGHT_MAX};

    fn requests() -> Vec<Request> {
        vec![
            Request::Hello(Hello {
                name: "n".repeat(NAME_BYTES),
                fuse: false,
                notify: true,
                ..Hello::default()
            }),
            Request::Queue(QueueRequest {
                slot_count: 4096,
                notify: true,
            }),
            Request::Staging { bytes: 1 << 40 },
            Request::Stat,
            Request::Set(Set {
                session: 3,
                name: Some("ä".into()),
                class: Some(Class::Idle),
                weight: None,
            }),
            Request::Goodbye,
            Request::Drain,
            Request::Kill { session: 7 },
            Request::Limit {
                target: Target::Tenant("t".repeat(TENANT_BYTES)),
                changes: Resource::ALL
                    .into_iter()
                    .fold(Changes::default(), |all, r| {
                        all.with(r, u64::MAX - r as u64)
                    }),
            },
            Request::Limit {
                target: Target::Own,
                changes: {
                    let mut changes = Changes::default().with(Resource::Requests, 9);
                    changes.set(Resource::DeviceTime, Change::Default);
                    changes
                },
            },
            Request::Nice {
                target: Target::Uid(u32::MAX),
                class: None,
                weight: Some(WEIGHT_MAX),
            },
            Request::Nice {
                target: Target::Session(1),
                class: Some(Class::Realtime),
                weight: None,
            },
            Request::Limits,
        ]
    }

    fn replies() -> Vec<Reply> {
        let queue = QueueGrant {
            queue: 1,
            slot_count: 32,
            epoch: 6,
        };
        vec![
            Reply::Welcome(Welcome {
                version: 1,
                operation_count: 99,
                session: 12,
                device_count: 1,
                device: 0,
                class: Class::Realtime,
                weight: 10,
                limits: SessionLimits {
                    queues: 1,
                    handles: 2,
                    requests_in_flight: 3,
                    staging_arenas: 4,
                    staging_bytes: 5,
                    device_bytes: 6,
                },
                queue,
                device_name: "cpu".into(),
            }),
            Reply::Queue(queue),
            Reply::Staging(StagingGrant { index: 1, bytes: 2 }),
            Reply::Stat { bytes: 9 },
            Reply::Done,
            Reply::Error(ControlError::new(Code::Limit, "x".repeat(TEXT_BYTES + 9))),
            Reply::EngineLost(EngineLost {
                epoch: 1,
                lost: 2,
                blamed: true,
                cause: "signal 9".into(),
            }),
            Reply::Epoch(queue),
            Reply::Draining,
            Reply::Changed {
                sessions: 3,
                text: "done".into(),
            },
        ]
    }

    #[test]
    fn every_message_survives_its_bytes() {
        for (body, sequence) in requests().into_iter().zip(1..) {
            let message = Message { sequence, body };
            assert_eq!(Message::<Request>::decode(&message.encode()), Ok(message));
        }
        for (body, sequence) in replies().into_iter().zip(0..) {
            let message = Message { sequence, body };
            assert_eq!(Message::<Reply>::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn what_an_older_sender_did_not_know_reads_as_default() {
        let mut bytes = Message {
            sequence: 1,
            body: Request::Hello(Hello::default()),
        }
        .encode();
        bytes[16..18].copy_from_slice(&4u16.to_le_bytes());
        bytes[HEADER_BYTES + 4..].fill(0xff);
        let Ok(Message {
            body: Request::Hello(hello),
            ..
        }) = Message::<Request>::decode(&bytes)
        else {
            panic!()
        };
        assert_eq!(
            (
                hello.version_max,
                hello.weight,
                hello.fuse,
                hello.name.as_str()
            ),
            (1, WEIGHT_DEFAULT, true, "")
        );
    }

    #[test]
    fn nonsense_is_named() {
        let good = Message {
            sequence: 1,
            body: Request::Hello(Hello::default()),
        }
        .encode();
        let with = |at: usize, field: &[u8]| {
            let mut bytes = good;
            bytes[at..at + field.len()].copy_from_slice(field);
            Message::<Request>::decode(&bytes).unwrap_err()
        };
        assert_eq!(Message::<Request>::decode(b""), Err(Malformed::Length(0)));
        assert_eq!(
            Message::<Request>::decode(&good[..255]),
            Err(Malformed::Length(255))
        );
        assert_eq!(
            Message::<Request>::decode(b"GET / HTTP/1.1\r\n\r\n"),
            Err(Malformed::Magic)
        );
        assert_eq!(with(4, &[9, 0]), Malformed::Version(9));
        assert_eq!(with(6, &[99, 0]), Malformed::Kind(99));
        assert_eq!(with(8, &[0; 8]), Malformed::Sequence);
        assert_eq!(with(16, &[0xff, 0xff]), Malformed::Size(0xffff));
        assert_eq!(
            with(HEADER_BYTES + 12, &[77]),
            Malformed::Field {
                field: "class",
                value: 77
            }
        );
        assert_eq!(
            with(HEADER_BYTES + 14, &[0xff; 4]),
            Malformed::Field {
                field: "weight",
                value: 0xffff_ffff
            }
        );
        assert_eq!(
            with(HEADER_BYTES + 22, &[3, 0, 0xff, 0xfe, 0xfd]),
            Malformed::Text("name")
        );
    }
}
