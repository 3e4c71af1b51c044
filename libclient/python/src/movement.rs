//! Views and movement: arranging elements, and gathering and scattering them.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyModule;
use smallvec::{SmallVec, smallvec};
use tensord_client::Tensor;
use tensord_shm::dtype::DType;
use tensord_shm::op::{AxisList, Op, Operand, ScatterMode};

use crate::array::Array;
use crate::attributes::{Axes, Pairs, axis_number, int_list, shape_of};
use crate::dtype::{Weak, promote_or_error};
use crate::errors::value_error;
use crate::functions::{array_argument, one};
use crate::operators::NONE;
use crate::session::{cast, compute};

#[pyfunction]
#[pyo3(signature = (x, /, shape, *, copy=None))]
fn reshape(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    shape: &Bound<'_, PyAny>,
    copy: Option<bool>,
) -> PyResult<Array> {
    let _ = copy;
    let tensor = array_argument("reshape", x)?;
    let shape = shape_of("reshape", shape, Some(tensor.shape().count()))?;
    one(py, &Op::Reshape(shape), &tensor)
}

#[pyfunction]
#[pyo3(signature = (x, /, axes))]
fn permute_dims(py: Python<'_>, x: &Bound<'_, PyAny>, axes: &Bound<'_, PyAny>) -> PyResult<Array> {
    let tensor = array_argument("permute_dims", x)?;
    let rank = tensor.shape().rank();
    let axes = int_list("permute_dims", axes)?;
    let order = axes
        .iter()
        .map(|&axis| axis_number("permute_dims", axis, rank, tensor.shape()))
        .collect::<PyResult<SmallVec<[u8; 8]>>>()?;
    let order = AxisList::new(&order)
        .ok_or_else(|| PyValueError::new_err("permute_dims: too many axes"))?;
    one(py, &Op::Permute(order), &tensor)
}

#[pyfunction]
#[pyo3(signature = (x, /, shape))]
fn broadcast_to(py: Python<'_>, x: &Bound<'_, PyAny>, shape: &Bound<'_, PyAny>) -> PyResult<Array> {
    let tensor = array_argument("broadcast_to", x)?;
    one(
        py,
        &Op::Expand(shape_of("broadcast_to", shape, None)?),
        &tensor,
    )
}

type Tensors = SmallVec<[Tensor; 4]>;

/// Joins arrays along an existing axis (`None`: flattened first). Dtypes are promoted.
#[pyfunction]
#[pyo3(signature = (arrays, /, *, axis=Some(0)))]
fn concat(py: Python<'_>, arrays: Vec<Bound<'_, PyAny>>, axis: Option<i64>) -> PyResult<Array> {
    let mut tensors = arrays
        .iter()
        .map(|array| array_argument("concat", array))
        .collect::<PyResult<Tensors>>()?;
    let Some(first) = tensors.first() else {
        return Err(PyValueError::new_err("concat needs at least one array"));
    };
    let mut dtype = first.dtype();
    for tensor in &tensors[1..] {
        dtype = promote_or_error("concat", dtype, tensor.dtype())?;
    }
    for tensor in &mut tensors {
        *tensor = cast(py, tensor, dtype)?;
        if axis.is_none() {
            let flat = tensord_shm::layout::Shape::new(&[tensor.shape().count()])
                .expect("the count of a tensor is within bounds");
            *tensor = compute(py, &Op::Reshape(flat), &[Operand::Tensor(tensor)], NONE)?;
        }
    }
    let shape = *tensors[0].shape();
    let axis = axis_number("concat", axis.unwrap_or(0), shape.rank(), &shape)?;
    while tensors.len() > 1 {
        // One request takes 32 operands; longer lists are joined in rounds.
        let mut joined = Tensors::new();
        for chunk in tensors.chunks(tensord_shm::op::OPERANDS_MAX) {
            let operands: SmallVec<[_; 4]> = chunk.iter().map(Operand::Tensor).collect();
            joined.push(compute(py, &Op::Concat { axis }, &operands, NONE)?);
        }
        tensors = joined;
    }
    let joined = tensors
        .pop()
        .expect("the list was not empty and rounds keep one");
    Ok(Array::new(joined))
}

#[pyfunction]
#[pyo3(signature = (x, /, *, axis=0))]
fn expand_dims(py: Python<'_>, x: &Bound<'_, PyAny>, axis: i64) -> PyResult<Array> {
    let tensor = array_argument("expand_dims", x)?;
    let rank = tensor.shape().rank();
    let axis = axis_number("expand_dims", axis, rank + 1, tensor.shape())?;
    let mut sizes = tensor.shape().to_vec();
    sizes.insert(usize::from(axis), 1);
    let shape = crate::attributes::checked_shape("expand_dims", &sizes)?;
    one(py, &Op::Reshape(shape), &tensor)
}

#[pyfunction]
#[pyo3(signature = (x, /, axis))]
fn squeeze(py: Python<'_>, x: &Bound<'_, PyAny>, axis: &Bound<'_, PyAny>) -> PyResult<Array> {
    let tensor = array_argument("squeeze", x)?;
    let shape = *tensor.shape();
    let axes = Axes::parse("squeeze", Some(axis), &shape)?;
    if let Some((axis, size)) = shape
        .iter()
        .enumerate()
        .find(|(axis, size)| axes.set.contains(*axis) && **size != 1)
    {
        return Err(value_error(format!(
            "squeeze: axis {axis} of {shape} has size {size}, not 1"
        )));
    }
    let sizes: Vec<u64> = shape
        .iter()
        .enumerate()
        .filter(|(axis, _)| !axes.set.contains(*axis))
        .map(|(_, size)| *size)
        .collect();
    one(
        py,
        &Op::Reshape(crate::attributes::checked_shape("squeeze", &sizes)?),
        &tensor,
    )
}

