//! `tensord.Array`: a Python object that names a tensor.
//!
//! Tensors never change; an array may come to name another one, by assignment to a part or by an in-place operator.
//! Everything that can be a request is one, made here without a detour through Python; what needs several steps in
//! Python (advanced indexing) is called by name in the package.

use std::cell::UnsafeCell;

use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tensord_client::Tensor;
use tensord_shm::dtype::Scalar;
use tensord_shm::op::{AxisList, Elementwise, Op, Operand};

use crate::dtype::{PyDType, dtype_object, dtype_of, scalar_to_python};
use crate::errors::{type_error, value_error};
use crate::operators::{NONE, in_place, operator, unary};
use crate::session::{cast, compute};
use crate::{dlpack, index, interchange, products};

/// A value that only the thread attached to the interpreter touches.
struct Attached<T>(UnsafeCell<T>);

// SAFETY: every access goes through a `Python` token, which one thread holds at a time: this extension is built for the
// stable ABI with the interpreter's lock, which interpreters without the lock do not load.
unsafe impl<T: Send> Sync for Attached<T> {}

impl<T: Clone> Attached<T> {
    #[inline]
    fn get(&self, _py: Python<'_>) -> T {
        // SAFETY: the token says that no other thread is here, and cloning runs no Python, so nobody replaces it meanwhile.
        unsafe { (*self.0.get()).clone() }
    }

    fn replace(&self, _py: Python<'_>, value: T) {
        // SAFETY: as in `get`; the value before is dropped only after the new one stands.
        let before = unsafe { std::ptr::replace(self.0.get(), value) };
        drop(before);
    }
}

/// An n-dimensional array whose value the tensord daemon holds.
#[pyclass(frozen, name = "Array", module = "tensord", weakref)]
pub struct Array {
    value: Attached<Tensor>,
}

impl Array {
    /// An array that names `tensor`.
    #[inline]
    pub fn new(tensor: Tensor) -> Array {
        Array {
            value: Attached(UnsafeCell::new(tensor)),
        }
    }

    /// The tensor that it names now.
    #[inline]
    pub fn tensor(&self, py: Python<'_>) -> Tensor {
        self.value.get(py)
    }

    /// Names another tensor from now on.
    pub fn replace(&self, py: Python<'_>, tensor: Tensor) {
        self.value.replace(py, tensor);
    }

    fn scalar(&self, py: Python<'_>, what: &str) -> PyResult<(tensord_shm::dtype::DType, Scalar)> {
        let tensor = self.tensor(py);
        if tensor.shape().count() != 1 {
            return Err(type_error(format!(
                "{what} needs an array of one element, not one of shape {}",
                tensor.shape()
            )));
        }
        Ok((tensor.dtype(), interchange::read_scalar(py, &tensor)?))
    }
}

/// Shape as a tuple of ints.
pub fn shape_tuple<'py>(py: Python<'py>, sizes: &[u64]) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, sizes)
}

