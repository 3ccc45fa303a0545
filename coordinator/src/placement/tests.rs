//! Plans for published models on common GPUs, beside a golden table, and the rules of placing.

use std::fmt::Write;

use proto::Role;
use settings::{Layers, Settings};

use super::*;

/// Qwen2.5's published shapes.
pub(crate) fn qwen(size: &str) -> Model {
    let (vocab, hidden, layers, heads, kv_heads, inner, tied) = match size {
        "0.5B" => (151_936, 896, 24, 14, 2, 4_864, true),
        "1.5B" => (151_936, 1_536, 28, 12, 2, 8_960, true),
        "3B" => (151_936, 2_048, 36, 16, 2, 11_008, true),
        _ => (152_064, 3_584, 28, 28, 4, 18_944, false),
    };
    let config = format!(
        r#"{{"model_type": "qwen2", "vocab_size": {vocab}, "hidden_size": {hidden},
        "num_hidden_layers": {layers}, "num_attention_heads": {heads}, "tie_word_embeddings": {tied},
        "num_key_value_heads": {kv_heads}, "intermediate_size": {inner}}}"#
    );
    Model { shape: Shape::parse(&config, size).unwrap(), file_bytes: None }
}

/// What 64 rollouts of up to 1,024 tokens take, with 4,096 tokens to a forward and no divergence.
fn settings() -> Settings {
    let mut settings = Settings::default();
    (settings.actor.slots, settings.actor.slot_tokens) = (64, 1_024);
    (settings.weak_server.sessions, settings.weak_server.session_tokens) = (64, 1_024);
    settings.train.micro_batch_tokens = 4_096;
    settings.train.logprob_chunk_tokens = 256;
    settings
}

fn methods(shards: u64) -> Methods {
    Methods {
        half: true,
        reference: false,
        recompute_blocks: true,
        optimizer_shards: shards,
        lora_rank: 0,
    }
}

fn demand(strong: &str, weak: &str, shards: u64) -> Demand {
    Demand::new(&settings(), qwen(strong), qwen(weak), methods(shards))
}

/// MiB as the driver reports them of an A10, an A100 of 40 GB, an H100 and an H200.
const CARDS: [(&str, u64); 4] = [("24", 23_028), ("40", 40_960), ("80", 81_559), ("141", 143_771)];

fn cards(count: usize, mib: u64) -> Vec<Gpu> {
    (0..count).map(|at| Gpu { id: at.to_string(), bytes: mib * MIB }).collect()
}

fn counts(actors: u32, learners: u32, weak_servers: u32) -> MemberCounts {
    MemberCounts { actors, weak_servers, learners }
}

fn row(strong: &str, weak: &str, card: (&str, u64), gpus: usize, counts: MemberCounts) -> String {
    let demand = demand(strong, weak, u64::from(counts.learners));
    let cards = cards(gpus, card.1);
    let placed = place(counts, &cards, &demand, 0.03);
    // What was refused for its size has no placement; with endless GPUs there is one to measure.
    let fits = placed.is_ok();
    let needs =
        placed.or_else(|_| place(counts, &self::cards(gpus, 1 << 40), &demand, 0.03)).unwrap();
    let most = (0..gpus).map(|gpu| needs.used(gpu)).max().unwrap();
    let budget = cards[0].bytes as f64 * 0.97 / GIB;
    format!(
        "{strong:<5} {weak:<5} {gpus} x {:<4} {} {} {}  {:<10} {:>6.1} {budget:>6.1}  {}",
        card.0,
        counts.actors,
        counts.learners,
        counts.weak_servers,
        needs.layout.name(),
        most as f64 / GIB,
        if fits { "fits" } else { "refused" }
    )
}

#[test]
fn plans_for_published_models_are_those_of_the_golden_table() {
    let mut table =
        "Qwen2.5 in 16 bits, blocks recomputed, the optimiser sharded over learner ranks;\n\
                     GiB on the fullest GPU, and what it may be filled with.\n\n\
                     strong weak GPUs    A L W  layout      needs    may\n"
            .to_owned();
    for (strong, weak) in [("0.5B", "0.5B"), ("1.5B", "0.5B"), ("3B", "1.5B"), ("7B", "1.5B")] {
        for card in CARDS {
            for gpus in [1, 2, 4, 8] {
                let g = gpus as u32;
                let mut all = vec![counts(g, g, 1)];
                if gpus == 4 {
                    all.push(counts(1, 2, 1));
                } else if gpus == 8 {
                    all.push(counts(2, 5, 1));
                }
                for counts in all {
                    writeln!(table, "{}", row(strong, weak, card, gpus, counts).trim_end())
                        .unwrap();
                }
            }
        }
    }
    let golden = include_str!("golden.txt");
    assert!(table == golden, "the table is now:\n{table}");
}

