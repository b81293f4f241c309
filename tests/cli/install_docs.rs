//! `install-docs`

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::common::program::{done, keyguard, output_of, prepared, refused};
use tempfile::TempDir;

#[test]
fn pages_and_completions_are_installed_where_programs_look_for_them() {
    let dir = TempDir::new().unwrap();
    let install = ["install-docs", "--prefix", "usr"];
    let files = done(dir.path(), &install);
    for (file, content) in [
        ("share/man/man1/keyguard.1", "keyguard\\-create\\-key(1)"),
        ("share/man/man1/keyguard-create-key.1", ".SH EXAMPLES\n"),
        (
            "share/man/man1/keyguard-create-key.1",
            ".SH \"GLOBAL OPTIONS\"\n",
        ),
        ("share/man/man1/keyguard-create-key.1", "KEYGUARD_DB"),
        ("share/man/man1/keyguard-policy-explain.1", "\\-\\-path"),
        ("share/bash-completion/completions/keyguard", "install-docs"),
        ("share/zsh/site-functions/_keyguard", "#compdef keyguard"),
        (
            "share/fish/vendor_completions.d/keyguard.fish",
            "complete -c keyguard",
        ),
    ] {
        assert!(files.contains(&format!("usr/{file}\n")), "{files}");
        let installed = fs::read_to_string(dir.path().join("usr").join(file)).unwrap();
        assert!(
            installed.contains(content),
            "{file}: {content}\n{installed}"
        );
    }
    // Every command that `--help` lists has a page.
    let help = done(dir.path(), &["--help"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> = names
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let page = format!("usr/share/man/man1/keyguard-{name}.1");
        assert!(dir.path().join(&page).exists(), "{page}");
    }
    // Again, over the existing files, with the same bytes.
    let before = contents(&dir.path().join("usr"));
    assert_eq!(done(dir.path(), &install), files);
    assert_eq!(contents(&dir.path().join("usr")), before);
}

/// All files below a directory, sorted, with their contents.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.append(&mut contents(&path)),
            false => files.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn files_are_readable_for_all_and_replace_links() {
    let dir = TempDir::new().unwrap();
    let page = dir.path().join("usr/share/man/man1/keyguard.1");
    let install = keyguard(dir.path(), &["install-docs", "--prefix", "usr"]);
    output_of(&mut prepared("umask 077", &install));
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&page), 0o644);
    for directory in page.ancestors().skip(1).take(4) {
        assert_eq!(mode(directory), 0o755, "{}", directory.display());
    }
    let before = fs::read(&page).unwrap();
    let other = dir.path().join("other");
    fs::write(&other, "unchanged").unwrap();
    fs::remove_file(&page).unwrap();
    symlink(&other, &page).unwrap();
    done(dir.path(), &["install-docs", "--prefix", "usr"]);
    assert_eq!(fs::read(&other).unwrap(), b"unchanged");
    assert!(fs::symlink_metadata(&page).unwrap().is_file());
    assert_eq!(fs::read(&page).unwrap(), before);
}

#[test]
fn unwritable_prefix_is_an_error_that_names_another() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = refused(dir.path(), &["install-docs", "--prefix", "file"]);
    assert!(
        error.starts_with("error: `file/share/man/man1/keyguard.1` was not written: "),
        "{error}"
    );
    assert!(
        error.contains("next:  keyguard install-docs --prefix ~/.local"),
        "{error}"
    );
    // A mistyped database does not matter.
    let mut command = keyguard(dir.path(), &["install-docs", "--prefix", "usr", "--json"]);
    let output = command.env("KEYGUARD_DB", "mysql://h/d").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(reply["files"].as_array().unwrap().len() > 30, "{reply}");
}
