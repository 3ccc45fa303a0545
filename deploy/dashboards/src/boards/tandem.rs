//! *Tandem*: what training is about. Can the weak model take over, at what price, and in which
//! language.

use actor::metrics as actors;
use coordinator::metrics as run;

use crate::board::{Board, Row, Variable};
use crate::panel::{Panel, Step, Unit};
use crate::query::{gauge, increase, mean, rate, ratio, series, share, sum};
use crate::rules::{
    HELD_OUT_HANDOFF, HELD_OUT_JARGON, HELD_OUT_QUOTIENT, HELD_OUT_SOLO, HELD_OUT_TANDEM,
};

/// Of the quotient: 1 is a weak model that loses nothing.
const QUOTIENT: &[Step] = &[(None, "red"), (Some(0.8), "yellow"), (Some(0.95), "green")];

pub(super) fn board() -> Board {
    Board {
        uid: "tandem",
        title: "Tandem",
        description: "Whether the weak model can follow the strong one, and what that costs.",
        variables: vec![Variable::run()],
        rows: vec![now(), held_out(), in_training(), language()],
    }
}

fn now() -> Row {
    Row {
        title: "Now, on held-out problems",
        panels: vec![
            Panel::stat(
                "Handoff success rate",
                "Correct answers among rollouts in which the weak model wrote at least one token, \
                 under each schedule. Of the latest evaluation, on problems that are never trained on.",
            )
            .query(series(HELD_OUT_HANDOFF, ""), "{{schedule}}")
            .unit(Unit::Share)
            .sized(12, 9),
            Panel::stat(
                "Solo accuracy",
                "Correct answers of the strong model alone, sampled, on the same problems.",
            )
            .query(series(HELD_OUT_SOLO, ""), "strong alone")
            .unit(Unit::Share)
            .sized(6, 9),
            Panel::stat(
                "Handoff success per solo accuracy",
                "The quotient of the two: 1 where handing over costs nothing.",
            )
            .query(series(HELD_OUT_QUOTIENT, ""), "{{schedule}}")
            .unit(Unit::Share)
            .coloured(QUOTIENT)
            .sized(6, 9),
        ],
    }
}

fn held_out() -> Row {
    Row {
        title: "Held-out problems, by evaluation (eval.every_steps)",
        panels: vec![
            Panel::lines(
                "Handoff success and solo accuracy",
                "What should meet: the strong model alone, and rollouts with a handoff. The weak \
                 model alone is what a handoff of everything would reach.",
            )
            .query(series(HELD_OUT_HANDOFF, ""), "handoff success, {{schedule}}")
            .query(series(HELD_OUT_SOLO, ""), "strong alone, sampled")
            .query(format!("max({})", gauge(&run::EVAL_WEAK, "")), "weak alone")
            .unit(Unit::Share)
            .sized(12, 9),
            Panel::lines(
                "Quotient by schedule",
                "Handoff success per solo accuracy of the same evaluation.",
            )
            .query(series(HELD_OUT_QUOTIENT, ""), "{{schedule}}")
            .unit(Unit::Share)
            .coloured(QUOTIENT)
            .sized(6, 9),
            Panel::lines(
                "Accuracy under a schedule",
                "All rollouts of a schedule, those in which no handoff happened included.",
            )
            .query(series(HELD_OUT_TANDEM, ""), "{{schedule}}")
            .unit(Unit::Share)
            .sized(6, 9),
            Panel::lines("Evaluation under way", "Its share that is done; 0 while there is none.")
                .query(gauge(&run::EVAL_PROGRESS, ""), "done")
                .unit(Unit::Share)
                .sized(24, 4),
        ],
    }
}

fn in_training() -> Row {
    let success = |by: &str, matchers: &str| {
        let of = |outcome: &str| {
            let matchers = format!(r#"purpose="train",{outcome}{matchers}"#);
            sum(by, &rate(&actors::ROLLOUTS, &matchers))
        };
        ratio(&of(r#"outcome="correct""#), &of(r#"outcome!="failed""#))
    };
    let quotient =
        format!("{} / ({} > 0)", success("", r#",handoff="yes""#), success("", r#",handoff="no""#));
    Row {
        title: "Rollouts of training",
        panels: vec![
            Panel::lines(
                "Success with and without a handoff",
                "Of the rollouts that end in training, by whether the weak model wrote any of it.",
            )
            .query(success("handoff", ""), "handoff: {{handoff}}")
            .unit(Unit::Share),
            Panel::lines(
                "Success with a handoff per success without",
                "Few training rollouts come without a handoff, so that this moves more than the \
                 quotient on held-out problems.",
            )
            .query(quotient, "quotient")
            .zero_based(),
            Panel::stack("Rollouts by outcome", "Rollouts of training that ended, per second.")
                .query(
                    sum("outcome", &rate(&actors::ROLLOUTS, r#"purpose="train""#)),
                    "{{outcome}}",
                )
                .unit(Unit::PerSecond),
            Panel::stack(
                "Tokens by author",
                "Who wrote the response tokens, training and evaluation together.",
            )
            .query(share("author", &actors::TOKENS, ""), "{{author}}")
            .unit(Unit::Share),
            Panel::stack(
                "Tokens by handoff",
                "Response tokens of rollouts with and without a handoff.",
            )
            .query(share("handoff", &actors::TOKENS, ""), "handoff: {{handoff}}")
            .unit(Unit::Share),
            Panel::lines(
                "Redraws that were forced",
                "The author was redrawn because no boundary came within handoff.max_gap.",
            )
            .query(sum("", &increase(&actors::FORCED_REDRAWS, "")), "redraws")
            .zero_based(),
        ],
    }
}

fn language() -> Row {
    let words = |counter| sum("", &rate(counter, ""));
    let jargon = ratio(&words(&actors::JARGON_WORDS), &words(&actors::STYLED_WORDS));
    Row {
        title: "Language",
        panels: vec![
            Panel::lines(
                "Jargon",
                "Jargon among the strong model's words that have a plain form: of the latest \
                 evaluation, of each training step, and of all rollouts as they end.",
            )
            .query(series(HELD_OUT_JARGON, ""), "held-out problems")
            .query(gauge(&learner::metrics::JARGON, ""), "last step")
            .query(jargon, "rollouts")
            .unit(Unit::Share)
            .sized(12, 9),
            Panel::lines(
                "Surprise of the weak model",
                "Mean of -log p that the weak model gives the strong model's tokens, over those it has \
                 read. The more legible a text, the lower.",
            )
            .query(mean("purpose", &actors::WEAK_SURPRISAL, ""), "{{purpose}}")
            .unit(Unit::Nats)
            .zero_based()
            .sized(12, 9),
        ],
    }
}
