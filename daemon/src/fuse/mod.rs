//! Turns the ready part of a queue's window into one plan with one instance.
//!
//! In: a run of operations of one queue, with their operands' layouts. Out: a plan, equal for all runs that do the same thing, and the
//! parameters that bind it to these sizes. Batching is the scheduler's: instances of equal plans share a launch. Knows shapes and
//! dtypes; knows nothing of sessions, buffers or priorities.
//!
//! A run seen before costs one hash and one comparison ([`PlanCache::find`]). One that differs in sizes only is analysed
//! again, in linear time, and finds its plan among those known: nothing is compiled, and the number of plans does not grow.

mod affine;
mod analyse;
mod body;
mod build;
mod donate;
mod segment;

use std::rc::Rc;
use std::sync::Arc;

use tensord_plan::{BoundsError, Params, Plan};

use crate::map::Map;

pub use build::Built;
pub use segment::{Arg, External, ImmediateSource, Segment, SegmentNode, Source};

/// Words of window keys kept in one generation of the cache (8 bytes each).
const KEY_WORDS_MAX: usize = 1 << 20;
/// Plans kept in one generation of the cache.
const PLANS_MAX: usize = 4096;

/// A plan bound to sizes: everything of an instance but its tensors and scalars.
#[derive(Debug)]
pub struct Template {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Its parameters.
    pub params: Arc<Params>,
    /// Where each immediate comes from.
    pub immediates: Vec<ImmediateSource>,
    /// For each input of the plan, the segment's external tensor.
    pub inputs: Vec<u32>,
    /// For each output of the plan, the segment's node.
    pub outputs: Vec<u32>,
}

type Windows = Map<Box<[u64]>, Rc<Template>>;

/// Plans and windows seen before. Two generations: when the young one is full it becomes the old one, and what is
/// used again moves back, so memory is bounded whatever clients send.
#[derive(Default)]
pub struct PlanCache {
    young: Windows,
    old: Windows,
    young_words: usize,
    plans: Map<Arc<Plan>, ()>,
    old_plans: Map<Arc<Plan>, ()>,
    /// Windows found.
    pub hits: u64,
    /// Windows analysed.
    pub misses: u64,
    /// Plans that were new.
    pub plans_made: u64,
}

impl PlanCache {
    /// The template of the window with this key; `segment` is asked for where the key was not seen before. The key has to hold
    /// everything that the segment is made from; keys are compared, not only hashed.
    pub fn find(
        &mut self,
        key: &[u64],
        segment: impl FnOnce() -> Segment,
    ) -> Result<Rc<Template>, BoundsError> {
        if let Some(template) = self.young.get(key) {
            self.hits += 1;
            return Ok(Rc::clone(template));
        }
        let template = match self.old.remove(key) {
            Some(template) => {
                self.hits += 1;
                template
            }
            None => {
                self.misses += 1;
                Rc::new(self.analyse(&segment())?)
            }
        };
        if self.young_words + key.len() > KEY_WORDS_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_words = 0;
        }
        self.young_words += key.len();
        self.young.insert(key.into(), Rc::clone(&template));
        Ok(template)
    }

    /// Number of plans known.
    pub fn plan_count(&self) -> usize {
        self.plans.len()
    }

    fn analyse(&mut self, segment: &Segment) -> Result<Template, BoundsError> {
        let Built {
            plan,
            values,
            immediates,
            inputs,
            outputs,
        } = build::build(segment);
        let plan = self.intern(plan);
        let params = Arc::new(Params::new(&plan, values)?);
        Ok(Template {
            plan,
            params,
            immediates,
            inputs,
            outputs,
        })
    }

    fn intern(&mut self, plan: Plan) -> Arc<Plan> {
        if let Some((known, ())) = self.plans.get_key_value(&plan) {
            return Arc::clone(known);
        }
        if self.plans.len() >= PLANS_MAX {
            self.old_plans = std::mem::take(&mut self.plans);
        }
        let plan = match self.old_plans.remove_entry(&plan) {
            Some((known, ())) => known,
            None => {
                self.plans_made += 1;
                Arc::new(plan)
            }
        };
        self.plans.insert(Arc::clone(&plan), ());
        plan
    }
}