/// `fill` around an array: `widths` is one number, one per axis, or one pair per axis.
#[pyfunction]
#[pyo3(signature = (x, widths, /, fill=None))]
fn pad(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    widths: &Bound<'_, PyAny>,
    fill: Option<&Bound<'_, PyAny>>,
) -> PyResult<Array> {
    let tensor = array_argument("pad", x)?;
    let rank = tensor.shape().rank();
    let pairs = crate::attributes::pairs("pad", widths, rank)?;
    let fill = match fill {
        Some(fill) => Weak::extract(fill)?
            .ok_or_else(|| PyTypeError::new_err("pad: fill is a Python scalar"))?,
        None => Weak::Int(0),
    };
    padded(py, &tensor, &pairs, fill).map(Array::new)
}

fn padded(py: Python<'_>, tensor: &Tensor, pairs: &[(u64, u64)], fill: Weak) -> PyResult<Tensor> {
    let side = |pick: fn(&(u64, u64)) -> u64| {
        AxisList::collect(pairs.iter().map(pick)).expect("one pair for each axis of a tensor")
    };
    let op = Op::Pad {
        low: side(|pair| pair.0),
        high: side(|pair| pair.1),
    };
    let fill = [fill.to_scalar(tensor.dtype())?, NONE[1]];
    compute(py, &op, &[Operand::Tensor(tensor)], fill)
}

/// A view in which each named axis holds window positions and whose window axes come last, in the order named.
#[pyfunction]
#[pyo3(signature = (x, axes, sizes, strides=None, dilations=None, padding=None))]
fn window(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    axes: &Bound<'_, PyAny>,
    sizes: &Bound<'_, PyAny>,
    strides: Option<&Bound<'_, PyAny>>,
    dilations: Option<&Bound<'_, PyAny>>,
    padding: Option<&Bound<'_, PyAny>>,
) -> PyResult<Array> {
    let mut tensor = array_argument("window", x)?;
    let rank = tensor.shape().rank();
    let axes = int_list("window", axes)?
        .iter()
        .map(|&axis| axis_number("window", axis, rank, tensor.shape()))
        .collect::<PyResult<SmallVec<[u8; 8]>>>()?;
    if let Some(padding) = padding {
        let named = crate::attributes::pairs("window", padding, axes.len())?;
        if named.iter().any(|pair| *pair != (0, 0)) {
            let mut all: Pairs = smallvec![(0, 0); rank];
            for (axis, pair) in axes.iter().zip(named) {
                all[usize::from(*axis)] = pair;
            }
            tensor = padded(py, &tensor, &all, Weak::Int(0))?;
        }
    }
    let each = |object: Option<&Bound<'_, PyAny>>, what: &str| {
        crate::attributes::each("window", what, object, axes.len())
    };
    let op = Op::Window {
        axes: AxisList::new(&axes).ok_or_else(|| PyValueError::new_err("window: too many axes"))?,
        sizes: each(Some(sizes), "sizes")?,
        strides: each(strides, "strides")?,
        dilations: each(dilations, "dilations")?,
    };
    one(py, &op, &tensor)
}

/// Elements along one axis by int64 positions; negative ones count from the end, one out of range reads 0.
#[pyfunction]
fn gather(
    py: Python<'_>,
    x: &Bound<'_, Array>,
    index: &Bound<'_, Array>,
    axis: u8,
) -> PyResult<Array> {
    let (x, index) = (
        x.get().tensor(py),
        cast(py, &index.get().tensor(py), DType::I64)?,
    );
    compute(
        py,
        &Op::Gather { axis },
        &[Operand::Tensor(&x), Operand::Tensor(&index)],
        NONE,
    )
    .map(Array::new)
}

/// `x` with elements along one axis replaced by `updates`, or with `add` increased by them.
#[pyfunction]
fn scatter(
    py: Python<'_>,
    x: &Bound<'_, Array>,
    index: &Bound<'_, Array>,
    updates: &Bound<'_, Array>,
    axis: u8,
    add: bool,
) -> PyResult<Array> {
    let (x, index) = (
        x.get().tensor(py),
        cast(py, &index.get().tensor(py), DType::I64)?,
    );
    let updates = cast(py, &updates.get().tensor(py), x.dtype())?;
    let mode = if add {
        ScatterMode::Add
    } else {
        ScatterMode::Replace
    };
    let operands = [
        Operand::Tensor(&x),
        Operand::Tensor(&index),
        Operand::Tensor(&updates),
    ];
    compute(py, &Op::Scatter { axis, mode }, &operands, NONE).map(Array::new)
}

/// A row-major copy.
#[pyfunction]
fn copy(py: Python<'_>, x: &Bound<'_, Array>) -> PyResult<Array> {
    one(py, &Op::Copy, &x.get().tensor(py))
}

/// Adds everything here to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! add {
        ($($name:ident)*) => { $(module.add_function(wrap_pyfunction!($name, module)?)?;)* };
    }
    add! {
        reshape permute_dims broadcast_to concat expand_dims squeeze pad window gather scatter copy
    }
    Ok(())
}
