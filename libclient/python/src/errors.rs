//! Errors as Python sees them: built-in classes for what a call got wrong, `tensord.TensordError` for what failed later.
//!
//! The classes stand in `tensord/_errors.py`, because some have two bases; this maps each code to one of them.

use std::cell::Cell;

use pyo3::exceptions::{PyIndexError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;
use tensord_client::Error;
use tensord_shm::error::Code;

/// Name of the class in `tensord._errors` for a failure that no call can be blamed for.
fn class_name(code: Code) -> &'static str {
    match code {
        Code::OutOfMemory => "OutOfMemoryError",
        Code::Limit | Code::Staging => "LimitError",
        Code::DaemonLost | Code::Draining => "DaemonLost",
        Code::Lost => "LostError",
        Code::Cancelled => "CancelledError",
        Code::WaitTimeout => "WaitTimeout",
        Code::DeviceFault => "DeviceFault",
        Code::Denied | Code::NotAdministrator => "DeniedError",
        Code::BadHandle => "BadHandleError",
        Code::BadRecord
        | Code::TailJump
        | Code::BadMessage
        | Code::UninvitedFd
        | Code::Version
        | Code::UnknownOperation
        | Code::HandleInUse => "ProtocolError",
        Code::Shape
        | Code::DTypes
        | Code::Attribute
        | Code::Poisoned
        | Code::NotHeld
        | Code::Internal => "TensordError",
    }
}

/// A `ValueError`, its shapes written as Python writes them.
pub fn value_error(message: String) -> PyErr {
    PyValueError::new_err(with_tuples(&message))
}

/// A `TypeError`, its shapes written as Python writes them.
pub fn type_error(message: String) -> PyErr {
    PyTypeError::new_err(with_tuples(&message))
}

/// An `IndexError`, its shapes written as Python writes them.
pub fn index_error(message: String) -> PyErr {
    PyIndexError::new_err(with_tuples(&message))
}

/// The message with each shape, `[3, 4]` in the messages of all languages, as the tuple that Python shows.
fn with_tuples(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(open) = rest.find('[') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let inner = from[1..].find(']').map(|close| &from[1..=close]);
        match inner {
            Some(sizes)
                if sizes
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b == b',' || b == b' ') =>
            {
                let comma = if sizes.is_empty() || sizes.contains(',') {
                    ""
                } else {
                    ","
                };
                out.push_str(&format!("({sizes}{comma})"));
                rest = &from[sizes.len() + 2..];
            }
            _ => {
                out.push('[');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// An error of the call itself: shapes, dtypes and attributes that do not fit are Python's own errors.
pub fn at_call(py: Python<'_>, error: Error) -> PyErr {
    let message = error.message().to_owned();
    match error.code() {
        Code::DTypes => type_error(message),
        Code::Attribute if message.contains("axis") => index_error(message),
        Code::Attribute | Code::Shape => value_error(message),
        _ => later(py, error),
    }
}

thread_local! {
    /// What a handler of signals raised while this thread waited.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// Keeps what a handler of signals raised until the wait that it ends has come back.
pub fn keep_for_later(raised: PyErr) {
    RAISED.set(Some(raised));
}

/// A failure that came after the call; its message names the line that asked.
pub fn later(py: Python<'_>, error: Error) -> PyErr {
    if error.code() == Code::Cancelled
        && let Some(raised) = RAISED.take()
    {
        return raised;
    }
    build(py, &error).unwrap_or_else(|_| PyRuntimeError::new_err(error.to_string()))
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py
        .import("tensord._errors")?
        .getattr(class_name(error.code()))?;
    let value = class
        .cast::<PyType>()?
        .call1((with_tuples(&error.to_string()),))?;
    value.setattr("code", error.code().name())?;
    if let Some(place) = error.place() {
        value.setattr("filename_asked", place.file)?;
        value.setattr("lineno_asked", place.line)?;
    }
    Ok(PyErr::from_value(value))
}
