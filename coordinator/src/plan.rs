//! Which processes a command starts and how many threads each gets. It starts nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use proto::Role;
use runtime::divide_cores;

use crate::membership::{MemberCounts, ROLES};
use crate::placement::VISIBLE;

/// Thread counts of the libraries that the programs use.
const THREAD_VARIABLES: [&str; 3] =
    ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS"];

const GPU_ORDER: &str = "CUDA_DEVICE_ORDER";

/// From how many bytes on glibc gives a buffer back when it is freed. Left alone it keeps those of up to
/// 32 MB for later, and a weak-server is to leave room for others.
const GIVEN_BACK: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1048576");

/// One process to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlan {
    pub role: Role,
    pub index: u32,
    pub cores: usize,
    /// Its GPU as `CUDA_VISIBLE_DEVICES` names it; `None`: nothing is said of GPUs.
    pub gpu: Option<String>,
    /// A learner that has nothing to train.
    pub publishes_only: bool,
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

    /// Thread counts, the GPU and what concerns memory, as environment variables. What the user has set
    /// himself stays, but for his choice of GPUs, which was the pool of this one.
    #[must_use]
    pub fn variables(&self, is_set: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let threads = THREAD_VARIABLES.into_iter().filter(|name| !is_set(name));
        let threads = threads.map(|name| (name, self.cores.to_string()));
        let gpu = self.gpu.iter().map(|gpu| (VISIBLE, gpu.clone()));
        // As the driver lists them; CUDA's own order puts the fastest first.
        let order = self.gpu.iter().filter(|_| !is_set(GPU_ORDER));
        let order = order.map(|_| (GPU_ORDER, "PCI_BUS_ID".to_owned()));
        let server = self.role == Role::WeakServer && !is_set(GIVEN_BACK.0);
        let memory = server.then(|| (GIVEN_BACK.0, GIVEN_BACK.1.to_owned()));
        let all = threads.chain(gpu).chain(order).chain(memory);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// All processes of a command but the coordinator itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub cores: usize,
    pub processes: Vec<ProcessPlan>,
    /// What lies on which GPU, where there are any.
    pub gpus: Option<String>,
}

impl Plan {
    /// Divides the cores; each process gets at least one, and a learner where nothing is trained no
    /// more than that.
    #[must_use]
    pub fn new(counts: MemberCounts, cores: usize, trains: bool) -> Self {
        // Servers come first, so that actors find them.
        let order = [Role::WeakServer, Role::Learner, Role::Actor];
        debug_assert_eq!(order.len(), ROLES.len());
        let of_role = |role: Role| (0..counts.of(role)).map(move |index| (role, index));
        let named: Vec<(Role, u32)> = order.into_iter().flat_map(of_role).collect();
        let publishes_only = |role: Role| role == Role::Learner && !trains;
        let weights = named.iter().map(|(role, _)| f64::from(u8::from(!publishes_only(*role))));
        let shares = divide_cores(cores, &weights.collect::<Vec<_>>());
        let processes = named.into_iter().zip(shares).map(|((role, index), cores)| ProcessPlan {
            role,
            index,
            cores,
            gpu: None,
            publishes_only: publishes_only(role),
        });
        Self { cores, processes: processes.collect(), gpus: None }
    }

    /// The same with a GPU for each process that has one by its name, and a table of them.
    #[must_use]
    pub fn on_gpus(mut self, gpus: &BTreeMap<String, String>, table: String) -> Self {
        for process in &mut self.processes {
            process.gpu = gpus.get(&process.name()).cloned();
        }
        self.gpus = Some(table);
        self
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
        text.push_str(self.gpus.as_deref().unwrap_or_default());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_gets_a_core_and_servers_start_first() {
        let counts = MemberCounts { actors: 2, weak_servers: 1, learners: 1 };
        let plan = Plan::new(counts, 2, true);
        let names: Vec<String> = plan.processes.iter().map(ProcessPlan::name).collect();
        assert_eq!(names, ["weak-server-0", "learner-0", "actor-0", "actor-1"]);
        assert!(plan.processes.iter().all(|process| process.cores == 1));
        let cores: Vec<usize> =
            Plan::new(counts, 10, true).processes.iter().map(|p| p.cores).collect();
        assert_eq!(cores.iter().sum::<usize>(), 10);
        assert!(plan.describe().contains("5 processes on 2 cores"), "{}", plan.describe());
    }

    #[test]
    fn a_learner_that_trains_nothing_takes_one_core() {
        let counts = MemberCounts { actors: 1, weak_servers: 1, learners: 1 };
        let plan = Plan::new(counts, 9, false);
        let found = plan.processes.iter().map(|p| (p.role, p.cores, p.publishes_only));
        let expected =
            [(Role::WeakServer, 4, false), (Role::Learner, 1, true), (Role::Actor, 4, false)];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_users_own_thread_count_wins() {
        let counts = MemberCounts { actors: 1, weak_servers: 0, learners: 0 };
        let process = Plan::new(counts, 3, true).processes.remove(0);
        let threads = process.variables(|name| name == "RAYON_NUM_THREADS");
        let pair = |name: &str| (name.to_owned(), "3".to_owned());
        assert_eq!(threads, [pair("CANDLE_NUM_THREADS"), pair("TOKIO_WORKER_THREADS")]);
    }

    #[test]
    fn a_weak_server_gives_its_buffers_back_unless_the_user_says_how() {
        let counts = MemberCounts { actors: 0, weak_servers: 1, learners: 0 };
        let process = Plan::new(counts, 1, true).processes.remove(0);
        let given = ("MALLOC_MMAP_THRESHOLD_".to_owned(), "1048576".to_owned());
        assert_eq!(process.variables(|_| false).last(), Some(&given));
        assert_eq!(process.variables(|name| name == given.0).len(), 3);
    }

    #[test]
    fn a_process_sees_its_own_gpu() {
        let counts = MemberCounts { actors: 1, weak_servers: 1, learners: 0 };
        let gpus = BTreeMap::from([("actor-0".to_owned(), "GPU-b".to_owned())]);
        let plan = Plan::new(counts, 2, true).on_gpus(&gpus, "the table\n".to_owned());
        let set = |name: &str| name.ends_with("THREADS") || name == GIVEN_BACK.0;
        let of = |at: usize| plan.processes[at].variables(set);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [pair(VISIBLE, "GPU-b"), pair("CUDA_DEVICE_ORDER", "PCI_BUS_ID")];
        assert_eq!((of(0), of(1)), (vec![], expected.to_vec()));
        assert!(plan.describe().ends_with("the table\n"));
        let kept = plan.processes[1].variables(|name| name != VISIBLE);
        assert_eq!(kept, [pair(VISIBLE, "GPU-b")], "the pool was the user's, its order stays his");
    }
}
