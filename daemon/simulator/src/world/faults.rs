//! Faults as they come, and what they lead to.

use tensord_daemon::engine_process::EngineCore;
use tensord_sim::Time;

use super::World;
use super::epoch::Epoch;
use crate::checks::{Check, Violation};
use crate::client::Client;
use crate::fault::Fault;
use crate::story::Event;

impl World {
    /// When the next fault comes.
    pub(super) fn next_fault_ns(&self) -> Option<u64> {
        self.setup.faults.get(self.fault).map(|(at_ns, _)| *at_ns)
    }

    /// Makes the faults that are due.
    pub(super) fn make_faults(&mut self, now_ns: u64) -> Result<(), Violation> {
        while let Some(&(at_ns, fault)) = self.setup.faults.get(self.fault)
            && at_ns <= now_ns
        {
            self.fault += 1;
            self.story.add(now_ns, Event::Fault { what: fault.name() });
            self.make(fault)?;
        }
        Ok(())
    }

    fn make(&mut self, fault: Fault) -> Result<(), Violation> {
        match fault {
            Fault::Dies { client } => self.leave(client, true)?,
            Fault::Returns { client } => {
                if self.clients.get(client).is_some_and(Option::is_none) {
                    self.connect(client)?;
                }
            }
            Fault::Garbage { client, frame } => {
                let client = self.clients.get_mut(client).and_then(Option::as_mut);
                if let Some(client) = client.filter(|client| !client.is_broken()) {
                    client.write_garbage(&mut self.epoch.engine, frame);
                }
            }
            Fault::RefusesMemory => self.epoch.device.refuse_memory(true),
            Fault::GivesMemory => self.epoch.device.refuse_memory(false),
            Fault::DeviceFails => self.epoch.device.fail_in(1),
        }
        Ok(())
    }

    /// No fault comes any more, and what lasts ends.
    pub(super) fn end_faults(&mut self) {
        self.fault = self.setup.faults.len();
        self.epoch.device.refuse_memory(false);
        self.epoch.device.fail_in(u64::MAX);
    }

    /// Ends sessions whose rings the engine found broken, as the broker does.
    pub(super) fn end_broken(&mut self) -> Result<(), Violation> {
        for fault in self.epoch.engine.take_faults() {
            let is_his = |client: &Option<Client>| {
                client
                    .as_ref()
                    .is_some_and(|client| client.session == fault.session)
            };
            let Some(number) = self.clients.iter().position(is_his) else {
                continue;
            };
            if !self.clients[number].as_ref().is_some_and(Client::is_broken) {
                let text = format!(
                    "session {} is to end, whose client kept the rules: {}",
                    fault.session.0, fault.text
                );
                return Err(Violation::new(Check::NoFailure, text));
            }
            self.leave(number, true)?;
        }
        Ok(())
    }

    /// The device failed: what was under way is lost, and everybody comes again to a new engine.
    pub(super) fn next_epoch(&mut self) -> Result<(), Violation> {
        let now_ns = self.time.now_ns();
        let what = "the device failed, and a new epoch begins";
        self.story.add(now_ns, Event::Fault { what });
        if now_ns < self.setup.horizon_ns {
            self.note_charges();
        }
        let number = self.epoch.number + 1;
        self.close_epoch();
        self.epoch = Epoch::new(number, &self.setup, &self.time, self.between);
        for number in 0..self.clients.len() {
            if self.clients[number].take().is_some() {
                self.connect(number)?;
            }
        }
        Ok(())
    }

    /// Takes over what the run is to know of this epoch.
    pub(super) fn close_epoch(&mut self) {
        self.launches.2 += self.epoch.device.busy_ns();
        let lag = self.epoch.lag.largest_ns;
        self.lag_ns = (self.lag_ns.0.max(lag.0), self.lag_ns.1.max(lag.1));
    }
}
