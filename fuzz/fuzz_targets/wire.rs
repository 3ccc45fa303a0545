//! Messages of any bytes. What is accepted survives being sent on.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::wire::{coordinator, learner, rollout, weak};
use proto::{
    Directive, Inspection, LeaseAsk, Pulse, Receipt, Registration, ReturnedGroup, SpanReply,
    StepRecord, WeakMessage, WorkItem,
};
use types::{Problem, RolloutGroup, WeightManifest};

// The first byte says as what message the others are read.
fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 14 {
        0 => survives::<rollout::RolloutGroup, RolloutGroup>(bytes),
        1 => survives::<rollout::Problem, Problem>(bytes),
        2 => survives::<learner::Receipt, Receipt>(bytes),
        3 => survives::<weak::Request, WeakMessage>(bytes),
        4 => survives::<weak::SpanReply, SpanReply>(bytes),
        5 => survives::<coordinator::RegisterRequest, Registration>(bytes),
        6 => survives::<coordinator::Directive, Directive>(bytes),
        7 => survives::<coordinator::LeaseRequest, LeaseAsk>(bytes),
        8 => survives::<coordinator::WorkItem, WorkItem>(bytes),
        9 => survives::<coordinator::ReturnRequest, ReturnedGroup>(bytes),
        10 => survives::<coordinator::StepRecord, StepRecord>(bytes),
        11 => survives::<coordinator::WeightManifest, WeightManifest>(bytes),
        12 => survives::<coordinator::Pulse, Pulse>(bytes),
        _ => survives::<coordinator::Inspection, Inspection>(bytes),
    }
});

fn survives<W, D>(bytes: &[u8])
where
    W: Message + Default + From<D>,
    D: TryFrom<W, Error: Debug> + Clone + Debug,
{
    let Ok(message) = W::decode(bytes) else { return };
    let Ok(taken) = D::try_from(message) else { return };
    let sent = W::from(taken.clone()).encode_to_vec();
    let again = W::decode(sent.as_slice()).expect("our own bytes are a message");
    let again = D::try_from(again).expect("what was taken is taken again");
    assert_eq!(text(&again), text(&taken));
}

/// In a text a number that is none equals itself. The wire leaves zeros out, and so their sign.
fn text(value: &impl Debug) -> String {
    format!("{value:?}").replace("-0.0", "0.0")
}