#[test]
fn the_rule_of_18_bytes_a_parameter_holds() {
    let parameters = qwen("3B").shape.parameters();
    assert_eq!(parameters, 3_085_938_688);
    assert_eq!(qwen("0.5B").shape.parameters(), 494_032_768);
    assert_eq!(qwen("1.5B").shape.parameters(), 1_543_714_304);
    assert_eq!(qwen("7B").shape.parameters(), 7_615_616_512);
    let mut settings = settings();
    settings.train.micro_batch_tokens = 0;
    settings.train.logprob_chunk_tokens = 0;
    settings.placement.context_mib = 0;
    let total = |methods| {
        Demand::new(&settings, qwen("3B"), qwen("3B"), methods).learner.total() as f64
            / parameters as f64
    };
    assert_eq!(total(methods(1)), 18.0);
    assert_eq!(total(Methods { half: false, ..methods(1) }), 16.0);
    assert_eq!(total(Methods { reference: true, ..methods(1) }), 22.0);
    // A graph of everything gives all gradients at once, before they are added up.
    assert_eq!(total(Methods { recompute_blocks: false, ..methods(1) }), 22.0);
    // Every rank has all masters and sums of gradients, and its part of the moments.
    assert_eq!(total(methods(4)), 12.0);
    // In f32 there are no rounded copies in whose place shards are exchanged.
    assert_eq!(total(Methods { half: false, ..methods(4) }), 11.0);
    // Adapters: the base in what is computed in, and little more; it is the reference too.
    let adapters = |half| Methods { half, lora_rank: 16, reference: true, ..methods(1) };
    let (half, wide) = (total(adapters(true)), total(adapters(false)));
    assert!(half > 2.0 && half < 2.2, "{half}");
    assert!((wide - half - 2.0).abs() < 1e-9, "{wide}");
}

#[test]
fn caches_and_activations_follow_their_formulas() {
    let demand = demand("0.5B", "0.5B", 1);
    // 64 × 1,024 tokens, 2 × 24 layers × 2 heads × 64 numbers of 2 bytes.
    assert!(demand.actor.describe().contains("cache 0.8"), "{}", demand.actor.describe());
    let mut settings = settings();
    let learner = |settings: &Settings, recompute_blocks| {
        let methods = Methods { recompute_blocks, ..methods(1) };
        Demand::new(settings, qwen("0.5B"), qwen("0.5B"), methods).learner.total()
    };
    let (plain, blocks) = (learner(&settings, false), learner(&settings, true));
    settings.train.micro_batch_tokens *= 2;
    // a = 6·896 + 2·(896 + 2·128) + 896 + 4·4864 = 28,032 numbers.
    assert_eq!(learner(&settings, false) - plain, 4_096 * 2 * 25 * 28_032);
    assert_eq!(learner(&settings, true) - blocks, 4_096 * 2 * (24 * 896 + 2 * 28_032));
}

#[test]
fn as_many_gpus_as_processes_are_split() {
    let demand = demand("0.5B", "0.5B", 1);
    let placement = place(counts(2, 1, 1), &cards(4, 24_000), &demand, 0.0).unwrap();
    assert_eq!(placement.layout, Layout::Split);
    let gpus: Vec<_> = placement.placed.iter().map(|p| (p.role, p.index, p.gpu)).collect();
    let expected =
        [(Role::Learner, 0, 0), (Role::Actor, 0, 1), (Role::Actor, 1, 2), (Role::WeakServer, 0, 3)];
    assert_eq!(gpus, expected);
}

#[test]
fn with_fewer_gpus_actors_share_and_weak_servers_spread() {
    let demand = demand("0.5B", "0.5B", 1);
    let placement = place(counts(2, 1, 2), &cards(2, 40_960), &demand, 0.0).unwrap();
    assert_eq!(placement.layout, Layout::Colocated);
    assert_eq!(placement.gpu_of(Role::Learner, 0), Some(0));
    // The GPU without a learner has more room, then the one without an actor comes.
    assert_eq!(placement.gpu_of(Role::Actor, 0), Some(1));
    assert_eq!(placement.gpu_of(Role::Actor, 1), Some(0));
    assert_eq!(placement.gpu_of(Role::WeakServer, 0), Some(1));
    assert_eq!(placement.gpu_of(Role::WeakServer, 1), Some(0));
    assert_eq!(placement.gpu_of(Role::WeakServer, 2), None);
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let demand = demand("7B", "1.5B", 1);
    let text = place(counts(1, 1, 1), &cards(1, 81_559), &demand, 0.03).unwrap_err().to_string();
    for words in ["GPU 0: ", "of 77.3  TOO MUCH", "learner-0", "moments 56.7", "train.lora.rank"] {
        assert!(text.contains(words), "no `{words}` in:\n{text}");
    }
    let error = place(counts(1, 3, 1), &cards(2, 81_559), &demand, 0.03).unwrap_err();
    assert_eq!(error, PlacementError::Ranks { ranks: 3, gpus: 2 });
}

