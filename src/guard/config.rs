//! Settings.

use std::path::PathBuf;
use std::time::Duration;

use crate::input::InvalidInput;
use crate::limiter::Fallback;
use crate::model::KeyPrefix;
use crate::model::Secret;
use crate::policy::Policy;
use crate::sink::{SharedSink, UsageSink};
use crate::time::Clock;
use crate::time::TimeZone;

/// How a [`KeyGuard`](crate::KeyGuard) is set up; checked when it is opened.
///
/// ```
/// use keyguard::Config;
/// let config = Config::new("a long random secret").default_rate_limit(120);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Config {
    pub(super) secret: Option<Secret>,
    #[cfg(feature = "legacy")]
    pub(super) legacy_secret: Option<Secret>,
    /// It may hold a password.
    pub(super) redis_url: Option<Secret>,
    pub(super) backend_deadline: Duration,
    pub(super) max_key_staleness: Duration,
    pub(super) max_database_connections: usize,
    pub(super) limiter_fallback: Fallback,
    pub(super) admin_key: Option<Secret>,
    pub(super) secret_as_admin_key: bool,
    pub(crate) default_rate_limit: u32,
    pub(super) ip_block_threshold: u32,
    pub(crate) key_header: String,
    pub(crate) key_prefix: KeyPrefix,
    pub(super) record_usage: bool,
    pub(super) usage_retention: Duration,
    pub(super) usage_queue_capacity: usize,
    pub(super) usage_sink: Option<SharedSink>,
    pub(super) usage_sink_only: bool,
    pub(super) key_cache_capacity: usize,
    pub(super) max_tracked_keys: usize,
    pub(super) max_locks: usize,
    pub(super) max_tracked_ips: usize,
    pub(super) file_cache_bytes: usize,
    pub(super) time_zone: TimeZone,
    pub(super) quota_time_zone: TimeZone,
    pub(super) policy: Policy,
    pub(super) policy_file: Option<PathBuf>,
    pub(super) reload_on_hangup: bool,
    pub(super) on_warning: fn(&str),
    pub(crate) socket: bool,
    pub(super) clock: Clock,
}

/// Every setting at its default, and the secret found as [`KeyGuard::open`](crate::KeyGuard::open)
/// says.
impl Default for Config {
    fn default() -> Self {
        Self {
            secret: None,
            #[cfg(feature = "legacy")]
            legacy_secret: None,
            redis_url: None,
            backend_deadline: Duration::from_millis(50),
            max_key_staleness: Duration::from_secs(60),
            max_database_connections: 8,
            limiter_fallback: Fallback::Local,
            admin_key: None,
            secret_as_admin_key: false,
            default_rate_limit: 60,
            ip_block_threshold: 100,
            key_header: "X-API-Key".to_owned(),
            key_prefix: KeyPrefix::default(),
            record_usage: true,
            usage_retention: Duration::from_secs(30 * 86_400),
            usage_queue_capacity: 262_144,
            usage_sink: None,
            usage_sink_only: false,
            key_cache_capacity: 131_072,
            max_tracked_keys: 262_144,
            max_locks: 65_536,
            max_tracked_ips: 131_072,
            file_cache_bytes: 64 << 20,
            time_zone: TimeZone::system(),
            quota_time_zone: TimeZone::utc(),
            policy: Policy::default(),
            policy_file: None,
            reload_on_hangup: false,
            on_warning: |_| {},
            socket: true,
            clock: Clock::system(),
        }
    }
}

impl Config {
    /// The defaults with an explicit secret.
    pub fn new(secret: impl Into<Secret>) -> Self {
        Self {
            secret: Some(secret.into()),
            ..Self::default()
        }
    }

    /// The secret of the Python package of this name, under which it hashed the keys
    /// that were imported. They are then accepted unchanged, from the key header or as a bearer
    /// token, and each is stored under our own hash once it has been used. Default: none.
    ///
    /// Their texts have no checksum, so that with it a malformed text costs up to two look-ups in the
    /// store, as an unknown key does. It is needed for as long as such texts are in use, also once all
    /// are stored anew: without it they are malformed. [Rotating](crate::Admin::rotate_key) a key
    /// gives it a text that does without.
    #[cfg(feature = "legacy")]
    #[cfg_attr(docsrs, doc(cfg(feature = "legacy")))]
    pub fn legacy_secret(mut self, secret: impl Into<Secret>) -> Self {
        self.legacy_secret = Some(secret.into());
        self
    }

