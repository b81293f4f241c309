//! Limits and their text form.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;
use std::time::Duration;

use crate::input::{self, InvalidInput, RequestField, serde_as_text, try_from_text, valid};
use crate::limit::WindowLength;
use crate::time::duration::parse_duration;

/// A limit: an amount per period.
///
/// | text | admits |
/// |---|---|
/// | `10/s`, `600/min`, `20000/day`, `5/15min` | 10 in any second, 600 in any minute, … |
/// | `20000 daily`, `500000 monthly` | 20,000 in a calendar day, 500,000 in a calendar month |
/// | `5000 credits` | 5,000 in total |
/// | `5000 credits +100/hour` | up to 5,000, of which 100 are returned every hour |
/// | `8 concurrent` | 8 requests at a time; each ends when its grant is finished or dropped |
///
/// Amounts are at least 1; intervals are 1 ms to 366 days. A limit with the suffix ` shadow` is
/// evaluated and counted but never refuses.
///
/// ```
/// use std::time::Duration;
/// use keyguard::Limit;
/// assert_eq!("600/min".parse(), Limit::window(600, Duration::from_secs(60)));
/// assert_eq!("20,000 daily shadow".parse(), Limit::daily(20_000).map(Limit::shadow));
/// assert!("0/s".parse::<Limit>().is_err());
/// ```
///
/// [`Limit::kind`] and the other methods read it:
///
/// ```
/// use keyguard::{Limit, LimitKind};
/// let limit: Limit = "20000 daily".parse()?;
/// assert_eq!((limit.amount(), limit.kind()), (20_000, LimitKind::Daily));
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    pub(crate) amount: NonZeroU64,
    pub(crate) period: Period,
    pub(crate) shadow: bool,
}

/// What the amount of a [`Limit`] is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitKind {
    /// Any interval of this length.
    Window(Duration),
    /// A calendar day.
    Daily,
    /// A calendar month.
    Monthly,
    /// All time.
    Credits,
    /// All time; every `interval`, `refill` credits are returned.
    #[non_exhaustive]
    RefilledCredits {
        /// The number of credits that are returned.
        refill: u32,
        /// How often they are returned.
        interval: Duration,
    },
    /// Requests in flight.
    Concurrent,
}

/// The period over which a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Period {
    /// Any interval of this length.
    Sliding(WindowLength),
    /// The calendar day.
    Day,
    /// The calendar month.
    Month,
    /// All time, minus refills.
    Credits(Option<Refill>),
    /// Requests in flight.
    Concurrent,
}

/// The refill of credits: `amount` every `millis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Refill {
    pub(crate) amount: NonZeroU32,
    pub(crate) millis: NonZeroU64,
}

impl Period {
    /// Whether both periods use one counter. Credits share a counter regardless of their refill.
    #[inline]
    pub(crate) fn is_counted_as(self, other: Self) -> bool {
        match (self, other) {
            (Self::Credits(_), Self::Credits(_)) => true,
            (one, other) => one == other,
        }
    }

    /// The amount that a request of this cost consumes.
    #[inline]
    pub(crate) fn takes(self, cost: NonZeroU32) -> NonZeroU32 {
        match self {
            Self::Concurrent => NonZeroU32::MIN,
            _ => cost,
        }
    }
}

impl Limit {
    /// At most `amount` in any interval of the length `window`, 1 ms to 366 days.
    ///
    /// # Errors
    /// [`InvalidInput`] for an amount of 0, or the window.
    pub fn window(amount: u32, window: Duration) -> Result<Self, InvalidInput> {
        Self::new(amount.into(), Period::Sliding(WindowLength::new(window)?))
    }

    /// At most `amount` in a calendar day, in the zone of
    /// [`Config::quota_time_zone`](crate::Config::quota_time_zone).
    ///
    /// # Errors
    /// [`InvalidInput`] for an amount of 0.
    pub fn daily(amount: u64) -> Result<Self, InvalidInput> {
        Self::new(amount, Period::Day)
    }

    /// At most `amount` in a calendar month, in the zone of
    /// [`Config::quota_time_zone`](crate::Config::quota_time_zone).
    ///
    /// # Errors
    /// [`InvalidInput`] for an amount of 0.
    pub fn monthly(amount: u64) -> Result<Self, InvalidInput> {
        Self::new(amount, Period::Month)
    }

