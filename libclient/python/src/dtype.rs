//! Dtypes as Python sees them, and the promotion rules of the Array API standard.
//!
//! # Invariants
//! [`promote`] is symmetric and never mixes kinds: what the standard leaves undefined is a `TypeError`. Python scalars
//! are weak: they take the array's dtype, and leave its kind only where the standard gives no answer at all (a float
//! beside an integer array becomes the default float).

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyComplex, PyFloat, PyInt, PyString, PyType};
use tensord_shm::dtype::{DType, Kind, Scalar};

use crate::errors::type_error;

/// Dtype of floats that nobody named.
pub const DEFAULT_FLOAT: DType = DType::F32;
/// Dtype of integers that nobody named.
pub const DEFAULT_INT: DType = DType::I64;

/// An element type; compare with `==`. NumPy's dtype objects and scalar types compare equal to their namesakes.
#[pyclass(frozen, name = "DType", module = "tensord")]
pub struct PyDType(pub DType);

#[pymethods]
impl PyDType {
    /// Name as in the standard.
    #[getter]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Bytes of one element.
    #[getter]
    fn itemsize(&self) -> usize {
        self.0.size()
    }

    /// `"bool"`, `"signed integer"`, `"unsigned integer"` or `"real floating"`.
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0.kind() {
            Kind::Bool => "bool",
            Kind::Signed => "signed integer",
            Kind::Unsigned => "unsigned integer",
            Kind::Float => "real floating",
        }
    }

    fn __repr__(&self) -> String {
        format!("tensord.{}", self.0.name())
    }

    fn __str__(&self) -> &'static str {
        self.0.name()
    }

    fn __hash__(&self) -> u64 {
        u64::from(self.0.wire())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        if let Ok(other) = other.cast::<PyDType>() {
            return other.get().0 == self.0;
        }
        // Strings and Python's own types are no dtypes, though creation functions take them for one.
        let foreign =
            other.hasattr("itemsize").unwrap_or(false) && !other.is_instance_of::<PyString>();
        foreign && dtype_of(other).is_ok_and(|other| other == self.0)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (&'static str,))> {
        let make = slf.py().import("tensord")?.getattr("dtype")?;
        Ok((make, (slf.get().0.name(),)))
    }
}

static OBJECTS: PyOnceLock<Vec<Py<PyDType>>> = PyOnceLock::new();

/// The one Python object of a dtype.
pub fn dtype_object(py: Python<'_>, dtype: DType) -> PyResult<Py<PyDType>> {
    let all = OBJECTS.get_or_try_init(py, || {
        let make = |&dtype: &DType| Py::new(py, PyDType(dtype));
        DType::ALL.iter().map(make).collect::<PyResult<Vec<_>>>()
    })?;
    Ok(all[usize::from(dtype.wire()) - 1].clone_ref(py))
}

/// The dtype that any of `tensord.float32`, `numpy.float32`, `numpy.dtype("float32")`, `"float32"`, `bool`, `int` and
/// `float` names.
pub fn dtype_of(object: &Bound<'_, PyAny>) -> PyResult<DType> {
    if let Ok(dtype) = object.cast::<PyDType>() {
        return Ok(dtype.get().0);
    }
    let py = object.py();
    let name = if let Ok(name) = object.cast::<PyString>() {
        name.to_string()
    } else if let Ok(class) = object.cast::<PyType>() {
        if class.is(py.get_type::<PyBool>()) {
            return Ok(DType::Bool);
        } else if class.is(py.get_type::<PyInt>()) {
            return Ok(DEFAULT_INT);
        } else if class.is(py.get_type::<PyFloat>()) {
            return Ok(DEFAULT_FLOAT);
        }
        class.name()?.to_string()
    } else {
        match object.getattr("name") {
            Ok(name) => name.to_string(),
            Err(_) => object.str()?.to_string(),
        }
    };
    let by_name = DType::ALL.iter().copied().find(|d| d.name() == name);
    by_name
        .or((name == "bool_").then_some(DType::Bool))
        .ok_or_else(|| match name.starts_with("complex") {
            true => missing("complex dtypes", "no operation of the table takes them"),
            false => type_error(format!(
                "{name} is no dtype of tensord; dtypes are {}",
                names()
            )),
        })
}

/// Makes a dtype from anything that names one.
#[pyfunction]
pub fn dtype(name: &Bound<'_, PyAny>) -> PyResult<Py<PyDType>> {
    dtype_object(name.py(), dtype_of(name)?)
}

