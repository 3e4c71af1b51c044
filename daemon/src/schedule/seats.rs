//! Seats: small numbers for sessions, and for tenants in a class, so that policies keep their accounts in arrays.

use tensord_shm::control::Class;

use super::policy::Policy;
use crate::engine_process::TenantId;
use crate::map::Map;

/// Where the accounts of a session stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// Of the tenant in the session's class.
    pub tenant: u32,
    /// Of the session.
    pub session: u32,
}

/// Numbers that are given out, and given out again.
#[derive(Debug, Default)]
struct Numbers {
    free: Vec<u32>,
    next: u32,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

/// All seats.
#[derive(Debug, Default)]
pub struct Seats {
    /// Seat and number of sessions.
    tenants: Map<(Class, TenantId), (u32, u32)>,
    tenant_numbers: Numbers,
    session_numbers: Numbers,
}

impl Seats {
    /// A session takes its seat.
    pub fn take(&mut self, class: Class, tenant: TenantId) -> Seat {
        let numbers = &mut self.tenant_numbers;
        let (seat, sessions) = self
            .tenants
            .entry((class, tenant))
            .or_insert_with(|| (numbers.take(), 0));
        *sessions += 1;
        Seat {
            tenant: *seat,
            session: self.session_numbers.take(),
        }
    }

    /// A session leaves it.
    pub fn leave(&mut self, class: Class, tenant: TenantId, seat: Seat, policy: &mut dyn Policy) {
        policy.leave_session(seat.session);
        self.session_numbers.free.push(seat.session);
        let Some((_, sessions)) = self.tenants.get_mut(&(class, tenant)) else {
            return;
        };
        *sessions -= 1;
        if *sessions == 0 {
            self.tenants.remove(&(class, tenant));
            policy.leave_tenant(seat.tenant);
            self.tenant_numbers.free.push(seat.tenant);
        }
    }
}
