//! Which line of Python asked: the file and line of the innermost caller outside this package.
//!
//! A frame gives its code object and its line; a small cache maps the pair to the site number that the client library
//! interned, so that a line in a loop costs two calls into the interpreter and a lookup. The cache holds its code
//! objects, because an address alone may be used again for other code.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

const CACHE_SLOTS: usize = 1024;

static ENABLED: AtomicBool = AtomicBool::new(true);
static PACKAGE: PyOnceLock<String> = PyOnceLock::new();

#[derive(Clone, Copy)]
enum Known {
    Site(u32),
    /// A frame of this package: its caller counts.
    Internal,
}

struct Slot {
    code: Py<PyAny>,
    line: i32,
    known: Known,
}

thread_local! {
    static CACHE: RefCell<Vec<Option<Slot>>> = const { RefCell::new(Vec::new()) };
}

/// Switches the capture of source lines; returns what it was.
#[pyfunction]
pub fn set_sites(enabled: bool) -> bool {
    ENABLED.swap(enabled, Ordering::Relaxed)
}

/// Names the folder whose frames are not callers.
#[pyfunction]
pub fn set_package(py: Python<'_>, folder: String) {
    // A second import of the same package has the same folder.
    let _ = PACKAGE.set(py, folder);
}

/// The site of the Python line that is running, 0 where it is unknown or capture is off.
#[inline]
pub fn current(py: Python<'_>) -> u32 {
    if !ENABLED.load(Ordering::Relaxed) {
        return 0;
    }
    // SAFETY: attached to the interpreter; the frame is borrowed and stays alive while its code calls us.
    let frame = unsafe { ffi::PyEval_GetFrame() };
    if frame.is_null() {
        return 0;
    }
    // SAFETY: `frame` is a live frame; both calls only read it, the second gives a new reference and never fails.
    let (line, code) = unsafe {
        (
            ffi::PyFrame_GetLineNumber(frame),
            ffi::PyFrame_GetCode(frame),
        )
    };
    // SAFETY: a new reference to an object, which `Bound` now owns.
    let code = unsafe { Bound::from_owned_ptr(py, code.cast()) };
    match lookup(&code, line) {
        Known::Site(site) => site,
        Known::Internal => {
            // SAFETY: the frame is alive; `Bound` takes a reference of its own.
            let frame: Bound<'_, PyAny> = unsafe { Bound::from_borrowed_ptr(py, frame.cast()) };
            outside(&frame).unwrap_or(0)
        }
    }
}

#[inline]
fn lookup(code: &Bound<'_, PyAny>, line: i32) -> Known {
    let address = code.as_ptr() as usize;
    let slot = ((address >> 4) ^ (line as usize).wrapping_mul(0x9e37_79b9)) % CACHE_SLOTS;
    CACHE.with_borrow_mut(|cache| {
        if let Some(Some(have)) = cache.get(slot)
            && have.code.as_ptr() == code.as_ptr()
            && have.line == line
        {
            return have.known;
        }
        if cache.is_empty() {
            cache.resize_with(CACHE_SLOTS, || None);
        }
        let known = resolve(code, line);
        let code = code.clone().unbind();
        // What stood there is dropped by the caller's side of the assignment: a code object runs no Python when it goes.
        cache[slot] = Some(Slot { code, line, known });
        known
    })
}

#[cold]
fn resolve(code: &Bound<'_, PyAny>, line: i32) -> Known {
    let Ok(file) = code
        .getattr("co_filename")
        .and_then(|name| name.extract::<String>())
    else {
        return Known::Site(0);
    };
    if PACKAGE
        .get(code.py())
        .is_some_and(|package| file.starts_with(package.as_str()))
    {
        return Known::Internal;
    }
    Known::Site(crate::session::intern_site(
        &file,
        u32::try_from(line).unwrap_or(0),
    ))
}

#[cold]
fn outside(inner: &Bound<'_, PyAny>) -> PyResult<u32> {
    let mut frame = inner.getattr("f_back")?;
    while !frame.is_none() {
        let line = frame.getattr("f_lineno")?.extract::<i32>().unwrap_or(0);
        match lookup(&frame.getattr("f_code")?, line) {
            Known::Site(site) => return Ok(site),
            Known::Internal => frame = frame.getattr("f_back")?,
        }
    }
    Ok(0)
}

/// The site that [`current`] would give, for tests and for measuring what it costs.
#[pyfunction]
pub fn site(py: Python<'_>) -> u32 {
    current(py)
}
