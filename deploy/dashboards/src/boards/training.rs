//! *Training*: the learner's steps. What they do to the model, on how fresh data, and how fast.

use ::learner::metrics as learner;
use actor::metrics as actors;
use coordinator::metrics as run;
use telemetry::{Gauge, Metric};

use crate::board::{Board, Row, Variable};
use crate::panel::{NONE_IS_GOOD, Panel, Unit};
use crate::query::{gauge, increase, max, mean, quantile, rate, rate_of, sum, total};

pub(super) fn board() -> Board {
    Board {
        uid: "tandem-training",
        title: "Training",
        description: "The learner's steps: objective, ratios, age of the data, speed.",
        variables: vec![Variable::run()],
        rows: vec![objective(), ratios(), data(), speed()],
    }
}

/// Ranks report the same number.
fn of_step(of: &Gauge) -> String {
    max("", &gauge(of, ""))
}

fn objective() -> Row {
    Row {
        title: "Objective",
        panels: vec![
            Panel::lines(
                "Reward",
                "Mean reward of the last step's rollouts, as earned, and of rollouts as they end.",
            )
            .query(of_step(&learner::REWARD), "last step")
            .query(mean("purpose", &actors::REWARD, ""), "rollouts, {{purpose}}")
            .unit(Unit::Share),
            Panel::lines("Loss", "Per token, at the weights before the update.")
                .query(of_step(&learner::LOSS), "loss"),
            Panel::lines(
                "Divergence from the start",
                "Estimate (k3) of how far the policy is from the model that the run started from, per \
                 strong token.",
            )
            .query(of_step(&learner::KL), "from the start")
            .unit(Unit::Nats)
            .zero_based(),
            Panel::lines(
                "Gradient norm",
                "Before clipping to train.grad_norm_max.",
            )
            .query(of_step(&learner::GRADIENT_NORM), "norm")
            .zero_based(),
            Panel::lines("Learning rate", "Of the last step.")
                .query(of_step(&learner::LEARNING_RATE), "rate")
                .zero_based(),
            Panel::lines(
                "Surprisal",
                "Mean of -log p of the strong model's own tokens: on policy an estimate of their \
                 entropy. Near 0 nothing is explored any more.",
            )
            .query(of_step(&learner::SURPRISAL), "per token")
            .unit(Unit::Nats)
            .zero_based(),
        ],
    }
}

fn ratios() -> Row {
    Row {
        title: "Importance ratios",
        panels: vec![
            Panel::lines(
                "Effective sample size",
                "Of the last step, over its tokens: 1 on policy. Low where data is old, or where \
                 sampler and learner round differently.",
            )
            .query(of_step(&learner::EFFECTIVE_SAMPLE), "share of tokens")
            .unit(Unit::Share),
            Panel::lines(
                "Tokens clipped and capped",
                "Without policy gradient (train.clip_low, train.clip_high), or weighed by \
                 train.ratio_cap.",
            )
            .query(of_step(&learner::CLIPPED), "clipped")
            .query(of_step(&learner::CAPPED), "capped")
            .unit(Unit::Share),
            Panel::lines(
                "Mismatch of sampler and learner",
                "Divergence of the training forward from what sampled, per strong token, and the \
                 largest |log ratio| of one token.",
            )
            .query(of_step(&learner::MISMATCH_KL), "divergence")
            .query(of_step(&learner::LOG_RATIO), "largest log ratio")
            .unit(Unit::Nats)
            .zero_based(),
        ],
    }
}

