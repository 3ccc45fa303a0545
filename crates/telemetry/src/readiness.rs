//! Named latches: a process is ready once everything it waits for has come, and for as long as
//! nothing that it needs is lost.
//! Whether it still makes progress is `Health`'s question.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What a process waits for before it takes work. Clones share the latches.
#[derive(Clone, Debug)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Readiness {
    pub fn new(names: &[&'static str]) -> Self {
        Self { missing: Arc::new(Mutex::new(names.iter().copied().collect())) }
    }

    /// Sets one latch. Setting it again, or one that was never named, changes nothing.
    pub fn set(&self, name: &str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Sets a latch, or loses one; true where it was otherwise before.
    pub fn keep(&self, name: &'static str, holds: bool) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if holds { missing.remove(name) } else { missing.insert(name) }
    }

    /// The names still waited for, sorted.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_can_come_back() {
        let readiness = Readiness::new(&[]);
        assert!(readiness.keep("disk", false) && !readiness.keep("disk", false));
        assert_eq!(readiness.missing(), ["disk"]);
        assert!(readiness.keep("disk", true) && !readiness.keep("disk", true));
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn ready_once_every_latch_is_set() {
        let readiness = Readiness::new(&["weights", "coordinator"]);
        assert_eq!(readiness.missing(), ["coordinator", "weights"]);
        readiness.clone().set("weights");
        readiness.set("weights");
        readiness.set("never named");
        assert_eq!(readiness.missing(), ["coordinator"]);
        readiness.set("coordinator");
        assert!(readiness.missing().is_empty());
    }
}
