//! Comma-separated values (RFC 4180).

use super::render::escaped;

/// Returns a line of fields. Hidden characters are escaped as in tables.
pub(super) fn line<F: AsRef<str>>(fields: impl IntoIterator<Item = F>) -> String {
    let fields = fields.into_iter().map(|text| field(text.as_ref()));
    fields.collect::<Vec<_>>().join(",") + "\r\n"
}

fn field(text: &str) -> String {
    let text = escaped(text);
    // A spreadsheet would take it for a formula.
    let is_formula = text.len() > 1 && text.starts_with(['=', '+', '-', '@']);
    match is_formula || text.contains([',', '"']) {
        true => format!(
            "\"{}{}\"",
            if is_formula { "'" } else { "" },
            text.replace('"', "\"\"")
        ),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_needed() {
        assert_eq!(line(["a b", "/x", ""]), "a b,/x,\r\n");
        assert_eq!(
            line(["a,b", "say \"hi\""]),
            "\"a,b\",\"say \"\"hi\"\"\"\r\n"
        );
        assert_eq!(line(["a\nb\u{1b}"]), "a\\nb\\u{1b}\r\n");
        assert_eq!(line(["=1+1", "-"]), "\"'=1+1\",-\r\n");
    }
}
