//! What a session, its uid and its tenant hold and may hold: nested accounts, and charges that take themselves back.
//!
//! A charge counts at its account and at all above it, or at none of them. Limits may change while something is charged:
//! one below the use refuses what is new and frees nothing. The broker keeps sessions and staging memory here, the engine
//! handles, requests, device memory and device time; each has accounts of its own, with the same limits.
//!
//! # Invariant
//! What is used is at most the limit, but for what was charged under an earlier limit and what [`Account::charge_anyway`]
//! took over.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};

use tensord_shm::control::{Level, LimitReached, RESOURCE_COUNT, Resource};
use tensord_shm::error::Code;

use crate::config::Caps;
use crate::schedule::bucket::Bucket;

/// What a session, a uid, a tenant or all of them hold and may hold.
#[derive(Debug)]
pub struct Account {
    level: Level,
    above: Option<Rc<Account>>,
    used: [Cell<u64>; RESOURCE_COUNT],
    limits: Cell<Caps>,
    bucket: Cell<Bucket>,
    device_ns: Cell<u64>,
    refused: Cell<Option<Over>>,
}

/// A limit that stands in the way: whose, of what, and by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Over {
    /// Whose it is.
    pub level: Level,
    /// Of what.
    pub resource: Resource,
    /// What is in use.
    pub used: u64,
    /// What was wanted beside it.
    pub wanted: u64,
    /// The limit.
    pub limit: u64,
}

impl Over {
    /// The code under which a client is told.
    pub fn code(&self) -> Code {
        match self.resource {
            Resource::DeviceMemory => Code::OutOfMemory,
            _ => Code::Limit,
        }
    }

    /// As it goes over the wire.
    pub fn told(&self) -> LimitReached {
        LimitReached {
            level: self.level,
            resource: self.resource,
            limit: self.limit,
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whose, what) = (self.level.name(), self.resource.unit());
        let (used, wanted, limit) = (self.used, self.wanted, self.limit);
        write!(
            f,
            "{what} of the {whose}: {used} in use and {wanted} more wanted, the limit is {limit}"
        )
    }
}

impl Account {
    /// An account without limits, below another or at the top.
    pub fn new(level: Level, above: Option<&Rc<Account>>) -> Rc<Account> {
        Rc::new(Account {
            level,
            above: above.cloned(),
            used: Default::default(),
            limits: Cell::new(Caps::default()),
            bucket: Cell::new(Bucket::new(u64::MAX, 0)),
            device_ns: Cell::new(0),
            refused: Cell::new(None),
        })
    }

    /// Changes the limits. What is in use beyond them stays; nothing more is given.
    pub fn set_limits(&self, limits: &Caps, now_ns: u64) {
        self.limits.set(*limits);
        let mut bucket = self.bucket.get();
        bucket.set_rate(limits.get(Resource::DeviceTime), now_ns);
        self.bucket.set(bucket);
    }

    /// What is in use.
    pub fn used(&self, resource: Resource) -> u64 {
        self.used[resource as usize].get()
    }

    /// The limit.
    pub fn limit(&self, resource: Resource) -> u64 {
        self.limits.get().get(resource)
    }

    /// The account of a level, this one or one above it.
    pub fn at(self: &Rc<Account>, level: Level) -> &Rc<Account> {
        match &self.above {
            Some(above) if self.level < level => above.at(level),
            _ => self,
        }
    }

    /// This account and all above it.
    fn chain(&self) -> impl Iterator<Item = &Account> {
        std::iter::successors(Some(self), |account| account.above.as_deref())
    }

    fn check(&self, resource: Resource, amount: u64) -> Result<(), Over> {
        let (used, limit) = (self.used(resource), self.limit(resource));
        match used.checked_add(amount) {
            Some(sum) if sum <= limit => Ok(()),
            _ => Err(Over {
                level: self.level,
                resource,
                used,
                wanted: amount,
                limit,
            }),
        }
    }

    fn add(&self, resource: Resource, amount: u64) {
        let used = &self.used[resource as usize];
        used.set(used.get().saturating_add(amount));
    }

