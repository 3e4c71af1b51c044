//! `TENSORD_DEBUG=sync,nan`: trades speed for errors at the line that caused them.
//!
//! `sync` waits after each operation, so that what would fail later fails at the call. `nan` also looks into each result
//! and stops at the first that has a NaN. Both are for finding a fault, not for running.

use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::exceptions::PyFloatingPointError;
use pyo3::prelude::*;
use tensord_client::{Session, Site, Tensor};
use tensord_shm::dtype::Scalar;
use tensord_shm::op::{AxisSet, Elementwise, Op, Operand, Reduction};

use crate::errors;

const SYNC: u8 = 1;
const NAN: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(0);

/// Sets what is checked, from a list of words with commas; gives those that it does not know.
#[pyfunction]
pub fn set_debug(words: &str) -> Vec<String> {
    let (mut mode, mut unknown) = (0, Vec::new());
    for word in words
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match word {
            "sync" => mode |= SYNC,
            "nan" => mode |= SYNC | NAN,
            other => unknown.push(other.to_owned()),
        }
    }
    MODE.store(mode, Ordering::Relaxed);
    unknown
}

/// Is anything to be checked?
#[inline]
pub fn is_on() -> bool {
    MODE.load(Ordering::Relaxed) != 0
}

/// Checks the result of an operation.
#[cold]
pub fn check(
    py: Python<'_>,
    session: &Session,
    op: &str,
    tensor: &Tensor,
    site: Site,
) -> PyResult<()> {
    let wrong = |error| errors::later(py, error);
    py.detach(|| tensor.wait()).map_err(wrong)?;
    let mode = MODE.load(Ordering::Relaxed);
    if mode & NAN == 0 || !tensor.dtype().is_float() {
        return Ok(());
    }
    let any = Op::Reduce {
        kind: Reduction::Any,
        axes: AxisSet::all(tensor.shape().rank()),
        keep: false,
    };
    let found = py.detach(|| {
        let flags = session.elementwise(Elementwise::IsNan, &[Operand::Tensor(tensor)], site)?;
        let found = session.submit(&any, &[Operand::Tensor(&flags)], [Scalar(0); 2], site)?;
        found.item::<bool>()
    });
    match found.map_err(wrong)? {
        false => Ok(()),
        true => Err(PyFloatingPointError::new_err(format!(
            "{op} gave a NaN (result of shape {}, {}){}",
            tensor.shape(),
            tensor.dtype(),
            site.place()
                .map(|place| format!(", asked for at {place}"))
                .unwrap_or_default(),
        ))),
    }
}
