pub(crate) struct RedbStore;
pub struct OpenError;
