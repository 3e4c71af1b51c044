//! `x[key]`: what a key means, and the views that it becomes.
//!
//! Integers, slices, `None` and `...` become one slice and, where axes go or come, one reshape: views, no data moved.
//! One integer array among whole axes becomes a gather. Everything else (several arrays, boolean masks) takes the
//! package's `_indexing` module. Bounds of integers and slices are checked here, at the call; the values of an index
//! array are not known here: the gather itself counts negative ones from the end and reads 0 out of range.

use pyo3::Borrowed;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyEllipsis, PyInt, PySlice, PyTuple};
use smallvec::{SmallVec, smallvec};
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

/// One part of a key, borrowed from it.
enum Item<'a, 'py> {
    Integer(i64),
    Slice(Borrowed<'a, 'py, PySlice>),
    NewAxis,
    Ellipsis,
    Index(Tensor),
}

impl Item<'_, '_> {
    /// Does it stand for an axis of the array?
    fn takes_axis(&self) -> bool {
        !matches!(self, Item::NewAxis | Item::Ellipsis)
    }
}

/// Parts of a key; hardly any has more.
type Items<'a, 'py> = SmallVec<[Item<'a, 'py>; 4]>;

fn item<'a, 'py>(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Option<Item<'a, 'py>>> {
    if let Ok(slice) = object.cast_exact::<PySlice>() {
        return Ok(Some(Item::Slice(slice)));
    }
    if let Ok(value) = object.cast_exact::<PyInt>() {
        let value: i64 = value
            .extract()
            .map_err(|_| index_error(format!("index {} is out of range", *value)))?;
        return Ok(Some(Item::Integer(value)));
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

/// The parts of a key; `None` where one of them is for the Python side.
fn items<'a, 'py>(key: &'a Bound<'py, PyAny>) -> PyResult<Option<Items<'a, 'py>>> {
    let Ok(tuple) = key.cast::<PyTuple>() else {
        return Ok(item(key.as_borrowed())?.map(|one| smallvec![one]));
    };
    let parts = 0..tuple.len();
    parts.map(|k| item(tuple.get_borrowed_item(k)?)).collect()
}

impl Basic {
    /// Of a key for this shape, none of whose parts are resolved yet.
    fn unresolved(shape: &Shape) -> Basic {
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
        basic
    }

    /// Resolves a key against `shape`, once; false where the key needs the Python side.
    fn resolve(&mut self, shape: &Shape, items: &[Item<'_, '_>]) -> PyResult<bool> {
        let named = items.iter().filter(|one| one.takes_axis()).count();
        if named > shape.rank() {
            return Err(index_error(format!(
                "too many indices: {named} for an array of shape {shape}"
            )));
        }
        let arrays = items.iter().filter(|one| matches!(one, Item::Index(_)));
        if arrays.count() > 1 {
            return Ok(false);
        }
        let mut rest = Some(shape.rank() - named);
        let mut axis = 0;
        for one in items {
            if self.out_rank == RANK_MAX {
                return Err(index_error(format!(
                    "the result would have more than {RANK_MAX} axes"
                )));
            }
            match one {
                Item::Integer(value) => {
                    self.integer(shape, axis, *value)?;
                    axis += 1;
                }
                Item::Slice(slice) => {
                    self.slice(shape, axis, *slice)?;
                    axis += 1;
                }
                Item::NewAxis => {
                    self.push(1);
                    self.reshapes = true;
                }
                Item::Ellipsis => {
                    let count = rest.take().ok_or_else(|| {
                        PyIndexError::new_err("an index can have one ellipsis ('...')")
                    })?;
                    self.whole(shape, &mut axis, count)?;
                }
                Item::Index(tensor) => {
                    self.gather = Some((tensor.clone(), axis));
                    self.push(shape[axis]);
                    axis += 1;
                }
            }
        }
        let count = rest.unwrap_or(0);
        self.whole(shape, &mut axis, count)?;
        // An index array beside axes that go or come would need its axis followed through the reshape.
        Ok(self.gather.is_none() || !self.reshapes)
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

    fn slice(
        &mut self,
        shape: &Shape,
        axis: usize,
        slice: Borrowed<'_, '_, PySlice>,
    ) -> PyResult<()> {
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
    if let Some(items) = items(key)? {
        let mut basic = Basic::unresolved(tensor.shape());
        if basic.resolve(tensor.shape(), &items)? {
            return Ok(Py::new(py, Array::new(basic.apply(py, tensor)?))?.into_any());
        }
    }
    Ok(support(py)?.call_method1("getitem", (array, key))?.unbind())
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
