//! Values in and out of Python: buffers, NumPy, scalars, constants. DLPack is in [`crate::dlpack`].
//!
//! A fetched value lies in staging, and the Python object over it keeps it there: NumPy sees it without a second copy.
//! It is read-only, as the tensor is. A program that keeps many values gets copies beyond a budget, so that staging has
//! room for what is under way. What comes in is read through the buffer protocol; where there is none, the
//! package's Python side makes a NumPy array first.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyImportError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyFloat, PyInt, PyModule, PyString};
use tensord_client::{Error, Session, Site, Tensor};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::layout::{RANK_MAX, Shape};
use tensord_shm::op::{Meta, Op};

use crate::array::{Array, check_device};
use crate::dtype::{Weak, dtype_of, missing};
use crate::errors;
use crate::errors::type_error;
use crate::index::support;
use crate::operators::NONE;
use crate::session::{cast, create, with};

/// Staging that Python objects may hold; values beyond it are copied out.
const HELD_BYTES_MAX: usize = 32 << 20;
/// How long new content may take to be hashed; it is usable here anyway.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
/// Values from this size are copied without the interpreter.
const DETACH_BYTES: usize = 1 << 16;

// ------------------------------------------------------------------------------------------------------ out

/// A value on the host: a read-only buffer.
#[pyclass(frozen, name = "Fetched", module = "tensord")]
pub struct Fetched {
    value: Held,
    meta: Meta,
    shape: [isize; RANK_MAX],
    strides: [isize; RANK_MAX],
}

/// Bytes of staging that Python objects hold.
static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Where a value's bytes are.
pub enum Held {
    /// In staging, counted in [`HELD_BYTES`].
    Staging(tensord_client::Fetched),
    /// In memory of its own, as it was fetched.
    Own(tensord_client::Fetched),
    /// In memory of its own, in words so that every dtype is aligned.
    Copy(Vec<u64>, usize),
}

impl Held {
    /// Holds a value: in staging while that is within the budget, unless a copy is wanted.
    pub fn new(value: tensord_client::Fetched, copy: bool) -> Held {
        if value.is_own() {
            return Held::Own(value);
        }
        let len = value.len();
        if !copy && HELD_BYTES.fetch_add(len, Ordering::Relaxed) + len <= HELD_BYTES_MAX {
            return Held::Staging(value);
        }
        if !copy {
            HELD_BYTES.fetch_sub(len, Ordering::Relaxed);
        }
        let mut words = vec![0u64; len.div_ceil(8)];
        for (word, bytes) in words.iter_mut().zip(value.chunks(8)) {
            let mut whole = [0u8; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        Held::Copy(words, len)
    }

    /// First byte, and how many there are.
    pub fn bytes(&self) -> (*const u8, usize) {
        match self {
            Held::Staging(value) | Held::Own(value) => (value.as_ptr(), value.len()),
            Held::Copy(words, len) => (words.as_ptr().cast(), *len),
        }
    }

    /// Is it a copy of its own?
    pub fn is_copy(&self) -> bool {
        matches!(self, Held::Copy(..) | Held::Own(_))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Held::Staging(value) = self {
            HELD_BYTES.fetch_sub(value.len(), Ordering::Relaxed);
        }
    }
}

/// The buffer protocol's letter for a dtype. NumPy has none for bfloat16: its bits travel as uint16.
fn format_of(dtype: DType) -> &'static CStr {
    match dtype {
        DType::Bool => c"?",
        DType::I8 => c"b",
        DType::I16 => c"h",
        DType::I32 => c"i",
        DType::I64 => c"q",
        DType::U8 => c"B",
        DType::U16 | DType::Bf16 => c"H",
        DType::U32 => c"I",
        DType::U64 => c"Q",
        DType::F16 => c"e",
        DType::F32 => c"f",
        DType::F64 => c"d",
    }
}

impl Fetched {
    fn new(value: tensord_client::Fetched) -> Fetched {
        let meta = *value.meta();
        let (size, steps) = (meta.dtype.size() as isize, meta.shape.contiguous_strides());
        let sizes = meta.shape;
        Fetched {
            value: Held::new(value, false),
            meta,
            shape: std::array::from_fn(|axis| sizes.get(axis).map_or(0, |&size| size as isize)),
            strides: steps.map(|step| step as isize * size),
        }
    }

