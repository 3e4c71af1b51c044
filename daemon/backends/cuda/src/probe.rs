//! Finds out what a `cuda` backend would need and whether this machine has it.
//!
//! Looks at device files, then at each library, then asks the driver. Every answer that could not be had is `None` with the
//! reason beside it. No context is made on any device, so probing costs no device memory and disturbs nobody.
//!
//! # Invariant
//! No function of a library is called before `is_culib_present` has said that the library is there: the bindings panic
//! where it is not.

use std::ffi::c_int;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use cudarc::driver::{result as driver, sys as driver_sys};
use serde::Serialize;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Device files of NVIDIA's kernel driver.
    pub nodes: Vec<Node>,
    /// Version of the kernel driver, as it says of itself: `580.65.06`.
    pub kernel_driver: Option<String>,
    /// The driver's user-space library, and what it says.
    pub driver: Driver,
    /// The libraries beside it.
    pub libraries: Vec<Library>,
}

/// A device file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its path.
    pub path: PathBuf,
    /// Why this process cannot open it for reading and writing; `None` where it can.
    pub error: Option<String>,
}

/// A library that is loaded at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// Name as the loader knows it, without prefix and suffix: `nvrtc`.
    pub name: &'static str,
    /// What a backend needs it for.
    pub purpose: &'static str,
    /// Whether the loader finds it.
    pub present: bool,
    /// Its version, where it is there and says one.
    pub version: Option<String>,
}

/// The driver's library and its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Whether the loader finds `libcuda`.
    pub present: bool,
    /// Newest CUDA version that it serves: `13.0`.
    pub cuda_version: Option<String>,
    /// Why it could not be initialised or asked; `None` where it could, or where it is absent.
    pub error: Option<String>,
    /// Its devices, in the order of `cuda:N`.
    pub devices: Vec<Device>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The N of `cuda:N`.
    pub index: u32,
    /// Product name.
    pub name: Option<String>,
    /// Its identity, as `nvidia-smi -L` writes it.
    pub uuid: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Major and minor number of its instruction set.
    pub compute_capability: Option<(u32, u32)>,
}

impl Report {
    /// Why a `cuda` backend could not start on device `index`; `None` where nothing stands in its way.
    pub fn obstacle(&self, index: u32) -> Option<String> {
        if self.nodes.is_empty() {
            return Some("no NVIDIA GPU: there is no /dev/nvidia*".into());
        }
        if !self.driver.present {
            return Some("libcuda.so is not found: install NVIDIA's driver for this kernel".into());
        }
        if let Some(error) = &self.driver.error {
            return Some(format!("the CUDA driver refuses: {error}"));
        }
        if self
            .driver
            .devices
            .iter()
            .all(|device| device.index != index)
        {
            return Some(format!(
                "there is no cuda:{index}; the driver shows {} device(s)",
                self.driver.devices.len()
            ));
        }
        let missing: Vec<&str> = self
            .libraries
            .iter()
            .filter(|library| !library.present)
            .map(|library| library.name)
            .collect();
        if missing.is_empty() {
            return None;
        }
        Some(format!("libraries not found: {}", missing.join(", ")))
    }
}

/// Looks at everything. Takes milliseconds without a GPU, and as long as the driver's start (up to a second) with one.
pub fn probe() -> Report {
    Report {
        nodes: nodes(Path::new("/dev")),
        kernel_driver: fs::read_to_string("/proc/driver/nvidia/version")
            .ok()
            .and_then(|text| kernel_driver_version(&text)),
        driver: driver_report(),
        libraries: vec![nvrtc(), cublas(), cublaslt()],
    }
}

/// `nvidia0`, `nvidiactl` and their like, sorted.
fn nodes(folder: &Path) -> Vec<Node> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_prefix("nvidia"))
                .is_some_and(|rest| rest == "ctl" || rest == "-uvm" || rest.parse::<u32>().is_ok())
        })
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let opened = OpenOptions::new().read(true).write(true).open(&path);
            let error = opened.err().map(|error| error.to_string());
            Node { path, error }
        })
        .collect()
}

/// The version in the first line of `/proc/driver/nvidia/version`: the first word that starts with a digit and has a dot.
fn kernel_driver_version(text: &str) -> Option<String> {
    text.lines()
        .next()?
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(str::to_owned)
}

fn driver_report() -> Driver {
    let mut report = Driver {
        present: false,
        cuda_version: None,
        error: None,
        devices: Vec::new(),
    };
    // SAFETY: it only asks the loader for the library, whose start-up code is the vendor's; nothing else is required.
    report.present = unsafe { driver_sys::is_culib_present() };
    if !report.present {
        return report;
    }
    let mut version: c_int = 0;
    // SAFETY: the library is present, and `version` is a valid place for one int during the call.
    let status = unsafe { driver_sys::cuDriverGetVersion(&mut version) };
    if status.result().is_ok() {
        report.cuda_version = Some(thousands(version));
    }
    let count = driver::init().and_then(|()| driver::device::get_count());
    match count {
        Ok(count) => report.devices = (0..count).filter_map(device).collect(),
        Err(error) => report.error = Some(format!("{error:?}")),
    }
    report
}

