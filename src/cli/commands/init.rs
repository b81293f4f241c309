//! `init`

use clap::Args;
use serde_json::json;

use crate::admin::command::{CreateOrg, FindOrg, GetStats};
use crate::admin::{AdminError, CreateKey, FailureCode};
use crate::cli::connection::{GuardConnection, open_in_turn};
use crate::cli::new_key::{Initialized, NewKey, NewKeyArgs, Storage, create_key};
use crate::cli::render::Panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::{followed, secret_path};
use crate::sys::system_time;
use crate::time::Timestamp;

const EXAMPLES: &str = "Examples:
  keyguard init --org acme
  keyguard init --org acme --label \"web shop\" --rate-limit 5
  KEY=$(keyguard init --org acme --quiet)
  keyguard --db /var/lib/keyguard/keyguard.redb init";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// Create this organization if it is absent, and a key of it, also if the data file exists
    #[arg(long = "org", value_name = "NAME")]
    org_name: Option<String>,
    /// A name for the key
    #[arg(long, default_value = "first key", requires = "org_name")]
    label: String,
    #[command(flatten)]
    key: NewKeyArgs,
}

/// Creates the data file or the tables of the database and, if named, an organization with a key. Changes
/// nothing that exists.
pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let quiet = opts.key.quiet;
    let request = opts
        .org_name
        .map(|org_name| opts.key.request(org_name, opts.label));
    if let Some(request) = &request {
        let now = Timestamp::from(system_time());
        let valid = request.validate_with_org(now);
        valid.map_err(AdminError::from)?;
    }
    let storage = create_storage(cli)?;
    let secret = match storage {
        Storage::Database => None,
        _ => Some(secret_path(&followed(&cli.db)?)).filter(|secret| secret.exists()),
    };
    let secret = secret.map(|secret| secret.display().to_string());
    match request {
        Some(request) => create_org_and_key(cli, request, quiet, storage, secret),
        None => print_storage(cli, storage, secret),
    }?;
    Ok(Exit::Done)
}

/// Creates the data file or the tables of the database.
fn create_storage(cli: &Cli) -> Result<Storage, CliError> {
    if cli.is_on_server() {
        // Unlike opening the database, a query fails if the server is down.
        cli.connect()?.execute(GetStats {})?;
        return Ok(Storage::Database);
    }
    if cli.db.exists() {
        cli.connect()?;
        return Ok(Storage::FoundFile);
    }
    open_in_turn(&cli.db, &cli.config()?.socket(false))?;
    Ok(Storage::NewFile)
}

fn create_org_and_key(
    cli: &Cli,
    request: CreateKey,
    quiet: bool,
    storage: Storage,
    secret: Option<String>,
) -> Result<(), CliError> {
    let mut connection = cli.connect()?;
    cli.put_off_signals();
    let org_created = create_org(&mut connection, &request.org_name)?;
    let reply = create_key(&mut connection, request)?;
    // Standard output may block; other commands must not wait for it.
    drop(connection);
    let db = match storage {
        Storage::Database => "postgres".to_owned(),
        _ => cli.db.display().to_string(),
    };
    let new = NewKey {
        title: match (storage, org_created) {
            (Storage::NewFile, _) => "Data file, organization and API key created",
            (_, true) => "Organization and API key created",
            (_, false) => "API key created",
        },
        quiet,
        reply,
        init: Some(Initialized {
            db,
            storage,
            org_created,
            secret,
        }),
    };
    new.print_or_revoke(cli)
}

/// Creates an organization unless it exists. Returns whether it is new.
fn create_org(connection: &mut GuardConnection, org_name: &str) -> Result<bool, CliError> {
    let org_name = org_name.to_owned();
    let created = connection.execute(CreateOrg {
        org_name: org_name.clone(),
    });
    match created {
        Ok(_) => Ok(true),
        // A name that looks like another one is a conflict, too.
        Err(failure) if failure.code == FailureCode::Conflict => {
            let found = connection.execute(FindOrg { org_name });
            found.map(|_| false).map_err(|_| failure.into())
        }
        Err(failure) => Err(failure.into()),
    }
}

fn print_storage(cli: &Cli, storage: Storage, secret: Option<String>) -> Result<(), CliError> {
    if storage.is_database() {
        return cli.print(&json!({ "db": "postgres", "ready": true }), |style| {
            Panel::new("Database ready")
                .copied("next", next(cli))
                .render(style)
        });
    }
    let is_new = storage == Storage::NewFile;
    cli.print(&json!({ "db": cli.db, "created": is_new }), |style| {
        let title = match is_new {
            true => "Data file created",
            false => "Data file found",
        };
        let mut panel = Panel::new(title).copied("file", cli.db.display());
        if let Some(secret) = secret {
            panel = panel.copied("secret", secret);
        }
        panel
            .copied("next", next(cli))
            .copied("library", opening(cli))
            .copied("sidecar", format!("{} serve", cli.program()))
            .copied("proxy", "examples/sidecar: nginx, Caddy, HAProxy")
            .render(style)
    })
}

fn next(cli: &Cli) -> String {
    format!("{} init --org NAME", cli.program())
}

/// Returns the expression that opens the data file in a Rust program.
fn opening(cli: &Cli) -> String {
    format!("KeyGuard::open({:?}, Config::default())", cli.db)
}
