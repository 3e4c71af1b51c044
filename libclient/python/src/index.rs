//! `x[key]`: what a key means, and the views that it becomes.
//!
//! Integers, slices, `None` and `...` become one slice and, where axes go or come, one reshape: views, no data moved.
//! One integer array among whole axes becomes a gather. Everything else (several arrays, boolean masks) takes the
//! package's `_indexing` module. Bounds of integers and slices are checked here, at the call; the values of an index
//! array are not known here: the gather itself counts negative ones from the end and reads 0 out of range.

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyEllipsis, PyInt, PySlice, PyTuple};
use tensord_client::Tensor;
use tensord_shm::dtype::DType;
use tensord_shm::layout::{RANK_MAX, Shape};
use tensord_shm::op::{AxisList, Op, Operand};

use crate::array::Array;
use crate::errors::{index_error, type_error};
use crate::operators::NONE;
use crate::session::{cast, compute};

/// The package's Python side of indexing and display.
pub fn support(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || {
        py.import("tensord._indexing")
            .map(|m| m.into_any().unbind())
    })?;
    Ok(module.bind(py))
}

/// A key of integers, slices, `None` and one `...`, resolved against a shape.
pub struct Basic {
    starts: [i64; RANK_MAX],
    steps: [i64; RANK_MAX],
    lens: [u64; RANK_MAX],
    /// Does the slice leave anything out or turn anything round?
    slices: bool,
    out: [u64; RANK_MAX],
    out_rank: usize,
    /// Do axes go or come?
    reshapes: bool,
    /// The one integer array, and the input axis that it indexes.
    gather: Option<(Tensor, usize)>,
}

enum Item<'py> {
    Integer(i64),
    Slice(Bound<'py, PySlice>),
    NewAxis,
    Ellipsis,
    Index(Tensor),
}

fn item<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Item<'py>>> {
    if let Ok(value) = object.cast_exact::<PyInt>() {
        let value: i64 = value
            .extract()
            .map_err(|_| index_error(format!("index {value} is out of range")))?;
        return Ok(Some(Item::Integer(value)));
    }
    if let Ok(slice) = object.cast::<PySlice>() {
        return Ok(Some(Item::Slice(slice.clone())));
    }
    if object.is_none() {
        return Ok(Some(Item::NewAxis));
    }
    if object.is_instance_of::<PyEllipsis>() {
        return Ok(Some(Item::Ellipsis));
    }
    if let Ok(array) = object.cast_exact::<Array>() {
        let tensor = array.get().tensor(object.py());
        return match tensor.dtype() {
            dtype if dtype.is_integer() => Ok(Some(Item::Index(tensor))),
            DType::Bool => Ok(None),
            dtype => Err(type_error(format!(
                "arrays of {dtype} cannot index; integers and bool can"
            ))),
        };
    }
    if object.is_instance_of::<PyBool>() {
        return Ok(None);
    }
    // NumPy's integers and the like; sequences and foreign arrays are for the Python side.
    if !object.hasattr("__len__")? && object.hasattr("__index__")? {
        let value = object.call_method0("__index__")?;
        return Ok(Some(Item::Integer(value.extract()?)));
    }
    Ok(None)
}

impl Basic {
    /// Resolves `key` against `shape`; `None` where the key needs the Python side.
    fn parse(shape: &Shape, key: &Bound<'_, PyAny>) -> PyResult<Option<Basic>> {
        let mut basic = Basic {
            starts: [0; RANK_MAX],
            steps: [1; RANK_MAX],
            lens: [0; RANK_MAX],
            slices: false,
            out: [0; RANK_MAX],
            out_rank: 0,
            reshapes: false,
            gather: None,
        };
        basic.lens[..shape.rank()].copy_from_slice(shape);
        let mut items: Vec<Item<'_>> = Vec::with_capacity(4);
        match key.cast::<PyTuple>() {
            Err(_) => match item(key)? {
                Some(one) => items.push(one),
                None => return Ok(None),
            },
            Ok(tuple) => {
                for object in tuple.iter() {
                    match item(&object)? {
                        Some(one) => items.push(one),
                        None => return Ok(None),
                    }
                }
            }
        }
        let takes_axis =
            |item: &Item<'_>| matches!(item, Item::Integer(_) | Item::Slice(_) | Item::Index(_));
        let named = items.iter().filter(|one| takes_axis(one)).count();
        if named > shape.rank() {
            return Err(index_error(format!(
                "too many indices: {named} for an array of shape {shape}"
            )));
        }
        if items
            .iter()
            .filter(|one| matches!(one, Item::Index(_)))
            .count()
            > 1
        {
            return Ok(None);
        }
        let mut rest = Some(shape.rank() - named);
        let mut axis = 0;
        for one in &items {
            if basic.out_rank == RANK_MAX {
                return Err(index_error(format!(
                    "the result would have more than {RANK_MAX} axes"
                )));
            }
            match one {
                Item::Integer(value) => {
                    basic.integer(shape, axis, *value)?;
                    axis += 1;
                }
                Item::Slice(slice) => {
                    basic.slice(shape, axis, slice)?;
                    axis += 1;
                }
                Item::NewAxis => {
                    basic.push(1);
                    basic.reshapes = true;
                }
                Item::Ellipsis => {
                    let count = rest.take().ok_or_else(|| {
                        PyIndexError::new_err("an index can have one ellipsis ('...')")
                    })?;
                    basic.whole(shape, &mut axis, count)?;
                }
                Item::Index(tensor) => {
                    basic.gather = Some((tensor.clone(), axis));
                    basic.push(shape[axis]);
                    axis += 1;
                }
            }
        }
        let count = rest.unwrap_or(0);
        basic.whole(shape, &mut axis, count)?;
        // An index array beside axes that go or come would need its axis followed through the reshape.
        Ok((basic.gather.is_none() || !basic.reshapes).then_some(basic))
    }