fn names() -> String {
    DType::ALL.map(DType::name).join(", ")
}

/// What the operation table does not express.
pub fn missing(what: &str, why: &str) -> PyErr {
    pyo3::exceptions::PyNotImplementedError::new_err(format!("tensord has no {what}: {why}"))
}

/// The dtype in which two arrays meet, by the standard's lattice; `None` where it gives none.
pub fn promote(a: DType, b: DType) -> Option<DType> {
    use DType::{Bf16, F16, F32, I16, I32, I64, U8, U16, U32};
    if a == b {
        return Some(a);
    }
    let (low, high) = if a.size() <= b.size() { (a, b) } else { (b, a) };
    match (low.kind(), high.kind()) {
        (Kind::Float, Kind::Float) if matches!((low, high), (F16, Bf16) | (Bf16, F16)) => Some(F32),
        (x, y) if x == y && x != Kind::Bool => Some(high),
        (Kind::Unsigned, Kind::Signed) if low.size() < high.size() => Some(high),
        (Kind::Unsigned, Kind::Signed) | (Kind::Signed, Kind::Unsigned) => {
            let unsigned = if a.kind() == Kind::Unsigned { a } else { b };
            match unsigned {
                U8 => Some(I16),
                U16 => Some(I32),
                U32 => Some(I64),
                _ => None,
            }
        }
        _ => None,
    }
}

/// [`promote`], or the `TypeError` that says why not.
pub fn promote_or_error(op: &str, a: DType, b: DType) -> PyResult<DType> {
    promote(a, b).ok_or_else(|| {
        type_error(format!(
            "{op}: {a} and {b} have no common dtype (the standard mixes no kinds, nor uint64 with signed integers); \
             convert one with astype"
        ))
    })
}

/// The dtype of a result of arrays, dtypes and Python scalars.
#[pyfunction]
#[pyo3(signature = (*arrays_and_dtypes))]
pub fn result_type(
    py: Python<'_>,
    arrays_and_dtypes: Vec<Bound<'_, PyAny>>,
) -> PyResult<Py<PyDType>> {
    let mut weak = Vec::new();
    let mut result: Option<DType> = None;
    for object in &arrays_and_dtypes {
        let dtype = if let Ok(array) = object.cast::<crate::array::Array>() {
            array.get().tensor(py).dtype()
        } else if let Some(scalar) = Weak::extract(object)? {
            weak.push(scalar);
            continue;
        } else {
            dtype_of(object)?
        };
        result = Some(match result {
            Some(have) => promote_or_error("result_type", have, dtype)?,
            None => dtype,
        });
    }
    let Some(mut result) = result else {
        return Err(PyTypeError::new_err(
            "result_type needs at least one array or dtype",
        ));
    };
    for scalar in weak {
        result = scalar.meets(result);
    }
    dtype_object(py, result)
}

/// A Python scalar beside an array.
#[derive(Clone, Copy, Debug)]
pub enum Weak {
    /// `True` or `False`.
    Bool(bool),
    /// An int that i64 holds.
    Int(i64),
    /// An int above that which u64 holds.
    Wide(u64),
    /// Any other int, as a float sees it.
    Huge(f64),
    /// A float.
    Float(f64),
}

impl Weak {
    /// What a Python object is as a scalar, if it is one. NumPy's scalars count as their Python value.
    #[inline]
    pub fn extract(object: &Bound<'_, PyAny>) -> PyResult<Option<Weak>> {
        if object.is_exact_instance_of::<PyFloat>() {
            return Ok(Some(Weak::Float(object.extract()?)));
        }
        if object.is_exact_instance_of::<PyInt>() {
            return Weak::integer(object).map(Some);
        }
        Weak::extract_slow(object)
    }

    fn integer(object: &Bound<'_, PyAny>) -> PyResult<Weak> {
        if let Ok(value) = object.extract::<i64>() {
            return Ok(Weak::Int(value));
        }
        match object.extract::<u64>() {
            Ok(value) => Ok(Weak::Wide(value)),
            Err(_) => object.extract::<f64>().map(Weak::Huge),
        }
    }

