//! Honest groups pass; each way of being wrong is refused by name.

use super::*;
use crate::fixtures::{Miniature, flip_author, respan, with_parts};

const LINEAGE: Lineage = Lineage {
    published: PolicyVersion { generation: types::Generation(1), step: 3 },
    resumed_step: 0,
};

fn refusal(world: &Miniature, group: &RolloutGroup) -> String {
    let refused = world.admission().check(group, &LINEAGE);
    refused.expect_err("must be refused").to_string()
}

#[test]
fn honest_groups_pass() {
    let world = Miniature::small();
    for id in 0..20 {
        assert_eq!(world.admission().check(&world.group(id, 3), &LINEAGE), Ok(()));
    }
}

#[test]
fn replacements_pass_only_where_they_are_drawn_as_such_and_asked_for() {
    let own = GroupId(2);
    let world = Miniature::small();
    let replacement = world.group_drawn_as(own, own.replacement(), 3);
    assert!(refusal(&world, &replacement).contains("is not that of group 2"));
    let world = Miniature::with(|s| s.train.refill = true);
    assert_eq!(world.admission().check(&replacement, &LINEAGE), Ok(()));
    // Neither another group's coins nor a replacement's without its name.
    let borrowed = world.group_drawn_as(own, GroupId(5), 3);
    assert!(refusal(&world, &borrowed).contains("group number 5, which is not that of group 2"));
    let disguised = RolloutGroup { key_group: own, ..replacement };
    assert!(refusal(&world, &disguised).contains("the schedule gives it to"));
}

#[test]
fn every_single_flipped_author_is_refused() {
    let world = Miniature::small();
    let group = world.group(0, 3);
    assert!(refusal(&world, &flip_author(group.clone())).contains("recorded as strong"));
    for sample in 0..group.samples.len() {
        for at in group.samples[sample].response() {
            let forged = with_parts(group.clone(), sample, |parts| {
                (parts.authors[at], parts.versions[at]) = match parts.authors[at] {
                    Author::Strong => (Author::Weak, PolicyVersion::default()),
                    _ => (Author::Strong, PolicyVersion::new(1, 3)),
                };
                respan(parts);
            });
            let text = refusal(&world, &forged);
            assert!(text.contains("the schedule gives it to"), "{text}");
        }
    }
}

#[test]
fn an_author_column_shifted_by_one_or_made_strong_is_refused() {
    let world = Miniature::small();
    let group = world.group(0, 3);
    let handed = group.samples.iter().position(Rollout::has_handoff).unwrap();
    let shifted = with_parts(group.clone(), handed, |parts| {
        let response = parts.prompt_len..;
        parts.authors[response.clone()].rotate_right(1);
        parts.versions[response].rotate_right(1);
        respan(parts);
    });
    assert!(refusal(&world, &shifted).contains("the schedule gives it to"));
    // What plain GRPO would train on if the column were dropped and filled with a default.
    let filled = with_parts(group, handed, |parts| {
        let prompt = parts.prompt_len;
        parts.authors[prompt..].fill(Author::Strong);
        parts.versions[prompt..].fill(PolicyVersion::new(1, 3));
        respan(parts);
    });
    assert!(refusal(&world, &filled).contains("the schedule gives it to weak"));
}

#[test]
fn another_schedule_purpose_or_key_is_refused() {
    let world = Miniature::small();
    let group = world.group(0, 3);
    let changed = |change: &dyn Fn(&mut RolloutGroup)| {
        let mut group = group.clone();
        change(&mut group);
        refusal(&world, &group)
    };
    assert!(changed(&|g| g.schedule = "word:0.5".to_owned()).contains("`word:0.5`"));
    assert!(changed(&|g| g.purpose = Purpose::Eval).contains("eval"));
    // The right authors for another group's key.
    assert!(changed(&|g| g.group = GroupId(1)).contains("not that of group 1"));
    let renamed = changed(&|g| (g.group, g.key_group) = (GroupId(1), GroupId(1)));
    assert!(renamed.contains("the schedule gives it to"), "{renamed}");
    assert!(changed(&|g| g.samples.swap(0, 1)).contains("sample 0 calls itself 1"));
    assert!(changed(&|g| drop(g.samples.pop())).contains("3 samples"));
    assert!(changed(&|g| g.problem = world.problem(9)).contains("prompt of problem 9"));
    assert!(changed(&|g| g.problem.question = "nonsense".to_owned()).contains("problem 0"));
    // A wrong sample index within the key.
    let two = group.samples[2].clone();
    let renamed = |g: &mut RolloutGroup| {
        let mut parts = two.clone().into_parts();
        parts.sample = types::SampleIndex(0);
        g.samples[0] = Rollout::new(parts).unwrap();
    };
    assert!(changed(&renamed).contains("the schedule gives it to"));
}

