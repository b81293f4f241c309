//! The command to type after an error.

use std::path::Path;

use super::commands::import::error::ImportError;
use super::connection::{ConnectError, is_served};
use super::error::CliError;
use super::settings::{Cli, DEFAULT_DB, program_at};
#[cfg(unix)]
use crate::admin::remote::Unreachable;
use crate::admin::{Failure, FailureCode};
#[cfg(feature = "serve")]
use crate::serve::{ListenAddr, ServeError};
use crate::store::OpenError;
use crate::sys::process;
use crate::sys::shell::quoted;

/// Returns the command to type after an error.
pub(super) fn next_command(error: &CliError, cli: &Cli) -> String {
    let program = cli.program();
    if let Some(file) = error.missing_policy() {
        return match directory(file).exists() {
            true => format!(
                "keyguard policy example > {}    # then adapt it",
                path(file)
            ),
            false => format!("ls -ld {}", path(directory(file))),
        };
    }
    match error {
        CliError::Connect(error) => after_connect_error(error, cli),
        CliError::Admin(failure) => after_failure(failure, cli),
        CliError::NoOrg { name, .. } => format!("{program} create-org {}", quoted(name)),
        CliError::Rotation { source, .. } => next_command(source, cli),
        CliError::KeyNotPrinted { .. } => format!("{program} list-keys"),
        CliError::NothingToFollow { .. } => format!("{program} usage --by minute --since 1h"),
        CliError::ReloadOnServer => "kill -HUP PID    # of each `keyguard serve`".to_owned(),
        CliError::Held { holder, .. } => match pid_of(holder) {
            Some(pid) => stop(pid, cli),
            None => format!("fuser {}", path(&cli.db)),
        },
        CliError::SameFile(_) | CliError::OtherSecret(_) | CliError::SecretCopy { .. } => {
            format!("{program} export --to OTHER.redb")
        }
        CliError::Import(ImportError::MissingFeature(_, feature)) => install_with(feature),
        CliError::Import(_) => "keyguard import --help".to_owned(),
        CliError::UnknownFormat(file) => {
            format!("{program} export-usage --to {} --format csv", path(file))
        }
        CliError::NoParquet => install_with("parquet"),
        CliError::UsageFile { file, .. } | CliError::Log { file, .. } => {
            match file.parent().filter(|dir| !dir.exists()) {
                Some(dir) if !dir.as_os_str().is_empty() => format!("mkdir -p {}", path(dir)),
                _ => format!("ls -ld {}", path(file)),
            }
        }
        CliError::Docs { .. } => {
            "keyguard install-docs --prefix ~/.local    # or as another user".to_owned()
        }
        CliError::Policy(_) => match cli.command.get_name() {
            "policy" => "keyguard policy example    # shows the fields of a policy".to_owned(),
            command => corrected(&format!("keyguard {command}")),
        },
        CliError::NoRequests { .. } => "keyguard replay --help".to_owned(),
        CliError::TempDir(_) => format!("ls -ld {}", path(&std::env::temp_dir())),
        #[cfg(all(unix, feature = "serve"))]
        CliError::Serve(ServeError::Listen {
            addr: ListenAddr::Unix(socket),
            source,
        }) if source.kind() == std::io::ErrorKind::AlreadyExists => move_away(socket),
        #[cfg(feature = "serve")]
        CliError::Serve(ServeError::Listen {
            addr: ListenAddr::Tcp(_),
            source,
        }) if source.kind() == std::io::ErrorKind::AddrInUse => {
            let command = cli.command.get_name();
            format!("{program} {command} … --listen 127.0.0.1:PORT    # a free port")
        }
        #[cfg(feature = "serve")]
        CliError::Serve(ServeError::WebhookSecret(OpenError::ExposedSecret {
            command, ..
        })) => command.clone(),
        #[cfg(feature = "serve")]
        CliError::Serve(_) => format!("{program} serve --help"),
        #[cfg(all(feature = "serve", feature = "redis"))]
        CliError::Stream(_) => format!("{program} serve --help"),
        CliError::Output(_) | CliError::Input(_) | CliError::Reply(_) => {
            "keyguard --help".to_owned()
        }
    }
}

