//! Measures how sessions share the device, for `bench/figures`: `figure-sharing [SCENARIO...]`.
//!
//! Each scenario starts a daemon of its own and clients that keep it busy, and prints a line for each figure, with what was wanted.
//! What clients complete is compared with what each completes when it is alone, so that a share is a share of the device whatever
//! an operation costs, and beside it stands what the scheduler's own account says.

#![forbid(unsafe_code)]

mod load;

use load::{Fleet, Load, alone};
use tensord_client::Class;

type Failure = Box<dyn std::error::Error>;

/// Measures and prints.
type Scenario = fn() -> Result<(), Failure>;

const SCENARIOS: [(&str, Scenario); 6] = [
    ("weights", weights),
    ("tenants", tenants),
    ("equals", equals),
    ("realtime", realtime),
    ("flooders", flooders),
    ("fairness-costs", fairness_costs),
];

fn main() -> Result<(), Failure> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| SCENARIOS.iter().all(|(known, _)| known != name))
    {
        let known = SCENARIOS.map(|(name, _)| name).join(", ");
        return Err(format!("no scenario {unknown}; there are {known}").into());
    }
    for (name, run) in SCENARIOS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run()?;
        }
    }
    Ok(())
}

fn show(scenario: &str, name: &str, value: String, wanted: &str, holds: bool) {
    let verdict = if holds { "" } else { " MISSED" };
    println!("figure: {name}: {value} (wanted: {wanted}){verdict} (figure-sharing {scenario})");
}

/// A small operation and a large one, in elements.
const SMALL: u64 = 16_384;
const LARGE: u64 = 1 << 20;

/// Two saturated sessions by weight: what they run, then shares by account and by completed work.
fn weights() -> Result<(), Failure> {
    let cases = [
        ("unlike sizes", [SMALL, LARGE]),
        ("unlike sizes, changed over", [LARGE, SMALL]),
        ("the same, merging", [SMALL, SMALL]),
    ];
    for (what, elements) in cases {
        let single = elements.map(|elements| alone(&Load::of(elements)));
        let [first, second] = single;
        let single = [first?, second?];
        let run = |weights: [u32; 2]| {
            let loads = [0, 1].map(|k| Load {
                weight: weights[k],
                ..Load::of(elements[k])
            });
            Fleet::run("", &loads)
        };
        let equal = run([100, 100])?;
        let total = |fleet: &Fleet| -> f64 {
            let done = fleet.clients.iter().zip(&single);
            done.map(|(client, alone)| client.rate / alone).sum()
        };
        for weights in [[75, 25], [900, 100]] {
            let fleet = run(weights)?;
            let wanted = f64::from(weights[0]) / f64::from(weights[0] + weights[1]);
            let account = fleet.clients[0].device_us / fleet.device_us();
            let work = fleet.clients[0].rate / single[0] / total(&fleet);
            let kept = total(&fleet) / total(&equal);
            show(
                "weights",
                &format!(
                    "weights {}:{}, {what}: share of the first",
                    weights[0], weights[1]
                ),
                format!(
                    "{:.1} % by account, {:.1} % by completed work; {:.2} of the throughput with equal weights",
                    account * 100.0,
                    work * 100.0,
                    kept
                ),
                &format!("{:.0} % within 1 point, at least 0.98", wanted * 100.0),
                (account - wanted).abs() <= 0.01 && (work - wanted).abs() <= 0.01 && kept >= 0.98,
            );
        }
    }
    Ok(())
}

/// One session of a tenant beside fifty of another.
fn tenants() -> Result<(), Failure> {
    let mut loads = vec![Load::of(SMALL)];
    loads.extend((0..50).map(|_| Load {
        tenant: 1,
        ..Load::of(SMALL)
    }));
    let fleet = Fleet::run("", &loads)?;
    let share = fleet.clients[0].device_us / fleet.device_us();
    show(
        "tenants",
        "a tenant with one session beside one with 50: its share",
        format!("{:.1} %", share * 100.0),
        "50 %, within 2 points",
        (share - 0.5).abs() <= 0.02,
    );
    Ok(())
}

