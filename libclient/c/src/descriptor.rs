//! The descriptor of an operation, as a C program fills it, and what operation it means.
//!
//! One structure serves all of them, so that the interface does not grow with the table. Which fields a kind reads stands
//! beside the kind; what it does not read is not looked at.

#![allow(
    non_camel_case_types,
    reason = "these are the names that C programs write"
)]

use std::ffi::c_char;

use tensord_client::{
    Arg, AxisList, AxisSet, Code, Distribution, Elementwise, Error, Meta, OPERANDS_MAX, Op,
    Operand, Reduction, Scalar, Scan, ScatterMode, Shape, parse_contract,
};

use crate::guard::{array, bad, null, reference, text};
use crate::tensor::{dtype_of, shape_of, tensord_tensor};

/// Kind of an operation: what `tensord_op.kind` holds. Beside each: operands; fields read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum tensord_kind {
    /// 1 to 3, broadcast; `function`: a number of the elementwise table.
    TENSORD_OP_ELEMENTWISE = 0,
    /// 1; `dtype`.
    TENSORD_OP_CAST = 1,
    /// 1; `function`: `tensord_reduction`, `axes`: one bit for each, `keep`.
    TENSORD_OP_REDUCE = 2,
    /// 1; `function`: 0 sum, 1 product; `axis`.
    TENSORD_OP_SCAN = 3,
    /// 2; `labels`, as "ik,kj->ij".
    TENSORD_OP_CONTRACT = 4,
    /// 1; `a`: the sizes, `count` of them.
    TENSORD_OP_RESHAPE = 5,
    /// 1; `a`: the input axis of each output axis.
    TENSORD_OP_PERMUTE = 6,
    /// 1; `a` starts, `b` steps, `c` lengths, of each axis.
    TENSORD_OP_SLICE = 7,
    /// 1; `a`: the sizes.
    TENSORD_OP_EXPAND = 8,
    /// 1; `a` axes, `b` sizes, `c` strides, `d` dilations; NULL for the last two is 1.
    TENSORD_OP_WINDOW = 9,
    /// 1; `a` before, `b` behind, of each axis; `immediates[0]`: the fill.
    TENSORD_OP_PAD = 10,
    /// 1 to 32; `axis`.
    TENSORD_OP_CONCAT = 11,
    /// 2, a tensor and int64 indices; `axis`.
    TENSORD_OP_GATHER = 12,
    /// 3, a tensor, int64 indices, updates; `axis`, `function`: 0 replace, 1 add.
    TENSORD_OP_SCATTER = 13,
    /// 1.
    TENSORD_OP_COPY = 14,
    /// None; `dtype`, `a`: the sizes, `immediates[0]`: the value.
    TENSORD_OP_FULL = 15,
    /// None; `dtype`, `a`: the sizes, `axis`, `immediates`: start and step.
    TENSORD_OP_IOTA = 16,
    /// None; `dtype`, `a`: the sizes, `function`: 0 bits, 1 uniform, 2 normal; `key`.
    TENSORD_OP_RANDOM = 17,
}

const KINDS: [tensord_kind; 18] = {
    use tensord_kind::*;
    [
        TENSORD_OP_ELEMENTWISE,
        TENSORD_OP_CAST,
        TENSORD_OP_REDUCE,
        TENSORD_OP_SCAN,
        TENSORD_OP_CONTRACT,
        TENSORD_OP_RESHAPE,
        TENSORD_OP_PERMUTE,
        TENSORD_OP_SLICE,
        TENSORD_OP_EXPAND,
        TENSORD_OP_WINDOW,
        TENSORD_OP_PAD,
        TENSORD_OP_CONCAT,
        TENSORD_OP_GATHER,
        TENSORD_OP_SCATTER,
        TENSORD_OP_COPY,
        TENSORD_OP_FULL,
        TENSORD_OP_IOTA,
        TENSORD_OP_RANDOM,
    ]
};

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum tensord_reduction {
    /// Sum.
    TENSORD_REDUCE_SUM = 0,
    /// Product.
    TENSORD_REDUCE_PROD = 1,
    /// Least.
    TENSORD_REDUCE_MIN = 2,
    /// Greatest.
    TENSORD_REDUCE_MAX = 3,
    /// Is any other than 0?
    TENSORD_REDUCE_ANY = 4,
    /// Are all other than 0?
    TENSORD_REDUCE_ALL = 5,
    /// Index of the first least.
    TENSORD_REDUCE_ARGMIN = 6,
    /// Index of the first greatest.
    TENSORD_REDUCE_ARGMAX = 7,
}

