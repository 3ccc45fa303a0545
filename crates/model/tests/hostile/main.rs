//! Safetensors files that mean harm: headers that would cost time or memory, and names that lead
//! out of their directory. What they cost is measured in processes of their own.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use model::{DType, ModelSource, Placement, from_safetensors, tensor_infos};
use proptest::prelude::*;

const TIME_MAX: Duration = Duration::from_millis(10);
const MEMORY_KIB_MAX: u64 = 16 << 10;

/// What is measured must not run beside other tests.
static ALONE: Mutex<()> = Mutex::new(());

fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches([':', ' ', '\t']).split_whitespace().next().unwrap().parse().unwrap()
}

/// By how much memory grew at its peak, and the shortest time of a few tries; then the error.
fn cost(body: impl Fn() -> String) -> (u64, Duration, String) {
    // Setting the peak back needs no rights over one's own process.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_kib("VmRSS");
    let text = body();
    let grown = status_kib("VmHWM").saturating_sub(before);
    let tries = (0..5).map(|_| {
        let started = Instant::now();
        body();
        started.elapsed()
    });
    (grown, tries.min().unwrap(), text)
}

/// The variable that makes a process of this program the one that is measured.
const SUBJECT: &str = "TANDEM_TEST_HOSTILE_FILE";

/// The cost of reading a file or a directory in a process of its own, whose memory is fresh.
fn cost_of(path: &Path) -> (u64, Duration, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "measured_in_a_process_of_its_own", "--ignored", "--nocapture"])
        .env(SUBJECT, path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, found) = text.split_once("cost ").unwrap_or_else(|| panic!("no cost in {text}"));
    let mut parts = found.lines().next().unwrap().splitn(3, ' ');
    let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
    let (memory, time) = (number(), Duration::from_nanos(number()));
    (memory, time, parts.next().unwrap().to_owned())
}

#[test]
#[ignore = "a part of other tests, which name its subject"]
fn measured_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os(SUBJECT).map(PathBuf::from) else { return };
    let bytes = path.is_file().then(|| fs::read(&path).unwrap());
    let (memory, time, text) = cost(|| match &bytes {
        Some(bytes) => parse(bytes),
        None => load(&path).unwrap_err(),
    });
    println!("cost {memory} {} {text}", time.as_nanos());
}

fn parse(bytes: &[u8]) -> String {
    match from_safetensors(bytes, "bomb", &Placement::cpu(DType::F32)) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &vec![0; data]].concat()
}

