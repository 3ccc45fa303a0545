//! What this machine has: GPUs, containers, memory that processes share, disk, ports, the way to the
//! hub. What follows from it is decided elsewhere.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::free_bytes;
use settings::Settings;

use crate::fetch::hub_answers;
use crate::program;

const GPU_QUERY: [&str; 2] =
    ["--query-gpu=name,memory.total,compute_cap,driver_version", "--format=csv,noheader,nounits"];
/// bf16 is computed from here on.
const CAPABILITY_MIN: u32 = 80;
/// What config/gsm8k-qwen2.5-0.5b.toml takes with all processes on one GPU, in 16 bits and in f32.
pub(super) const SMALL_MIB: u64 = 18_000;
pub(super) const SMALL_F32_MIB: u64 = 24_000;
const GIB: u64 = 1 << 30;
/// What NCCL takes for each rank, by its documentation, with room to spare.
const SHARED_BYTES_MIN: u64 = GIB;
/// A few checkpoints of a small model, and logs.
const DISK_BYTES_MIN: u64 = 10 * GIB;
const SHARED_MEMORY: &str = "/dev/shm";
const NCCL: &str = "libnccl.so.2";
/// Where the loader looks for it, after LD_LIBRARY_PATH.
const LIBRARY_DIRS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/cuda/lib64",
    "/usr/lib64",
    "/usr/lib",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// It works without, with less.
    Note,
    Bad,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "BAD",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: String,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
}

impl Finding {
    pub(super) fn new(what: &str, verdict: Verdict, detail: String) -> Self {
        Self { what: what.to_owned(), verdict, detail }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gpu {
    pub(super) name: String,
    pub(super) mib: u64,
    /// Tens and units of the compute capability: 90 for 9.0.
    pub(super) capability: u32,
    /// Its first number.
    pub(super) driver: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) gpus: Vec<Gpu>,
    pub(super) findings: Vec<Finding>,
}

impl Machine {
    /// Looks at everything; each program and host that is asked has `limit` to answer.
    pub(super) fn look(settings: &Settings, ports: &[u16], limit: Duration) -> Self {
        let answer = program::answer("nvidia-smi", &GPU_QUERY, limit);
        let (gpus, driver) = driver(answer.map_err(|error| format!("{error:#}")));
        let mut findings = vec![driver];
        if !gpus.is_empty() {
            findings.extend([capability(&gpus), memory(&gpus), nccl(&library_dirs())]);
            findings.push(shared_memory());
        }
        findings.push(containers(!gpus.is_empty(), limit));
        findings.push(disk(settings));
        findings.extend(ports.iter().map(|port| free_port(*port)));
        let (hub, answered) = hub_answers(limit);
        findings.push(match answered {
            Ok(()) => Finding::new("hub", Verdict::Good, format!("{hub} answers")),
            Err(fault) => {
                let way = "models and data must be here already";
                Finding::new("hub", Verdict::Note, format!("{fault}: {way}"))
            }
        });
        Self { gpus, findings }
    }
}

fn driver(answer: Result<Option<String>, String>) -> (Vec<Gpu>, Finding) {
    let found = |verdict, detail: String| Finding::new("driver", verdict, detail);
    let text = match answer {
        Ok(None) => {
            let text = "no NVIDIA driver: the CPU computes".to_owned();
            return (Vec::new(), found(Verdict::Note, text));
        }
        Err(fault) => return (Vec::new(), found(Verdict::Bad, fault)),
        Ok(Some(text)) => text,
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let gpus: Option<Vec<Gpu>> = lines.map(gpu).collect();
    match gpus {
        Some(gpus) if !gpus.is_empty() => {
            let names: Vec<String> =
                gpus.iter().map(|gpu| format!("{} ({} MiB)", gpu.name, gpu.mib)).collect();
            let detail = format!("{}: {}", gpus[0].driver, names.join(", "));
            (gpus, found(Verdict::Good, detail))
        }
        _ => (Vec::new(), found(Verdict::Bad, format!("nvidia-smi says `{}`", text.trim()))),
    }
}

/// Of a line like `NVIDIA H200, 143771, 9.0, 570.86.15`.
fn gpu(line: &str) -> Option<Gpu> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [name, mib, capability, driver] = fields[..] else { return None };
    Some(Gpu {
        name: name.to_owned(),
        mib: mib.parse().ok()?,
        capability: capability.replace('.', "").parse().ok()?,
        driver: driver.split('.').next()?.parse().ok()?,
    })
}

fn capability(gpus: &[Gpu]) -> Finding {
    let least = gpus.iter().map(|gpu| gpu.capability).min().unwrap_or_default();
    let shown = format!("{}.{}", least / 10, least % 10);
    if !have_bf16(gpus) {
        let detail = format!("{shown}, and bf16 needs 8.0: set compute.precision=f32");
        return Finding::new("compute capability", Verdict::Note, detail);
    }
    Finding::new("compute capability", Verdict::Good, format!("{shown}, CUDA_COMPUTE_CAP={least}"))
}

/// All of them; without it everything is computed in f32.
pub(super) fn have_bf16(gpus: &[Gpu]) -> bool {
    gpus.iter().all(|gpu| gpu.capability >= CAPABILITY_MIN)
}

/// Of the least GPU, where all processes may have to share it.
fn memory(gpus: &[Gpu]) -> Finding {
    let found = |verdict, detail: String| Finding::new("GPU memory", verdict, detail);
    let needed = if have_bf16(gpus) { SMALL_MIB } else { SMALL_F32_MIB };
    let least = gpus.iter().map(|gpu| gpu.mib).min().unwrap_or_default();
    if least >= needed {
        return found(Verdict::Good, format!("{least} MiB"));
    }
    let way = "the smallest preset for all weights takes more on one GPU: use more GPUs, adapters \
               (train.lora.rank) or fewer actor.slots";
    found(Verdict::Note, format!("{least} MiB, below {needed}: {way}"))
}

fn library_dirs() -> Vec<PathBuf> {
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty());
    named.chain(LIBRARY_DIRS.iter().map(PathBuf::from)).collect()
}

