//! Shares of device time.

use super::{Bench, Figure, Figures, Wanted, chain_of, product_of, saturating};
use crate::client::spec::{ClientSpec, Pace};
use crate::outcome::{Failure, Outcome};

/// Shares of a whole, in percent.
fn percent_of(parts: &[f64]) -> Vec<f64> {
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|part| part * 100.0 / sum).collect()
}

/// What clients had: by account, and by completed jobs times their cost alone.
struct Had {
    charged: Vec<f64>,
    worked: Vec<f64>,
}

fn had(bench: &Bench, specs: &[ClientSpec], outcome: &Outcome) -> Result<Had, Box<Failure>> {
    let mut worked = Vec::with_capacity(specs.len());
    for (k, (spec, client)) in specs.iter().zip(&outcome.clients).enumerate() {
        // Those of one kind cost the same.
        let same = specs[..k].iter().position(|other| other.jobs == spec.jobs);
        let alone = match same {
            Some(same) => worked[same] / jobs_of(&outcome.clients[same]).max(1.0),
            None => bench.alone_ns(spec)?,
        };
        worked.push(alone * jobs_of(client));
    }
    let charged = outcome.clients.iter();
    Ok(Had {
        charged: charged.map(|client| client.charged_ns as f64).collect(),
        worked,
    })
}

fn jobs_of(client: &crate::outcome::ClientOutcome) -> f64 {
    client.jobs.values().sum::<u64>() as f64
}

/// Two sessions of one tenant at unequal weights.
pub fn weights(bench: &Bench, (more, less): (u32, u32), merged: bool) -> Figures {
    let model = &bench.model;
    let kinds = match merged {
        true => [chain_of(model, 10_000.0); 2],
        false => [product_of(model, 20_000.0), product_of(model, 2_000_000.0)],
    };
    let both = |weights: [u32; 2]| {
        let specs = weights.into_iter().zip(kinds);
        let specs = specs.map(|(weight, kind)| saturating(0, weight, kind));
        specs.collect::<Vec<_>>()
    };
    let specs = both([more, less]);
    let outcome = bench.run(specs.clone())?;
    let plain = both([100, 100]);
    let even = bench.run(plain.clone())?;
    let (with, without) = (had(bench, &specs, &outcome)?, had(bench, &plain, &even)?);
    let wanted = Wanted::Near(f64::from(more), 1.0);
    let kept = with.worked.iter().sum::<f64>() / without.worked.iter().sum::<f64>();
    Ok(vec![
        Figure::new("share by account", percent_of(&with.charged)[0], "%").wants(wanted),
        Figure::new("share by work done", percent_of(&with.worked)[0], "%").wants(wanted),
        Figure::new("throughput beside equal weights", kept * 100.0, "%")
            .wants(Wanted::AtLeast(98.0)),
        instances(&outcome),
        busy(bench, &outcome),
        lag(&outcome),
    ])
}

/// One session beside fifty of another tenant.
pub fn tenants(bench: &Bench) -> Figures {
    let job = product_of(&bench.model, 50_000.0);
    let mut specs = vec![saturating(0, 100, job)];
    let many = ClientSpec {
        pace: Pace::Closed {
            depth: 2,
            think_ns: 0,
        },
        slot_count: 64,
        ..saturating(1, 100, job)
    };
    specs.extend(std::iter::repeat_n(many, 50));
    let outcome = bench.run(specs.clone())?;
    let had = had(bench, &specs, &outcome)?;
    let wanted = Wanted::Near(50.0, 1.0);
    Ok(vec![
        Figure::new(
            "share of the one by account",
            percent_of(&had.charged)[0],
            "%",
        )
        .wants(wanted),
        Figure::new(
            "share of the one by work done",
            percent_of(&had.worked)[0],
            "%",
        )
        .wants(wanted),
        Figure::new("Jain index of the fifty", jain(&had.charged[1..]), "")
            .wants(Wanted::AtLeast(0.98)),
        instances(&outcome),
        busy(bench, &outcome),
        lag(&outcome),
    ])
}

/// How even shares are, from 1 divided by their number to 1 (R. Jain, D. Chiu, W. Hawe, DEC TR-301, 1984).
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Eight sessions of one tenant, each with operations of its own.
pub fn eight(bench: &Bench) -> Figures {
    let model = &bench.model;
    let products = [10_000.0, 30_000.0, 100_000.0, 300_000.0, 2_000_000.0];
    let chains = [5_000.0, 20_000.0, 100_000.0];
    let kinds = products.map(|ns| product_of(model, ns)).into_iter();
    let kinds = kinds.chain(chains.map(|ns| chain_of(model, ns)));
    let specs: Vec<ClientSpec> = kinds.map(|kind| saturating(0, 100, kind)).collect();
    let outcome = bench.run(specs.clone())?;
    let had = had(bench, &specs, &outcome)?;
    let wanted = Wanted::AtLeast(0.98);
    Ok(vec![
        Figure::new("Jain index by account", jain(&had.charged), "").wants(wanted),
        Figure::new("Jain index by work done", jain(&had.worked), "").wants(wanted),
        instances(&outcome),
        busy(bench, &outcome),
        lag(&outcome),
    ])
}

/// One session of modest depth beside eight that fill their rings.
pub fn victim(bench: &Bench) -> Figures {
    let job = product_of(&bench.model, 50_000.0);
    let flooder = |tenant| ClientSpec {
        pace: Pace::Closed {
            depth: 200,
            think_ns: 0,
        },
        ..saturating(tenant, 100, job)
    };
    let mut specs: Vec<ClientSpec> = (1..=8).map(flooder).collect();
    specs.insert(
        0,
        ClientSpec {
            pace: Pace::Closed {
                depth: 4,
                think_ns: 0,
            },
            ..saturating(0, 100, job)
        },
    );
    let outcome = bench.run(specs.clone())?;
    let had = had(bench, &specs, &outcome)?;
    let entitled = 100.0 / specs.len() as f64;
    let of_entitled = |parts: &[f64]| percent_of(parts)[0] * 100.0 / entitled;
    let wanted = Wanted::AtLeast(90.0);
    Ok(vec![
        Figure::new(
            "of its entitlement, by account",
            of_entitled(&had.charged),
            "%",
        )
        .wants(wanted),
        Figure::new(
            "of its entitlement, by work done",
            of_entitled(&had.worked),
            "%",
        )
        .wants(wanted),
        instances(&outcome),
        busy(bench, &outcome),
        lag(&outcome),
    ])
}

fn instances(outcome: &Outcome) -> Figure {
    let each = outcome.instances as f64 / outcome.launches.max(1) as f64;
    Figure::new("instances of a launch", each, "")
}

fn busy(bench: &Bench, outcome: &Outcome) -> Figure {
    let charged: u64 = outcome.clients.iter().map(|client| client.charged_ns).sum();
    let share = charged as f64 * 100.0 / bench.horizon_ns as f64;
    Figure::new("device busy", share, "%")
}

fn lag(outcome: &Outcome) -> Figure {
    let largest = outcome.lag_ns.0.max(outcome.lag_ns.1);
    Figure::new("largest lag at weight 100", largest as f64 / 1e3, "us")
}
