//! What the daemon is told: its command line, its configuration, and the configuration read again.
//!
//! A reload changes what can change while clients run; a field that cannot keeps its value, and a file with an error
//! changes nothing.

use std::path::PathBuf;

use super::{Supervisor, listen, unwatch};
use crate::config::Config;
use crate::link::{ToBroker, ToEngine};
use crate::notify;

/// What the command line says beyond the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration's file.
    pub config_path: Option<PathBuf>,
    /// The first tenants' socket.
    pub socket: Option<PathBuf>,
    /// The device.
    pub device: Option<String>,
    /// The log filter.
    pub log: Option<String>,
    /// Seconds without a session after which the daemon ends.
    pub exit_idle_s: Option<u32>,
}

impl Options {
    /// The configuration with what the command line says.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = self
            .config_path
            .as_deref()
            .map(Config::read)
            .transpose()?
            .unwrap_or_default();
        if let Some(socket) = &self.socket {
            config.set_socket(std::path::absolute(socket)?);
        }
        if let Some(device) = &self.device {
            config.device.clone_from(device);
        }
        config.exit_idle_s = self.exit_idle_s.unwrap_or(config.exit_idle_s);
        config.check()?;
        Ok(config)
    }
}

impl Supervisor {
    pub(super) fn reload(&mut self) {
        notify::reloading();
        match self.options.config() {
            Ok(config) => self.apply(config),
            Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
        }
        notify::ready();
    }

    fn apply(&mut self, mut config: Config) {
        let fixed = [
            ("device", config.device != self.config.device),
            ("isolation", config.isolation != self.config.isolation),
            ("admin_path", config.admin_path != self.config.admin_path),
            ("state_dir", config.state_dir != self.config.state_dir),
            ("engine", config.engine != self.config.engine),
            ("sandbox", config.sandbox != self.config.sandbox),
        ];
        for (field, _) in fixed.iter().filter(|(_, changed)| *changed) {
            tracing::warn!(field, "a changed field needs a restart and stays as it was");
        }
        let before = &self.config;
        config.device.clone_from(&before.device);
        config.isolation = before.isolation;
        config.admin_path.clone_from(&before.admin_path);
        config.state_dir.clone_from(&before.state_dir);
        config.engine.clone_from(&before.engine);
        config.sandbox = before.sandbox;
        crate::log::set_filter(&config.log);
        if config.listen != self.config.listen {
            self.listen_anew(&config);
        }
        self.config = config;
        let configure = Box::new(self.config.clone());
        self.tell_broker(&ToBroker::Configure(configure.clone()), &[]);
        self.tell_engines(&ToEngine::Configure(configure));
        tracing::info!("configuration reloaded");
    }

    /// Opens sockets that are new and closes those that are gone; the administration socket stays.
    fn listen_anew(&mut self, config: &Config) {
        let wanted = config.sockets();
        self.listeners.retain(|_, listener| {
            let stays = listener.admin || wanted.iter().any(|entry| entry.path == listener.path);
            if !stays {
                tracing::info!(path = %listener.path.display(), "no longer listening");
                unwatch(&self.poll, listener.raw());
            }
            stays
        });
        for entry in wanted {
            if let Some(listener) = self
                .listeners
                .values_mut()
                .find(|listener| listener.path == entry.path)
            {
                listener.rule = entry.tenant;
                continue;
            }
            if let Err(error) =
                listen::open(&entry, false).and_then(|listener| self.add_listener(listener))
            {
                tracing::error!("{error:#}; a folder that had no socket at start needs a restart");
            }
        }
    }
}
