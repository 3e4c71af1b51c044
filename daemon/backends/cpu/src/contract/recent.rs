//! Shapes of the launches before: a window that repeats finds its layouts made.
//!
//! An entry keeps its parameters alive, so that their address names them for as long as it stands.

use std::sync::Arc;

use tensord_plan::{Contract, Params};

use super::groups::Shape;
use super::layout::Layout;

/// Entries; each address has one place.
const ENTRIES: usize = 128;

/// What a contraction and its parameters come to.
#[derive(Clone)]
pub(super) struct Known {
    pub layout: Arc<Layout>,
    /// With n along lanes, and with m.
    shapes: [Option<Arc<Shape>>; 2],
}

struct Entry {
    params: Arc<Params>,
    contract: Contract,
    known: Known,
}

/// A small table of what was asked for last.
#[derive(Default)]
pub(super) struct Recent {
    entries: Vec<Option<Entry>>,
}

impl Recent {
    fn entry(&mut self, contract: &Contract, params: &Arc<Params>) -> &mut Known {
        if self.entries.is_empty() {
            self.entries.resize_with(ENTRIES, || None);
        }
        let address = Arc::as_ptr(params) as usize;
        let place =
            ((address / 64) ^ (address / 64 / ENTRIES) ^ contract.sizes.0 as usize) % ENTRIES;
        let slot = &mut self.entries[place];
        let stands = slot
            .as_ref()
            .is_some_and(|entry| Arc::ptr_eq(&entry.params, params) && entry.contract == *contract);
        if !stands {
            *slot = None;
        }
        let entry = slot.get_or_insert_with(|| Entry {
            params: params.clone(),
            contract: contract.clone(),
            known: Known {
                layout: Arc::new(Layout::new(contract, params)),
                shapes: [None, None],
            },
        });
        &mut entry.known
    }

    /// The layout.
    pub(super) fn layout(&mut self, contract: &Contract, params: &Arc<Params>) -> Arc<Layout> {
        self.entry(contract, params).layout.clone()
    }

    /// The shape, with m along lanes if `swapped`.
    pub(super) fn shape(
        &mut self,
        contract: &Contract,
        params: &Arc<Params>,
        swapped: bool,
    ) -> Arc<Shape> {
        let Known { layout, shapes } = self.entry(contract, params);
        let shape = &mut shapes[usize::from(swapped)];
        shape
            .get_or_insert_with(|| Arc::new(Shape::new((**layout).clone(), swapped)))
            .clone()
    }
}
