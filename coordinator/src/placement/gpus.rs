//! Which GPUs a command may use: those of `placement.gpus`, or what the driver says, of which
//! `CUDA_VISIBLE_DEVICES` may name some.

use std::time::Duration;

use anyhow::Context;
use settings::{DeviceChoice, Settings};

use super::MIB;
use crate::program;

/// The variable by which a process is told its GPU.
pub(crate) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
const QUERY: [&str; 2] = ["--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"];

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As `CUDA_VISIBLE_DEVICES` names it.
    pub id: String,
    pub bytes: u64,
}

/// The GPUs of this machine, none where `compute.device` is `cpu`, there is no driver or `CUDA_VISIBLE_DEVICES` is empty.
///
/// # Errors
/// A driver's program that fails or does not answer; a name in `CUDA_VISIBLE_DEVICES` that it does
/// not know.
pub(super) fn find(settings: &Settings, visible: Option<&str>) -> anyhow::Result<Vec<Gpu>> {
    if settings.compute.device == DeviceChoice::Cpu {
        return Ok(Vec::new());
    }
    let sizes = settings.gpu_sizes().map_err(anyhow::Error::msg)?;
    if !sizes.is_empty() {
        return Ok(given(&sizes, visible));
    }
    if visible.is_some_and(|visible| visible.trim().is_empty() || visible.trim() == "-1") {
        return Ok(Vec::new());
    }
    let limit = Duration::from_millis(u64::from(settings.placement.query_timeout_ms));
    match ask(limit)? {
        Some(answer) => choose(&parse(&answer)?, visible),
        None => Ok(Vec::new()),
    }
}

/// By size, named by place or as `CUDA_VISIBLE_DEVICES` does.
fn given(mib: &[u32], visible: Option<&str>) -> Vec<Gpu> {
    let names: Vec<&str> = visible.unwrap_or_default().split(',').map(str::trim).collect();
    let named = |at: usize| names.get(at).filter(|name| !name.is_empty());
    let gpu = |(at, mib): (usize, &u32)| {
        let id = named(at).map_or_else(|| at.to_string(), |name| (*name).to_owned());
        Gpu { id, bytes: u64::from(*mib) * MIB }
    };
    mib.iter().enumerate().map(gpu).collect()
}

/// What `nvidia-smi` prints; `None` where there is none.
fn ask(limit: Duration) -> anyhow::Result<Option<String>> {
    program::answer("nvidia-smi", &QUERY, limit).context(
        "set placement.gpus to the GPUs' sizes in MiB, or CUDA_VISIBLE_DEVICES= to use none; the \
         driver has placement.query_timeout_ms to answer",
    )
}

/// Index, UUID and bytes of each line.
fn parse(answer: &str) -> anyhow::Result<Vec<(String, String, u64)>> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [index, uuid, mib] = fields[..] else { return None };
        Some((index.to_owned(), uuid.to_owned(), mib.parse::<u64>().ok()? * MIB))
    };
    answer
        .lines()
        .filter(|text| !text.trim().is_empty())
        .map(|text| {
            line(text).with_context(|| {
                format!("nvidia-smi says `{text}`: set placement.gpus to the GPUs' sizes in MiB")
            })
        })
        .collect()
}

/// All, or those that `CUDA_VISIBLE_DEVICES` names, in its order.
fn choose(known: &[(String, String, u64)], visible: Option<&str>) -> anyhow::Result<Vec<Gpu>> {
    let Some(visible) = visible else {
        let all = known.iter().map(|(id, _, bytes)| Gpu { id: id.clone(), bytes: *bytes });
        return Ok(all.collect());
    };
    let named = visible.split(',').map(str::trim).map(|name| {
        let is_it = |(index, uuid, _): &&(String, String, u64)| {
            index == name || (name.starts_with("GPU-") && uuid.starts_with(name))
        };
        let found = known.iter().find(is_it).with_context(|| {
            let there: Vec<&str> = known.iter().map(|(index, ..)| index.as_str()).collect();
            format!(
                "CUDA_VISIBLE_DEVICES names `{name}`, which the driver does not list ({}): for \
                 parts of GPUs set placement.gpus to their sizes in MiB",
                there.join(", ")
            )
        })?;
        Ok(Gpu { id: name.to_owned(), bytes: found.2 })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "0, GPU-aa11, 81559\n1, GPU-bb22, 24564\n";

    fn gpu(id: &str, mib: u64) -> Gpu {
        Gpu { id: id.to_owned(), bytes: mib << 20 }
    }

    #[test]
    fn the_drivers_list_is_the_pool_unless_the_user_names_some() {
        let known = parse(ANSWER).unwrap();
        assert_eq!(choose(&known, None).unwrap(), [gpu("0", 81_559), gpu("1", 24_564)]);
        assert_eq!(choose(&known, Some("1")).unwrap(), [gpu("1", 24_564)]);
        let both = choose(&known, Some("GPU-bb, 0")).unwrap();
        assert_eq!(both, [gpu("GPU-bb", 24_564), gpu("0", 81_559)]);
        let text = choose(&known, Some("MIG-1")).unwrap_err().to_string();
        assert!(text.contains("`MIG-1`") && text.contains("placement.gpus"), "{text}");
        assert!(parse("0, GPU-aa, [N/A]").unwrap_err().to_string().contains("placement.gpus"));
    }

    #[test]
    fn sizes_that_are_set_need_no_driver() {
        let mut settings = Settings::default();
        settings.placement.gpus = "1000, 2000".to_owned();
        assert_eq!(find(&settings, None).unwrap(), [gpu("0", 1_000), gpu("1", 2_000)]);
        let named = find(&settings, Some("MIG-a,MIG-b")).unwrap();
        assert_eq!(named, [gpu("MIG-a", 1_000), gpu("MIG-b", 2_000)]);
        settings.placement.gpus = "2x5".to_owned();
        assert_eq!(find(&settings, None).unwrap(), [gpu("0", 5), gpu("1", 5)]);
        settings.compute.device = DeviceChoice::Cpu;
        assert_eq!(find(&settings, None).unwrap(), []);
        settings.compute.device = DeviceChoice::Auto;
        settings.placement.gpus = "80GB".to_owned();
        let text = find(&settings, None).unwrap_err().to_string();
        assert!(text.contains("placement.gpus has `80GB`"), "{text}");
        assert_eq!(find(&Settings::default(), Some("")).unwrap(), []);
    }
}
