//! Damage in the data file.

use std::fs;

use super::Finding;
use crate::cli::connection::verify;
use crate::cli::settings::Cli;
use crate::model::Area;
use crate::store::{Damage, Verification};

/// The longest file that is searched for damage, which reads all of it.
const LONGEST: u64 = 64 << 20;

/// The result of a search for damage.
#[derive(Default)]
pub(super) struct Search {
    pub(super) findings: Vec<Finding>,
    /// The causes of the damage.
    problems: Vec<String>,
    /// Whether the file is too long to be searched.
    pub(super) is_omitted: bool,
}

impl Search {
    /// Verifies the data file, also through the process that holds it. Why a file cannot be verified shows when it is
    /// opened.
    pub(super) fn run(cli: &Cli) -> Self {
        if cli.is_on_server() {
            return Self::default();
        }
        match fs::metadata(&cli.db) {
            Ok(file) if file.len() <= LONGEST => Self::found(cli, verify(&cli.db).ok()),
            found => Self {
                is_omitted: found.is_ok(),
                ..Self::default()
            },
        }
    }

    fn found(cli: &Cli, found: Option<Verification>) -> Self {
        let damage = found.map_or_else(Vec::new, |found| found.damage);
        Self {
            findings: damage.iter().map(|damage| finding(cli, damage)).collect(),
            problems: damage.into_iter().map(|damage| damage.problem).collect(),
            is_omitted: false,
        }
    }

    /// Whether another problem only tells of damage that was found.
    pub(super) fn explains(&self, other: &str) -> bool {
        let is_cause = |problem: &String| other.contains(problem.as_str());
        let names_command = !self.problems.is_empty() && other.contains("`keyguard verify`");
        names_command || self.problems.iter().any(is_cause)
    }
}

fn finding(cli: &Cli, damage: &Damage) -> Finding {
    let Damage {
        table,
        lost,
        problem,
        ..
    } = damage;
    Finding {
        area: Area::Data,
        problem: format!(
            "the table `{table}` of the data file is damaged ({problem}), and lacks {lost}"
        ),
        next: match table.as_str() {
            Damage::FREE_SPACE => format!(
                "{} compact    # after the process that holds the file was stopped",
                cli.program()
            ),
            _ => format!(
                "{} verify    # then restore a backup, or go on without them",
                cli.program()
            ),
        },
    }
}
