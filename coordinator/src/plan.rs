//! Which processes a command starts and how many threads each gets. It starts nothing.

use std::fmt::Write;

use proto::Role;
use runtime::divide_cores;

use crate::membership::{MemberCounts, ROLES};

/// Thread counts of the libraries that the programs use.
const THREAD_VARIABLES: [&str; 3] =
    ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS"];

/// One process to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlan {
    pub role: Role,
    pub index: u32,
    pub cores: usize,
}

impl ProcessPlan {
    /// Of its executable too.
    #[must_use]
    pub fn program(&self) -> &'static str {
        self.role.name()
    }

    #[must_use]
    pub fn name(&self) -> String {
        self.role.name_of(self.index)
    }

    /// Thread counts as environment variables; those that the user has set himself stay.
    #[must_use]
    pub fn threads(&self, is_set: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let ours = THREAD_VARIABLES.into_iter().filter(|name| !is_set(name));
        ours.map(|name| (name.to_owned(), self.cores.to_string())).collect()
    }
}

/// All processes of a command but the coordinator itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub cores: usize,
    pub processes: Vec<ProcessPlan>,
}

impl Plan {
    /// Divides the cores; each process gets at least one.
    #[must_use]
    pub fn new(counts: MemberCounts, cores: usize) -> Self {
        // Servers come first, so that actors find them.
        let order = [Role::WeakServer, Role::Learner, Role::Actor];
        debug_assert_eq!(order.len(), ROLES.len());
        let of_role = |role: Role| (0..counts.of(role)).map(move |index| (role, index));
        let named: Vec<(Role, u32)> = order.into_iter().flat_map(of_role).collect();
        let shares = divide_cores(cores, &vec![1.0; named.len()]);
        let processes = named.into_iter().zip(shares);
        let processes =
            processes.map(|((role, index), cores)| ProcessPlan { role, index, cores }).collect();
        Self { cores, processes }
    }

    /// For `--dry-run`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!("{} processes on {} cores\n", self.processes.len() + 1, self.cores);
        text.push_str("  coordinator\n");
        for process in &self.processes {
            let (name, cores) = (process.name(), process.cores);
            let plural = if cores == 1 { "" } else { "s" };
            writeln!(text, "  {name:<13} {cores} thread{plural}")
                .expect("a string takes what is written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_gets_a_core_and_servers_start_first() {
        let counts = MemberCounts { actors: 2, weak_servers: 1, learners: 1 };
        let plan = Plan::new(counts, 2);
        let names: Vec<String> = plan.processes.iter().map(ProcessPlan::name).collect();
        assert_eq!(names, ["weak-server-0", "learner-0", "actor-0", "actor-1"]);
        assert!(plan.processes.iter().all(|process| process.cores == 1));
        let cores: Vec<usize> = Plan::new(counts, 10).processes.iter().map(|p| p.cores).collect();
        assert_eq!(cores.iter().sum::<usize>(), 10);
        assert!(plan.describe().contains("5 processes on 2 cores"), "{}", plan.describe());
    }

    #[test]
    fn a_users_own_thread_count_wins() {
        let process = ProcessPlan { role: Role::Actor, index: 0, cores: 3 };
        let threads = process.threads(|name| name == "RAYON_NUM_THREADS");
        let pair = |name: &str| (name.to_owned(), "3".to_owned());
        assert_eq!(threads, [pair("CANDLE_NUM_THREADS"), pair("TOKIO_WORKER_THREADS")]);
    }
}
