//! The settings that all commands share, and access to the data.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::connection::{ConnectError, GuardConnection};
use super::error::CliError;
use super::render::OutputStyle;
use super::signals::PutOffSignals;
use crate::guard::{Config, Storage, exposure_warning, followed, is_server, read_secret};
use crate::model::Secret;
use crate::sys::shell::quoted;

pub(super) const DEFAULT_DB: &str = "keyguard.redb";

/// The settings that all commands share.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Cli {
    /// The data file, or the URL of a PostgreSQL database
    #[arg(
        long,
        global = true,
        env = "KEYGUARD_DB",
        hide_env_values = true,
        default_value = DEFAULT_DB
    )]
    pub(super) db: PathBuf,
    /// The URL of the Redis server for limits shared by several processes
    #[arg(
        long,
        global = true,
        env = "KEYGUARD_REDIS",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(super) redis: Option<String>,
    /// A file that holds the secret [default: the name of the data file with `.secret` appended]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
    /// The secret itself. Other users of this machine can see it in the process list, and the
    /// shell history keeps it: prefer --secret-file or the variable KEYGUARD_SECRET
    #[arg(long, global = true, value_name = "SECRET")]
    secret: Option<OsString>,
    /// A file that holds the secret of the Python package, for imported keys [default: the variable
    /// KEYGUARD_LEGACY_SECRET]
    #[arg(long, global = true, value_name = "FILE")]
    legacy_secret_file: Option<PathBuf>,
    /// Print the reply as JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// The definition of the command that runs, for errors.
    #[arg(skip)]
    pub(super) command: clap::Command,
    #[arg(skip = OutputStyle::of_stdout())]
    pub(super) style: OutputStyle,
    /// The warnings that were printed.
    #[arg(skip)]
    pub(super) warned: RefCell<BTreeSet<String>>,
    #[arg(skip)]
    pub(super) signals: OnceCell<PutOffSignals>,
}

impl Cli {
    /// Refuses a `--db` that is neither a path nor a known URL. Such a text may hold a password, so no
    /// other error may show it.
    pub(super) fn check_storage(&self) -> Result<(), CliError> {
        Storage::of(&self.db)?;
        Ok(())
    }

    /// Returns the name of the storage for the log, without the URL, which may contain a password.
    #[cfg(feature = "serve")]
    pub(super) fn storage(&self) -> String {
        match self.is_on_server() {
            true => "postgres".to_owned(),
            false => self.db.display().to_string(),
        }
    }

    pub(super) fn is_on_server(&self) -> bool {
        is_server(&self.db)
    }

    /// Returns whether the data file exists; true for every database.
    pub(super) fn has_data(&self) -> bool {
        self.is_on_server() || self.db.exists()
    }

    pub(super) fn require_data(&self) -> Result<(), CliError> {
        if !self.is_on_server() {
            followed(&self.db)?;
        }
        match self.has_data() {
            true => Ok(()),
            false => Err(ConnectError::missing(&self.db).into()),
        }
    }

    /// Opens a connection with the process that holds the data file, or with the data file or database
    /// itself.
    pub(super) fn connect(&self) -> Result<GuardConnection, CliError> {
        // Checked first, since opening a file makes it private.
        let exposure = exposure_warning(&Storage::of(&self.db)?.followed()?);
        let connection = GuardConnection::open(&self.db, &self.config()?)?;
        exposure.iter().for_each(|text| self.warn(text));
        Ok(connection)
    }

    pub(super) fn config(&self) -> Result<Config, CliError> {
        let mut config = match self.secret()? {
            Some(secret) => Config::new(secret),
            None => Config::default(),
        };
        if let Some(secret) = self.legacy_secret()? {
            config = config.legacy_secret(secret);
        }
        if let Some(url) = &self.redis {
            config = config.redis_url(url);
        }
        Ok(config)
    }

    /// Whether the secret itself is an argument.
    pub(super) fn has_secret_argument(&self) -> bool {
        self.secret.is_some()
    }

    /// Returns the file of the secret, if the arguments name one.
    pub(super) fn secret_file(&self) -> Option<&PathBuf> {
        self.secret_file.as_ref()
    }

    /// Returns the secret of the Python package, if it is given.
    pub(super) fn legacy_secret(&self) -> Result<Option<Secret>, CliError> {
        self.secret_from(self.legacy_secret_file(), "KEYGUARD_LEGACY_SECRET")
    }

    /// Returns the file of the Python package's secret, if the arguments name one.
    pub(super) fn legacy_secret_file(&self) -> Option<&Path> {
        self.legacy_secret_file.as_deref()
    }

    pub(super) fn is_legacy_secret_file(&self, file: &Path) -> bool {
        self.legacy_secret_file() == Some(file)
    }

    /// Returns the secret of the arguments, if they give one.
    pub(super) fn secret(&self) -> Result<Option<Secret>, CliError> {
        match (&self.secret, &self.secret_file) {
            (Some(secret), _) => Ok(Some(Secret::from(secret.clone().into_encoded_bytes()))),
            (None, Some(file)) => Ok(Some(read_secret(file, &self.db)?)),
            (None, None) => Ok(None),
        }
    }

    /// Returns a secret from a private file or, without one, from an environment variable.
    pub(super) fn secret_from(
        &self,
        file: Option<&Path>,
        variable: &str,
    ) -> Result<Option<Secret>, CliError> {
        if let Some(file) = file {
            return Ok(Some(read_secret(file, &self.db)?));
        }
        let secret = std::env::var_os(variable);
        Ok(secret.map(|secret| Secret::from(secret.into_encoded_bytes())))
    }

    /// Returns the start of a command line that works on the same data.
    pub(super) fn program(&self) -> String {
        match self.db.to_str() {
            Some(DEFAULT_DB) => "keyguard".to_owned(),
            _ => program_at(&self.db),
        }
    }
}

/// Returns the start of a command line that works on the data at `db`, without the password of a URL.
pub(super) fn program_at(db: &Path) -> String {
    match Storage::of(db) {
        Ok(Storage::File(file)) => {
            format!("keyguard --db {}", quoted(&file.display().to_string()))
        }
        _ => "keyguard --db URL".to_owned(),
    }
}
