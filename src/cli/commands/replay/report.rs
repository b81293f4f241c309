//! The refusals of a replay.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::access_log::LoggedRequest;
use crate::cli::format::{count, short_time};
use crate::cli::output::write_line;
use crate::cli::render::{OutputStyle, Panel, Table, escaped};
use crate::cli::{error::CliError, settings::Cli};
use crate::guard::Denial;
use crate::input::text::escaped_json;
use crate::policy;
use crate::time::Timestamp;

/// A request that the policy refuses.
#[derive(Serialize)]
pub(super) struct RefusedRequest {
    line: usize,
    time: Timestamp,
    ip: String,
    key: Option<String>,
    method: &'static str,
    path: String,
    status: u16,
    reason: String,
    rule: Option<String>,
}

impl RefusedRequest {
    pub(super) fn new(
        line: usize,
        request: &LoggedRequest<'_>,
        key: Option<String>,
        denial: &Denial,
    ) -> Self {
        Self {
            line,
            time: request.time,
            ip: request.ip.to_string(),
            key,
            method: request.method.as_str(),
            path: policy::path::shown(request.target),
            status: denial.status(),
            reason: denial.reason().to_string(),
            rule: denial.limit_name(),
        }
    }

    /// Prints a line, as JSON or as text.
    pub(super) fn print(&self, cli: &Cli) -> Result<(), CliError> {
        if cli.json {
            return write_line(&escaped_json(&serde_json::to_string(self)?));
        }
        let (client, cause) = (self.client(), self.cause());
        let Self {
            line,
            time,
            method,
            path,
            status,
            ..
        } = self;
        write_line(&escaped(&format!(
            "{line}: {time} {client} {method} {path}: {status} {cause}"
        )))
    }

    fn client(&self) -> String {
        match &self.key {
            Some(key) => format!("key {key}"),
            None => self.ip.clone(),
        }
    }

    fn cause(&self) -> String {
        match &self.rule {
            Some(rule) => format!("{} by {rule}", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// The totals of a replay.
#[derive(Default)]
pub(super) struct Report {
    pub(super) requests: u64,
    refused: u64,
    /// Lines that are not requests, and the number of the first one.
    pub(super) unreadable: u64,
    first_unreadable: usize,
    /// By client and cause.
    groups: BTreeMap<(String, String), Group>,
}

/// Refusals of one client for one cause.
struct Group {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// The number of groups beyond which refusals are counted in one group.
const MAX_GROUPS: usize = 10_000;

impl Report {
    pub(super) fn add_unreadable(&mut self, line: usize) {
        if self.unreadable == 0 {
            self.first_unreadable = line;
        }
        self.unreadable += 1;
    }

    pub(super) fn add(&mut self, refusal: RefusedRequest) {
        self.refused += 1;
        let mut group = (refusal.client(), refusal.cause());
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&group) {
            group = ("others".to_owned(), String::new());
        }
        let time = refusal.time;
        let group = self.groups.entry(group).or_insert(Group {
            count: 0,
            first: time,
            last: time,
        });
        group.count += 1;
        group.last = group.last.max(time);
    }

    pub(super) fn print(&self, cli: &Cli) -> Result<(), CliError> {
        let groups = self.by_count();
        let refusals = groups.iter().map(|((client, cause), group)| {
            json!({
                "who": client, "why": cause, "count": group.count,
                "first": group.first, "last": group.last,
            })
        });
        let json = json!({
            "requests": self.requests,
            "admitted": self.requests - self.refused,
            "refused": self.refused,
            "unreadable": self.unreadable,
            "refusals": refusals.collect::<Vec<_>>(),
        });
        cli.print(&json, |style| self.view(&groups, style))
    }

    /// Returns the groups, the largest first.
    fn by_count(&self) -> Vec<(&(String, String), &Group)> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, group)| Reverse(group.count));
        groups
    }

    fn view(&self, groups: &[(&(String, String), &Group)], style: OutputStyle) -> String {
        let mut panel = Panel::new("Replay")
            .line("requests", count(self.requests, style))
            .line("admitted", count(self.requests - self.refused, style))
            .line("refused", count(self.refused, style));
        if self.unreadable > 0 {
            let text = format!(
                "{} lines, the first is {}",
                self.unreadable, self.first_unreadable
            );
            panel = panel.line("no requests", text);
        }
        let mut table = Table::new(&["~who", "~why", ">count", "first", "last"]);
        for ((client, cause), group) in groups {
            table.row([
                client.clone(),
                cause.clone(),
                count(group.count, style),
                short_time(group.first, style),
                short_time(group.last, style),
            ]);
        }
        panel.render(style) + &table.render(style)
    }
}