fn tensor(name: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":[{shape}],"data_offsets":[{offsets}]}}"#)
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let most = 8 << 20;
    let claims = |length: u64| [&length.to_le_bytes(), [b' '; 64].as_slice()].concat();
    let many = (0..most / 60).map(|n| tensor(&format!("{n}"), "", "0,0")).collect::<Vec<_>>();
    let one = |inner: String| file(&format!("{{{inner}}}"), 8);
    vec![
        ("a length of all ones", vec![0xff; 64]),
        ("a header of 200 MB that is not there", claims(200_000_000)),
        ("a header of 200 MB that is there", file(&" ".repeat(200_000_000), 0)),
        ("one byte over the bound", file(&" ".repeat(most + 1), 0)),
        ("a header longer than the file", claims(65)),
        ("no header at all", vec![0; 7]),
        ("a tower of brackets", file(&"[".repeat(most), 0)),
        ("a tower of objects", file(&r#"{"a":"#.repeat(most / 5), 0)),
        ("more tensors than a model has", file(&format!("{{{}}}", many.join(",")), 0)),
        (
            "more dimensions than a tensor has",
            one(tensor("w", &vec!["1"; most / 2 - 50].join(","), "0,8")),
        ),
        ("a name of megabytes", one(tensor(&"n".repeat(most - 100), "2", "0,8"))),
        (
            "names of megabytes in texts",
            one(format!(r#""__metadata__":{{"a":"{}"}}"#, "\\u0041".repeat(most / 6 - 20))),
        ),
        ("a shape that overflows", one(tensor("w", "4294967295,4294967295,4294967295", "0,8"))),
        (
            "tensors over each other",
            one([tensor("a", "2", "0,8"), tensor("b", "2", "0,8")].join(",")),
        ),
        ("a tensor beyond the end", one(tensor("w", "4000000000", "0,16000000000"))),
        ("a hole", one(tensor("w", "1", "4,8"))),
    ]
}

#[test]
fn row_18_hostile_headers_cost_neither_time_nor_memory() {
    let _alone = ALONE.lock().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb");
    let (mut slowest, mut largest) = (Duration::ZERO, 0);
    for (what, bytes) in bombs() {
        fs::write(&path, bytes).unwrap();
        let (memory, time, text) = cost_of(&path);
        println!("{what}: {time:?}, +{memory} KiB: {text}");
        assert!(text.contains("bomb is not a valid safetensors file"), "{what}: {text}");
        assert!(time <= TIME_MAX, "{what}: {time:?}");
        assert!(memory <= MEMORY_KIB_MAX, "{what}: {memory} KiB");
        (slowest, largest) = (slowest.max(time), largest.max(memory));
    }
    println!("the slowest took {slowest:?}, the largest {largest} KiB");
}

/// As many names as may be, as long as may be: such a header is parsed, by code that tests do not
/// optimise.
#[test]
fn row_18_the_largest_header_that_is_parsed_is_bounded_too() {
    let _alone = ALONE.lock().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb");
    let name = "n".repeat(440);
    let long = (0..4000).map(|n| tensor(&format!("{name}{n}"), "", "0,0")).collect::<Vec<_>>();
    fs::write(&path, file(&format!("{{{}}}", long.join(",")), 0)).unwrap();
    let (memory, time, text) = cost_of(&path);
    println!("{time:?}, +{memory} KiB: {text}");
    assert!(text.contains("invalid shape, data type, or offset"), "{text}");
    let limit = if cfg!(debug_assertions) { TIME_MAX * 5 } else { TIME_MAX };
    assert!(time <= limit, "{time:?}");
    assert!(memory <= MEMORY_KIB_MAX, "{memory} KiB");
}

/// The miniature as a directory, its weights under `weights`.
fn directory(dir: &Path, weights: &Path) {
    let role = miniature::Role::Strong;
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), miniature::config_json(role)).unwrap();
    fs::write(dir.join("tokenizer.json"), miniature::tokenizer_json()).unwrap();
    fs::create_dir_all(weights.parent().unwrap()).unwrap();
    fs::write(weights, miniature::weights(role)).unwrap();
}

fn load(dir: &Path) -> Result<(), String> {
    let source = ModelSource::Directory(dir.to_owned());
    source.load(0, &Placement::cpu(DType::F32)).map(drop).map_err(|error| error.to_string())
}

/// An index that names one file for all tensors.
fn index(dir: &Path, name: &str) {
    let weights = miniature::weights(miniature::Role::Strong);
    let tensors = tensor_infos(weights, "the miniature").unwrap().into_iter();
    let map: serde_json::Map<_, _> =
        tensors.map(|tensor| (tensor.name, serde_json::Value::from(name))).collect();
    let text = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
}

#[test]
fn row_18_a_file_with_a_hostile_header_is_not_read() {
    let _alone = ALONE.lock().unwrap();
    let root = tempfile::tempdir().unwrap();
    let weights = root.path().join("model.safetensors");
    directory(root.path(), &weights);
    // Two gigabytes of holes, and a header of half of them.
    let mut file = File::create(&weights).unwrap();
    file.write_all(&(1_u64 << 30).to_le_bytes()).unwrap();
    file.set_len(2 << 30).unwrap();
    let (memory, time, text) = cost_of(root.path());
    println!("{time:?}, +{memory} KiB: {text}");
    assert!(text.contains("its header has 1073741824 bytes, more than 8388608"), "{text}");
    assert!(memory <= MEMORY_KIB_MAX, "{memory} KiB");
}

/// Texts that are likely to lead somewhere else.
fn names() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("/".to_owned()),
        Just("//".to_owned()),
        Just("\\".to_owned()),
        Just("\0".to_owned()),
        Just("outside".to_owned()),
        Just("weights.safetensors".to_owned()),
        Just("inside".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn row_21_no_index_of_weights_leads_out_of_its_directory(name in names()) {
        // Sound weights wherever a name might lead, but in the directory itself.
        static ROOT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
            let root = tempfile::tempdir().unwrap();
            let outside = root.path().join("outside/weights.safetensors");
            directory(&root.path().join("inside"), &outside);
            for at in ["weights.safetensors", "outside/inside"] {
                fs::copy(&outside, root.path().join(at)).unwrap();
            }
            root
        });
        let dir = ROOT.path().join("inside");
        index(&dir, &name);
        let error = load(&dir).expect_err(&name);
        let refused = error.contains("which is no file beside it");
        prop_assert!(refused || error.contains("does not exist") || error.contains("cannot read"));
        prop_assert!(refused || !name.contains('/'), "{error}");
    }
}

#[test]
fn row_21_the_ways_out_of_a_directory_by_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("inside");
    let outside = root.path().join("outside/weights.safetensors");
    directory(&dir, &outside);
    let absolute = outside.to_str().unwrap();
    for name in ["../outside/weights.safetensors", absolute, "a/../../outside/weights.safetensors"]
    {
        index(&dir, name);
        let error = load(&dir).unwrap_err();
        assert!(error.contains("which is no file beside it"), "{name}: {error}");
    }
    fs::copy(&outside, dir.join("weights.safetensors")).unwrap();
    index(&dir, "weights.safetensors");
    assert_eq!(load(&dir), Ok(()), "a shard beside its index");
}