#[pymethods]
impl Array {
    fn __pow__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        modulo: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        no_modulo(modulo)?;
        operator(slf, other, Elementwise::Pow, false)
    }

    fn __rpow__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        modulo: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        no_modulo(modulo)?;
        operator(slf, other, Elementwise::Pow, true)
    }

    fn __ipow__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        modulo: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        no_modulo(modulo)?;
        in_place(slf, other, Elementwise::Pow)
    }

    fn __matmul__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        products::matmul_operator(slf, other, false)
    }

    fn __rmatmul__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        products::matmul_operator(slf, other, true)
    }

    fn __imatmul__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let result = products::matmul(py, slf.as_any(), other)?.tensor(py);
        if result.shape() != slf.get().tensor(py).shape() {
            return Err(PyValueError::new_err(
                "in-place matmul: the result has another shape",
            ));
        }
        slf.get().replace(py, result);
        Ok(())
    }

    fn __richcmp__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let function = match op {
            CompareOp::Lt => Elementwise::Lt,
            CompareOp::Le => Elementwise::Le,
            CompareOp::Eq => Elementwise::Eq,
            CompareOp::Ne => Elementwise::Ne,
            CompareOp::Gt => Elementwise::Gt,
            CompareOp::Ge => Elementwise::Ge,
        };
        operator(slf, other, function, false)
    }

    fn __neg__(&self, py: Python<'_>) -> PyResult<Array> {
        unary(py, Elementwise::Neg, &self.tensor(py))
    }

    fn __pos__(slf: &Bound<'_, Self>) -> PyResult<Py<Array>> {
        if slf.get().tensor(slf.py()).dtype() == tensord_shm::dtype::DType::Bool {
            return Err(PyTypeError::new_err(
                "positive does not take bool; it takes integers and floats",
            ));
        }
        Ok(slf.clone().unbind())
    }

    fn __abs__(&self, py: Python<'_>) -> PyResult<Array> {
        unary(py, Elementwise::Abs, &self.tensor(py))
    }

    fn __invert__(&self, py: Python<'_>) -> PyResult<Array> {
        unary(py, Elementwise::BitNot, &self.tensor(py))
    }

    // ------------------------------------------------------------------------------------ what it is

    /// Sizes of the axes.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        shape_tuple(py, self.tensor(py).shape())
    }

    /// Element type.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<Py<PyDType>> {
        dtype_object(py, self.tensor(py).dtype())
    }

    /// Number of axes.
    #[getter]
    fn ndim(&self, py: Python<'_>) -> usize {
        self.tensor(py).shape().rank()
    }

    /// Number of elements.
    #[getter]
    fn size(&self, py: Python<'_>) -> u64 {
        self.tensor(py).shape().count()
    }

    /// Bytes of one element.
    #[getter]
    fn itemsize(&self, py: Python<'_>) -> usize {
        self.tensor(py).dtype().size()
    }

    /// Bytes of all elements.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> u64 {
        let tensor = self.tensor(py);
        tensor.shape().count() * tensor.dtype().size() as u64
    }

    /// Where its value is held: the one device of the session.
    #[getter]
    fn device(&self) -> &'static str {
        DEVICE
    }

    /// The array itself: there is one device.
    #[pyo3(signature = (device, /, *, stream=None))]
    fn to_device(
        slf: Py<Self>,
        py: Python<'_>,
        device: &Bound<'_, PyAny>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Self>> {
        check_device(Some(device))?;
        match stream {
            Some(stream) if !stream.is_none() => {
                Err(PyValueError::new_err("the device has no streams"))
            }
            _ => Ok(slf.clone_ref(py)),
        }
    }

    /// The transpose of a matrix.
    #[getter(T)]
    fn transposed(&self, py: Python<'_>) -> PyResult<Array> {
        let tensor = self.tensor(py);
        if tensor.shape().rank() != 2 {
            return Err(value_error(format!(
                "T needs a matrix, not shape {}; use mT for stacks of matrices and permute_dims otherwise",
                tensor.shape()
            )));
        }
        swap_last(py, &tensor)
    }

    /// The transposes of a stack of matrices.
    #[getter(mT)]
    fn matrix_transposed(&self, py: Python<'_>) -> PyResult<Array> {
        swap_last(py, &self.tensor(py))
    }

    // -------------------------------------------------------------------------------- to Python's types

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        let (dtype, bits) = self.scalar(py, "bool()")?;
        Ok(bits.to_f64(dtype) != 0.0)
    }

    fn __float__(&self, py: Python<'_>) -> PyResult<f64> {
        let (dtype, bits) = self.scalar(py, "float()")?;
        Ok(bits.to_f64(dtype))
    }

    fn __complex__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyComplex>> {
        let (dtype, bits) = self.scalar(py, "complex()")?;
        Ok(pyo3::types::PyComplex::from_doubles(
            py,
            bits.to_f64(dtype),
            0.0,
        ))
    }

    fn __int__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (dtype, bits) = self.scalar(py, "int()")?;
        py.get_type::<pyo3::types::PyInt>()
            .call1((scalar_to_python(py, dtype, bits)?,))
    }

    fn __index__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (dtype, bits) = self.scalar(py, "an index")?;
        match dtype.is_integer() {
            true => scalar_to_python(py, dtype, bits),
            false => Err(type_error(format!(
                "an index needs an integer array, not {dtype}"
            ))),
        }
    }

    /// The one element, as a Python scalar.
    fn item<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (dtype, bits) = self.scalar(py, "item()")?;
        scalar_to_python(py, dtype, bits)
    }

    /// The elements as nested lists of Python scalars.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        interchange::to_numpy(py, &self.tensor(py), false)?.call_method0("tolist")
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let tensor = self.tensor(py);
        let first = tensor.shape().first().copied();
        first
            .map(|size| size as usize)
            .ok_or_else(|| PyTypeError::new_err("len() of an array without axes"))
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        index::support(slf.py())?.call_method1("iterate", (slf,))
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        index::support(slf.py())?.call_method1("represent", (slf,))
    }

    fn __str__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        index::support(slf.py())?.call_method1("text", (slf,))
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        let name = slf.get_type().name()?;
        Err(type_error(format!(
            "unhashable type: '{name}' (its == gives an array)"
        )))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        // A value leaves the session by its bytes: pickled arrays are uploaded again where they are read.
        let py = slf.py();
        let tensor = slf.get().tensor(py);
        let value = interchange::to_numpy(py, &tensor, false)?;
        let make = index::support(py)?.getattr("unpickle")?;
        (make, (value, tensor.dtype().name())).into_pyobject(py)
    }

    // ------------------------------------------------------------------------------------------ indexing

    fn __getitem__(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        index::get(slf, key)
    }

    fn __setitem__(
        slf: &Bound<'_, Self>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        index::set(slf, key, value)
    }

    // --------------------------------------------------------------------------------------- interchange

    #[pyo3(signature = (*, api_version=None))]
    fn __array_namespace__<'py>(
        &self,
        py: Python<'py>,
        api_version: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match api_version {
            None | Some("2021.12" | "2022.12" | "2023.12" | "2024.12") => {
                Ok(py.import("tensord")?.into_any())
            }
            Some(other) => Err(value_error(format!(
                "Array API version {other} is not known; 2024.12 is"
            ))),
        }
    }

    /// NumPy's operators leave arrays of this kind to their own operators.
    #[classattr]
    fn __array_ufunc__() -> Option<bool> {
        None
    }

    #[classattr]
    fn __array_priority__() -> f64 {
        1000.0
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if copy == Some(false) {
            return Err(PyValueError::new_err(
                "the value lives in the daemon: NumPy cannot have it without a copy",
            ));
        }
        let array = interchange::to_numpy(py, &self.tensor(py), copy == Some(true))?;
        match dtype {
            Some(dtype) if !dtype.is_none() => {
                let options = PyDict::new(py);
                options.set_item("copy", false)?;
                array.call_method("astype", (dtype,), Some(&options))
            }
            _ => Ok(array),
        }
    }

    /// The value as a read-only buffer.
    ///
    /// # Safety
    /// `view` is null or points to a `Py_buffer` to fill.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut pyo3::ffi::Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let py = slf.py();
        // SAFETY: the caller's promise is the one asked for.
        unsafe { interchange::export_array(py, &slf.get().tensor(py), view, flags) }
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if stream.is_some_and(|stream| !stream.is_none()) {
            return Err(PyValueError::new_err(
                "values are exported on the host, which has no streams",
            ));
        }
        dlpack::to_dlpack(py, &self.tensor(py), max_version, dl_device, copy)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::HOST
    }

    /// The array in another dtype.
    #[pyo3(signature = (dtype, /, *, copy=true))]
    fn astype(&self, py: Python<'_>, dtype: &Bound<'_, PyAny>, copy: bool) -> PyResult<Array> {
        let _ = copy;
        cast(py, &self.tensor(py), dtype_of(dtype)?).map(Array::new)
    }

    /// Names the tensor of another array from now on; for the package's own use.
    fn _rebind(&self, py: Python<'_>, other: &Bound<'_, Array>) {
        self.replace(py, other.get().tensor(py));
    }
}

