//! Checkers must be able to fail: each rule is broken by a double between the engine and its device, and seen.

#![allow(missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use tensord_plan::{
    Backend, BackendInfo, BackendStats, BufferId, DeviceFault, Launch, LaunchId, Ran, SealedMemory,
};
use tensord_shm::dtype::Scalar;
use tensord_sim::SimBackend;
use tensord_simulator::checks::Check;
use tensord_simulator::seed::{Options, setup};
use tensord_simulator::{Between, World};

/// Seeds among which a broken rule must be met.
const SEEDS: u64 = 60;

/// What a double does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// From some time on completions never come.
    LosesCompletion,
    /// Launches are told to be over when they begin.
    TellsEarly,
    /// Instances read each other's operand.
    SwapsInputs,
    /// Instances write each other's result.
    SwapsOutputs,
    /// An instance gets another's scalar.
    SwapsImmediates,
    /// Nothing is ever zeroed.
    ZeroesNothing,
    /// Memory is never given back.
    FreesNothing,
    /// Launches are said to have taken longer.
    AddsTime,
    /// Memory runs out.
    RefusesMemory,
}

struct Double {
    inner: SimBackend,
    wrong: Wrong,
    calls: u64,
    early: Vec<LaunchId>,
}

fn double(inner: SimBackend, wrong: Wrong) -> Box<dyn Backend> {
    Box::new(Double {
        inner,
        wrong,
        calls: 0,
        early: Vec::new(),
    })
}

impl Double {
    /// Is it time to be wrong in this way: for good, after some calls?
    fn now(&mut self, wrong: Wrong, calls: u64) -> bool {
        self.calls += u64::from(self.wrong == wrong);
        self.wrong == wrong && self.calls > calls
    }

    fn swap(&self, launch: &mut Launch) {
        let [first, .., last] = launch.instances.as_mut_slice() else {
            return;
        };
        match self.wrong {
            Wrong::SwapsInputs => std::mem::swap(&mut first.inputs, &mut last.inputs),
            Wrong::SwapsOutputs => std::mem::swap(&mut first.outputs, &mut last.outputs),
            Wrong::SwapsImmediates => {
                let swap = |(a, b): (&mut Scalar, &mut Scalar)| std::mem::swap(a, b);
                let pairs = first.immediates.iter_mut().zip(&mut last.immediates);
                pairs.for_each(swap);
            }
            _ => {}
        }
    }
}

impl Backend for Double {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    fn stats(&self) -> BackendStats {
        self.inner.stats()
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceFault> {
        if self.now(Wrong::RefusesMemory, 5) {
            return Err(DeviceFault::OutOfMemory {
                wanted: bytes,
                free: 0,
            });
        }
        self.inner.alloc(bytes)
    }

    fn adopt(&mut self, memory: Arc<dyn SealedMemory>) -> Result<BufferId, DeviceFault> {
        self.inner.adopt(memory)
    }

    fn free(&mut self, buffer: BufferId) {
        if self.wrong != Wrong::FreesNothing {
            self.inner.free(buffer);
        }
    }

    fn zero(&mut self, buffer: BufferId, at: u64, len: u64) -> Result<(), DeviceFault> {
        match self.wrong {
            Wrong::ZeroesNothing => Ok(()),
            _ => self.inner.zero(buffer, at, len),
        }
    }

    fn write(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        fill: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<(), DeviceFault> {
        self.inner.write(buffer, at, len, fill)
    }

    fn read(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), DeviceFault> {
        self.inner.read(buffer, at, len, take)
    }

    fn resume(&mut self, id: LaunchId, slice_ns: u64) {
        self.inner.resume(id, slice_ns);
    }

    fn abandon(&mut self, id: LaunchId) {
        self.inner.abandon(id);
    }

    fn launch(&mut self, mut launch: Launch, slice_ns: u64) -> Result<(), DeviceFault> {
        self.swap(&mut launch);
        if self.wrong == Wrong::TellsEarly {
            self.early.push(launch.id);
        }
        self.inner.launch(launch, slice_ns)
    }

    fn poll(&mut self, done: &mut Vec<Ran>) {
        self.inner.poll(done);
        match self.wrong {
            Wrong::LosesCompletion => {
                let lost = !done.is_empty() && self.now(Wrong::LosesCompletion, 20);
                done.truncate(if lost { 0 } else { done.len() });
            }
            Wrong::AddsTime => done
                .iter_mut()
                .for_each(|completed| completed.busy_ns += 10),
            Wrong::TellsEarly => {
                done.clear();
                done.extend(self.early.drain(..).map(|id| Ran {
                    id,
                    busy_ns: 0,
                    over: true,
                    fault: None,
                }));
            }
            _ => {}
        }
    }

    fn doze(&mut self, longest: Duration) {
        self.inner.doze(longest);
    }

    fn wait(&mut self, done: &mut Vec<Ran>) {
        self.inner.wait(done);
    }
}

/// The rules that are seen to be broken, one for each seed in which one is.
fn broken(between: Between) -> Vec<Check> {
    let failed = |seed| {
        let world = World::new(setup(seed, &Options::default()), seed, between);
        world.run().err().map(|failure| failure.violation.check)
    };
    (0..SEEDS).filter_map(failed).collect()
}

fn assert_seen(wrong: Wrong, between: Between, expected: &[Check]) {
    let seen = broken(between);
    assert!(
        seen.iter().any(|check| expected.contains(check)),
        "{wrong:?} is not seen as {expected:?}: {seen:?}"
    );
}

macro_rules! doubles {
    ($($test:ident: $wrong:ident => $($check:ident),+;)*) => {$(
        #[test]
        fn $test() {
            let between: Between = |backend| double(backend, Wrong::$wrong);
            assert_seen(Wrong::$wrong, between, &[$(Check::$check),+]);
        }
    )*};
}

doubles! {
    a_completion_that_never_comes: LosesCompletion => Liveness;
    a_launch_told_to_be_over_too_early: TellsEarly => BackendRules, OwnContent;
    operands_of_another_instance: SwapsInputs => OwnContent;
    results_of_another_instance: SwapsOutputs => OwnContent;
    scalars_of_another_instance: SwapsImmediates => OwnContent;
    memory_that_is_not_zeroed: ZeroesNothing => BackendRules, OwnContent;
    memory_that_is_never_given_back: FreesNothing => Leftovers;
    device_time_that_was_not_there: AddsTime => Charges;
    memory_that_runs_out: RefusesMemory => NoFailure;
}

#[test]
fn a_bound_on_lag_that_nobody_can_keep() {
    let failed = |seed| {
        let mut setup = setup(seed, &Options::default());
        setup.lag_bound_ns = Some(1);
        let world = World::new(setup, seed, |backend| Box::new(backend));
        world.run().err().map(|failure| failure.violation.check)
    };
    let seen: Vec<Check> = (0..SEEDS).filter_map(failed).collect();
    assert!(seen.contains(&Check::Lag), "{seen:?}");
    assert!(seen.iter().all(|check| *check == Check::Lag), "{seen:?}");
}
