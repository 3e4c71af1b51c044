//! Operations of the C interface: one descriptor for all of them, and functions for those written most.

#![allow(
    non_camel_case_types,
    reason = "these are the names that C programs write"
)]

use std::ffi::{CStr, c_char};
use std::ptr;

use tensord_client::{
    Arg, AxisList, AxisSet, Code, Distribution, Elementwise, Error, Meta, OPERANDS_MAX, Op,
    Operand, Reduction, Scalar, Scan, ScatterMode, Site, parse_contract,
};

use crate::codes::{from_number, tensord_code};
use crate::guard::{array, bad, call, null, reference, text};
use crate::session::tensord_session;
use crate::tensor::{dtype_of, put_tensor, shape_of, tensord_tensor};

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

from_number!(tensord_kind: TENSORD_OP_ELEMENTWISE TENSORD_OP_CAST TENSORD_OP_REDUCE TENSORD_OP_SCAN TENSORD_OP_CONTRACT TENSORD_OP_RESHAPE TENSORD_OP_PERMUTE TENSORD_OP_SLICE TENSORD_OP_EXPAND TENSORD_OP_WINDOW TENSORD_OP_PAD TENSORD_OP_CONCAT TENSORD_OP_GATHER TENSORD_OP_SCATTER TENSORD_OP_COPY TENSORD_OP_FULL TENSORD_OP_IOTA TENSORD_OP_RANDOM);

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

from_number!(tensord_reduction: TENSORD_REDUCE_SUM TENSORD_REDUCE_PROD TENSORD_REDUCE_MIN TENSORD_REDUCE_MAX TENSORD_REDUCE_ANY TENSORD_REDUCE_ALL TENSORD_REDUCE_ARGMIN TENSORD_REDUCE_ARGMAX);

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

    fn shape(&self) -> Result<tensord_client::Shape, Error> {
        let sizes = self.get::<u64>(0)?;
        // SAFETY: the pointer and the length of one list.
        unsafe { shape_of(sizes.as_ptr(), sizes.len()) }
    }
}

fn axis_of(op: &tensord_op) -> Result<u8, Error> {
    u8::try_from(op.axis).map_err(|_| bad("axis", op.axis))
}

fn reduction_of(number: u32) -> Result<Reduction, Error> {
    Ok(
        match tensord_reduction::from_number(number).ok_or_else(|| bad("reduction", number))? {
            tensord_reduction::TENSORD_REDUCE_SUM => Reduction::Sum,
            tensord_reduction::TENSORD_REDUCE_PROD => Reduction::Prod,
            tensord_reduction::TENSORD_REDUCE_MIN => Reduction::Min,
            tensord_reduction::TENSORD_REDUCE_MAX => Reduction::Max,
            tensord_reduction::TENSORD_REDUCE_ANY => Reduction::Any,
            tensord_reduction::TENSORD_REDUCE_ALL => Reduction::All,
            tensord_reduction::TENSORD_REDUCE_ARGMIN => Reduction::ArgMin,
            tensord_reduction::TENSORD_REDUCE_ARGMAX => Reduction::ArgMax,
        },
    )
}

fn elementwise_of(number: u32) -> Result<Elementwise, Error> {
    u16::try_from(number)
        .ok()
        .and_then(Elementwise::from_wire)
        .ok_or_else(|| bad("elementwise function", number))
}

/// The operation that a descriptor writes.
///
/// # Safety
/// Each list is NULL or `count` readable numbers; `labels` is NULL or a C string.
unsafe fn op_of(op: &tensord_op) -> Result<Op, Error> {
    // SAFETY: the caller's duty.
    let lists = unsafe { Lists::of(op) }?;
    let meta = || -> Result<Meta, Error> {
        Ok(Meta {
            dtype: dtype_of(op.dtype)?,
            shape: lists.shape()?,
        })
    };
    use tensord_kind::*;
    Ok(
        match tensord_kind::from_number(op.kind).ok_or_else(|| bad("kind", op.kind))? {
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
        },
    )
}

