//! The ranks as the coordinator names them, for a thread that waits for them or works with them.

use proto::{Directive, Formation};
use runtime::{Shutdown, waiting};
use telemetry::Health;
use tokio::sync::watch;
use types::Generation;

use crate::collective::Interrupt;
use crate::inbox::IDLE_BEAT;

/// Follows the coordinator's directives.
#[derive(Clone, Debug)]
pub struct RankWatch {
    directives: watch::Receiver<Directive>,
    /// That this process works in.
    generation: Generation,
}

impl RankWatch {
    #[must_use]
    pub fn new(directives: watch::Receiver<Directive>) -> Self {
        Self { directives, generation: Generation(0) }
    }

    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the ranks of its generation are the present ones no more.
    #[must_use]
    pub fn superseded(&self) -> bool {
        let directive = self.directives.borrow();
        directive.formation.as_ref().map(|formation| formation.generation) != Some(self.generation)
    }

    /// Returns once that is so.
    pub async fn until_superseded(&mut self) {
        while !self.superseded() {
            if self.directives.changed().await.is_err() {
                // Whoever followed the coordinator has failed and ends the process.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next ranks, to which this process then belongs; `None` on a stop. Every look is a beat.
    pub async fn next(&mut self, shutdown: &Shutdown, health: &Health) -> Option<Formation> {
        let mut waits = None;
        loop {
            let formation = self.directives.borrow_and_update().formation.clone();
            if let Some(formation) = formation.filter(|next| next.generation > self.generation) {
                self.generation = formation.generation;
                return Some(formation);
            }
            health.beat();
            waits.get_or_insert_with(|| waiting("all ranks of the learner", None));
            tokio::select! {
                () = shutdown.wait() => return None,
                changed = tokio::time::timeout(IDLE_BEAT, self.directives.changed()) => {
                    if let Ok(Err(_)) = changed {
                        shutdown.wait().await;
                        return None;
                    }
                }
            }
        }
    }

    /// Ends waits for other ranks when they are the present ones no more, or the process stops.
    /// Being asked is a beat: the wait is not stuck.
    #[must_use]
    pub fn interrupt(&self, shutdown: &Shutdown, health: &Health) -> Interrupt {
        let (watch, shutdown, health) = (self.clone(), shutdown.clone(), health.clone());
        Interrupt::new(move || {
            health.beat();
            shutdown.requested() || watch.superseded()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const AMPLE: Duration = Duration::from_secs(60);

    fn directive(generation: Option<u32>) -> Directive {
        let formation = generation.map(|generation| Formation {
            generation: Generation(generation),
            committed: 3,
            run: 1,
            ranks: Vec::new(),
        });
        Directive { formation, ..Directive::default() }
    }

    #[tokio::test]
    async fn each_generation_is_seen_once_and_its_end_ends_waits() {
        let (sender, receiver) = watch::channel(directive(None));
        let (shutdown, health) = (Shutdown::new(), Health::of_progress(AMPLE));
        let mut watch = RankWatch::new(receiver);
        let (next, ()) = tokio::join!(watch.next(&shutdown, &health), async {
            sender.send_replace(directive(Some(2)));
        });
        assert_eq!(next.unwrap().generation, Generation(2));
        let interrupt = watch.interrupt(&shutdown, &health);
        assert!(!watch.superseded() && !interrupt.called_off());
        sender.send_replace(directive(None));
        assert!(watch.superseded() && interrupt.called_off(), "a rank is missing");
        tokio::time::timeout(AMPLE, watch.until_superseded()).await.unwrap();
        sender.send_replace(directive(Some(2)));
        let (next, ()) = tokio::join!(watch.next(&shutdown, &health), async {
            tokio::task::yield_now().await;
            shutdown.trigger("the test has seen enough");
        });
        assert_eq!(next, None, "its own generation is no news");
        assert!(interrupt.called_off());
    }
}
