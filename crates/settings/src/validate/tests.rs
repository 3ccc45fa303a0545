//! Every rule, broken by itself.

use super::faults;
use crate::layers::Layers;
use crate::schema::Settings;

/// The faults of the defaults with these settings on top.
fn broken(set: &[&str]) -> Vec<String> {
    let set = set.iter().map(|pair| (*pair).to_owned()).collect();
    let layers = Layers { file: None, set, environment: Some(Vec::new()) };
    match layers.load() {
        Ok(_) => Vec::new(),
        Err(crate::layers::SettingsError::Faults(faults)) => faults,
        Err(other) => panic!("{other}"),
    }
}

fn check(set: &[&str], fault: &str) {
    let found = broken(set);
    assert!(found.len() == 1 && found[0].contains(fault), "{set:?}: {found:#?}");
}

#[test]
fn counts_and_times_of_zero_are_named() {
    for key in [
        "limits.connect_timeout_ms",
        "limits.call_timeout_ms",
        "coordinator.start_timeout_ms",
        "coordinator.gather_timeout_ms",
        "coordinator.stall_timeout_ms",
        "coordinator.journal_timeout_ms",
        "weak_server.reply_messages",
    ] {
        check(&[&format!("{key}=0")], &format!("{key} is 0 but must be at least 1"));
    }
}

#[test]
fn numbers_keep_to_their_ranges() {
    check(&["train.ratio_cap=nan"], "train.ratio_cap is NaN but must be at least 1");
    check(&["train.beta1=1"], "train.beta1 is 1 but must be at least 0 and below 1");
    check(&["train.beta2=1.0"], "train.beta2");
    check(&["train.clip_low=1"], "train.clip_low");
    check(&["train.grad_norm_max=0"], "train.grad_norm_max is 0 but must be above 0");
    check(&["train.grad_norm_max=nan"], "train.grad_norm_max");
    check(&["train.kl=nan"], "train.kl is NaN");
    check(&["sampling.temperature=inf"], "sampling.temperature");
    let mut settings = Settings::default();
    settings.eval.seed = u64::MAX;
    let fault = "eval.seed is 18446744073709551615 but must be at most 9223372036854775807";
    assert_eq!(faults(&settings), [fault]);
}

#[test]
fn a_tracking_server_has_an_address_without_secrets() {
    for sound in ["http://127.0.0.1:5000", "https://mlflow.example/base", ""] {
        assert!(broken(&[&format!("track.mlflow={sound}")]).is_empty(), "{sound}");
    }
    for wrong in ["127.0.0.1:5000", "ftp://x", "http://", "https:///path", "databricks"] {
        check(&[&format!("track.mlflow={wrong}")], "write the address of a server");
    }
    check(&["track.mlflow=https://me:secret@host"], "track.mlflow holds a name or a password");
    check(&["track.mlflow=http://h", "track.experiment="], "track.experiment is empty");
    check(&["track.queue_records=0"], "track.queue_records is 0 but must be at least 1");
}

#[test]
fn adapters_have_a_weight_and_layers_that_exist() {
    check(&["train.lora.alpha=0"], "train.lora.alpha is 0 but must be above 0");
    check(&["train.lora.targets=q_proj,qproj"], "train.lora.targets names qproj: give some of");
    check(&["train.lora.targets=q_proj,q_proj"], "train.lora.targets names q_proj twice");
    check(&["train.lora.rank=4", "train.lora.targets=[]"], "train.lora.targets is empty");
    assert!(broken(&["train.lora.rank=4", "train.lora.targets=down_proj,q_proj"]).is_empty());
    check(&["train.logprob_chunk_tokens=0"], "train.logprob_chunk_tokens is 0");
}

#[test]
fn gates_are_bounds_that_can_hold_and_are_checked() {
    let with = |set: &'static str| ["gates.problems=10", set];
    check(
        &with("gates.plain_solo_min=1.5"),
        "gates.plain_solo_min is 1.5 but must lie between 0 and 1",
    );
    check(&with("gates.jargon_max=nan"), "gates.jargon_max is NaN");
    let crossed = ["gates.problems=10", "gates.jargon_min=0.9", "gates.jargon_max=0.7"];
    check(&crossed, "gates.jargon_min is 0.9, above gates.jargon_max of 0.7");
    check(&["gates.solo_max=0.9"], "gates.problems is 0");
    assert_eq!(broken(&with("gates.solo_max=0.9")), [""; 0]);
}

#[test]
fn what_must_fit_fits() {
    let inbox = ["learner.inbox_groups=15"];
    check(&inbox, "learner.inbox_groups is 15 but 16 groups may be under way");
    assert_eq!(broken(&["learner.inbox_groups=15", "staleness.max_versions=0"]), [""; 0]);
    let supervised = ["learner.inbox_groups=15", "train.objective=sft"];
    assert_eq!(broken(&supervised), [""; 0], "no groups come then");
    check(&["limits.message_bytes=1048576"], "limits.message_bytes is 1048576");
    let span = ["actor.span_deadline_ms=40000"];
    check(&span, "coordinator.lease_deadline_ms is 240000 but one span may take 240000 ms");
    assert_eq!(broken(&["actor.span_deadline_ms=39999"]), [""; 0]);
    let stall = ["coordinator.stall_timeout_ms=240000"];
    check(&stall, "coordinator.stall_timeout_ms is 240000 but one lease may run 240000 ms");
    let journal = ["coordinator.journal_timeout_ms=30000"];
    check(
        &journal,
        "coordinator.journal_timeout_ms is 30000 but a call is given up after 30000 ms",
    );
    check(&["actor.batch_tokens=63"], "actor.batch_tokens is 63 but actor.slots is 64");
    check(&["weak_server.batch_tokens=63"], "weak_server.batch_tokens is 63 but");
    check(&["train.refill=true", "reward.shuffle=true"], "turn one of them off");
}

