//! Values of keys and organizations that are stored as texts.

use std::str::FromStr;

use super::StoreError;
use crate::limit::Limit;
use crate::model::Scope;
use crate::net::CidrSet;

pub(crate) fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(crate) fn read_limits(
    texts: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<Vec<Limit>, StoreError> {
    read(texts).ok_or_else(|| StoreError::damaged("a limit cannot be read"))
}

pub(crate) fn read_scopes(
    texts: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<Vec<Scope>, StoreError> {
    read(texts).ok_or_else(|| StoreError::damaged("a key has an invalid scope"))
}

pub(crate) fn read_allowed_ips(
    texts: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<CidrSet, StoreError> {
    CidrSet::parse("allowed_ips", texts)
        .map_err(|_| StoreError::damaged("a key has an invalid allowed address"))
}

fn read<T: FromStr>(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Option<Vec<T>> {
    let values = texts.into_iter().map(|text| text.as_ref().parse().ok());
    values.collect()
}
