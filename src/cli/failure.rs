//! What went wrong, and what to type next.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::flags;
use super::import::ImportError;
use super::render::{Table, escaped};
use super::session::{SessionError, is_served};
use super::{Cli, Exit, called_at, complain};
use crate::admin::AdminError;
use crate::admin::answer::{Failure, FailureCode};
#[cfg(unix)]
use crate::admin::remote::Unreachable;
use crate::input::text::escaped_json;
use crate::policy::InvalidPolicy;
#[cfg(all(unix, feature = "serve"))]
use crate::serve::{ListenAddr, ServeError};
use crate::store::{OpenError, StoreError, with_causes};
use crate::sys::process;

pub(super) use crate::sys::shell::quoted;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{}", .0.message)]
    Asked(Failure),
    #[error("{failure}", failure = .0.message)]
    Hinted(Failure, String),
    #[error("the output cannot be written: {0}")]
    Output(std::io::Error),
    /// The text of a key that nobody has seen.
    #[error("the key cannot be written to standard output: {source}; {outcome}")]
    Unseen {
        source: std::io::Error,
        outcome: String,
    },
    /// A rotation that failed after its text was shown.
    #[error("{outcome}")]
    Rotation {
        outcome: &'static str,
        source: Box<CliError>,
    },
    #[error(
        "the processes that share a database are not reached through it; send SIGHUP to each \
         `keyguard serve` to have it read its policy file again"
    )]
    ReloadOfMany,
    #[error("the key cannot be read from standard input: {0}")]
    Input(std::io::Error),
    #[error("{argument}: `{}` cannot be opened: {source}", file.display())]
    Log {
        argument: &'static str,
        file: PathBuf,
        source: std::io::Error,
    },
    #[cfg(all(feature = "serve", feature = "redis"))]
    #[error("the URL of Redis cannot be understood: {0}")]
    Stream(std::io::Error),
    #[error(
        "the log `{}` has no request in the common or the combined format ({lines} other lines)",
        file.display()
    )]
    NoRequests { file: PathBuf, lines: u64 },
    #[error("no temporary directory can be made: {0}")]
    Stage(std::io::Error),
    #[error(
        "`{}` is held by {holder}; stop that first, so that nothing is recorded while things move",
        file.display()
    )]
    Held { file: PathBuf, holder: String },
    #[error("`{}` is where the data are already; give another place to move them to", .0.display())]
    SameFile(PathBuf),
    #[error(
        "`{}` holds another secret, under which the keys would be unknown; remove it, or give another \
         place to move them to",
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
    #[error("the policy cannot be accepted: {0}")]
    Policy(#[from] InvalidPolicy),
    #[cfg(feature = "serve")]
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    #[error("the reply is of another form than expected: {0}")]
    MaybeReady(#[from] serde_json::Error),
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::Asked(failure)
    }
}

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> Self {
        Self::Asked(error.into())
    }
}

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> Self {
        Self::Session(error.into())
    }
}

impl CliError {
    /// A failure of a store from or to which things move.
    pub(super) fn moving(error: StoreError) -> Self {
        let next = match error {
            StoreError::Occupied(_) => "list-orgs",
            _ => "stats",
        };
        Self::Hinted(AdminError::from(error).into(), next.to_owned())
    }

    /// Says so on standard error.
    pub(super) fn report(&self, cli: &Cli) -> Exit {
        let next = self.next(cli);
        let message = match self {
            Self::Session(SessionError::Open(OpenError::Config(invalid))) => invalid.to_string(),
            _ => with_causes(self),
        };
        let message = flags::named(message, &cli.command);
        let failure = self.failure();
        let code = failure.map(|failure| failure.code);
        let candidates = failure.map_or([].as_slice(), |failure| failure.candidates.as_slice());
        if cli.json {
            let error = json!({ "error": {
                "code": code, "message": message, "candidates": candidates, "next": next,
            }});
            complain(&format!("{}\n", escaped_json(&error.to_string())));
            return Exit::Refused;
        }
        // What is wrong with a policy is shown in its lines.
        let lines: Vec<String> = match message.starts_with("the policy ") {
            true => message.lines().map(escaped).collect(),
            false => vec![escaped(&message)],
        };
        let mut table = Table::new(&[">id", "prefix", "~label"]);
        for key in candidates {
            table.row([key.id.to_string(), key.prefix.clone(), key.label.clone()]);
        }
        let table = match candidates {
            [] => String::new(),
            _ => table.render(cli.look),
        };
        complain(&format!(
            "error: {}\n{table}next:  {next}\n",
            lines.join("\n")
        ));
        Exit::Refused
    }

