//! Submitting from C: any operation by its descriptor, and functions for those written most.

#![allow(
    non_camel_case_types,
    reason = "these are the names that C programs write"
)]

use std::ffi::{CStr, c_char};
use std::ptr;

use tensord_client::{
    Arg, AxisList, AxisSet, Elementwise, Error, Meta, Op, Operand, Scalar, Site, parse_contract,
};

use crate::codes::tensord_code;
use crate::descriptor::{
    elementwise_of, immediates_of, op_of, operands_of, reduction_of, tensord_op, tensord_operand,
};
use crate::guard::{array, bad, call, null, reference, text};
use crate::session::tensord_session;
use crate::tensor::{dtype_of, put_tensor, shape_of, tensord_tensor};

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
