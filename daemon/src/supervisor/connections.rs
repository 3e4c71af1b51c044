//! Connections: accepted here, kept here, read by the broker alone.
//!
//! Each has what the broker wants kept of its session, which is text and descriptors that nobody here looks into; a new
//! broker is told of it with all that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Token};
use tensord_shm::control::{ControlError, Message, Reply};
use tensord_shm::control_socket::send_datagram;
use tensord_shm::error::Code;

use super::listen::Listener;
use super::{FIRST_ENGINE, FIRST_LISTENER, Supervisor};
use crate::client_log;
use crate::config::TenantRule;
use crate::limits::{ACCEPTS_PER_TURN, FDS_SPARE};
use crate::link::ToBroker;

/// An accepted connection and what is kept of its session.
pub(super) struct Connection {
    socket: OwnedFd,
    admin: bool,
    rule: TenantRule,
    /// Whether a broker has heard of it.
    known: bool,
    /// Device time that its session used, over all engines.
    pub(super) device_ns: u64,
    pub(super) kept: BTreeMap<u64, (String, Vec<OwnedFd>)>,
}

impl Supervisor {
    pub(super) fn add_listener(&mut self, listener: Listener) -> anyhow::Result<()> {
        let number = self.listener_next;
        self.listener_next += 1;
        anyhow::ensure!(
            FIRST_LISTENER + number < FIRST_ENGINE,
            "too many listening sockets over the daemon's life"
        );
        let token = Token(FIRST_LISTENER + number);
        self.poll
            .registry()
            .register(&mut SourceFd(&listener.raw()), token, Interest::READABLE)?;
        self.listeners.insert(number, listener);
        Ok(())
    }

    /// Takes connections from one socket, a bounded number of them at a time.
    pub(super) fn accept(&mut self, number: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(&number) else {
                return;
            };
            let socket = match listener.accept() {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    client_log!(warn, "a connection was not accepted: {error}");
                    break;
                }
            };
            let (admin, rule) = (listener.admin, listener.rule.clone());
            self.admit(socket, admin, rule);
        }
        // The poll tells of news alone: what is left has to be asked for again.
        let Some(listener) = self.listeners.get(&number) else {
            return;
        };
        let token = Token(FIRST_LISTENER + number);
        if let Err(error) = self.poll.registry().reregister(
            &mut SourceFd(&listener.raw()),
            token,
            Interest::READABLE,
        ) {
            tracing::error!("a listening socket cannot be watched any more: {error}");
        }
    }

    fn admit(&mut self, socket: OwnedFd, admin: bool, rule: TenantRule) {
        // Some room beyond the sessions, so that whoever is one too many is told so by the broker.
        let room = self.config.limits.sessions as usize + FDS_SPARE as usize;
        if self.connections.len() >= room && !admin {
            let text = format!(
                "{} connections are open, and the daemon takes no more",
                self.connections.len()
            );
            client_log!(warn, "a connection was refused: {text}");
            let error = Message {
                sequence: 0,
                body: Reply::Error(ControlError::new(Code::Limit, text)),
            };
            // Whoever does not take it now hears the hang-up alone.
            let _ = send_datagram(socket.as_fd(), &error.encode(), &[]);
            return;
        }
        let session = self.session_next;
        self.session_next += 1;
        self.idle_since = None;
        self.connections.insert(
            session,
            Connection {
                socket,
                admin,
                rule,
                known: false,
                device_ns: 0,
                kept: BTreeMap::new(),
            },
        );
        if self.broker.is_some() {
            self.tell_of(session);
        }
    }

    /// Tells the broker of a connection, with all that is kept of it.
    pub(super) fn tell_of(&mut self, session: u64) {
        let (Some(broker), Some(connection)) =
            (&mut self.broker, self.connections.get_mut(&session))
        else {
            return;
        };
        let (admin, rule, known) = (connection.admin, connection.rule.clone(), connection.known);
        connection.known = true;
        let mut told = broker.link.send(
            &ToBroker::Client {
                session,
                admin,
                rule,
                known,
            },
            &[connection.socket.as_fd()],
        );
        for (key, (record, fds)) in &connection.kept {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            let kept = ToBroker::Kept {
                session,
                key: *key,
                record: record.clone(),
            };
            told = told.and_then(|()| broker.link.send(&kept, &fds));
        }
        // A broker that is gone is noticed after the turn, and the next one is told everything.
        drop(told);
    }
}
