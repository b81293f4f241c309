//! Console sessions of the documentation, run again.
//!
//! The `console` blocks of a page are one session in one directory. A line `$ COMMAND` is run by a shell in
//! a terminal, and the lines up to the next command are its output. A `sh` block with a `text` block after it is
//! a script and its output. Keys and addresses differ from run to run: those of the page stand for those of the
//! run.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::server::{Server, unconfigured};
use tempfile::TempDir;

/// A page, as lines of text and steps of its session.
pub(crate) struct Page {
    path: PathBuf,
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    Step {
        command: String,
        /// Whether the page shows the command after a prompt, and not in a block of its own.
        has_prompt: bool,
        output: String,
    },
}

impl Part {
    fn step(command: impl Into<String>, has_prompt: bool) -> Self {
        Self::Step {
            command: command.into(),
            has_prompt,
            output: String::new(),
        }
    }
}

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = fs::read_to_string(&path).unwrap();
        let mut parts = Vec::new();
        // The block that a line is in, and the script in the block before it.
        let (mut block, mut script) = ("", String::new());
        for line in text.lines() {
            let is_fence = line.starts_with("```");
            match (line.strip_prefix("$ "), parts.last_mut()) {
                (Some(command), _) if block == "```console" => {
                    parts.push(Part::step(command, true))
                }
                (None, Some(Part::Step { output, .. })) if !is_fence => {
                    *output += &format!("{line}\n");
                }
                _ => parts.push(Part::Text(format!("{line}\n"))),
            }
            match line {
                "```sh" => script.clear(),
                "```text" if !script.is_empty() => {
                    parts.push(Part::step(std::mem::take(&mut script), false));
                }
                _ if block == "```sh" && !is_fence => script += &format!("{line}\n"),
                _ if !line.is_empty() && !is_fence => script.clear(),
                _ => {}
            }
            if is_fence {
                block = line;
            }
        }
        Self { path, parts }
    }

    pub(crate) fn has_session(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Step { .. }))
    }

    /// Runs all steps and compares their output with the page, or, if `KEYGUARD_BLESS` is set, writes it into
    /// the page.
    #[track_caller]
    pub(crate) fn run(mut self, session: &mut Session) {
        let is_blessed = std::env::var_os("KEYGUARD_BLESS").is_some();
        for part in &mut self.parts {
            let Part::Step {
                command, output, ..
            } = part
            else {
                continue;
            };
            let printed = session.run(command, output);
            if masked(&printed) == masked(output) {
                continue;
            }
            assert!(
                is_blessed,
                "{}: $ {command}\nprinted:\n{printed}\nshown:\n{output}",
                self.path.display()
            );
            *output = printed;
        }
        if is_blessed {
            let parts = self.parts.into_iter().map(|part| match part {
                Part::Text(line) => line,
                Part::Step {
                    command,
                    has_prompt: true,
                    output,
                } => format!("$ {command}\n{output}"),
                Part::Step { output, .. } => output,
            });
            fs::write(self.path, parts.collect::<String>()).unwrap();
        }
    }
}

/// A directory with the servers, variables and keys of a session.
pub(crate) struct Session {
    dir: TempDir,
    servers: Vec<Server>,
    variables: Vec<(String, String)>,
    /// Keys, prefixes of keys and addresses, as in this run and as in the page.
    names: Vec<(String, String)>,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            servers: Vec::new(),
            variables: Vec::new(),
            names: Vec::new(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps a server that the page shows at this address.
    pub(crate) fn keep(&mut self, server: Server, shown_address: &str) {
        self.names
            .push((server.address.clone(), shown_address.to_owned()));
        self.servers.push(server);
    }

    /// Runs a command of the page. Returns its output as the page would show it.
    fn run(&mut self, command: &str, shown: &str) -> String {
        let file = command
            .strip_prefix("cat ")
            .map(|file| self.dir().join(file));
        if let Some(file) = file.filter(|file| !file.exists()) {
            fs::write(file, shown).unwrap();
        }
        let actual = self.actual(command);
        let printed = if let Some(assignment) = actual.strip_prefix("export ") {
            let (name, _) = assignment.split_once('=').unwrap();
            let value = self.shell(&format!("export {assignment}; printenv {name}"));
            let value = (name.to_owned(), value.trim_end().to_owned());
            self.variables.push(value);
            String::new()
        } else if let Some(server) = actual.strip_suffix(" &") {
            let server = self.command(
                "bash",
                &["-c", &format!("exec {server} --listen 127.0.0.1:0")],
            );
            let server = Server::spawn(server);
            let line = format!("listening on {}\n", server.address);
            self.keep(server, "127.0.0.1:8700");
            line
        } else {
            self.terminal(&actual)
        };
        self.learn(&printed, shown);
        self.shown(&printed)
    }

    /// Runs a command in a terminal of 80 columns.
    fn terminal(&self, command: &str) -> String {
        let command = format!("stty cols 80\n{command}");
        self.output(self.command("script", &["-qec", &command, "/dev/null"]))
    }

    fn shell(&self, command: &str) -> String {
        self.output(self.command("bash", &["-c", command]))
    }

    fn output(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| {
            // A progress bar erases its line.
            let line = line.rsplit("\u{1b}[2K").next().unwrap_or(line);
            let line = line.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
            format!("{}\n", line.trim_end())
        });
        lines.collect()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_keyguard")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut command = unconfigured(Command::new(program), self.dir());
        command.args(arguments).stdin(Stdio::null());
        command.envs([("PATH", path.as_str()), ("SHELL", "/bin/bash")]);
        command.envs([("NO_COLOR", "1"), ("TZ", "UTC")]);
        command.envs(self.variables.iter().cloned());
        command
    }

