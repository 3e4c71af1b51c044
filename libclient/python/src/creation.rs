//! Creation: arrays of one value, of counted numbers, of random ones.

use pyo3::prelude::*;
use pyo3::types::PyModule;
use tensord_shm::dtype::DType;
use tensord_shm::op::{Distribution, Meta, Op};

use crate::array::{Array, check_device};
use crate::attributes::shape_of;
use crate::dtype::{DEFAULT_FLOAT, Weak, dtype_of};
use crate::errors::{type_error, value_error};
use crate::functions::array_argument;
use crate::operators::{NONE, foreign};
use crate::session::create;

/// An array of one value.
#[pyfunction]
#[pyo3(signature = (shape, fill_value, *, dtype=None, device=None))]
fn full(
    py: Python<'_>,
    shape: &Bound<'_, PyAny>,
    fill_value: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<Array> {
    check_device(device)?;
    let fill = Weak::extract(fill_value)?.ok_or_else(|| foreign("full", fill_value))?;
    let dtype = dtype
        .filter(|dtype| !dtype.is_none())
        .map(dtype_of)
        .transpose()?
        .unwrap_or(fill.own_dtype());
    filled(py, shape, fill, dtype)
}

fn filled(py: Python<'_>, shape: &Bound<'_, PyAny>, fill: Weak, dtype: DType) -> PyResult<Array> {
    let meta = Meta {
        dtype,
        shape: shape_of("full", shape, None)?,
    };
    create(py, &Op::Full(meta), [fill.to_scalar(dtype)?, NONE[1]]).map(Array::new)
}

macro_rules! constants {
    ($($name:ident $like:ident $value:literal;)*) => {
        $(
            #[pyfunction]
            #[pyo3(signature = (shape, *, dtype=None, device=None))]
            fn $name(py: Python<'_>, shape: &Bound<'_, PyAny>, dtype: Option<&Bound<'_, PyAny>>, device: Option<&Bound<'_, PyAny>>) -> PyResult<Array> {
                check_device(device)?;
                let dtype = dtype.filter(|dtype| !dtype.is_none()).map(dtype_of).transpose()?.unwrap_or(DEFAULT_FLOAT);
                filled(py, shape, Weak::Int($value), dtype)
            }

            #[pyfunction]
            #[pyo3(signature = (x, /, *, dtype=None, device=None))]
            fn $like(py: Python<'_>, x: &Bound<'_, PyAny>, dtype: Option<&Bound<'_, PyAny>>, device: Option<&Bound<'_, PyAny>>) -> PyResult<Array> {
                check_device(device)?;
                let tensor = array_argument(stringify!($like), x)?;
                let dtype = dtype.filter(|dtype| !dtype.is_none()).map(dtype_of).transpose()?.unwrap_or(tensor.dtype());
                let meta = Meta { dtype, shape: *tensor.shape() };
                create(py, &Op::Full(meta), [Weak::Int($value).to_scalar(dtype)?, NONE[1]]).map(Array::new)
            }
        )*
    };
}

constants! {
    zeros zeros_like 0;
    ones ones_like 1;
    empty empty_like 0;
}

/// `start + index * step` along `axis` of `shape`; the package's `arange`, `linspace` and `eye` come from it.
#[pyfunction]
fn iota(
    py: Python<'_>,
    shape: &Bound<'_, PyAny>,
    axis: u8,
    start: &Bound<'_, PyAny>,
    step: &Bound<'_, PyAny>,
    dtype: &Bound<'_, PyAny>,
) -> PyResult<Array> {
    let meta = Meta {
        dtype: dtype_of(dtype)?,
        shape: shape_of("arange", shape, None)?,
    };
    let scalar = |object: &Bound<'_, PyAny>| {
        Weak::extract(object)?
            .ok_or_else(|| foreign("arange", object))?
            .to_scalar(meta.dtype)
    };
    create(
        py,
        &Op::Iota { meta, axis },
        [scalar(start)?, scalar(step)?],
    )
    .map(Array::new)
}

/// Counter-based random numbers: the same key and shape give the same values everywhere.
#[pyfunction]
fn random(
    py: Python<'_>,
    distribution: &str,
    key: &Bound<'_, PyAny>,
    shape: &Bound<'_, PyAny>,
    dtype: &Bound<'_, PyAny>,
) -> PyResult<Array> {
    let distribution = match distribution {
        "bits" => Distribution::Bits,
        "uniform" => Distribution::Uniform,
        "normal" => Distribution::Normal,
        other => return Err(value_error(format!("no distribution {other:?}"))),
    };
    let meta = Meta {
        dtype: dtype_of(dtype)?,
        shape: shape_of("random", shape, None)?,
    };
    let fits = match distribution {
        Distribution::Bits => !meta.dtype.is_float(),
        _ => meta.dtype.is_float(),
    };
    if !fits {
        return Err(type_error(format!(
            "random: bits are integers or bool, uniform and normal floats; not {}",
            meta.dtype
        )));
    }
    let key: i128 = key.extract()?;
    create(
        py,
        &Op::Random { meta, distribution },
        [tensord_shm::dtype::Scalar(key as u64), NONE[1]],
    )
    .map(Array::new)
}

/// Adds everything here to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! add {
        ($($name:ident)*) => { $(module.add_function(wrap_pyfunction!($name, module)?)?;)* };
    }
    add! {
        full zeros zeros_like ones ones_like empty empty_like iota random
    }
    Ok(())
}
