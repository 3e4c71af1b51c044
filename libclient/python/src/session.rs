//! The default session, its queue in each thread, and everything that is submitted to it or waited for.
//!
//! The session opens at first use. Each thread has a queue of its own; a tensor that crosses over orders the queues,
//! which the client library does. A forked child has a process generation of its own and so finds no session: it
//! opens one at first use, and the parent's is left alone, never even dropped.
//!
//! Waiting releases the interpreter, and hears its signals.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use tensord_client::{Error, Options, Runtime, Session, Site, Tensor};
use tensord_shm::control::{Change, Changes, Class, Resource};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::error::Code;
use tensord_shm::fork;
use tensord_shm::op::{Elementwise, Op, Operand};

use crate::errors::value_error;
use crate::{debug, errors};

/// The default session of one process generation.
struct Default {
    generation: u32,
    session: Session,
}

static DEFAULT: Mutex<Option<Default>> = Mutex::new(None);
/// Counts the default sessions made, so that threads notice a new one.
static MADE: AtomicU64 = AtomicU64::new(0);

/// This thread's queue, with the count and the process generation for which it holds.
struct Own {
    made: u64,
    generation: u32,
    session: Session,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// The interpreter, as threads that wait in the client library need it.
pub struct Interpreter;

impl Runtime for Interpreter {
    fn interrupted(&self) -> bool {
        // An interpreter that is ending has no more handlers to call.
        let heard = Python::try_attach(|py| py.check_signals().map_err(errors::keep_for_later));
        heard.is_some_and(|heard| heard.is_err())
    }

    fn without_lock(&self, wait: &mut (dyn FnMut() + Send)) {
        Python::try_attach(|py| py.detach(wait));
    }
}

/// Does something with this thread's queue of the default session.
#[inline]
pub fn with<T>(py: Python<'_>, f: impl FnOnce(&Session) -> Result<T, Error>) -> PyResult<T> {
    let mut f = Some(f);
    let done = OWN.with_borrow(|own| match own {
        Some(own)
            if own.made == MADE.load(Ordering::Relaxed) && own.generation == fork::generation() =>
        {
            f.take().map(|f| f(&own.session))
        }
        _ => None,
    });
    match (done, f) {
        (Some(result), _) => result.map_err(|error| errors::at_call(py, error)),
        (None, Some(f)) => {
            let session = renew(py)?;
            f(&session).map_err(|error| errors::at_call(py, error))
        }
        (None, None) => unreachable!("f is taken only where its result is kept"),
    }
}

/// Gives this thread a queue of the default session, which opens where there is none.
///
/// `DEFAULT` is locked only while attached: a fork happens attached too, so that no child finds it locked.
#[cold]
fn renew(py: Python<'_>) -> PyResult<Session> {
    if let Some(default) = default_session() {
        // The thread that opened it uses its first queue; every other thread has one of its own.
        let session = py
            .detach(|| default.queue())
            .map_err(|error| errors::later(py, error))?;
        keep(session.clone());
        return Ok(session);
    }
    let options = Options {
        name: process_name(),
        ..Options::default()
    };
    let session = py
        .detach(|| Session::connect(options))
        .map_err(|error| errors::later(py, error))?;
    if default_session().is_some() {
        // Another thread was faster.
        return renew(py);
    }
    set_default(&session);
    Ok(session)
}

fn default_session() -> Option<Session> {
    let default = DEFAULT.lock().unwrap_or_else(PoisonError::into_inner);
    let here = default
        .as_ref()
        .filter(|have| have.generation == fork::generation() && have.session.is_open());
    here.map(|have| have.session.clone())
}

fn set_default(session: &Session) {
    let mut default = DEFAULT.lock().unwrap_or_else(PoisonError::into_inner);
    *default = Some(Default {
        generation: fork::generation(),
        session: session.clone(),
    });
    MADE.fetch_add(1, Ordering::Relaxed);
    drop(default);
    keep(session.clone());
}

fn keep(session: Session) {
    let own = Own {
        made: MADE.load(Ordering::Relaxed),
        generation: fork::generation(),
        session,
    };
    // A handler of signals may come here while its thread submits: that thread finds the new session at its next call.
    OWN.with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut() {
            *kept = Some(own);
        }
    });
}

fn process_name() -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&name)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Makes the default session anew. Arrays of the one before stay with it.
#[pyfunction]
#[pyo3(signature = (socket=None, name=None, qos="normal", weight=100, fuse=true, batch=true))]
pub fn open(
    py: Python<'_>,
    socket: Option<std::path::PathBuf>,
    name: Option<String>,
    qos: &str,
    weight: u32,
    fuse: bool,
    batch: bool,
) -> PyResult<PySession> {
    let class = match qos {
        "realtime" => Class::Realtime,
        "normal" => Class::Normal,
        "idle" => Class::Idle,
        other => {
            return Err(value_error(format!(
                "qos is \"realtime\", \"normal\" or \"idle\", not {other:?}"
            )));
        }
    };
    if !(1..=10_000).contains(&weight) {
        return Err(value_error(format!("weight is 1 to 10000, not {weight}")));
    }
    let name = name.unwrap_or_else(process_name);
    let options = Options {
        socket,
        name,
        class,
        weight,
        fuse,
        batch,
        ..Options::default()
    };
    let session = py
        .detach(|| Session::connect(options))
        .map_err(|error| errors::later(py, error))?;
    set_default(&session);
    Ok(PySession(session))
}

