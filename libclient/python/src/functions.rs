//! The functions of the namespace that are one request each, or a short fixed sequence.
//!
//! What needs more thought than speed is Python, in the package; this module gives it the operation table.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyModule;
use tensord_client::Tensor;
use tensord_shm::dtype::{DType, Kind};
use tensord_shm::op::{
    AxisList, AxisSet, Distribution, Elementwise, Meta, Op, Operand, Reduction, Scan, ScatterMode,
};

use crate::array::{Array, check_device, swap_last};
use crate::attributes::{Axes, axis_number, int_list, shape_of};
use crate::dtype::{DEFAULT_FLOAT, DEFAULT_INT, Weak, dtype_of, promote_or_error};
use crate::operators::{Argument, NONE, binary, foreign, select, ternary, unary};
use crate::session::{cast, compute, create};

/// The tensor of an argument that must be an array.
pub fn array_argument(op: &str, object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    match object.cast_exact::<Array>() {
        Ok(array) => Ok(array.get().tensor(object.py())),
        Err(_) => Err(foreign(op, object)),
    }
}

fn one(py: Python<'_>, op: &Op, tensor: &Tensor) -> PyResult<Array> {
    compute(py, op, &[Operand::Tensor(tensor)], NONE).map(Array::new)
}

macro_rules! unary_functions {
    ($($name:ident $public:literal $function:ident;)*) => {
        $(
            #[pyfunction]
            #[pyo3(name = $public, signature = (x, /))]
            fn $name(py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<Array> {
                unary(py, Elementwise::$function, &array_argument($public, x)?)
            }
        )*

        fn add_unary(module: &Bound<'_, PyModule>) -> PyResult<()> {
            $(module.add_function(wrap_pyfunction!($name, module)?)?;)*
            Ok(())
        }
    };
}

unary_functions! {
    abs "abs" Abs; acos "acos" Acos; acosh "acosh" Acosh; asin "asin" Asin; asinh "asinh" Asinh; atan "atan" Atan;
    atanh "atanh" Atanh; bitwise_invert "bitwise_invert" BitNot; ceil "ceil" Ceil; cos "cos" Cos; cosh "cosh" Cosh;
    erf "erf" Erf; exp "exp" Exp; exp2 "exp2" Exp2; expm1 "expm1" Expm1; floor "floor" Floor;
    isfinite "isfinite" IsFinite; isinf "isinf" IsInf; isnan "isnan" IsNan; log "log" Log; log10 "log10" Log10;
    log1p "log1p" Log1p; log2 "log2" Log2; logical_not "logical_not" LogicalNot; negative "negative" Neg;
    reciprocal "reciprocal" Reciprocal; round "round" Round; rsqrt "rsqrt" Rsqrt; sigmoid "sigmoid" Sigmoid;
    sign "sign" Sign; signbit "signbit" Signbit; sin "sin" Sin; sinh "sinh" Sinh; sqrt "sqrt" Sqrt;
    square "square" Square; tan "tan" Tan; tanh "tanh" Tanh; trunc "trunc" Trunc;
}

macro_rules! binary_functions {
    ($($name:ident $public:literal $function:ident;)*) => {
        $(
            #[pyfunction]
            #[pyo3(name = $public, signature = (x1, x2, /))]
            fn $name(py: Python<'_>, x1: &Bound<'_, PyAny>, x2: &Bound<'_, PyAny>) -> PyResult<Array> {
                binary(py, Elementwise::$function, Argument::require($public, x1)?, Argument::require($public, x2)?)
            }
        )*

        fn add_binary(module: &Bound<'_, PyModule>) -> PyResult<()> {
            $(module.add_function(wrap_pyfunction!($name, module)?)?;)*
            Ok(())
        }
    };
}

binary_functions! {
    add "add" Add; atan2 "atan2" Atan2; bitwise_and "bitwise_and" BitAnd; bitwise_left_shift "bitwise_left_shift" ShiftLeft;
    bitwise_or "bitwise_or" BitOr; bitwise_right_shift "bitwise_right_shift" ShiftRight; bitwise_xor "bitwise_xor" BitXor;
    copysign "copysign" CopySign; divide "divide" Div; equal "equal" Eq; floor_divide "floor_divide" FloorDiv;
    fmod "fmod" Fmod; greater "greater" Gt; greater_equal "greater_equal" Ge; hypot "hypot" Hypot; less "less" Lt;
    less_equal "less_equal" Le; logaddexp "logaddexp" LogAddExp; logical_and "logical_and" LogicalAnd;
    logical_or "logical_or" LogicalOr; logical_xor "logical_xor" LogicalXor; maximum "maximum" Maximum;
    minimum "minimum" Minimum; multiply "multiply" Mul; nextafter "nextafter" NextAfter; not_equal "not_equal" Ne;
    pow "pow" Pow; remainder "remainder" Remainder; subtract "subtract" Sub;
}

/// The array itself; numbers only.
#[pyfunction]
#[pyo3(signature = (x, /))]
fn positive(py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<Array> {
    let tensor = array_argument("positive", x)?;
    match tensor.dtype() {
        DType::Bool => Err(PyTypeError::new_err(
            "positive does not take bool; it takes integers and floats",
        )),
        _ => {
            let _ = py;
            Ok(Array::new(tensor))
        }
    }
}

/// `x1` where `condition` holds, else `x2`.
#[pyfunction]
#[pyo3(name = "where", signature = (condition, x1, x2, /))]
fn where_(
    py: Python<'_>,
    condition: &Bound<'_, PyAny>,
    x1: &Bound<'_, PyAny>,
    x2: &Bound<'_, PyAny>,
) -> PyResult<Array> {
    let condition = array_argument("where", condition)?;
    select(
        py,
        &condition,
        Argument::require("where", x1)?,
        Argument::require("where", x2)?,
    )
}

/// `x1 * x2 + x3` with one rounding.
#[pyfunction]
#[pyo3(signature = (x1, x2, x3, /))]
fn fma(
    py: Python<'_>,
    x1: &Bound<'_, PyAny>,
    x2: &Bound<'_, PyAny>,
    x3: &Bound<'_, PyAny>,
) -> PyResult<Array> {
    let all = [x1, x2, x3].map(|x| Argument::require("fma", x));
    let [a, b, c] = all;
    ternary(py, Elementwise::Fma, [a?, b?, c?])
}

/// `x` held between `min` and `max`; a bound that is `None` does not bind. The result keeps the dtype of `x`.
#[pyfunction]
#[pyo3(signature = (x, /, min=None, max=None))]
fn clip(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    min: Option<&Bound<'_, PyAny>>,
    max: Option<&Bound<'_, PyAny>>,
) -> PyResult<Array> {
    let tensor = array_argument("clip", x)?;
    let dtype = tensor.dtype();
    let bound = |object: Option<&Bound<'_, PyAny>>| -> PyResult<Option<Argument>> {
        let Some(object) = object.filter(|object| !object.is_none()) else {
            return Ok(None);
        };
        match Argument::require("clip", object)? {
            Argument::Tensor(bound) if bound.dtype() != dtype => {
                promote_or_error("clip", dtype, bound.dtype())?;
                Ok(Some(Argument::Tensor(cast(py, &bound, dtype)?)))
            }
            Argument::Weak(weak) if weak.meets(dtype) != dtype => {
                Err(PyTypeError::new_err(format!(
                    "clip: a bound of {} for an array of {dtype}",
                    weak.own_dtype()
                )))
            }
            other => Ok(Some(other)),
        }
    };
    let x = Argument::Tensor(tensor);
    match (bound(min)?, bound(max)?) {
        (None, None) => match x {
            Argument::Tensor(tensor) => Ok(Array::new(tensor)),
            Argument::Weak(_) => Err(PyTypeError::new_err("clip needs an array")),
        },
        (Some(min), None) => binary(py, Elementwise::Maximum, x, min),
        (None, Some(max)) => binary(py, Elementwise::Minimum, x, max),
        (Some(min), Some(max)) => ternary(py, Elementwise::Clamp, [x, min, max]),
    }
}

/// The array in another dtype.
#[pyfunction]
#[pyo3(signature = (x, dtype, /, *, copy=true, device=None))]
fn astype(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: &Bound<'_, PyAny>,
    copy: bool,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<Array> {
    // Values never change in place, so a copy and the array itself cannot be told apart.
    let _ = copy;
    check_device(device)?;
    cast(py, &array_argument("astype", x)?, dtype_of(dtype)?).map(Array::new)
}

// -------------------------------------------------------------------------------------------------- reductions

fn reduce(
    py: Python<'_>,
    kind: Reduction,
    tensor: &Tensor,
    axes: AxisSet,
    keep: bool,
) -> PyResult<Array> {
    let sizes = *tensor.shape();
    let count: u64 = sizes
        .iter()
        .enumerate()
        .filter(|(axis, _)| axes.contains(*axis))
        .map(|(_, size)| size)
        .product();
    if count == 0
        && matches!(
            kind,
            Reduction::Min | Reduction::Max | Reduction::ArgMin | Reduction::ArgMax
        )
    {
        let name = Op::Reduce { kind, axes, keep }.name();
        return Err(PyValueError::new_err(format!(
            "{name} of no elements (shape {sizes}) has no value"
        )));
    }
    one(py, &Op::Reduce { kind, axes, keep }, tensor)
}

/// The dtype in which a sum or product of `dtype` is taken when nobody names one.
fn sum_dtype(dtype: DType) -> DType {
    match dtype.kind() {
        Kind::Bool | Kind::Signed => DEFAULT_INT,
        Kind::Unsigned => DType::U64,
        Kind::Float => dtype,
    }
}

fn totalled(
    py: Python<'_>,
    op: &str,
    x: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
) -> PyResult<Tensor> {
    let tensor = array_argument(op, x)?;
    let dtype = match dtype.filter(|dtype| !dtype.is_none()) {
        Some(dtype) => dtype_of(dtype)?,
        None => sum_dtype(tensor.dtype()),
    };
    cast(py, &tensor, dtype)
}

macro_rules! reductions {
    ($($name:ident $public:literal $kind:ident;)*) => {
        $(
            #[pyfunction]
            #[pyo3(name = $public, signature = (x, /, *, axis=None, keepdims=false))]
            fn $name(py: Python<'_>, x: &Bound<'_, PyAny>, axis: Option<&Bound<'_, PyAny>>, keepdims: bool) -> PyResult<Array> {
                let tensor = array_argument($public, x)?;
                let axes = Axes::parse($public, axis, tensor.shape())?;
                reduce(py, Reduction::$kind, &tensor, axes.set, keepdims)
            }
        )*

        fn add_reductions(module: &Bound<'_, PyModule>) -> PyResult<()> {
            $(module.add_function(wrap_pyfunction!($name, module)?)?;)*
            Ok(())
        }
    };
}

reductions! {
    reduce_max "max" Max; reduce_min "min" Min; reduce_any "any" Any; reduce_all "all" All;
    argmax "argmax" ArgMax; argmin "argmin" ArgMin;
}

#[pyfunction]
#[pyo3(signature = (x, /, *, axis=None, dtype=None, keepdims=false))]
fn sum(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    axis: Option<&Bound<'_, PyAny>>,
    dtype: Option<&Bound<'_, PyAny>>,
    keepdims: bool,
) -> PyResult<Array> {
    let tensor = totalled(py, "sum", x, dtype)?;
    reduce(
        py,
        Reduction::Sum,
        &tensor,
        Axes::parse("sum", axis, tensor.shape())?.set,
        keepdims,
    )
}

#[pyfunction]
#[pyo3(signature = (x, /, *, axis=None, dtype=None, keepdims=false))]
fn prod(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    axis: Option<&Bound<'_, PyAny>>,
    dtype: Option<&Bound<'_, PyAny>>,
    keepdims: bool,
) -> PyResult<Array> {
    let tensor = totalled(py, "prod", x, dtype)?;
    reduce(
        py,
        Reduction::Prod,
        &tensor,
        Axes::parse("prod", axis, tensor.shape())?.set,
        keepdims,
    )
}

/// Arithmetic mean: the sum divided by the number of elements. Integers are converted to the default float first.
#[pyfunction]
#[pyo3(signature = (x, /, *, axis=None, keepdims=false))]
fn mean(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    axis: Option<&Bound<'_, PyAny>>,
    keepdims: bool,
) -> PyResult<Array> {
    let mut tensor = array_argument("mean", x)?;
    if !tensor.dtype().is_float() {
        tensor = cast(py, &tensor, DEFAULT_FLOAT)?;
    }
    let axes = Axes::parse("mean", axis, tensor.shape())?;
    let total = reduce(py, Reduction::Sum, &tensor, axes.set, keepdims)?.tensor(py);
    binary(
        py,
        Elementwise::Div,
        Argument::Tensor(total),
        Argument::Weak(Weak::Float(axes.count as f64)),
    )
}

/// One scan along `axis`, in the dtype given (already promoted by the caller).
#[pyfunction]
fn scan(
    py: Python<'_>,
    x: &Bound<'_, Array>,
    product: bool,
    axis: u8,
    dtype: Option<&Bound<'_, PyAny>>,
) -> PyResult<Array> {
    let kind = if product { Scan::Prod } else { Scan::Sum };
    let tensor = totalled(py, "cumulative_sum", x.as_any(), dtype)?;
    one(py, &Op::Scan { kind, axis }, &tensor)
}

// ----------------------------------------------------------------------------------------------- contractions

/// The 1 to 52 letters of one operand as labels.
fn labels(text: &str) -> PyResult<AxisList<u8>> {
    let mut numbers = [0u8; 64];
    let mut len = 0;
    for letter in text.bytes().filter(|letter| *letter != b' ') {
        let number = match letter {
            b'a'..=b'z' => letter - b'a',
            b'A'..=b'Z' => letter - b'A' + 26,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "contract: labels are letters a-z and A-Z, not {:?} in {text:?}",
                    char::from(letter)
                )));
            }
        };
        if len == numbers.len() {
            break;
        }
        numbers[len] = number;
        len += 1;
    }
    AxisList::new(&numbers[..len])
        .ok_or_else(|| PyValueError::new_err(format!("contract: too many labels in {text:?}")))
}

