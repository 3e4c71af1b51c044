//! Sessions and queues of the C interface.

#![allow(
    non_camel_case_types,
    reason = "these are the names that C programs write"
)]

use std::ffi::{CString, c_char};
use std::ptr;

use tensord_client::{Change, Changes, Class, Options, Resource, Session};

use crate::codes::tensord_code;
use crate::guard::{array, bad, call, free, null, put, reference, text};

/// A session seen through one of its queues. Any thread may use it; threads that work independently should each have a
/// queue of their own.
pub struct tensord_session(pub(crate) Session);

/// Class of a session's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum tensord_class {
    /// Runs when nothing else wants the device.
    TENSORD_IDLE = 1,
    /// The default.
    TENSORD_NORMAL = 2,
    /// Before all others.
    TENSORD_REALTIME = 3,
}

impl From<Class> for tensord_class {
    fn from(class: Class) -> tensord_class {
        use tensord_class::*;
        match class {
            Class::Idle => TENSORD_IDLE,
            Class::Normal => TENSORD_NORMAL,
            Class::Realtime => TENSORD_REALTIME,
        }
    }
}

/// How a session is opened. Fill it with `tensord_options_init`, then change what you want.
#[repr(C)]
pub struct tensord_options {
    /// Size of this structure, which later versions may extend.
    pub size: usize,
    /// Path of the daemon's socket; NULL searches the default places.
    pub socket: *const c_char,
    /// Name of the session, for people; may be NULL.
    pub name: *const c_char,
    /// One of `tensord_class`.
    pub qos: u32,
    /// Weight within the class, 1 to 10,000.
    pub weight: u32,
    /// Whether operations may be fused.
    pub fuse: bool,
    /// Whether requests may share launches with others.
    pub batch: bool,
    /// Whether a private daemon may be started where none is.
    pub autostart: bool,
}

/// Fills in the defaults. `size` is `sizeof(struct tensord_options)`.
///
/// # Safety
/// `options` is NULL or points at `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_options_init(
    options: *mut tensord_options,
    size: usize,
) -> tensord_code {
    call(|| {
        if size < size_of::<tensord_options>() {
            return Err(bad("size of tensord_options", size));
        }
        let defaults = Options::default();
        let filled = tensord_options {
            size: size_of::<tensord_options>(),
            socket: ptr::null(),
            name: ptr::null(),
            qos: tensord_class::from(defaults.class) as u32,
            weight: defaults.weight,
            fuse: defaults.fuse,
            batch: defaults.batch,
            autostart: defaults.autostart,
        };
        // SAFETY: the caller's duty, and `size` is enough.
        unsafe { put(options, filled) }
    })
}

/// Opens a session; with `options` NULL by the defaults. Where no daemon is, a private one is started.
///
/// # Safety
/// `options` is NULL or was filled by `tensord_options_init`; its strings are C strings. `session` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_connect(
    options: *const tensord_options,
    session: *mut *mut tensord_session,
) -> tensord_code {
    call(|| {
        if session.is_null() {
            return Err(null("the place for the session"));
        }
        let mut wanted = Options::default();
        // SAFETY: the caller's duty.
        if let Ok(options) = unsafe { reference(options, "options") } {
            if options.size < size_of::<tensord_options>() {
                return Err(bad("size of tensord_options", options.size));
            }
            // SAFETY: the caller's duty.
            wanted.socket = unsafe { text(options.socket, "socket") }?.map(Into::into);
            // SAFETY: the caller's duty.
            let name = unsafe { text(options.name, "name") }?;
            wanted.name = name.unwrap_or_default().to_owned();
            wanted.class = Class::ALL
                .into_iter()
                .find(|&class| tensord_class::from(class) as u32 == options.qos)
                .ok_or_else(|| bad("qos", options.qos))?;
            wanted.weight = options.weight;
            wanted.fuse = options.fuse;
            wanted.batch = options.batch;
            wanted.autostart = options.autostart;
        }
        let opened = Box::new(tensord_session(Session::connect(wanted)?));
        // SAFETY: not NULL; writable by the caller's duty.
        unsafe { put(session, Box::into_raw(opened)) }
    })
}

