//! The layers of `src/`: a folder uses only the folders listed before it.

use std::path::Path;
use std::{fs, io};

/// From the ground up. `lib.rs` sees everything.
const FOLDERS: [&str; 22] = [
    "input", "sys", "time", "net", "limit", "model", "log", "lockout", "counter", "policy", "sink",
    "store", "limiter", "guard", "admin", "keyguard", "metrics", "http", "serve", "cli", "main",
    "manual",
];

#[test]
fn dependencies_point_down() -> io::Result<()> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    check_folder(&src, &src, &mut violations)?;
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

#[test]
fn violations_are_found() {
    let ok = "use crate::time::Clock;\n/// [`G`](crate::guard::G)\nfn f() { super::g() }";
    assert_eq!(violations("store/redb/mod.rs", ok), [""; 0]);
    for (file, source, violation) in [
        (
            "time/clock.rs",
            "use crate::store::S;",
            "time/clock.rs uses store",
        ),
        (
            "net/mod.rs",
            "fn f() { crate::guard::g() }",
            "net/mod.rs uses guard",
        ),
        (
            "net/mod.rs",
            "use crate::KeyGuard;",
            "net/mod.rs uses KeyGuard",
        ),
        ("net/mod.rs", "use crate::{time, cli};", "net/mod.rs uses {"),
        (
            "net/nat64.rs",
            "use super::super::store;",
            "net/nat64.rs uses super::super::",
        ),
        (
            "net/nat64.rs",
            "pub(crate) mod a {\n    use super::super::super::store;\n}",
            "net/nat64.rs uses super::super::super::",
        ),
        (
            "net/nat64.rs",
            "mod a {\n    use super::super::ip_key;\n}\nuse super::super::store;",
            "net/nat64.rs uses super::super::",
        ),
        (
            "guard/decision/key.rs",
            "use super::super::super::store;",
            "guard/decision/key.rs uses super::super::super::",
        ),
        (
            "guard/decision/mod.rs",
            "use super::super::store;",
            "guard/decision/mod.rs uses super::super::",
        ),
        ("attic.rs", "", "attic.rs is in no folder of the list"),
    ] {
        assert_eq!(violations(file, source), [violation]);
    }
}

fn check_folder(src: &Path, folder: &Path, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            check_folder(src, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(src).unwrap_or(&path).to_string_lossy();
            found.extend(violations(&file, &fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The forbidden uses in a file.
fn violations(file: &str, source: &str) -> Vec<String> {
    let folder = file
        .split('/')
        .next()
        .unwrap_or(file)
        .trim_end_matches(".rs");
    if folder == "lib" {
        return Vec::new();
    }
    let Some(own) = FOLDERS.iter().position(|name| *name == folder) else {
        return vec![format!("{file} is in no folder of the list")];
    };
    // So many `super::` lead to the root; one more from a module within the file.
    let is_folder = file.ends_with("/mod.rs");
    let depth = file.split('/').count() - usize::from(is_folder);
    let mut to_root = "super::".repeat(depth);
    let mut violations = Vec::new();
    for line in source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        match line {
            "}" => to_root = "super::".repeat(depth),
            _ if opens_module(line) => to_root = "super::".repeat(depth + 1),
            _ => {}
        }
        if line.contains(&to_root) {
            violations.push(format!("{file} uses {to_root}"));
        }
        for used in line.split("crate::").skip(1) {
            let end = used.find(|c: char| !c.is_alphanumeric() && c != '_');
            let used = &used[..end.unwrap_or(used.len()).max(1)];
            if used != folder && !FOLDERS[..own].contains(&used) {
                violations.push(format!("{file} uses {used}"));
            }
        }
    }
    violations
}

/// Whether a line opens a module within the file, such as `pub(crate) mod tests {`.
fn opens_module(line: &str) -> bool {
    let visibility = line.split_once("mod ").map(|(before, _)| before);
    line.ends_with('{') && visibility.is_some_and(|v| v.is_empty() || v.starts_with("pub"))
}
