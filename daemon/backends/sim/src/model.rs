//! How long a launch takes on a device that is not there.
//!
//! A launch costs a start, and a little more for each further step. Its instances lie side by side on the multiprocessors: one
//! fills as many as its widest result has threads for, a launch takes as long as its slowest instance alone, or as
//! all of them together take of the whole device's arithmetic or bandwidth, whichever is longest. Operands that several instances share
//! are read once. This is the roofline with occupancy, and knows nothing of caches, tensor cores or the order of blocks: good
//! for comparing schedules, not for predicting a kernel.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use tensord_plan::{Instance, Launch};
use thiserror::Error;

/// Threads that fill a multiprocessor, one for each element of a result.
const THREADS: u64 = 1024;
/// Bytes of an element, where only bytes are known.
const ELEMENT_BYTES: u64 = 4;
/// A multiprocessor alone reaches this multiple of its share of the bandwidth.
const BANDWIDTH_REACH: f64 = 4.0;
/// Elements of an operand that are reduced by one thread.
const REDUCED_EACH: u64 = 16;

/// A device.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// As it is named.
    pub name: String,
    /// A launch of nothing, in nanoseconds.
    pub launch_ns: u64,
    /// Each step of a launch behind the first, in nanoseconds.
    pub step_ns: u64,
    /// Multiprocessors.
    pub processors: u32,
    /// Bytes of memory traffic in a nanosecond.
    pub bytes_per_ns: f64,
    /// Elementary operations in a nanosecond.
    pub operations_per_ns: f64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// A description that is no model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ModelError {
    #[error("device {0:?} is not simulated: those that are begin with sim, as sim:h100")]
    Device(String),
    #[error(
        "device model {0:?} is unknown: there are {known}, and any of them with values, as in \
         h100,processors=66,memory_gib=40",
        known = Model::NAMES.join(" and ")
    )]
    Name(String),
    #[error(
        "device model: {0:?} is no value: there are launch_ns, step_ns, processors, gb_per_s, gflops and memory_gib, each \
         with a number, as in processors=66"
    )]
    Value(String),
}

impl Model {
    /// Models that are known by name.
    pub const NAMES: [&str; 2] = ["h100", "small"];

    /// Of a device's name: `sim`, or `sim:` and a model.
    pub fn of_device(device: &str) -> Result<Model, ModelError> {
        match device.split_once(':') {
            Some(("sim", model)) => model.parse(),
            None if device == "sim" => Ok(Model::default()),
            _ => Err(ModelError::Device(device.to_owned())),
        }
    }

    /// An NVIDIA H100 SXM: 132 multiprocessors, 3.35 TB/s, 67 TFLOP/s in f32, 80 GB.
    pub fn h100() -> Model {
        Model {
            name: "h100".into(),
            launch_ns: 2_500,
            step_ns: 1_000,
            processors: 132,
            bytes_per_ns: 3_350.0,
            operations_per_ns: 60_000.0,
            memory_bytes: 80 << 30,
        }
    }

    /// A small card: 14 multiprocessors, 128 GB/s, 3 TFLOP/s, 4 GiB.
    pub fn small() -> Model {
        Model {
            name: "small".into(),
            launch_ns: 5_000,
            step_ns: 2_000,
            processors: 14,
            bytes_per_ns: 128.0,
            operations_per_ns: 2_900.0,
            memory_bytes: 4 << 30,
        }
    }

    fn set(&mut self, key: &str, value: f64) -> Option<()> {
        let positive = value > 0.0 && value.is_finite();
        match key {
            "launch_ns" if value >= 0.0 => self.launch_ns = value as u64,
            "step_ns" if value >= 0.0 => self.step_ns = value as u64,
            "processors" if value >= 1.0 => self.processors = value as u32,
            "gb_per_s" if positive => self.bytes_per_ns = value,
            "gflops" if positive => self.operations_per_ns = value,
            "memory_gib" if positive => self.memory_bytes = (value * f64::from(1 << 30)) as u64,
            _ => return None,
        }
        Some(())
    }

