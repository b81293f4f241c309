//! Questions about recorded requests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{KeyId, OrgId, Reason, Usage};
use crate::input::{FirstError, InvalidInput, try_from_text};
use crate::net::CidrSet;
use crate::time::Timestamp;

/// A question about recorded requests, for [`Admin::usage`](crate::Admin::usage): which requests to
/// count, and by what.
///
/// ```
/// use keyguard::{Reason, UsageGroup, UsageQuery};
/// # let (now, hour) = (keyguard::Timestamp::MAX, std::time::Duration::from_secs(3_600));
///
/// // The keys with the most requests in the last hour.
/// let query = UsageQuery::by(UsageGroup::Key).since(now.minus(hour)).limit(10);
/// // The paths at which the clients of a network were refused.
/// let query = UsageQuery::by(UsageGroup::Path).ip("10.0.0.0/8").refused();
/// // The minutes in which requests exceeded a rate limit.
/// let query = UsageQuery::by(UsageGroup::Minute).reason(Reason::RateLimited);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct UsageQuery {
    pub(crate) by: UsageGroup,
    pub(crate) filter: UsageFilter,
    /// The range of times, `until` exclusive. [`Timestamp::MAX`] stands for no end.
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) limit: usize,
    error: FirstError,
}

impl UsageQuery {
    /// Counts all recorded requests by `group`.
    pub fn by(group: UsageGroup) -> Self {
        Self {
            by: group,
            filter: UsageFilter::default(),
            since: Timestamp::default(),
            until: Timestamp::MAX,
            limit: 1_000,
            error: FirstError::default(),
        }
    }

    /// Counts only requests with this key.
    pub fn key_id(mut self, id: KeyId) -> Self {
        self.filter.key = Some(id);
        self
    }

    /// Counts only requests with keys of this organization.
    pub fn org_id(mut self, id: OrgId) -> Self {
        self.filter.org = Some(id);
        self
    }

    /// Counts only refused requests.
    pub fn refused(mut self) -> Self {
        self.filter.refused = true;
        self
    }

    /// Counts only requests that were refused for this reason.
    pub fn reason(mut self, reason: Reason) -> Self {
        self.filter.reason = Some(reason);
        self
    }

    /// Counts only responses with this status: a number such as `404`, or a class such as `"4xx"`.
    pub fn status(mut self, status: impl TryInto<StatusRange, Error: Into<InvalidInput>>) -> Self {
        if let Some(statuses) = self.error.valid("status", status) {
            self.filter.statuses = Some(statuses);
        }
        self
    }

    /// Counts only requests to this path, as it is stored: without the query, cut at 256 bytes, and with words
    /// that may be keys shortened. A `*` at the end stands for any text.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.filter.path = Some(PathFilter(path.into()));
        self
    }

    /// Counts only requests from these addresses and networks.
    pub fn ip(mut self, ips: impl TryInto<CidrSet, Error: Into<InvalidInput>>) -> Self {
        if let Some(ips) = self.error.valid("ip", ips) {
            self.filter.ips = Some(ips);
        }
        self
    }

    /// Counts only requests at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = time;
        self
    }

    /// Counts only requests before this time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.until = time;
        self
    }

    /// The maximum number of rows: those with the most requests, or the latest periods. Default: 1,000.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }

    /// Reports the first invalid value.
    pub(crate) fn check(&self) -> Result<(), InvalidInput> {
        self.error.check()?;
        match self.since < self.until {
            true => Ok(()),
            false => Err(InvalidInput::new(
                "until",
                "is not after `since`; give a later time, or an earlier `since`",
            )),
        }
    }
}

/// What a [`UsageQuery`] counts requests by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum UsageGroup {
    /// By minute.
    Minute,
    /// By hour.
    Hour,
    /// By day, in UTC.
    Day,
    /// By key.
    #[default]
    Key,
    /// By path.
    Path,
    /// By the status of the response.
    Status,
    /// By the address of the client.
    Ip,
    /// By the reason of the refusal.
    Reason,
}

impl UsageGroup {
    const ALL: [Self; 8] = [
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Key,
        Self::Path,
        Self::Status,
        Self::Ip,
        Self::Reason,
    ];

    /// The name of the group.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Key => "key",
            Self::Path => "path",
            Self::Status => "status",
            Self::Ip => "ip",
            Self::Reason => "reason",
        }
    }

    /// The length of a period in milliseconds; `None` if the group is no period.
    pub(crate) fn period_millis(self) -> Option<u64> {
        match self {
            Self::Minute => Some(60_000),
            Self::Hour => Some(3_600_000),
            Self::Day => Some(86_400_000),
            Self::Key | Self::Path | Self::Status | Self::Ip | Self::Reason => None,
        }
    }
}

impl fmt::Display for UsageGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UsageGroup {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|group| group.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|group| group.as_str()).collect();
            InvalidInput::of(
                "by",
                text,
                format!("is no group; expected one of {}", names.join(", ")),
            )
        })
    }
}

