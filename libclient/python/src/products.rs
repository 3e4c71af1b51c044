//! Products: `contract` by labels, and the standard's `matmul` as one of its forms.
//!
//! `contract` gives what the operation table says (int8 accumulates into int32); the standard's products keep the promoted
//! dtype and convert back.

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyModule;
use tensord_client::Tensor;
use tensord_shm::dtype::DType;
use tensord_shm::layout::RANK_MAX;
use tensord_shm::op::{AxisList, Op, Operand};

use crate::array::{Array, swap_last};
use crate::dtype::promote_or_error;
use crate::errors::value_error;
use crate::functions::array_argument;
use crate::operators::NONE;
use crate::session::{cast, compute};

/// The operation that labels as in `"ik,kj->ij"` name, or what is wrong with them.
fn parse(text: &str) -> Result<Op, String> {
    let mut parts = [[0u8; RANK_MAX]; 3];
    let mut lens = [0usize; 3];
    let mut part = 0;
    let mut letters = text.bytes();
    while let Some(letter) = letters.next() {
        let number = match letter {
            b'a'..=b'z' => letter - b'a',
            b'A'..=b'Z' => letter - b'A' + 26,
            b' ' => continue,
            b',' if part == 0 => {
                part = 1;
                continue;
            }
            b'-' if part == 1 && letters.next() == Some(b'>') => {
                part = 2;
                continue;
            }
            _ => return Err("labels are letters a-z and A-Z, written \"ik,kj->ij\"".into()),
        };
        let slot = parts[part].get_mut(lens[part]);
        *slot.ok_or_else(|| format!("more than {RANK_MAX} labels for one array"))? = number;
        lens[part] += 1;
    }
    if part != 2 {
        return Err("labels of two operands and of the result are written \"ik,kj->ij\"".into());
    }
    let list = |part: usize| {
        AxisList::new(&parts[part][..lens[part]]).expect("no longer than the highest rank")
    };
    Ok(Op::Contract {
        a: list(0),
        b: list(1),
        out: list(2),
    })
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
    let (a, b) = (
        array_argument("contract", a)?,
        array_argument("contract", b)?,
    );
    let wrong = |what: &dyn std::fmt::Display| {
        value_error(format!(
            "contract {labels:?} of shapes {} and {}: {what}",
            a.shape(),
            b.shape()
        ))
    };
    let op = parse(labels).map_err(|what| wrong(&what))?;
    contract(py, &op, &a, &b).map_err(|error| {
        let of_labels =
            error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<PyIndexError>(py);
        match of_labels {
            true => wrong(error.value(py)),
            false => error,
        }
    })
}

fn contract(py: Python<'_>, op: &Op, a: &Tensor, b: &Tensor) -> PyResult<Array> {
    if a.dtype() == b.dtype() {
        let operands = [Operand::Tensor(a), Operand::Tensor(b)];
        return compute(py, op, &operands, NONE).map(Array::new);
    }
    let dtype = promote_or_error("contract", a.dtype(), b.dtype())?;
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
    if a.dtype() == b.dtype() && dtype != DType::I8 {
        return contract(py, &op, a, b);
    }
    let made = contract(py, &op, a, b)?.tensor(py);
    cast(py, &made, dtype).map(Array::new)
}

/// The labels of one operand of a matrix product.
#[derive(Clone, Copy)]
struct Labels {
    numbers: [u8; RANK_MAX + 2],
    len: usize,
}

impl Labels {
    /// Those of the axes before the last two, the innermost first in number and last in place.
    fn stack(rank: usize) -> Labels {
        let len = rank.saturating_sub(2);
        Labels {
            numbers: std::array::from_fn(|axis| 2 + len.saturating_sub(axis) as u8),
            len,
        }
    }

    fn push(&mut self, label: u8) {
        self.numbers[self.len] = label;
        self.len += 1;
    }

    fn list(&self) -> &[u8] {
        &self.numbers[..self.len]
    }
}

/// Matrix product by the standard's rules: vectors and stacks of matrices, stacks broadcast against each other.
pub fn matmul(py: Python<'_>, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<Array> {
    let (a, b) = (array_argument("matmul", a)?, array_argument("matmul", b)?);
    let (rank_a, rank_b) = (a.shape().rank(), b.shape().rank());
    if rank_a == 0 || rank_b == 0 {
        return Err(value_error(format!(
            "matmul needs at least one axis in each operand: {} and {}",
            a.shape(),
            b.shape()
        )));
    }
    let inner = (a.shape()[rank_a - 1], b.shape()[rank_b.max(2) - 2]);
    if inner.0 != inner.1 {
        return Err(value_error(format!(
            "matmul: shapes {} and {} do not fit: the inner sizes are {} and {}",
            a.shape(),
            b.shape(),
            inner.0,
            inner.1
        )));
    }
    // Labels: 0 the inner axis, 1 rows, 2 columns, 3.. the stacks from the innermost outwards.
    let (mut of_a, mut of_b) = (Labels::stack(rank_a), Labels::stack(rank_b));
    let mut out = match rank_a >= rank_b {
        true => of_a,
        false => of_b,
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
    for k in 0..rank_a.min(rank_b).saturating_sub(2) {
        let (x, y) = (a.shape()[rank_a - 3 - k], b.shape()[rank_b - 3 - k]);
        if x != y && x != 1 && y != 1 {
            return Err(value_error(format!(
                "matmul: the stacks of shapes {} and {} cannot be broadcast together",
                a.shape(),
                b.shape()
            )));
        }
    }
    product(py, &a, &b, of_a.list(), of_b.list(), out.list())
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

/// Adds everything here to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! add {
        ($($name:ident)*) => { $(module.add_function(wrap_pyfunction!($name, module)?)?;)* };
    }
    add! {
        contract_labelled contract_numbers matmul_function matrix_transpose
    }
    Ok(())
}
