//! Which process gets which GPU, inside one computed memory budget; without GPUs the cores are
//! divided alone (`plan`). It decides and explains; it starts nothing and measures nothing but what
//! the driver says a GPU has.

mod gguf;
mod gpus;
mod memory;
mod shape;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;

use proto::Role;
use settings::Settings;

use crate::membership::MemberCounts;
use crate::overrides;
use crate::plan::Plan;
pub use gpus::Gpu;
pub(crate) use gpus::VISIBLE;
pub use memory::{Demand, Methods, Model, Parts};
pub use shape::Shape;

const MIB: u64 = 1 << 20;
const GIB: f64 = (1_u64 << 30) as f64;

/// How processes and GPUs go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each process has a GPU of its own.
    Split,
    /// Learner ranks have one each; actors and weak-servers share them.
    Colocated,
}

impl Layout {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Colocated => "colocated",
        }
    }
}

/// A process on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub role: Role,
    pub index: u32,
    /// Index into the GPUs.
    pub gpu: usize,
    pub parts: Parts,
}

/// Where everything goes and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub layout: Layout,
    pub placed: Vec<Placed>,
    /// What each GPU may be filled with, in bytes.
    pub budgets: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error(
        "{ranks} learner ranks on {gpus} GPUs: two ranks never share one, lower --learners to at \
         most {gpus}"
    )]
    Ranks { ranks: u32, gpus: usize },
    #[error(
        "the run does not fit:\n{plan}lower train.micro_batch_tokens, actor.slots, actor.slot_tokens \
         or weak_server.sessions; set train.recompute_blocks=true, train.lora.rank or, with several \
         --learners, train.shard_optimizer=true; or take more or larger GPUs"
    )]
    TooLarge { plan: String },
}

/// Places processes on GPUs, each at least one: with as many GPUs as processes each has its own,
/// otherwise learner ranks have one each, and actors, then weak-servers, go where the fewest of
/// their kind are and, of those, where most room is left.
///
/// `reserve` is the share of each GPU, in 0..1, that is left free.
///
/// # Errors
/// More ranks than GPUs, or a GPU that would hold more than it has: with the numbers of all.
pub fn place(
    counts: MemberCounts,
    gpus: &[Gpu],
    demand: &Demand,
    reserve: f64,
) -> Result<Placement, PlacementError> {
    if counts.learners as usize > gpus.len() {
        return Err(PlacementError::Ranks { ranks: counts.learners, gpus: gpus.len() });
    }
    let budgets: Vec<u64> =
        gpus.iter().map(|gpu| (gpu.bytes as f64 * (1.0 - reserve)) as u64).collect();
    let processes = counts.actors + counts.learners + counts.weak_servers;
    let split = processes as usize <= gpus.len();
    let layout = if split { Layout::Split } else { Layout::Colocated };
    let mut placement = Placement { layout, placed: Vec::new(), budgets };
    for role in [Role::Learner, Role::Actor, Role::WeakServer] {
        for index in 0..counts.of(role) {
            let gpu = match (layout, role) {
                (Layout::Split, _) => placement.placed.len(),
                (Layout::Colocated, Role::Learner) => index as usize,
                (Layout::Colocated, _) => placement.roomiest(role),
            };
            placement.placed.push(Placed { role, index, gpu, parts: demand.of(role).clone() });
        }
    }
    let full = |gpu: usize| placement.used(gpu) > placement.budgets[gpu];
    if (0..gpus.len()).any(full) {
        return Err(PlacementError::TooLarge { plan: placement.describe() });
    }
    Ok(placement)
}

impl Placement {
    /// Bytes on a GPU.
    #[must_use]
    pub fn used(&self, gpu: usize) -> u64 {
        self.on(gpu).map(|placed| placed.parts.total()).sum()
    }

    fn on(&self, gpu: usize) -> impl Iterator<Item = &Placed> {
        self.placed.iter().filter(move |placed| placed.gpu == gpu)
    }

    fn roomiest(&self, role: Role) -> usize {
        let rank = |gpu: &usize| {
            let alike = self.on(*gpu).filter(|placed| placed.role == role).count();
            let room = self.budgets[*gpu].saturating_sub(self.used(*gpu));
            (alike, std::cmp::Reverse(room))
        };
        (0..self.budgets.len()).min_by_key(rank).unwrap_or(0)
    }

    #[must_use]
    pub fn gpu_of(&self, role: Role, index: u32) -> Option<usize> {
        let mut placed = self.placed.iter();
        placed.find(|p| (p.role, p.index) == (role, index)).map(|placed| placed.gpu)
    }

    /// A table: every GPU with what lies on it, in GiB.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!("{} on {} GPUs, in GiB\n", self.layout.name(), self.budgets.len());
        let line = "a string takes what is written";
        for (gpu, budget) in self.budgets.iter().enumerate() {
            let (used, budget) = (self.used(gpu) as f64 / GIB, *budget as f64 / GIB);
            let verdict = if used > budget { "  TOO MUCH" } else { "" };
            writeln!(text, "  GPU {gpu}: {used:.1} of {budget:.1}{verdict}").expect(line);
            for placed in self.on(gpu) {
                let (name, total) = (placed.role.name_of(placed.index), placed.parts.total());
                let parts = placed.parts.describe();
                writeln!(text, "    {name:<14} {:>6.1}  {parts}", total as f64 / GIB).expect(line);
            }
        }
        text
    }
}

/// The processes of a command with their cores and, where there are GPUs, theirs. A learner where
/// nothing is trained needs none.
///
/// # Errors
/// Models whose size cannot be read, GPUs that the settings or the environment do not name well, a
/// run that does not fit.
pub fn plan(settings: &Settings, counts: MemberCounts, trains: bool) -> anyhow::Result<Plan> {
    let plan = Plan::new(counts, runtime::available_cores(), trains);
    let counts = MemberCounts { learners: if trains { counts.learners } else { 0 }, ..counts };
    let visible = std::env::var(gpus::VISIBLE).ok();
    let gpus = gpus::find(settings, visible.as_deref())?;
    if gpus.is_empty() {
        return Ok(plan);
    }
    let mut roomy = settings.clone();
    roomy.weak_server.sessions = overrides::weak_sessions(settings, counts);
    let demand = Demand::of_settings(&roomy, counts)?;
    let placement = place(counts, &gpus, &demand, settings.placement.reserve_share)?;
    let devices: BTreeMap<_, _> = placement
        .placed
        .iter()
        .map(|placed| ((placed.role.name_of(placed.index)), gpus[placed.gpu].id.clone()))
        .collect();
    Ok(plan.on_gpus(&devices, placement.describe()))
}