    /// Fills in a buffer request that keeps `owner` alive.
    ///
    /// # Safety
    /// `view` is null or points to a `Py_buffer` to fill.
    unsafe fn export(
        owner: Bound<'_, Fetched>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no place for the buffer was given"));
        }
        if flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err(
                "tensors are immutable: the buffer is read-only",
            ));
        }
        let asked = |flag: c_int| flags & flag == flag;
        let this = owner.get();
        let dtype = this.meta.dtype;
        let (first, len) = this.value.bytes();
        let filled = ffi::Py_buffer {
            buf: first.cast_mut().cast::<c_void>(),
            len: len as isize,
            itemsize: dtype.size() as isize,
            readonly: 1,
            ndim: this.meta.shape.rank() as c_int,
            format: match asked(ffi::PyBUF_FORMAT) {
                true => format_of(dtype).as_ptr().cast_mut(),
                false => std::ptr::null_mut(),
            },
            shape: match asked(ffi::PyBUF_ND) {
                true => this.shape.as_ptr().cast_mut(),
                false => std::ptr::null_mut(),
            },
            strides: match asked(ffi::PyBUF_STRIDES) {
                true => this.strides.as_ptr().cast_mut(),
                false => std::ptr::null_mut(),
            },
            suboffsets: std::ptr::null_mut(),
            internal: std::ptr::null_mut(),
            obj: owner.into_ptr(),
        };
        // SAFETY: not null, and the caller says it is a buffer to fill. All pointers lead into the object that `obj`
        // keeps alive and that never changes.
        unsafe { view.write(filled) };
        Ok(())
    }
}

#[pymethods]
impl Fetched {
    /// See [`Fetched::export`].
    ///
    /// # Safety
    /// `view` is null or points to a `Py_buffer` to fill.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { Fetched::export(slf, view, flags) }
    }
}

/// Waits for a value and takes it out, without the interpreter.
pub fn fetch(py: Python<'_>, tensor: &Tensor) -> PyResult<tensord_client::Fetched> {
    let site = Site(crate::site::current(py));
    let session = with(py, |session| Ok(session.clone()))?;
    let fetched = py.detach(|| match session.fetch(tensor, site) {
        Err(error)
            if error.code() == tensord_shm::error::Code::BadHandle && !tensor.is_constant() =>
        {
            // An array of an earlier session comes through that one.
            tensor.session().fetch(tensor, site).map_err(|_| error)
        }
        outcome => outcome,
    });
    fetched.map_err(|error: Error| errors::later(py, error))
}

/// Exports an array's value as a buffer; the fetched value, not the array, owns it.
///
/// # Safety
/// `view` is null or points to a `Py_buffer` to fill.
pub unsafe fn export_array(
    py: Python<'_>,
    tensor: &Tensor,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    if tensor.dtype() == DType::Bf16 {
        return Err(PyBufferError::new_err(
            "the buffer protocol has no bfloat16; use tensord.asnumpy",
        ));
    }
    let owner = Bound::new(py, Fetched::new(fetch(py, tensor)?))?;
    // SAFETY: the caller's promise is the one asked for.
    unsafe { Fetched::export(owner, view, flags) }
}

/// The one element of a tensor.
pub fn read_scalar(py: Python<'_>, tensor: &Tensor) -> PyResult<Scalar> {
    let value = fetch(py, tensor)?;
    let mut word = [0u8; 8];
    let size = tensor.dtype().size().min(value.len());
    word[..size].copy_from_slice(&value[..size]);
    Ok(Scalar(u64::from_le_bytes(word)))
}

fn numpy(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static ASARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = ASARRAY.get_or_try_init(py, || {
        py.import("numpy")?.getattr("asarray").map(Bound::unbind)
    })?;
    Ok(function.bind(py))
}

fn numpy_bfloat16(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    match py.import("ml_dtypes") {
        Ok(module) => module.getattr("bfloat16"),
        Err(_) => Err(PyImportError::new_err(
            "NumPy's bfloat16 comes from the package ml_dtypes: install it, or use astype(tensord.float32)",
        )),
    }
}

/// The value as a NumPy array: over staging and read-only, or a private copy that may be written.
pub fn to_numpy<'py>(
    py: Python<'py>,
    tensor: &Tensor,
    writable: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let fetched = Bound::new(py, Fetched::new(fetch(py, tensor)?))?;
    let mut array = numpy(py)?.call1((fetched,))?;
    if tensor.dtype() == DType::Bf16 {
        array = array.call_method1("view", (numpy_bfloat16(py)?,))?;
    }
    match writable {
        true => array.call_method0("copy"),
        false => Ok(array),
    }
}