/// Which requests a query counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsageFilter {
    pub(crate) key: Option<KeyId>,
    pub(crate) org: Option<OrgId>,
    pub(crate) refused: bool,
    pub(crate) reason: Option<Reason>,
    pub(crate) statuses: Option<StatusRange>,
    pub(crate) path: Option<PathFilter>,
    pub(crate) ips: Option<CidrSet>,
}

impl UsageFilter {
    /// Whether only refused requests are counted.
    pub(crate) fn is_of_refusals(&self) -> bool {
        self.refused || self.reason.is_some()
    }

    /// Whether the filter depends on nothing but the reason of a refusal.
    pub(crate) fn is_of_reason_only(&self) -> bool {
        self.key.is_none() && self.org.is_none() && !self.is_of_rows_only()
    }

    /// Whether the filter depends on what only individual requests tell.
    pub(crate) fn is_of_rows_only(&self) -> bool {
        self.statuses.is_some() || self.path.is_some() || self.ips.is_some()
    }

    /// Whether a request is counted. The caller checks the organization.
    pub(crate) fn accepts(&self, usage: &Usage) -> bool {
        self.accepts_outcome(usage.status, usage.refused)
            && (self.key.is_none() || self.key == usage.key_id)
            && self
                .path
                .as_ref()
                .is_none_or(|path| path.accepts(&usage.path))
            && self.ips.as_ref().is_none_or(|ips| ips.contains(usage.ip))
    }

    pub(crate) fn accepts_outcome(&self, status: u16, refused: Option<Reason>) -> bool {
        self.accepts_reason(refused) && self.statuses.is_none_or(|range| range.contains(status))
    }

    pub(crate) fn accepts_reason(&self, refused: Option<Reason>) -> bool {
        match self.reason {
            Some(reason) => refused == Some(reason),
            None => !self.refused || refused.is_some(),
        }
    }
}

/// A status, or a class of statuses.
///
/// ```
/// use keyguard::StatusRange;
/// assert!("4xx".parse::<StatusRange>()?.contains(404));
/// assert!(!StatusRange::from(401).contains(404));
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl StatusRange {
    /// Whether the range contains a status.
    #[must_use]
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl From<u16> for StatusRange {
    fn from(status: u16) -> Self {
        Self {
            first: status,
            last: status,
        }
    }
}

/// Parses `404` or `4xx`.
impl FromStr for StatusRange {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let class = text.strip_suffix("xx").and_then(|class| class.parse().ok());
        match (class, text.parse::<u16>()) {
            (Some(class @ 1..=9), _) => Ok(Self {
                first: class * 100,
                last: class * 100 + 99,
            }),
            (_, Ok(status)) => Ok(status.into()),
            _ => Err(InvalidInput::of(
                "status",
                text,
                "is no status; expected a number such as `404`, or a class such as `4xx`",
            )),
        }
    }
}

try_from_text!(StatusRange);

/// A path, or the start of one followed by `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathFilter(String);

impl PathFilter {
    /// Returns the start of the accepted paths; `None` if only one path is accepted.
    pub(crate) fn prefix(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }

    /// Returns the text as given.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn accepts(&self, path: &str) -> bool {
        match self.prefix() {
            Some(prefix) => path.starts_with(prefix),
            None => path == self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_classes() {
        let range = |text: &str| text.parse::<StatusRange>();
        assert_eq!(range("404"), Ok(404.into()));
        assert_eq!(range("0"), Ok(0.into()));
        let class = range("4xx").unwrap();
        assert_eq!((class.first, class.last), (400, 499));
        for text in ["", "xx", "0xx", "10xx", "4XX", "99999", "-1", "ok"] {
            assert!(range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn star_at_the_end_of_a_path_stands_for_any_text() {
        let accepts = |filter: &str, path| PathFilter(filter.to_owned()).accepts(path);
        assert!(accepts("/v1/*", "/v1/items"));
        assert!(accepts("/v1/*", "/v1/"));
        assert!(!accepts("/v1/*", "/v1"));
        assert!(accepts("/v1", "/v1"));
        assert!(!accepts("/v1", "/v1/"));
        assert!(accepts("*", ""));
    }

    #[test]
    fn names_of_groups_read_back() {
        for group in UsageGroup::ALL {
            assert_eq!(group.as_str().parse(), Ok(group));
            assert_eq!(serde_json::to_value(group).unwrap(), group.as_str());
        }
        let error = "week".parse::<UsageGroup>().unwrap_err().to_string();
        assert!(error.contains("minute, hour, day"), "{error}");
    }

    #[test]
    fn empty_range_is_refused() {
        let query = UsageQuery::by(UsageGroup::Key).until(Timestamp::default());
        assert_eq!(query.check().unwrap_err().field(), "until");
        let query = UsageQuery::by(UsageGroup::Key).status("fine");
        assert_eq!(query.check().unwrap_err().field(), "status");
    }
}
