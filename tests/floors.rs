//! The house: every room of `src/` stands on a floor, and dependencies point down.
//!
//! A room is a file `room.rs` or a folder `room/`. It may use rooms of lower floors, and rooms of
//! its own floor as long as no cycle arises. `lib.rs` and `fuzz/` see everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

const FLOORS: [&str; 8] = [
    "input sys",
    "time net",
    "limit",
    "model",
    "lockout counter policy sink",
    "store limiter",
    "guard admin",
    "main cli http serve",
];

/// Which room uses which others.
type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn dependencies_point_down() -> io::Result<()> {
    let mut edges = Edges::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read_folder(&src, "", &mut edges)?;
    assert!(edges.values().any(|used| !used.is_empty()), "nothing read");
    let faults = faults(&edges);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn an_upward_dependency_is_found() {
    let clock = ("clock.rs", "use crate::{key::K, store::{codec::*, S}};");
    let store = ("store/codec/mod.rs", "fn f() { super::super::guard::g() }");
    let key = ("key.rs", "mod tests { use super::super::http; }");
    assert_eq!(faults_of(&[clock]), ["clock uses store, above it"]);
    assert_eq!(faults_of(&[store]), ["store uses guard, above it"]);
    assert_eq!(faults_of(&[key]), ["key uses http, above it"]);
}

#[test]
fn a_cycle_is_found() {
    let clock = ("clock.rs", "use super::key;");
    let key = ("key.rs", "use crate::policy::P;");
    let policy = ("policy.rs", "fn f(key: &crate::key::K) {}");
    let expected = ["cycle: key uses policy", "cycle: policy uses key"];
    assert_eq!(faults_of(&[clock, key, policy]), expected);
    assert_eq!(faults_of(&[clock, key]), [""; 0]);
}

#[test]
fn a_room_outside_the_table_is_found() {
    assert_eq!(faults_of(&[("attic.rs", "")]), ["attic is on no floor"]);
    // A re-export of `lib.rs` would hide which room is meant.
    let layer = ("http/layer.rs", "use crate::KeyGuard;");
    assert_eq!(faults_of(&[layer]), ["http uses KeyGuard, on no floor"]);
}

#[test]
fn comments_and_own_modules_are_no_dependencies() {
    let source = "/// See [`Guard`](crate::guard::Guard).
        use super::codec::Codec; // not crate::guard
        mod tests { use super::*; use super::super::redb; }";
    assert_eq!(faults_of(&[("store/redb/mod.rs", source)]), [""; 0]);
    assert_eq!(faults_of(&[("lib.rs", "use crate::cli::C;")]), [""; 0]);
}

fn faults_of(files: &[(&str, &str)]) -> Vec<String> {
    let mut edges = Edges::new();
    for (file, source) in files {
        read_file(file, source, &mut edges);
    }
    faults(&edges)
}

fn read_folder(folder: &Path, prefix: &str, edges: &mut Edges) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            read_folder(&path, &format!("{name}/"), edges)?;
        } else if name.ends_with(".rs") {
            read_file(&name, &fs::read_to_string(&path)?, edges);
        }
    }
    Ok(())
}

fn read_file(file: &str, source: &str, edges: &mut Edges) {
    let mut modules: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    modules.retain(|module| *module != "mod");
    let room = modules[0];
    if room != "lib" && room != "fuzz" {
        let used = edges.entry(room.to_owned()).or_default();
        used.extend(rooms_used(&tokens(source), modules.len()));
        used.remove(room);
    }
}

/// Names, `::` and single signs, without comments. Text in quotes is not told apart from code.
fn tokens(source: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for line in source.lines().filter(|line| !line.starts_with("//")) {
        let mut rest = line.split(" //").next().unwrap_or(line).trim_start();
        while let Some(first) = rest.chars().next() {
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let path = if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(name.unwrap_or(rest.len()).max(path));
            tokens.push(token);
            rest = after.trim_start();
        }
    }
    tokens
}

/// The rooms named by `crate::` paths, and by `super::` paths that climb to the crate's root from
/// a file whose module lies `depth` below it.
fn rooms_used(tokens: &[&str], depth: usize) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    // Open braces: `true` for an inline module, which lies deeper than its file.
    let mut braces = Vec::new();
    let mut climbed = 0;
    for (i, token) in tokens.iter().enumerate() {
        let in_path = tokens.get(i + 1) == Some(&"::");
        match *token {
            "{" => braces.push(i >= 2 && tokens[i - 2] == "mod"),
            "}" => drop(braces.pop()),
            "crate" if in_path => rooms.extend(heads(&tokens[i + 2..])),
            "super" if in_path => {
                climbed += 1;
                let inline = braces.iter().filter(|module| **module).count();
                if climbed == depth + inline {
                    rooms.extend(heads(&tokens[i + 2..]));
                }
            }
            "::" => {}
            _ => climbed = 0,
        }
    }
    rooms
}

/// The first names of what follows `::`: more than one if it is a group.
fn heads(tokens: &[&str]) -> Vec<String> {
    let (mut heads, mut level, mut previous) = (Vec::new(), 0, "{");
    for token in tokens {
        match *token {
            "{" => level += 1,
            "}" => level -= 1,
            "," => {}
            name if level < 2 && matches!(previous, "{" | ",") => heads.push(name.to_owned()),
            _ => {}
        }
        if level == 0 {
            break;
        }
        previous = token;
    }
    heads
}

/// What breaks the rules, a line each.
fn faults(edges: &Edges) -> Vec<String> {
    let mut faults = Vec::new();
    for (room, used) in edges {
        let Some(own) = floor(room) else {
            faults.push(format!("{room} is on no floor"));
            continue;
        };
        faults.extend(used.iter().filter_map(|other| match floor(other) {
            None => Some(format!("{room} uses {other}, on no floor")),
            Some(up) if up > own => Some(format!("{room} uses {other}, above it")),
            Some(_) if reaches(edges, other, room, &mut BTreeSet::new()) => {
                Some(format!("cycle: {room} uses {other}"))
            }
            Some(_) => None,
        }));
    }
    faults
}

fn floor(room: &str) -> Option<usize> {
    FLOORS
        .iter()
        .position(|rooms| rooms.split(' ').any(|name| name == room))
}

fn reaches<'a>(edges: &'a Edges, from: &'a str, to: &str, seen: &mut BTreeSet<&'a str>) -> bool {
    let used = edges.get(from).into_iter().flatten();
    from == to || (seen.insert(from) && used.into_iter().any(|r| reaches(edges, r, to, seen)))
}
