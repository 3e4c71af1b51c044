//! What jobs are made of: requests in order, with the label that each result must have.

use tensord_shm::control::Class;
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::handle::Handle;
use tensord_shm::layout::Shape;
use tensord_shm::op::{AxisList, AxisSet, Elementwise, Labels, Meta, Op, Operand, Reduction};
use tensord_shm::record::{Compute, INLINE_BYTES_MAX, Region, Request, Urgency};
use tensord_shm::staging::{StagingArena, StagingRegion};
use tensord_sim::Label;

use super::handles::Handles;
use super::spec::JobKind;
use crate::random::Random;

/// Values up to this size are uploaded; larger ones are made on the device.
pub const UPLOAD_BYTES_MAX: u64 = 64 << 10;
/// Longest wait of a queue for another one: longer than any run.
const WAIT_US: u64 = 60_000_000;
const DTYPE: DType = DType::F32;
const ELEMENT_BYTES: u64 = 4;

/// A tensor of a client.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// Its name.
    pub handle: Handle,
    /// Its dtype and shape.
    pub meta: Meta,
    /// What its memory must say.
    pub label: Label,
}

/// A request to be written.
pub struct Step {
    /// What it asks.
    pub request: Request,
    /// What it lets go.
    pub releases: Vec<Handle>,
    /// Its deadline.
    pub urgency: Option<Urgency>,
}

/// A value on its way out.
pub struct Expected {
    /// Index of the step that asks for it; its timeline value once that is written.
    pub at: u64,
    /// Where it arrives.
    pub region: StagingRegion,
    /// What must arrive.
    pub label: Label,
}

/// What a job is built from.
pub struct Builder<'a> {
    /// Everything random.
    pub random: &'a mut Random,
    /// Names.
    pub handles: &'a mut Handles,
    /// Staging memory.
    pub staging: &'a StagingArena,
    /// The label's part that says whose it is.
    pub session: u64,
    /// The same of its tenant's constants.
    pub tenant: u64,
    /// Timeline value of the first request.
    pub first: u64,
    /// Requests so far.
    pub steps: Vec<Step>,
    /// Downloads so far.
    pub expected: Vec<Expected>,
    /// Regions to be kept until the job is over.
    pub uploads: Vec<StagingRegion>,
}

fn shape(sizes: &[u64]) -> Shape {
    Shape::new(sizes).expect("sizes of jobs are small")
}

fn meta(sizes: &[u64]) -> Meta {
    Meta {
        dtype: DTYPE,
        shape: shape(sizes),
    }
}

fn axes<T: Copy + Default>(items: &[T]) -> AxisList<T> {
    AxisList::new(items).expect("few axes")
}

fn labels(text: &[u8]) -> Labels {
    axes(text)
}