    /// Pairs new keys of an output with those in the page.
    fn learn(&mut self, printed: &str, shown: &str) {
        let keys = |text: &str| -> Vec<String> {
            tokens(text)
                .filter(|t| is_key(t))
                .map(str::to_owned)
                .collect()
        };
        for (actual, shown) in keys(printed).into_iter().zip(keys(shown)) {
            if !self.names.iter().any(|(known, _)| *known == actual) {
                self.names.push((actual, shown));
            }
        }
        // A key contains its prefix.
        self.names.sort_by_key(|(actual, _)| Reverse(actual.len()));
    }

    fn actual(&self, text: &str) -> String {
        let names = self.names.iter();
        names.fold(text.to_owned(), |text, (actual, shown)| {
            text.replace(shown, actual)
        })
    }

    fn shown(&self, text: &str) -> String {
        let names = self.names.iter();
        names.fold(text.to_owned(), |text, (actual, shown)| {
            text.replace(actual, shown)
        })
    }
}

fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)))
}

/// Whether a word is a key, or the prefix that listings show.
fn is_key(word: &str) -> bool {
    word.starts_with("kg_live_") && [12, 57].contains(&word.len())
}

/// Replaces what differs from run to run: times, seconds to wait, and the user.
fn masked(output: &str) -> String {
    let lines = output
        .lines()
        .map(|line| match line.strip_prefix("date: ") {
            Some(_) => "date: …".to_owned(),
            None => mask_times(line),
        });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    for name in [";t=", "retry-after: ", "\"retry_after\":", "user "] {
        let parts = text.split(name).map(str::to_owned).collect::<Vec<_>>();
        let rest = parts[1..]
            .iter()
            .map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
        text = std::iter::once(parts[0].as_str())
            .chain(rest)
            .collect::<Vec<_>>()
            .join(name);
    }
    text
}

/// Replaces the digits of words such as `2026-11-26T14:48:20Z`, `11-26` and `14:48` by zeros, and removes
/// fractions of seconds, which have up to three digits.
fn mask_times(line: &str) -> String {
    let is_part = |c: char| c.is_ascii_digit() || "-:.TZ".contains(c);
    let mut out = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match is_part(first) {
            true => rest.find(|c| !is_part(c)),
            false => rest.find(is_part),
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        let is_time = word.starts_with(|c: char| c.is_ascii_digit())
            && word.contains(['-', ':'])
            && word.matches('.').count() < 2;
        if is_time {
            let (word, fraction) = word.split_once('.').unwrap_or((word, ""));
            let word = word.replace(|c: char| c.is_ascii_digit(), "0");
            out += &(word + fraction.trim_start_matches(|c: char| c.is_ascii_digit()));
        } else {
            out += word;
        }
        rest = after;
    }
    out
}

#[test]
fn times_are_masked_whatever_their_digits() {
    for time in ["14:48:20Z", "14:48:20.7Z", "14:48:20.78Z", "09:07:03.391Z"] {
        let line = format!("\"created_at\":\"2026-11-26T{time}\",\"id\":2");
        assert_eq!(
            mask_times(&line),
            "\"created_at\":\"0000-00-00T00:00:00Z\",\"id\":2"
        );
    }
    assert_eq!(mask_times("127.0.0.1, 1.5 MiB"), "127.0.0.1, 1.5 MiB");
}
