//! What a session may, as it follows from the configuration.

use tensord_shm::control::{Class, Level};

use super::Broker;
use crate::config::{Config, Quotas, Tenant};

/// What a session of a uid in a tenant stands under.
fn quotas(config: &Config, entry: Option<&Tenant>) -> Quotas {
    let mut quotas = Quotas {
        session: config.limits.of(Level::Session),
        uid: config.limits.of(Level::Uid),
        tenant: config.limits.of(Level::Tenant),
    };
    if let Some(entry) = entry {
        quotas.session.overlay(&entry.session);
        quotas.uid.overlay(&entry.uid);
        quotas.tenant.overlay(&entry.limits);
    }
    quotas
}

impl Broker {
    /// Works out under which limits a session stands, and what of class and weight it is granted.
    pub(super) fn stand(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let name = self
            .tenants
            .get(&session.tenant)
            .map_or("", |tenant| &tenant.name);
        let entry = self.config.tenant(name);
        let record = &mut session.record;
        record.tenant_name = name.to_owned();
        record.tenant_weight = entry.map_or(100, |entry| entry.weight);
        record.quotas = quotas(&self.config, entry);
        let highest = entry
            .and_then(Tenant::class)
            .unwrap_or_else(|| self.config.class.class());
        let weight_max = entry
            .and_then(|entry| entry.weight_max)
            .unwrap_or(self.config.class.weight_max);
        let class = Class::from_wire(record.class).unwrap_or_default();
        record.class = class.min(highest) as u8;
        record.weight = record.weight.min(weight_max);
    }
}
