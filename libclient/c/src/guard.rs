//! The boundary itself: no panic leaves it, no pointer is believed, and the last error of a thread is kept for it.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tensord_client::{Code, Error};

use crate::codes::tensord_code;

thread_local! {
    static LAST: RefCell<(tensord_code, CString)> = RefCell::new((tensord_code::TENSORD_OK, CString::default()));
}

/// Runs what a function of the interface does; an error becomes the thread's last one and its code.
pub(crate) fn call(run: impl FnOnce() -> Result<(), Error>) -> tensord_code {
    let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(Error::new(
            Code::Internal,
            format!("a bug in libtensord: {what}"),
        ))
    });
    match outcome {
        Ok(()) => tensord_code::TENSORD_OK,
        Err(error) => {
            let code = error.code().into();
            let text = error.to_string().replace('\0', " ");
            let text = CString::new(text).unwrap_or_default();
            // While a thread ends its storage may be gone; the code is all that it gets then.
            let _ = LAST.try_with(|last| *last.borrow_mut() = (code, text));
            code
        }
    }
}

/// For what returns a value and cannot fail but by a bad pointer: `otherwise` then.
pub(crate) fn value<T>(otherwise: T, run: impl FnOnce() -> Option<T>) -> T {
    catch_unwind(AssertUnwindSafe(run))
        .ok()
        .flatten()
        .unwrap_or(otherwise)
}

/// Reads something of what a pointer points at; `otherwise` for NULL.
///
/// # Safety
/// As for [`reference`].
pub(crate) unsafe fn peek<T, V>(pointer: *const T, otherwise: V, read: impl FnOnce(&T) -> V) -> V {
    value(otherwise, || {
        // SAFETY: the caller's duty; NULL gives None.
        let found = unsafe { pointer.as_ref() }?;
        Some(read(found))
    })
}

/// The message of the last call of this thread that failed; "" if none did. Valid until the next failure in this thread.
#[unsafe(no_mangle)]
pub extern "C" fn tensord_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().1.as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// The code of the last call of this thread that failed.
#[unsafe(no_mangle)]
pub extern "C" fn tensord_last_error_code() -> tensord_code {
    LAST.try_with(|last| last.borrow().0)
        .unwrap_or(tensord_code::TENSORD_OK)
}

/// The name of a code, such as "out_of_memory"; "ok" for 0 and "unknown" for what is none.
#[unsafe(no_mangle)]
pub extern "C" fn tensord_code_name(code: u32) -> *const c_char {
    if code == 0 {
        return c"ok".as_ptr();
    }
    NAMES.with(|names| {
        let found = names.iter().find(|(number, _)| *number == code);
        found.map_or(c"unknown".as_ptr(), |(_, name)| name.as_ptr())
    })
}

thread_local! {
    /// Leaked once for each thread that asks, so that the names outlive it.
    static NAMES: &'static [(u32, CString)] = Vec::leak(
        Code::ALL
            .iter()
            .map(|&code| (code as u32, CString::new(code.name()).unwrap_or_default()))
            .collect(),
    );
}

pub(crate) fn null(what: &str) -> Error {
    Error::new(Code::Attribute, format!("{what} is NULL"))
}

pub(crate) fn bad(what: &str, have: impl std::fmt::Display) -> Error {
    Error::new(Code::Attribute, format!("{what} is {have}, which is none"))
}

/// What a pointer points at.
///
/// # Safety
/// Not NULL, it must point at a live `T` that nobody changes during the call.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Error> {
    // SAFETY: the caller's duty, stated above; NULL gives None.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// An array of `count` elements. NULL is an empty one where `count` is 0.
///
/// # Safety
/// Not NULL, it must point at `count` elements that nobody changes during the call.
pub(crate) unsafe fn array<'a, T>(
    pointer: *const T,
    count: usize,
    what: &str,
) -> Result<&'a [T], Error> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(null(what));
    }
    if count > isize::MAX as usize / size_of::<T>().max(1) || !pointer.is_aligned() {
        return Err(bad(what, format!("{count} elements at {pointer:?}")));
    }
    // SAFETY: not NULL, aligned, not longer than any object; that it is live and unchanged is the caller's duty.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A string, or None for NULL.
///
/// # Safety
/// Not NULL, it must be a C string that nobody changes during the call.
pub(crate) unsafe fn text<'a>(
    pointer: *const c_char,
    what: &str,
) -> Result<Option<&'a str>, Error> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's duty, stated above.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(Some).map_err(|_| bad(what, "not UTF-8"))
}

/// Takes back what was given out, and lets it go; NULL is nothing.
///
/// # Safety
/// Not NULL, it must come from `Box::into_raw` and not have been taken back before.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    call(|| {
        if !pointer.is_null() {
            // SAFETY: not NULL; the rest is the caller's duty, stated above.
            drop(unsafe { Box::from_raw(pointer) });
        }
        Ok(())
    });
}

/// Writes a result to where the caller wants it.
///
/// # Safety
/// Not NULL, it must point at writable memory for one `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Error> {
    if to.is_null() {
        return Err(null("the place for the result"));
    }
    // SAFETY: not NULL; that it is writable is the caller's duty.
    unsafe { to.write(value) };
    Ok(())
}
