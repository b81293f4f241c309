//! Search for keys and organizations by a part of their names.

use std::ops::RangeInclusive;

use super::{Admin, AdminError, Page};
use crate::input::{InvalidInput, text};
use crate::model::key_words::contains_key;
use crate::model::{Key, KeyId, Org, OrgId};
use crate::store::{Search, SearchText, StoreError};

/// The number of ids that one reading looks at, so that it does not hold back the store for long.
const AT_ONCE: u64 = 100_000;

/// The largest number of readings of one search.
const READINGS: usize = 100;

/// The longest text to look for, in characters.
const LONGEST: usize = 255;

impl Admin {
    /// Returns a page of the keys, of one organization or of all, whose label, prefix or organization name
    /// contains a text, or whose id it is; by ascending id. The case of the letters A to Z does not matter.
    ///
    /// Reads at most 10 million keys behind the start of the page.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] if the text is empty, longer than 255 characters or contains the text of a key,
    /// and if none of so many keys is found; [`AdminError::OrgNotFound`].
    pub fn search_keys(
        &self,
        text: &str,
        org: Option<OrgId>,
        page: Page<KeyId>,
    ) -> Result<Vec<Key>, AdminError> {
        let store = self.guard.store();
        let text = search_text(text)?;
        let search = |ids| {
            let (text, limit) = (text.clone(), page.limit);
            store.search_keys(&Search { text, ids, limit }, org)
        };
        let next = |after| {
            let next = store.keys(org, Some(KeyId(after)), 1)?.pop();
            Ok::<_, StoreError>(next.map(|key| key.id.0))
        };
        self.shown(search_all(page.after.map(|id| id.0), search, next)?)
    }

    /// Returns a page of the organizations whose name contains a text, or whose id it is; like
    /// [`Admin::search_keys`].
    ///
    /// # Errors
    /// [`AdminError::Invalid`]
    pub fn search_orgs(&self, text: &str, page: Page<OrgId>) -> Result<Vec<Org>, AdminError> {
        let store = self.guard.store();
        let text = search_text(text)?;
        let search = |ids| {
            let (text, limit) = (text.clone(), page.limit);
            store.search_orgs(&Search { text, ids, limit })
        };
        let next = |after| {
            let next = store.orgs(Some(OrgId(after)), 1)?.pop();
            Ok::<_, StoreError>(next.map(|org| org.id.0))
        };
        search_all(page.after.map(|id| id.0), search, next)
    }
}

fn search_text(given: &str) -> Result<SearchText, InvalidInput> {
    let text = text::normalized(given);
    if contains_key(&text) {
        let problem =
            "contains the text of a key; look for its first characters, as listings show them";
        return Err(InvalidInput::new("search", problem));
    }
    match text.chars().count() {
        1..=LONGEST => Ok(SearchText::new(&text)),
        _ => Err(InvalidInput::new("search", "expected 1 to 255 characters")),
    }
}

/// Searches the ids above `after` until something is found. `next` returns the first id above another one.
fn search_all<T>(
    after: Option<u64>,
    search: impl Fn(RangeInclusive<u64>) -> Result<Vec<T>, StoreError>,
    next: impl Fn(u64) -> Result<Option<u64>, StoreError>,
) -> Result<Vec<T>, AdminError> {
    let Some(mut first) = after.unwrap_or_default().checked_add(1) else {
        return Ok(Vec::new());
    };
    for _ in 0..READINGS {
        let last = first.saturating_add(AT_ONCE - 1);
        let found = search(first..=last)?;
        if !found.is_empty() {
            return Ok(found);
        }
        match next(last)? {
            Some(id) => first = id,
            None => return Ok(found),
        }
    }
    let problem = "is in none of 10 million rows; name an organization with `org`, or look further with `after`";
    Err(InvalidInput::new("search", problem).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches rows with these ids for one id.
    fn search(rows: &[u64], wanted: u64, after: Option<u64>) -> Result<Vec<u64>, AdminError> {
        search_all(
            after,
            |ids| {
                assert!(ids.end() - ids.start() < AT_ONCE);
                let found = rows
                    .iter()
                    .copied()
                    .filter(|id| ids.contains(id) && *id == wanted);
                Ok(found.collect())
            },
            |after| Ok(rows.iter().copied().find(|id| *id > after)),
        )
    }

    #[test]
    fn every_row_is_searched_in_small_readings() {
        let rows = [1, AT_ONCE, AT_ONCE + 1, 77 * AT_ONCE, u64::MAX];
        for wanted in rows {
            assert_eq!(search(&rows, wanted, None).unwrap(), [wanted]);
            assert_eq!(search(&rows, wanted, Some(wanted)).unwrap(), [0; 0]);
        }
        assert_eq!(search(&[], 1, None).unwrap(), [0; 0]);
        assert_eq!(search(&rows, 5, Some(u64::MAX)).unwrap(), [0; 0]);
    }

    #[test]
    fn a_search_ends() {
        let rows: Vec<u64> = (0..200).map(|number| number * AT_ONCE + 1).collect();
        let error = search(&rows, 0, None).unwrap_err();
        assert!(error.to_string().contains("10 million"), "{error}");
        let late = rows[150];
        assert!(search(&rows, late, None).is_err());
        assert_eq!(search(&rows, late, Some(rows[60])).unwrap(), [late]);
    }

    #[test]
    fn texts_to_look_for_are_neither_empty_nor_keys() {
        let key = "kg_live_2loam6jy9PNDwjKpPpShaRI8k1BYhn-t0PeWeGdlHm03z7H35";
        for text in ["", " \t", &"a".repeat(256), key] {
            let error = search_text(text).unwrap_err().to_string();
            assert!(
                error.starts_with("search: ") && !error.contains(key),
                "{error}"
            );
        }
        assert!(search_text(&"ü".repeat(255)).is_ok());
    }
}
