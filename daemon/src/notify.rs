//! Tells the service manager how the daemon is, over `NOTIFY_SOCKET`; silent where there is none.

use sd_notify::NotifyState;

/// The daemon serves.
pub fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The configuration is being read again; [`ready`] follows.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    // Later service managers want to know when, to match it with the Ready that follows.
    states.extend(NotifyState::monotonic_usec_now().ok());
    send(&states);
}

/// The daemon finishes what it accepted and ends.
pub fn stopping() {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing accepted requests"),
    ]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
