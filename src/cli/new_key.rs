//! Creating keys, and printing a new key, whose text is shown only once.

use clap::Args;
use serde::Serialize;

use super::connection::GuardConnection;
use super::error::CliError;
use super::format::key_lines;
use super::output::{require_stdout, write_line};
use super::render::Panel;
use super::settings::Cli;
use crate::admin::command::{NewKeyReply, RevokeKey};
use crate::admin::{CreateKey, FailureCode};
use crate::input::Given;
use crate::model::KeyId;
use crate::time::Timestamp;

/// The options of a new key, besides its organization and its label.
#[derive(Args)]
pub(super) struct NewKeyArgs {
    /// Requests admitted in any 60 seconds [default: 60]
    #[arg(long = "rate-limit", value_name = "N", requires = "org_name")]
    rate_limit_per_minute: Option<u32>,
    /// A further limit, such as 10/s, "500000 monthly", "5000 credits" or "8 concurrent"; may be
    /// repeated
    #[arg(long = "limit", value_name = "LIMIT", requires = "org_name")]
    limits: Vec<String>,
    /// IP addresses and networks from which the key is accepted [default: all]
    #[arg(
        long = "allow-ip",
        value_delimiter = ',',
        value_name = "A,B",
        requires = "org_name"
    )]
    allowed_ips: Vec<String>,
    /// Scopes that the key has
    #[arg(long, value_delimiter = ',', value_name = "A,B", requires = "org_name")]
    scopes: Vec<String>,
    /// The prefix of the key, such as acme_live_ [default: kg_live_]
    #[arg(long, requires = "org_name")]
    prefix: Option<String>,
    /// The time from which the key is refused, such as 2030-12-31T23:59:59Z [default: never]
    #[arg(long, value_name = "TIME", requires = "org_name")]
    expires_at: Option<Timestamp>,
    /// Print the text of the key alone, for scripts
    #[arg(short, long, conflicts_with = "json", requires = "org_name")]
    pub(super) quiet: bool,
}

impl NewKeyArgs {
    /// Returns the request for a key of an organization.
    pub(super) fn request(self, org_name: String, label: String) -> CreateKey {
        CreateKey {
            org_name,
            label,
            scopes: Given::list(self.scopes),
            rate_limit_per_minute: self.rate_limit_per_minute,
            limits: Given::list(self.limits),
            allowed_ips: Given::new(self.allowed_ips),
            expires_at: self.expires_at,
            prefix: self.prefix.map(Given::new),
        }
    }
}

/// Creates a key of an organization.
pub(super) fn create_key(
    connection: &mut GuardConnection,
    request: CreateKey,
) -> Result<NewKeyReply, CliError> {
    let name = request.org_name.clone();
    let created = connection.execute(request);
    created.map_err(|failure| match failure.code {
        FailureCode::NotFound => CliError::NoOrg { failure, name },
        _ => failure.into(),
    })
}

/// A new key and how to print it.
#[derive(Serialize)]
pub(super) struct NewKey {
    #[serde(skip)]
    pub(super) title: &'static str,
    /// Print the text of the key alone.
    #[serde(skip)]
    pub(super) quiet: bool,
    #[serde(flatten)]
    pub(super) reply: NewKeyReply,
    /// Of `init`.
    #[serde(flatten)]
    pub(super) init: Option<Initialized>,
}

/// The storage of a program.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(into = "bool")]
pub(super) enum Storage {
    NewFile,
    FoundFile,
    Database,
}

impl Storage {
    pub(super) fn is_database(&self) -> bool {
        *self == Self::Database
    }
}

/// Whether the data file was created, for programs.
impl From<Storage> for bool {
    fn from(storage: Storage) -> Self {
        storage == Storage::NewFile
    }
}

/// Where a new key is stored, and what was created for it.
#[derive(Serialize)]
pub(super) struct Initialized {
    pub(super) db: String,
    #[serde(rename = "created", skip_serializing_if = "Storage::is_database")]
    pub(super) storage: Storage,
    pub(super) org_created: bool,
    #[serde(skip)]
    pub(super) secret: Option<String>,
}

impl NewKey {
    /// Prints the key. If its text cannot be printed, `undo` is called and returns what became of the key.
    pub(super) fn print(
        self,
        cli: &Cli,
        undo: impl FnOnce(&NewKeyReply) -> String,
    ) -> Result<NewKeyReply, CliError> {
        let printed = require_stdout().and_then(|()| match self.quiet {
            true => write_line(&self.reply.raw_key),
            false => cli.print(&self, |style| self.panel().render(style)),
        });
        match printed {
            Ok(()) => Ok(self.reply),
            Err(CliError::Output(source)) => Err(CliError::KeyNotPrinted {
                source,
                outcome: undo(&self.reply),
            }),
            Err(error) => Err(error),
        }
    }

    /// Prints a key that was created. If its text cannot be printed, the key is revoked.
    pub(super) fn print_or_revoke(self, cli: &Cli) -> Result<(), CliError> {
        self.print(cli, |new| revoke(cli, new.reply.key.id))?;
        Ok(())
    }

    fn panel(&self) -> Panel {
        let panel = Panel::new(self.title).copied("key", &self.reply.raw_key);
        let mut panel = key_lines(panel, &self.reply.reply.key);
        if let Some(init) = &self.init {
            if !init.storage.is_database() {
                panel = panel.copied("file", &init.db);
            }
            if let Some(secret) = &init.secret {
                panel = panel.copied("secret", secret);
            }
        }
        panel.line(
            "note",
            "the key is shown only once; only its hash is stored",
        )
    }
}

/// Revokes a key and returns what came of it.
fn revoke(cli: &Cli, id: KeyId) -> String {
    let revoked = cli
        .connect()
        .and_then(|mut connection| Ok(connection.execute(RevokeKey { id })?));
    match revoked {
        Ok(_) => format!("key {id} was revoked"),
        Err(error) => format!("key {id} is active and could not be revoked: {error}"),
    }
}
