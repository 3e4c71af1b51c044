//! Shapes, axes and per-axis numbers as Python writes them: ints, tuples, lists, negative counts from the end.

use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};
use smallvec::{SmallVec, smallvec};
use tensord_shm::layout::{RANK_MAX, Shape};
use tensord_shm::op::{AxisList, AxisSet};

use crate::errors::{index_error, type_error, value_error};

/// Axes of a reduction.
pub struct Axes {
    /// The axes.
    pub set: AxisSet,
    /// Elements that each result combines.
    pub count: u64,
}

impl Axes {
    /// `None` is every axis; an int or a tuple names some, each once.
    pub fn parse(op: &str, axis: Option<&Bound<'_, PyAny>>, shape: &Shape) -> PyResult<Axes> {
        let rank = shape.rank();
        let Some(axis) = axis.filter(|axis| !axis.is_none()) else {
            return Ok(Axes {
                set: AxisSet::all(rank),
                count: shape.count(),
            });
        };
        let (mut bits, mut count) = (0u16, 1u64);
        for axis in int_list(op, axis)? {
            let axis = axis_number(op, axis, rank, shape)?;
            if bits >> axis & 1 == 1 {
                return Err(value_error(format!("{op}: axis {axis} is named twice")));
            }
            bits |= 1 << axis;
            count *= shape[usize::from(axis)];
        }
        Ok(Axes {
            set: AxisSet(bits),
            count,
        })
    }
}

/// An axis from 0, of one that may count from the end.
pub fn axis_number(op: &str, axis: i64, rank: usize, shape: &Shape) -> PyResult<u8> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at as u8),
        _ => Err(index_error(format!(
            "{op}: axis {axis} is out of range for shape {shape}"
        ))),
    }
}

/// Ints that Python has listed; hardly any list is longer.
pub type Ints = SmallVec<[i64; 4]>;

/// One int, or several in a sequence.
pub fn int_list(op: &str, object: &Bound<'_, PyAny>) -> PyResult<Ints> {
    if object.is_instance_of::<PyInt>() {
        return Ok(smallvec![object.extract()?]);
    }
    let one = |item: Bound<'_, PyAny>| item.extract::<i64>();
    let listed: PyResult<Ints> = match object.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().map(one).collect(),
        Err(_) => match object.try_iter() {
            Ok(items) => items.map(|item| item.and_then(one)).collect(),
            Err(_) => object.extract().map(|value| smallvec![value]),
        },
    };
    listed.map_err(|_| {
        type_error(format!(
            "{op} takes an int or a tuple of ints, not {object}"
        ))
    })
}

/// A shape; with `fill` one size may be -1 and is what makes that many elements.
pub fn shape_of(op: &str, object: &Bound<'_, PyAny>, fill: Option<u64>) -> PyResult<Shape> {
    let mut sizes = int_list(op, object)?;
    if let Some(count) = fill
        && let Some(at) = sizes.iter().position(|&size| size == -1)
    {
        let others: i64 = sizes
            .iter()
            .enumerate()
            .filter(|(k, _)| *k != at)
            .map(|(_, size)| *size)
            .product();
        let fits = others > 0 && count.is_multiple_of(others as u64);
        if !fits {
            return Err(value_error(format!(
                "{op}: {count} elements do not fill the shape {sizes:?}"
            )));
        }
        sizes[at] = (count / others as u64) as i64;
    }
    if let Some(size) = sizes.iter().find(|size| **size < 0) {
        return Err(value_error(format!(
            "{op}: a size of {size} in shape {sizes:?}"
        )));
    }
    let sizes: SmallVec<[u64; 4]> = sizes.iter().map(|&size| size as u64).collect();
    checked_shape(op, &sizes)
}

/// A shape within the bounds of rank and element count.
pub fn checked_shape(op: &str, sizes: &[u64]) -> PyResult<Shape> {
    Shape::new(sizes).ok_or_else(|| {
        value_error(format!(
            "{op}: shape {sizes:?} has more than {RANK_MAX} axes or 2^48 elements"
        ))
    })
}

/// One number for each of `count` axes; nothing given is 1, one number is for all.
pub fn each(
    op: &str,
    what: &str,
    object: Option<&Bound<'_, PyAny>>,
    count: usize,
) -> PyResult<AxisList<u64>> {
    let numbers = match object.filter(|object| !object.is_none()) {
        Some(object) => int_list(op, object)?,
        None => smallvec![1],
    };
    let for_all = numbers.len() == 1;
    if !for_all && numbers.len() != count || numbers.iter().any(|&number| number < 1) {
        return Err(value_error(format!(
            "{op}: {what} must be one number of at least 1, or {count} of them; not {numbers:?}"
        )));
    }
    let number = |axis| numbers[if for_all { 0 } else { axis }] as u64;
    AxisList::collect((0..count).map(number))
        .ok_or_else(|| value_error(format!("{op}: too many axes")))
}

/// Elements before and behind each axis.
pub type Pairs = SmallVec<[(u64, u64); 4]>;

/// A pair (before, behind) for each of `count` axes, from one number, one each, or one pair each.
pub fn pairs(op: &str, object: &Bound<'_, PyAny>, count: usize) -> PyResult<Pairs> {
    let wrong = || {
        value_error(format!(
            "{op}: padding is a number, {count} numbers or {count} pairs, none negative; not {object}"
        ))
    };
    if let Ok(width) = object.extract::<i64>() {
        let width = u64::try_from(width).map_err(|_| wrong())?;
        return Ok(smallvec![(width, width); count]);
    }
    let items: Vec<Bound<'_, PyAny>> = object.try_iter()?.collect::<PyResult<_>>()?;
    if items.len() != count {
        return Err(wrong());
    }
    items
        .iter()
        .map(|item| match item.extract::<i64>() {
            Ok(width) => u64::try_from(width)
                .map(|width| (width, width))
                .map_err(|_| wrong()),
            Err(_) => item.extract::<(u64, u64)>().map_err(|_| wrong()),
        })
        .collect()
}
