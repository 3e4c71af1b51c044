//! A device without compute: launches take the time that a model says, buffers hold labels of where their content came from.
//!
//! Three uses. The simulator runs the real engine on it in virtual time; `tensord --device sim:h100` runs the real daemon on
//! it in the machine's time, so that what is left of a request is the daemon's own cost; and both answer what a device that is
//! not there would be busy with.
//!
//! It keeps the rules of [`tensord_plan::Backend`] and notes every breach of the caller's rules ([`Breach`]).

#![forbid(unsafe_code)]

mod backend;
mod device;
mod flow;
mod label;
mod memory;
mod model;
mod time;

pub use backend::{SimBackend, SimDevice};
pub use device::Launched;
pub use label::Label;
pub use memory::Breach;
pub use model::{Model, ModelError};
pub use time::{MachineTime, Time, VirtualTime};
