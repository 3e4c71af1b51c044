//! The GPU and what CUDA needs around it. A machine without one is well: the cpu backend needs nothing of it.

use tensord_cuda::Report;

use super::Finding;
use crate::units::{self, or_dash};

/// What the probe found, judged.
pub fn check(report: &Report) -> Vec<Finding> {
    if report.nodes.is_empty() {
        return vec![if report.driver.present {
            Finding::warn(
                "gpu",
                "libcuda is installed, but there is no /dev/nvidia*",
                "load the kernel driver (modprobe nvidia, nvidia-smi), or give the container its devices (--gpus all)",
            )
        } else {
            Finding::ok("gpu", "none; the cpu backend needs none")
        }];
    }
    let mut findings = vec![devices(report)];
    findings.push(driver(report));
    findings.extend(report.libraries.iter().map(|library| {
        if library.present {
            let version = or_dash(library.version.as_deref(), str::to_owned);
            Finding::ok("cuda library", format!("{} {version} ({})", library.name, library.purpose))
        } else {
            Finding::warn(
                "cuda library",
                format!("{} is not found ({})", library.name, library.purpose),
                "install the CUDA 13 runtime libraries, and put their folder where the loader looks (ldconfig)",
            )
        }
    }));
    findings
}

fn devices(report: &Report) -> Finding {
    let closed: Vec<String> = report
        .nodes
        .iter()
        .filter_map(|node| Some(format!("{}: {}", node.path.display(), node.error.as_ref()?)))
        .collect();
    if !closed.is_empty() {
        return Finding::warn(
            "gpu",
            closed.join("; "),
            "let the daemon's user open them (group, DeviceAllow=)",
        );
    }
    let nodes: Vec<String> = report
        .nodes
        .iter()
        .map(|node| node.path.display().to_string())
        .collect();
    Finding::ok("gpu", nodes.join(" "))
}

fn driver(report: &Report) -> Finding {
    let name = "cuda driver";
    let kernel = or_dash(report.kernel_driver.as_deref(), str::to_owned);
    if !report.driver.present {
        let advice =
            "install the user-space part of NVIDIA's driver, of the same version (libcuda1)";
        return Finding::warn(
            name,
            format!("kernel driver {kernel}, and no libcuda"),
            advice,
        );
    }
    if let Some(error) = &report.driver.error {
        let advice = "kernel driver and libcuda must be of one version: reboot after an update, or reinstall";
        return Finding::warn(name, format!("kernel driver {kernel}; {error}"), advice);
    }
    let devices: Vec<String> = report
        .driver
        .devices
        .iter()
        .map(|device| {
            let (major, minor) = device.compute_capability.unwrap_or_default();
            let memory = or_dash(device.memory_bytes, units::bytes);
            let name = or_dash(device.name.as_deref(), str::to_owned);
            format!("cuda:{} {name}, {memory}, sm_{major}{minor}", device.index)
        })
        .collect();
    let cuda = or_dash(report.driver.cuda_version.as_deref(), str::to_owned);
    Finding::ok(
        name,
        format!("{kernel}, CUDA {cuda}: {}", devices.join("; ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Verdict;
    use tensord_cuda::{Driver, Node};

    #[test]
    fn what_is_missing_around_a_gpu_is_named() {
        let driver = Driver {
            present: false,
            cuda_version: None,
            error: None,
            devices: Vec::new(),
        };
        let mut report = Report {
            nodes: Vec::new(),
            kernel_driver: None,
            driver,
            libraries: Vec::new(),
        };
        assert_eq!(check(&report)[0].verdict, Verdict::Ok);
        report.nodes.push(Node {
            path: "/dev/nvidia0".into(),
            error: Some("Permission denied".into()),
        });
        let findings = check(&report);
        assert!(
            findings[0].found.contains("Permission denied")
                && findings[1].found.contains("no libcuda")
        );
        assert!(
            findings
                .iter()
                .all(|finding| finding.verdict == Verdict::Warn && finding.advice.is_some())
        );
        report.driver.present = true;
        report.driver.error = Some("CUDA_ERROR_NO_DEVICE".into());
        assert!(check(&report)[1].found.contains("NO_DEVICE"));
    }
}