/// Eight sessions of equal weight that do unlike things.
fn equals() -> Result<(), Failure> {
    let sizes = [1, 2, 4, 8, 16, 32, 64, 128].map(|k| k * 8_192);
    let fleet = Fleet::run("", &sizes.map(Load::of))?;
    let had: Vec<f64> = fleet
        .clients
        .iter()
        .map(|client| client.device_us)
        .collect();
    let index = jain(&had);
    show(
        "equals",
        "eight sessions of equal weight and unlike sizes: Jain's index",
        format!("{index:.3}"),
        "at least 0.98",
        index >= 0.98,
    );
    Ok(())
}

/// R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and Discrimination", DEC-TR-301, 1984.
fn jain(had: &[f64]) -> f64 {
    let sum: f64 = had.iter().sum();
    let squares: f64 = had.iter().map(|x| x * x).sum();
    sum * sum / (had.len() as f64 * squares)
}

/// One small request at a time beside four idle sessions that saturate the device with operations of some 10 ms.
fn realtime() -> Result<(), Failure> {
    let urgent = Load {
        class: Class::Realtime,
        depth: 1,
        pause_us: 500,
        ..Load::of(SMALL)
    };
    let idle = Load {
        class: Class::Idle,
        depth: 2,
        ..Load::of(8 << 20)
    };
    let by_itself = Fleet::run("", std::slice::from_ref(&urgent))?.clients[0].percentile_us(99.0);
    let idle_alone = Fleet::run("", &vec![idle.clone(); 4])?;
    let mut loads = vec![urgent];
    loads.extend(vec![idle; 4]);
    let beside = Fleet::run("", &loads)?;
    let p99 = beside.clients[0].percentile_us(99.0);
    let kept = beside.clients[1..].iter().map(|c| c.rate).sum::<f64>()
        / idle_alone.clients.iter().map(|c| c.rate).sum::<f64>();
    let most = by_itself * 1.1 + load::SLICE_US;
    show(
        "realtime",
        "a realtime session beside four idle ones: p99",
        format!("{p99:.0} us, alone {by_itself:.0} us"),
        &format!("at most {most:.0} us: 1.10 of alone and a slice"),
        p99 <= most,
    );
    show(
        "realtime",
        "the idle ones keep of their throughput alone",
        format!("{kept:.2}"),
        "at least 0.65",
        kept >= 0.65,
    );
    Ok(())
}

/// A victim with a steady load beside eight that flood.
fn flooders() -> Result<(), Failure> {
    let mut loads = vec![Load::of(SMALL)];
    loads.extend((0..8).map(|_| Load {
        depth: 1_024,
        ..Load::of(4 * SMALL)
    }));
    let fleet = Fleet::run("", &loads)?;
    let part = fleet.clients[0].device_us / fleet.device_us() * 9.0;
    show(
        "flooders",
        "a victim beside eight flooders of equal weight: of its entitlement",
        format!("{part:.2}"),
        "at least 0.90",
        part >= 0.9,
    );
    Ok(())
}

/// Merging under fair sharing beside merging with one queue, first come, first served.
fn fairness_costs() -> Result<(), Failure> {
    let loads = vec![
        Load {
            depth: 2,
            ..Load::of(4_096)
        };
        16
    ];
    let rate = |config: &str| -> Result<f64, Failure> {
        let fleet = Fleet::run(config, &loads)?;
        Ok(fleet.clients.iter().map(|client| client.rate).sum())
    };
    let (mut fair, mut fifo) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        fair.push(rate("[engine]\npolicy = \"fair\"\n")?);
        fifo.push(rate("[engine]\npolicy = \"fifo\"\n")?);
    }
    let mut ratios: Vec<f64> = fair.iter().zip(&fifo).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    show(
        "fairness-costs",
        "16 clients whose work merges, fair beside first come, first served",
        format!("{ratio:.3}"),
        "at least 0.95",
        ratio >= 0.95,
    );
    Ok(())
}