    #[cold]
    fn extract_slow(object: &Bound<'_, PyAny>) -> PyResult<Option<Weak>> {
        if let Ok(value) = object.cast::<PyBool>() {
            return Ok(Some(Weak::Bool(value.is_true())));
        }
        if let Ok(value) = object.cast::<PyFloat>() {
            return Ok(Some(Weak::Float(value.value())));
        }
        if object.is_instance_of::<PyInt>() {
            return Weak::integer(object).map(Some);
        }
        if object.is_instance_of::<PyComplex>() {
            return Err(missing(
                "complex dtypes",
                "no operation of the table takes them",
            ));
        }
        let module = object.get_type().module()?;
        let from_numpy = module == "numpy" || module == "ml_dtypes";
        if from_numpy
            && object.hasattr("item")?
            && object
                .getattr("ndim")
                .is_ok_and(|n| n.eq(0).unwrap_or(false))
        {
            let item = object.call_method0("item")?;
            return match item.is_instance_of::<PyFloat>() || item.is_instance_of::<PyInt>() {
                true => Weak::extract(&item),
                false => Ok(None),
            };
        }
        Ok(None)
    }

    /// The dtype that the scalar gives an array by itself.
    pub fn own_dtype(self) -> DType {
        match self {
            Weak::Bool(_) => DType::Bool,
            Weak::Int(_) | Weak::Wide(_) | Weak::Huge(_) => DEFAULT_INT,
            Weak::Float(_) => DEFAULT_FLOAT,
        }
    }

    /// The dtype in which it meets an array of `dtype`.
    #[inline]
    pub fn meets(self, dtype: DType) -> DType {
        match (self, dtype.kind()) {
            (_, Kind::Float) | (Weak::Bool(_), _) => dtype,
            (Weak::Int(_) | Weak::Wide(_) | Weak::Huge(_), Kind::Bool) => DEFAULT_INT,
            (Weak::Int(_) | Weak::Wide(_) | Weak::Huge(_), _) => dtype,
            (Weak::Float(_), _) => DEFAULT_FLOAT,
        }
    }

    /// The element of `dtype`. An int that it cannot hold is an `OverflowError`; floats round.
    #[inline]
    pub fn to_scalar(self, dtype: DType) -> PyResult<Scalar> {
        match self {
            Weak::Float(value) => Ok(Scalar::from_f64(value, dtype)),
            Weak::Bool(value) => Ok(Scalar::from_i64(i64::from(value), dtype)),
            Weak::Int(value) => integer_scalar(i128::from(value), dtype),
            Weak::Wide(value) => integer_scalar(i128::from(value), dtype),
            Weak::Huge(value) if dtype.is_float() => Ok(Scalar::from_f64(value, dtype)),
            Weak::Huge(value) => Err(out_of_range(&format!("of about {value:e}"), dtype)),
        }
    }
}

fn integer_scalar(value: i128, dtype: DType) -> PyResult<Scalar> {
    match dtype.kind() {
        Kind::Float => Ok(Scalar::from_f64(value as f64, dtype)),
        Kind::Bool => Ok(Scalar(u64::from(value != 0))),
        Kind::Signed | Kind::Unsigned => {
            let (low, high) = integer_range(dtype);
            match (low..=high).contains(&value) {
                true => Ok(Scalar(value as u64).truncated(dtype)),
                false => Err(out_of_range(&value.to_string(), dtype)),
            }
        }
    }
}

fn out_of_range(value: &str, dtype: DType) -> PyErr {
    let (low, high) = integer_range(dtype);
    PyOverflowError::new_err(format!(
        "Python integer {value} is out of range for {dtype} ({low} to {high})"
    ))
}

/// Least and greatest value of an integer dtype.
pub fn integer_range(dtype: DType) -> (i128, i128) {
    let bits = dtype.size() as u32 * 8;
    match dtype.kind() {
        Kind::Signed => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        _ => (0, (1i128 << bits) - 1),
    }
}

/// An element's bits as a Python scalar.
pub fn scalar_to_python<'py>(
    py: Python<'py>,
    dtype: DType,
    bits: Scalar,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(match dtype.kind() {
        Kind::Bool => PyBool::new(py, bits.0 & 0xff != 0).to_owned().into_any(),
        Kind::Float => PyFloat::new(py, bits.to_f64(dtype)).into_any(),
        Kind::Unsigned => bits.truncated(dtype).0.into_pyobject(py)?.into_any(),
        Kind::Signed => {
            let shift = 64 - dtype.size() as u32 * 8;
            (((bits.0 << shift) as i64) >> shift)
                .into_pyobject(py)?
                .into_any()
        }
    })
}
