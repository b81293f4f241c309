//! The time of the next attempt.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::time::Timestamp;

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// The pauses after failed attempts, as the specification recommends.
const PAUSES: [Duration; 9] = [
    Duration::from_secs(5),
    minutes(5),
    minutes(30),
    minutes(2 * 60),
    minutes(5 * 60),
    minutes(10 * 60),
    minutes(14 * 60),
    minutes(20 * 60),
    minutes(24 * 60),
];

/// The longest pause that a receiver gets by `Retry-After`.
const LONGEST: Duration = minutes(24 * 60);

/// Returns the time of the next attempt after `attempts` failed ones; `None` after the last one. `jitter`, from 0 to
/// 1, adds up to a tenth of the pause, so that events that failed together are not sent together again.
pub(super) fn next_attempt(
    attempts: u32,
    now: Timestamp,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Option<Timestamp> {
    let index = usize::try_from(attempts.checked_sub(1)?).ok()?;
    let pause = PAUSES.get(index)?.mul_f64(1.0 + jitter / 10.0);
    let asked = retry_after.map_or(Duration::ZERO, |pause| pause.min(LONGEST));
    Some(now.plus(pause.max(asked)))
}

/// Parses the value of `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    Some(Timestamp::from_utc(at).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::webhooks::LONGEST_DELAY;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_445_412_420_000);

    fn pauses(retry_after: Option<Duration>, jitter: f64) -> Vec<u64> {
        let next = (1..).map_while(|attempts| next_attempt(attempts, NOW, retry_after, jitter));
        next.map(|at| at.since(NOW).as_secs()).collect()
    }

    #[test]
    fn pauses_are_those_of_the_specification() {
        let hours = [2, 5, 10, 14, 20, 24].map(|hours| hours * 3_600);
        let expected = [&[5, 300, 1_800][..], &hours].concat();
        assert_eq!(pauses(None, 0.0), expected);
    }

    #[test]
    fn jitter_adds_up_to_a_tenth() {
        let longest = pauses(None, 1.0);
        assert_eq!(longest[1], 330);
        for (pause, longest) in pauses(None, 0.5).into_iter().zip(longest) {
            assert!(pause <= longest);
            assert!(Duration::from_secs(longest) < LONGEST_DELAY);
        }
    }

    #[test]
    fn receiver_may_ask_for_a_longer_pause_up_to_a_day() {
        let asked = |seconds| pauses(Some(Duration::from_secs(seconds)), 0.0);
        assert_eq!(asked(60)[..3], [60, 300, 1_800]);
        assert_eq!(asked(u64::MAX / 1_000)[0], 86_400);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(" 120", NOW), Some(minutes(2)));
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(retry_after(date, NOW), Some(minutes(1)));
        let passed = "Wed, 21 Oct 2015 07:00:00 GMT";
        assert_eq!(retry_after(passed, NOW), Some(Duration::ZERO));
        for invalid in ["", "-1", "soon", "1.5"] {
            assert_eq!(retry_after(invalid, NOW), None, "{invalid}");
        }
    }
}
