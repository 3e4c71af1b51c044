//! What a run starts from.

use tensord_daemon::schedule::PolicyName;
use tensord_sim::Model;

use crate::client::spec::ClientSpec;
use crate::fault::Fault;

/// What things cost the engine's thread and the way to a client, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// A turn that finds something to do.
    pub turn_ns: u64,
    /// Each record accepted.
    pub record_ns: u64,
    /// Each launch.
    pub launch_ns: u64,
    /// From the timeline's move to the client's next step.
    pub wake_ns: u64,
    /// Idle time after which the engine sleeps.
    pub park_ns: u64,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            turn_ns: 300,
            record_ns: 40,
            launch_ns: 1_500,
            wake_ns: 3_000,
            park_ns: 50_000,
        }
    }
}

/// Everything that a run starts from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device.
    pub model: Model,
    /// The machine around it.
    pub host: Host,
    /// See [`tensord_daemon::engine::Settings::quiet_ns`].
    pub quiet_ns: u64,
    /// See [`tensord_daemon::engine::Settings::hold_ns`].
    pub hold_ns: u64,
    /// See [`tensord_daemon::engine::Settings::measured_merging`].
    pub measured_merging: bool,
    /// See [`tensord_daemon::engine::Settings::slice_ns`].
    pub slice_ns: u64,
    /// See [`tensord_daemon::engine::Settings::policy`].
    pub policy: PolicyName,
    /// When clients stop asking.
    pub horizon_ns: u64,
    /// The clients.
    pub clients: Vec<ClientSpec>,
    /// Largest lag of equal sessions; `None` observes only.
    pub lag_bound_ns: Option<u64>,
    /// May requests fail, because memory is short or refused?
    pub may_fail: bool,
    /// What goes wrong, in the order of its times.
    pub faults: Vec<(u64, Fault)>,
    /// Keep all of what happened, and not its end alone?
    pub whole_story: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            model: Model::h100(),
            host: Host::default(),
            quiet_ns: 20_000,
            hold_ns: 500_000,
            measured_merging: true,
            slice_ns: 500_000,
            policy: PolicyName::default(),
            horizon_ns: 10_000_000,
            clients: Vec::new(),
            lag_bound_ns: None,
            may_fail: false,
            faults: Vec::new(),
            whole_story: false,
        }
    }
}
