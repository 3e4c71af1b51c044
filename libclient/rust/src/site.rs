//! Source positions as small numbers, so that a record can carry the line that asked for it.
//!
//! The table belongs to the process and only grows; a program has as many entries as it has lines that submit. A forked
//! child may find the table's lock held for good by a thread that it does not have, so nobody ever sleeps for it: who
//! cannot have it goes without a position.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::{LazyLock, Mutex, MutexGuard, TryLockError};

/// A source position, interned. 0 is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Site(pub u32);

/// A source position, spelled out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// File, as the caller names it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[derive(Default)]
struct Table {
    numbers: HashMap<Place, u32>,
    places: Vec<Place>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// Most entries; beyond them positions are unknown. A program that makes up lines without end must not eat memory.
const SITES_MAX: usize = 1 << 20;
/// Looks at the table's lock before giving up.
const TRIES: u32 = 1000;

fn table() -> Option<MutexGuard<'static, Table>> {
    for _ in 0..TRIES {
        match TABLE.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

/// Positions that `here` found last in this thread, by the address of the compiler's constant.
const CACHED: usize = 64;

thread_local! {
    static CACHE: [Cell<(usize, u32)>; CACHED] = const { [const { Cell::new((0, 0)) }; CACHED] };
}

impl Site {
    /// No position.
    pub const UNKNOWN: Site = Site(0);

    /// The number of a position. Keep it where the same line submits again: this looks into a table.
    pub fn intern(file: &str, line: u32) -> Site {
        let place = Place {
            file: file.to_owned(),
            line,
        };
        let Some(mut table) = table() else {
            return Site::UNKNOWN;
        };
        if let Some(&number) = table.numbers.get(&place) {
            return Site(number);
        }
        if table.places.len() >= SITES_MAX {
            return Site::UNKNOWN;
        }
        table.places.push(place.clone());
        let number = table.places.len() as u32;
        table.numbers.insert(place, number);
        Site(number)
    }

    /// The caller's own position.
    #[track_caller]
    #[inline]
    pub fn here() -> Site {
        let location = Location::caller();
        let address = std::ptr::from_ref(location).addr();
        CACHE.with(|cache| {
            let cell = &cache[address / align_of::<Location<'_>>() % CACHED];
            let (known, number) = cell.get();
            if known == address {
                return Site(number);
            }
            let site = Site::intern(location.file(), location.line());
            cell.set((address, site.0));
            site
        })
    }

    /// File and line, where the position is known.
    pub fn place(self) -> Option<Place> {
        let index = usize::try_from(self.0).ok()?.checked_sub(1)?;
        table()?.places.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_number_and_gives_itself_back() {
        let first = Site::intern("model.py", 7);
        assert_eq!(first, Site::intern("model.py", 7));
        assert_ne!(first, Site::intern("model.py", 8));
        assert_eq!(first.place().expect("known").to_string(), "model.py:7");
        assert_eq!(Site::UNKNOWN.place(), None);
        let here = Site::here();
        let place = here.place().expect("known");
        assert!(place.file.ends_with("site.rs"), "{place}");
    }

    #[test]
    fn the_same_call_has_the_same_number() {
        let sites: Vec<Site> = (0..3).map(|_| Site::here()).collect();
        assert!(sites.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
