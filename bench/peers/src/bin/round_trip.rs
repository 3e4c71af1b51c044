//! A sample of eight bytes there and back between two processes over iceoryx2, both spinning: `round_trip TRIPS`.
//!
//! Written as the publish-subscribe benchmark of iceoryx2 is. Prints the median and the 99th percentile in microseconds.

#![forbid(unsafe_code)]

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::Instant;

use iceoryx2::prelude::*;

const STOP: u64 = u64::MAX;
const WARM_UP: usize = 1_000;

type Port = iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, u64, ()>;

fn open(node: &Node<ipc::Service>, run: &str, way: &str) -> Result<Port, Box<dyn Error>> {
    let name = format!("tensord/bench/{run}/{way}");
    let builder = node.service_builder(&name.as_str().try_into()?);
    Ok(builder.publish_subscribe::<u64>().open_or_create()?)
}

/// Sends back what comes.
fn answer(run: &str) -> Result<(), Box<dyn Error>> {
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let (there, back) = (open(&node, run, "there")?, open(&node, run, "back")?);
    let subscriber = there.subscriber_builder().create()?;
    let publisher = back.publisher_builder().create()?;
    publisher.send_copy(0)?;
    loop {
        if let Some(sample) = subscriber.receive()? {
            publisher.send_copy(*sample)?;
            if *sample == STOP {
                return Ok(());
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    set_log_level(LogLevel::Error);
    if let [role, run] = &arguments[..]
        && role == "answer"
    {
        return answer(run);
    }
    let trips: usize = arguments
        .first()
        .ok_or("usage: round_trip TRIPS")?
        .parse()?;
    let run = std::process::id().to_string();
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let (there, back) = (open(&node, &run, "there")?, open(&node, &run, "back")?);
    let subscriber = back.subscriber_builder().create()?;
    let publisher = there.publisher_builder().create()?;
    let mut other = Command::new(std::env::current_exe()?)
        .args(["answer", &run])
        .stdin(Stdio::null())
        .spawn()?;
    let receive = || -> Result<u64, Box<dyn Error>> {
        loop {
            if let Some(sample) = subscriber.receive()? {
                return Ok(*sample);
            }
        }
    };
    receive()?;
    let mut times = Vec::with_capacity(trips);
    for trip in 0..(WARM_UP + trips) as u64 {
        let start = Instant::now();
        publisher.send_copy(trip)?;
        while receive()? != trip {}
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    publisher.send_copy(STOP)?;
    other.wait()?;
    let mut times = times.split_off(WARM_UP);
    times.sort_by(f64::total_cmp);
    println!(
        "{} {}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    Ok(())
}
