//! Turns requests into values, views and a window of operations: linear time, no devices.
//!
//! A record that follows what came before it as it did earlier is recognised by [`trace`], and nothing is built. For any other, a view
//! request binds a handle to another layout of the same value and is done, and every other operation appends a node to its
//! queue's window ([`Acceptance`]). Shapes and dtypes are inferred again here by the same code that the client used, so nothing
//! behind this stage meets an operation that does not fit.

pub mod branch;
pub mod handles;
pub mod trace;
pub mod value;
pub mod window;

use std::rc::Rc;

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::layout::{Layout, Shape};
use tensord_shm::op::{Meta, Op, Operand, scalar_meta};
use tensord_shm::record::Compute;

use handles::Handles;
use value::{Binding, Failure, State, Value};
use window::{NodeArg, NodeOp, Window};

/// One request being accepted: where it belongs, and what it may touch.
pub struct Acceptance<'a> {
    /// The session's handles.
    pub handles: &'a mut Handles,
    /// The queue's window.
    pub window: &'a mut Window,
    /// The queue.
    pub queue: u32,
    /// The request's timeline value.
    pub number: u64,
    /// Its source position.
    pub site: u32,
}

type Accepted = Result<(), Failure>;

impl Acceptance<'_> {
    /// A failure that begins with this request.
    pub fn failure(&self, code: Code) -> Failure {
        Failure {
            code,
            origin: self.number,
            site: self.site,
        }
    }

    /// An operand that can be read, now or once its operation ran.
    pub fn operand(&self, handle: Handle) -> Result<&Binding, Failure> {
        let binding = self
            .handles
            .get(handle)
            .map_err(|code| self.failure(code))?;
        if let Some(failure) = binding.value.failure() {
            return Err(Failure {
                code: Code::Poisoned,
                ..failure
            });
        }
        if binding.value.building().is_some() {
            return Err(self.failure(Code::BadHandle));
        }
        Ok(binding)
    }

    /// Binds the output of a request that makes a value.
    pub fn bind(&mut self, out: Handle, value: Rc<Value>, view: Option<Rc<Layout>>) -> Accepted {
        self.handles
            .check_free(out)
            .map_err(|code| self.failure(code))?;
        self.handles.bind(out, Binding { value, view });
        Ok(())
    }

    /// Gives the output of a failed request to whoever uses it, if it can be named at all.
    pub fn poison(&mut self, out: Option<Handle>, failure: Failure) {
        if let Some(out) = out.filter(|out| self.handles.check_free(*out).is_ok()) {
            let meta = Meta {
                dtype: DType::Bool,
                shape: Shape::SCALAR,
            };
            let value = Value::new(meta, State::Failed(failure));
            self.handles.bind(out, Binding { value, view: None });
        }
    }

    /// An operation. `attributes` are the record's attribute words.
    pub fn compute(&mut self, compute: &Compute, attributes: &[u64]) -> Accepted {
        let operands = compute.operands();
        let mut metas = Vec::with_capacity(operands.len());
        let mut args = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                Operand::Immediate(dtype, scalar) => {
                    metas.push(scalar_meta(*dtype));
                    args.push(NodeArg::Immediate(*dtype, *scalar));
                }
                Operand::Tensor(handle) => {
                    let binding = self.operand(*handle)?;
                    metas.push(binding.meta());
                    args.push(NodeArg::Value(
                        Rc::clone(&binding.value),
                        binding.view.clone(),
                    ));
                }
            }
        }
        let meta = compute
            .op
            .infer(&metas.iter().collect::<Vec<_>>())
            .map_err(|error| self.failure(error.code()))?;
        self.handles
            .check_free(compute.out)
            .map_err(|code| self.failure(code))?;
        if compute.op.is_view() {
            return self.view(&compute.op, compute.out, args);
        }
        if matches!(compute.op, Op::Scatter { .. }) {
            for arg in &mut args {
                self.materialise_scalar(arg);
            }
        }
        let value = self.waiting(meta);
        self.bind(compute.out, Rc::clone(&value), None)?;
        self.window.push(
            NodeOp::from(compute.op),
            value,
            args,
            (attributes, compute.immediates),
            (self.number, self.site),
        );
        Ok(())
    }

    fn waiting(&self, meta: Meta) -> Rc<Value> {
        let value = Value::new(meta, State::Waiting);
        value.queue.set(self.queue);
        value
    }

    fn view(&mut self, op: &Op, out: Handle, mut args: Vec<NodeArg>) -> Accepted {
        if let Some(arg) = args.first_mut() {
            self.materialise_scalar(arg);
        }
        let Some(NodeArg::Value(value, view)) = args.pop() else {
            return Err(self.failure(Code::Attribute));
        };
        let layout = view
            .as_ref()
            .map_or_else(|| Layout::contiguous(value.meta.shape), |view| **view);
        match op.apply_view(&layout) {
            Some(layout) => {
                let own = layout.is_contiguous() && layout.shape == value.meta.shape;
                self.bind(out, value, (!own).then(|| Rc::new(layout)))
            }
            None => {
                // Strides do not allow this reshape: the elements move first.
                let dense = self.copy(value, view);
                let layout = op.apply_view(&Layout::contiguous(dense.meta.shape));
                let layout = layout.ok_or_else(|| self.failure(Code::Internal))?;
                self.bind(out, dense, Some(Rc::new(layout)))
            }
        }
    }

    /// A row-major copy of a view, as a node of this same request.
    pub fn copy(&mut self, value: Rc<Value>, view: Option<Rc<Layout>>) -> Rc<Value> {
        let shape = view.as_ref().map_or(value.meta.shape, |view| view.shape);
        let copy = self.waiting(Meta {
            dtype: value.meta.dtype,
            shape,
        });
        let op = NodeOp::Other(Rc::new(Op::Copy));
        let about = (self.number, self.site);
        self.window.push(
            op,
            Rc::clone(&copy),
            [NodeArg::Value(value, view)],
            (&[], [Scalar(0); 2]),
            about,
        );
        copy
    }

    /// Turns a scalar operand into a tensor, for operations that read memory.
    fn materialise_scalar(&mut self, arg: &mut NodeArg) {
        let NodeArg::Immediate(dtype, scalar) = *arg else {
            return;
        };
        let meta = scalar_meta(dtype);
        let value = self.waiting(meta);
        let op = NodeOp::Other(Rc::new(Op::Full(meta)));
        // Attributes as a record of `full` has them: the immediate, then a shape of no axes.
        let attributes = ([scalar.0, 0], [scalar, Scalar(0)]);
        self.window.push(
            op,
            Rc::clone(&value),
            [],
            (&attributes.0, attributes.1),
            (self.number, self.site),
        );
        self.window.uncount_last();
        *arg = NodeArg::Value(value, None);
    }
}