/// The value of an array as a NumPy array, read-only and without a second copy: it lies in memory shared with the daemon
/// until it is collected. A child forked meanwhile must copy it before the parent lets it go.
#[pyfunction]
#[pyo3(signature = (x, /))]
pub fn asnumpy<'py>(py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match x.cast::<Array>() {
        Ok(array) => to_numpy(py, &array.get().tensor(py), false),
        Err(_) => numpy(py)?.call1((x,)),
    }
}

// ------------------------------------------------------------------------------------------------------- in

/// How a value goes in.
#[derive(Clone, Copy)]
enum Way {
    Upload,
    Constant,
}

/// A value in host memory, row-major, with the buffer that holds it.
struct Host {
    buffer: PyUntypedBuffer,
    meta: Meta,
}

fn dtype_of_format(format: &CStr, size: usize) -> PyResult<DType> {
    let text = format.to_bytes();
    let (order, letter) = match text {
        [
            order @ (b'@' | b'=' | b'<' | b'>' | b'!' | b'|'),
            letter @ ..,
        ] => (*order, letter),
        letter => (b'@', letter),
    };
    let wrong = || {
        type_error(format!(
            "tensord has no dtype for elements of buffer format {format:?}"
        ))
    };
    let letter = match letter {
        [one] => *one,
        [b'Z', _] => {
            return Err(missing(
                "complex dtypes",
                "no operation of the table takes them",
            ));
        }
        _ => return Err(wrong()),
    };
    if matches!(order, b'>' | b'!') && size > 1 {
        return Err(wrong());
    }
    let found = match (letter, size) {
        (b'?', 1) => DType::Bool,
        (b'b' | b'h' | b'i' | b'l' | b'q' | b'n', 1) => DType::I8,
        (b'h' | b'i' | b'l' | b'q' | b'n', 2) => DType::I16,
        (b'i' | b'l' | b'q' | b'n', 4) => DType::I32,
        (b'i' | b'l' | b'q' | b'n', 8) => DType::I64,
        (b'B', 1) => DType::U8,
        (b'H' | b'I' | b'L' | b'Q' | b'N', 2) => DType::U16,
        (b'I' | b'L' | b'Q' | b'N', 4) => DType::U32,
        (b'I' | b'L' | b'Q' | b'N', 8) => DType::U64,
        (b'e', 2) => DType::F16,
        (b'f', 4) => DType::F32,
        (b'd', 8) => DType::F64,
        _ => return Err(wrong()),
    };
    Ok(found)
}

impl Host {
    /// The memory of an object that has the buffer protocol, row-major and native; `None` where the Python side must
    /// make it so first.
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Host>> {
        let Ok(buffer) = PyUntypedBuffer::get(object) else {
            return match object
                .getattr("ndim")
                .and_then(|ndim| ndim.extract::<usize>())
            {
                // A buffer without axes has no list of sizes, which the view above insists on: one axis, then none.
                Ok(0) if object.hasattr("reshape")? => {
                    let mut host = Host::of(&object.call_method1("reshape", ((1,),))?)?;
                    if let Some(host) = &mut host {
                        host.meta.shape = Shape::SCALAR;
                    }
                    Ok(host)
                }
                _ => Host::bfloat16(object),
            };
        };
        if !buffer.is_c_contiguous() {
            return Ok(None);
        }
        let Ok(dtype) = dtype_of_format(buffer.format(), buffer.item_size()) else {
            return Ok(None);
        };
        Host::over(buffer, dtype).map(Some)
    }

    fn bfloat16(object: &Bound<'_, PyAny>) -> PyResult<Option<Host>> {
        let named = object
            .getattr("dtype")
            .and_then(|dtype| dtype.getattr("name"));
        if !named.is_ok_and(|name| name.eq("bfloat16").unwrap_or(false)) {
            return Ok(None);
        }
        let bits = object.call_method1("view", ("uint16",))?;
        let buffer = PyUntypedBuffer::get(&bits)?;
        match buffer.is_c_contiguous() {
            true => Host::over(buffer, DType::Bf16).map(Some),
            false => Ok(None),
        }
    }

    fn over(buffer: PyUntypedBuffer, dtype: DType) -> PyResult<Host> {
        let sizes: Vec<u64> = buffer.shape().iter().map(|&size| size as u64).collect();
        let shape = crate::attributes::checked_shape("asarray", &sizes)?;
        Ok(Host {
            buffer,
            meta: Meta { dtype, shape },
        })
    }

    fn bytes(&self) -> &[u8] {
        let len = self.buffer.len_bytes();
        if len == 0 {
            return &[];
        }
        // SAFETY: a C-contiguous buffer has `len_bytes` readable bytes from its start for as long as it is held. Whoever
        // writes there meanwhile from another thread races with NumPy's own reads in the same way; bytes have no invalid
        // value.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast::<u8>().cast_const(), len) }
    }
}