/// Name of the one device.
pub const DEVICE: &str = "cpu";

/// Accepts the device's own name and `None`.
pub fn check_device(device: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let Some(device) = device.filter(|device| !device.is_none()) else {
        return Ok(());
    };
    match device.extract::<String>() {
        Ok(name) if name == DEVICE => Ok(()),
        _ => Err(value_error(format!(
            "there is no device {device}; this session has \"{DEVICE}\""
        ))),
    }
}

fn no_modulo(modulo: &Bound<'_, PyAny>) -> PyResult<()> {
    match modulo.is_none() {
        true => Ok(()),
        false => Err(PyTypeError::new_err(
            "pow with a modulus is not defined for arrays",
        )),
    }
}

/// The last two axes exchanged.
pub fn swap_last(py: Python<'_>, tensor: &Tensor) -> PyResult<Array> {
    let rank = tensor.shape().rank();
    if rank < 2 {
        return Err(value_error(format!(
            "a matrix transpose needs two axes; the shape is {}",
            tensor.shape()
        )));
    }
    let mut order: [u8; tensord_shm::layout::RANK_MAX] = std::array::from_fn(|axis| axis as u8);
    order.swap(rank - 1, rank - 2);
    let order = AxisList::new(&order[..rank]).expect("a rank is at most the highest");
    compute(py, &Op::Permute(order), &[Operand::Tensor(tensor)], NONE).map(Array::new)
}