fn immediates_of(op: &Op, descriptor: &tensord_op, operands: &[Arg<'_>]) -> [Scalar; 2] {
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
unsafe fn operands_of<'a>(
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

/// Submits an operation. The result is a tensor at once; what fails later is found where its value is needed. `file` and
/// `line`, which may be NULL and 0, say where in the program: errors name it.
///
/// # Safety
/// `session` is open, `op` and its lists are readable, `operands` is `count` operands whose tensors are not freed,
/// `file` is NULL or a C string, `tensor` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_submit(
    session: *const tensord_session,
    op: *const tensord_op,
    operands: *const tensord_operand,
    count: usize,
    file: *const c_char,
    line: u32,
    tensor: *mut *mut tensord_tensor,
) -> tensord_code {
    call(|| {
        if tensor.is_null() {
            return Err(null("the place for the tensor"));
        }
        // SAFETY: the caller's duty.
        let session = unsafe { reference(session, "session") }?;
        // SAFETY: the caller's duty.
        let descriptor = unsafe { reference(op, "op") }?;
        // SAFETY: the caller's duty.
        let operands = unsafe { operands_of(operands, count) }?;
        // SAFETY: the caller's duty.
        let op = unsafe { op_of(descriptor) }?;
        // SAFETY: the caller's duty.
        let site = unsafe { text(file, "file") }?.map_or(Site::UNKNOWN, |f| Site::intern(f, line));
        let made = match op {
            Op::Elementwise(function) => session.0.elementwise(function, &operands, site)?,
            _ => {
                let immediates = immediates_of(&op, descriptor, &operands);
                session.0.submit(&op, &operands, immediates, site)?
            }
        };
        // SAFETY: the caller's duty.
        unsafe { put_tensor(tensor, made) }
    })
}

/// The number of an elementwise function by its name ("add", "exp"); 0 where there is none.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_elementwise_by_name(name: *const c_char) -> u32 {
    crate::guard::value(0, || {
        // SAFETY: the caller's duty.
        let name: &CStr = unsafe { name.as_ref().map(|name| CStr::from_ptr(name)) }?;
        let found = Elementwise::ALL
            .iter()
            .find(|function| function.info().name.as_bytes() == name.to_bytes())?;
        Some(u32::from(found.wire()))
    })
}

/// # Safety
/// As for `tensord_submit`; all tensors belong to the session of the first.
unsafe fn on_tensors(
    op: impl FnOnce() -> Result<Op, Error>,
    tensors: &[*const tensord_tensor],
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    call(|| {
        if out.is_null() {
            return Err(null("the place for the tensor"));
        }
        let tensors = tensors
            .iter()
            // SAFETY: the caller's duty.
            .map(|&tensor| unsafe { reference(tensor, "tensor") })
            .collect::<Result<Vec<_>, Error>>()?;
        let first = tensors.first().ok_or_else(|| null("tensors"))?;
        let operands: Vec<Arg<'_>> = tensors.iter().map(|t| Operand::Tensor(&t.0)).collect();
        let session = first.0.acting()?;
        let made = match op()? {
            Op::Elementwise(function) => session.elementwise(function, &operands, Site::UNKNOWN)?,
            op => session.submit(&op, &operands, [Scalar(0); 2], Site::UNKNOWN)?,
        };
        // SAFETY: the caller's duty.
        unsafe { put_tensor(out, made) }
    })
}

/// An elementwise function of one tensor, such as `TENSORD_FN_EXP`.
///
/// # Safety
/// `x` is not freed, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_unary(
    function: u32,
    x: *const tensord_tensor,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    // SAFETY: the caller's duty.
    unsafe { on_tensors(|| elementwise_of(function).map(Op::Elementwise), &[x], out) }
}

/// An elementwise function of two tensors, broadcast, such as `TENSORD_FN_ADD`.
///
/// # Safety
/// `a` and `b` are not freed, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_binary(
    function: u32,
    a: *const tensord_tensor,
    b: *const tensord_tensor,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    // SAFETY: the caller's duty.
    unsafe {
        on_tensors(
            || elementwise_of(function).map(Op::Elementwise),
            &[a, b],
            out,
        )
    }
}

/// An elementwise function of a tensor and a number, which is rounded to the tensor's dtype.
///
/// # Safety
/// `a` is not freed, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_binary_number(
    function: u32,
    a: *const tensord_tensor,
    number: f64,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    call(|| {
        if out.is_null() {
            return Err(null("the place for the tensor"));
        }
        // SAFETY: the caller's duty.
        let a = &unsafe { reference(a, "tensor") }?.0;
        let number = Operand::Immediate(a.dtype(), Scalar::from_f64(number, a.dtype()));
        let operands = [Operand::Tensor(a), number];
        let made = a
            .acting()?
            .elementwise(elementwise_of(function)?, &operands, Site::UNKNOWN)?;
        // SAFETY: the caller's duty.
        unsafe { put_tensor(out, made) }
    })
}