impl From<Reduction> for tensord_reduction {
    fn from(kind: Reduction) -> tensord_reduction {
        use tensord_reduction::*;
        match kind {
            Reduction::Sum => TENSORD_REDUCE_SUM,
            Reduction::Prod => TENSORD_REDUCE_PROD,
            Reduction::Min => TENSORD_REDUCE_MIN,
            Reduction::Max => TENSORD_REDUCE_MAX,
            Reduction::Any => TENSORD_REDUCE_ANY,
            Reduction::All => TENSORD_REDUCE_ALL,
            Reduction::ArgMin => TENSORD_REDUCE_ARGMIN,
            Reduction::ArgMax => TENSORD_REDUCE_ARGMAX,
        }
    }
}

/// An operation with its attributes. Set all of it to zero, then the fields that its kind reads.
#[repr(C)]
pub struct tensord_op {
    /// One of `tensord_kind`.
    pub kind: u32,
    /// Which one of that kind.
    pub function: u32,
    /// One of `tensord_dtype`, where the operation makes or changes one.
    pub dtype: u32,
    /// The axis, where there is one.
    pub axis: u32,
    /// Axes, one bit each.
    pub axes: u32,
    /// Keep reduced axes with size 1.
    pub keep: bool,
    /// Length of each list below.
    pub count: usize,
    /// First list.
    pub a: *const i64,
    /// Second list.
    pub b: *const i64,
    /// Third list.
    pub c: *const i64,
    /// Fourth list.
    pub d: *const i64,
    /// Labels of a contraction.
    pub labels: *const c_char,
    /// Numbers that belong to the operation, rounded to the dtype of its result.
    pub immediates: [f64; 2],
    /// Key of random numbers.
    pub key: u64,
}

/// An operand: a tensor, or, where `tensor` is NULL, a number of a dtype.
#[repr(C)]
pub struct tensord_operand {
    /// The tensor, or NULL.
    pub tensor: *const tensord_tensor,
    /// Dtype of the number, one of `tensord_dtype`.
    pub dtype: u32,
    /// The number, rounded to that dtype.
    pub number: f64,
}

fn list<T: Copy + Default + TryFrom<i64>>(items: &[i64], what: &str) -> Result<AxisList<T>, Error> {
    let converted = items
        .iter()
        .map(|&item| T::try_from(item).map_err(|_| bad(what, item)))
        .collect::<Result<Vec<T>, Error>>()?;
    AxisList::new(&converted).ok_or_else(|| bad(what, format!("{} values long", items.len())))
}

/// The lists of a descriptor.
struct Lists<'a>([Option<&'a [i64]>; 4]);

impl Lists<'_> {
    /// # Safety
    /// Each list of `op` is NULL or `count` readable numbers.
    unsafe fn of(op: &tensord_op) -> Result<Self, Error> {
        let mut lists = [None; 4];
        for (list, (pointer, name)) in lists.iter_mut().zip([
            (op.a, "list a"),
            (op.b, "list b"),
            (op.c, "list c"),
            (op.d, "list d"),
        ]) {
            if !pointer.is_null() || op.count == 0 {
                // SAFETY: the caller's duty.
                *list = Some(unsafe { array(pointer, op.count, name) }?);
            }
        }
        Ok(Lists(lists))
    }

    fn get<T: Copy + Default + TryFrom<i64>>(&self, which: usize) -> Result<AxisList<T>, Error> {
        const NAMES: [&str; 4] = ["list a", "list b", "list c", "list d"];
        list(
            self.0[which].ok_or_else(|| null(NAMES[which]))?,
            NAMES[which],
        )
    }

    fn get_or_ones(&self, which: usize, count: usize) -> Result<AxisList<u64>, Error> {
        match self.0[which] {
            Some(_) => self.get(which),
            None => list(&vec![1; count], "count"),
        }
    }

    fn shape(&self) -> Result<Shape, Error> {
        let sizes = self.get::<u64>(0)?;
        // SAFETY: the pointer and the length of one list.
        unsafe { shape_of(sizes.as_ptr(), sizes.len()) }
    }
}

fn axis_of(op: &tensord_op) -> Result<u8, Error> {
    u8::try_from(op.axis).map_err(|_| bad("axis", op.axis))
}

pub(crate) fn reduction_of(number: u32) -> Result<Reduction, Error> {
    Reduction::ALL
        .into_iter()
        .find(|&kind| tensord_reduction::from(kind) as u32 == number)
        .ok_or_else(|| bad("reduction", number))
}

pub(crate) fn elementwise_of(number: u32) -> Result<Elementwise, Error> {
    u16::try_from(number)
        .ok()
        .and_then(Elementwise::from_wire)
        .ok_or_else(|| bad("elementwise function", number))
}

