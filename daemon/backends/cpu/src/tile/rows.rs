//! Moves elements between tiles and strided memory: the leaves of loads, stores, masks and gathers.
//!
//! A tile holds consecutive elements of an iteration space in row-major order. A [`Form`] says where the element of an index
//! lies; these functions walk a stretch of the space row by row, so that the innermost loop has one constant stride.
//!
//! # Safety
//! All functions take raw base pointers. What they reach is `form` over the indices walked, inside the guards where there
//! are any: the caller has that range checked against the memory by `tensord_plan::Params`.

/// `$call` with `$T` as an unsigned type of `$size` bytes: moving elements asks for nothing but their size.
macro_rules! by_size {
    ($size:expr, $T:ident => $call:expr) => {
        match $size {
            1 => {
                type $T = u8;
                $call
            }
            2 => {
                type $T = u16;
                $call
            }
            4 => {
                type $T = u32;
                $call
            }
            _ => {
                type $T = u64;
                $call
            }
        }
    };
}
pub(crate) use by_size;

/// Highest rank of an iteration space.
pub const RANK_MAX: usize = tensord_plan::SPACE_RANK_MAX;

/// An affine function of the iteration index.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// At index 0.
    pub offset: i64,
    /// For each axis.
    pub strides: Vec<i64>,
}

/// `0 <= form(index) < extent`.
#[derive(Clone, Debug)]
pub struct Guarded {
    /// The coordinate.
    pub form: Form,
    /// Its bound.
    pub extent: i64,
}

/// A place in an iteration space: the index of its next element.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    sizes: &'a [u64],
    index: [u64; RANK_MAX],
}