/// Waits until the daemon finds new content by its hash. It hashes beside its other work, and who forks or connects anew
/// right after this call must find the constant there.
fn settle(session: &Session, bytes: &[u8], meta: Meta, site: Site) -> Result<(), Error> {
    let hash = *blake3::hash(bytes).as_bytes();
    let until = Instant::now() + SETTLE_WITHIN;
    let mut pause = Duration::from_micros(20);
    while session.bind(hash, meta, site)?.is_none() && Instant::now() < until {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    Ok(())
}

/// Takes bytes in.
pub fn upload_bytes(py: Python<'_>, bytes: &[u8], meta: Meta, constant: bool) -> PyResult<Tensor> {
    let site = Site(crate::site::current(py));
    if !constant && bytes.len() < DETACH_BYTES {
        return with(py, |session| session.upload(bytes, meta, site));
    }
    let session = with(py, |session| Ok(session.clone()))?;
    let made = py.detach(|| match constant {
        true => {
            let made = session.constant(bytes, meta, site)?;
            settle(&session, bytes, meta, site)?;
            Ok(made)
        }
        false => session.upload(bytes, meta, site),
    });
    made.map_err(|error| errors::at_call(py, error))
}

fn bring_in(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    dtype: Option<DType>,
    way: Way,
) -> PyResult<Tensor> {
    let constant = matches!(way, Way::Constant);
    if let Ok(array) = object.cast::<Array>() {
        let tensor = cast(
            py,
            &array.get().tensor(py),
            dtype.unwrap_or(array.get().tensor(py).dtype()),
        )?;
        if !constant || tensor.is_constant() {
            return Ok(tensor);
        }
        let value = fetch(py, &tensor)?;
        return upload_bytes(py, &value, *value.meta(), true);
    }
    let scalar = object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyBool>();
    if scalar && !constant {
        let weak = Weak::extract(object)?.ok_or_else(|| PyTypeError::new_err("not a scalar"))?;
        let dtype = dtype.unwrap_or(weak.own_dtype());
        let meta = Meta {
            dtype,
            shape: Shape::SCALAR,
        };
        return create(py, &Op::Full(meta), [weak.to_scalar(dtype)?, NONE[1]]);
    }
    if object.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("a str is no array"));
    }
    if let Some(host) = Host::of(object)?
        && (!constant || dtype.is_none_or(|dtype| dtype == host.meta.dtype))
    {
        let tensor = upload_bytes(py, host.bytes(), host.meta, constant)?;
        return cast(py, &tensor, dtype.unwrap_or(host.meta.dtype));
    }
    // Lists, foreign arrays, strided, big-endian: NumPy first, in the dtype that is wanted.
    let prepared =
        support(py)?.call_method1("prepare", (object, dtype.map(|dtype| dtype.name())))?;
    match Host::of(&prepared)? {
        Some(host) => upload_bytes(py, host.bytes(), host.meta, constant),
        None => Err(type_error(format!(
            "asarray cannot take {} elements",
            prepared.getattr("dtype")?
        ))),
    }
}

/// An array of a value: a scalar, nested lists, anything with a buffer or a NumPy conversion, or an array.
#[pyfunction]
#[pyo3(signature = (obj, /, *, dtype=None, device=None, copy=None))]
fn asarray(
    py: Python<'_>,
    obj: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
    copy: Option<bool>,
) -> PyResult<Array> {
    check_device(device)?;
    if copy == Some(false) && obj.cast::<Array>().is_err() {
        return Err(PyValueError::new_err(
            "asarray: a value goes into the daemon by a copy; copy=False cannot be had",
        ));
    }
    let dtype = dtype
        .filter(|dtype| !dtype.is_none())
        .map(dtype_of)
        .transpose()?;
    bring_in(py, obj, dtype, Way::Upload).map(Array::new)
}

/// An array that is shared by content: the daemon holds equal values of one tenant once, for all processes.
#[pyfunction]
#[pyo3(signature = (x, /, *, dtype=None))]
fn constant(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
) -> PyResult<Array> {
    let dtype = dtype
        .filter(|dtype| !dtype.is_none())
        .map(dtype_of)
        .transpose()?;
    bring_in(py, x, dtype, Way::Constant).map(Array::new)
}

/// Adds everything here to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(asnumpy, module)?)?;
    module.add_function(wrap_pyfunction!(asarray, module)?)?;
    module.add_function(wrap_pyfunction!(constant, module)?)
}