#[test]
fn prompts_and_evaluations_can_be_made() {
    check(&["strong.prompt.template=gsm8k-9shot"], "which lacks {question} and is none of gsm8k-5");
    check(&["weak.prompt.system=Think."], "weak.prompt.system is set but weak.prompt.chat is off");
    check(&["strong.prompt.few_shot=2"], "strong.prompt.few_shot needs worked examples");
    check(&["sampling.stop_texts=[\"\"]"], "sampling.stop_texts has an empty text");
    check(&["sampling.stop_texts=é"], "sampling.stop_texts has \"é\": write ASCII");
    check(&["eval.samples=0", "eval.pass_at=1"], "eval.samples is 0");
    check(&["eval.samples=4", "eval.pass_at=1,5"], "eval.pass_at has 5 but eval.samples is 4");
    check(&["eval.pass_at=[]"], "eval.pass_at is empty");
    check(&["eval.samples=65"], "actor.slots is 64 but eval.samples is 65");
    check(&["eval.pass_at=one"], "but must be a list of whole numbers");
    check(&["eval.split=test"], "eval.split is test but the miniature");
    check(&["reward.grader=verl-strict"], "reward.grader is GSM8K's");
    check(&["data.annotated_share=1.5"], "data.annotated_share is 1.5");
    let good = ["eval.samples=4", "eval.pass_at=1,4", "data.source=gsm8k", "data.path=x"];
    let named =
        ["strong.prompt.template=gsm8k-5shot", "eval.split=test", "reward.grader=verl-strict"];
    assert_eq!(broken(&[&good[..], &named[..]].concat()), [""; 0]);
}

#[test]
fn addresses_and_filters_are_read_before_anything_starts() {
    check(&["network.advertise=gpu-3:7000"], "network.advertise is `gpu-3:7000`");
    assert!(broken(&["network.advertise=fd00::7"]).is_empty());
    check(&["admin.listen=localhost:0"], "admin.listen is `localhost:0`");
    check(&["learner.listen=127.0.0.1"], "learner.listen is `127.0.0.1`: write HOST:PORT");
    check(&["weak_server.listen=:7"], "weak_server.listen");
    check(&["coordinator.listen=a:65536"], "coordinator.listen");
    check(&["coordinator.address=here"], "coordinator.address");
    assert_eq!(broken(&["coordinator.listen=[::1]:0", "coordinator.address=host:7"]), [""; 0]);
    check(&["log.filter=warn,actor=loud"], "log.filter has `actor=loud`");
    check(&["log.filter=info warn"], "log.filter has `info warn`");
    for good in ["", "INFO", "warn,coordinator::hub=debug", "a[s{x=1,y=2}]=trace,off", "actor=3"] {
        assert_eq!(broken(&[&format!("log.filter={good}")]), [""; 0], "{good}");
    }
}

#[test]
fn what_protects_connections_comes_whole() {
    let broken_with = |parts: &[&str]| {
        let set: Vec<String> = parts.iter().map(|part| format!("security.{part}=x")).collect();
        broken(&set.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(broken_with(&["certificate", "key", "authority", "token_file"]), [""; 0]);
    assert_eq!(broken_with(&["authority", "peer_name"]), [""; 0], "a process that only connects");
    let alone = broken_with(&["certificate"]);
    assert!(alone.len() == 2 && alone[0].contains("security.key is empty"), "{alone:?}");
    assert!(alone[1].contains("security.authority is empty"), "{alone:?}");
    check(&["security.key=x"], "security.key is set but security.certificate is empty");
    check(&["security.peer_name=x"], "security.authority is empty");
    check(&["security.client_certificates=true"], "security.certificate is empty");
    check(&["limits.header_bytes=100"], "limits.header_bytes is 100 but must be from 8192");
    check(&["limits.pending_resets=0"], "limits.pending_resets is 0");
}

#[test]
fn a_store_has_an_address_and_parts_that_stores_take() {
    check(&["store.url=s4://runs"], "store.url is `s4://runs`, and s4 is unknown");
    check(&["store.part_bytes=5242879"], "store.part_bytes is 5242879 but must be from 5242880");
    check(&["store.part_bytes=5368709121"], "store.part_bytes is 5368709121");
    check(&["store.timeout_ms=0"], "store.timeout_ms is 0 but must be at least 1");
    check(&["weights.store=true"], "weights.store is on but store.url is empty");
    let sound = ["store.url=s3://runs/a", "store.retries_max=0", "weights.store=true"];
    assert_eq!(broken(&sound), [""; 0]);
}
