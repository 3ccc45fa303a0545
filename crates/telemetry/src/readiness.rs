//! Named latches: a process is ready once everything it waits for has come, and stays ready.
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

    /// The names still waited for, sorted.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
