//! What compose is told about a machine. How the machine was looked at is `machine`'s.

use super::machine::{Gpu, Machine, have_bf16};

/// From this memory on the larger preset fits on one GPU, as the driver reports cards of 48 GB.
const LARGE_MIB: u64 = 46_000;
const LARGE: &str = "gsm8k-qwen2.5-1.5b-weak-0.5b";
const SMALL: &str = "gsm8k-qwen2.5-0.5b";
/// Drivers from here on run CUDA 13.
const CUDA_13_DRIVER: u32 = 580;

/// Variables of `deploy/compose*.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice(Vec<(&'static str, String)>);

impl Choice {
    pub(super) fn of(machine: &Machine) -> Self {
        let gpus = &machine.gpus;
        let Some(least) = gpus.iter().min_by_key(|gpu| (gpu.mib, gpu.capability)) else {
            return Self(vec![
                ("COMPOSE_FILE", "compose.yaml".to_owned()),
                ("TANDEM_PRESET", "miniature".to_owned()),
            ]);
        };
        let bf16 = have_bf16(gpus);
        let preset = match least.mib {
            LARGE_MIB.. if bf16 => LARGE,
            _ => SMALL,
        };
        let cuda = if least.driver >= CUDA_13_DRIVER { "13.0.1" } else { "12.8.1" };
        let (actors, learners) = divide(gpus.len());
        let precision = (!bf16).then(|| ("TANDEM__COMPUTE__PRECISION", "f32".to_owned()));
        let variables = vec![
            ("COMPOSE_FILE", "compose.gpu.yaml".to_owned()),
            ("CUDA_VERSION", cuda.to_owned()),
            ("CUDA_COMPUTE_CAP", capability(gpus)),
            ("TANDEM_PRESET", preset.to_owned()),
            ("TANDEM_ACTORS", actors.to_string()),
            ("TANDEM_LEARNERS", learners.to_string()),
            ("TANDEM_WEAK_SERVERS", "1".to_owned()),
        ];
        Self(variables.into_iter().chain(precision).collect())
    }

    pub(super) fn describe(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    }
}

/// Actors and learner ranks: one GPU for the weak-server, and rollouts take longer than steps.
fn divide(gpus: usize) -> (usize, usize) {
    let rest = gpus.saturating_sub(1).max(1);
    let actors = rest.div_ceil(2).max(1);
    (actors, rest.saturating_sub(actors).max(1))
}

/// Kernels are compiled for one: the least of all GPUs.
fn capability(gpus: &[Gpu]) -> String {
    gpus.iter().map(|gpu| gpu.capability).min().unwrap_or_default().to_string()
}

