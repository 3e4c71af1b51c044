//! Runs a bound program over one tile after the other.
//!
//! A position is a global row-major element number: instance times elements of an instance, plus the element. A tile may
//! span several instances (small instances share a pass); then nothing is read or written in place.
//!
//! # Invariants
//! - Vector functions see lengths that are multiples of [`LANES`]: tiles of other lengths are read and written
//!   through slots, whose tails hold defined but meaningless elements.
//! - Within a tile everything is loaded before the last store, except where `Program::direct` allows otherwise.

use tensord_plan::Instance;
use tensord_shm::dtype::{DType, Scalar};

use super::affine::Part;
use super::bind::Bound;
use super::chain::{Source, Steps};
use super::kernels::{self, LANES, is_half, lane_scalar, lane_size};
use super::program::{Op, Program, Run, Value};
use super::rows::{self, Cursor, by_size};
use crate::math;
use crate::scratch::padded;

/// Elements for which a scalar operand of a vector function is written out.
const SCALAR_LEN: usize = 256;

/// Results from this size on are written around the cache: about what the last level of a server holds.
const AROUND_BYTES: u64 = 32 << 20;

/// Where a value of the tile under way lies.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Its elements, or its only one.
    pub at: *const u8,
    /// One element stands for all.
    pub broadcast: bool,
    /// For a broadcast one: copies of it, `SCALAR_LEN` or enough for a tile, once somebody needed them.
    written: *const u8,
}

impl Arg {
    const NONE: Arg = Arg {
        at: std::ptr::null(),
        broadcast: false,
        written: std::ptr::null(),
    };

    fn tile(at: *const u8) -> Arg {
        Arg { at, ..Arg::NONE }
    }

    fn source(&self) -> Source {
        Source {
            at: self.at,
            broadcast: self.broadcast,
        }
    }

    fn scalar(at: *const u8) -> Arg {
        Arg {
            at,
            broadcast: true,
            ..Arg::NONE
        }
    }
}

/// The instances of one launch that share a binding: their memory and scalars.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    /// Buffers of an instance.
    pub columns: usize,
    /// One row of `columns` addresses for each instance.
    pub pointers: &'a [*mut u8],
    /// The instances, for their scalars.
    pub instances: &'a [Instance],
}

// SAFETY: the addresses were checked for the launch, which owns their memory until it has finished; workers write disjoint parts.
unsafe impl Sync for Table<'_> {}
// SAFETY: as above.
unsafe impl Send for Table<'_> {}

impl<'a> Table<'a> {
    /// Number of instances.
    pub fn count(&self) -> usize {
        self.instances.len()
    }

    /// Scalars of an instance.
    #[inline]
    pub fn scalars(&self, instance: usize) -> &'a [Scalar] {
        &self.instances[instance].immediates
    }

    /// Start of a buffer of an instance.
    #[inline]
    pub fn base(&self, instance: usize, column: u32) -> *mut u8 {
        self.pointers[instance * self.columns + column as usize]
    }
}

/// A program's tables on one thread, kept between steps for their capacity. What they hold means nothing to the next program: it
/// makes each value before it reads it.
#[derive(Default)]
pub struct Tables {
    args: Vec<Arg>,
    steps: Steps,
}

/// A program under way on one thread.
pub struct Evaluator<'a> {
    program: &'a Program,
    bound: &'a Bound,
    table: Table<'a>,
    slots: *mut u8,
    slot_bytes: usize,
    capacity: usize,
    args: Vec<Arg>,
    instance: usize,
    steps: Steps,
    /// At the tile under way, where it lies in one instance and not everything is flat.
    cursor: Cursor<'a>,
}

/// The tile under way.
#[derive(Clone, Copy)]
struct Tile {
    instance: usize,
    at: u64,
    n: usize,
    /// `n` rounded up to whole lanes.
    lanes: usize,
    /// Does it lie in one instance?
    single: bool,
}

/// Part of a tile that lies in one instance.
struct Piece<'a> {
    instance: usize,
    cursor: Cursor<'a>,
    from: usize,
    len: usize,
}

impl<'a> Evaluator<'a> {
    /// Bytes of slots for tiles of up to `capacity` elements.
    pub fn bytes(program: &Program, capacity: usize) -> usize {
        program.slot_count * Self::slot_bytes(program, capacity)
    }

