//! The backend that a device's name stands for.

use tensord_cpu::{CpuBackend, CpuConfig, Isa};
use tensord_plan::Backend;
use tensord_sim::{MachineTime, Model, SimBackend};

use crate::config::EngineConfig;

/// Makes the backend of a device: `cpu`, or `sim` with a model, which goes by the machine's clock.
pub fn backend_of(device: &str, settings: &EngineConfig) -> Result<Box<dyn Backend>, String> {
    if device.starts_with("sim") {
        let model = Model::of_device(device).map_err(|error| error.to_string())?;
        let memory_bytes = match settings.device_bytes {
            0 => model.memory_bytes,
            bytes => bytes,
        };
        let model = Model {
            memory_bytes,
            ..model
        };
        let time = Box::new(MachineTime::default());
        return Ok(Box::new(SimBackend::new(model, time)));
    }
    let isa = match settings.simd.as_str() {
        "auto" => None,
        name => Some(name.parse::<Isa>().map_err(|error| error.to_string())?),
    };
    let memory_bytes = match settings.device_bytes {
        0 => machine_bytes() / 4 * 3,
        bytes => bytes,
    };
    let config = CpuConfig {
        isa,
        threads: settings.threads as usize,
        memory_bytes,
        ..CpuConfig::default()
    };
    let backend = CpuBackend::new(config).map_err(|error| error.to_string())?;
    Ok(Box::new(backend))
}

fn machine_bytes() -> u64 {
    // Without an answer: as much as any machine has that this runs on.
    let fallback = 4 << 30;
    nix::sys::sysinfo::sysinfo().map_or(fallback, |info| info.ram_total())
}

/// Host memory for what a device has no room for: half of the machine's, and where the device's is the machine's too, no more than
/// leaves the system an eighth.
pub fn spill_bytes_beside(device: &str, device_bytes: u64) -> u64 {
    let machine = machine_bytes();
    let taken = if device == "cpu" { device_bytes } else { 0 };
    (machine / 8 * 7).saturating_sub(taken).min(machine / 2)
}
