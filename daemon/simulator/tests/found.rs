//! What seeds have found, each as small as it can be: these must not come again.

#![allow(missing_docs, reason = "tests")]

use tensord_simulator::client::spec::{ClientSpec, JobKind, Pace};
use tensord_simulator::fault::Fault;
use tensord_simulator::{Setup, World};

fn run(setup: Setup) {
    let ran = World::new(setup, 1, |backend| Box::new(backend)).run();
    ran.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Its launch gave the memory back to a tenant that was forgotten, where it stayed for good.
#[test]
fn a_tenant_that_leaves_in_the_midst_of_a_launch_leaves_no_memory() {
    let long = ClientSpec {
        jobs: vec![JobKind::Product { width: 2048 }],
        pace: Pace::Closed {
            depth: 4,
            think_ns: 0,
        },
        ..ClientSpec::default()
    };
    for at_ns in (20_000..400_000).step_by(20_000) {
        run(Setup {
            clients: vec![long.clone()],
            faults: vec![(at_ns, Fault::Dies { client: 0 })],
            horizon_ns: 1_000_000,
            ..Setup::default()
        });
    }
}