/// Returns the command to type after an admin command was refused or failed.
fn after_failure(failure: &Failure, cli: &Cli) -> String {
    let command = cli.command.get_name();
    let next = match (failure.code, command) {
        (FailureCode::Conflict, "export" | "import") => "list-orgs",
        (_, "export" | "import") => "stats",
        (FailureCode::Unavailable, _) if cli.is_on_server() => "stats",
        (FailureCode::Unavailable, "backup") => {
            let dir = path(directory(&cli.db));
            return format!("df -h {dir} DIR    # the directory of the copy");
        }
        (FailureCode::Unavailable, _) => return look_at_disk(&cli.db),
        (FailureCode::Conflict, "backup") => "backup OTHER.redb",
        (FailureCode::Damaged, "verify") => "export --to OTHER.redb    # or restore a backup",
        (FailureCode::Damaged, _) => "verify    # shows what is lost",
        (FailureCode::Refused, _) => return "keyguard --version".to_owned(),
        (FailureCode::Invalid, "block") => r#"block 192.0.2.7 --for "1 hour""#,
        (FailureCode::Invalid, "create-org") => "create-org NAME",
        (FailureCode::Invalid, "reload") => "reload    # after the policy is corrected",
        (FailureCode::Invalid, _) => &format!("{command} --help"),
        (FailureCode::Ambiguous, _) => &format!("{command} ID"),
        (_, "reload") => "serve --policy FILE",
        (FailureCode::NotFound, "webhooks") => "webhooks",
        (_, "webhooks") => "serve --webhook URL",
        (_, "block" | "unblock") => "list-blocks",
        (_, "init" | "create-org" | "update-org" | "suspend-org" | "resume-org" | "list-keys") => {
            "list-orgs"
        }
        (_, "create-key") => "create-key --help",
        (FailureCode::NotFound | FailureCode::Conflict, _) => "list-keys",
    };
    format!("{} {next}", cli.program())
}

fn after_connect_error(error: &ConnectError, cli: &Cli) -> String {
    match error {
        ConnectError::NoFile(_) if cli.command.get_name() == "serve" => {
            let program = cli.program();
            format!(
                "{program} init --org NAME && {program} serve    # or try `keyguard demo` first"
            )
        }
        ConnectError::NoFile(backup) if cli.command.get_name() == "restore" => {
            format!("ls -l {}", path(directory(backup)))
        }
        ConnectError::NoFile(_) if cli.db == Path::new(DEFAULT_DB) => {
            "keyguard init --org NAME    # or change to the directory of the data file".to_owned()
        }
        ConnectError::NoFile(_) => format!("{} init --org NAME", cli.program()),
        ConnectError::MovedAway(file) => format!(
            "fuser {}    # then put the file back, or stop that process",
            quoted(&format!("{}.sock", file.display()))
        ),
        ConnectError::Open(error) => after_open_error(error, cli),
        #[cfg(unix)]
        ConnectError::Unreachable { source, .. } => match source {
            Unreachable::Closed { socket, .. } => format!(
                "ls -l {}    # then run this as the user who holds the file",
                path(socket)
            ),
            Unreachable::Stopped { pid } => format!("kill -CONT {pid}"),
        },
    }
}