    /// At most `amount` in total.
    ///
    /// # Errors
    /// [`InvalidInput`] for an amount of 0.
    pub fn credits(amount: u64) -> Result<Self, InvalidInput> {
        Self::new(amount, Period::Credits(None))
    }

    /// A balance of `amount` credits. Every `interval` (1 ms to 366 days) `refill` credits are
    /// returned, up to `amount`; the first interval starts when a credit is spent.
    ///
    /// # Errors
    /// [`InvalidInput`] for an amount or a refill of 0, or the interval.
    pub fn refilled_credits(
        amount: u64,
        refill: u32,
        interval: Duration,
    ) -> Result<Self, InvalidInput> {
        let invalid = || {
            let problem = "expected a refill of at least 1 in an interval of 1 ms to 366 days";
            InvalidInput::new("limit", problem)
        };
        let interval = WindowLength::new(interval).map_err(|_| invalid())?;
        let refill = Refill {
            amount: NonZeroU32::new(refill).ok_or_else(invalid)?,
            millis: NonZeroU64::new(interval.nanos() / 1_000_000).ok_or_else(invalid)?,
        };
        Self::new(amount, Period::Credits(Some(refill)))
    }

    /// At most `amount` requests at a time.
    ///
    /// # Errors
    /// [`InvalidInput`] for an amount of 0.
    pub fn concurrent(amount: u32) -> Result<Self, InvalidInput> {
        Self::new(amount.into(), Period::Concurrent)
    }

    /// The same limit in shadow mode: evaluated and counted, never refusing.
    #[must_use]
    pub const fn shadow(self) -> Self {
        Self {
            shadow: true,
            ..self
        }
    }

    /// At most `amount` in any 60 seconds.
    pub const fn per_minute(amount: NonZeroU32) -> Self {
        Self {
            amount: match NonZeroU64::new(amount.get() as u64) {
                Some(amount) => amount,
                None => NonZeroU64::MIN,
            },
            period: Period::Sliding(WindowLength::MINUTE),
            shadow: false,
        }
    }

    /// The amount: at least 1.
    pub const fn amount(&self) -> u64 {
        self.amount.get()
    }

    /// What the amount is counted over.
    pub fn kind(&self) -> LimitKind {
        match self.period {
            Period::Sliding(length) => LimitKind::Window(Duration::from_nanos(length.nanos())),
            Period::Day => LimitKind::Daily,
            Period::Month => LimitKind::Monthly,
            Period::Credits(None) => LimitKind::Credits,
            Period::Credits(Some(refill)) => LimitKind::RefilledCredits {
                refill: refill.amount.get(),
                interval: Duration::from_millis(refill.millis.get()),
            },
            Period::Concurrent => LimitKind::Concurrent,
        }
    }

    /// Whether the limit is in shadow mode.
    pub const fn is_shadow(&self) -> bool {
        self.shadow
    }

    fn new(amount: u64, period: Period) -> Result<Self, InvalidInput> {
        let amount =
            NonZeroU64::new(amount).ok_or_else(|| InvalidInput::new("limit", input::LIMIT_OF_0))?;
        let most = match period {
            Period::Sliding(_) | Period::Concurrent => u32::MAX.into(),
            // Used amounts plus overdrafts never overflow.
            _ => u64::MAX / 2,
        };
        if amount.get() > most {
            return Err(above(most));
        }
        Ok(Self {
            amount,
            period,
            shadow: false,
        })
    }

    /// The name in header fields and listings. Quotas have the same name for every amount, so that
    /// changing the amount keeps the name.
    pub(crate) fn name(&self) -> String {
        let name = match self.period {
            Period::Sliding(length) => format!("{}/{}", self.amount, written(length.nanos())),
            Period::Day => "daily".to_owned(),
            Period::Month => "monthly".to_owned(),
            Period::Credits(_) => "credits".to_owned(),
            Period::Concurrent => "concurrent".to_owned(),
        };
        if self.shadow { name + SHADOW } else { name }
    }
}

const SHADOW: &str = " shadow";

/// Units in milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [
    ("day", 86_400_000),
    ("hour", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Formats a length in the largest unit that divides it. The count 1 is omitted.
fn written(nanos: u64) -> String {
    let millis = nanos / 1_000_000;
    let unit = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit));
    match unit.map(|(name, unit)| (name, millis / unit)) {
        Some((name, 1)) => (*name).to_owned(),
        Some((name, count)) => format!("{count}{name}"),
        None => format!("{millis}ms"),
    }
}

