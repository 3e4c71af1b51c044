//! Which vector instructions the kernels use.
//!
//! Every kernel has one source; a level only decides what the compiler may translate it to, so that all levels give the same
//! bits. Forcing a lower level than the processor has is for tests and for finding faults.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A level of vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has. Without a fused multiply-add it is slow, but right.
    Portable,
    /// 128-bit vectors of 64-bit ARM.
    Neon,
    /// 256-bit vectors, fused multiply-add, half-precision conversion.
    Avx2,
    /// 512-bit vectors and masks (F, DQ, BW, VL).
    Avx512,
}

/// A level that was asked for and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum IsaError {
    #[error("this processor does not have {wanted}; the best it has is {best}")]
    Missing { wanted: Isa, best: Isa },
    #[error("there is no instruction set {0:?}: say avx512, avx2, neon or portable")]
    Unknown(String),
}

impl Isa {
    /// Every level, lowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// Does this processor have it?
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Avx2 => has_avx2(),
            Isa::Avx512 => has_avx2() && has_avx512(),
        }
    }

    /// The highest level that this processor has.
    pub fn detect() -> Isa {
        *Self::ALL
            .iter()
            .rev()
            .find(|isa| isa.available())
            .expect("the portable level is always available")
    }

    /// The level asked for, or the highest.
    pub fn choose(wanted: Option<Isa>) -> Result<Isa, IsaError> {
        match wanted {
            None => Ok(Self::detect()),
            Some(isa) if isa.available() => Ok(isa),
            Some(wanted) => Err(IsaError::Missing {
                wanted,
                best: Self::detect(),
            }),
        }
    }

    /// Name as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaError::Unknown(name.into()))
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_not_there_is_refused_by_name() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
            match Isa::choose(Some(isa)) {
                Ok(have) => assert_eq!(have, isa),
                Err(error) => assert!(error.to_string().contains(isa.name())),
            }
        }
        assert!("sse9".parse::<Isa>().is_err());
        assert!(Isa::detect().available());
    }
}
