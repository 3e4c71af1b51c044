//! The hot path: an elementwise function of arrays and Python scalars becomes one request.
//!
//! Scalars become immediates in the array's dtype; arrays of two dtypes meet by a cast request first. Shapes are
//! checked by the operation table's own inference, in the client, before anything is submitted.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "what the attribute macro generates carries the spans of the macro below; there is no own unsafe code here"
)]

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use tensord_client::Tensor;
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::{Elementwise, Operand};

use crate::array::Array;
use crate::dtype::{DEFAULT_FLOAT, Weak, promote_or_error};
use crate::errors::type_error;
use crate::session::{cast, elementwise};

/// An argument of an elementwise function.
pub enum Argument {
    /// An array's value now.
    Tensor(Tensor),
    /// A Python scalar.
    Weak(Weak),
}

impl Argument {
    /// What a Python object is as an argument; `None` for foreign types.
    #[inline]
    pub fn extract(object: &Bound<'_, PyAny>) -> PyResult<Option<Argument>> {
        if object.is_exact_instance_of::<Array>()
            && let Ok(array) = object.cast_exact::<Array>()
        {
            return Ok(Some(Argument::Tensor(array.get().tensor(object.py()))));
        }
        Ok(Weak::extract(object)?.map(Argument::Weak))
    }

    /// Like [`Argument::extract`], with the error that a function call gives.
    pub fn require(op: &str, object: &Bound<'_, PyAny>) -> PyResult<Argument> {
        Argument::extract(object)?.ok_or_else(|| foreign(op, object))
    }

    fn operand(&self, dtype: DType) -> PyResult<Operand<&Tensor>> {
        Ok(match self {
            Argument::Tensor(tensor) => Operand::Tensor(tensor),
            Argument::Weak(weak) => Operand::Immediate(dtype, weak.to_scalar(dtype)?),
        })
    }

    fn converted(self, py: Python<'_>, dtype: DType) -> PyResult<Argument> {
        match self {
            Argument::Tensor(tensor) if tensor.dtype() != dtype => {
                Ok(Argument::Tensor(cast(py, &tensor, dtype)?))
            }
            other => Ok(other),
        }
    }
}

/// The error for an argument that is neither an array nor a scalar.
pub fn foreign(op: &str, object: &Bound<'_, PyAny>) -> PyErr {
    let name = object
        .get_type()
        .name()
        .map(|n| n.to_string())
        .unwrap_or_else(|_| "?".into());
    type_error(format!(
        "{op} takes tensord arrays and Python scalars, not {name}; convert it with tensord.asarray"
    ))
}

/// The dtype in which the arguments of `op` meet. At least one must be an array.
fn meeting(op: &str, arguments: &[&Argument]) -> PyResult<DType> {
    let mut dtype: Option<DType> = None;
    for argument in arguments {
        if let Argument::Tensor(tensor) = argument {
            dtype = Some(match dtype {
                None => tensor.dtype(),
                Some(have) if have == tensor.dtype() => have,
                Some(have) => promote_or_error(op, have, tensor.dtype())?,
            });
        }
    }
    let Some(mut dtype) = dtype else {
        return Err(type_error(format!(
            "{op} needs at least one tensord array among its arguments"
        )));
    };
    for argument in arguments {
        if let Argument::Weak(weak) = argument {
            dtype = weak.meets(dtype);
        }
    }
    Ok(dtype)
}

/// A function of two arguments.
#[inline]
pub fn binary(py: Python<'_>, function: Elementwise, a: Argument, b: Argument) -> PyResult<Array> {
    // A quotient of integers is a float, and a square is no power: both take the longer way.
    let plain =
        |dtype: DType| !matches!(function, Elementwise::Div | Elementwise::Pow) || dtype.is_float();
    let operands = match (&a, &b) {
        (Argument::Tensor(x), Argument::Tensor(y))
            if x.dtype() == y.dtype() && plain(x.dtype()) =>
        {
            [Operand::Tensor(x), Operand::Tensor(y)]
        }
        (Argument::Tensor(x), Argument::Weak(weak))
            if weak.meets(x.dtype()) == x.dtype()
                && plain(x.dtype())
                && function != Elementwise::Pow =>
        {
            let dtype = x.dtype();
            [
                Operand::Tensor(x),
                Operand::Immediate(dtype, weak.to_scalar(dtype)?),
            ]
        }
        (Argument::Weak(weak), Argument::Tensor(x))
            if weak.meets(x.dtype()) == x.dtype() && plain(x.dtype()) =>
        {
            let dtype = x.dtype();
            [
                Operand::Immediate(dtype, weak.to_scalar(dtype)?),
                Operand::Tensor(x),
            ]
        }
        _ => return mixed(py, function, a, b),
    };
    elementwise(py, function, &operands).map(Array::new)
}

