//! Errors of the command line.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::commands::import::error::ImportError;
use super::connection::ConnectError;
use super::exit::Exit;
use super::flags;
use super::next::next_command;
use super::output::{eprint_line, escaped_lines};
use super::render::{Table, escaped};
use super::settings::Cli;
use crate::admin::{AdminError, Failure};
use crate::input::text::escaped_json;
use crate::policy::InvalidPolicy;
use crate::store::{OpenError, StoreError, with_causes};
use crate::sys::write_outcome;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The data file or database refused the command or failed.
    #[error("{}", .0.message)]
    Admin(Failure),
    /// The organization of a new key does not exist.
    #[error("{}", failure.message)]
    NoOrg { failure: Failure, name: String },
    #[error("the output cannot be written: {0}")]
    Output(std::io::Error),
    /// A new key could not be printed.
    #[error("the key cannot be written to standard output: {source}; {outcome}")]
    KeyNotPrinted {
        source: std::io::Error,
        outcome: String,
    },
    /// A rotation failed after its key was printed.
    #[error("{outcome}")]
    Rotation {
        outcome: &'static str,
        source: Box<CliError>,
    },
    #[error(
        "`reload` cannot reach the processes that share a database: send SIGHUP to each \
         `keyguard serve` instead"
    )]
    ReloadOnServer,
    /// The file of `export-usage`.
    #[error("`{}` {}: {source}", file.display(), write_outcome(source))]
    UsageFile {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "this build cannot write Parquet: it lacks the cargo feature `parquet`; give `--format csv` or \
         `--format ndjson`, or install keyguard with this feature"
    )]
    NoParquet,
    /// A file of `export-usage` whose extension is not that of a format.
    #[error(
        "the extension of `{}` names no format: give `--format csv`, `--format ndjson` or `--format parquet`, \
         or one of these as the extension",
        .0.display()
    )]
    UnknownFormat(PathBuf),
    /// A file of `install-docs`.
    #[error("`{}` {}: {source}", file.display(), write_outcome(source))]
    Docs {
        file: PathBuf,
        source: std::io::Error,
    },
    /// `tail` without a process that handles requests.
    #[error(
        "no process holds the data file, so there are no requests to follow{}",
        match is_on_server {
            true => ": with a database, get `/admin/usage/tail` of each `keyguard serve`",
            false => "; start one, such as `keyguard serve`, or look at earlier requests",
        }
    )]
    NothingToFollow { is_on_server: bool },
    #[error("the key cannot be read from standard input: {0}")]
    Input(std::io::Error),
    #[error("{argument}: `{}` cannot be opened: {source}", file.display())]
    Log {
        argument: &'static str,
        file: PathBuf,
        source: std::io::Error,
    },
    #[cfg(all(feature = "serve", feature = "redis"))]
    #[error("the URL of Redis is invalid: {0}")]
    Stream(std::io::Error),
    #[error(
        "the log `{}` contains no line in the common or the combined format ({lines} other lines)",
        file.display()
    )]
    NoRequests { file: PathBuf, lines: u64 },
    #[error("a temporary directory cannot be created: {0}")]
    TempDir(std::io::Error),
    #[error(
        "`{}` is held by {holder}: stop that process first, so that it records nothing during the \
         transfer",
        file.display()
    )]
    Held { file: PathBuf, holder: String },
    #[error("`{}` is the source of the export: give another destination", .0.display())]
    SameFile(PathBuf),
    #[error(
        "`{}` holds another secret, under which the exported keys would be unknown: remove that file \
         or give another destination",
        .0.display()
    )]
    OtherSecret(PathBuf),
    #[error("the secret cannot be copied to `{}`: {source}", file.display())]
    SecretCopy {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("invalid policy: {0}")]
    Policy(#[from] InvalidPolicy),
    #[cfg(feature = "serve")]
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    #[error("the reply cannot be read: {0}")]
    Reply(#[from] serde_json::Error),
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::Admin(failure)
    }
}

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> Self {
        Self::Admin(error.into())
    }
}

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> Self {
        Self::Connect(error.into())
    }
}

/// The source or the target of a transfer failed.
impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::Admin(error.into())
    }
}

impl CliError {
    /// Returns the failure of an admin command, if the error is one.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Admin(failure) | Self::NoOrg { failure, .. } => Some(failure),
            Self::Rotation { source, .. } => source.failure(),
            _ => None,
        }
    }

    /// Returns the code of the error; `None` for those that only their message tells apart.
    fn code(&self) -> Option<Value> {
        match self {
            Self::Connect(ConnectError::Open(OpenError::WrongSecret { .. })) => {
                Some(json!("wrong_secret"))
            }
            _ => self.failure().map(|failure| json!(failure.code)),
        }
    }

    pub(super) fn message(&self, cli: &Cli) -> String {
        let message = match self {
            // Its causes repeat what it says.
            Self::Connect(ConnectError::Open(OpenError::Config(invalid))) => invalid.to_string(),
            _ => match self.missing_policy() {
                Some(file) => format!("there is no policy file at `{}`", file.display()),
                None => with_causes(self),
            },
        };
        flags::with_argument(message, &cli.command)
    }

    /// Returns the file of a policy that does not exist.
    pub(super) fn missing_policy(&self) -> Option<&Path> {
        match self {
            Self::Policy(invalid)
            | Self::Connect(ConnectError::Open(OpenError::Policy(invalid))) => {
                invalid.missing_file()
            }
            _ => None,
        }
    }

    /// Returns whether the message quotes lines of a policy.
    fn has_lines(&self, cli: &Cli) -> bool {
        match self {
            Self::Policy(_) | Self::Connect(ConnectError::Open(OpenError::Policy(_))) => true,
            Self::Admin(_) => cli.command.get_name() == "reload",
            _ => false,
        }
    }
}

impl Cli {
    /// Reports the outcome of the command.
    pub(super) fn finish(&self, outcome: Result<Exit, CliError>) -> Exit {
        match outcome {
            Ok(exit) => exit,
            // A reader such as `head` has closed the pipe.
            Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Exit::Done
            }
            Err(error) => {
                self.report(&error);
                Exit::Refused
            }
        }
    }

    /// Prints an error and the next command to type to standard error.
    fn report(&self, error: &CliError) {
        let (message, next) = (error.message(self), next_command(error, self));
        let failure = error.failure();
        let candidates = failure.map_or([].as_slice(), |failure| failure.candidates.as_slice());
        if self.json {
            let json = json!({ "error": {
                "code": error.code(),
                "message": message,
                "candidates": candidates,
                "next": next,
            }});
            return eprint_line(&escaped_json(&json.to_string()));
        }
        let message = match error.has_lines(self) {
            true => escaped_lines(&message),
            false => escaped(&message),
        };
        let mut table = Table::new(&[">id", "prefix", "~label"]);
        for key in candidates {
            table.row([
                key.id.to_string(),
                key.shown_prefix.clone(),
                key.label.clone(),
            ]);
        }
        let table = table.render(self.style);
        eprint_line(&format!("error: {message}\n{table}next:  {next}"));
    }
}