/// The operation that a descriptor writes.
///
/// # Safety
/// Each list is NULL or `count` readable numbers; `labels` is NULL or a C string.
pub(crate) unsafe fn op_of(op: &tensord_op) -> Result<Op, Error> {
    // SAFETY: the caller's duty.
    let lists = unsafe { Lists::of(op) }?;
    let meta = || -> Result<Meta, Error> {
        Ok(Meta {
            dtype: dtype_of(op.dtype)?,
            shape: lists.shape()?,
        })
    };
    use tensord_kind::*;
    let kind = KINDS.into_iter().find(|&kind| kind as u32 == op.kind);
    Ok(match kind.ok_or_else(|| bad("kind", op.kind))? {
        TENSORD_OP_ELEMENTWISE => Op::Elementwise(elementwise_of(op.function)?),
        TENSORD_OP_CAST => Op::Cast(dtype_of(op.dtype)?),
        TENSORD_OP_REDUCE => Op::Reduce {
            kind: reduction_of(op.function)?,
            axes: AxisSet(u16::try_from(op.axes).map_err(|_| bad("axes", op.axes))?),
            keep: op.keep,
        },
        TENSORD_OP_SCAN => Op::Scan {
            kind: match op.function {
                0 => Scan::Sum,
                1 => Scan::Prod,
                other => return Err(bad("scan", other)),
            },
            axis: axis_of(op)?,
        },
        TENSORD_OP_CONTRACT => {
            // SAFETY: the caller's duty.
            let labels = unsafe { text(op.labels, "labels") }?;
            parse_contract(labels.ok_or_else(|| null("labels"))?)?
        }
        TENSORD_OP_RESHAPE => Op::Reshape(lists.shape()?),
        TENSORD_OP_PERMUTE => Op::Permute(lists.get(0)?),
        TENSORD_OP_SLICE => Op::Slice {
            starts: lists.get(0)?,
            steps: lists.get(1)?,
            lens: lists.get(2)?,
        },
        TENSORD_OP_EXPAND => Op::Expand(lists.shape()?),
        TENSORD_OP_WINDOW => Op::Window {
            axes: lists.get(0)?,
            sizes: lists.get(1)?,
            strides: lists.get_or_ones(2, op.count)?,
            dilations: lists.get_or_ones(3, op.count)?,
        },
        TENSORD_OP_PAD => Op::Pad {
            low: lists.get(0)?,
            high: lists.get(1)?,
        },
        TENSORD_OP_CONCAT => Op::Concat { axis: axis_of(op)? },
        TENSORD_OP_GATHER => Op::Gather { axis: axis_of(op)? },
        TENSORD_OP_SCATTER => Op::Scatter {
            axis: axis_of(op)?,
            mode: match op.function {
                0 => ScatterMode::Replace,
                1 => ScatterMode::Add,
                other => return Err(bad("scatter mode", other)),
            },
        },
        TENSORD_OP_COPY => Op::Copy,
        TENSORD_OP_FULL => Op::Full(meta()?),
        TENSORD_OP_IOTA => Op::Iota {
            meta: meta()?,
            axis: axis_of(op)?,
        },
        TENSORD_OP_RANDOM => Op::Random {
            meta: meta()?,
            distribution: match op.function {
                0 => Distribution::Bits,
                1 => Distribution::Uniform,
                2 => Distribution::Normal,
                other => return Err(bad("distribution", other)),
            },
        },
    })
}

pub(crate) fn immediates_of(op: &Op, descriptor: &tensord_op, operands: &[Arg<'_>]) -> [Scalar; 2] {
    let dtype = match (op, operands.first()) {
        (Op::Random { .. }, _) => return [Scalar(descriptor.key), Scalar(0)],
        (Op::Full(meta) | Op::Iota { meta, .. }, _) => meta.dtype,
        (_, Some(Operand::Tensor(tensor))) => tensor.dtype(),
        (_, Some(Operand::Immediate(dtype, _))) => *dtype,
        (_, None) => return [Scalar(0); 2],
    };
    descriptor
        .immediates
        .map(|number| Scalar::from_f64(number, dtype))
}

/// # Safety
/// `operands` is `count` operands whose tensors are NULL or not freed.
pub(crate) unsafe fn operands_of<'a>(
    operands: *const tensord_operand,
    count: usize,
) -> Result<Vec<Arg<'a>>, Error> {
    if count > OPERANDS_MAX {
        return Err(Error::new(
            Code::Attribute,
            format!("{count} operands; at most {OPERANDS_MAX}"),
        ));
    }
    // SAFETY: the caller's duty.
    let operands = unsafe { array(operands, count, "operands") }?;
    operands
        .iter()
        .map(|operand| {
            if operand.tensor.is_null() {
                let dtype = dtype_of(operand.dtype)?;
                let number = Scalar::from_f64(operand.number, dtype);
                return Ok(Operand::Immediate(dtype, number));
            }
            // SAFETY: not NULL; not freed by the caller's duty.
            let tensor = unsafe { reference(operand.tensor, "tensor") }?;
            Ok(Operand::Tensor(&tensor.0))
        })
        .collect()
}
