//! `state.json` with its own hash: it vouches for every other file, so it must not change unseen.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use store::{BLANK_HASH, sealed_hash};

use super::State;

pub(super) fn write(path: &Path, state: &mut State) -> anyhow::Result<()> {
    BLANK_HASH.clone_into(&mut state.own_hash);
    let text = serde_json::to_string_pretty(state)?;
    state.own_hash = sealed_hash(&text, BLANK_HASH);
    let text = text.replace(BLANK_HASH, &state.own_hash);
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// # Errors
/// A file that cannot be read, or is not what was written.
pub(super) fn read(path: &Path) -> anyhow::Result<State> {
    let damaged = || format!("{} is damaged: use an older checkpoint", path.display());
    let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
    let text = String::from_utf8(bytes).with_context(damaged)?;
    let state: State = serde_json::from_str(&text).with_context(damaged)?;
    if state.own_hash.is_empty() {
        return Ok(state);
    }
    let found = sealed_hash(&text, &state.own_hash);
    if found != state.own_hash {
        bail!("{}, its hash is {found} where it says {}", damaged(), state.own_hash);
    }
    Ok(state)
}