/// The output can be parsed again.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = self.amount;
        match self.period {
            Period::Sliding(_) => return f.write_str(&self.name()),
            Period::Credits(Some(refill)) => {
                let every = written(refill.millis.get() * 1_000_000);
                write!(f, "{amount} credits +{}/{every}", refill.amount)?;
            }
            Period::Day => write!(f, "{amount} daily")?,
            Period::Month => write!(f, "{amount} monthly")?,
            Period::Credits(None) => write!(f, "{amount} credits")?,
            Period::Concurrent => write!(f, "{amount} concurrent")?,
        }
        f.write_str(if self.shadow { SHADOW } else { "" })
    }
}

impl FromStr for Limit {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text).map_err(|problem| match problem {
            ParseError::Invalid(invalid) => invalid,
            ParseError::Unreadable => InvalidInput::of(
                "limit",
                text,
                "is not a limit such as `10/s`, `600/min`, `5/15min`, `20000 daily`, `500000 monthly`, \
                 `5000 credits`, `5000 credits +100/hour` or `8 concurrent`, each optionally \
                 followed by ` shadow`",
            ),
        })
    }
}

try_from_text!(Limit);

impl RequestField for Limit {
    type Json = String;
    const NAME: &str = "limits";
}

/// The reason why a text is not a limit.
enum ParseError {
    Unreadable,
    Invalid(InvalidInput),
}

impl From<InvalidInput> for ParseError {
    fn from(invalid: InvalidInput) -> Self {
        Self::Invalid(invalid)
    }
}

impl Limit {
    fn read(text: &str) -> Result<Self, ParseError> {
        let text = text.trim_ascii().to_ascii_lowercase();
        let (text, shadow) = match text.strip_suffix(SHADOW) {
            Some(text) => (text.trim_ascii_end(), true),
            None => (text.as_str(), false),
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, ',' | '_'));
        let (amount, rest) = text.split_at(digits.unwrap_or(text.len()));
        let amount = number(amount)?;
        let limit = match rest.trim_ascii() {
            "daily" => Self::daily(amount),
            "monthly" => Self::monthly(amount),
            "credits" => Self::credits(amount),
            "concurrent" => Self::concurrent(narrow(amount)?),
            rest => match rest.strip_prefix('/') {
                Some(every) => Self::window(narrow(amount)?, interval(every)?),
                None => {
                    let refill = rest.strip_prefix("credits").map(str::trim_ascii);
                    let refill = refill.and_then(|rest| rest.strip_prefix('+'));
                    let refill = refill.and_then(|rest| rest.split_once('/'));
                    let (back, every) = refill.ok_or(ParseError::Unreadable)?;
                    Self::refilled_credits(amount, narrow(number(back)?)?, interval(every)?)
                }
            },
        }?;
        Ok(Self { shadow, ..limit })
    }
}

/// `min`, `15 min`, `1h 30m`, `250ms`
fn interval(text: &str) -> Result<Duration, ParseError> {
    let text = text.trim_ascii();
    let length = match text.strip_suffix("ms").map(str::trim_ascii_end) {
        Some("") => Some(Duration::from_millis(1)),
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => parse_duration(text),
        None if text.is_empty() => None,
        None => parse_duration(&format!("1{text}")),
    };
    length.ok_or(ParseError::Unreadable)
}

/// Parses digits, optionally grouped in threes by `,` or `_`.
fn number(text: &str) -> Result<u64, ParseError> {
    let text = text.trim_ascii();
    let mut groups = text.split([',', '_']);
    let first = groups.next().unwrap_or_default();
    let is_grouped = text.len() > first.len();
    let is_digits = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    let fits = is_digits(first)
        && (!is_grouped || first.len() <= 3)
        && groups.all(|group| group.len() == 3 && is_digits(group));
    if !fits {
        return Err(ParseError::Unreadable);
    }
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| above(u64::MAX).into())
}

fn narrow(amount: u64) -> Result<u32, InvalidInput> {
    u32::try_from(amount).map_err(|_| above(u32::MAX.into()))
}

fn above(most: u64) -> InvalidInput {
    InvalidInput::new("limit", format!("exceeds the maximum of {most}"))
}

serde_as_text!(Limit);

/// Maximum number of limits of a key, an organization or a route.
const MOST: usize = 8;