/// [`binary`] where something has to be converted or replaced first.
#[cold]
fn mixed(py: Python<'_>, function: Elementwise, a: Argument, b: Argument) -> PyResult<Array> {
    let mut dtype = meeting(function.info().name, &[&a, &b])?;
    if function == Elementwise::Div && dtype.is_integer() {
        dtype = DEFAULT_FLOAT;
    }
    if function == Elementwise::Pow && matches!(b, Argument::Weak(Weak::Int(2) | Weak::Float(2.0)))
    {
        // x ** 2 is x * x in every dtype, and much cheaper than the power function.
        return square(py, a, dtype);
    }
    let (a, b) = (a.converted(py, dtype)?, b.converted(py, dtype)?);
    let operands = [a.operand(dtype)?, b.operand(dtype)?];
    elementwise(py, function, &operands).map(Array::new)
}

#[cold]
fn square(py: Python<'_>, a: Argument, dtype: DType) -> PyResult<Array> {
    match a.converted(py, dtype)? {
        Argument::Tensor(tensor) => unary(py, Elementwise::Square, &tensor),
        Argument::Weak(_) => Err(PyValueError::new_err(
            "pow needs at least one tensord array",
        )),
    }
}

/// No immediates beside the operands.
pub const NONE: [Scalar; 2] = [Scalar(0); 2];

/// A function of one array. Floor, ceil, trunc and round leave integers as they are.
#[inline]
pub fn unary(py: Python<'_>, function: Elementwise, x: &Tensor) -> PyResult<Array> {
    elementwise(py, function, &[Operand::Tensor(x)]).map(Array::new)
}

/// A function of three arguments of one dtype.
pub fn ternary(py: Python<'_>, function: Elementwise, args: [Argument; 3]) -> PyResult<Array> {
    let [a, b, c] = args;
    let dtype = meeting(function.info().name, &[&a, &b, &c])?;
    let (a, b, c) = (
        a.converted(py, dtype)?,
        b.converted(py, dtype)?,
        c.converted(py, dtype)?,
    );
    let operands = [a.operand(dtype)?, b.operand(dtype)?, c.operand(dtype)?];
    elementwise(py, function, &operands).map(Array::new)
}

/// `b` where the bool array `condition` holds, else `c`. Two scalars meet in their own kinds' default dtypes.
pub fn select(py: Python<'_>, condition: &Tensor, b: Argument, c: Argument) -> PyResult<Array> {
    let dtype = match (&b, &c) {
        (Argument::Weak(x), Argument::Weak(y)) => y.meets(x.own_dtype()),
        _ => meeting("where", &[&b, &c])?,
    };
    let (b, c) = (b.converted(py, dtype)?, c.converted(py, dtype)?);
    let operands = [
        Operand::Tensor(condition),
        b.operand(dtype)?,
        c.operand(dtype)?,
    ];
    elementwise(py, Elementwise::Select, &operands).map(Array::new)
}

/// An operator with the array on the left (or, `reflected`, on the right); `NotImplemented` for foreign operands.
#[inline]
pub fn operator(
    array: &Bound<'_, Array>,
    other: &Bound<'_, PyAny>,
    function: Elementwise,
    reflected: bool,
) -> PyResult<Py<PyAny>> {
    let py = array.py();
    let Some(other) = Argument::extract(other)? else {
        return Ok(py.NotImplemented());
    };
    let own = Argument::Tensor(array.get().tensor(py));
    let result = match reflected {
        false => binary(py, function, own, other)?,
        true => binary(py, function, other, own)?,
    };
    Ok(Py::new(py, result)?.into_any())
}

/// An in-place operator: the array names the result from now on. Neither shape nor dtype may change.
pub fn in_place(
    array: &Bound<'_, Array>,
    other: &Bound<'_, PyAny>,
    function: Elementwise,
) -> PyResult<()> {
    let py = array.py();
    let name = function.info().name;
    let other = Argument::require(name, other)?;
    let own = array.get().tensor(py);
    let have = *own.meta();
    let result = binary(py, function, Argument::Tensor(own), other)?.tensor(py);
    let want = *result.meta();
    if want != have {
        let message = format!(
            "in-place {name}: the result has shape {} and dtype {}, the array has {} and {}",
            want.shape, want.dtype, have.shape, have.dtype
        );
        return Err(match want.dtype == have.dtype {
            true => PyValueError::new_err(message),
            false => PyTypeError::new_err(message),
        });
    }
    array.get().replace(py, result);
    Ok(())
}

macro_rules! operators {
    ($($name:ident $reflected:ident $in_place:ident $function:ident;)*) => {
        #[pymethods]
        impl Array {
            $(
                fn $name(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
                    operator(slf, other, Elementwise::$function, false)
                }

                fn $reflected(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
                    operator(slf, other, Elementwise::$function, true)
                }

                fn $in_place(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<()> {
                    in_place(slf, other, Elementwise::$function)
                }
            )*
        }
    };
}

operators! {
    __add__ __radd__ __iadd__ Add;
    __sub__ __rsub__ __isub__ Sub;
    __mul__ __rmul__ __imul__ Mul;
    __truediv__ __rtruediv__ __itruediv__ Div;
    __floordiv__ __rfloordiv__ __ifloordiv__ FloorDiv;
    __mod__ __rmod__ __imod__ Remainder;
    __and__ __rand__ __iand__ BitAnd;
    __or__ __ror__ __ior__ BitOr;
    __xor__ __rxor__ __ixor__ BitXor;
    __lshift__ __rlshift__ __ilshift__ ShiftLeft;
    __rshift__ __rrshift__ __irshift__ ShiftRight;
}
