//! Rules on single Rust files: their shape, what they may call, what they may not contain.
//! Whatever clippy can check is left to clippy.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, UseTree};

use crate::tokens::{Token, flatten, inside, lines_with};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// A module comment of fewer words says nothing.
const MODULE_DOC_WORDS_MIN: usize = 4;

/// The one crate that starts tasks.
const STARTS_TASKS: &str = "crates/runtime/";

/// The crate that owns the generated types, and the files that implement a generated service.
const OWNS_WIRE_TYPES: &str = "proto/";
const SERVICE_FILES: [&str; 2] = ["service.rs", "ingest.rs"];
/// Fakes in test directories implement services too, and send what no client of ours would; so
/// does fuzzing.
const TEST_DIRECTORY: &str = "tests/";
const FUZZ_DIRECTORY: &str = "fuzz/";

/// Kernels and cuBLAS take addresses, and nothing else here does.
const LEAVES_RUST: [&str; 1] = ["crates/device/src/launch.rs"];

/// A file, as text, as tokens and as a tree.
pub(crate) struct Source {
    path: String,
    text: String,
    tokens: Vec<Token>,
    syntax: syn::File,
}

/// A line and what is wrong there.
pub(crate) type Fault = (usize, String);

pub(crate) type Rule = fn(&Source) -> Vec<Fault>;

impl Source {
    /// Fails, with the place, on what is not Rust.
    pub(crate) fn parse(path: &str, text: &str) -> Result<Self, String> {
        let syntax = syn::parse_file(text)
            .map_err(|fault| format!("{path}:{}: {fault}", fault.span().start().line))?;
        Ok(Self { path: path.to_owned(), text: text.to_owned(), tokens: flatten(text), syntax })
    }

    /// The rule's faults with their places.
    pub(crate) fn faults(&self, rule: Rule) -> Vec<String> {
        let faults = rule(self).into_iter();
        faults.map(|(line, what)| format!("{}:{line}: {what}", self.path)).collect()
    }

    fn found(&self, patterns: &[&str], what: &str) -> Vec<Fault> {
        let hits = patterns.iter().flat_map(|pattern| {
            let lines = lines_with(&self.tokens, pattern).into_iter();
            lines.map(move |line| (line, format!("{pattern} {what}")))
        });
        hits.collect()
    }

    /// Every path that the file imports, with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut visitor = Imports::default();
        visitor.visit_file(&self.syntax);
        visitor.paths
    }
}

/// The file opens with `//!` and says something.
pub(crate) fn module_docs(source: &Source) -> Vec<Fault> {
    let docs = source.text.lines().map_while(|line| line.strip_prefix("//!"));
    let words = docs.flat_map(str::split_whitespace).count();
    if words >= MODULE_DOC_WORDS_MIN {
        return Vec::new();
    }
    vec![(1, "does not open with a //! that says what the file owns".to_owned())]
}

pub(crate) fn file_length(source: &Source) -> Vec<Fault> {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![(1, format!("has {lines} lines, more than {FILE_LINES_MAX}"))]
}

/// Lines of code, without comments and blank lines. Tests are exempt: a table is a long test.
pub(crate) fn function_length(source: &Source) -> Vec<Fault> {
    let mut visitor = Functions { lines: source.text.lines().collect(), faults: Vec::new() };
    visitor.visit_file(&source.syntax);
    visitor.faults
}

/// Tasks are started through `runtime::TaskGroup`, so that none is detached.
pub(crate) fn task_starts(source: &Source) -> Vec<Fault> {
    if source.path.starts_with(STARTS_TASKS) {
        return Vec::new();
    }
    let calls = [
        "tokio::spawn",
        "tokio::task::spawn",
        "task::spawn",
        "task::spawn_local",
        "Handle::current().spawn",
        "JoinSet::new",
    ];
    let mut faults = source.found(&calls, "starts a task outside crates/runtime");
    for (line, path) in source.imports() {
        let starter =
            ["::spawn", "::spawn_local", "::JoinSet"].iter().any(|end| path.ends_with(end));
        if path.starts_with("tokio::") && starter {
            faults.push((line, format!("{path} starts tasks outside crates/runtime")));
        }
    }
    faults
}

