//! Steps under construction: what is known of one while operations may still join it.

use tensord_plan::{Body, Contract, Map, Reduce, Slot, Step, Store, ValueId};
use tensord_shm::dtype::DType;
use tensord_shm::op::Reduction;

use super::Builder;
use crate::fuse::body::BodyBuilder;

/// What a step computes before its own code runs.
pub(super) enum Kind {
    Map,
    Reduce {
        sizes: Slot,
        outer: u8,
        inner: u8,
        body: Body,
        value: ValueId,
        dtype: DType,
        kind: Reduction,
    },
    Contract {
        sizes: Slot,
        groups: [u8; 4],
        dtype: DType,
        a: Body,
        b: Body,
    },
    Whole(Step),
}

/// A step, and where in it the roots that join have their coordinates.
pub(super) struct StepBuilder {
    pub(super) kind: Kind,
    /// Sizes of the space in which results are stored.
    pub(super) sizes: Slot,
    /// That space's shape in the order of the result's axes, those of size 1 left out, and the variable for each.
    pub(super) squeezed: Vec<u64>,
    pub(super) variables: Vec<usize>,
    pub(super) code: BodyBuilder,
    pub(super) stores: Vec<Store>,
    pub(super) open: bool,
}

impl StepBuilder {
    pub(super) fn finish(self) -> Step {
        let code = self.code;
        match self.kind {
            Kind::Whole(step) => step,
            Kind::Map => Step::Map(Map {
                sizes: self.sizes,
                rank: code.rank() as u8,
                body: code.finish(),
                stores: self.stores,
            }),
            Kind::Reduce {
                sizes,
                outer,
                inner,
                body,
                value,
                dtype,
                kind,
            } => Step::Reduce(Reduce {
                sizes,
                outer,
                inner,
                body,
                value,
                dtype,
                kind,
                epilogue: code.finish(),
                stores: self.stores,
            }),
            Kind::Contract {
                sizes,
                groups: [batch, m, n, k],
                dtype,
                a,
                b,
            } => Step::Contract(Box::new(Contract {
                sizes,
                batch,
                m,
                n,
                k,
                dtype,
                a,
                b,
                epilogue: code.finish(),
                stores: self.stores,
            })),
        }
    }
}

impl Builder<'_> {
    pub(super) fn push_step(
        &mut self,
        kind: Kind,
        sizes: Slot,
        squeezed: Vec<u64>,
        variables: Vec<usize>,
        code: BodyBuilder,
    ) -> usize {
        self.steps.push(StepBuilder {
            kind,
            sizes,
            squeezed,
            variables,
            code,
            stores: Vec::new(),
            open: true,
        });
        self.steps.len() - 1
    }
}
