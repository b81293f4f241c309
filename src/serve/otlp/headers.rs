//! Header fields for a collector, such as a token.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

/// Reads `name=value` pairs, separated by commas and percent-encoded. The values are secrets, so that nothing
/// of them is in an error.
pub(super) fn parse(text: &str) -> Result<HeaderMap, &'static str> {
    let fields = text.split(',').map(str::trim);
    let fields = fields.filter(|field| !field.is_empty()).map(parse_field);
    let fields: Option<HeaderMap> = fields.collect();
    fields.ok_or("expected header fields `name=value`, separated by commas and percent-encoded")
}

fn parse_field(field: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = field.split_once('=')?;
    let [name, value] = [name, value].map(|text| percent_decode_str(text.trim()));
    let name: Vec<u8> = name.collect();
    let value: Vec<u8> = value.collect();
    let mut value = HeaderValue::from_bytes(&value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_bytes(&name).ok()?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_percent_encoded_and_separated_by_commas() {
        let fields = |text| {
            let mut fields = Vec::new();
            for (name, value) in &parse(text).unwrap() {
                fields.push((name.to_string(), value.to_str().unwrap().to_owned()));
            }
            fields
        };
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            fields("Authorization=Bearer%20a%2Cb==, x-team = 7 ,"),
            [field("authorization", "Bearer a,b=="), field("x-team", "7")]
        );
        assert_eq!(fields(""), []);
    }

    #[test]
    fn values_are_in_no_error_and_no_output() {
        let parsed = parse("x-token=secret").unwrap();
        assert!(!format!("{parsed:?}").contains("secret"));
        for invalid in ["secret", "=secret", "a b=secret", "x-token=secret%0a"] {
            let error = parse(invalid).unwrap_err();
            assert!(error.contains("name=value"), "{error}");
        }
    }
}
