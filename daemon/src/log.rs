//! Logs, and how much of them a client can cause.
//!
//! Everything that a client can trigger goes through [`client_log!`](crate::client_log): each place in the code may speak
//! [`BURST`] times in [`WINDOW`] and is counted beyond that, so that a client cannot fill a disk. Levels: error = an
//! operator must act; warn = degraded; info = life cycle; debug = a refused request; trace = per operation.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Environment variable with the log filter; comes before the configuration.
pub const LOG_VARIABLE: &str = "TENSORD_LOG";
/// How often a place may speak in a window.
pub const BURST: u32 = 10;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(5);

static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, bool)> = OnceLock::new();

/// Starts logging to standard error. `fixed` is a filter that no configuration changes.
pub fn start(fixed: Option<&str>, fallback: &str) {
    let text = fixed.unwrap_or(fallback);
    let filter = EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new("info"));
    let (layer, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    if tracing_subscriber::registry()
        .with(layer)
        .with(lines)
        .try_init()
        .is_ok()
    {
        // Set once: this is the only place, and a second start is refused above.
        let _ = FILTER.set((handle, fixed.is_some()));
    }
}

/// Takes over the filter of a configuration, unless the command line or the environment fixed one.
pub fn set_filter(text: &str) {
    let Some((handle, false)) = FILTER.get() else {
        return;
    };
    match EnvFilter::try_new(text) {
        // The subscriber lives as long as the process.
        Ok(filter) => drop(handle.reload(filter)),
        Err(error) => tracing::error!("configuration: log is {text:?}: {error}"),
    }
}

/// One place's share of the log.
#[derive(Debug, Default)]
pub struct Throttle {
    window: AtomicU64,
    said: AtomicU32,
    unsaid: AtomicU32,
}

impl Throttle {
    /// A place that has said nothing yet.
    pub const fn new() -> Throttle {
        Throttle {
            window: AtomicU64::new(0),
            said: AtomicU32::new(0),
            unsaid: AtomicU32::new(0),
        }
    }

    /// Whether the place may speak now, and how often it was silenced before.
    pub fn may_speak(&self) -> Option<u32> {
        static START: OnceLock<Instant> = OnceLock::new();
        let window = START.get_or_init(Instant::now).elapsed().as_secs() / WINDOW.as_secs() + 1;
        // Counters of a log: a line more or less at a window's edge does not matter.
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.said.store(0, Ordering::Relaxed);
        }
        if self.said.fetch_add(1, Ordering::Relaxed) < BURST {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Logs something that a client can trigger, at a level, within the share of this place.
#[macro_export]
macro_rules! client_log {
    ($level:ident, $($argument:tt)+) => {{
        static THROTTLE: $crate::log::Throttle = $crate::log::Throttle::new();
        if let Some(unsaid) = THROTTLE.may_speak() {
            if unsaid > 0 {
                tracing::$level!(unsaid, "earlier messages from the next line's place were not written");
            }
            tracing::$level!($($argument)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_talks_too_much_is_counted() {
        let throttle = Throttle::new();
        // A window may end while this runs, which lets at most one burst more through.
        let spoken = (0..1_000)
            .filter(|_| throttle.may_speak().is_some())
            .count();
        assert!(
            (BURST as usize..=2 * BURST as usize).contains(&spoken),
            "{spoken}"
        );
    }
}
