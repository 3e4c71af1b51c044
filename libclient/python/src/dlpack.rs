//! DLPack: arrays to and from other libraries without Python objects in between.
//!
//! Going out, the fetched value in staging is handed over as it is, marked read-only, to a consumer that speaks version 1;
//! older ones know no such mark and get a copy of their own. Coming in, the elements are copied into an upload.

use std::ffi::{CStr, c_void};

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tensord_client::Tensor;
use tensord_shm::dtype::DType;
use tensord_shm::layout::RANK_MAX;
use tensord_shm::op::Meta;

use crate::array::{Array, check_device};
use crate::errors::{type_error, value_error};
use crate::interchange::{Held, fetch, upload_bytes};

/// Device type and number of values on the host.
pub const HOST: (i32, i32) = (1, 0);
const HOST_KINDS: [i32; 2] = [1, 3];
const VERSION: (u32, u32) = (1, 0);
const READ_ONLY: u64 = 1;
const IS_COPIED: u64 = 2;
const NAME: &CStr = c"dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";
const USED: &CStr = c"used_dltensor";
const USED_VERSIONED: &CStr = c"used_dltensor_versioned";

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    rank: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// What an exported tensor points into; its address is the context.
struct Export<M> {
    managed: Option<M>,
    shape: [i64; RANK_MAX],
    strides: [i64; RANK_MAX],
    held: Held,
}

impl<M> Export<M> {
    fn describe(&mut self, meta: Meta) -> DlTensor {
        let steps = meta.shape.contiguous_strides();
        for (to, &size) in self.shape.iter_mut().zip(meta.shape.iter()) {
            *to = size as i64;
        }
        self.strides = steps;
        let (code, bits) = code_of(meta.dtype);
        DlTensor {
            data: self.held.bytes().0.cast_mut().cast(),
            device_type: HOST.0,
            device_id: HOST.1,
            rank: meta.shape.rank() as i32,
            code,
            bits,
            lanes: 1,
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut_ptr(),
            byte_offset: 0,
        }
    }
}

fn code_of(dtype: DType) -> (u8, u8) {
    let code = match dtype {
        DType::Bool => 6,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => 1,
        DType::F16 | DType::F32 | DType::F64 => 2,
        DType::Bf16 => 4,
    };
    (code, dtype.size() as u8 * 8)
}

unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: called once, by the tensor's last owner; the context is the box that `to_dlpack` leaked.
    drop(unsafe { Box::from_raw((*managed).context.cast::<Export<Managed>>()) });
}

unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: as in `delete`.
    drop(unsafe { Box::from_raw((*managed).context.cast::<Export<ManagedVersioned>>()) });
}

unsafe extern "C" fn drop_unused(capsule: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this with the capsule that is about to go. A capsule that nobody consumed has the name
    // under which it was made, and then its pointer is the managed tensor, whose owner we still are.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) != 0 {
            let managed = ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast::<Managed>();
            delete(managed);
        } else if ffi::PyCapsule_IsValid(capsule, NAME_VERSIONED.as_ptr()) != 0 {
            let managed = ffi::PyCapsule_GetPointer(capsule, NAME_VERSIONED.as_ptr())
                .cast::<ManagedVersioned>();
            delete_versioned(managed);
        }
    }
}

fn capsule<'py>(
    py: Python<'py>,
    pointer: *mut c_void,
    name: &'static CStr,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; the pointer is not null, the name lives for ever, and the destructor takes such capsules.
    let made = unsafe { ffi::PyCapsule_New(pointer, name.as_ptr(), Some(drop_unused)) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }
}

