use super::*;
use crate::clock::Timestamp;
use crate::policy::InvalidInput;
use crate::secret::Fingerprint;
use std::io;
use std::path::{Path, PathBuf};
/// Why a data file was not opened. Its bytes are then as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path leads to something that holds no bytes of its own.
    #[error(
        "`{}` is a directory or a device, but a data file is a regular file; \
         give the path of one, or of none to create it",
        path.display()
    )]
    NotAFile {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file has no bytes, which a data file always has.
    #[error(
        "`{}` is empty, but a data file never is; \
         restore it from a backup, or remove it to create a new one",
        path.display()
    )]
    Empty {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file was made by something else.
    #[error(
        "`{}` is not a data file of keyguard but something else, and was left as it is; \
         give another path",
        path.display()
    )]
    NotADataFile {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file was written by a newer version of this crate.
    #[error(
        "`{}` has format {found}, but this version of keyguard reads formats up to {supported}; \
         use the version that wrote it, or a newer one",
        path.display()
    )]
    NewerFormat {
        /// What was to be opened.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// The file was made with another secret.
    #[error(
        "`{}` was made with another secret, under which its keys are hashed; \
         give the secret it was made with",
        path.display()
    )]
    WrongSecret {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Another process, or another part of this one, holds the file.
    #[error(
        "`{}` is already open, and a data file is held by one opener at a time; \
         stop the process that holds it, or share the one `KeyGuard` by cloning it",
        path.display()
    )]
    InUse {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file, its directory or its disk does not let this user write.
    #[error(
        "`{}` may not be read and written by this user, which a data file needs; \
         change its owner, its mode or that of its directory, or a read-only disk",
        path.display()
    )]
    ReadOnly {
        /// What was to be opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a data file, but no secret for it.
    #[error(
        "`{}` exists, but its secret was given neither in the configuration, nor in the variable \
         KEYGUARD_SECRET, nor in `{}`; give the secret it was made with",
        path.display(),
        secret_file.display()
    )]
    MissingSecret {
        /// The data file.
        path: PathBuf,
        /// Where the secret was looked for last.
        secret_file: PathBuf,
    },
    /// The secret is empty or nothing but white space.
    #[error("the secret is blank; give one that nobody can guess, or none to have one made")]
    BlankSecret,
    /// The file of the secret cannot be read or made.
    #[error("the secret in `{}` cannot be read or made; check the file and its directory", path.display())]
    SecretFile {
        /// The file of the secret.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A value in the configuration cannot be accepted.
    #[error("the configuration cannot be accepted")]
    Config(#[source] InvalidInput),
    /// The path is the URL of a backend that was not compiled in.
    #[error(
        "`{scheme}:` needs the cargo feature `{feature}` of keyguard; compile it in, or give the path of a file"
    )]
    MissingFeature {
        /// The scheme of the URL.
        scheme: String,
        /// The feature to compile in.
        feature: &'static str,
    },
    /// The file is a data file, but not as it was written.
    #[error("`{}` is damaged, and was left as it is; restore it from a backup", path.display())]
    Damaged {
        /// What was to be opened.
        path: PathBuf,
        /// What was found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system could not open or create the file.
    #[error("`{}` cannot be opened or created; check that its directory exists", path.display())]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

pub(crate) struct RedbStore;
impl RedbStore {
    pub(crate) fn open(
        _: &Path,
        _: Fingerprint,
        _: Timestamp,
        _: usize,
    ) -> Result<Self, OpenError> {
        Ok(Self)
    }
    pub(crate) fn exists(path: &Path) -> Result<bool, OpenError> {
        Ok(path.exists())
    }
}
impl Store for RedbStore {
    fn resolve(&self, hash: &HashedKey) -> Result<Option<Resolved>, StoreError> {
        unimplemented!()
    }
    fn resolve_id(&self, id: KeyId) -> Result<Option<Resolved>, StoreError> {
        unimplemented!()
    }
    fn quota(&self, id: KeyId) -> Result<QuotaUse, StoreError> {
        unimplemented!()
    }
    fn create_org(&self, name: &str, at: Timestamp) -> Result<Org, StoreError> {
        unimplemented!()
    }
    fn org(&self, id: OrgId) -> Result<Org, StoreError> {
        unimplemented!()
    }
    fn org_named(&self, name: &str) -> Result<Org, StoreError> {
        unimplemented!()
    }
    fn orgs(&self, after: Option<OrgId>, limit: usize) -> Result<Vec<Org>, StoreError> {
        unimplemented!()
    }
    fn set_org_status(&self, id: OrgId, status: OrgStatus) -> Result<Org, StoreError> {
        unimplemented!()
    }
    fn create_key(&self, key: NewKey, credential: NewCredential) -> Result<Key, StoreError> {
        unimplemented!()
    }
    fn key(&self, id: KeyId) -> Result<Key, StoreError> {
        unimplemented!()
    }
    fn keys(
        &self,
        org: Option<OrgId>,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        unimplemented!()
    }
    fn update_key(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        unimplemented!()
    }
    fn add_credential(
        &self,
        id: KeyId,
        credential: NewCredential,
        retire_at: Timestamp,
    ) -> Result<Key, StoreError> {
        unimplemented!()
    }
    fn revoke_key(&self, id: KeyId) -> Result<Key, StoreError> {
        unimplemented!()
    }
    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        unimplemented!()
    }
    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        unimplemented!()
    }
    fn usage(
        &self,
        key: Option<KeyId>,
        from: Timestamp,
        limit: usize,
    ) -> Result<Vec<Usage>, StoreError> {
        unimplemented!()
    }
    fn totals(&self, now: Timestamp) -> Result<Totals, StoreError> {
        unimplemented!()
    }
}
