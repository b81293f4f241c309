//! Parsing of TOML policy files.

use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::route::intervals;
use super::{Policy, Route};
use crate::input::{self, InvalidInput};
use crate::limit::{self, Limit};
use crate::sys::open_regular;
use crate::time::duration;

/// An invalid policy. The message names the field and the route, in a file also the line, the problem
/// and what is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", prefix(file))]
pub struct InvalidPolicy {
    file: Option<PathBuf>,
    problem: String,
    is_missing: bool,
}

impl InvalidPolicy {
    fn new(problem: String) -> Self {
        Self {
            file: None,
            problem,
            is_missing: false,
        }
    }

    /// The file, if it does not exist.
    #[cfg(feature = "cli")]
    pub(crate) fn missing_file(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| self.is_missing)
    }
}

fn prefix(file: &Option<PathBuf>) -> String {
    file.as_ref()
        .map_or_else(String::new, |file| format!("`{}`: ", file.display()))
}

impl From<InvalidInput> for InvalidPolicy {
    fn from(error: InvalidInput) -> Self {
        Self::new(error.to_string())
    }
}

/// The largest size of a policy file.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a policy from a file of at most 4 MiB.
pub(crate) fn read(file: &Path) -> Result<Policy, InvalidPolicy> {
    let within = |error: InvalidPolicy| InvalidPolicy {
        file: Some(file.into()),
        ..error
    };
    let failed = |problem| within(InvalidPolicy::new(problem));
    let unreadable = |error: io::Error| InvalidPolicy {
        is_missing: error.kind() == io::ErrorKind::NotFound,
        ..failed(format!("cannot be read: {error}"))
    };
    let mut text = String::new();
    let file = open_regular(file).map_err(unreadable)?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    match read.map_err(unreadable)? as u64 > MAX_BYTES {
        true => Err(failed(format!(
            "is longer than {} MiB, so that it is no policy; expected a TOML file",
            MAX_BYTES >> 20
        ))),
        false => text.parse().map_err(within),
    }
}

/// Parses TOML. Checks everything that [`KeyGuard::open`](crate::KeyGuard::open) checks, so that a file
/// can be validated by itself.
impl FromStr for Policy {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = InvalidPolicy::new;
        // What is no TOML may be another file, such as that of the secret.
        let read = toml::Deserializer::parse(text);
        let read = read.map_err(|error| invalid(described(text, &error, Quote::Nothing)))?;
        let policy = Self::deserialize(read);
        let policy = policy.map_err(|error| invalid(described(text, &error, Quote::UpToError)))?;
        policy.check()?;
        Ok(policy)
    }
}

/// What an error shows of the line that it is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    Nothing,
    /// What comes before the error, and what is wrong: behind an unknown field may be a secret.
    UpToError,
}

/// The most characters of a line that are quoted before the error, and of what is wrong.
const MOST_QUOTED: usize = 40;

/// The most characters of a message, which may repeat a value.
const MOST_OF_MESSAGE: usize = 1_000;

/// Describes an error of the TOML `text` by its position and problem, in bounded length.
fn described(text: &str, error: &toml::de::Error, quote: Quote) -> String {
    let message = start_and_end(error.message(), MOST_OF_MESSAGE / 2, MOST_OF_MESSAGE / 2);
    let Some(span) = error.span() else {
        return message;
    };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let before = before.rsplit('\n').next().unwrap_or_default();
    let column = before.chars().count() + 1;
    let position = format!("TOML parse error at line {line}, column {column}");
    if quote == Quote::Nothing {
        return format!("{position}\n{message}");
    }
    let found = text.get(span).unwrap_or_default();
    let found = start_and_end(found.lines().next().unwrap_or_default(), MOST_QUOTED, 0);
    let before = start_and_end(before, 0, MOST_QUOTED);
    let margin = " ".repeat(line.to_string().len());
    let indent = " ".repeat(before.chars().count());
    let marks = "^".repeat(found.chars().count().max(1));
    let message = match message.strip_suffix("expected a sequence") {
        Some(start) => format!(r#"{start}expected a list, such as `["a", "b"]`"#),
        None => message,
    };
    format!(
        "{position}\n{margin} |\n{line} | {before}{found}\n{margin} | {indent}{marks}\n{message}"
    )
}

/// Returns the first and the last characters of a text, with an ellipsis for those between.
fn start_and_end(text: &str, start: usize, end: usize) -> String {
    let count = text.chars().count();
    if count <= start + end {
        return text.to_owned();
    }
    let first = text.chars().take(start).chain(['…']);
    first.chain(text.chars().skip(count - end)).collect()
}

pub(super) fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Route>, D::Error> {
    deserializer.deserialize_seq(Routes)
}

struct Routes;

impl<'de> Visitor<'de> for Routes {
    type Value = Vec<Route>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of routes: write `[[route]]`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Route>, A::Error> {
        let mut routes = Vec::new();
        while let Some(route) = seq.next_element_seed(NextRoute(&routes))? {
            routes.push(route);
        }
        Ok(routes)
    }
}

/// Deserializes and checks the next route, so that errors name its line.
struct NextRoute<'r>(&'r [Route]);

impl<'de> DeserializeSeed<'de> for NextRoute<'_> {
    type Value = Route;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Route, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NextRoute<'_> {
    type Value = Route;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a route")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Route, A::Error> {
        // Before the rest is read: each route is compared with all earlier ones.
        super::check_count("route", self.0.len() + 1).map_err(Error::custom)?;
        let route = Route::deserialize(MapAccessDeserializer::new(map))?;
        super::check_route(&route, self.0).map_err(Error::custom)?;
        Ok(route)
    }
}

/// Deserializes a list of limits with the parser of a field, which errors name.
macro_rules! lists_of_limits {
    ($($field:ident: $parse:path),+) => {$(
        pub(super) fn $field<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Vec<Limit>, D::Error> {
            let texts = Vec::<String>::deserialize(deserializer)?;
            $parse(stringify!($field), texts).map_err(Error::custom)
        }
    )+};
}

lists_of_limits! {
    limits: intervals,
    ip_limits: intervals,
    key_limits: limit::list,
    org_limits: limit::list
}

pub(super) fn cost<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<NonZeroU32>, D::Error> {
    let cost = u32::deserialize(deserializer)?;
    let cost = input::at_least_one("cost", cost);
    cost.map(Some).map_err(Error::custom)
}

pub(super) fn threshold<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let failures = u32::deserialize(deserializer)?;
    let failures = input::at_least_one("threshold", failures).map_err(Error::custom)?;
    Ok(Some(failures.get()))
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse_bounded("decay", &text).map_err(Error::custom)
}

pub(super) fn steps<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let steps = texts
        .iter()
        .map(|text| duration::parse_bounded("steps", text));
    let steps: Vec<Duration> = steps.collect::<Result<_, _>>().map_err(Error::custom)?;
    super::check_steps("steps", &steps).map_err(Error::custom)?;
    Ok(steps)
}
