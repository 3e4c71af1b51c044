//! The processor, as the cpu backend sees it.

use tensord_cpu::Isa;

use super::Finding;

/// Cores and instruction set.
pub fn check() -> Vec<Finding> {
    let cores = match std::thread::available_parallelism() {
        Ok(count) if count.get() == 1 => Finding::warn(
            "cores",
            "1 for this process",
            "clients and engine take turns on it: give the daemon a second core (AllowedCPUs=, taskset)",
        ),
        Ok(count) => Finding::ok("cores", format!("{count} for this process")),
        Err(error) => Finding::warn("cores", error.to_string(), "none known"),
    };
    let best = Isa::detect();
    let text = format!("the cpu backend takes {best}");
    let vectors = if best == Isa::Portable {
        let advice = "a virtual machine may hide what its host has: pass the host's CPU model through (AVX2, FMA, F16C)";
        Finding::warn(
            "vectors",
            format!("{text}: right, and slow without fused multiply-add"),
            advice,
        )
    } else {
        Finding::ok("vectors", text)
    };
    vec![cores, vectors]
}
