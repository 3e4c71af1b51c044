//! What a simulated client is like.

use std::sync::Arc;

use tensord_shm::control::Class;

use crate::recording::Recording;

/// A client.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    /// Whose it is.
    pub tenant: u32,
    /// The tenant's weight among tenants.
    pub tenant_weight: u32,
    /// Class of its work.
    pub class: Class,
    /// Weight in its class.
    pub weight: u32,
    /// May its operations be fused?
    pub fuse: bool,
    /// May its requests share launches?
    pub batch: bool,
    /// Queues over which it spreads its jobs.
    pub queues: u32,
    /// Slots of its rings.
    pub slot_count: u32,
    /// When it asks.
    pub pace: Pace,
    /// What it asks for: one of these, by chance.
    pub jobs: Vec<JobKind>,
    /// When it comes.
    pub starts_ns: u64,
    /// When it asks for nothing more.
    pub stops_ns: u64,
    /// Most jobs.
    pub jobs_max: u64,
    /// Does it wait for its jobs, so that the engine knows that they are wanted?
    pub waits: bool,
    /// Jobs of a hundred whose result is downloaded.
    pub downloads: u64,
    /// Within this time of its submission a job should be over.
    pub deadline_us: Option<u64>,
    /// Records written at a time, and the time that each takes.
    pub burst: u32,
    /// See `burst`.
    pub record_ns: u64,
    /// May its requests fail? Else a failure is a violation.
    pub may_fail: bool,
    /// Does it never take the failures that it is told of?
    pub never_reads: bool,
    /// Is what it does written down?
    pub records: bool,
    /// It does what was recorded, in place of jobs.
    pub recording: Option<Arc<Recording>>,
}

impl Default for ClientSpec {
    fn default() -> ClientSpec {
        ClientSpec {
            tenant: 0,
            tenant_weight: 100,
            class: Class::Normal,
            weight: 100,
            fuse: true,
            batch: true,
            queues: 1,
            slot_count: 256,
            pace: Pace::Closed {
                depth: 1,
                think_ns: 0,
            },
            jobs: vec![JobKind::Chain {
                operations: 8,
                elements: 1024,
                carry: false,
            }],
            starts_ns: 0,
            stops_ns: u64::MAX,
            jobs_max: u64::MAX,
            waits: true,
            downloads: 100,
            deadline_us: None,
            burst: 16,
            record_ns: 60,
            may_fail: false,
            never_reads: false,
            records: false,
            recording: None,
        }
    }
}

/// When a client submits jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many at a time, each followed by a pause of this mean.
    Closed {
        /// Jobs under way.
        depth: u32,
        /// Between the end of one and the next.
        think_ns: u64,
    },
    /// One after another whatever became of those before, this far apart on average.
    Open {
        /// Mean distance.
        gap_ns: u64,
    },
    /// At least so far apart, and up to a quarter more, whatever became of those before.
    Periodic {
        /// Least distance.
        period_ns: u64,
    },
    /// Several at once, then nothing.
    Bursts {
        /// Jobs of a burst.
        count: u32,
        /// Distance of bursts.
        gap_ns: u64,
    },
}

/// What a job computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Elementwise operations one after the other.
    Chain {
        /// How many.
        operations: u32,
        /// Of each value.
        elements: u64,
        /// Does a job go on where the one before ended?
        carry: bool,
    },
    /// Layers of a matrix product with the tenant's weights and a rectifier.
    Layers {
        /// How many.
        count: u32,
        /// Rows of the operand.
        rows: u64,
        /// Rows and columns of the weights.
        width: u64,
    },
    /// A square matrix product of values that were made on the device.
    Product {
        /// Rows and columns.
        width: u64,
    },
    /// Operations of many kinds on each other's results.
    Graph {
        /// How many.
        operations: u32,
        /// Rows and columns of each value.
        width: u64,
    },
    /// A value uploaded, one operation, a download.
    Crossing {
        /// Of the value.
        elements: u64,
    },
    /// A chain that is cancelled as soon as it is written.
    Cancelled {
        /// How many operations.
        operations: u32,
    },
    /// Requests that fail: constants that nobody holds are asked for.
    Failing {
        /// How many.
        count: u32,
    },
}