fn device(ordinal: c_int) -> Option<Device> {
    let index = u32::try_from(ordinal).ok()?;
    let handle = driver::device::get(ordinal).ok()?;
    let attribute = |which| {
        // SAFETY: `handle` came from the initialised driver just now and devices are never removed from a process.
        let value = unsafe { driver::device::get_attribute(handle, which) };
        value.ok().and_then(|value| u32::try_from(value).ok())
    };
    use driver_sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: as above.
    let memory = unsafe { driver::device::total_mem(handle) };
    Some(Device {
        index,
        name: driver::device::get_name(handle).ok(),
        uuid: driver::device::get_uuid(handle)
            .ok()
            .map(|uuid| uuid_text(uuid.bytes.map(|byte| byte.cast_unsigned()))),
        memory_bytes: memory.ok().map(|bytes| bytes as u64),
        compute_capability: attribute(MAJOR).zip(attribute(MINOR)),
    })
}

fn nvrtc() -> Library {
    use cudarc::nvrtc::sys;
    // SAFETY: it only asks the loader.
    let present = unsafe { sys::is_culib_present() };
    let version = present.then(|| {
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: the library is present, and both places are valid for one int each during the call.
        let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
        status.result().ok().map(|()| format!("{major}.{minor}"))
    });
    Library {
        name: "nvrtc",
        purpose: "compiles kernels",
        present,
        version: version.flatten(),
    }
}

fn cublas() -> Library {
    Library {
        name: "cublas",
        purpose: "large products",
        // SAFETY: it only asks the loader.
        present: unsafe { cudarc::cublas::sys::is_culib_present() },
        // It tells its version only through a handle, which would need a context.
        version: None,
    }
}

fn cublaslt() -> Library {
    use cudarc::cublaslt::sys;
    // SAFETY: it only asks the loader.
    let present = unsafe { sys::is_culib_present() };
    let version = present.then(|| {
        // SAFETY: the library is present; the call takes nothing and needs no context.
        let version = unsafe { sys::cublasLtGetVersion() };
        format!(
            "{}.{}.{}",
            version / 10_000,
            version / 100 % 100,
            version % 100
        )
    });
    Library {
        name: "cublasLt",
        purpose: "large products",
        present,
        version,
    }
}

/// 13010 is 13.1.
fn thousands(version: c_int) -> String {
    format!("{}.{}", version / 1_000, version % 1_000 / 10)
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::from("GPU-");
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_identities_read_as_the_vendor_writes_them() {
        assert_eq!(thousands(13_010), "13.1");
        assert_eq!(
            kernel_driver_version(
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.2.0\n"
            ),
            Some("580.65.06".into())
        );
        assert_eq!(kernel_driver_version(""), None);
        assert_eq!(
            uuid_text([
                0x12, 0x34, 0x56, 0x78, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
            ]),
            "GPU-12345678-0102-0304-0506-0708090a0b0c"
        );
    }

    /// On a machine without CUDA this is the test that the bindings' panic stays away; with CUDA, that the driver answers.
    #[test]
    fn probing_is_safe_whatever_is_installed() {
        let report = probe();
        assert_eq!(report, probe());
        if !report.driver.present {
            assert!(report.driver.devices.is_empty() && report.obstacle(0).is_some());
        }
        for library in &report.libraries {
            assert!(library.present || library.version.is_none(), "{library:?}");
        }
        let beyond = u32::try_from(report.driver.devices.len()).expect("a machine has few GPUs");
        assert!(report.obstacle(beyond).is_some());
    }

    #[test]
    fn an_obstacle_is_named_with_what_to_do() {
        let mut report = Report {
            nodes: vec![Node {
                path: "/dev/nvidia0".into(),
                error: None,
            }],
            kernel_driver: None,
            driver: Driver {
                present: false,
                cuda_version: None,
                error: None,
                devices: Vec::new(),
            },
            libraries: vec![Library {
                name: "nvrtc",
                purpose: "compiles kernels",
                present: false,
                version: None,
            }],
        };
        let said = |report: &Report| report.obstacle(0).unwrap_or_default();
        assert!(said(&report).contains("libcuda"));
        report.driver.present = true;
        assert!(said(&report).contains("there is no cuda:0"));
        report.driver.devices.push(Device {
            index: 0,
            name: None,
            uuid: None,
            memory_bytes: None,
            compute_capability: None,
        });
        assert!(said(&report).contains("nvrtc"));
        report.libraries[0].present = true;
        assert_eq!(report.obstacle(0), None);
        report.driver.error = Some("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH".into());
        assert!(said(&report).contains("MISMATCH"));
        report.nodes.clear();
        assert!(said(&report).contains("/dev/nvidia"));
    }
}
