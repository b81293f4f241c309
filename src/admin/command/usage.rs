//! Commands about recorded requests.

use serde::{Deserialize, Serialize};

use super::{Command, Rows};
use crate::admin::{Admin, AdminError, RequestPage, TailReply, UsageReport};
use crate::input::InvalidInput;
use crate::model::{Reason, UsageGroup, UsageQuery};
use crate::time::Timestamp;
use crate::time::duration::parse_bounded;

/// Defines a command with the fields of [`RequestFilter`] behind its own.
macro_rules! filtered_command {
    ($command:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)+ }) => {
        #[derive(Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
        pub(crate) struct $command {
            $($(#[$attribute])* pub(crate) $field: $type,)+
            /// Only requests with the key of this id or whole prefix.
            pub(crate) key: Option<String>,
            /// Only requests with keys of the organization of this name.
            #[cfg_attr(feature = "openapi", param(example = "acme"))]
            pub(crate) org: Option<String>,
            /// Only refused requests.
            #[serde(default)]
            #[cfg_attr(feature = "openapi", param(required = false))]
            pub(crate) refused: bool,
            /// Only requests that were refused for this reason.
            #[cfg_attr(feature = "openapi", param(inline))]
            pub(crate) reason: Option<Reason>,
            /// Only responses with this status, or of this class.
            #[cfg_attr(feature = "openapi", param(example = "4xx"))]
            pub(crate) status: Option<String>,
            /// Only requests to this path. A `*` at the end stands for any text.
            #[cfg_attr(feature = "openapi", param(example = "/v1/*"))]
            pub(crate) path: Option<String>,
            /// Only requests from these addresses and networks, separated by commas.
            #[cfg_attr(feature = "openapi", param(example = "192.0.2.7"))]
            pub(crate) ip: Option<String>,
        }

        impl $command {
            #[cfg(feature = "cli")]
            pub(crate) fn filtered_by(mut self, filter: RequestFilter) -> Self {
                self.key = filter.key;
                self.org = filter.org;
                self.refused = filter.refused;
                self.reason = filter.reason;
                self.status = filter.status;
                self.path = filter.path;
                self.ip = filter.ip;
                self
            }

            fn take_filter(&mut self) -> RequestFilter {
                RequestFilter {
                    key: self.key.take(),
                    org: self.org.take(),
                    refused: self.refused,
                    reason: self.reason,
                    status: self.status.take(),
                    path: self.path.take(),
                    ip: self.ip.take(),
                }
            }
        }
    };
}

/// Which requests a command is about, as texts.
#[derive(Clone)]
pub(crate) struct RequestFilter {
    pub(crate) key: Option<String>,
    pub(crate) org: Option<String>,
    pub(crate) refused: bool,
    pub(crate) reason: Option<Reason>,
    pub(crate) status: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) ip: Option<String>,
}

impl RequestFilter {
    fn apply(self, mut query: UsageQuery, admin: &Admin) -> Result<UsageQuery, AdminError> {
        if let Some(key) = self.key {
            query = query.key_id(admin.find_key(&key)?.id);
        }
        if let Some(org) = self.org {
            query = query.org_id(admin.find_org(&org)?.id);
        }
        if self.refused {
            query = query.refused();
        }
        if let Some(reason) = self.reason {
            query = query.reason(reason);
        }
        if let Some(status) = self.status {
            query = query.status(status);
        }
        if let Some(path) = self.path {
            query = query.path(path);
        }
        if let Some(ip) = self.ip {
            query = query.ip(ip);
        }
        Ok(query)
    }
}

filtered_command!(GetUsage {
    /// What requests are counted by: keys by default.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(inline, required = false))]
    by: UsageGroup,
    /// Only requests since this time (RFC 3339), or since a duration before now.
    #[cfg_attr(feature = "openapi", param(example = "1h"))]
    since: Option<String>,
    /// Only requests before this time, which may be a duration before now, too.
    #[cfg_attr(feature = "openapi", param(example = "2026-11-24T00:00:00Z"))]
    until: Option<String>,
    /// The maximum number of rows: those with the most requests, or the latest periods.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    limit: Rows,
});

impl Command for GetUsage {
    type Reply = UsageReport;
    const NAME: &'static str = "getUsage";

    fn run(mut self, admin: &Admin) -> Result<UsageReport, AdminError> {
        let query = UsageQuery::by(self.by).limit(self.limit.into());
        let query = self.take_filter().apply(query, admin)?;
        admin.usage(&within(query, self.since, self.until, admin)?)
    }
}

filtered_command!(ListRequests {
    /// Where the page begins: `next` of the previous page.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(required = false))]
    from: u64,
    /// Only requests since this time (RFC 3339), or since a duration before now.
    #[cfg_attr(feature = "openapi", param(example = "1h"))]
    since: Option<String>,
    /// Only requests before this time, which may be a duration before now, too.
    #[cfg_attr(feature = "openapi", param(example = "2026-11-24T00:00:00Z"))]
    until: Option<String>,
    /// The maximum number of requests.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    limit: Rows,
});

impl Command for ListRequests {
    type Reply = RequestPage;
    const NAME: &'static str = "listRequests";

    fn run(mut self, admin: &Admin) -> Result<RequestPage, AdminError> {
        let query = UsageQuery::by(UsageGroup::Key).limit(self.limit.into());
        let query = self.take_filter().apply(query, admin)?;
        admin.usage_page(&within(query, self.since, self.until, admin)?, self.from)
    }
}

filtered_command!(TailUsage {
    /// Only requests from this number on: `next` of the previous reply. Without it, the reply has no
    /// requests, and the following ones begin here.
    from: Option<u64>,
});

impl Command for TailUsage {
    type Reply = TailReply;
    const NAME: &'static str = "tailUsage";

    fn run(mut self, admin: &Admin) -> Result<TailReply, AdminError> {
        let query = UsageQuery::by(UsageGroup::Key);
        let query = self.take_filter().apply(query, admin)?;
        admin.tail_usage(&query, self.from)
    }
}

/// Restricts a query to a range of times.
fn within(
    mut query: UsageQuery,
    since: Option<String>,
    until: Option<String>,
    admin: &Admin,
) -> Result<UsageQuery, InvalidInput> {
    if let Some(since) = since {
        query = query.since(time("since", &since, admin)?);
    }
    if let Some(until) = until {
        query = query.until(time("until", &until, admin)?);
    }
    Ok(query)
}

/// Parses a time, or a duration before now.
fn time(field: &'static str, text: &str, admin: &Admin) -> Result<Timestamp, InvalidInput> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let duration = parse_bounded(field, text).map_err(|_| {
        let problem = "is neither a time such as `2026-11-24T08:00:00Z` nor a duration before now \
            such as `15min`, `1h` or `7d`";
        InvalidInput::of(field, text, problem)
    })?;
    Ok(admin.guard.now().minus(duration))
}
