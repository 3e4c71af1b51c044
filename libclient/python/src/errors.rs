//! Errors as Python sees them: built-in classes for what a call got wrong, `tensord.TensordError` for what failed later.
//!
//! The classes stand in `tensord/_errors.py`, because some have two bases; this maps each code to one of them.

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

/// An error of the call itself: shapes, dtypes and attributes that do not fit are Python's own errors.
pub fn at_call(py: Python<'_>, error: Error) -> PyErr {
    let message = error.message().to_owned();
    match error.code() {
        Code::DTypes => PyTypeError::new_err(message),
        Code::Attribute if message.contains("axis") => PyIndexError::new_err(message),
        Code::Attribute | Code::Shape => PyValueError::new_err(message),
        _ => later(py, error),
    }
}

/// A failure that came after the call; its message names the line that asked.
pub fn later(py: Python<'_>, error: Error) -> PyErr {
    build(py, &error).unwrap_or_else(|_| PyRuntimeError::new_err(error.to_string()))
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py
        .import("tensord._errors")?
        .getattr(class_name(error.code()))?;
    let value = class.cast::<PyType>()?.call1((error.to_string(),))?;
    value.setattr("code", error.code().name())?;
    if let Some(place) = error.place() {
        value.setattr("filename_asked", place.file)?;
        value.setattr("lineno_asked", place.line)?;
    }
    Ok(PyErr::from_value(value))
}