/// Einsum of two operands with explicit output labels: `contract(a, b, "ik,kj->ij")`.
#[pyfunction]
#[pyo3(name = "contract", signature = (a, b, labels, /))]
fn contract_labelled(
    py: Python<'_>,
    a: &Bound<'_, PyAny>,
    b: &Bound<'_, PyAny>,
    labels: &str,
) -> PyResult<Array> {
    let wrong = || {
        PyValueError::new_err(format!(
            "contract: labels are written \"ik,kj->ij\", not {labels:?}"
        ))
    };
    let (operands, out) = labels.split_once("->").ok_or_else(wrong)?;
    let (of_a, of_b) = operands.split_once(',').ok_or_else(wrong)?;
    let op = Op::Contract {
        a: self::labels(of_a)?,
        b: self::labels(of_b)?,
        out: self::labels(out)?,
    };
    contract(
        py,
        &op,
        &array_argument("contract", a)?,
        &array_argument("contract", b)?,
    )
}

fn contract(py: Python<'_>, op: &Op, a: &Tensor, b: &Tensor) -> PyResult<Array> {
    let dtype = match a.dtype() == b.dtype() {
        true => a.dtype(),
        false => promote_or_error("contract", a.dtype(), b.dtype())?,
    };
    let (a, b) = (cast(py, a, dtype)?, cast(py, b, dtype)?);
    let made = compute(py, op, &[Operand::Tensor(&a), Operand::Tensor(&b)], NONE)?;
    Ok(Array::new(made))
}

