//! The version that processes of one run must share. It says nothing of policies.

/// Raised whenever a message changes its meaning.
const WIRE_REVISION: u32 = 6;

/// Of this program, as it is told to peers: programs of two versions never work in one run.
#[must_use]
pub fn version() -> String {
    format!("{}, wire revision {WIRE_REVISION}", env!("CARGO_PKG_VERSION"))
}

/// The peer's program is another than this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {peer} has version {theirs} and this program has {ours}: build all programs together")]
pub struct VersionSkew {
    peer: &'static str,
    theirs: String,
    ours: String,
}

/// # Errors
/// Both versions, where they differ.
pub(crate) fn same_version(peer: &'static str, theirs: &str) -> Result<(), VersionSkew> {
    let ours = version();
    if theirs == ours {
        return Ok(());
    }
    // Programs from before there were versions tell none.
    let theirs = if theirs.is_empty() { "none" } else { theirs };
    // What a stranger tells is shown in part only.
    let theirs = theirs.chars().take(TOLD_CHARS_MAX).collect();
    Err(VersionSkew { peer, theirs, ours })
}

const TOLD_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_named_where_they_differ() {
        assert_eq!(same_version("actor", &version()), Ok(()));
        let old = same_version("actor", "0.0.9, wire revision 1").unwrap_err().to_string();
        assert_eq!(
            old,
            format!(
                "the actor has version 0.0.9, wire revision 1 and this program has {}: build all \
                 programs together",
                version()
            )
        );
        let none = same_version("actor", "").unwrap_err().to_string();
        assert!(none.starts_with("the actor has version none and"), "{none}");
        let long = same_version("actor", &"9".repeat(1_000_000)).unwrap_err().to_string();
        assert!(long.len() < 300, "{}", long.len());
    }
}
