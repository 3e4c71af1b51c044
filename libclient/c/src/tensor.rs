//! Tensors of the C interface: made from memory, asked for their shape, waited for, read.

#![allow(
    non_camel_case_types,
    reason = "these are the names that C programs write"
)]

use std::ffi::c_void;
use std::ptr;
use std::time::{Duration, Instant};

use tensord_client::{Code, DType, Error, Fetched, Meta, Shape, Site, Tensor};

use crate::codes::tensord_code;
use crate::guard::{array, bad, call, free, null, peek, put, reference};
use crate::session::tensord_session;

/// An immutable value in the daemon.
pub struct tensord_tensor(pub(crate) Tensor);

/// The bytes of a value, here.
pub struct tensord_fetched(Fetched);

pub(crate) fn dtype_of(number: u32) -> Result<DType, Error> {
    u8::try_from(number)
        .ok()
        .and_then(DType::from_wire)
        .ok_or_else(|| bad("dtype", number))
}

/// # Safety
/// `shape` is `rank` readable sizes.
pub(crate) unsafe fn shape_of(shape: *const u64, rank: usize) -> Result<Shape, Error> {
    // SAFETY: the caller's duty.
    let sizes = unsafe { array(shape, rank, "shape") }?;
    Shape::new(sizes).ok_or_else(|| {
        Error::new(
            Code::Shape,
            format!("a shape of {rank} axes: at most 12, and at most 2^48 elements"),
        )
    })
}

/// A value in the caller's memory.
///
/// # Safety
/// `shape` is `rank` readable sizes, `data` is `bytes` readable bytes.
unsafe fn value_of<'a>(
    dtype: u32,
    shape: *const u64,
    rank: usize,
    data: *const c_void,
    bytes: usize,
) -> Result<(Meta, &'a [u8]), Error> {
    // SAFETY: the caller's duty.
    let shape = unsafe { shape_of(shape, rank) }?;
    // SAFETY: the caller's duty.
    let data = unsafe { array(data.cast::<u8>(), bytes, "data") }?;
    let dtype = dtype_of(dtype)?;
    Ok((Meta { dtype, shape }, data))
}

/// # Safety
/// `tensor` is NULL or writable.
pub(crate) unsafe fn put_tensor(to: *mut *mut tensord_tensor, tensor: Tensor) -> Result<(), Error> {
    if to.is_null() {
        return Err(null("the place for the tensor"));
    }
    // SAFETY: not NULL; writable by the caller's duty.
    unsafe { put(to, Box::into_raw(Box::new(tensord_tensor(tensor)))) }
}

/// A tensor with these row-major bytes.
///
/// # Safety
/// `session` is open, `shape` is `rank` sizes, `data` is `bytes` readable bytes, `tensor` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_from_memory(
    session: *const tensord_session,
    dtype: u32,
    shape: *const u64,
    rank: usize,
    data: *const c_void,
    bytes: usize,
    tensor: *mut *mut tensord_tensor,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let session = unsafe { reference(session, "session") }?;
        // SAFETY: the caller's duty.
        let (meta, data) = unsafe { value_of(dtype, shape, rank, data, bytes) }?;
        let made = session.0.upload(data, meta, Site::UNKNOWN)?;
        // SAFETY: the caller's duty.
        unsafe { put_tensor(tensor, made) }
    })
}

/// A tensor that is shared by content: equal bytes of a tenant are held once. Use it for weights.
///
/// # Safety
/// As for `tensord_from_memory`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_constant(
    session: *const tensord_session,
    dtype: u32,
    shape: *const u64,
    rank: usize,
    data: *const c_void,
    bytes: usize,
    tensor: *mut *mut tensord_tensor,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let session = unsafe { reference(session, "session") }?;
        // SAFETY: the caller's duty.
        let (meta, data) = unsafe { value_of(dtype, shape, rank, data, bytes) }?;
        let made = session.0.constant(data, meta, Site::UNKNOWN)?;
        // SAFETY: the caller's duty.
        unsafe { put_tensor(tensor, made) }
    })
}

/// Another name of the same value, to be freed by itself.
///
/// # Safety
/// `tensor` comes from this library and is not freed; `copy` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_tensor_share(
    tensor: *const tensord_tensor,
    copy: *mut *mut tensord_tensor,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let tensor = unsafe { reference(tensor, "tensor") }?;
        // SAFETY: the caller's duty.
        unsafe { put_tensor(copy, tensor.0.clone()) }
    })
}

/// Releases a tensor; NULL is ignored. A value that nobody needed by then is never computed.
///
/// # Safety
/// `tensor` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_tensor_free(tensor: *mut tensord_tensor) {
    // SAFETY: made by `Box::into_raw` and not freed before, by the caller's duty.
    unsafe { free(tensor) };
}