    fn take(&self, resource: Resource, amount: u64) {
        let used = &self.used[resource as usize];
        debug_assert!(used.get() >= amount, "charged before it is given back");
        used.set(used.get().saturating_sub(amount));
    }

    /// Takes an amount here and at all above, until the charge is dropped.
    pub fn charge(self: &Rc<Account>, resource: Resource, amount: u64) -> Result<Charge, Over> {
        self.chain()
            .try_for_each(|account| account.check(resource, amount))?;
        Ok(self.charge_anyway(resource, amount))
    }

    /// As [`Account::charge`], whatever the limits say: for what was granted before these accounts began.
    pub fn charge_anyway(self: &Rc<Account>, resource: Resource, amount: u64) -> Charge {
        self.chain()
            .for_each(|account| account.add(resource, amount));
        Charge {
            account: Rc::clone(self),
            resource,
            amount,
            above: true,
        }
    }

    /// Brings what is in use of a resource that is counted elsewhere up to date, here and at all above.
    pub fn recount(&self, resource: Resource, counted: u64) {
        let before = self.used(resource);
        for account in self.chain() {
            match counted.checked_sub(before) {
                Some(more) => account.add(resource, more),
                None => account.take(resource, before - counted),
            }
        }
    }

    /// How much more there may be of a resource, by the narrowest limit here and above; and which limit that is.
    pub fn room(&self, resource: Resource) -> (u64, Over) {
        let left = |account: &Account| {
            let (used, limit) = (account.used(resource), account.limit(resource));
            let over = Over {
                level: account.level,
                resource,
                used,
                wanted: 1,
                limit,
            };
            (limit.saturating_sub(used), over)
        };
        self.chain()
            .skip(1)
            .map(left)
            .fold(left(self), |least, next| match next.0 < least.0 {
                true => next,
                false => least,
            })
    }

    /// Notes device time that was used, here and at all above.
    pub fn charge_time(&self, used_ns: u64, now_ns: u64) {
        for account in self.chain() {
            account.device_ns.set(account.device_ns.get() + used_ns);
            let mut bucket = account.bucket.get();
            if bucket.is_limited() {
                bucket.charge(used_ns, now_ns);
                account.bucket.set(bucket);
            }
        }
    }

    /// Device time used since the account began, ns.
    pub fn device_ns(&self) -> u64 {
        self.device_ns.get()
    }

    /// May it use the device now? If not: from when on it may, by all limits here and above.
    pub fn may_run(&self, now_ns: u64) -> Result<(), u64> {
        let mut until_ns = None;
        for account in self.chain() {
            let mut bucket = account.bucket.get();
            if bucket.is_limited() && !bucket.allows(now_ns) {
                account.bucket.set(bucket);
                until_ns = until_ns.max(Some(bucket.next_ns()));
            }
        }
        until_ns.map_or(Ok(()), Err)
    }

    /// Remembers why something was refused, for whoever tells the client.
    pub fn refuse(&self, over: Over) -> Code {
        self.refused.set(Some(over));
        over.code()
    }

    /// Why this account refused last, if that was not taken yet and goes with the code.
    pub fn take_refusal(&self, code: Code) -> Option<LimitReached> {
        let over = self.refused.take()?;
        (over.code() == code).then(|| over.told())
    }
}

/// An amount taken from an account; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    account: Rc<Account>,
    resource: Resource,
    amount: u64,
    /// Whether it counts at the accounts above as well.
    above: bool,
}

impl Charge {
    /// Charges device memory to an account and all above it.
    pub fn new(account: &Rc<Account>, bytes: u64) -> Result<Charge, Code> {
        account
            .charge(Resource::DeviceMemory, bytes)
            .map_err(|over| account.refuse(over))
    }

