//! Rules on every text file, whatever its language.

/// Directories of somebody's machine, without the slash in front, which the search adds: this
/// file is itself searched.
const MACHINE_DIRECTORIES: [&str; 3] = ["work", "root", "home"];

/// Package registries, split so that this file does not name them.
const REGISTRIES: [(&str, &str); 6] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("proxy.golang", ".org"),
    ("rubygems", ".org"),
];

/// Cargo writes the source of every package into its lock file.
const NAMES_ITS_REGISTRY: &str = "Cargo.lock";

/// Lines that hold an absolute path of some machine, or the host name of a package registry.
pub(crate) fn machine_names(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", index + 1);
        for directory in MACHINE_DIRECTORIES {
            let wanted = format!("/{directory}/");
            if line.match_indices(&wanted).any(|(at, _)| begins_a_path(line, at)) {
                faults.push(format!("{place}: holds the machine path {wanted}"));
            }
        }
        for (name, ending) in REGISTRIES {
            let host = format!("{name}{ending}");
            if !path.ends_with(NAMES_ITS_REGISTRY) && line.contains(&host) {
                faults.push(format!("{place}: names the package registry {host}"));
            }
        }
    }
    faults
}

/// Whether the slash at `at` is the root's and not a separator inside a longer path or address.
fn begins_a_path(line: &str, at: usize) -> bool {
    let before = line[..at].chars().next_back();
    before.is_none_or(|c| !(c.is_alphanumeric() || "._-~}".contains(c)))
}

#[test]
fn machine_paths_and_registries_are_found() {
    let directory = ["", "work", ""].join("/");
    let path = format!("see {directory}main, or ..{directory}x and docs{directory}y");
    let expected = format!("README.md:1: holds the machine path {directory}");
    assert_eq!(machine_names("README.md", &path), [expected]);
    assert!(machine_names("README.md", &format!("a home{directory}path")).is_empty());

    let host = ["crates", "io"].join(".");
    let text = format!("line one\nfrom https://static.{host}/x");
    let expected = format!("deploy/Dockerfile:2: names the package registry {host}");
    assert_eq!(machine_names("deploy/Dockerfile", &text), [expected]);
    assert!(machine_names("Cargo.lock", &text).is_empty());
    assert!(machine_names("fuzz/Cargo.lock", &text).is_empty());
}