/// Einsum of two tensors with explicit labels of the output: "ik,kj->ij".
///
/// # Safety
/// `a` and `b` are not freed, `labels` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_contract(
    a: *const tensord_tensor,
    b: *const tensord_tensor,
    labels: *const c_char,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    let op = || {
        // SAFETY: the caller's duty.
        let labels = unsafe { text(labels, "labels") }?;
        parse_contract(labels.ok_or_else(|| null("labels"))?)
    };
    // SAFETY: the caller's duty.
    unsafe { on_tensors(op, &[a, b], out) }
}

/// A tensor reduced over axes (one bit each); `keep` leaves them with size 1.
///
/// # Safety
/// `x` is not freed, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_reduce(
    reduction: u32,
    x: *const tensord_tensor,
    axes: u32,
    keep: bool,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    let op = || {
        Ok(Op::Reduce {
            kind: reduction_of(reduction)?,
            axes: AxisSet(u16::try_from(axes).map_err(|_| bad("axes", axes))?),
            keep,
        })
    };
    // SAFETY: the caller's duty.
    unsafe { on_tensors(op, &[x], out) }
}

/// The same elements in row-major order as another shape.
///
/// # Safety
/// `x` is not freed, `shape` is `rank` sizes, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_reshape(
    x: *const tensord_tensor,
    shape: *const u64,
    rank: usize,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    // SAFETY: the caller's duty.
    let op = || unsafe { shape_of(shape, rank) }.map(Op::Reshape);
    // SAFETY: the caller's duty.
    unsafe { on_tensors(op, &[x], out) }
}

/// Axes reordered: axis `k` of the result is axis `order[k]` of `x`.
///
/// # Safety
/// `x` is not freed, `order` is `rank` axes, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_permute(
    x: *const tensord_tensor,
    order: *const u8,
    rank: usize,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    let op = || {
        // SAFETY: the caller's duty.
        let order = unsafe { array(order, rank, "order") }?;
        let order =
            AxisList::new(order).ok_or_else(|| bad("order", format!("{rank} axes long")))?;
        Ok(Op::Permute(order))
    };
    // SAFETY: the caller's duty.
    unsafe { on_tensors(op, &[x], out) }
}

/// The elements converted to another dtype.
///
/// # Safety
/// `x` is not freed, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_cast(
    x: *const tensord_tensor,
    dtype: u32,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    // SAFETY: the caller's duty.
    unsafe { on_tensors(|| dtype_of(dtype).map(Op::Cast), &[x], out) }
}

/// A tensor whose every element is `number`, rounded to `dtype`.
///
/// # Safety
/// `session` is open, `shape` is `rank` sizes, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tensord_full(
    session: *const tensord_session,
    dtype: u32,
    shape: *const u64,
    rank: usize,
    number: f64,
    out: *mut *mut tensord_tensor,
) -> tensord_code {
    call(|| {
        if out.is_null() {
            return Err(null("the place for the tensor"));
        }
        // SAFETY: the caller's duty.
        let session = unsafe { reference(session, "session") }?;
        // SAFETY: the caller's duty.
        let shape = unsafe { shape_of(shape, rank) }?;
        let dtype = dtype_of(dtype)?;
        let op = Op::Full(Meta { dtype, shape });
        let fill = [Scalar::from_f64(number, dtype), Scalar(0)];
        let made = session.0.submit(&op, &[], fill, Site::UNKNOWN)?;
        // SAFETY: the caller's duty.
        unsafe { put_tensor(out, made) }
    })
}

/// An operation with nothing set, to begin with.
#[unsafe(no_mangle)]
pub extern "C" fn tensord_op_init() -> tensord_op {
    tensord_op {
        kind: 0,
        function: 0,
        dtype: 0,
        axis: 0,
        axes: 0,
        keep: false,
        count: 0,
        a: ptr::null(),
        b: ptr::null(),
        c: ptr::null(),
        d: ptr::null(),
        labels: ptr::null(),
        immediates: [0.0; 2],
        key: 0,
    }
}