/// The file with a line for each variable that it lacks.
pub(super) fn completed(before: &str, choice: &Choice, password: &str) -> String {
    let says = |name: &str| {
        before.lines().any(|line| line.split('=').next().is_some_and(|found| found.trim() == name))
    };
    let wanted = choice.0.iter().map(|(name, value)| (*name, value.as_str()));
    let wanted = wanted.chain([("GRAFANA_PASSWORD", password)]);
    let mut text = before.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, value) in wanted.filter(|(name, _)| !says(name)) {
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use settings::Layers;

    use super::*;
    use crate::doctor::machine::{SMALL_F32_MIB, SMALL_MIB};
    use crate::membership::MemberCounts;
    use crate::overrides::weak_sessions;
    use crate::placement::tests::qwen;
    use crate::placement::{self, Demand, Methods, place};

    fn machine(gpus: &[(u64, u32, u32)]) -> Machine {
        let gpu = |(mib, capability, driver): &(u64, u32, u32)| Gpu {
            name: "GPU".to_owned(),
            mib: *mib,
            capability: *capability,
            driver: *driver,
        };
        Machine { gpus: gpus.iter().map(gpu).collect(), findings: Vec::new() }
    }

    #[test]
    fn the_least_gpu_decides() {
        let text = Choice::of(&machine(&[(81_559, 90, 570), (24_564, 89, 570)])).describe();
        assert_eq!(
            text,
            "COMPOSE_FILE=compose.gpu.yaml CUDA_VERSION=12.8.1 CUDA_COMPUTE_CAP=89 \
             TANDEM_PRESET=gsm8k-qwen2.5-0.5b TANDEM_ACTORS=1 TANDEM_LEARNERS=1 \
             TANDEM_WEAK_SERVERS=1"
        );
        let text = Choice::of(&machine(&[(81_559, 90, 580); 8])).describe();
        assert!(text.contains("CUDA_VERSION=13.0.1") && text.contains("gsm8k-qwen2.5-1.5b"));
        assert!(text.contains("TANDEM_ACTORS=4 TANDEM_LEARNERS=3"), "{text}");
        let text = Choice::of(&machine(&[])).describe();
        assert_eq!(text, "COMPOSE_FILE=compose.yaml TANDEM_PRESET=miniature");
    }

    #[test]
    fn what_is_chosen_fits() {
        // The least that is called enough, an A10, an A100 of 40 GB, an L40S, an A100 of 80 GB, an H200;
        // without bf16 the least, and an RTX 8000.
        for (mib, capability, preset) in [
            (SMALL_MIB, 80, SMALL),
            (23_028, 86, SMALL),
            (40_960, 80, SMALL),
            (46_068, 89, LARGE),
            (81_920, 80, LARGE),
            (143_771, 90, LARGE),
            (SMALL_F32_MIB, 70, SMALL),
            (49_152, 75, SMALL),
        ] {
            for count in [1, 2, 4, 8] {
                let gpus = vec![(mib, capability, 570); count];
                let text = Choice::of(&machine(&gpus)).describe();
                assert!(text.contains(&format!("TANDEM_PRESET={preset} ")), "{text}");
                let precision = if capability < 80 { "f32" } else { "auto" };
                assert_eq!(text.ends_with(" TANDEM__COMPUTE__PRECISION=f32"), capability < 80);
                let layers = Layers {
                    file: Some(preset.into()),
                    set: vec![format!("compute.precision={precision}")],
                    environment: Some(Vec::new()),
                };
                let mut settings = layers.load().unwrap();
                let (actors, learners) = divide(count);
                let (actors, learners) = (actors as u32, learners as u32);
                let counts = MemberCounts { actors, weak_servers: 1, learners };
                settings.weak_server.sessions = weak_sessions(&settings, counts);
                let strong = qwen(if preset == LARGE { "1.5B" } else { "0.5B" });
                let methods = Methods::of_settings(&settings, learners);
                let demand = Demand::new(&settings, strong, qwen("0.5B"), methods);
                let of = |at: usize| placement::Gpu { id: at.to_string(), bytes: mib << 20 };
                let gpus: Vec<placement::Gpu> = (0..count).map(of).collect();
                let placed = place(counts, &gpus, &demand, settings.placement.reserve_share);
                placed.unwrap_or_else(|error| panic!("{preset} on {count} x {mib}: {error}"));
            }
        }
    }

    #[test]
    fn gpus_are_divided_so_that_all_have_work() {
        let divided = [1, 2, 3, 4, 8].map(divide);
        assert_eq!(divided, [(1, 1), (1, 1), (1, 1), (2, 1), (4, 3)]);
    }

    #[test]
    fn what_a_file_says_stays() {
        let choice = Choice::of(&machine(&[]));
        let text = completed("# mine\nTANDEM_PRESET=x", &choice, "secret");
        let expected =
            "# mine\nTANDEM_PRESET=x\nCOMPOSE_FILE=compose.yaml\nGRAFANA_PASSWORD=secret\n";
        assert_eq!(text, expected);
        assert_eq!(completed(&text, &choice, "other"), text);
    }
}
