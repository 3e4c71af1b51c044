//! Elementwise functions and reductions of the namespace: one request each, or a short fixed sequence.
//!
//! What needs more thought than speed is Python, in the package; this gives it the operation table.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyModule;
use tensord_client::Tensor;
use tensord_shm::dtype::{DType, Kind};
use tensord_shm::op::{AxisSet, Elementwise, Op, Operand, Reduction, Scan};

use crate::array::{Array, check_device};
use crate::attributes::Axes;
use crate::dtype::{DEFAULT_FLOAT, DEFAULT_INT, Weak, dtype_of, promote_or_error};
use crate::errors::{type_error, value_error};
use crate::operators::{Argument, NONE, binary, foreign, select, ternary, unary};
use crate::session::{cast, compute};

/// The tensor of an argument that must be an array.
pub fn array_argument(op: &str, object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    match object.cast_exact::<Array>() {
        Ok(array) => Ok(array.get().tensor(object.py())),
        Err(_) => Err(foreign(op, object)),
    }
}

/// A request for `op` of one tensor.
pub fn one(py: Python<'_>, op: &Op, tensor: &Tensor) -> PyResult<Array> {
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
            Argument::Weak(weak) if weak.meets(dtype) != dtype => Err(type_error(format!(
                "clip: a bound of {} for an array of {dtype}",
                weak.own_dtype()
            ))),
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
        return Err(value_error(format!(
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

/// Adds everything here to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    add_unary(module)?;
    add_binary(module)?;
    add_reductions(module)?;
    macro_rules! add {
        ($($name:ident)*) => { $(module.add_function(wrap_pyfunction!($name, module)?)?;)* };
    }
    add! { positive where_ fma clip astype sum prod mean scan }
    Ok(())
}