/// [`contract`] by label numbers, for the package: results keep the promoted dtype, as the standard's products do.
#[pyfunction]
fn contract_numbers(
    py: Python<'_>,
    a: &Bound<'_, Array>,
    b: &Bound<'_, Array>,
    of_a: Vec<u8>,
    of_b: Vec<u8>,
    out: Vec<u8>,
) -> PyResult<Array> {
    product(
        py,
        &a.get().tensor(py),
        &b.get().tensor(py),
        &of_a,
        &of_b,
        &out,
    )
}

fn product(
    py: Python<'_>,
    a: &Tensor,
    b: &Tensor,
    of_a: &[u8],
    of_b: &[u8],
    out: &[u8],
) -> PyResult<Array> {
    let list = |labels: &[u8]| {
        AxisList::new(labels).ok_or_else(|| PyValueError::new_err("contract: too many axes"))
    };
    let op = Op::Contract {
        a: list(of_a)?,
        b: list(of_b)?,
        out: list(out)?,
    };
    let dtype = promote_or_error("contract", a.dtype(), b.dtype())?;
    let made = contract(py, &op, a, b)?.tensor(py);
    cast(py, &made, dtype).map(Array::new)
}

/// Matrix product by the standard's rules: vectors and stacks of matrices, stacks broadcast against each other.
pub fn matmul(py: Python<'_>, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<Array> {
    let (a, b) = (array_argument("matmul", a)?, array_argument("matmul", b)?);
    let (rank_a, rank_b) = (a.shape().rank(), b.shape().rank());
    if rank_a == 0 || rank_b == 0 {
        return Err(PyValueError::new_err(format!(
            "matmul needs at least one axis in each operand: {} and {}",
            a.shape(),
            b.shape()
        )));
    }
    let inner = (a.shape()[rank_a - 1], b.shape()[rank_b.max(2) - 2]);
    if inner.0 != inner.1 {
        return Err(PyValueError::new_err(format!(
            "matmul: shapes {} and {} do not fit: the inner sizes are {} and {}",
            a.shape(),
            b.shape(),
            inner.0,
            inner.1
        )));
    }
    // Labels: 0 the inner axis, 1 rows, 2 columns, 3.. the stacks from the innermost outwards.
    let stack = |rank: usize| {
        (0..rank.saturating_sub(2) as u8)
            .rev()
            .map(|k| 3 + k)
            .collect::<Vec<u8>>()
    };
    let (mut of_a, mut of_b) = (stack(rank_a), stack(rank_b));
    let mut out = if of_a.len() >= of_b.len() {
        of_a.clone()
    } else {
        of_b.clone()
    };
    if rank_a > 1 {
        of_a.push(1);
        out.push(1);
    }
    of_a.push(0);
    of_b.push(0);
    if rank_b > 1 {
        of_b.push(2);
        out.push(2);
    }
    for k in 0..of_a.len().min(of_b.len()).saturating_sub(2) {
        let (x, y) = (a.shape()[rank_a - 3 - k], b.shape()[rank_b - 3 - k]);
        if x != y && x != 1 && y != 1 {
            return Err(PyValueError::new_err(format!(
                "matmul: the stacks of shapes {} and {} cannot be broadcast together",
                a.shape(),
                b.shape()
            )));
        }
    }
    product(py, &a, &b, &of_a, &of_b, &out)
}

