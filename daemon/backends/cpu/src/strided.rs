//! An access of a step that has no program (scan, scatter), bound to its parameters.

use tensord_plan::{Access, Params, Plan};
use tensord_shm::dtype::DType;

use crate::tile::Table;
use crate::tile::bind::column;
use crate::tile::rows::{self, Cursor, Form, Guarded, by_size};

/// An access over a space that is not coalesced.
pub struct Strided {
    column: u32,
    dtype: DType,
    form: Form,
    guards: Vec<Guarded>,
    fill: Option<u32>,
}

impl Strided {
    /// Binds an access over a space of `rank` axes.
    pub fn new(plan: &Plan, params: &Params, access: &Access, rank: usize) -> Strided {
        let address = params.address(access, rank);
        let guards = access.padded.iter().map(|axis| Guarded {
            form: Form {
                offset: params.get(axis.guard.offset),
                strides: params.run(axis.guard.coefficients, rank).to_vec(),
            },
            extent: params.get(axis.guard.extent),
        });
        Strided {
            column: column(plan, access.buffer),
            dtype: access.dtype,
            form: Form {
                offset: address.offset,
                strides: address.strides[..rank].to_vec(),
            },
            guards: guards.collect(),
            fill: access.fill.map(|fill| fill.0),
        }
    }

    /// Reads `n` elements from the cursor on, as they lie in memory.
    ///
    /// # Safety
    /// The table's addresses fit the access; `to` has room for `n` elements.
    pub unsafe fn read(
        &self,
        table: &Table<'_>,
        instance: usize,
        at: Cursor<'_>,
        to: *mut u8,
        n: usize,
    ) {
        let base = table.base(instance, self.column);
        let fill = self
            .fill
            .map_or(0, |k| table.scalars(instance)[k as usize].0);
        by_size!(self.dtype.size(), T => {
            let (base, to) = (base.cast::<T>(), to.cast::<T>());
            // SAFETY: the caller's.
            unsafe {
                match self.guards[..] {
                    [] => rows::load(at, &self.form, base, to, n),
                    _ => {
                        let fill = fill as T;
                        rows::load_guarded(at, &self.form, &self.guards, fill, base, to, n);
                    }
                }
            }
        });
    }

    /// Writes `n` elements from the cursor on, as they lie in memory.
    ///
    /// # Safety
    /// As [`Strided::read`], to be written and with no guards.
    pub unsafe fn write(
        &self,
        table: &Table<'_>,
        instance: usize,
        at: Cursor<'_>,
        from: *const u8,
        n: usize,
    ) {
        let base = table.base(instance, self.column);
        by_size!(self.dtype.size(), T => {
            let (base, from) = (base.cast::<T>(), from.cast::<T>());
            // SAFETY: the caller's.
            unsafe { rows::store(at, &self.form, from, false, base, n) };
        });
    }

    /// Address of the element at the cursor.
    pub fn address(&self, table: &Table<'_>, instance: usize, at: &Cursor<'_>) -> *mut u8 {
        let element = at.value(&self.form) as isize;
        table
            .base(instance, self.column)
            .wrapping_offset(element * self.dtype.size() as isize)
    }
}