/// A connection to the daemon.
#[pyclass(frozen, name = "Session", module = "tensord")]
pub struct PySession(Session);

#[pymethods]
impl PySession {
    /// Path of the daemon's socket.
    #[getter]
    fn socket(&self) -> std::path::PathBuf {
        self.0.socket().to_path_buf()
    }

    /// Epoch of the engine: it grows when the engine is started again.
    #[getter]
    fn epoch(&self) -> u32 {
        self.0.info().epoch
    }

    /// Name, as `tensorctl ps` shows it.
    #[getter]
    fn id(&self) -> u64 {
        self.0.info().welcome.session
    }

    fn __repr__(&self) -> String {
        format!(
            "<tensord.Session {} at {}>",
            self.0.info().welcome.session,
            self.0.socket().display()
        )
    }
}

/// The thread's session, opened where there is none.
#[pyfunction]
pub fn session(py: Python<'_>) -> PyResult<PySession> {
    with(py, |session| Ok(session.clone())).map(PySession)
}

/// What runs in the daemon, as JSON text.
#[pyfunction]
pub fn stat_json(py: Python<'_>) -> PyResult<String> {
    let session = with(py, |session| Ok(session.clone()))?;
    py.detach(move || session.stat())
        .map_err(|error| errors::later(py, error))
}

/// Lowers limits of the session, by name; `None` takes one back.
#[pyfunction]
pub fn limit(py: Python<'_>, limits: Vec<(String, Option<u64>)>) -> PyResult<()> {
    let mut changes = Changes::default();
    for (name, limit) in limits {
        let resource = Resource::from_name(&name)
            .ok_or_else(|| value_error(format!("there is no limit {name:?}")))?;
        changes.set(resource, limit.map_or(Change::Default, Change::To));
    }
    let session = with(py, |session| Ok(session.clone()))?;
    py.detach(move || session.limit(changes))
        .map_err(|error| errors::later(py, error))
}

/// Limits of this session, its uid and its tenant, as JSON text.
#[pyfunction]
pub fn limits_json(py: Python<'_>) -> PyResult<String> {
    let session = with(py, |session| Ok(session.clone()))?;
    py.detach(move || session.limits())
        .map_err(|error| errors::later(py, error))
}

/// Waits for everything that this thread has submitted; raises the first failure that nobody heard of.
#[pyfunction]
pub fn synchronize(py: Python<'_>) -> PyResult<()> {
    let session = with(py, |session| Ok(session.clone()))?;
    py.detach(|| session.synchronize())
        .map_err(|error| errors::later(py, error))
}

/// Demands everything that this thread has submitted, without waiting.
#[pyfunction]
pub fn flush(py: Python<'_>) -> PyResult<()> {
    with(py, |session| session.flush().map(drop))
}

/// The number of a source line.
pub fn intern_site(file: &str, line: u32) -> u32 {
    Site::intern(file, line).0
}

// --------------------------------------------------------------------------------------------- submitting

/// Submits an elementwise function.
#[inline]
pub fn elementwise(
    py: Python<'_>,
    function: Elementwise,
    operands: &[Operand<&Tensor>],
) -> PyResult<Tensor> {
    let site = Site(crate::site::current(py));
    let submit = |session: &Session| session.elementwise(function, operands, site);
    let tensor = on(py, operands, submit)?;
    if debug::is_on() {
        debug::check(py, tensor.session(), function.info().name, &tensor, site)?;
    }
    Ok(tensor)
}

/// Submits an operation.
pub fn compute(
    py: Python<'_>,
    op: &Op,
    operands: &[Operand<&Tensor>],
    immediates: [Scalar; 2],
) -> PyResult<Tensor> {
    let site = Site(crate::site::current(py));
    let submit = |session: &Session| session.submit(op, operands, immediates, site);
    let tensor = on(py, operands, submit)?;
    if debug::is_on() {
        debug::check(py, tensor.session(), op.name(), &tensor, site)?;
    }
    Ok(tensor)
}

/// Submits to this thread's queue; where the operands belong to an earlier session that is still there, to theirs.
#[inline]
fn on(
    py: Python<'_>,
    operands: &[Operand<&Tensor>],
    submit: impl Fn(&Session) -> Result<Tensor, Error>,
) -> PyResult<Tensor> {
    with(py, |session| match submit(session) {
        Err(error) if error.code() == Code::BadHandle => {
            let home = operands.iter().find_map(|operand| match operand {
                Operand::Tensor(tensor) if !tensor.is_constant() => Some(tensor.session()),
                _ => None,
            });
            match home {
                Some(home) => submit(home).map_err(|_| error),
                None => Err(error),
            }
        }
        outcome => outcome,
    })
}

/// Submits an operation without operands.
pub fn create(py: Python<'_>, op: &Op, immediates: [Scalar; 2]) -> PyResult<Tensor> {
    compute(py, op, &[], immediates)
}

/// The tensor in another dtype; itself where it has it.
pub fn cast(py: Python<'_>, tensor: &Tensor, dtype: DType) -> PyResult<Tensor> {
    match tensor.dtype() == dtype {
        true => Ok(tensor.clone()),
        false => compute(
            py,
            &Op::Cast(dtype),
            &[Operand::Tensor(tensor)],
            [Scalar(0); 2],
        ),
    }
}