    /// How long a launch takes, in nanoseconds.
    pub fn busy_ns(&self, launch: &Launch) -> u64 {
        let mut seen = BTreeSet::new();
        let (mut longest, mut bytes_all, mut operations_all) = (0.0f64, 0.0f64, 0.0f64);
        for instance in &launch.instances {
            let (bytes, operations) = instance.params.cost();
            let shared: u64 = instance
                .inputs
                .iter()
                .zip(instance.params.input_bytes())
                .filter(|(operand, _)| !seen.insert((operand.buffer, operand.offset)))
                .map(|(_, bytes)| bytes)
                .sum();
            let own = bytes.saturating_sub(shared) as f64;
            let share = self.share(instance);
            let reach = (share * BANDWIDTH_REACH).min(1.0);
            let alone = (own / (self.bytes_per_ns * reach))
                .max(operations as f64 / (self.operations_per_ns * share));
            longest = longest.max(alone);
            bytes_all += own;
            operations_all += operations as f64;
        }
        let all = (bytes_all / self.bytes_per_ns).max(operations_all / self.operations_per_ns);
        let steps = launch.plan.steps.len().saturating_sub(1) as u64;
        self.launch_ns + steps * self.step_ns + longest.max(all) as u64
    }

    /// The part of the device that an instance fills.
    fn share(&self, instance: &Instance) -> f64 {
        let params = &instance.params;
        let written = params.output_bytes().iter().max().copied().unwrap_or(0) / ELEMENT_BYTES;
        let between = params.temp_counts().iter().max().copied().unwrap_or(0);
        let read = params.input_bytes().iter().max().copied().unwrap_or(0) / ELEMENT_BYTES;
        let width = written.max(between).max(read / REDUCED_EACH).max(1);
        let processors = width.div_ceil(THREADS).min(u64::from(self.processors));
        processors as f64 / f64::from(self.processors)
    }
}

impl Default for Model {
    fn default() -> Model {
        Model::h100()
    }
}

impl FromStr for Model {
    type Err = ModelError;

    /// A name, and values that differ from it: `small,processors=20,memory_gib=8`.
    fn from_str(text: &str) -> Result<Model, ModelError> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let mut model = match name {
            "h100" | "" => Model::h100(),
            "small" => Model::small(),
            _ => return Err(ModelError::Name(name.to_owned())),
        };
        for part in parts {
            part.split_once('=')
                .and_then(|(key, value)| model.set(key, value.parse().ok()?))
                .ok_or_else(|| ModelError::Value(part.to_owned()))?;
        }
        if text.contains(',') {
            model.name = text.to_owned();
        }
        Ok(model)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "model {}: {} multiprocessors, {} GB/s, {} GFLOP/s, {} GiB, {} ns a launch",
            self.name,
            self.processors,
            self.bytes_per_ns,
            self.operations_per_ns,
            self.memory_bytes >> 30,
            self.launch_ns
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_a_name_and_values_of_its_own() {
        let model: Model = "small,processors=20,memory_gib=0.5"
            .parse()
            .expect("a model");
        assert_eq!((model.processors, model.memory_bytes), (20, 1 << 29));
        assert_eq!(model.launch_ns, Model::small().launch_ns);
        assert_eq!(Model::of_device("sim"), Ok(Model::h100()));
        assert_eq!(Model::of_device("sim:small"), Ok(Model::small()));
        assert!(Model::of_device("cuda:0").is_err() && Model::of_device("sim:x").is_err());
        assert!("a100".parse::<Model>().is_err());
        for bad in [
            "h100,x=1",
            "h100,processors=0",
            "h100,processors",
            "h100,gflops=nan",
        ] {
            assert!(bad.parse::<Model>().is_err(), "{bad}");
        }
    }
}
