//! What a model's name in the settings stands for, as far as that can be told without reading it.

use std::path::Path;

use anyhow::{Context, bail};
use miniature::Role;

/// Of `builtin:` or `fresh:` and a role; `None` for any other name.
///
/// # Errors
/// A name that begins so, of a model that there is not.
pub(crate) fn built_in(name: &str) -> anyhow::Result<Option<Role>> {
    let model = name.strip_prefix("builtin:").or_else(|| name.strip_prefix("fresh:"));
    let Some(model) = model else { return Ok(None) };
    let of = |role: &Role| model == format!("miniature-{}", role.name());
    let role = Role::ALL.into_iter().find(of).with_context(|| {
        format!("there is no model {name}: built in are miniature-strong and miniature-weak")
    })?;
    Ok(Some(role))
}

/// That a model's name is one of a built-in model or of something on the disk.
///
/// # Errors
/// Nothing of that name; `key` is the setting.
pub(crate) fn check_model(key: &str, name: &str) -> anyhow::Result<()> {
    if built_in(name).with_context(|| key.to_owned())?.is_some() || Path::new(name).exists() {
        return Ok(());
    }
    bail!(
        "{key}: {name} does not exist: name a model's directory or a .gguf file, or fetch one with \
         `coordinator model get OWNER/NAME`"
    );
}

/// A name of something on the disk, wherever a process looks for it.
pub(crate) fn make_absolute(name: &mut String) {
    let is_path = !name.is_empty() && Path::new(name.as_str()).exists();
    if let (true, Ok(absolute)) = (is_path, std::path::absolute(name.as_str())) {
        *name = absolute.to_string_lossy().into_owned();
    }
}