#[test]
fn the_default_run_is_planned_from_its_settings() {
    let mut settings = Settings::default();
    settings.placement.gpus = "8000".to_owned();
    let training = plan(&settings, counts(2, 1, 1), true).unwrap();
    let text = training.describe();
    assert!(text.contains("colocated on 1 GPUs") && text.contains("of 7.6"), "{text}");
    assert!(training.processes.iter().all(|process| process.gpu.is_some()));
    let evaluating = plan(&settings, counts(2, 1, 1), false).unwrap();
    for process in &evaluating.processes {
        assert_eq!(process.gpu.is_none(), process.role == Role::Learner, "{process:?}");
    }
    settings.strong.model = "absent".to_owned();
    let text = format!("{:#}", plan(&settings, counts(2, 1, 1), true).unwrap_err());
    assert!(text.contains("absent/config.json") && text.contains("model get"), "{text}");
}

#[test]
fn a_plan_counts_on_what_the_settings_train_with() {
    let total = |change: fn(&mut Settings), learners| {
        let mut settings = settings();
        settings.train.kl = 0.0;
        change(&mut settings);
        Demand::of_settings(&settings, counts(1, learners, 1)).unwrap().learner.total()
    };
    let parameters = {
        let config = miniature::config_json(miniature::Role::Strong);
        Shape::parse(&config, "miniature").unwrap().parameters()
    };
    let plain = total(|_| {}, 2);
    assert_eq!(total(|s| s.train.kl = 0.1, 2) - plain, 4 * parameters);
    // Half of the moments less, and a half of the gradients in exchange.
    assert_eq!(plain - total(|s| s.train.shard_optimizer = true, 2), 2 * parameters);
    // Copies in 16 bits beside the masters; no activations.
    let f32 = total(|s| s.train.micro_batch_tokens = 0, 2);
    let bf16 = |s: &mut Settings| {
        s.train.micro_batch_tokens = 0;
        s.compute.precision = settings::Precision::Bf16;
    };
    assert_eq!(total(bf16, 2) - f32, 2 * parameters);
    assert!(total(|s| s.train.recompute_blocks = true, 2) < plain);
    assert!(total(|s| s.train.lora.rank = 2, 2) < plain - 8 * parameters);
}

/// Published shapes of the presets' other models.
const GEMMA_270M: &str = r#"{"model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640,
    "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "intermediate_size": 2048}"#;
const LLAMA_1B: &str = r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 8192, "tie_word_embeddings": true}"#;
const LLAMA_3B: &str = r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 8192, "tie_word_embeddings": true}"#;

fn published(config: &str) -> Model {
    Model { shape: Shape::parse(config, "published").unwrap(), file_bytes: None }
}

fn told(settings: &Settings, strong: Model, weak: Model, half: bool) -> String {
    let methods = Methods { half, ..Methods::of_settings(settings, 1) };
    let demand = Demand::new(settings, strong, weak, methods);
    let roles = [Role::Learner, Role::Actor, Role::WeakServer];
    let [learner, actor, weak] = roles.map(|role| demand.of(role).total() as f64 / GIB);
    let all = learner + actor + weak;
    format!("learner {learner:.1}, actor {actor:.1}, weak-server {weak:.1}, together {all:.1} GiB")
}

#[test]
fn presets_tell_the_memory_that_their_plan_counts_on() {
    let gemma = || published(GEMMA_270M);
    for (name, strong, weak, half) in [
        ("gsm8k-qwen2.5-0.5b", qwen("0.5B"), qwen("0.5B"), true),
        ("gsm8k-qwen2.5-1.5b-weak-0.5b", qwen("1.5B"), qwen("0.5B"), true),
        ("gsm8k-llama-3.2", published(LLAMA_3B), published(LLAMA_1B), true),
        ("gsm8k-gemma3-270m", gemma(), gemma(), true),
        ("gsm8k-gemma3-270m", gemma(), gemma(), false),
    ] {
        let path = format!("{}/../config/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let words = std::fs::read_to_string(&path).unwrap().replace("\n# ", " ");
        let environment = Some(Vec::new());
        let settings = Layers { file: Some(path), set: Vec::new(), environment }.load().unwrap();
        let told = told(&settings, strong, weak, half);
        assert!(words.contains(&told), "{name} does not say: {told}");
    }
}