fn after_open_error(error: &OpenError, cli: &Cli) -> String {
    let program = cli.program();
    match error {
        OpenError::SecretFile { path: file, .. } if cli.is_legacy_secret_file(file) => {
            format!("{program} --legacy-secret-file FILE …")
        }
        OpenError::MissingSecret { .. }
        | OpenError::WrongSecret { .. }
        | OpenError::BlankSecret { .. }
        | OpenError::SecretFile { .. } => format!("{program} --secret-file FILE …"),
        OpenError::ExposedSecret { command, .. } => command.clone(),
        OpenError::DanglingLink { target, .. } => format!("{} init", program_at(target)),
        OpenError::Socket { path, .. } => {
            let file = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            move_away(Path::new(&format!("{}.sock", file.display())))
        }
        OpenError::InUse { holder, .. } => match holder.as_deref().and_then(pid_of) {
            Some(pid) => stop(pid, cli),
            None => format!("fuser {}", path(&cli.db)),
        },
        OpenError::ReadOnly { path: file, .. } => format!("ls -l {}", path(file)),
        OpenError::Io { path: file, .. } => {
            format!("ls -ld {} {}", path(directory(file)), path(file))
        }
        OpenError::NotWritten { path, .. } => look_at_disk(path),
        OpenError::SqliteDatabase { path } => format!(
            "keyguard --db NEW.redb import --from {}",
            quoted(&format!("sqlite:{}", path.display()))
        ),
        OpenError::MissingFeature { feature, .. } => install_with(feature),
        OpenError::IsDatabase { .. } => "pg_dump --help".to_owned(),
        OpenError::Config(invalid) => match invalid.field() {
            "admin_key" => "unset KEYGUARD_ADMIN_KEY    # to use the one derived from the secret",
            "legacy_secret" => "unset KEYGUARD_LEGACY_SECRET",
            "redis_url" => "export KEYGUARD_REDIS=redis://127.0.0.1:6379",
            _ => "keyguard serve --help",
        }
        .to_owned(),
        OpenError::Server { .. } => format!("{program} --help"),
        OpenError::Policy(_) => corrected(&format!("{program} serve")),
        OpenError::Damaged { path: file, .. } | OpenError::Empty { path: file } => {
            format!("ls -l {}    # then restore a backup", path(file))
        }
        _ => "keyguard --db PATH init".to_owned(),
    }
}

/// Returns the same command again.
fn corrected(command: &str) -> String {
    format!("{command} …    # after the policy is corrected")
}

/// Returns the command that ends the use of the data file by a process.
fn stop(pid: u32, cli: &Cli) -> String {
    if process::is_stopped(pid) {
        return format!("kill -CONT {pid}");
    }
    match is_served(&cli.db) {
        true => format!("ps -p {pid}    # then stop it"),
        false => format!("ps -p {pid}    # then stop it, or let it open the file with a socket"),
    }
}

/// Returns the id of a process in a text such as `4711 (keyguard)`.
fn pid_of(holder: &str) -> Option<u32> {
    holder.split(' ').next()?.parse().ok()
}

fn look_at_disk(file: &Path) -> String {
    format!("ls -l {}; df -h {}", path(file), path(directory(file)))
}

/// Returns the directory of a file.
fn directory(file: &Path) -> &Path {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new("."))
}

fn move_away(file: &Path) -> String {
    format!("ls -l {}    # then move it away", path(file))
}

/// Returns the command that installs the program with another feature. An installation replaces the earlier one, so
/// it has the features of this build, too.
pub(super) fn install_with(feature: &str) -> String {
    let built = [
        // `serve` includes it.
        ("cli", cfg!(not(feature = "serve")) && feature != "serve"),
        ("serve", cfg!(feature = "serve")),
        ("otlp", cfg!(feature = "otlp")),
        ("import", cfg!(feature = "import")),
        ("parquet", cfg!(feature = "parquet")),
        ("postgres", cfg!(feature = "postgres")),
        ("redis", cfg!(feature = "redis")),
    ];
    let built = built.into_iter().filter(|(_, is_built)| *is_built);
    let features: Vec<&str> = built.map(|(name, _)| name).chain([feature]).collect();
    let features = features.join(",");
    format!("cargo install --path . --features {features}    # in the sources of keyguard")
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the command for `import` replaced a program with `serve` by one without.
    #[test]
    fn installing_a_feature_keeps_those_of_this_build() {
        let command = install_with("another");
        let (_, features) = command.split_once("--features ").unwrap();
        let features: Vec<&str> = features.split(' ').next().unwrap().split(',').collect();
        for (name, is_built) in [
            ("serve", cfg!(feature = "serve")),
            ("import", cfg!(feature = "import")),
            ("postgres", cfg!(feature = "postgres")),
        ] {
            assert_eq!(features.contains(&name), is_built, "{command}");
        }
        let has_program = features.contains(&"cli") || features.contains(&"serve");
        assert!(has_program && features.ends_with(&["another"]), "{command}");
    }
}
