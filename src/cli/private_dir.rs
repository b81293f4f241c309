//! Temporary directories that no other user can read.

use tempfile::TempDir;

use super::error::CliError;

/// Creates a directory, which is removed when it is dropped.
pub(in crate::cli) fn private_dir(prefix: &str) -> Result<TempDir, CliError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir().map_err(CliError::TempDir)
}