impl Builder<'_> {
    fn step(&mut self, request: Request) {
        self.steps.push(Step {
            request,
            releases: Vec::new(),
            urgency: None,
        });
    }

    /// An immediate, and the label that it adds.
    fn scalar(&mut self) -> (Scalar, Label) {
        let scalar = Label::scalar(self.session, self.random.below(64));
        (scalar, Label::of_scalar(scalar))
    }

    /// An operation on tensors and label-carrying immediates (`None`).
    fn op(&mut self, op: Op, operands: &[Option<Tensor>]) -> Tensor {
        let mut label = Label::ZERO;
        let mut metas = Vec::with_capacity(operands.len());
        let mut args = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                Some(tensor) => {
                    label = label.union(tensor.label);
                    metas.push(tensor.meta);
                    args.push(Operand::Tensor(tensor.handle));
                }
                None => {
                    let (scalar, own) = self.scalar();
                    label = label.union(own);
                    metas.push(tensord_shm::op::scalar_meta(DTYPE));
                    args.push(Operand::Immediate(DTYPE, scalar));
                }
            }
        }
        let mut immediates = [Scalar(0); 2];
        for immediate in &mut immediates[..op.attribute_immediates()] {
            let (scalar, own) = self.scalar();
            label = label.union(own);
            *immediate = scalar;
        }
        let metas: Vec<&Meta> = metas.iter().collect();
        let meta = op.infer(&metas).expect("a job's shapes fit each other");
        let handle = self.handles.take();
        let compute = Compute::new(op, DTYPE, handle, &args, immediates);
        self.step(Request::Compute(compute.expect("few operands")));
        Tensor {
            handle,
            meta,
            label,
        }
    }

    fn unary(&mut self, function: Elementwise, x: Tensor) -> Tensor {
        self.op(Op::Elementwise(function), &[Some(x)])
    }

    fn binary(&mut self, function: Elementwise, a: Tensor, b: Tensor) -> Tensor {
        self.op(Op::Elementwise(function), &[Some(a), Some(b)])
    }

    /// With an immediate.
    fn with_scalar(&mut self, function: Elementwise, x: Tensor) -> Tensor {
        self.op(Op::Elementwise(function), &[Some(x), None])
    }

    fn product(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let op = Op::Contract {
            a: labels(&[0, 1]),
            b: labels(&[1, 2]),
            out: labels(&[0, 2]),
        };
        self.op(op, &[Some(a), Some(b)])
    }

    /// Lets a tensor go with the last request.
    pub fn release(&mut self, tensor: Tensor) {
        if self.steps.is_empty() {
            self.step(Request::Release);
        }
        self.handles.give(tensor.handle);
        if let Some(step) = self.steps.last_mut() {
            step.releases.push(tensor.handle);
        }
    }

    fn after(&mut self, result: Tensor, operand: Tensor) -> Tensor {
        self.release(operand);
        result
    }

    /// A value from the client, or one made on the device where it is large.
    pub fn value(&mut self, sizes: &[u64]) -> Tensor {
        let meta = meta(sizes);
        let bytes = meta.shape.count() * ELEMENT_BYTES;
        if bytes > UPLOAD_BYTES_MAX {
            return self.op(Op::Full(meta), &[]);
        }
        let label = Label::new(self.session, self.random.below(64));
        self.upload(meta, bytes, label, false)
            .unwrap_or_else(|| self.op(Op::Full(meta), &[]))
    }

    /// The tenant's constant of these sizes.
    pub fn constant(&mut self, sizes: &[u64]) -> Tensor {
        let meta = meta(sizes);
        let bytes = meta.shape.count() * ELEMENT_BYTES;
        let label = Label::new(self.tenant, sizes.iter().sum());
        self.upload(meta, bytes, label, true)
            .unwrap_or_else(|| self.op(Op::Full(meta), &[]))
    }

    /// `None` where staging is full.
    fn upload(&mut self, meta: Meta, bytes: u64, label: Label, constant: bool) -> Option<Tensor> {
        let out = self.handles.take();
        if bytes <= INLINE_BYTES_MAX as u64 && self.random.chance(50) {
            let mut content = vec![0; bytes.next_multiple_of(8) as usize];
            label.fill(0, &mut content[..bytes as usize]);
            let (words, _) = content.as_chunks::<8>();
            let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
            self.step(Request::UploadInline {
                out,
                meta,
                constant,
                words,
            });
        } else {
            let Ok(mut region) = self.staging.allocate(bytes) else {
                self.handles.give(out);
                return None;
            };
            label.fill(0, region.as_mut_slice());
            let from = region_of(&region);
            self.uploads.push(region);
            self.step(Request::Upload {
                out,
                meta,
                constant,
                from,
            });
        }
        Some(Tensor {
            handle: out,
            meta,
            label: label.within(bytes),
        })
    }

    /// Asks for a value, as far as staging has room.
    pub fn download(&mut self, of: Tensor) {
        let bytes = of.meta.shape.count() * ELEMENT_BYTES;
        let Ok(mut region) = self.staging.allocate(bytes.min(UPLOAD_BYTES_MAX)) else {
            return;
        };
        // What was there before must not pass for the answer.
        region.as_mut_slice().fill(0xee);
        self.step(Request::Download {
            of: of.handle,
            at: 0,
            to: region_of(&region),
        });
        self.expected.push(Expected {
            at: self.steps.len() as u64 - 1,
            region,
            label: of.label,
        });
    }

    /// What is asked for so far is late after so many microseconds.
    pub fn set_deadline(&mut self, class: Class, deadline_us: u64) {
        self.step(Request::Flush);
        if let Some(step) = self.steps.last_mut() {
            step.urgency = Some(Urgency {
                class: match class {
                    Class::Realtime => 0,
                    Class::Normal => 1,
                    Class::Idle => 2,
                },
                device: 0,
                deadline_us,
            });
        }
    }

    /// The values that jobs of a kind work on.
    pub fn bases(&mut self, kind: &JobKind) -> Vec<Tensor> {
        match *kind {
            JobKind::Chain { elements, .. } => vec![self.value(&[elements])],
            JobKind::Layers { rows, width, .. } => {
                vec![self.value(&[rows, width]), self.constant(&[width, width])]
            }
            JobKind::Product { width } => {
                vec![self.value(&[width, width]), self.value(&[width, width])]
            }
            JobKind::Graph { width, .. } => {
                vec![self.value(&[width, width]), self.value(&[width, width])]
            }
            JobKind::Cancelled { .. } => vec![self.value(&[100])],
            JobKind::Crossing { .. } | JobKind::Failing { .. } => {
                self.step(Request::NoOp);
                Vec::new()
            }
        }
    }

    /// The requests of one job; gives its result. `bases` are what [`Builder::bases`] gave.
    pub fn job(&mut self, kind: &JobKind, bases: &mut [Tensor]) -> Tensor {
        match *kind {
            JobKind::Chain {
                operations, carry, ..
            } => {
                let result = self.chain(bases[0], operations, carry);
                if !carry {
                    return result;
                }
                bases[0] = result;
                // The result stays for the next job; what is shown is a copy.
                self.op(Op::Copy, &[Some(result)])
            }
            JobKind::Layers { count, .. } => {
                let mut x = bases[0];
                for layer in 0..count {
                    let product = self.product(x, bases[1]);
                    if layer > 0 {
                        self.release(x);
                    }
                    let result = self.with_scalar(Elementwise::Maximum, product);
                    x = self.after(result, product);
                }
                x
            }
            JobKind::Product { .. } => self.product(bases[0], bases[1]),
            JobKind::Graph { operations, .. } => self.graph(bases, operations),
            JobKind::Crossing { elements } => {
                let x = self.value(&[elements]);
                let result = self.with_scalar(Elementwise::Add, x);
                self.after(result, x)
            }
            JobKind::Cancelled { operations } => {
                let result = self.chain(bases[0], operations, false);
                let first = self.first + self.random.below(self.steps.len() as u64);
                let last = self.first + self.steps.len() as u64 - 1;
                self.step(Request::Cancel { first, last });
                result
            }
            JobKind::Failing { count } => {
                let meta = meta(&[16]);
                for _ in 0..count {
                    let out = self.handles.take();
                    let hash = [0x5a; 32];
                    self.step(Request::Bind { out, meta, hash });
                    self.release(Tensor {
                        handle: out,
                        meta,
                        label: Label::ZERO,
                    });
                }
                self.value(&[16])
            }
        }
    }

    /// The queue goes on when another one of the session has come to a value.
    pub fn wait_for(&mut self, queue: u32, value: u64) {
        self.step(Request::WaitQueue {
            queue,
            value,
            timeout_us: WAIT_US,
        });
    }

    fn chain(&mut self, base: Tensor, operations: u32, carry: bool) -> Tensor {
        let mut x = base;
        for step in 0..operations.max(1) {
            let function = match step % 2 {
                0 => Elementwise::Mul,
                _ => Elementwise::Add,
            };
            let result = self.with_scalar(function, x);
            if step > 0 || carry {
                self.release(x);
            }
            x = result;
        }
        x
    }

    /// Values of one square shape come and go; at the end they are added up.
    fn graph(&mut self, bases: &[Tensor], operations: u32) -> Tensor {
        let width = bases[0].meta.shape[0];
        let mut values: Vec<Tensor> = Vec::new();
        for _ in 0..operations {
            let all = bases.len() + values.len();
            let choose = |random: &mut Random| {
                let at = random.below(all as u64) as usize;
                *bases.get(at).unwrap_or_else(|| &values[at - bases.len()])
            };
            let (a, b) = (choose(self.random), choose(self.random));
            let made = self.any_operation(a, b, width);
            values.push(made);
            if values.len() > 4 {
                let at = self.random.below(values.len() as u64 - 1) as usize;
                let gone = values.swap_remove(at);
                self.release(gone);
            }
        }
        let mut sum = self.with_scalar(Elementwise::Add, bases[0]);
        for value in values {
            let next = self.binary(Elementwise::Add, sum, value);
            self.release(sum);
            self.release(value);
            sum = next;
        }
        sum
    }

    fn any_operation(&mut self, a: Tensor, b: Tensor, width: u64) -> Tensor {
        // A part of a single row would hold nothing of its operand, and so nothing of its label.
        let kinds = if width > 1 { 9 } else { 7 };
        match self.random.below(kinds) {
            0 => self.unary(Elementwise::Neg, a),
            1 => self.binary(Elementwise::Add, a, b),
            2 => self.binary(Elementwise::Mul, a, b),
            3 => self.with_scalar(Elementwise::Maximum, a),
            4 => {
                let turned = self.op(Op::Permute(axes(&[1, 0])), &[Some(a)]);
                let result = self.binary(Elementwise::Sub, turned, b);
                self.after(result, turned)
            }
            5 => {
                let kind = self.random.pick(&[Reduction::Sum, Reduction::Max]);
                let op = Op::Reduce {
                    kind,
                    axes: AxisSet(1 << self.random.below(2)),
                    keep: true,
                };
                let reduced = self.op(op, &[Some(a)]);
                let result = self.binary(Elementwise::Sub, b, reduced);
                self.after(result, reduced)
            }
            6 => self.product(a, b),
            7 => self.halves(a, b, width),
            _ => {
                let (low, high) = (axes(&[1, 0]), axes(&[0, 0]));
                let padded = self.op(Op::Pad { low, high }, &[Some(a)]);
                let rows = self.rows(padded, 0, width);
                // Whoever reads the row of padding alone reads `a` as well.
                let sum = self.binary(Elementwise::Add, rows, a);
                self.release(padded);
                self.release(rows);
                let result = self.binary(Elementwise::Add, sum, b);
                self.after(result, sum)
            }
        }
    }

    fn rows(&mut self, x: Tensor, start: u64, count: u64) -> Tensor {
        let op = Op::Slice {
            starts: axes(&[start as i64, 0]),
            steps: axes(&[1, 1]),
            lens: axes(&[count, x.meta.shape[1]]),
        };
        self.op(op, &[Some(x)])
    }

    fn halves(&mut self, a: Tensor, b: Tensor, width: u64) -> Tensor {
        let half = width / 2;
        let (upper, lower) = (self.rows(a, 0, half), self.rows(b, half, width - half));
        let joined = self.op(Op::Concat { axis: 0 }, &[Some(upper), Some(lower)]);
        self.release(upper);
        self.release(lower);
        // Whoever reads one half alone reads both operands.
        let sum = self.binary(Elementwise::Add, joined, a);
        self.release(joined);
        let result = self.binary(Elementwise::Add, sum, b);
        self.after(result, sum)
    }
}

fn region_of(region: &StagingRegion) -> Region {
    Region {
        arena: 0,
        offset: region.offset(),
        len: region.len(),
    }
}