/// A capsule over the tensor's value on the host.
pub fn to_dlpack<'py>(
    py: Python<'py>,
    tensor: &Tensor,
    max_version: Option<(u32, u32)>,
    device: Option<(i32, i32)>,
    copy: Option<bool>,
) -> PyResult<Bound<'py, PyAny>> {
    if device.is_some_and(|device| device != HOST) {
        return Err(PyBufferError::new_err(format!(
            "values are exported on the host {HOST:?}, not on device {device:?}"
        )));
    }
    let versioned = max_version.is_some_and(|(major, _)| major >= 1);
    let value = fetch(py, tensor)?;
    let meta = *value.meta();
    let held = Held::new(value, copy == Some(true) || !versioned);
    let flags = if held.is_copy() { IS_COPIED } else { READ_ONLY };
    let (shape, strides) = ([0; RANK_MAX], [0; RANK_MAX]);
    if versioned {
        let mut export = Box::new(Export {
            managed: None,
            shape,
            strides,
            held,
        });
        let tensor = export.describe(meta);
        let context = Box::into_raw(export);
        let managed = ManagedVersioned {
            major: VERSION.0,
            minor: VERSION.1,
            context: context.cast(),
            deleter: Some(delete_versioned),
            flags,
            tensor,
        };
        // SAFETY: the box was just leaked and nobody else has its address yet.
        let managed = unsafe { (*context).managed.insert(managed) };
        return capsule(py, std::ptr::from_mut(managed).cast(), NAME_VERSIONED);
    }
    let mut export = Box::new(Export {
        managed: None,
        shape,
        strides,
        held,
    });
    let tensor = export.describe(meta);
    let context = Box::into_raw(export);
    let managed = Managed {
        tensor,
        context: context.cast(),
        deleter: Some(delete),
    };
    // SAFETY: as above.
    let managed = unsafe { (*context).managed.insert(managed) };
    capsule(py, std::ptr::from_mut(managed).cast(), NAME)
}

/// A DLPack tensor that this library has to give back.
struct Imported {
    managed: *mut c_void,
    versioned: bool,
}

impl Imported {
    fn take(capsule: &Bound<'_, PyAny>) -> PyResult<Imported> {
        let object = capsule.as_ptr();
        for (name, used, versioned) in [(NAME, USED, false), (NAME_VERSIONED, USED_VERSIONED, true)]
        {
            // SAFETY: attached; any object may be asked.
            if unsafe { ffi::PyCapsule_IsValid(object, name.as_ptr()) } == 0 {
                continue;
            }
            // SAFETY: a valid capsule of this name; by DLPack's protocol its pointer is a managed tensor, and with the
            // new name it belongs to us.
            let managed = unsafe {
                ffi::PyCapsule_SetName(object, used.as_ptr());
                ffi::PyCapsule_GetPointer(object, used.as_ptr())
            };
            return Ok(Imported { managed, versioned });
        }
        Err(PyTypeError::new_err("__dlpack__ gave no DLPack capsule"))
    }

    fn tensor(&self) -> PyResult<&DlTensor> {
        if !self.versioned {
            // SAFETY: a capsule named "dltensor" holds a `Managed`, alive until its deleter is called.
            return Ok(unsafe { &(*self.managed.cast::<Managed>()).tensor });
        }
        // SAFETY: a capsule named "dltensor_versioned" holds a struct that begins with its version.
        let managed = unsafe { &*self.managed.cast::<ManagedVersioned>() };
        match managed.major {
            1 => Ok(&managed.tensor),
            other => Err(PyBufferError::new_err(format!(
                "DLPack version {other} is not known; 1 is"
            ))),
        }
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        // SAFETY: the tensor is ours and nobody uses it after this; the deleter is the producer's own.
        unsafe {
            if self.versioned {
                let managed = self.managed.cast::<ManagedVersioned>();
                if let Some(deleter) = (*managed).deleter {
                    deleter(managed);
                }
            } else {
                let managed = self.managed.cast::<Managed>();
                if let Some(deleter) = (*managed).deleter {
                    deleter(managed);
                }
            }
        }
    }
}

