//! The device as an engine sees it, and as whoever watches it does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tensord_plan::{
    Backend, BackendInfo, BackendStats, BufferId, DeviceFault, Launch, LaunchId, Ran, SealedMemory,
};

use crate::device::{Device, Launched};
use crate::memory::Breach;
use crate::model::Model;
use crate::time::Time;

/// The backend. Its device is looked at from outside through a [`SimDevice`].
pub struct SimBackend {
    device: SimDevice,
    time: Box<dyn Time>,
}

/// A simulated device, seen from outside. Clones are the same device.
#[derive(Clone)]
pub struct SimDevice(Arc<Mutex<Device>>);

impl SimBackend {
    /// A device of this model that goes by this time.
    pub fn new(model: Model, time: Box<dyn Time>) -> SimBackend {
        SimBackend {
            device: SimDevice(Arc::new(Mutex::new(Device::new(model)))),
            time,
        }
    }

    /// For looking at it while an engine owns the backend.
    pub fn device(&self) -> SimDevice {
        self.device.clone()
    }

    fn now(&self) -> (MutexGuard<'_, Device>, u64) {
        let now_ns = self.time.now_ns();
        let mut device = self.device.lock();
        device.run_until(now_ns);
        (device, now_ns)
    }

    fn wait_until_ran(&mut self, latest_ns: u64) {
        let (device, _) = self.now();
        let next_ns = match device.has_ran() {
            true => None,
            false => device.next_ns(),
        };
        drop(device);
        if let Some(next_ns) = next_ns {
            self.time.wait_until(next_ns.min(latest_ns));
        }
    }
}

impl SimDevice {
    fn lock(&self) -> MutexGuard<'_, Device> {
        // Each call leaves the device whole, so one that panicked did too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a slice ends next, by the device's clock, which says `now_ns`.
    pub fn next_ns(&self, now_ns: u64) -> Option<u64> {
        let mut device = self.lock();
        device.run_until(now_ns);
        device.next_ns()
    }

    /// Device time of all slices that ended.
    pub fn busy_ns(&self) -> u64 {
        self.lock().busy_ns()
    }

    /// Bytes allocated.
    pub fn used_bytes(&self) -> u64 {
        self.lock().memory.used()
    }

    /// Rules that the engine broke since the last call.
    pub fn take_breaches(&self) -> Vec<Breach> {
        self.lock().take_breaches()
    }

    /// Keeps a log of launches from now on.
    pub fn keep_log(&self) {
        self.lock().keep_log();
    }

    /// Launches that ended since the last call.
    pub fn take_log(&self) -> Vec<Launched> {
        self.lock().take_log()
    }

    /// The launch that ends as the `count`-th from now on fails, and with it the device.
    pub fn fail_in(&self, count: u64) {
        self.lock().fail_in(count);
    }

    /// Refuses all memory that is asked for, or no longer.
    pub fn refuse_memory(&self, refusing: bool) {
        self.lock().refuse_memory(refusing);
    }
}

/// A call that broke a rule. The device notes it and refuses the call.
fn invalid(device: &mut Device, breach: Breach) -> DeviceFault {
    let text = breach.to_string();
    device.note(Err(breach));
    DeviceFault::Invalid(text)
}

impl Backend for SimBackend {
    fn info(&self) -> BackendInfo {
        let device = self.device.lock();
        BackendInfo {
            device: format!("sim:{}", device.model.name),
            uuid: String::new(),
            description: format!("simulated, computes nothing; {}", device.model),
            memory_bytes: device.model.memory_bytes,
        }
    }

    fn stats(&self) -> BackendStats {
        BackendStats::default()
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceFault> {
        let mut device = self.device.lock();
        if device.is_refusing() {
            return Err(DeviceFault::OutOfMemory {
                wanted: bytes,
                free: 0,
            });
        }
        device.memory.alloc(bytes)
    }

    fn adopt(&mut self, memory: Arc<dyn SealedMemory>) -> Result<BufferId, DeviceFault> {
        self.device.lock().memory.adopt(memory)
    }

    fn free(&mut self, buffer: BufferId) {
        let (mut device, _) = self.now();
        device.check_unused("free", buffer, true);
        let freed = device.memory.free(buffer);
        device.note(freed);
    }

    fn zero(&mut self, buffer: BufferId, at: u64, len: u64) -> Result<(), DeviceFault> {
        let (mut device, _) = self.now();
        device.check_unused("zero", buffer, true);
        device
            .memory
            .zero(buffer, at, len)
            .map_err(|breach| invalid(&mut device, breach))
    }

    fn write(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        fill: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<(), DeviceFault> {
        let (mut device, _) = self.now();
        device.check_unused("write", buffer, true);
        device
            .memory
            .write(buffer, at, len, fill)
            .map_err(|breach| invalid(&mut device, breach))
    }

    fn read(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), DeviceFault> {
        let (mut device, _) = self.now();
        device.check_unused("read", buffer, false);
        device
            .memory
            .read(buffer, at, len, take)
            .map_err(|breach| invalid(&mut device, breach))
    }

    fn launch(&mut self, launch: Launch, slice_ns: u64) -> Result<(), DeviceFault> {
        let (mut device, now_ns) = self.now();
        device.launch(launch, slice_ns, now_ns);
        Ok(())
    }

    fn resume(&mut self, id: LaunchId, slice_ns: u64) {
        let (mut device, now_ns) = self.now();
        device.resume(id, slice_ns, now_ns);
    }

    fn abandon(&mut self, id: LaunchId) {
        let (mut device, now_ns) = self.now();
        device.abandon(id, now_ns);
    }

    fn poll(&mut self, done: &mut Vec<Ran>) {
        let (mut device, _) = self.now();
        done.extend(device.take_ran());
    }

    fn doze(&mut self, longest: Duration) {
        let latest_ns = self.time.now_ns().saturating_add(longest.as_nanos() as u64);
        self.wait_until_ran(latest_ns);
    }

    fn wait(&mut self, done: &mut Vec<Ran>) {
        self.wait_until_ran(u64::MAX);
        self.poll(done);
    }
}