    fn push(&mut self, size: u64) {
        self.out[self.out_rank] = size;
        self.out_rank += 1;
    }

    fn whole(&mut self, shape: &Shape, axis: &mut usize, count: usize) -> PyResult<()> {
        if self.out_rank + count > RANK_MAX {
            return Err(index_error(format!(
                "the result would have more than {RANK_MAX} axes"
            )));
        }
        for _ in 0..count {
            self.push(shape[*axis]);
            *axis += 1;
        }
        Ok(())
    }

    fn integer(&mut self, shape: &Shape, axis: usize, value: i64) -> PyResult<()> {
        let size = shape[axis] as i64;
        let at = if value < 0 { value + size } else { value };
        if !(0..size).contains(&at) {
            return Err(index_error(format!(
                "index {value} is out of range for axis {axis} of size {size} (shape {shape})"
            )));
        }
        self.starts[axis] = at;
        self.lens[axis] = 1;
        self.slices = true;
        self.reshapes = true;
        Ok(())
    }

    fn slice(&mut self, shape: &Shape, axis: usize, slice: &Bound<'_, PySlice>) -> PyResult<()> {
        let size = shape[axis];
        let found = slice.indices(size as isize)?;
        let len = found.slicelength as u64;
        if len == size && found.step == 1 {
            self.push(size);
            return Ok(());
        }
        self.starts[axis] = if len == 0 { 0 } else { found.start as i64 };
        self.steps[axis] = if len <= 1 { 1 } else { found.step as i64 };
        self.lens[axis] = len;
        self.slices = true;
        self.push(len);
        Ok(())
    }

    fn apply(&self, py: Python<'_>, tensor: Tensor) -> PyResult<Tensor> {
        let rank = tensor.shape().rank();
        let mut tensor = tensor;
        if self.slices {
            let why = "the lists have the tensor's rank";
            let op = Op::Slice {
                starts: AxisList::new(&self.starts[..rank]).expect(why),
                steps: AxisList::new(&self.steps[..rank]).expect(why),
                lens: AxisList::new(&self.lens[..rank]).expect(why),
            };
            tensor = compute(py, &op, &[Operand::Tensor(&tensor)], NONE)?;
        }
        if self.reshapes {
            let shape = Shape::new(&self.out[..self.out_rank])
                .ok_or_else(|| PyValueError::new_err("too many elements"))?;
            tensor = compute(py, &Op::Reshape(shape), &[Operand::Tensor(&tensor)], NONE)?;
        }
        if let Some((index, axis)) = &self.gather {
            let index = cast(py, index, DType::I64)?;
            let op = Op::Gather { axis: *axis as u8 };
            tensor = compute(
                py,
                &op,
                &[Operand::Tensor(&tensor), Operand::Tensor(&index)],
                NONE,
            )?;
        }
        Ok(tensor)
    }
}

/// `array[key]`.
pub fn get(array: &Bound<'_, Array>, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = array.py();
    let tensor = array.get().tensor(py);
    match Basic::parse(tensor.shape(), key)? {
        Some(basic) => Ok(Py::new(py, Array::new(basic.apply(py, tensor)?))?.into_any()),
        None => Ok(support(py)?.call_method1("getitem", (array, key))?.unbind()),
    }
}

/// `array[key] = value`: the array names a new tensor from now on, made from the old one.
pub fn set(
    array: &Bound<'_, Array>,
    key: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    support(array.py())?
        .call_method1("setitem", (array, key, value))
        .map(drop)
}