#[pyfunction]
#[pyo3(name = "matmul", signature = (x1, x2, /))]
fn matmul_function(
    py: Python<'_>,
    x1: &Bound<'_, PyAny>,
    x2: &Bound<'_, PyAny>,
) -> PyResult<Array> {
    matmul(py, x1, x2)
}

/// `a @ b`; `NotImplemented` for foreign operands.
pub fn matmul_operator(
    array: &Bound<'_, Array>,
    other: &Bound<'_, PyAny>,
    reflected: bool,
) -> PyResult<Py<PyAny>> {
    let py = array.py();
    if other.cast_exact::<Array>().is_err() {
        return Ok(py.NotImplemented());
    }
    let result = match reflected {
        false => matmul(py, array.as_any(), other)?,
        true => matmul(py, other, array.as_any())?,
    };
    Ok(Py::new(py, result)?.into_any())
}

#[pyfunction]
#[pyo3(signature = (x, /))]
fn matrix_transpose(py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<Array> {
    swap_last(py, &array_argument("matrix_transpose", x)?)
}

// ------------------------------------------------------------------------------------------- views, movement

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
        .collect::<PyResult<Vec<u8>>>()?;
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

/// Joins arrays along an existing axis (`None`: flattened first). Dtypes are promoted.
#[pyfunction]
#[pyo3(signature = (arrays, /, *, axis=Some(0)))]
fn concat(py: Python<'_>, arrays: Vec<Bound<'_, PyAny>>, axis: Option<i64>) -> PyResult<Array> {
    let mut tensors = arrays
        .iter()
        .map(|array| array_argument("concat", array))
        .collect::<PyResult<Vec<_>>>()?;
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
        let mut joined = Vec::with_capacity(tensors.len() / 32 + 1);
        for chunk in tensors.chunks(tensord_shm::op::OPERANDS_MAX) {
            let operands: Vec<Operand<&Tensor>> = chunk.iter().map(Operand::Tensor).collect();
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
        return Err(PyValueError::new_err(format!(
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
        AxisList::new(&pairs.iter().map(pick).collect::<Vec<u64>>())
            .expect("one pair for each axis of a tensor")
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
    let shape = *tensor.shape();
    let axes = int_list("window", axes)?
        .iter()
        .map(|&axis| axis_number("window", axis, shape.rank(), &shape))
        .collect::<PyResult<Vec<u8>>>()?;
    if let Some(padding) = padding {
        let named = crate::attributes::pairs("window", padding, axes.len())?;
        if named.iter().any(|pair| *pair != (0, 0)) {
            let mut all = vec![(0, 0); shape.rank()];
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

// ------------------------------------------------------------------------------------------------- creation

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
        other => return Err(PyValueError::new_err(format!("no distribution {other:?}"))),
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
        return Err(PyTypeError::new_err(format!(
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
    add_unary(module)?;
    add_binary(module)?;
    add_reductions(module)?;
    macro_rules! add {
        ($($name:ident)*) => { $(module.add_function(wrap_pyfunction!($name, module)?)?;)* };
    }
    add! {
        positive where_ fma clip astype sum prod mean scan contract_labelled contract_numbers matmul_function
        matrix_transpose reshape permute_dims broadcast_to concat expand_dims squeeze pad window gather scatter
        copy full zeros zeros_like ones ones_like empty empty_like iota random
    }
    Ok(())
}
