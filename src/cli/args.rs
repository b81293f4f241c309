//! Arguments that several commands share.

use std::str::FromStr;

use clap::Args;

use super::error::CliError;
use super::exit::Exit;
use super::format::{key_panel, limit_table, org_panel};
use super::settings::Cli;
use crate::admin::command::{Command, KeyReply, OrgReply, RequestFilter};
use crate::guard::LimitStatus;
use crate::model::{KeyId, OrgId, Reason};

/// An organization by its name.
#[derive(Args)]
pub(super) struct OrgArg {
    /// The name of the organization
    #[arg(value_name = "NAME")]
    pub(super) org_name: String,
}

impl OrgArg {
    /// Executes a command that changes the organization, and prints the result.
    pub(super) fn change<C: Command<Reply = OrgReply>>(
        self,
        cli: &Cli,
        title: &'static str,
        command: impl FnOnce(OrgId) -> C,
    ) -> Result<Exit, CliError> {
        let mut connection = cli.connect()?;
        let id = connection.org_id(self.org_name)?;
        cli.execute_in(connection, command(id), |reply, style| {
            org_panel(title, &reply.org, style)
        })
    }
}

/// A key by its id or prefix.
#[derive(Args)]
pub(super) struct KeyArg {
    /// The id of the key, or its whole prefix as `list-keys` shows it
    #[arg(value_name = "ID|PREFIX")]
    pub(super) key: String,
}

impl KeyArg {
    /// Executes a command that changes the key, and prints the result.
    pub(super) fn change<C: Command<Reply = KeyReply>>(
        self,
        cli: &Cli,
        title: &'static str,
        command: impl FnOnce(KeyId) -> C,
    ) -> Result<Exit, CliError> {
        let mut connection = cli.connect()?;
        let id = connection.key_id(self.key)?;
        cli.execute_in(connection, command(id), |reply, style| {
            key_panel(title, &reply.key, style)
        })
    }
}

/// A key or an IP address.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct KeyOrIp {
    /// The id of the key, or its whole prefix as `list-keys` shows it
    #[arg(value_name = "ID|PREFIX")]
    pub(super) key: Option<String>,
    /// An IP address instead of a key
    #[arg(long)]
    pub(super) ip: Option<String>,
}

impl KeyOrIp {
    /// Executes the command for the key or that for the IP address, and prints the limits that it returns.
    pub(super) fn print_limits<K, I>(
        self,
        cli: &Cli,
        of_key: impl FnOnce(KeyId) -> K,
        of_ip: impl FnOnce(String) -> I,
    ) -> Result<Exit, CliError>
    where
        K: Command<Reply = Vec<LimitStatus>>,
        I: Command<Reply = Vec<LimitStatus>>,
    {
        let mut connection = cli.connect()?;
        let limits = match (self.key, self.ip.unwrap_or_default()) {
            (Some(key), _) => {
                let id = connection.key_id(key)?;
                connection.execute(of_key(id))?
            }
            (None, ip) => connection.execute(of_ip(ip))?,
        };
        drop(connection);
        cli.print(&limits, |style| limit_table(&limits, style).render(style))?;
        Ok(Exit::Done)
    }
}

/// Which recorded requests a command is about.
#[derive(Args)]
pub(super) struct RequestFilterArgs {
    /// Only requests with this key: its id, or its whole prefix as `list-keys` shows it
    #[arg(long, value_name = "ID|PREFIX")]
    key: Option<String>,
    /// Only requests with keys of this organization
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Only refused requests
    #[arg(long)]
    refused: bool,
    /// Only requests that were refused for this reason, such as rate_limited
    #[arg(long)]
    reason: Option<Reason>,
    /// Only responses with this status, or of a class such as 4xx
    #[arg(long)]
    status: Option<String>,
    /// Only requests to this path; a `*` at the end stands for any text
    #[arg(long)]
    path: Option<String>,
    /// Only requests from this address or network, or from several with commas between
    #[arg(long)]
    ip: Option<String>,
}

impl From<RequestFilterArgs> for RequestFilter {
    fn from(args: RequestFilterArgs) -> Self {
        Self {
            key: args.key,
            org: args.org,
            refused: args.refused,
            reason: args.reason,
            status: args.status,
            path: args.path,
            ip: args.ip,
        }
    }
}

/// A range of times.
#[derive(Args)]
pub(super) struct TimeRangeArgs {
    /// Only requests since this time, such as 2026-11-24T08:00:00Z, or since a duration before now, such
    /// as 1h
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Only requests before this time
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
}

/// A value, or the word `none`.
#[derive(Clone)]
pub(super) struct OrNone<T>(pub(super) Option<T>);

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            // `never` is what panels and tables print.
            "none" | "never" => Ok(Self(None)),
            text => text.parse().map(|value| Self(Some(value))),
        }
    }
}

/// Returns the replacement of a list: `None` if nothing was given, an empty list for `empty_word`.
pub(super) fn replacement(list: Vec<String>, empty_word: &str) -> Option<Vec<String>> {
    match list.as_slice() {
        [] => None,
        [only] if only == empty_word => Some(Vec::new()),
        _ => Some(list),
    }
}
