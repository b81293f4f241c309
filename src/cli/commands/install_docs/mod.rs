//! `install-docs`

mod man_page;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use super::completions;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::sys::AtomicFile;

const EXAMPLES: &str = "Examples:
  sudo keyguard install-docs
  keyguard install-docs --prefix ~/.local
  keyguard install-docs --prefix \"$DESTDIR/usr\"      # in the build of a package

Installed are, below the prefix:
  share/man/man1/keyguard.1, and a page for each command
  share/bash-completion/completions/keyguard
  share/zsh/site-functions/_keyguard
  share/fish/vendor_completions.d/keyguard.fish

Existing files are replaced. The same version installs the same bytes.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The directory that has, or gets, the directory `share`
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
}

pub(crate) fn run(cli: &Cli, opts: &Opts, definition: clap::Command) -> Result<Exit, CliError> {
    let mut installed = Vec::new();
    for (path, content) in files(definition).map_err(CliError::Output)? {
        let path = opts.prefix.join(path);
        write(&path, &content).map_err(|source| CliError::Docs {
            file: path.clone(),
            source,
        })?;
        installed.push(path.display().to_string());
    }
    cli.print(&json!({ "files": installed }), |_| {
        let lines = installed.iter().map(|file| format!("{file}\n"));
        lines.collect()
    })?;
    Ok(Exit::Done)
}

/// The paths below the prefix, and the contents.
fn files(definition: clap::Command) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let scripts = [
        (Shell::Bash, "share/bash-completion/completions/keyguard"),
        (Shell::Zsh, "share/zsh/site-functions/_keyguard"),
        (Shell::Fish, "share/fish/vendor_completions.d/keyguard.fish"),
    ];
    let scripts = scripts.map(|(shell, path)| {
        let script = completions::script(shell, definition.clone());
        (PathBuf::from(path), script)
    });
    let pages = man_page::all(definition)?.into_iter();
    let pages = pages.map(|(name, page)| (Path::new("share/man/man1").join(name), page));
    Ok(pages.chain(scripts).collect())
}

/// Writes a file that every user can read, whatever the umask. A link in its place is replaced, not followed.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    let mut file = AtomicFile::new(path)?;
    file.file().write_all(content)?;
    file.publish(path, 0o644)
}

/// Creates a directory with those above it, which every user can read.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent)?;
    }
    fs::create_dir(directory)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
