//! The commands, one file each. Each gives the exit status; an error ends in `main`.

pub mod bench;
pub mod doctor;
pub mod drain;
pub mod kill;
pub mod limit;
pub mod nice;
pub mod ps;
pub mod sim;
pub mod stat;
pub mod status;