/// A further queue of the session, for another thread. Close it as a session.
///
/// # Safety
/// `session` comes from this library and is not closed; `queue` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_queue(
    session: *const tensord_session,
    queue: *mut *mut tensord_session,
) -> tensord_code {
    call(|| {
        if queue.is_null() {
            return Err(null("the place for the queue"));
        }
        // SAFETY: the caller's duty.
        let session = unsafe { reference(session, "session") }?;
        let opened = Box::new(tensord_session(session.0.queue()?));
        // SAFETY: not NULL; writable by the caller's duty.
        unsafe { put(queue, Box::into_raw(opened)) }
    })
}

/// Lets a session or queue go; NULL is ignored. The connection ends with its last queue and tensor.
///
/// # Safety
/// `session` is NULL, or comes from this library and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_session_close(session: *mut tensord_session) {
    // SAFETY: made by `Box::into_raw` and not closed before, by the caller's duty.
    unsafe { free(session) };
}

/// Sends what was submitted and demands it, without waiting.
///
/// # Safety
/// `session` comes from this library and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_flush(session: *const tensord_session) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let session = unsafe { reference(session, "session") }?;
        session.0.flush().map(drop)
    })
}

/// Waits for everything submitted to this queue. Gives the first failure that was not reported yet.
///
/// # Safety
/// `session` comes from this library and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_synchronize(session: *const tensord_session) -> tensord_code {
    // SAFETY: the caller's duty.
    call(|| unsafe { reference(session, "session") }?.0.synchronize())
}

/// Lowers a limit of the session, so that a mistake of its own stays small: `staging` or `device-memory` in bytes, `handles`,
/// `requests` in flight, or `device-time` in milliseconds of each second. `UINT64_MAX` takes it back. What an administrator set holds
/// all the same.
///
/// # Safety
/// `session` comes from this library and is not closed; `limit` is text that ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_limit(
    session: *const tensord_session,
    limit: *const c_char,
    value: u64,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let session = unsafe { reference(session, "session") }?;
        // SAFETY: the caller's duty.
        let name = unsafe { text(limit, "limit") }?.ok_or_else(|| null("limit"))?;
        let resource = Resource::from_name(name).ok_or_else(|| {
            let names = Resource::ALL.map(Resource::name).join(", ");
            bad("limit", format!("{name:?} (there are {names})"))
        })?;
        let mut changes = Changes::default();
        let change = match value {
            u64::MAX => Change::Default,
            value => Change::To(value),
        };
        changes.set(resource, change);
        session.0.limit(changes)
    })
}

/// What runs in the daemon, as JSON. Free it with `tensord_string_free`.
///
/// # Safety
/// `session` comes from this library and is not closed; `json` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_stat_json(
    session: *const tensord_session,
    json: *mut *mut c_char,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let stat = unsafe { reference(session, "session") }?.0.stat()?;
        let stat = CString::new(stat).map_err(|_| bad("the statistics", "text with a NUL"))?;
        if json.is_null() {
            return Err(null("the place for the text"));
        }
        // SAFETY: not NULL; writable by the caller's duty.
        unsafe { put(json, stat.into_raw()) }
    })
}

/// Frees a string of this library; NULL is ignored.
///
/// # Safety
/// `string` is NULL, or comes from `tensord_stat_json` and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_string_free(string: *mut c_char) {
    call(|| {
        if !string.is_null() {
            // SAFETY: made by `CString::into_raw`, by the caller's duty.
            drop(unsafe { CString::from_raw(string) });
        }
        Ok(())
    });
}

/// Copies the name of the device that the session uses, as configuration writes it, cut to `size - 1` bytes.
///
/// # Safety
/// `session` comes from this library and is not closed; `name` is `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_device(
    session: *const tensord_session,
    name: *mut c_char,
    size: usize,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let info = unsafe { reference(session, "session") }?.0.info();
        // SAFETY: the caller's duty; only checked here, bytes are written below.
        let room = unsafe { array(name.cast_const(), size, "name") }?.len();
        let device = info.welcome.device_name.as_bytes();
        let count = device.len().min(room.saturating_sub(1));
        if room > 0 {
            // SAFETY: `count` bytes and a NUL fit the `size` bytes that are writable by the caller's duty, and the
            // device's name is memory of this library.
            unsafe {
                ptr::copy_nonoverlapping(device.as_ptr().cast(), name, count);
                name.add(count).write(0);
            }
        }
        Ok(())
    })
}