#[test]
fn other_sampling_and_broken_ends_are_refused() {
    let world = Miniature::small();
    let group = world.group(0, 3);
    let changed =
        |change: &dyn Fn(&mut RolloutParts)| refusal(&world, &with_parts(group.clone(), 0, change));
    assert!(changed(&|p| p.sampling.temperature = 0.5).contains("sampled otherwise"));
    assert!(changed(&|p| p.sampling.banned = vec![4]).contains("sampled otherwise"));
    assert!(changed(&|p| p.finish = Finish::Truncated).contains("truncated but ended"));
    let end = world.task.stops()[0];
    let last = group.samples[0].parts().tokens.len() - 1;
    assert!(changed(&|p| p.tokens[last] = end + 1).contains("has no end"));
    assert!(changed(&|p| p.tokens[last - 1] = end).contains("follow the end"));
    assert!(changed(&|p| p.tokens[p.prompt_len] = 100_000).contains("token 100000"));
    assert!(changed(&|p| p.forced_redraws = 2).contains("forced redraws"));
    let short = |p: &mut RolloutParts| {
        p.tokens[last] = end + 1;
        p.finish = Finish::Truncated;
    };
    assert!(changed(&short).contains("short of sampling.max_tokens"));
}

#[test]
fn a_stop_text_ends_a_rollout_here_as_it_does_where_it_was_written() {
    let world = Miniature::with(|s| s.sampling.stop_texts = vec!["####".to_owned()]);
    let group = world.group(0, 3);
    let mark = world.task.tokenizer().id_of("####").unwrap();
    let last = |rollout: &Rollout| rollout.parts().tokens.last() == Some(&mark);
    assert!(group.samples.iter().all(last), "the fixture's session stops there");
    assert!(group.samples.iter().all(|r| !r.parts().verdict.text.contains("####")));
    assert_eq!(world.admission().check(&group, &LINEAGE), Ok(()));
    let cut = with_parts(group.clone(), 0, |p| p.finish = Finish::Truncated);
    assert!(refusal(&world, &cut).contains("truncated but ended"));
    let plain = Miniature::small();
    assert!(refusal(&plain, &group).contains("recorded as ended but has no end"));
    // What a run without stop texts wrote goes on behind the mark.
    assert!(refusal(&world, &plain.group(0, 3)).contains("tokens follow the end"));
}

#[test]
fn the_weak_model_may_end_only_where_it_may() {
    let mut found = false;
    let strict = Miniature::with(|s| s.handoff.weak_may_end = false);
    for id in 0..20 {
        let group = strict.group(id, 3);
        let by_weak = |r: &Rollout| r.parts().authors.last() == Some(&Author::Weak);
        if group.samples.iter().any(by_weak) {
            assert!(refusal(&strict, &group).contains("handoff.weak_may_end forbids"));
            found = true;
        }
    }
    assert!(found, "some of 20 groups is ended by the weak model");
}

#[test]
fn tokens_of_dead_or_future_weights_are_refused() {
    let world = Miniature::small();
    let with_version = |version: PolicyVersion| {
        with_parts(world.group(0, 3), 1, |parts| {
            let strong = parts.authors.iter().position(|a| *a == Author::Strong).unwrap();
            parts.versions[strong] = version;
        })
    };
    let of = |generation, step| with_version(PolicyVersion::new(generation, step));
    assert!(refusal(&world, &of(1, 4)).contains("newer than what is published"));
    assert!(refusal(&world, &of(2, 0)).contains("dead generation"));
    assert!(refusal(&world, &of(0, 0)).contains("dead generation"));
    let resumed = Lineage { published: PolicyVersion::new(2, 6), resumed_step: 5 };
    let admission = world.admission();
    let by_resumed = |group: &RolloutGroup| admission.check(group, &resumed);
    let all_old = world.group(0, 5);
    assert_eq!(by_resumed(&all_old), Ok(()));
    let refused = by_resumed(&world.group(0, 6)).expect_err("g1s6 died with its generation");
    assert!(refused.to_string().contains("g1s6, which is of a dead generation"), "{refused}");
}
