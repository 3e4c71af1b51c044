//! What an engine counts, with a word of description for each counter.

use serde::Serialize;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Counters of an engine since it started.
        #[derive(Clone, Copy, Debug, Default, Serialize)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: u64,)* }

        impl Counters {
            /// Name and description of each counter.
            pub const DESCRIPTIONS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($name), concat!($($doc),*)),)*];
        }
    };
}

counters! {
    /// Requests accepted: copied out of a ring.
    requests_accepted,
    /// Requests that ended well.
    requests_ok,
    /// Requests that ended in an error.
    requests_failed,
    /// Requests that were accepted, not launched, and ended by a cancel or with their session.
    requests_cancelled,
    /// Requests lost with an engine; counted by the broker.
    requests_lost,
    /// Operations that were executed.
    ops,
    /// Launches.
    launches,
    /// Instances, over all launches.
    instances,
    /// Operations that ran in a launch together with another operation of the same instance.
    ops_fused,
    /// Instances that ran in a launch with another instance.
    instances_batched,
    /// Launches with instances of two or more sessions.
    cross_session_launches,
    /// Windows that were seen before.
    plan_hits,
    /// Windows that had to be analysed.
    plan_misses,
    /// Plans that are known.
    plans,
    /// Kernels compiled.
    compiles,
    /// Bytes of device memory in use, constants included.
    device_bytes,
    /// The most that was in use at any time.
    device_bytes_max,
    /// Bytes of tensors that are in host memory because the device has no room for them.
    spilled_bytes,
    /// Bytes of host memory that such tensors take, copies of what is on the device again included.
    spill_host_bytes,
    /// Bytes copied from the device to host memory.
    spill_out_bytes,
    /// Bytes that came back to the device.
    spill_in_bytes,
    /// Time that sessions' ready work waited so that others keep their tensors on the device.
    throttled_us,
    /// Bytes of temporaries that launches used at most.
    scratch_bytes_max,
    /// Bytes of constants, each content once.
    constant_bytes,
    /// Bytes of other layouts kept of constants.
    packed_bytes,
    /// Bytes that were not stored because equal content was held already.
    shared_bytes_saved,
}