/// Dtype of a tensor, one of `tensord_dtype`; 0 for NULL.
///
/// # Safety
/// `tensor` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_tensor_dtype(tensor: *const tensord_tensor) -> u32 {
    // SAFETY: the caller's duty.
    unsafe { peek(tensor, 0, |tensor| u32::from(tensor.0.dtype().wire())) }
}

/// Number of axes of a tensor; 0 for NULL.
///
/// # Safety
/// `tensor` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_tensor_rank(tensor: *const tensord_tensor) -> usize {
    // SAFETY: the caller's duty.
    unsafe { peek(tensor, 0, |tensor| tensor.0.shape().rank()) }
}

/// Sizes of the axes of a tensor, valid while it is; NULL for NULL.
///
/// # Safety
/// `tensor` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_tensor_shape(tensor: *const tensord_tensor) -> *const u64 {
    // SAFETY: the caller's duty.
    unsafe { peek(tensor, ptr::null(), |tensor| tensor.0.shape().as_ptr()) }
}

/// Number of bytes of a tensor's value; 0 for NULL.
///
/// # Safety
/// `tensor` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_tensor_bytes(tensor: *const tensord_tensor) -> u64 {
    // SAFETY: the caller's duty.
    unsafe { peek(tensor, 0, |tensor| tensor.0.byte_count()) }
}

/// Waits until the value is there, at most `timeout_us` microseconds, without end where that is negative.
///
/// # Safety
/// `tensor` comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_wait(
    tensor: *const tensord_tensor,
    timeout_us: i64,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let tensor = unsafe { reference(tensor, "tensor") }?;
        let limit = u64::try_from(timeout_us).ok().map(Duration::from_micros);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        tensor.0.wait_until(deadline)
    })
}

/// Waits for the value and copies its row-major bytes to `data`; `bytes` must be their number.
///
/// # Safety
/// `tensor` comes from this library and is not freed; `data` is `bytes` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_read(
    tensor: *const tensord_tensor,
    data: *mut c_void,
    bytes: usize,
) -> tensord_code {
    call(|| {
        // SAFETY: the caller's duty.
        let tensor = unsafe { reference(tensor, "tensor") }?;
        if bytes as u64 != tensor.0.byte_count() {
            return Err(Error::new(
                Code::Shape,
                format!(
                    "room for {bytes} bytes given for a tensor of {} {}, which has {}",
                    tensor.0.dtype(),
                    tensor.0.shape(),
                    tensor.0.byte_count()
                ),
            ));
        }
        if data.is_null() && bytes > 0 {
            return Err(null("data"));
        }
        let fetched = tensor.0.fetch()?;
        if bytes > 0 {
            // SAFETY: `data` is writable for `bytes` bytes by the caller's duty, `fetched` has as many (compared
            // above), and it is memory of this library's own.
            unsafe { ptr::copy_nonoverlapping(fetched.as_ptr(), data.cast::<u8>(), bytes) };
        }
        Ok(())
    })
}

/// Waits for the value and gives its bytes without a copy where they fit staging.
///
/// # Safety
/// `tensor` comes from this library and is not freed; `fetched` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_fetch(
    tensor: *const tensord_tensor,
    fetched: *mut *mut tensord_fetched,
) -> tensord_code {
    call(|| {
        if fetched.is_null() {
            return Err(null("the place for the value"));
        }
        // SAFETY: the caller's duty.
        let value = unsafe { reference(tensor, "tensor") }?.0.fetch()?;
        // SAFETY: not NULL; writable by the caller's duty.
        unsafe { put(fetched, Box::into_raw(Box::new(tensord_fetched(value)))) }
    })
}

/// The bytes of a fetched value, valid until it is freed; NULL for NULL.
///
/// # Safety
/// `fetched` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_fetched_data(fetched: *const tensord_fetched) -> *const c_void {
    // SAFETY: the caller's duty.
    unsafe { peek(fetched, ptr::null(), |fetched| fetched.0.as_ptr().cast()) }
}

/// The number of bytes of a fetched value; 0 for NULL.
///
/// # Safety
/// `fetched` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_fetched_bytes(fetched: *const tensord_fetched) -> usize {
    // SAFETY: the caller's duty.
    unsafe { peek(fetched, 0, |fetched| fetched.0.len()) }
}

/// Lets a fetched value go; NULL is ignored.
///
/// # Safety
/// `fetched` is NULL, or comes from this library and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_fetched_free(fetched: *mut tensord_fetched) {
    // SAFETY: made by `Box::into_raw` and not freed before, by the caller's duty.
    unsafe { free(fetched) };
}
