//! Parsing of cells, in the forms in which databases store them.

use std::str::FromStr;

use serde_json::Value;

use crate::model::{HashedKey, Scope};
use crate::time::Timestamp;

/// Parses an id. Numbers become text.
pub(super) fn id(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err("is not an id: expected a whole number or text".into()),
    }
}

pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err("is not text".into()),
    }
}

pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    let word = match value {
        Value::Bool(value) => return Ok(*value),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_ascii_lowercase(),
        _ => String::new(),
    };
    match word.as_str() {
        "1" | "true" | "t" | "yes" | "active" | "enabled" => Ok(true),
        "0" | "false" | "f" | "no" | "inactive" | "suspended" | "disabled" | "revoked" => Ok(false),
        _ => Err("is not a boolean: expected 1 or 0, or `active` or `suspended`".into()),
    }
}

/// Parses a limit: a whole number of at least 1.
pub(super) fn limit<N: FromStr>(value: &Value) -> Result<N, String> {
    number(value).ok_or_else(|| {
        "is not a limit: expected a whole number of at least 1, or null for none".into()
    })
}

/// Parses a hash of 64 hexadecimal digits. Errors do not show the text.
pub(super) fn hash(value: &Value) -> Result<HashedKey, String> {
    let hash = value.as_str().map(blake3::Hash::from_hex);
    match hash {
        Some(Ok(hash)) => Ok(HashedKey(*hash.as_bytes())),
        _ => Err("is not a SHA-256 hash: expected 64 hexadecimal digits".into()),
    }
}

/// Parses scopes: a JSON array, also as text, or names separated by commas or spaces.
pub(super) fn scopes(value: &Value) -> Result<Vec<Scope>, String> {
    let names: Vec<String> = match value {
        Value::Array(names) => names.iter().map(text).collect::<Result<_, _>>()?,
        Value::String(text) if text.trim_start().starts_with('[') => serde_json::from_str(text)
            .map_err(|_| "is not a list of scopes: expected a JSON array of texts")?,
        // SQLAlchemy stores an absent list like this.
        Value::String(text) if text == "null" => Vec::new(),
        Value::String(text) if text.chars().all(is_in_name) => {
            let names = text.split([',', ' ']).filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        }
        _ => {
            return Err(
                "is not a list of scopes: expected a JSON array, or names separated by commas"
                    .into(),
            );
        }
    };
    let scopes = names.iter().map(|name| name.parse::<Scope>());
    let mut scopes: Vec<Scope> = scopes
        .collect::<Result<_, _>>()
        .map_err(|error| format!("contains an invalid scope: {error}"))?;
    scopes.sort();
    scopes.dedup();
    Ok(scopes)
}