    /// The refusal or failure of a command, where that is what went wrong.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Asked(failure) | Self::Hinted(failure, _) => Some(failure),
            Self::Rotation { source, .. } => source.failure(),
            _ => None,
        }
    }

    /// The next command to type.
    fn next(&self, cli: &Cli) -> String {
        let keyguard = cli.called();
        match self {
            Self::Session(SessionError::NoFile(_)) => format!("{keyguard} init"),
            Self::Session(SessionError::MovedAway(file)) => format!(
                "fuser {}    # then put the file back, or stop that process",
                quoted(&format!("{}.sock", file.display()))
            ),
            Self::Session(SessionError::Open(error)) => match error {
                OpenError::MissingSecret { .. }
                | OpenError::WrongSecret { .. }
                | OpenError::BlankSecret { .. }
                | OpenError::SecretFile { .. } => format!("{keyguard} --secret-file FILE …"),
                OpenError::ExposedSecret { command, .. } => command.clone(),
                OpenError::DanglingLink { target, .. } => {
                    format!("{} init", called_at(target))
                }
                OpenError::Socket { path, .. } => {
                    let file = std::fs::canonicalize(path);
                    let file = file.unwrap_or_else(|_| path.clone());
                    move_away(std::path::Path::new(&format!("{}.sock", file.display())))
                }
                OpenError::InUse { holder, .. } => match holder {
                    Some(holder) => {
                        let pid = holder.split(' ').next().unwrap_or_default();
                        match pid.parse().is_ok_and(process::is_stopped) {
                            true => format!("kill -CONT {pid}"),
                            false if is_served(&cli.connection.db) => {
                                format!("ps -p {pid}    # and stop it first")
                            }
                            false => format!(
                                "ps -p {pid}    # then stop it, or have it open the file with a socket"
                            ),
                        }
                    }
                    None => format!("fuser {}", quoted(&cli.connection.db.display().to_string())),
                },
                OpenError::ReadOnly { .. } => {
                    format!("ls -l {}", quoted(&cli.connection.db.display().to_string()))
                }
                OpenError::SqliteDatabase { path } => format!(
                    "keyguard --db NEW.redb import --from {}",
                    quoted(&format!("sqlite:{}", path.display()))
                ),
                OpenError::UnknownUrl { .. } => "keyguard --db PATH init".to_owned(),
                OpenError::MissingFeature { feature, .. } => with_feature(feature),
                OpenError::Config(invalid) => flags::mend(invalid.field()),
                OpenError::Server { .. } => format!("{keyguard} --help"),
                OpenError::Policy(_) => format!("{keyguard} serve --help"),
                OpenError::Damaged { path, .. } | OpenError::Empty { path } => {
                    format!(
                        "ls -l {}    # and put a backup in its place",
                        quoted(&path.display().to_string())
                    )
                }
                _ => "keyguard --db PATH init".to_owned(),
            },
            #[cfg(unix)]
            Self::Session(SessionError::Unreachable { source, .. }) => match source {
                Unreachable::Closed { socket, .. } => format!(
                    "ls -l {}    # and ask as the user who holds the file",
                    quoted(&socket.display().to_string())
                ),
                Unreachable::Stopped { pid } => format!("kill -CONT {pid}"),
            },
            Self::Held { holder, .. } => match holder.split(' ').next() {
                Some(pid) if pid.parse::<u32>().is_ok() => format!("kill {pid}"),
                _ => format!("fuser {}", quoted(&cli.connection.db.display().to_string())),
            },
            Self::SameFile(_) | Self::OtherSecret(_) | Self::SecretCopy { .. } => {
                format!("{keyguard} export --to OTHER.redb")
            }
            Self::Import(ImportError::MissingFeature(_, feature)) => with_feature(feature),
            Self::Import(_) => "keyguard import --help".to_owned(),
            Self::Hinted(_, next) => format!("{keyguard} {next}"),
            Self::Asked(failure) => match failure.code {
                FailureCode::Unavailable if cli.is_on_server() => format!("{keyguard} stats"),
                FailureCode::Unavailable => {
                    let dir = cli
                        .connection
                        .db
                        .parent()
                        .filter(|dir| !dir.as_os_str().is_empty());
                    let dir = dir.unwrap_or(Path::new("."));
                    let (file, dir) = (cli.connection.db.display(), dir.display());
                    let (file, dir) = (quoted(&file.to_string()), quoted(&dir.to_string()));
                    format!("ls -l {file}; df -h {dir}")
                }
                FailureCode::Damaged => {
                    format!("{keyguard} export --to OTHER.redb    # or put a backup in its place")
                }
                FailureCode::Refused => "keyguard --version".to_owned(),
                _ => format!("{keyguard} --help"),
            },
            Self::Log { file, .. } => match file.parent().filter(|dir| !dir.exists()) {
                Some(dir) if !dir.as_os_str().is_empty() => {
                    format!("mkdir -p {}", quoted(&dir.display().to_string()))
                }
                _ => format!("ls -ld {}", quoted(&file.display().to_string())),
            },
            Self::NoRequests { .. } | Self::Stage(_) | Self::Policy(_) => {
                "keyguard replay --help".to_owned()
            }
            #[cfg(all(unix, feature = "serve"))]
            Self::Serve(ServeError::Listen {
                place: ListenAddr::Unix(path),
                source,
            }) if source.kind() == std::io::ErrorKind::AlreadyExists => move_away(path),
            #[cfg(feature = "serve")]
            Self::Serve(_) => format!("{keyguard} serve --help"),
            #[cfg(all(feature = "serve", feature = "redis"))]
            Self::Stream(_) => format!("{keyguard} serve --help"),
            Self::Unseen { .. } => format!("{keyguard} list-keys"),
            Self::ReloadOfMany => "kill -HUP PID    # of each `keyguard serve`".to_owned(),
            Self::Rotation { source, .. } => source.next(cli),
            Self::Output(_) | Self::Input(_) | Self::MaybeReady(_) => "keyguard --help".to_owned(),
        }
    }
}

fn move_away(path: &std::path::Path) -> String {
    let path = path.display().to_string();
    format!("ls -l {}    # and move it away", quoted(&path))
}

fn with_feature(feature: &str) -> String {
    format!("cargo install keyguard --features cli,{feature}")
}

/// Adds to a refusal what to type next; failures of the file keep their own.
pub(super) fn hint<T>(
    outcome: Result<T, CliError>,
    next: impl FnOnce(&Failure) -> String,
) -> Result<T, CliError> {
    outcome.map_err(|error| match error {
        CliError::Asked(failure)
            if !matches!(
                failure.code,
                FailureCode::Unavailable | FailureCode::Damaged | FailureCode::Refused
            ) =>
        {
            let next = next(&failure);
            CliError::Hinted(failure, next)
        }
        error => error,
    })
}