fn data() -> Row {
    Row {
        title: "Data of the steps",
        panels: vec![
            Panel::lines(
                "Age of groups",
                "Steps between a consumed group's oldest weights and its own step.",
            )
            .query(mean("", &learner::STALENESS, ""), "mean")
            .query(quantile(0.95, &learner::STALENESS, ""), "95%")
            .zero_based(),
            Panel::stack(
                "Groups received",
                "The learner's answers, groups that it gave back as stale included.",
            )
            .query(sum("receipt", &rate(&learner::GROUPS, "")), "{{receipt}}")
            .unit(Unit::PerSecond),
            Panel::stack(
                "Groups consumed",
                "Those in which all samples earn the same (zero_variance) teach nothing.",
            )
            .query(sum("outcome", &rate(&learner::CONSUMED, "")), "{{outcome}}")
            .unit(Unit::PerSecond),
            Panel::lines(
                "Consumed by committed steps",
                "As the coordinator counts it, since the run began.",
            )
            .query(total(&run::CONSUMED, ""), "{{kind}}")
            .zero_based(),
            Panel::stat("Trained twice", "Anything but 0 is a fault.")
                .query(total(&run::TRAINED_TWICE, ""), "groups")
                .coloured(NONE_IS_GOOD)
                .sized(4, 8),
            Panel::stat("Epoch of the problems", "0 is the first.")
                .query(gauge(&run::DATA_EPOCH, ""), "epoch")
                .query(total(&run::SHARDS, ""), "shards begun")
                .sized(4, 8),
            Panel::lines(
                "Groups that wait for their step",
                "In the learner's inbox (learner.inbox_groups).",
            )
            .query(gauge(&learner::INBOX, ""), "{{name}}")
            .zero_based(),
        ],
    }
}

fn speed() -> Row {
    Row {
        title: "Speed",
        panels: vec![
            Panel::lines("Steps", "Committed, and due in the whole run.")
                .query(gauge(&run::STEP, ""), "committed")
                .query(gauge(&run::STEPS_DUE, ""), "due")
                .zero_based(),
            Panel::stack(
                "Time of a step by phase",
                "Mean wall time. `wait` is for groups of actors; a checkpoint is written beside the \
                 steps, and what a step waits for it is its phase.",
            )
            .query(mean("phase", &learner::STEP_SECONDS, ""), "{{phase}}")
            .unit(Unit::Seconds),
            Panel::stack("Tokens trained on", "Response tokens of consumed groups by author.")
                .query(sum("author", &rate(&learner::TOKENS, "")), "{{author}}")
                .unit(Unit::TokensPerSecond),
            Panel::lines(
                "Tokens in the loss",
                "Only the strong model's tokens of groups that teach something.",
            )
            .query(max("", &rate(&learner::LOSS_TOKENS, "")), "in the loss")
            .query(sum("", &rate(&run::TOKENS, "")), "all, of committed steps")
            .unit(Unit::TokensPerSecond)
            .zero_based(),
            Panel::lines(
                "Steps, versions, checkpoints",
                "How many were committed, published and written in the window.",
            )
                .query(max("", &increase(&learner::STEPS, "")), "steps")
                .query(sum("way", &increase(&learner::PUBLISHED, "")), "versions, as {{way}}")
                .query(sum("", &increase(&learner::CHECKPOINTS, "")), "checkpoints")
                .zero_based(),
            Panel::lines(
                "Writing a checkpoint",
                "Mean time, beside the steps (checkpoint.every_steps).",
            )
            .query(mean("", &learner::CHECKPOINT_SECONDS, ""), "write")
            .unit(Unit::Seconds)
            .zero_based(),
            Panel::lines(
                "The run's store",
                "Checkpoints and versions put there in the window (store.url, weights.store); 0 without \
                 a store. Failed checkpoints are on the learner's disk only.",
            )
            .query(sum("outcome", &increase(&learner::UPLOADS, "")), "checkpoints {{outcome}}")
            .query(sum("", &increase(&learner::STORED, "")), "versions")
            .zero_based(),
            Panel::lines("Time spent storing", "Share of time in which a checkpoint is being stored.")
                .query(
                    max("", &rate_of(&format!("{}_sum", learner::UPLOAD_SECONDS.name()), "")),
                    "share of time",
                )
                .unit(Unit::Share),
        ],
    }
}
