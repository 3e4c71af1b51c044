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
        0 => three_quarters_of_memory(),
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

fn three_quarters_of_memory() -> u64 {
    // Without an answer: as much as any machine has that this runs on.
    let fallback = 4 << 30;
    nix::sys::sysinfo::sysinfo().map_or(fallback, |info| info.ram_total() / 4 * 3)
}
