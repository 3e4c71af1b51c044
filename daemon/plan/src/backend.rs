//! What an engine asks of a device.
//!
//! A backend owns memory and runs launches. It knows nothing of clients, sessions or tenants; it never sees a shape
//! that [`Params::new`] has not checked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tensord_shm::dtype::Scalar;
use thiserror::Error;

use crate::params::Params;
use crate::program::Plan;

/// Memory on a device, as one backend names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// One launch, as the engine names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaunchId(pub u64);

/// A tensor's memory as an instance sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// The buffer.
    pub buffer: BufferId,
    /// Byte at which it starts, a multiple of 64.
    pub offset: u64,
    /// Content that never changes and is worth keeping in another layout (packed panels) until the buffer is freed.
    pub constant: bool,
}

/// One binding of a plan to actual tensors.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Sizes, strides and offsets. Instances of equal shapes often share one `Arc`: compare pointers first.
    pub params: Arc<Params>,
    /// Scalars, each in the bits of its dtype.
    pub immediates: Vec<Scalar>,
    /// One for each of the plan's inputs.
    pub inputs: Vec<Operand>,
    /// One for each of the plan's outputs; equal to an input only where the plan's donations allow it.
    pub outputs: Vec<Operand>,
}

/// What is handed to the device in one go.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name for its completion.
    pub id: LaunchId,
    /// The program.
    pub plan: Arc<Plan>,
    /// One or more instances, independent of each other.
    pub instances: Vec<Instance>,
}

/// What became of a launch, or of a slice of it.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Which.
    pub id: LaunchId,
    /// Device time of the slice in nanoseconds.
    pub busy_ns: u64,
    /// Are its results there? Otherwise it goes on with [`Backend::resume`].
    pub over: bool,
    /// What went wrong, if something did: every instance's results are undefined then.
    pub fault: Option<DeviceFault>,
}

/// The device or its driver failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum DeviceFault {
    /// Not sticky: the request is refused, the device goes on.
    #[error("device memory: {wanted} bytes wanted, {free} free")]
    OutOfMemory { wanted: u64, free: u64 },
    /// An instance did not fit its plan or its buffers: a bug, caught before memory was touched.
    #[error("launch refused: {0}")]
    Invalid(String),
    /// Everything on the device is lost.
    #[error("device failed: {0}")]
    Fatal(String),
}

/// What a backend says of itself.
#[derive(Clone, Debug)]
pub struct BackendInfo {
    /// `cpu`, `cuda:0`, ...
    pub device: String,
    /// An identifier of the device that survives restarts, or empty.
    pub uuid: String,
    /// For humans: processor and instruction set, or GPU model.
    pub description: String,
    /// Memory that may be allocated in bytes.
    pub memory_bytes: u64,
}

/// What a backend counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackendStats {
    /// Kernels compiled since the start.
    pub compiles: u64,
    /// Bytes of other layouts kept of constants.
    pub packed_bytes: u64,
    /// Bytes of temporaries held at most at any time.
    pub scratch_bytes_max: u64,
}

/// Read-only memory that a backend may use in place: a constant kept in a sealed segment.
pub trait SealedMemory: Send + Sync {
    /// The bytes; 64-byte aligned.
    fn bytes(&self) -> &[u8];
}

impl fmt::Debug for dyn SealedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedMemory({} bytes)", self.bytes().len())
    }
}

/// A device.
///
/// Calls come from one thread. Launches that are not over share no buffer that one of them writes: whoever reads what another
/// makes is launched when that is over. Nor does the engine free, write or read a buffer that an unfinished launch uses.
///
/// A launch holds the device for a slice at a time. Where it is cut changes nothing in its results.
pub trait Backend: Send {
    /// What it is.
    fn info(&self) -> BackendInfo;

    /// What it counted.
    fn stats(&self) -> BackendStats;

    /// Memory of at least `bytes` bytes, 64-byte aligned. Contents are undefined: the engine zeroes what changes tenants.
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceFault>;

    /// Sealed memory as a buffer that is only read: in place, or copied to the device.
    fn adopt(&mut self, memory: Arc<dyn SealedMemory>) -> Result<BufferId, DeviceFault>;

    /// Does adopted memory stay where it is, so that it takes no memory of the device?
    fn adopts_in_place(&self) -> bool {
        false
    }

    /// Gives a buffer back, and every other layout kept of it. An unknown id is ignored.
    fn free(&mut self, buffer: BufferId);

    /// Fills a part of a buffer with zeros.
    fn zero(&mut self, buffer: BufferId, at: u64, len: u64) -> Result<(), DeviceFault>;

    /// Lets `fill` write bytes `at..at + len` of a buffer. It may be called several times with consecutive pieces.
    fn write(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        fill: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<(), DeviceFault>;

    /// Lets `take` see bytes `at..at + len` of a buffer, in consecutive pieces with their distance from `at`.
    fn read(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), DeviceFault>;

    /// Starts a launch, for about `slice_ns`. Small ones may be over when this returns; [`Backend::poll`] tells.
    fn launch(&mut self, launch: Launch, slice_ns: u64) -> Result<(), DeviceFault>;

    /// Lets a launch go on for about `slice_ns` more that was reported and is not over. An unknown one is ignored.
    fn resume(&mut self, id: LaunchId, slice_ns: u64);

    /// Ends a launch that was reported and is not over: nobody wants its results. An unknown one is ignored.
    fn abandon(&mut self, id: LaunchId);

    /// Appends which slices have ended.
    fn poll(&mut self, done: &mut Vec<Ran>);

    /// Sleeps until a slice has ended, or for so long: what a caller does that has nothing else to do.
    fn doze(&mut self, longest: Duration);

    /// Waits until at least one slice has ended, if any is under way.
    fn wait(&mut self, done: &mut Vec<Ran>);
}
