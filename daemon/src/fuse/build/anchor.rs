//! Reductions and contractions: steps with a prologue, which is written here, and an epilogue, which roots behind them join.

use tensord_plan::{Instr, Slot};
use tensord_shm::op::{AxisSet, Op, Reduction, contract_sizes};

use super::step::Kind;
use super::{Builder, coordinates_over, squeeze};
use crate::fuse::affine::Affine;
use crate::fuse::body::BodyBuilder;
use crate::fuse::segment::{Arg, Source};

impl Builder<'_> {
    /// Opens the epilogue of a reduction or contraction: its first instruction is the result.
    fn anchor(&mut self, node: usize, kind: Kind, sizes: Slot, rank: usize, variables: Vec<usize>) {
        let meta = self.node(node).meta;
        let mut code = BodyBuilder::new(rank);
        let value = code.push(Instr::Reduced { dtype: meta.dtype });
        let coordinates = coordinates_over(&meta.shape, &variables);
        code.note(node as u32, &coordinates, value);
        let step = self.push_step(kind, sizes, squeeze(&meta.shape), variables, code);
        self.place_in_register(node, step, value, coordinates);
    }

    pub(super) fn reduce(&mut self, node: usize, kind: Reduction, axes: AxisSet) {
        let arg = &self.node(node).args[0];
        let shape = arg.layout.shape;
        let wide = |axis: &usize| shape[*axis] != 1;
        let outer: Vec<usize> = (0..shape.rank())
            .filter(|&a| !axes.contains(a))
            .filter(wide)
            .collect();
        let inner: Vec<usize> = (0..shape.rank())
            .filter(|&a| axes.contains(a))
            .filter(wide)
            .collect();
        let order: Vec<usize> = outer.iter().chain(&inner).copied().collect();
        let sizes = self
            .emitter
            .run(order.iter().map(|&axis| shape[axis] as i64));
        let mut coordinates = vec![Affine::constant(0); shape.rank()];
        for (variable, &axis) in order.iter().enumerate() {
            coordinates[axis] = Affine::variable(variable);
        }
        let mut code = BodyBuilder::new(order.len());
        let step = self.steps.len();
        let value = self.operand(&mut code, node, 0, &coordinates, step);
        let (outer, inner) = (outer.len(), inner.len());
        let kind = Kind::Reduce {
            sizes,
            outer: outer as u8,
            inner: inner as u8,
            body: code.finish(),
            value,
            dtype: arg.dtype,
            kind,
        };
        self.anchor(node, kind, sizes, outer, (0..outer).collect());
    }

    pub(super) fn contract(&mut self, node: usize) {
        let spec = self.node(node);
        let Op::Contract { a, b, out } = *spec.op else {
            return;
        };
        let found = contract_sizes(
            &a,
            &b,
            &out,
            &spec.args[0].layout.shape,
            &spec.args[1].layout.shape,
        );
        let sizes = found.expect("inference accepted these labels and shapes");
        // The shared operand goes second: rows of many instances then meet one packed operand.
        let constant = |arg: &Arg| matches!(arg.source, Source::External(e) if self.segment.externals[e as usize].constant);
        let swapped = constant(&spec.args[0]) && !constant(&spec.args[1]);
        let (first, second) = if swapped { (&b, &a) } else { (&a, &b) };
        let size = |label: u8| sizes.sizes[usize::from(label)];
        let wide = |labels: &mut dyn Iterator<Item = u8>| {
            labels.filter(|&l| size(l) != 1).collect::<Vec<u8>>()
        };
        let batch = wide(
            &mut out
                .iter()
                .copied()
                .filter(|l| first.contains(l) && second.contains(l)),
        );
        let m = wide(
            &mut out
                .iter()
                .copied()
                .filter(|l| first.contains(l) && !second.contains(l)),
        );
        let n = wide(&mut out.iter().copied().filter(|l| !first.contains(l)));
        let k = wide(&mut sizes.summed.iter().copied());
        let all: Vec<u8> = [&batch[..], &m, &n, &k].concat();
        let slot = self.emitter.run(all.iter().map(|&l| size(l) as i64));
        let step = self.steps.len();
        let positions = if swapped { [1, 0] } else { [0, 1] };
        let mut prologue = |labels: &[u8], position: usize, middle: &[u8]| {
            let space: Vec<u8> = [&batch[..], middle, &k].concat();
            let coordinates: Vec<Affine> = labels
                .iter()
                .map(|label| match space.iter().position(|l| l == label) {
                    Some(variable) => Affine::variable(variable),
                    None => Affine::constant(0),
                })
                .collect();
            let mut code = BodyBuilder::new(space.len());
            self.operand(&mut code, node, position, &coordinates, step);
            code.finish()
        };
        let first_body = prologue(first, positions[0], &m);
        let second_body = prologue(second, positions[1], &n);
        let kind = Kind::Contract {
            sizes: slot,
            groups: [
                batch.len() as u8,
                m.len() as u8,
                n.len() as u8,
                k.len() as u8,
            ],
            dtype: spec.args[0].dtype,
            a: first_body,
            b: second_body,
        };
        let space: Vec<u8> = [&batch[..], &m, &n].concat();
        let variables = out
            .iter()
            .filter_map(|label| space.iter().position(|l| l == label))
            .collect();
        self.anchor(node, kind, slot, space.len(), variables);
    }
}