/// The elements of a foreign tensor, row-major.
fn gathered(tensor: &DlTensor, meta: Meta) -> Vec<u8> {
    let (rank, size) = (meta.shape.rank(), meta.dtype.size());
    let count = meta.shape.count() as usize;
    let mut bytes = vec![0u8; count * size];
    let mut steps = meta.shape.contiguous_strides();
    if !tensor.strides.is_null() {
        for (axis, step) in steps[..rank].iter_mut().enumerate() {
            // SAFETY: where strides are given there is one for each axis.
            *step = unsafe { *tensor.strides.add(axis) };
        }
    }
    let mut index = [0u64; RANK_MAX];
    for element in bytes.chunks_exact_mut(size) {
        let at: i64 = index[..rank]
            .iter()
            .zip(&steps)
            .map(|(&index, &step)| index as i64 * step)
            .sum();
        let at = at * size as i64 + tensor.byte_offset as i64;
        // SAFETY: an index within the shape, by the producer's own strides, is an element of its tensor.
        unsafe {
            let from = tensor.data.cast::<u8>().cast_const().offset(at as isize);
            std::ptr::copy_nonoverlapping(from, element.as_mut_ptr(), size);
        }
        for axis in (0..rank).rev() {
            index[axis] += 1;
            if index[axis] < meta.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    bytes
}

fn meta_of(tensor: &DlTensor) -> PyResult<Meta> {
    let found = DType::ALL
        .into_iter()
        .find(|&dtype| code_of(dtype) == (tensor.code, tensor.bits) && tensor.lanes == 1);
    let dtype = found.ok_or_else(|| {
        type_error(format!(
            "tensord has no dtype for DLPack code {}, {} bits, {} lanes",
            tensor.code, tensor.bits, tensor.lanes
        ))
    })?;
    let rank = usize::try_from(tensor.rank).unwrap_or(usize::MAX);
    if rank > RANK_MAX {
        return Err(value_error(format!(
            "from_dlpack: {rank} axes; at most {RANK_MAX}"
        )));
    }
    // SAFETY: a tensor has one size for each of its axes.
    let sizes: Vec<u64> = (0..rank)
        .map(|axis| unsafe { *tensor.shape.add(axis) } as u64)
        .collect();
    Ok(Meta {
        dtype,
        shape: crate::attributes::checked_shape("from_dlpack", &sizes)?,
    })
}

/// An array with the value of another library's array on the host.
#[pyfunction]
#[pyo3(signature = (x, /, *, device=None, copy=None))]
pub fn from_dlpack(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    device: Option<&Bound<'_, PyAny>>,
    copy: Option<bool>,
) -> PyResult<Array> {
    check_device(device)?;
    if let Ok(array) = x.cast::<Array>() {
        return Ok(Array::new(array.get().tensor(py)));
    }
    if copy == Some(false) {
        return Err(PyValueError::new_err(
            "from_dlpack: a value goes into the daemon by a copy; copy=False cannot be had",
        ));
    }
    let (kind, _): (i32, i32) = x.call_method0("__dlpack_device__")?.extract()?;
    let options = PyDict::new(py);
    options.set_item("max_version", VERSION)?;
    if !HOST_KINDS.contains(&kind) {
        options.set_item("dl_device", HOST)?;
    }
    let capsule = match x.call_method("__dlpack__", (), Some(&options)) {
        Err(error) if error.is_instance_of::<PyTypeError>(py) && HOST_KINDS.contains(&kind) => {
            x.call_method0("__dlpack__")?
        }
        outcome => outcome?,
    };
    let imported = Imported::take(&capsule)?;
    let tensor = imported.tensor()?;
    if !HOST_KINDS.contains(&tensor.device_type) {
        return Err(PyBufferError::new_err(format!(
            "from_dlpack: the value lies on device type {}; copy it to the host first",
            tensor.device_type
        )));
    }
    let meta = meta_of(tensor)?;
    let bytes = gathered(tensor, meta);
    upload_bytes(py, &bytes, meta, false).map(Array::new)
}