/// Returns whether a character may occur in a list of names. Others hint at invalid JSON.
fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-:./*, ".contains(c)
}

/// Parses an HTTP status; 0 means none.
pub(super) fn status(value: &Value) -> Result<u16, String> {
    let status = number(value).filter(|status| *status < 1_000);
    status.ok_or_else(|| "is not a status: expected a number such as 200".into())
}

fn number<N: FromStr>(value: &Value) -> Option<N> {
    text(value).ok()?.parse().ok()
}

/// Parses a time: ISO 8601, in UTC without an offset, or seconds or milliseconds since the Unix epoch.
pub(super) fn time(value: &Value) -> Result<Timestamp, String> {
    let time = match value {
        Value::Number(number) => number.as_f64().and_then(since_epoch),
        Value::String(text) => match text.parse() {
            Ok(number) => since_epoch(number),
            Err(_) if text.is_ascii() => rfc_3339(text.trim()).parse().ok(),
            Err(_) => None,
        },
        _ => None,
    };
    time.ok_or_else(|| {
        "is not a time: expected one such as 2026-01-31T12:00:00Z, or seconds since the Unix epoch"
            .into()
    })
}

fn since_epoch(number: f64) -> Option<Timestamp> {
    // As seconds, this is the year 5138; as milliseconds, 1973.
    let millis = if number < 1e11 { number * 1e3 } else { number };
    let is_time = (0.0..=Timestamp::MAX.unix_millis() as f64).contains(&millis);
    is_time.then(|| Timestamp::from_unix_millis(millis.round() as u64))
}

/// Completes an ASCII text such as `2026-01-31 12:00:00.5+00` to RFC 3339.
fn rfc_3339(text: &str) -> String {
    let Some((date, time)) = text.split_once(['T', 't', ' ']) else {
        return format!("{text}T00:00:00Z");
    };
    let offset = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (time, offset) = time.split_at(offset);
    let time = match time.trim_end() {
        time if time.len() == "12:00".len() => format!("{time}:00"),
        time => time.to_owned(),
    };
    let offset = match offset {
        "" => "Z".to_owned(),
        offset if offset.len() == "+00".len() => format!("{offset}:00"),
        offset if offset.len() == "+0000".len() && !offset.contains(':') => {
            format!("{}:{}", &offset[..3], &offset[3..])
        }
        offset => offset.to_owned(),
    };
    format!("{date}T{time}{offset}")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use serde_json::json;

    use super::*;

    #[test]
    fn times_of_all_databases_are_parsed() {
        let noon = Timestamp::from_unix_millis(1_768_478_400_000);
        for value in [
            json!("2026-01-15T12:00:00Z"),
            json!("2026-01-15 12:00:00"),
            json!("2026-01-15 12:00"),
            json!("2026-01-15T12:00:00.000000"),
            json!("2026-01-15 12:00:00.000000+00:00"),
            json!("2026-01-15 13:00:00+01"),
            json!("2026-01-15 07:00:00-0500"),
            json!(1_768_478_400),
            json!(1_768_478_400.0),
            json!("1768478400"),
            json!(1_768_478_400_000_u64),
        ] {
            assert_eq!(time(&value), Ok(noon), "{value}");
        }
        let midnight = Timestamp::from_unix_millis(1_768_435_200_000);
        assert_eq!(time(&json!("2026-01-15")), Ok(midnight));
        for value in [
            json!("soon"),
            json!(-1),
            json!(true),
            json!(1e300),
            json!("x 0+0é0"),
        ] {
            assert!(time(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn scopes_are_parsed_from_arrays_and_lists() {
        let expected: Vec<Scope> = vec!["read".parse().unwrap(), "write".parse().unwrap()];
        for value in [
            json!(["write", "read", "read"]),
            json!("[\"read\", \"write\"]"),
            json!("write, read"),
            json!("read,write"),
        ] {
            assert_eq!(scopes(&value).as_ref(), Ok(&expected), "{value}");
        }
        assert_eq!(scopes(&json!("")), Ok(Vec::new()));
        assert_eq!(scopes(&json!("null")), Ok(Vec::new()));
        for value in [
            json!(7),
            json!(["a b"]),
            json!("[1]"),
            json!("ä"),
            json!("[\"read\", "),
            json!("{read,write}"),
            json!("{\"read\": true}"),
            json!("\"read\""),
            json!("('read', 'write')"),
        ] {
            assert!(scopes(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn invalid_limits_hashes_and_booleans_are_refused() {
        assert_eq!(
            limit::<NonZeroU32>(&json!(60)),
            Ok(NonZeroU32::MIN.saturating_add(59))
        );
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!(1_u64 << 33),
            json!("x"),
        ] {
            assert!(limit::<NonZeroU32>(&value).is_err(), "{value}");
        }
        assert!(hash(&json!("ab".repeat(32))).is_ok());
        assert!(!hash(&json!("secret")).unwrap_err().contains("secret"));
        assert_eq!(boolean(&json!("Suspended")), Ok(false));
        assert_eq!(
            (boolean(&json!(1)), boolean(&json!(true))),
            (Ok(true), Ok(true))
        );
        assert!(boolean(&json!(2)).is_err());
    }
}
