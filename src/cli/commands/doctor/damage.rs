//! Damage in the data file.

use std::fs;

use super::Finding;
use crate::cli::connection::verify;
use crate::cli::settings::Cli;
use crate::model::Area;
use crate::store::{Damage, is_set_aside};

/// The longest file that is searched for damage, which reads all of it.
const LONGEST: u64 = 64 << 20;

/// The result of a search for damage.
#[derive(Default)]
pub(super) struct DamageSearch {
    pub(super) findings: Vec<Finding>,
    /// The causes of the damage.
    problems: Vec<String>,
    /// Why the file was not searched.
    pub(super) omitted: Option<String>,
}

impl DamageSearch {
    /// Verifies the data file, also through the process that holds it. That there is none shows when it is opened.
    pub(super) fn run(cli: &Cli) -> Self {
        if cli.is_on_server() {
            return Self::default();
        }
        match fs::metadata(&cli.db) {
            Ok(file) if file.len() > LONGEST => Self::omitted("the data file is long".into()),
            Ok(_) => match verify(&cli.db) {
                Ok(found) => Self::found(cli, found.damage),
                Err(error) => Self::omitted(error.message(cli)),
            },
            Err(_) => Self::default(),
        }
    }

    fn found(cli: &Cli, damage: Vec<Damage>) -> Self {
        Self {
            findings: damage.iter().map(|damage| finding(cli, damage)).collect(),
            problems: damage.into_iter().map(|damage| damage.problem).collect(),
            omitted: None,
        }
    }

    fn omitted(reason: String) -> Self {
        Self {
            omitted: Some(reason),
            ..Self::default()
        }
    }

    /// Whether another finding only tells of damage that was found.
    pub(super) fn explains(&self, other: &Finding) -> bool {
        let is_cause = |problem: &String| other.problem.contains(problem.as_str());
        let tells_of_damage = other.area == Area::Damage && !self.problems.is_empty();
        tells_of_damage || self.problems.iter().any(is_cause)
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
        area: Area::Damage,
        problem: format!(
            "the table `{table}` of the data file is damaged ({problem}), and lacks {lost}"
        ),
        next: next(cli, table),
    }
}

fn next(cli: &Cli, table: &str) -> String {
    let program = cli.program();
    match table {
        Damage::FREE_SPACE => {
            format!("{program} compact    # after the process that holds the file was stopped")
        }
        _ if is_set_aside(table) => {
            format!("{program} compact    # gives them up; stop the server first")
        }
        _ => format!("{program} verify    # then restore a backup, or go on without them"),
    }
}
