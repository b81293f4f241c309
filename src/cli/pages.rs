//! Reading long lists page by page.

use std::iter;

use serde::de::DeserializeOwned;

use super::session::Session;
use crate::admin::ListKeys;
use crate::admin::answer::{Command, Failure, ListedKey, OrgReply, PAGE};
use crate::model::OrgId;

/// Returns all organizations.
pub(super) fn orgs(session: &mut Session) -> impl Iterator<Item = Result<OrgReply, Failure>> {
    items(pages(
        session,
        |listed: &OrgReply| listed.org.id,
        |after| Command::ListOrgs { after, limit: PAGE },
    ))
}

/// Returns the pages of all keys, or of those of an organization.
pub(super) fn keys(
    session: &mut Session,
    org_id: Option<OrgId>,
) -> impl Iterator<Item = Result<Vec<ListedKey>, Failure>> {
    pages(
        session,
        |listed: &ListedKey| listed.key.id,
        move |after| {
            Command::ListKeys(ListKeys {
                org_id,
                after,
                limit: PAGE,
            })
        },
    )
}

/// Returns the pages of a list. `command` asks for the page after a cursor, and `cursor` is that of an
/// item. The list ends with an empty page, since the size of a page in bytes is limited, too.
pub(super) fn pages<T: DeserializeOwned, C: Copy>(
    session: &mut Session,
    cursor: impl Fn(&T) -> C,
    command: impl Fn(Option<C>) -> Command,
) -> impl Iterator<Item = Result<Vec<T>, Failure>> {
    let mut after = None;
    iter::from_fn(move || {
        let page: Result<Vec<T>, Failure> = session.get(command(after));
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