impl<'a> Cursor<'a> {
    /// At the first element, or where it would be.
    pub fn begin(sizes: &'a [u64]) -> Cursor<'a> {
        Cursor {
            sizes,
            index: [0; RANK_MAX],
        }
    }

    /// At the element with row-major number `at`.
    pub fn new(sizes: &'a [u64], mut at: u64) -> Cursor<'a> {
        let mut index = [0; RANK_MAX];
        for (slot, &size) in index.iter_mut().zip(sizes).rev() {
            if at < size {
                *slot = at;
                break;
            }
            *slot = at % size;
            at /= size;
        }
        Cursor { sizes, index }
    }

    /// The element `n` behind this one.
    pub fn ahead(&self, n: u64) -> Cursor<'a> {
        let at = self
            .sizes
            .iter()
            .zip(&self.index)
            .fold(0, |at, (&size, &index)| at * size + index);
        Cursor::new(self.sizes, at + n)
    }

    /// Elements left in the current row.
    pub fn row_rest(&self) -> u64 {
        match self.sizes.last() {
            Some(&size) => size - self.index[self.sizes.len() - 1],
            None => 1,
        }
    }

    /// Indices left along an axis, this one included.
    pub fn axis_rest(&self, axis: usize) -> u64 {
        self.sizes[axis] - self.index[axis]
    }

    /// Value of a form at the current element.
    pub fn value(&self, form: &Form) -> i64 {
        let steps = form.strides.iter().zip(&self.index);
        steps.fold(form.offset, |sum, (stride, &at)| sum + stride * at as i64)
    }

    /// Calls `row` for each stretch of a row among the next `n` elements: value of the affine function at its first element,
    /// length, and number of elements before it. The cursor given is at that element.
    #[inline(always)]
    fn rows(
        mut self,
        offset: i64,
        strides: &[i64],
        n: usize,
        mut row: impl FnMut(&Cursor<'a>, i64, usize, usize),
    ) {
        let rank = self.sizes.len();
        if rank == 0 {
            return row(&self, offset, n, 0);
        }
        let inner = rank - 1;
        let steps = strides.iter().zip(&self.index);
        let mut value = steps.fold(offset, |sum, (stride, &at)| sum + stride * at as i64);
        let mut done = 0;
        loop {
            let at = self.index[inner];
            let len = (self.sizes[inner] - at).min((n - done) as u64) as usize;
            row(&self, value, len, done);
            done += len;
            if done >= n {
                return;
            }
            value -= strides[inner] * at as i64;
            self.index[inner] = 0;
            let mut axis = inner;
            while axis > 0 {
                axis -= 1;
                self.index[axis] += 1;
                value += strides[axis];
                if self.index[axis] < self.sizes[axis] {
                    break;
                }
                value -= strides[axis] * self.sizes[axis] as i64;
                self.index[axis] = 0;
            }
        }
    }

    /// Stretch of the next `len` elements of the row where all guards hold, as distances from the cursor.
    fn inside(&self, guards: &[Guarded], len: usize) -> (usize, usize) {
        let (mut low, mut high) = (0i64, len as i64);
        for guard in guards {
            let start = self.value(&guard.form);
            let step = match self.sizes.len() {
                0 => 0,
                rank => guard.form.strides[rank - 1],
            };
            let (from, to) = match step {
                0 if (0..guard.extent).contains(&start) => (0, len as i64),
                0 => (0, 0),
                1.. => (
                    -start.div_euclid(step),
                    -(start - guard.extent).div_euclid(step),
                ),
                _ => (
                    (start - guard.extent).div_euclid(-step) + 1,
                    start.div_euclid(-step) + 1,
                ),
            };
            low = low.max(from);
            high = high.min(to);
        }
        let low = low.min(len as i64);
        (low as usize, high.max(low) as usize)
    }
}

/// Loads `n` elements from the cursor on into `to`.
///
/// # Safety
/// `to` is valid for writes of `n` elements; `base` plus `form` is valid for reads at each index walked.
pub unsafe fn load<T: Copy>(cursor: Cursor<'_>, form: &Form, base: *const T, to: *mut T, n: usize) {
    let step = form.strides.last().copied().unwrap_or(0) as isize;
    cursor.rows(form.offset, &form.strides, n, |_, value, len, done| {
        // SAFETY: as the function's: `value` is the form at the row's first element, and the row has `len` elements `step` apart.
        unsafe { copy_in(base.offset(value as isize), step, to.add(done), len) };
    });
}

/// As [`load`], with `fill` where a guard does not hold.
///
/// # Safety
/// As [`load`], for the indices where all guards hold.
pub unsafe fn load_guarded<T: Copy>(
    cursor: Cursor<'_>,
    form: &Form,
    guards: &[Guarded],
    fill: T,
    base: *const T,
    to: *mut T,
    n: usize,
) {
    let step = form.strides.last().copied().unwrap_or(0) as isize;
    cursor.rows(form.offset, &form.strides, n, |at, value, len, done| {
        let (low, high) = at.inside(guards, len);
        // SAFETY: `low..high` are the elements of the row inside all guards; `wrapping_offset` because the row's start
        // may lie outside the memory.
        unsafe {
            let to = to.add(done);
            repeat(fill, to, low);
            if low < high {
                let from = base.wrapping_offset(value as isize + low as isize * step);
                copy_in(from, step, to.add(low), high - low);
            }
            repeat(fill, to.add(high), len - high);
        }
    });
}

/// Writes `fill` over those of `n` elements in `to` where a guard does not hold.
///
/// # Safety
/// `to` is valid for writes of `n` elements.
pub unsafe fn mask<T: Copy>(cursor: Cursor<'_>, guards: &[Guarded], fill: T, to: *mut T, n: usize) {
    cursor.rows(0, &[0; RANK_MAX], n, |at, _, len, done| {
        let (low, high) = at.inside(guards, len);
        // SAFETY: `low <= high <= len`, and the row's part of `to` starts at `done`.
        unsafe {
            repeat(fill, to.add(done), low);
            repeat(fill, to.add(done + high), len - high);
        }
    });
}

/// Stores `n` elements from the tile `from` (all the first one where `broadcast`).
///
/// # Safety
/// `from` is valid for reads of `n` elements (one where `broadcast`); `base` plus `form` is valid for writes.
pub unsafe fn store<T: Copy>(
    cursor: Cursor<'_>,
    form: &Form,
    from: *const T,
    broadcast: bool,
    base: *mut T,
    n: usize,
) {
    let step = form.strides.last().copied().unwrap_or(0) as isize;
    cursor.rows(form.offset, &form.strides, n, |_, value, len, done| {
        // SAFETY: as the function's.
        unsafe {
            let to = base.offset(value as isize);
            match (broadcast, step) {
                (true, 1) => repeat(*from, to, len),
                (true, _) => {
                    let value = *from;
                    (0..len).for_each(|k| *to.offset(k as isize * step) = value);
                }
                (false, 1) => move_run(from.add(done), to, len),
                (false, _) => {
                    let from = from.add(done);
                    (0..len).for_each(|k| *to.offset(k as isize * step) = *from.add(k));
                }
            }
        }
    });
}

/// What a gather reads beside its base address.
#[derive(Clone, Copy, Debug)]
pub struct Gathered {
    /// Size of the gathered axis.
    pub extent: i64,
    /// Its stride in elements.
    pub stride: i64,
}

/// Loads through a tile of indices; out of range gives zero, outside the guards `fill`.
///
/// # Safety
/// As [`load_guarded`], the address widened by every index in range; `indices` is valid for `n` reads (one
/// where `index_step` is 0).
#[allow(clippy::too_many_arguments)]
pub unsafe fn gather<T: Copy + Default>(
    cursor: Cursor<'_>,
    form: &Form,
    guards: &[Guarded],
    fill: T,
    axis: Gathered,
    indices: *const i64,
    index_step: usize,
    base: *const T,
    to: *mut T,
    n: usize,
) {
    let step = form.strides.last().copied().unwrap_or(0);
    cursor.rows(form.offset, &form.strides, n, |at, value, len, done| {
        let (low, high) = at.inside(guards, len);
        // SAFETY: element `k` of the row lies inside all guards for `low <= k < high`, and the index is in range when it is
        // used for an address.
        unsafe {
            let to = to.add(done);
            repeat(fill, to, low);
            for k in low..high {
                let mut index = *indices.add((done + k) * index_step);
                if index < 0 {
                    index = index.wrapping_add(axis.extent);
                }
                *to.add(k) = if (0..axis.extent).contains(&index) {
                    *base.offset((value + step * k as i64 + index * axis.stride) as isize)
                } else {
                    T::default()
                };
            }
            repeat(fill, to.add(high), len - high);
        }
    });
}

/// Writes row-major positions as the form gives them.
pub fn positions(cursor: Cursor<'_>, form: &Form, to: &mut [i64]) {
    let step = form.strides.last().copied().unwrap_or(0);
    cursor.rows(
        form.offset,
        &form.strides,
        to.len(),
        |_, value, len, done| {
            for (k, slot) in to[done..done + len].iter_mut().enumerate() {
                *slot = value + step * k as i64;
            }
        },
    );
}

/// # Safety
/// `to` is valid for `n` writes.
pub unsafe fn repeat<T: Copy>(value: T, to: *mut T, n: usize) {
    // SAFETY: the caller's.
    (0..n).for_each(|k| unsafe { *to.add(k) = value });
}

/// # Safety
/// `from` is valid for `n` reads, `to` for `n` writes; they may be the same memory.
#[inline(always)]
unsafe fn move_run<T: Copy>(from: *const T, to: *mut T, n: usize) {
    // SAFETY: the caller's. Short runs are not worth a call.
    unsafe {
        if n < 16 {
            (0..n).for_each(|k| *to.add(k) = *from.add(k));
        } else {
            std::ptr::copy(from, to, n);
        }
    }
}

#[inline(always)]
unsafe fn copy_in<T: Copy>(from: *const T, step: isize, to: *mut T, n: usize) {
    // SAFETY: the caller's: `n` elements `step` apart from `from`, `n` writes at `to`.
    unsafe {
        match step {
            1 => move_run(from, to, n),
            0 => repeat(*from, to, n),
            _ => (0..n).for_each(|k| *to.add(k) = *from.offset(k as isize * step)),
        }
    }
}
