//! The default session: opened at first use, and opened anew in each forked child.

use std::sync::{Mutex, PoisonError};

use tensord_shm::error::Code;
use tensord_shm::fork;

use crate::error::Error;
use crate::session::{Options, Session};

/// A place for each generation of forks, because a child may find its parent's lock held for good. Generations
/// beyond these share places.
static DEFAULTS: [Mutex<Option<Session>>; 16] = [const { Mutex::new(None) }; 16];

fn place() -> &'static Mutex<Option<Session>> {
    &DEFAULTS[fork::generation() as usize % DEFAULTS.len()]
}

/// The default session of this process. Opens it with `options` if there is none, or if its daemon is gone.
pub fn default_session(options: impl FnOnce() -> Options) -> Result<Session, Error> {
    fork::watch().map_err(|error| Error::new(Code::Limit, format!("pthread_atfork: {error}")))?;
    let mut place = place().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(session) = place.as_ref()
        && session.is_open()
    {
        return Ok(session.clone());
    }
    let session = Session::connect(options())?;
    *place = Some(session.clone());
    Ok(session)
}

/// Makes a session the default one of this process; gives the one that was.
pub fn set_default_session(session: Option<Session>) -> Option<Session> {
    let mut place = place().lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *place, session)
}
