//! Which line of Python asked: the file and line of the innermost caller outside this package.
//!
//! A frame gives its code object and the place in it, both at once; a small cache maps the pair to the site number that
//! the client library interned, so that only the first pass over a line looks at line tables. The cache holds its code
//! objects, because an address alone may be used again for other code; it never lets one go, so that looking up runs no
//! foreign code.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Slots of the cache; each remembers one place in one code object, for good.
const CACHE_SLOTS: usize = 1 << 13;
/// Slots looked at for one place.
const PROBES: usize = 4;

static ENABLED: AtomicBool = AtomicBool::new(true);
static PACKAGE: PyOnceLock<String> = PyOnceLock::new();
static CACHE: Cache = Cache(UnsafeCell::new(Vec::new()));

#[derive(Clone, Copy)]
enum Known {
    Site(u32),
    /// A frame of this package: its caller counts.
    Internal,
}

struct Slot {
    code: Py<PyAny>,
    place: c_int,
    known: Known,
}

/// The cache, which only the thread attached to the interpreter touches.
struct Cache(UnsafeCell<Vec<Option<Slot>>>);

// SAFETY: `lookup` is the only user, needs a token of the interpreter and lets no other thread in before it is done.
unsafe impl Sync for Cache {}

type PlaceOf = unsafe extern "C" fn(*mut ffi::PyFrameObject) -> c_int;

/// What gives a frame's place in its code: the instruction where the interpreter offers that (since 3.11, though not in
/// the stable interface), because it costs the same anywhere in a function; else the line.
fn place_of() -> PlaceOf {
    static FOUND: OnceLock<PlaceOf> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: the name is a C string; looking up changes nothing.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"PyFrame_GetLasti".as_ptr()) };
        match found.is_null() {
            true => ffi::PyFrame_GetLineNumber as PlaceOf,
            // SAFETY: the interpreter's own symbol of that name has this signature since 3.11.
            false => unsafe { std::mem::transmute::<*mut libc::c_void, PlaceOf>(found) },
        }
    })
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
    let place_of = place_of();
    // SAFETY: `frame` is a live frame; both calls only read it, the second gives a new reference and never fails.
    let (place, code) = unsafe { (place_of(frame), ffi::PyFrame_GetCode(frame)) };
    // SAFETY: a new reference to an object, which `Bound` now owns.
    let code: Bound<'_, PyAny> = unsafe { Bound::from_owned_ptr(py, code.cast()) };
    // SAFETY: the frame is alive, and the call only reads it.
    let line = || unsafe { ffi::PyFrame_GetLineNumber(frame) };
    match find(&code, place).unwrap_or_else(|| learn(&code, place, line())) {
        Known::Site(site) => site,
        Known::Internal => {
            // SAFETY: the frame is alive; `Bound` takes a reference of its own.
            let frame: Bound<'_, PyAny> = unsafe { Bound::from_borrowed_ptr(py, frame.cast()) };
            outside(&frame).unwrap_or(0)
        }
    }
}

fn first_slot(code: &Bound<'_, PyAny>, place: c_int) -> usize {
    let address = code.as_ptr().addr() as u64 >> 4;
    let mixed = (address ^ (place as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize
}

#[inline]
fn find(code: &Bound<'_, PyAny>, place: c_int) -> Option<Known> {
    // SAFETY: `code` shows that this thread is attached, and nothing here lets another one in or runs Python.
    let cache = unsafe { &*CACHE.0.get() };
    let first = first_slot(code, place);
    (0..PROBES).find_map(|probe| {
        let slot = cache.get((first + probe) % CACHE_SLOTS)?.as_ref()?;
        (slot.place == place && slot.code.as_ptr() == code.as_ptr()).then_some(slot.known)
    })
}

#[cold]
fn learn(code: &Bound<'_, PyAny>, place: c_int, line: c_int) -> Known {
    let known = resolve(code, line);
    let slot = Slot {
        code: code.clone().unbind(),
        place,
        known,
    };
    // SAFETY: as in `find`; `resolve` may have run Python, but no reference was held meanwhile.
    let cache = unsafe { &mut *CACHE.0.get() };
    if cache.is_empty() {
        cache.resize_with(CACHE_SLOTS, || None);
    }
    let first = first_slot(code, place);
    // Where every slot is taken the place is looked up anew each time.
    let free = (0..PROBES)
        .map(|probe| (first + probe) % CACHE_SLOTS)
        .find(|&at| cache[at].is_none());
    if let Some(at) = free {
        cache[at] = Some(slot);
    }
    known
}

fn resolve(code: &Bound<'_, PyAny>, line: c_int) -> Known {
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
        let code = frame.getattr("f_code")?;
        let line: c_int = frame.getattr("f_lineno")?.extract().unwrap_or(0);
        // Lines beside instructions in one cache: the sign keeps them apart.
        let place = -1 - line;
        match find(&code, place).unwrap_or_else(|| learn(&code, place, line)) {
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
