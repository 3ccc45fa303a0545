//! `state.json` with its own hash: it vouches for every other file, so it must not change unseen.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use types::Hash;

use super::State;

/// Stands for the hash while the hash is taken.
const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

pub(super) fn write(path: &Path, state: &mut State) -> anyhow::Result<()> {
    BLANK.clone_into(&mut state.own_hash);
    let text = serde_json::to_string_pretty(state)?;
    state.own_hash = Hash::of(text.as_bytes()).to_string();
    let text = text.replace(BLANK, &state.own_hash);
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
    let found = Hash::of(text.replace(&state.own_hash, BLANK).as_bytes()).to_string();
    if found != state.own_hash {
        bail!("{}, its hash is {found} where it says {}", damaged(), state.own_hash);
    }
    Ok(state)
}
