//! The client of tensord: sessions, queues, tensors.
//!
//! ```no_run
//! use tensord_client::{Elementwise, Options, Session};
//!
//! let session = Session::connect(Options::default())?;
//! let x = session.tensor(&[1.0f32, 2.0, 3.0], &[3])?;
//! let y = x.scalar(Elementwise::Mul, 2.0)?.unary(Elementwise::Tanh)?;
//! println!("{:?}", y.to_vec::<f32>()?);
//! # Ok::<(), tensord_client::Error>(())
//! ```
//!
//! Submitting never waits, unless a ring is full: shapes and dtypes are checked at the call by the code that the daemon
//! uses too, the result is named here, and a record of 64 bytes goes out. What fails later is found at the tensor that
//! needs it, with the line that asked. One core under Rust, C and Python; nothing here knows either language.

#![forbid(unsafe_code)]

mod core;
mod default;
mod element;
mod error;
mod lane;
mod launch;
mod ops;
mod patience;
mod ring;
mod runtime;
mod session;
mod site;
mod staging;
mod submit;
mod tensor;
mod transfer;

pub use default::{default_session, set_default_session};
pub use element::Element;
pub use error::Error;
pub use launch::{AUTOSTART_VARIABLE, DAEMON_VARIABLE};
pub use ops::parse_contract;
pub use ring::Mark;
pub use runtime::{Runtime, set_runtime};
pub use session::{Info, Options, Session};
pub use site::{Place, Site};
pub use submit::Arg;
pub use tensor::Tensor;
pub use transfer::Fetched;

pub use tensord_shm::control::{Change, Changes, Class, Resource, SessionLimits, Welcome};
pub use tensord_shm::dtype::{DType, Kind, Scalar};
pub use tensord_shm::error::{Code, Fault};
pub use tensord_shm::layout::{RANK_MAX, Shape};
pub use tensord_shm::op::{
    self, AxisList, AxisSet, Distribution, Elementwise, Labels, Meta, OPERANDS_MAX, Op, OpError,
    Operand, Reduction, Scan, ScatterMode,
};
