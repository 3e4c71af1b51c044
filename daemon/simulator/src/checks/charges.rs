//! Charges add up to the time that the device was busy.

use tensord_daemon::engine::Books;

use super::{Check, Violation};

/// What was charged to sessions that are gone, and what may have been lost with them.
#[derive(Debug, Default)]
pub struct Charges {
    gone_ns: u64,
    /// Device time that ran after its session was gone belongs to nobody.
    unowned: bool,
}

impl Charges {
    /// A session leaves with this charge; `running` says whether launches were under way, which may have been its own.
    pub fn left(&mut self, charged_ns: u64, running: bool) {
        self.gone_ns += charged_ns;
        self.unowned |= running;
    }

    /// The engine's books against each other and against the device, which has ended slices of `device_ns`. `settled` says that
    /// the engine has taken in all of them.
    pub fn check(&self, books: &Books, device_ns: u64, settled: bool) -> Result<(), Violation> {
        let wrong = |text| Err(Violation::new(Check::Charges, text));
        if books.busy_ns > device_ns || settled && books.busy_ns != device_ns {
            return wrong(format!(
                "the device was busy for {device_ns} ns, and the engine counts {}",
                books.busy_ns
            ));
        }
        let present: u64 = books.sessions.iter().map(|session| session.device_ns).sum();
        let charged = present + self.gone_ns;
        if charged > books.busy_ns || !self.unowned && charged != books.busy_ns {
            return wrong(format!(
                "{present} ns are charged to sessions and {} to those that left; the device was busy for {}",
                self.gone_ns, books.busy_ns
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensord_daemon::engine::SessionBooks;
    use tensord_daemon::engine_process::{SessionId, SessionTotals, TenantId};

    fn books(busy_ns: u64, charged: &[u64]) -> Books {
        let session = |(number, &device_ns): (usize, &u64)| SessionBooks {
            id: SessionId(number as u64),
            tenant: TenantId(0),
            device_ns,
            accepted: 0,
            totals: SessionTotals::default(),
            is_hungry: false,
        };
        Books {
            busy_ns,
            sessions: charged.iter().enumerate().map(session).collect(),
        }
    }

    #[test]
    fn each_nanosecond_is_charged_once() {
        let mut charges = Charges::default();
        assert!(charges.check(&books(30, &[10, 20]), 30, true).is_ok());
        assert!(charges.check(&books(30, &[10, 21]), 30, true).is_err());
        assert!(charges.check(&books(30, &[10, 19]), 30, true).is_err());
        assert!(charges.check(&books(30, &[10, 20]), 29, false).is_err());
        assert!(
            charges.check(&books(30, &[10, 20]), 31, false).is_ok(),
            "one runs"
        );
        assert!(charges.check(&books(30, &[10, 20]), 31, true).is_err());
        charges.left(20, false);
        assert!(charges.check(&books(30, &[10]), 30, true).is_ok());
        charges.left(0, true);
        assert!(
            charges.check(&books(30, &[9]), 30, true).is_ok(),
            "one nanosecond has no owner"
        );
        assert!(charges.check(&books(30, &[11]), 30, true).is_err());
    }
}