/// Generated types are known to `proto` and to the files that implement a service.
pub(crate) fn wire_types(source: &Source) -> Vec<Fault> {
    let name = source.path.rsplit('/').next().unwrap_or_default();
    let in_tests = [TEST_DIRECTORY, FUZZ_DIRECTORY].iter().any(|dir| source.path.starts_with(dir))
        || source.path.contains(&format!("/{TEST_DIRECTORY}"));
    if source.path.starts_with(OWNS_WIRE_TYPES) || SERVICE_FILES.contains(&name) || in_tests {
        return Vec::new();
    }
    let what = "is a wire type outside proto and the service files";
    let mut faults = source.found(&["proto::wire"], what);
    for (line, path) in source.imports() {
        if path == "proto::*" || path == "proto::wire" || path.starts_with("proto::wire::") {
            faults.push((line, format!("{path} {what}")));
        }
    }
    faults.sort_by_key(|(line, _)| *line);
    faults.dedup_by_key(|(line, _)| *line);
    faults
}

pub(crate) fn unsafe_code(source: &Source) -> Vec<Fault> {
    if LEAVES_RUST.contains(&source.path.as_str()) {
        return Vec::new();
    }
    source.found(&["unsafe"], "code is not needed here")
}

pub(crate) fn unfinished_code(source: &Source) -> Vec<Fault> {
    source.found(&["todo!", "unimplemented!", "dbg!"], "is left over")
}

/// `allow` and `expect` attributes carry a `reason`, inside macros and `cfg_attr` too.
pub(crate) fn silenced_lints(source: &Source) -> Vec<Fault> {
    let tokens = &source.tokens;
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut faults = Vec::new();
    for at in 0..tokens.len() {
        let inner = usize::from(text(at + 1) == "!");
        if text(at) != "#" || text(at + 1 + inner) != "[" {
            continue;
        }
        let attribute = inside(tokens, at + 1 + inner);
        for (position, token) in attribute.iter().enumerate() {
            let silences = matches!(token.text.as_str(), "allow" | "expect");
            let arguments = attribute.get(position + 1).is_some_and(|next| next.text == "(");
            if silences && arguments {
                let inside = inside(attribute, position + 1);
                if !inside.iter().any(|token| token.text == "reason") {
                    faults.push((token.line, format!("{} without a reason", token.text)));
                }
            }
        }
    }
    faults
}

struct Functions<'a> {
    lines: Vec<&'a str>,
    faults: Vec<Fault>,
}

impl Functions<'_> {
    fn measure(&mut self, attributes: &[Attribute], signature: &syn::Signature, body: &syn::Block) {
        let is_test = |attribute: &Attribute| {
            attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
        };
        if attributes.iter().any(is_test) {
            return;
        }
        let first = signature.span().start().line;
        let last = body.brace_token.span.close().end().line;
        let code = self.lines[first - 1..last].iter().map(|line| line.trim_start());
        let length = code.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        if length > FUNCTION_LINES_MAX {
            let name = &signature.ident;
            let what = format!("{name} has {length} lines, more than {FUNCTION_LINES_MAX}");
            self.faults.push((first, what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.attrs, &function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.attrs, &function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.attrs, &function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[derive(Default)]
struct Imports {
    paths: Vec<(usize, String)>,
}

impl Imports {
    fn walk(&mut self, prefix: &str, tree: &UseTree) {
        let joined = |name: &dyn std::fmt::Display| match prefix {
            "" => name.to_string(),
            prefix => format!("{prefix}::{name}"),
        };
        let line = tree.span().start().line;
        match tree {
            UseTree::Path(path) => self.walk(&joined(&path.ident), &path.tree),
            UseTree::Name(name) if name.ident == "self" => {
                self.paths.push((line, prefix.to_owned()))
            }
            UseTree::Name(name) => self.paths.push((line, joined(&name.ident))),
            UseTree::Rename(name) => self.paths.push((line, joined(&name.ident))),
            UseTree::Glob(_) => self.paths.push((line, joined(&"*"))),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.walk(prefix, tree);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.walk("", &item.tree);
    }
}

#[cfg(test)]
mod tests;