    /// Charges device memory to an account alone: for a reference to content that its tenant has paid for once.
    pub fn reference(account: &Rc<Account>, bytes: u64) -> Result<Charge, Code> {
        account
            .check(Resource::DeviceMemory, bytes)
            .map_err(|over| account.refuse(over))?;
        account.add(Resource::DeviceMemory, bytes);
        Ok(Charge {
            account: Rc::clone(account),
            resource: Resource::DeviceMemory,
            amount: bytes,
            above: false,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let count = if self.above { usize::MAX } else { 1 };
        self.account
            .chain()
            .take(count)
            .for_each(|account| account.take(self.resource, self.amount));
    }
}

/// Who among the uids of a tenant pays for shared content: each uid once, however many of its sessions hold it.
#[derive(Debug, Default)]
pub struct Payers(RefCell<Vec<(Weak<Account>, Weak<Charge>)>>);

/// What a session and its uid pay for a reference to shared content.
#[derive(Debug)]
pub struct Reference {
    session: Charge,
    uid: Rc<Charge>,
}

impl Reference {
    /// Charges a session for a reference, and its uid where none of its sessions holds the content yet.
    pub fn new(session: &Rc<Account>, payers: &Payers, bytes: u64) -> Result<Reference, Code> {
        let own = Charge::reference(session, bytes)?;
        let uid = session.at(Level::Uid);
        let paid = payers.find(uid);
        if paid.is_none() {
            uid.check(Resource::DeviceMemory, bytes)
                .map_err(|over| session.refuse(over))?;
        }
        Ok(Reference {
            session: own,
            uid: paid.unwrap_or_else(|| payers.pay(uid, bytes)),
        })
    }

    /// The same content is elsewhere now: it is paid for there.
    pub fn move_to(&mut self, payers: &Payers) {
        let uid = Rc::clone(self.session.account.at(Level::Uid));
        self.uid = payers
            .find(&uid)
            .unwrap_or_else(|| payers.pay(&uid, self.uid.amount));
    }
}

impl Payers {
    fn find(&self, uid: &Rc<Account>) -> Option<Rc<Charge>> {
        let payers = self.0.borrow();
        payers
            .iter()
            .find(|(account, _)| std::ptr::eq(account.as_ptr(), Rc::as_ptr(uid)))
            .and_then(|(_, charge)| charge.upgrade())
    }

    fn pay(&self, uid: &Rc<Account>, bytes: u64) -> Rc<Charge> {
        uid.add(Resource::DeviceMemory, bytes);
        let charge = Rc::new(Charge {
            account: Rc::clone(uid),
            resource: Resource::DeviceMemory,
            amount: bytes,
            above: false,
        });
        let mut payers = self.0.borrow_mut();
        payers.retain(|(_, charge)| charge.strong_count() > 0);
        payers.push((Rc::downgrade(uid), Rc::downgrade(&charge)));
        charge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(resource: Resource, limit: u64) -> Caps {
        let mut caps = Caps::default();
        caps.set(resource, limit);
        caps
    }

    /// Two sessions of one uid and one of another, in one tenant.
    fn family(resource: Resource, limits: [u64; 3]) -> (Rc<Account>, [Rc<Account>; 3]) {
        let tenant = Account::new(Level::Tenant, None);
        tenant.set_limits(&caps(resource, limits[0]), 0);
        let uids = [0, 1].map(|_| {
            let uid = Account::new(Level::Uid, Some(&tenant));
            uid.set_limits(&caps(resource, limits[1]), 0);
            uid
        });
        let sessions = [0, 0, 1].map(|uid| {
            let session = Account::new(Level::Session, Some(&uids[uid]));
            session.set_limits(&caps(resource, limits[2]), 0);
            session
        });
        (tenant, sessions)
    }

    #[test]
    fn a_charge_counts_at_every_level_until_it_is_dropped_and_a_refusal_counts_nowhere() {
        let what = Resource::DeviceMemory;
        let (tenant, [a, b, c]) = family(what, [100, 90, 80]);
        let held = a.charge(what, 70).unwrap();
        let refused = [a.charge(what, 20), b.charge(what, 21), c.charge(what, 31)];
        let levels = refused.map(|refused| refused.unwrap_err().level);
        assert_eq!(levels, [Level::Session, Level::Uid, Level::Tenant]);
        assert_eq!(
            (a.used(what), b.used(what), c.used(what), tenant.used(what)),
            (70, 0, 0, 70)
        );
        let more = b.charge(what, 20).unwrap();
        assert!(c.charge(what, 10).is_ok() && c.charge(what, u64::MAX).is_err());
        drop((held, more));
        assert_eq!((a.used(what), tenant.used(what)), (0, 0));
    }

    #[test]
    fn a_limit_below_the_use_refuses_what_is_new_and_frees_nothing() {
        let what = Resource::Staging;
        let (tenant, [a, b, _]) = family(what, [100, 100, 100]);
        let held = a.charge(what, 60).unwrap();
        tenant.set_limits(&caps(what, 50), 0);
        let over = b.charge(what, 1).unwrap_err();
        assert_eq!(
            over.to_string(),
            "bytes of staging memory of the tenant: 60 in use and 1 more wanted, the limit is 50"
        );
        assert_eq!(tenant.used(what), 60);
        drop(held);
        assert!(b.charge(what, 50).is_ok());
    }

    #[test]
    fn a_reference_counts_for_its_session_alone() {
        let what = Resource::DeviceMemory;
        let (tenant, [a, ..]) = family(what, [100, 100, 80]);
        let reference = Charge::reference(&a, 80).unwrap();
        assert_eq!((a.used(what), tenant.used(what)), (80, 0));
        assert_eq!(Charge::reference(&a, 1).err(), Some(Code::OutOfMemory));
        let told = a.take_refusal(Code::OutOfMemory).unwrap();
        assert_eq!((told.level, told.limit), (Level::Session, 80));
        assert_eq!(a.take_refusal(Code::OutOfMemory), None, "told once");
        drop(reference);
        assert_eq!(a.used(what), 0);
    }

    #[test]
    fn a_uid_pays_once_for_content_that_its_sessions_share() {
        let what = Resource::DeviceMemory;
        let (_, [a, b, c]) = family(what, [1000, 100, 100]);
        let (block, twin) = (Payers::default(), Payers::default());
        let held = [&a, &b, &c].map(|session| Reference::new(session, &block, 60).unwrap());
        let uid = |session: &Rc<Account>| session.at(Level::Uid).used(what);
        assert_eq!((a.used(what), b.used(what)), (60, 60));
        assert_eq!((uid(&a), uid(&c)), (60, 60));
        assert!(Reference::new(&b, &twin, 40).is_ok(), "other content");
        assert!(Reference::new(&b, &twin, 41).is_err());
        let told = b.take_refusal(Code::OutOfMemory).unwrap();
        assert_eq!((told.level, b.used(what)), (Level::Session, 60));
        let [first, mut second, third] = held;
        drop((first, third));
        assert_eq!((uid(&a), uid(&c)), (60, 0));
        second.move_to(&twin);
        assert_eq!((uid(&b), b.used(what)), (60, 60));
        drop(second);
        assert_eq!((uid(&b), b.used(what)), (0, 0));
    }

    #[test]
    fn what_is_counted_elsewhere_is_brought_up_to_date_at_every_level() {
        let what = Resource::Requests;
        let (tenant, [a, b, c]) = family(what, [100, 50, 40]);
        a.recount(what, 30);
        b.recount(what, 15);
        assert_eq!(tenant.used(what), 45);
        assert_eq!((a.room(what).0, a.room(what).1.level), (5, Level::Uid));
        assert_eq!((c.room(what).0, c.room(what).1.level), (40, Level::Session));
        a.recount(what, 0);
        c.recount(what, 60);
        assert_eq!((tenant.used(what), c.room(what).0), (75, 0));
    }

    #[test]
    fn device_time_waits_for_the_slowest_bucket_of_the_chain() {
        let what = Resource::DeviceTime;
        let (tenant, [a, b, _]) = family(what, [500, 1000, 1000]);
        a.set_limits(&caps(what, 100), 0);
        assert_eq!(a.may_run(0), Ok(()));
        a.charge_time(60_000_000, 0);
        let (own, other) = (a.may_run(0).unwrap_err(), b.may_run(0).unwrap_err());
        assert!(own > 490_000_000, "50 ms of debt at a tenth: {own}");
        assert!(other < 30_000_000, "10 ms of debt at a half: {other}");
        assert_eq!((a.may_run(own), b.may_run(other)), (Ok(()), Ok(())));
        assert_eq!(
            (a.device_ns(), tenant.device_ns()),
            (60_000_000, 60_000_000)
        );
    }
}