    /// A Redis server for limits that several processes share. Default: none, limits are kept in
    /// this process. Needs the feature `redis`.
    ///
    /// | URL | of |
    /// |---|---|
    /// | `redis://HOST:PORT/DB`, `rediss://…` with TLS | one server |
    /// | `redis+cluster://HOST:PORT,HOST:PORT`, `rediss+cluster://…` | a cluster, by some of its nodes |
    /// | `redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB`, `rediss+sentinel://…` | the master that Sentinels know by this name |
    ///
    /// A name and a password stand before the first host, as in `redis://:PASSWORD@HOST`.
    pub fn redis_url(mut self, url: impl Into<String>) -> Self {
        self.redis_url = Some(Secret::from(url.into()));
        self
    }

    /// How long a decision waits at most for PostgreSQL and Redis together, at least 1 ms. Default:
    /// 50 ms.
    pub fn backend_deadline(mut self, wait: Duration) -> Self {
        self.backend_deadline = wait;
        self
    }

    /// For how long keys that are in memory are accepted while nothing is heard from PostgreSQL, at
    /// least 1 s: a revocation elsewhere may go unheard for so long then. Afterwards requests are
    /// refused with status 503. Default: 1 minute.
    pub fn max_key_staleness(mut self, time: Duration) -> Self {
        self.max_key_staleness = time;
        self
    }

    /// Connections to PostgreSQL at a time, at least 1, besides one that listens for changes.
    /// Default: 8.
    pub fn max_database_connections(mut self, most: usize) -> Self {
        self.max_database_connections = most;
        self
    }

    /// What decides about limits while Redis does not answer in time. Default: [`Fallback::Local`].
    pub fn limiter_fallback(mut self, fallback: Fallback) -> Self {
        self.limiter_fallback = fallback;
        self
    }

    /// The key with which administrators identify themselves over HTTP, at least 16 bytes. Default:
    /// one derived from the secret, which `keyguard admin-key` prints.
    pub fn admin_key(mut self, key: impl Into<Secret>) -> Self {
        self.admin_key = Some(key.into());
        self
    }

    /// Whether administrators may also send the secret itself. Whoever sees it on its way can then
    /// check guesses against a stolen data file. Default: no.
    pub fn secret_as_admin_key(mut self, accept: bool) -> Self {
        self.secret_as_admin_key = accept;
        self
    }

    /// Requests a minute for keys that are created without a limit of their own, at least 1.
    /// Default: 60.
    pub fn default_rate_limit(mut self, per_minute: u32) -> Self {
        self.default_rate_limit = per_minute;
        self
    }

    /// Failed authentications from one address in an hour above which it is locked out for 24 hours,
    /// at least 1. Default: 100.
    ///
    /// An address is an IPv4 address or the /64 of an IPv6 one. Keys that are malformed or unknown
    /// lock it out of everything, requests without a key out of further ones without; each kind is
    /// counted by itself. Keys that were good once, and preflight requests of browsers, do not count.
    ///
    /// Addresses behind which many clients are, though no policy says so, are not locked out, and
    /// [`Stats::warnings`](crate::Stats::warnings) says what to write into it: a private peer that
    /// carries forwarding headers, while no proxy is trusted; and any address from which, within an
    /// hour of a failure, two different keys were accepted for different clients that the headers
    /// name. Headers alone save nobody, as who guesses has no keys; somebody who holds two can bring
    /// their own address into that state, which their keys and the warning name. Trusting the proxy
    /// ends it: then each client is counted and locked out by itself.
    pub fn ip_block_threshold(mut self, failures: u32) -> Self {
        self.ip_block_threshold = failures;
        self
    }

    /// The header field that carries a key. Default: `X-API-Key`.
    pub fn key_header(mut self, name: impl Into<String>) -> Self {
        self.key_header = name.into();
        self
    }

