//! How long the most urgent waits for the least urgent.

use tensord_shm::control::Class;

use super::{Bench, Figure, Figures, Wanted, percentile, product_of, saturating};
use crate::client::spec::{ClientSpec, JobKind, Pace};

/// Operations of the idle sessions take so long.
const LONG_NS: f64 = 10e6;

/// A realtime session beside four idle ones.
pub fn realtime(bench: &Bench) -> Figures {
    let urgent = ClientSpec {
        class: Class::Realtime,
        pace: Pace::Closed {
            depth: 1,
            think_ns: 2_000_000,
        },
        jobs: vec![JobKind::Chain {
            operations: 4,
            elements: 1024,
            carry: false,
        }],
        ..ClientSpec::default()
    };
    let idle = |tenant| ClientSpec {
        class: Class::Idle,
        pace: Pace::Closed {
            depth: 4,
            think_ns: 0,
        },
        ..saturating(tenant, 100, product_of(&bench.model, LONG_NS))
    };
    let idle: Vec<ClientSpec> = (1..=4).map(idle).collect();
    let mut alone = bench.run(vec![urgent.clone()])?;
    let undisturbed = bench.run(idle.clone())?;
    let mut all = vec![urgent];
    all.extend(idle);
    let mut together = bench.run(all)?;
    let p99_alone = percentile(&mut alone.clients[0].latencies_ns, 99.0) / 1e3;
    let latencies = &mut together.clients[0].latencies_ns;
    let (p50, p99) = (
        percentile(latencies, 50.0) / 1e3,
        percentile(latencies, 99.0) / 1e3,
    );
    let slice_us = bench.slice_ns as f64 / 1e3;
    let charged = |clients: &[crate::outcome::ClientOutcome]| {
        clients.iter().map(|client| client.charged_ns).sum::<u64>() as f64
    };
    let kept = charged(&together.clients[1..]) / charged(&undisturbed.clients);
    Ok(vec![
        Figure::new("p99 alone", p99_alone, "us"),
        Figure::new("p50 beside them", p50, "us"),
        Figure::new("p99 beside them", p99, "us")
            .wants(Wanted::AtMost(p99_alone * 1.10 + slice_us)),
        Figure::new("throughput that the idle ones keep", kept * 100.0, "%")
            .wants(Wanted::AtLeast(65.0)),
    ])
}
