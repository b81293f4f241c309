//! Reading long lists page by page.

use std::iter;

use super::connection::GuardConnection;
use super::error::CliError;
use super::settings::Cli;
use crate::admin::Failure;
use crate::admin::command::{Command, KeyReply, ListKeys, ListOrgs, OrgReply};

impl Cli {
    /// Reads a list over a connection that ends before anything is printed: standard output may block, and
    /// other commands must not wait for it.
    pub(super) fn list<T>(
        &self,
        read: impl FnOnce(&mut GuardConnection) -> Result<Vec<T>, Failure>,
    ) -> Result<Vec<T>, CliError> {
        Ok(read(&mut self.connect()?)?)
    }
}

/// Returns all organizations, or those that a search finds.
pub(super) fn orgs(
    connection: &mut GuardConnection,
    search: Option<String>,
) -> impl Iterator<Item = Result<OrgReply, Failure>> {
    items(pages(
        connection,
        |listed: &OrgReply| listed.org.id,
        move |after| ListOrgs {
            search: search.clone(),
            after,
            ..ListOrgs::default()
        },
    ))
}

/// Returns the pages of all keys, or of those of an organization, or of those that a search finds.
pub(super) fn keys(
    connection: &mut GuardConnection,
    org: Option<String>,
    search: Option<String>,
) -> impl Iterator<Item = Result<Vec<KeyReply>, Failure>> {
    pages(
        connection,
        |listed: &KeyReply| listed.key.id,
        move |after| ListKeys {
            org: org.clone(),
            search: search.clone(),
            after,
            ..ListKeys::default()
        },
    )
}

/// Returns the pages of a list. `command` asks for the page after a cursor, and `cursor` is that of an
/// item. The list ends with an empty page, since the size of a page in bytes is limited, too.
pub(super) fn pages<T, I: Copy, C: Command<Reply = Vec<T>>>(
    connection: &mut GuardConnection,
    cursor: impl Fn(&T) -> I,
    command: impl Fn(Option<I>) -> C,
) -> impl Iterator<Item = Result<Vec<T>, Failure>> {
    let mut after = None;
    iter::from_fn(move || {
        let page = connection.execute(command(after));
        if let Ok(items) = &page {
            after = Some(cursor(items.last()?));
        }
        Some(page)
    })
}

/// Returns the items of pages.
pub(super) fn items<T>(
    pages: impl Iterator<Item = Result<Vec<T>, Failure>>,
) -> impl Iterator<Item = Result<T, Failure>> {
    pages.flat_map(|page| match page {
        Ok(items) => items.into_iter().map(Ok).collect(),
        Err(failure) => vec![Err(failure)],
    })
}
