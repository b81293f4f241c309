//! The path of a request, as it is matched and as it is stored.

/// The longest path that is stored, in bytes; a longer one is cut.
pub(crate) const MAX_STORED_LEN: usize = 256;

/// The path without its query. Queries carry secrets and are never looked at nor stored.
pub(crate) fn without_query(target: &str) -> &str {
    let end = target.bytes().position(|byte| matches!(byte, b'?' | b'#'));
    &target[..end.unwrap_or(target.len())]
}

/// The path as it is stored: without its query and at most [`MAX_STORED_LEN`] bytes long.
pub(crate) fn stored(target: &str) -> &str {
    let path = without_query(target);
    let mut end = path.len().min(MAX_STORED_LEN);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_dropped() {
        assert_eq!(without_query("/api/data?key=secret"), "/api/data");
        assert_eq!(without_query("/api#x?y"), "/api");
        assert_eq!(without_query("?a"), "");
    }

    #[test]
    fn a_long_path_is_cut_at_a_character() {
        let path = format!("{}é?q", "a".repeat(MAX_STORED_LEN - 1));
        assert_eq!(stored(&path), "a".repeat(MAX_STORED_LEN - 1));
    }
}