/// Checks the limits of one subject: at most 8, without duplicates.
pub(crate) fn list(
    field: &'static str,
    given: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
) -> Result<Vec<Limit>, InvalidInput> {
    let mut limits: Vec<Limit> = Vec::new();
    for limit in given {
        let limit: Limit = valid(limit).map_err(|error| error.within(field))?;
        let is_same = |other: &&Limit| {
            other.period.is_counted_as(limit.period) && other.shadow == limit.shadow
        };
        if let Some(other) = limits.iter().find(is_same) {
            let problem =
                format!("`{other}` and `{limit}` use the same counter; expected one of them");
            return Err(InvalidInput::new(field, problem));
        }
        limits.push(limit);
    }
    input::require(
        field,
        limits.len() <= MOST,
        format!("expected at most {MOST}"),
    )?;
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> Limit {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn common_spellings_of_limits_parse() {
        for (text, shown) in [
            ("10/s", "10/s"),
            (" 600 / min ", "600/min"),
            ("20,000/day", "20000/day"),
            ("1_000_000/1h", "1000000/hour"),
            ("5/15 minutes", "5/15min"),
            ("5/90s", "5/90s"),
            ("5/1h 30m", "5/90min"),
            ("3/250ms", "3/250ms"),
            ("7/week", "7/7day"),
            ("20000 Daily", "20000 daily"),
            ("500000 monthly", "500000 monthly"),
            ("5000 credits", "5000 credits"),
            ("5000 credits +100/hour", "5000 credits +100/hour"),
            ("5000 credits + 100 / 90s", "5000 credits +100/90s"),
            ("8 concurrent", "8 concurrent"),
            ("8 concurrent shadow", "8 concurrent shadow"),
            ("30/min  shadow", "30/min shadow"),
        ] {
            assert_eq!(limit(text).to_string(), shown, "{text}");
            assert_eq!(limit(shown), limit(text), "{text}");
        }
    }

    #[test]
    fn every_kind_can_be_read() {
        let hour = Duration::from_secs(3_600);
        for (text, amount, kind) in [
            ("5/hour", 5, LimitKind::Window(hour)),
            ("6 daily", 6, LimitKind::Daily),
            ("7 monthly", 7, LimitKind::Monthly),
            ("8 credits", 8, LimitKind::Credits),
            (
                "9 credits +2/hour",
                9,
                LimitKind::RefilledCredits {
                    refill: 2,
                    interval: hour,
                },
            ),
            ("10 concurrent", 10, LimitKind::Concurrent),
        ] {
            let limit = limit(text);
            assert_eq!((limit.amount(), limit.kind()), (amount, kind));
            assert!(!limit.is_shadow() && limit.shadow().is_shadow());
        }
    }

    #[test]
    fn invalid_limits_are_rejected() {
        for text in [
            "",
            "10",
            "/s",
            "10/",
            "0/s",
            "-1/s",
            "1.5/s",
            "10 /s x",
            "10/fortnight",
            "10/0s",
            "10/400 days",
            "4294967296/s",
            "0 daily",
            "daily",
            "5 weekly",
            "5 credits 1/h",
            "5 credits +0/h",
            "5 credits +1",
            "5 concurrent +1/h",
            "4294967296 concurrent",
            "1,00/s",
            "1,0000/s",
            ",100/s",
            "100,/s",
            "1000,000/s",
            "shadow",
            "10/s shade",
            "18446744073709551615 daily",
            "99999999999999999999 daily",
            "１/s",
        ] {
            let parsed = text.parse::<Limit>();
            assert!(parsed.is_err(), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn limits_with_the_same_counter_are_rejected() {
        assert!(
            list(
                "limits",
                ["10/s", "600/min", "600/min shadow", "5 daily", "9 monthly"]
            )
            .is_ok()
        );
        for twice in [
            ["10/min", "20/min"],
            ["60/60s", "9/min"],
            ["5 credits", "5 credits +1/h"],
            ["1 concurrent", "2 concurrent"],
        ] {
            assert!(list("limits", twice).is_err(), "{twice:?}");
        }
        let many: Vec<String> = (1..=9).map(|n| format!("1/{n}s")).collect();
        assert!(list("limits", &many).is_err());
        assert!(list("limits", &many[1..]).is_ok());
    }

    #[test]
    fn a_limit_is_small() {
        assert!(size_of::<Limit>() <= 40, "{} bytes", size_of::<Limit>());
    }
}
