//! Which process is hit next, and how. Drawn from a seed.

use std::fmt;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill(String),
    /// SIGSTOP, and SIGCONT a little later.
    Stop(String),
    /// With all of its children, which end with it; the run is resumed.
    KillCoordinator,
}

impl Fault {
    /// One in eight is stopped, the others are killed.
    pub(crate) fn draw(draws: &mut Draws, names: &[String]) -> Self {
        let name = names[draws.below(names.len() as u64) as usize].clone();
        match draws.below(8) {
            0 => Self::Stop(name),
            _ => Self::Kill(name),
        }
    }

    /// What it is called in the report.
    pub(crate) fn kind(&self) -> String {
        let role = |name: &str| name.rsplit_once('-').map_or(name, |(role, _)| role).to_owned();
        match self {
            Self::Kill(name) => format!("{} killed", role(name)),
            Self::Stop(name) => format!("{} stopped", role(name)),
            Self::KillCoordinator => "coordinator killed, resumed".to_owned(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(name) => write!(f, "{name} is killed"),
            Self::Stop(name) => write!(f, "{name} is stopped"),
            Self::KillCoordinator => f.write_str("the coordinator is killed"),
        }
    }
}

/// Draws from a seed: SplitMix64 (Steele et al. 2014, figure 15).
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Both ends included.
    pub(crate) fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high - low + 1)
    }
}