    /// The prefix of keys that are created without one of their own. Default: `kg_live_`.
    pub fn key_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.key_prefix = prefix;
        self
    }

    /// Whether requests are recorded. Without, totals and `last_used_at` stand still; limits and
    /// quotas are enforced all the same. Default: true.
    pub fn record_usage(mut self, record: bool) -> Self {
        self.record_usage = record;
        self
    }

    /// How long single requests are kept, at least a minute; totals are kept longer. Default: 30
    /// days.
    pub fn usage_retention(mut self, keep: Duration) -> Self {
        self.usage_retention = keep;
        self
    }

    /// How many requests may wait to be written, at least 1,024; above, they are dropped and
    /// counted. One takes some 100 bytes, and twice so many are in memory while a full queue is
    /// being written. Default: 262,144.
    pub fn usage_queue_capacity(mut self, requests: usize) -> Self {
        self.usage_queue_capacity = requests;
        self
    }

    /// Where single requests also go, refusals without a known key among them. The data file keeps
    /// what it keeps without. Default: none.
    pub fn usage_sink(mut self, sink: impl UsageSink + 'static) -> Self {
        self.usage_sink = Some(SharedSink::new(sink));
        self
    }

    /// Whether single requests go to the sink alone, so that the store does not grow by them: then
    /// [`Admin::list_usage`](crate::Admin::list_usage) has nothing more to list, and totals stay. Default:
    /// false.
    pub fn usage_sink_only(mut self, only: bool) -> Self {
        self.usage_sink_only = only;
        self
    }

    /// How many keys are kept in memory, at least 16; others are read from the file when they are
    /// used. One takes some 500 bytes. Default: 131,072.
    pub fn key_cache_capacity(mut self, keys: usize) -> Self {
        self.key_cache_capacity = keys;
        self
    }

    /// How many keys, and organizations with limits of their own, can be limited at a time, at least as
    /// many as keys are kept in memory. A key counts as long as a window of it holds a hit; one more than that is refused with status 503. One
    /// takes some 250 bytes at a limit of 60 a minute. Default: 262,144.
    pub fn max_tracked_keys(mut self, keys: usize) -> Self {
        self.max_tracked_keys = keys;
        self
    }

    /// How many locks there can be at a time, at least 16. When there are more, those /24 (IPv4) and /48
    /// (IPv6) networks that hold most automatic locks, 8 or more each, get one for all of it instead,
    /// until a sixteenth of the room is free. Locks by hand stay as they are. Where there are none to
    /// merge, nobody else is locked out, and `stats` says so. One takes some 300 bytes.
    /// Default: 65,536.
    pub fn max_locks(mut self, locks: usize) -> Self {
        self.max_locks = locks;
        self
    }

    /// How many addresses are counted at a time towards a limit or a lock, at least 16. When there are
    /// more, they displace those that are farthest from their limits: never one that a limit refuses,
    /// one with failures above half the threshold, or one that is fuller than the newcomer. Newcomers
    /// that can displace nobody are admitted together up to 8 times each limit, and are not locked out
    /// for it. An address takes some 150 bytes, and some 80 for each further limit that it has used, beside
    /// about 2 for each request that a limit counts.
    ///
    /// However many limits there are, they count at most 9 times as many windows as addresses, or 8 times
    /// as many and 1,024 more: with all else, some 1,700 bytes for each of the addresses (rounded up to a
    /// power of two) and 170 KB, beside the requests. Where all of these count, a request that needs one
    /// more is refused with status 503 (`overloaded`). Failed authentications are always counted.
    /// Default: 131,072.
    pub fn max_tracked_ips(mut self, addresses: usize) -> Self {
        self.max_tracked_ips = addresses;
        self
    }

    /// In which time zone a lock that lasts until a time of day ends. Default: the system's.
    pub fn time_zone(mut self, zone: TimeZone) -> Self {
        self.time_zone = zone;
        self
    }

    /// In which time zone the days and months of quotas end. A day or month that is running when
    /// this changes ends as it was to. Default: UTC.
    pub fn quota_time_zone(mut self, zone: TimeZone) -> Self {
        self.quota_time_zone = zone;
        self
    }

    /// Routes, lists of addresses, and limits for everybody. Default: every path is protected, and
    /// nobody is trusted.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// A file of TOML that holds the policy, in place of [`Config::policy`]. It is read when the
    /// guard is opened, and again by [`Admin::reload`](crate::Admin::reload) and the command
    /// `keyguard reload`.
    pub fn policy_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.policy_file = Some(file.into());
        self
    }

    /// Whether the policy file is also read again, within some 200 ms, when the process receives
    /// SIGHUP. A file that cannot be accepted changes nothing and shows in
    /// [`Stats::warnings`](crate::Stats::warnings). Default: no, the signal is left to the program.
    pub fn reload_on_hangup(mut self, reload: bool) -> Self {
        self.reload_on_hangup = reload;
        self
    }

    /// What is called with each new text of [`Stats::warnings`](crate::Stats::warnings) that comes
    /// up in this process, once, such as a policy file that cannot be accepted: to log it. It is
    /// called by a thread of its own, so that it may wait. Default: nothing.
    ///
    /// ```
    /// let config = keyguard::Config::default().on_warning(|text| eprintln!("warning: {text}"));
    /// ```
    pub fn on_warning(mut self, log: fn(&str)) -> Self {
        self.on_warning = log;
        self
    }

    /// Whether the data file can be managed from the command line while it is open, through a Unix
    /// socket that is private to the user. Default: true. Systems without Unix sockets have none.
    ///
    /// It is `<file>.sock`, or lies in a private directory, `/run/user/<uid>` or
    /// `/tmp/keyguard-<uid>`, where that path is above some 95 bytes or its directory may not be
    /// written. Where neither can be used, [`Stats::warnings`](crate::Stats::warnings) says so.
    pub fn socket(mut self, listen: bool) -> Self {
        self.socket = listen;
        self
    }

    /// How much of the data file is kept in memory, in bytes. Default: 64 MiB.
    pub fn file_cache_bytes(mut self, bytes: usize) -> Self {
        self.file_cache_bytes = bytes;
        self
    }

    /// Where the time is read. Default: the system's clocks, of which the calendar follows that of
    /// PostgreSQL, or else that of Redis, where there is one.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    pub(super) fn validate(&self) -> Result<(), InvalidInput> {
        crate::input::limit("default_rate_limit", self.default_rate_limit)?;
        crate::input::limit("ip_block_threshold", self.ip_block_threshold)?;
        crate::input::field_name("key_header", &self.key_header)?;
        if self.key_header.eq_ignore_ascii_case("authorization") {
            return Err(InvalidInput::new(
                "key_header",
                "keys are read from `Authorization: Bearer` anyway; name another field",
            ));
        }
        if self.backend_deadline < Duration::from_millis(1) {
            return Err(InvalidInput::new(
                "backend_deadline",
                "is shorter than 1 ms",
            ));
        }
        if self.max_key_staleness < Duration::from_secs(1) {
            return Err(InvalidInput::new(
                "max_key_staleness",
                "is shorter than 1 s",
            ));
        }
        if self.max_database_connections == 0 {
            return Err(InvalidInput::new("max_database_connections", "is below 1"));
        }
        #[cfg(feature = "legacy")]
        if self.legacy_secret.as_ref().is_some_and(Secret::is_blank) {
            return Err(InvalidInput::new(
                "legacy_secret",
                "is blank; give the secret that the Python package ran with, or leave it out",
            ));
        }
        let admin_key = self.admin_key.as_ref().map(Secret::expose);
        if admin_key.is_some_and(|key| key.len() < 16) {
            return Err(InvalidInput::new(
                "admin_key",
                "is shorter than 16 bytes; leave it out for one derived from the secret",
            ));
        }
        if !self.quota_time_zone.is_known() {
            return Err(InvalidInput::new(
                "quota_time_zone",
                "the system's time zone is unknown; name one such as `Europe/Berlin` or `UTC`",
            ));
        }
        if self.usage_retention < Duration::from_secs(60) {
            return Err(InvalidInput::new(
                "usage_retention",
                "is shorter than a minute",
            ));
        }
        if self.usage_queue_capacity < 1_024 {
            return Err(InvalidInput::new("usage_queue_capacity", "is below 1,024"));
        }
        if self.key_cache_capacity < 16 {
            return Err(InvalidInput::new("key_cache_capacity", "is below 16"));
        }
        if self.max_tracked_keys < self.key_cache_capacity {
            return Err(InvalidInput::new(
                "max_tracked_keys",
                "is below key_cache_capacity",
            ));
        }
        if self.max_locks < 16 {
            return Err(InvalidInput::new("max_locks", "is below 16"));
        }
        if self.max_tracked_ips < 16 {
            return Err(InvalidInput::new("max_tracked_ips", "is below 16"));
        }
        Ok(())
    }
}