    fn slot_bytes(program: &Program, capacity: usize) -> usize {
        // Generators write whole lanes for each piece of a tile, so the last may reach beyond the tile.
        padded((capacity.max(SCALAR_LEN).next_multiple_of(LANES) + LANES) * program.width)
    }

    /// Ready for tiles of up to `capacity` elements; `slots` are [`Evaluator::bytes`] of the thread's own memory.
    pub fn new(
        program: &'a Program,
        bound: &'a Bound,
        table: Table<'a>,
        capacity: usize,
        slots: *mut u8,
        Tables { mut args, steps }: Tables,
    ) -> Evaluator<'a> {
        if args.len() < program.dtypes.len() {
            args.resize(program.dtypes.len(), Arg::NONE);
        }
        Evaluator {
            program,
            bound,
            table,
            slots,
            slot_bytes: Self::slot_bytes(program, capacity),
            capacity,
            args,
            instance: usize::MAX,
            steps,
            cursor: Cursor::begin(&bound.sizes),
        }
    }

    /// Gives the tables back.
    pub fn into_tables(self) -> Tables {
        Tables {
            args: self.args,
            steps: self.steps,
        }
    }

    /// Bytes of an element of a value's tile.
    pub fn lane_size(&self, value: u32) -> usize {
        lane_size(self.program.dtypes[value as usize])
    }

    /// Bytes of an element of the tile that comes from outside.
    pub fn reduced_size(&self) -> usize {
        self.lane_size(0)
    }

    /// A value of the last tile, written out: at least its `n` elements.
    ///
    /// # Safety
    /// As [`Evaluator::run`], and `n` is the length that it was given.
    pub unsafe fn tile_of(&mut self, value: u32, n: usize) -> *const u8 {
        let arg = self.args[value as usize];
        if !arg.broadcast {
            return arg.at;
        }
        let to = self.slot(value as Value);
        let size = lane_size(self.program.dtypes[value as usize]);
        // SAFETY: `at` is one element, the slot has room for `capacity` of them.
        by_size!(size, T => unsafe { rows::repeat(arg.at.cast::<T>().read_unaligned(), to.cast::<T>(), n.next_multiple_of(LANES)) });
        self.args[value as usize] = Arg::tile(to);
        // An immediate that is written out for this tile may be too short for the next one, or overwritten by then.
        self.instance = usize::MAX;
        to
    }

    /// Where the first load's element at a global position lies.
    pub fn loaded_at(&self, at: u64) -> *const u8 {
        self.rows_at(at, 1, 1).0
    }

    /// Where the first load's rows of `n` elements from global position `at` on lie: the first of them, how many, `most` at most, one
    /// distance takes to, and that distance in elements. They do as `Bound::rows_lie_together` says.
    pub fn rows_at(&self, at: u64, n: usize, most: usize) -> (*const u8, usize, isize) {
        let (load, count) = (&self.bound.loads[0], self.bound.count);
        let (instance, at) = match at < count {
            true => (0, at),
            false => ((at / count) as usize, at % count),
        };
        let (element, rest, apart) = match load.flat {
            true => (load.form.offset + at as i64, count - at, n as i64),
            false => {
                let cursor = Cursor::new(&self.bound.sizes, at);
                let element = cursor.value(&load.form);
                match (self.bound.sizes.last(), load.form.strides.len()) {
                    (Some(&row), rank @ 2..) if row == n as u64 => {
                        let rows = cursor.axis_rest(rank - 2);
                        (element, rows * n as u64, load.form.strides[rank - 2])
                    }
                    _ => (element, cursor.row_rest(), n as i64),
                }
            }
        };
        let base = self.table.base(instance, load.column);
        let at = base.wrapping_offset(element as isize * load.dtype.size() as isize);
        let rows = (rest / n as u64).min(most as u64);
        (at, rows as usize, apart as isize)
    }

    fn slot(&self, value: Value) -> *mut u8 {
        let slot = usize::from(self.program.slots[usize::from(value)]);
        // SAFETY: `slots` has `slot_count` slots.
        unsafe { self.slots.add(slot * self.slot_bytes) }
    }

    /// Computes the tile of `n` elements from global position `at` on, and stores what the program stores.
    /// `reduced` is the tile of the value that comes from outside, if the program has one.
    ///
    /// # Safety
    /// The table's addresses fit the program and the binding (`Params` checked them); nobody else writes what the
    /// tile reads or touches what it writes. `n` is at most the capacity, and `reduced` is good for `n` elements rounded up to
    /// whole lanes.
    pub unsafe fn run(&mut self, at: u64, n: usize, reduced: *const u8) {
        debug_assert!((n <= self.capacity || self.bound.streams) && n > 0);
        let count = self.bound.count;
        let (instance, at) = match at < count {
            true => (0, at),
            false => ((at / count) as usize, at % count),
        };
        let tile = Tile {
            instance,
            at,
            n,
            lanes: n.next_multiple_of(LANES),
            single: at + n as u64 <= count,
        };
        if tile.single && !self.bound.flat {
            self.cursor = Cursor::new(&self.bound.sizes, tile.at);
        }
        // SAFETY: the caller's promises, for each step.
        unsafe {
            self.set_scalars(tile);
            let program = self.program;
            for placed in &program.ops {
                self.step(tile, placed.value, &placed.op, reduced);
            }
            self.store(tile);
        }
    }

    /// Points the immediates' values at the instance's scalars, or writes them out where instances in the tile differ.
    unsafe fn set_scalars(&mut self, tile: Tile) {
        if tile.single && tile.instance == self.instance {
            return;
        }
        self.instance = if tile.single {
            tile.instance
        } else {
            usize::MAX
        };
        let program = self.program;
        if tile.single {
            let scalars = self.table.scalars(tile.instance);
            self.steps.fill(&program.folds, scalars);
            let count = program.scalars.len() - program.folded;
            for &(value, immediate) in &program.scalars[..count] {
                let scalar = &scalars[immediate.0 as usize];
                // SAFETY: the scalar's own value, of one instance.
                self.args[usize::from(value)] = unsafe { self.scalar(value, scalar) };
            }
            return;
        }
        for &(value, immediate) in &program.scalars {
            let k = immediate.0 as usize;
            let first = &self.table.scalars(tile.instance)[k];
            let last = ((tile.at + tile.n as u64 - 1) / self.bound.count) as usize;
            let same = self.table.instances[tile.instance..=tile.instance + last]
                .iter()
                .all(|instance| instance.immediates[k] == *first);
            let dtype = program.dtypes[usize::from(value)];
            let to = self.slot(value);
            self.args[usize::from(value)] = if same {
                // SAFETY: as above.
                unsafe { self.scalar(value, first) }
            } else {
                self.pieces(tile, |piece| {
                    let scalar = lane_scalar(dtype, self.table.scalars(piece.instance)[k]);
                    // SAFETY: the piece lies in the tile, which fits the slot.
                    by_size!(lane_size(dtype), T => unsafe {
                        rows::repeat(scalar as T, to.cast::<T>().add(piece.from), piece.len);
                    });
                });
                Arg::tile(to)
            };
        }
    }

    /// A value that is one scalar: where it lies, or widened in the value's slot.
    unsafe fn scalar(&self, value: Value, scalar: &'a Scalar) -> Arg {
        let dtype = self.program.dtypes[usize::from(value)];
        if !is_half(dtype) {
            return Arg::scalar(std::ptr::from_ref(scalar).cast());
        }
        let to = self.slot(value);
        // SAFETY: slots hold at least one f32.
        unsafe { to.cast::<u32>().write(lane_scalar(dtype, *scalar) as u32) };
        Arg::scalar(to)
    }

    fn pieces(&self, tile: Tile, mut each: impl FnMut(Piece<'a>)) {
        let (mut instance, mut at, mut from) = (tile.instance, tile.at, 0);
        while from < tile.n {
            let len = (self.bound.count - at).min((tile.n - from) as u64) as usize;
            each(Piece {
                instance,
                cursor: Cursor::new(&self.bound.sizes, at),
                from,
                len,
            });
            from += len;
            instance += 1;
            at = 0;
        }
    }

    unsafe fn step(&mut self, tile: Tile, value: Value, op: &Op, reduced: *const u8) {
        let index = usize::from(value);
        // SAFETY: the caller's promises; slots are the thread's own.
        unsafe {
            self.args[index] = match op {
                Op::Load { load } => self.load(tile, value, usize::from(*load)),
                Op::Apply { kernel, args, .. } => self.apply(tile, value, *kernel, *args),
                Op::Run(run) => self.chain(tile, value, run),
                Op::Mask { mask, arg, fill } => {
                    let to = self.slot(value);
                    let dtype = self.program.dtypes[index];
                    let size = lane_size(dtype);
                    let from = self.tile_of(u32::from(*arg), tile.n);
                    if !std::ptr::eq(from, to) {
                        std::ptr::copy_nonoverlapping(from, to, tile.n * size);
                    }
                    let guards = &self.bound.masks[usize::from(*mask)];
                    self.pieces(tile, |piece| {
                        let fill = self.table.scalars(piece.instance)[fill.0 as usize];
                        let fill = lane_scalar(dtype, fill);
                        by_size!(size, T => {
                            let to = to.cast::<T>().add(piece.from);
                            rows::mask(piece.cursor, guards, fill as T, to, piece.len);
                        });
                    });
                    Arg::tile(to)
                }
                Op::Gather { load, index, .. } => {
                    self.gather(tile, value, usize::from(*load), *index)
                }
                Op::Iota {
                    form,
                    make,
                    start,
                    step,
                } => {
                    let to = self.slot(value);
                    let size = lane_size(self.program.dtypes[index]);
                    let form = &self.bound.forms[usize::from(*form)];
                    self.pieces(tile, |piece| {
                        let scalars = self.table.scalars(piece.instance);
                        let (start, step) = (scalars[start.0 as usize], scalars[step.0 as usize]);
                        kernels::each_position(piece.cursor, form, piece.len, |from, at| {
                            let to = to.add((piece.from + from) * size);
                            make(to, at.as_ptr(), start, step, at.len());
                        });
                    });
                    Arg::tile(to)
                }
                Op::Random { form, make, key } => {
                    let to = self.slot(value);
                    let size = lane_size(self.program.dtypes[index]);
                    let form = &self.bound.forms[usize::from(*form)];
                    self.pieces(tile, |piece| {
                        let key = self.table.scalars(piece.instance)[key.0 as usize].0;
                        kernels::each_position(piece.cursor, form, piece.len, |from, at| {
                            let to = to.add((piece.from + from) * size);
                            make(to, at.as_ptr(), key, at.len());
                        });
                    });
                    Arg::tile(to)
                }
                Op::Reduced => Arg::tile(reduced),
            };
        }
    }

    /// Where a contiguous access of this tile lies, if vector functions may use it in place.
    fn in_place(
        &self,
        tile: Tile,
        column: u32,
        dtype: DType,
        form: &rows::Form,
        flat: bool,
    ) -> Option<*mut u8> {
        if !tile.single || tile.n != tile.lanes || is_half(dtype) {
            return None;
        }
        let element = if flat {
            form.offset + tile.at as i64
        } else {
            let unit = form.strides.last() == Some(&1);
            if !unit || self.cursor.row_rest() < tile.n as u64 {
                return None;
            }
            self.cursor.value(form)
        };
        let base = self.table.base(tile.instance, column);
        Some(base.wrapping_offset(element as isize * dtype.size() as isize))
    }

    unsafe fn load(&mut self, tile: Tile, value: Value, load: usize) -> Arg {
        let bound = &self.bound.loads[load];
        if bound.guards.is_empty() {
            if let Some(at) =
                self.in_place(tile, bound.column, bound.dtype, &bound.form, bound.flat)
            {
                return Arg::tile(at);
            }
            if tile.single
                && !is_half(bound.dtype)
                && let Some(element) = self.one_for_all(tile, &bound.form)
            {
                let base = self.table.base(tile.instance, bound.column);
                return Arg::scalar(
                    base.wrapping_offset(element as isize * bound.dtype.size() as isize),
                );
            }
        }
        let to = self.landing(value, bound.dtype);
        self.pieces(tile, |piece| {
            let base = self.table.base(piece.instance, bound.column);
            let fill = self.fill(piece.instance, bound.fill);
            // SAFETY: `Params` checked the access over the whole space; the piece fits the slot.
            by_size!(bound.dtype.size(), T => unsafe {
                let to = to.cast::<T>().add(piece.from);
                let base = base.cast::<T>();
                if bound.guards.is_empty() {
                    rows::load(piece.cursor, &bound.form, base, to, piece.len);
                } else {
                    rows::load_guarded(
                        piece.cursor, &bound.form, &bound.guards, fill as T, base, to, piece.len,
                    );
                }
            });
        });
        // SAFETY: the tile has just landed.
        unsafe { self.landed(tile, value, bound.dtype) }
    }

    /// The element that a form gives for all of a tile in one instance, if it is one: along the row that the tile lies in, say.
    fn one_for_all(&self, tile: Tile, form: &rows::Form) -> Option<i64> {
        if form.strides.iter().all(|&stride| stride == 0) {
            return Some(form.offset);
        }
        if form.strides.last() != Some(&0) {
            return None;
        }
        (self.cursor.row_rest() >= tile.n as u64).then(|| self.cursor.value(form))
    }

    /// Where elements of a value go as they lie in memory: 16-bit floats are widened on the way to their slot.
    fn landing(&self, value: Value, dtype: DType) -> *mut u8 {
        match is_half(dtype) {
            true => self.staging(),
            false => self.slot(value),
        }
    }

    fn staging(&self) -> *mut u8 {
        // SAFETY: the staging slot is one of `slot_count`.
        unsafe {
            self.slots
                .add(usize::from(self.program.staging) * self.slot_bytes)
        }
    }

    unsafe fn landed(&self, tile: Tile, value: Value, dtype: DType) -> Arg {
        let to = self.slot(value);
        if is_half(dtype) {
            let widen = math::load(self.program.isa, dtype);
            // SAFETY: both slots are good for the tile and do not overlap.
            unsafe { widen(to, self.staging(), tile.n) };
        }
        Arg::tile(to)
    }

    fn fill(&self, instance: usize, fill: Option<u32>) -> u64 {
        fill.map_or(0, |k| self.table.scalars(instance)[k as usize].0)
    }

    unsafe fn gather(&mut self, tile: Tile, value: Value, load: usize, index: Value) -> Arg {
        let bound = &self.bound.loads[load];
        let axis = self.bound.gathers[load].expect("bound from this program");
        let to = self.landing(value, bound.dtype);
        let indices = self.args[usize::from(index)];
        let index_step = usize::from(!indices.broadcast);
        self.pieces(tile, |piece| {
            let base = self.table.base(piece.instance, bound.column);
            let fill = self.fill(piece.instance, bound.fill);
            // SAFETY: `Params` checked the access widened by the gathered axis.
            by_size!(bound.dtype.size(), T => unsafe {
                rows::gather(
                    piece.cursor,
                    &bound.form,
                    &bound.guards,
                    fill as T,
                    axis,
                    indices.at.cast::<i64>().add(piece.from * index_step),
                    index_step,
                    base.cast::<T>(),
                    to.cast::<T>().add(piece.from),
                    piece.len,
                );
            });
        });
        // SAFETY: the tile has just landed.
        unsafe { self.landed(tile, value, bound.dtype) }
    }

    /// Where the instruction that makes `value` may put it.
    fn target(&self, tile: Tile, value: Value) -> *mut u8 {
        for (k, store) in self.program.stores.iter().enumerate() {
            if store.value.0 as Value == value && self.program.direct[k] {
                let bound = &self.bound.stores[k];
                let at = self.in_place(tile, bound.column, bound.dtype, &bound.form, bound.flat);
                if let Some(at) = at {
                    return at;
                }
            }
        }
        self.slot(value)
    }

    unsafe fn apply(
        &mut self,
        tile: Tile,
        value: Value,
        kernel: kernels::Kernel,
        args: [Value; 3],
    ) -> Arg {
        let to = self.target(tile, value);
        let mut at = args.map(|arg| self.args[usize::from(arg)]);
        if !at.iter().any(|arg| arg.broadcast) {
            // SAFETY: operands and target are good for whole lanes.
            unsafe { kernel.run(to, at[0].at, at[1].at, at[2].at, tile.lanes) };
            return Arg::tile(to);
        }
        for (arg, value) in at.iter_mut().zip(args) {
            if arg.broadcast {
                // SAFETY: the caller's promises.
                *arg = unsafe { self.write_out(value) };
            }
        }
        let sizes = args.map(|arg| lane_size(self.program.dtypes[usize::from(arg)]));
        let size = lane_size(self.program.dtypes[usize::from(value)]);
        for from in (0..tile.lanes).step_by(SCALAR_LEN) {
            let n = (tile.lanes - from).min(SCALAR_LEN);
            let [a, b, c] = std::array::from_fn(|k| match at[k].broadcast {
                true => at[k].written,
                // SAFETY: the operand has `tile.lanes` elements.
                false => unsafe { at[k].at.add(from * sizes[k]) },
            });
            // SAFETY: `n` elements from `from` on of each, a multiple of whole lanes.
            unsafe { kernel.run(to.add(from * size), a, b, c, n) };
        }
        Arg::tile(to)
    }

    unsafe fn chain(&mut self, tile: Tile, value: Value, run: &Run) -> Arg {
        let to = self.target(tile, value);
        let first = self.args[usize::from(run.first)].source();
        if tile.single {
            let around = self.goes_around(to, first);
            self.steps.begin(self.program.folds.len(), around);
            for part in &run.parts {
                let last = match *part {
                    Part::Affine { from, count, last } => {
                        self.steps.affine(u32::from(from), count);
                        last
                    }
                    Part::Link(index) => {
                        // SAFETY: operands that an operation uses were made before it.
                        unsafe { self.operation(run, usize::from(index)) };
                        index
                    }
                };
                self.keep(run, usize::from(last));
            }
        } else {
            // Scalars may be tiles here.
            self.steps.begin(0, false);
            for index in 0..run.links.len() {
                // SAFETY: as above.
                unsafe { self.operation(run, index) };
                self.keep(run, index);
            }
        }
        // SAFETY: operands, kept values and the target are good for whole lanes; kept ones have slots of their own.
        unsafe { (run.execute)(first, &self.steps, to, tile.lanes) };
        Arg::tile(to)
    }

    /// Is what a run writes to `to` better kept out of the cache? Only results far larger than it, and none that lies on an
    /// operand: that is in the cache already.
    fn goes_around(&self, to: *mut u8, first: Source) -> bool {
        let bytes = self.bound.count * self.program.width as u64;
        self.bound.streams
            && !self.bound.read_soon
            && bytes >= AROUND_BYTES
            && (to as usize).is_multiple_of(64)
            && !std::ptr::eq(first.at, to)
            && !self.program.ops.iter().any(|placed| {
                let arg = &self.args[usize::from(placed.value)];
                matches!(placed.op, Op::Load { .. }) && std::ptr::eq(arg.at, to)
            })
    }

    /// Appends the operation of a link.
    unsafe fn operation(&mut self, run: &Run, index: usize) {
        let link = &run.links[index];
        let [x, y] = link
            .others
            .map(|other| self.args[usize::from(other)].source());
        // SAFETY: the caller's; what a link does not use it names by the value before, and nobody looks at it.
        unsafe { self.steps.operation(link.code, run.dtype, x, y) };
    }

    /// Appends that the value of a link is kept, if it is.
    fn keep(&mut self, run: &Run, index: usize) {
        let link = &run.links[index];
        if link.kept {
            let to = self.slot(link.value);
            self.steps.keep(to);
            self.args[usize::from(link.value)] = Arg::tile(to);
        }
    }

    unsafe fn write_out(&mut self, value: Value) -> Arg {
        let index = usize::from(value);
        let mut arg = self.args[index];
        if arg.written.is_null() {
            let to = self.slot(value);
            let size = lane_size(self.program.dtypes[index]);
            // No tile is longer than the capacity.
            let n = self.capacity.next_multiple_of(LANES).min(SCALAR_LEN);
            // SAFETY: `at` is one element, and slots hold at least `SCALAR_LEN`.
            by_size!(size, T => unsafe {
                rows::repeat(arg.at.cast::<T>().read_unaligned(), to.cast::<T>(), n);
            });
            arg.written = to;
            self.args[index] = arg;
        }
        arg
    }

    unsafe fn store(&mut self, tile: Tile) {
        if self.bound.streams && tile.single && tile.n == tile.lanes {
            // The run wrote its result where it belongs.
            return;
        }
        for (k, store) in self.program.stores.iter().enumerate() {
            let bound = &self.bound.stores[k];
            let mut arg = self.args[store.value.0 as usize];
            let at = self.in_place(tile, bound.column, bound.dtype, &bound.form, bound.flat);
            if at.is_some_and(|at| std::ptr::eq(at, arg.at)) {
                continue;
            }
            if is_half(bound.dtype) {
                let narrow = math::store(self.program.isa, bound.dtype);
                let to = self.staging();
                // SAFETY: the value is written out, the staging slot has room for the tile.
                unsafe { narrow(to, self.tile_of(store.value.0, tile.n), tile.n) };
                arg = Arg::tile(to);
            }
            self.pieces(tile, |piece| {
                let base = self.table.base(piece.instance, bound.column);
                // SAFETY: `Params` checked the access; the value has at least the tile's elements.
                by_size!(bound.dtype.size(), T => unsafe {
                    let from = arg.at.cast::<T>();
                    let from = if arg.broadcast { from } else { from.add(piece.from) };
                    rows::store(
                        piece.cursor, &bound.form, from, arg.broadcast, base.cast::<T>(), piece.len,
                    );
                });
            });
        }
    }
}
