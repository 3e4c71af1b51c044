//! What a language around this library wants of threads that wait here: that its signals are heard, and its lock is not held.

use std::sync::OnceLock;

use tensord_shm::error::Code;

use crate::error::Error;

/// A language's runtime.
pub trait Runtime: Sync {
    /// Asked while a thread waits, when a signal came or four times a second: is the wait to end? Nothing of this library is locked.
    fn interrupted(&self) -> bool;

    /// Calls `wait` once, which takes long, without what other threads of the language need to go on.
    fn without_lock(&self, wait: &mut (dyn FnMut() + Send));
}

static RUNTIME: OnceLock<&'static dyn Runtime> = OnceLock::new();

/// Sets the process's runtime; the first one stays.
pub fn set_runtime(runtime: &'static dyn Runtime) {
    RUNTIME.get_or_init(|| runtime);
}

/// Ends a wait that a signal is to end.
pub(crate) fn hear_signals() -> Result<(), Error> {
    match RUNTIME.get() {
        Some(runtime) if runtime.interrupted() => Err(Error::new(
            Code::Cancelled,
            "a signal ended the wait; the result may still come",
        )),
        _ => Ok(()),
    }
}

/// Waits without the runtime's lock.
pub(crate) fn without_lock<T: Send>(wait: impl FnOnce() -> T + Send) -> T {
    let Some(runtime) = RUNTIME.get() else {
        return wait();
    };
    let (mut wait, mut result) = (Some(wait), None);
    runtime.without_lock(&mut || result = wait.take().map(|wait| wait()));
    // A runtime that did not call it leaves that to us.
    result.unwrap_or_else(|| wait.take().expect("not called yet")())
}