fn nccl(dirs: &[PathBuf]) -> Finding {
    match dirs.iter().map(|dir| dir.join(NCCL)).find(|path| path.exists()) {
        Some(path) => Finding::new("NCCL", Verdict::Good, path.display().to_string()),
        None => {
            let detail = format!("{NCCL} is not here: only the image can run several --learners");
            Finding::new("NCCL", Verdict::Note, detail)
        }
    }
}

fn shared_memory() -> Finding {
    match free_bytes(Path::new(SHARED_MEMORY)) {
        Ok(free) if free >= SHARED_BYTES_MIN => {
            Finding::new("shared memory", Verdict::Good, format!("{} free", gib(free)))
        }
        Ok(free) => {
            let way =
                "ranks of one machine talk through it: give 1 GiB, `--shm-size` in containers";
            Finding::new("shared memory", Verdict::Bad, format!("{} free, {way}", gib(free)))
        }
        Err(error) => Finding::new("shared memory", Verdict::Note, format!("{error}")),
    }
}

fn containers(gpus: bool, limit: Duration) -> Finding {
    let asked = |args: &[&str]| program::answer("docker", args, limit).ok().flatten();
    let found = |verdict, detail: String| Finding::new("containers", verdict, detail);
    let Some(engine) = asked(&["version", "--format", "{{.Server.Version}}"]) else {
        return found(Verdict::Note, "no Docker engine answers: `launch` needs none".to_owned());
    };
    let Some(compose) = asked(&["compose", "version", "--short"]) else {
        let text = "the Docker engine is there, but not `docker compose`";
        return found(Verdict::Note, text.to_owned());
    };
    let runtimes = asked(&["info", "--format", "{{json .Runtimes}}"]).unwrap_or_default();
    let versions = format!("Docker {}, compose {}", engine.trim(), compose.trim());
    if gpus && !runtimes.contains("nvidia") {
        let way = "containers see no GPU: install the NVIDIA Container Toolkit";
        return found(Verdict::Bad, format!("{versions}, but {way}"));
    }
    found(Verdict::Good, versions)
}

fn disk(settings: &Settings) -> Finding {
    let dir = Some(settings.run.dir.as_str()).filter(|dir| Path::new(dir).is_dir()).unwrap_or(".");
    match free_bytes(Path::new(dir)) {
        Ok(free) if free < settings.checkpoint.free_bytes_min => {
            let least = settings.checkpoint.free_bytes_min;
            let detail = format!("{} free, checkpoint.free_bytes_min is {least}", gib(free));
            Finding::new("disk", Verdict::Bad, detail)
        }
        Ok(free) if free < DISK_BYTES_MIN => {
            let detail = format!("{} free: little for checkpoints", gib(free));
            Finding::new("disk", Verdict::Note, detail)
        }
        Ok(free) => Finding::new("disk", Verdict::Good, format!("{} free", gib(free))),
        Err(error) => Finding::new("disk", Verdict::Bad, format!("{dir}: {error}")),
    }
}

fn free_port(port: u16) -> Finding {
    let what = format!("port {port}");
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Finding::new(&what, Verdict::Good, "free".to_owned()),
        Err(error) => {
            let way = "end what has it, or choose others by PROMETHEUS_PORT and GRAFANA_PORT";
            Finding::new(&what, Verdict::Bad, format!("{error}: {way}"))
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_answer_is_read_or_shown() {
        let answer = "NVIDIA H200, 143771, 9.0, 570.86.15\nNVIDIA L4, 23034, 8.9, 570.86.15\n";
        let (gpus, finding) = driver(Ok(Some(answer.to_owned())));
        let read: Vec<_> = gpus.iter().map(|gpu| (gpu.mib, gpu.capability, gpu.driver)).collect();
        assert_eq!(read, [(143_771, 90, 570), (23_034, 89, 570)]);
        assert_eq!(finding.detail, "570: NVIDIA H200 (143771 MiB), NVIDIA L4 (23034 MiB)");
        assert_eq!(capability(&gpus).detail, "8.9, CUDA_COMPUTE_CAP=89");
        let (none, finding) = driver(Ok(Some("No devices were found".to_owned())));
        assert_eq!((none.len(), finding.verdict), (0, Verdict::Bad));
        assert_eq!(finding.detail, "nvidia-smi says `No devices were found`");
        let (_, finding) = driver(Ok(None));
        assert_eq!(finding.verdict, Verdict::Note);
        let old = Gpu { name: "V100".to_owned(), mib: 1, capability: 70, driver: 570 };
        assert_eq!(capability(&[old]).verdict, Verdict::Note);
    }

    #[test]
    fn a_port_in_use_and_a_library_that_is_there_are_seen() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(free_port(port).verdict, Verdict::Bad);
        drop(taken);
        assert_eq!(free_port(port).verdict, Verdict::Good);
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        assert_eq!(nccl(&dirs).verdict, Verdict::Note);
        std::fs::write(dir.path().join(NCCL), "").unwrap();
        assert_eq!(nccl(&dirs).verdict, Verdict::Good);
    }

    #[test]
    fn a_full_disk_stands_in_the_way() {
        let mut settings = Settings::default();
        assert_ne!(disk(&settings).verdict, Verdict::Bad);
        settings.checkpoint.free_bytes_min = u64::MAX;
        assert_eq!(disk(&settings).verdict, Verdict::Bad);
    }
}
