//! The trace of a request (W3C Trace Context).

use http::HeaderMap;

/// The largest length of `tracestate` that is passed on.
const MAX_STATE: usize = 512;

/// The span of the caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    /// 32 hexadecimal digits.
    pub(super) trace_id: String,
    /// 16 hexadecimal digits.
    pub(super) parent_id: String,
    pub(super) state: String,
}

impl TraceContext {
    /// Reads the trace of a request; `None` without a valid one, and if it is not sampled.
    pub(super) fn sampled(headers: &HeaderMap) -> Option<Self> {
        let ids = ids(traceparent(headers)?).filter(|ids| ids.is_sampled)?;
        let states = headers.get_all("tracestate").iter();
        let states: Vec<&str> = states.filter_map(|state| state.to_str().ok()).collect();
        let state = states.join(",");
        Some(Self {
            trace_id: ids.trace.to_owned(),
            parent_id: ids.parent.to_owned(),
            state: match state.len() <= MAX_STATE {
                true => state,
                false => String::new(),
            },
        })
    }
}

/// Returns the id of the trace of a request, sampled or not.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    Some(ids(traceparent(headers)?)?.trace)
}

/// Returns the one `traceparent` of a request.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut parents = headers.get_all("traceparent").iter();
    match (parents.next(), parents.next()) {
        (Some(parent), None) => parent.to_str().ok(),
        _ => None,
    }
}

struct Ids<'t> {
    trace: &'t str,
    parent: &'t str,
    is_sampled: bool,
}

/// Parses `VERSION-TRACE-PARENT-FLAGS`. Later versions may have further fields.
fn ids(text: &str) -> Option<Ids<'_>> {
    let mut fields = text.trim().split('-');
    let [version, trace, parent, flags] = std::array::from_fn(|_| fields.next());
    let (version, flags) = (hex(version?, 2)?, hex(flags?, 2)?);
    let (trace, parent) = (hex(trace?, 32)?, hex(parent?, 16)?);
    let is_known = version != "ff" && (version != "00" || fields.next().is_none());
    let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (is_known && !is_zero(trace) && !is_zero(parent)).then_some(Ids {
        trace,
        parent,
        is_sampled,
    })
}

fn hex(text: &str, len: usize) -> Option<&str> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == len && text.bytes().all(is_digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn context(parents: &[&str]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append("traceparent", HeaderValue::from_str(parent).unwrap());
        }
        for state in ["a=1", "b=2"] {
            headers.append("tracestate", HeaderValue::from_static(state));
        }
        TraceContext::sampled(&headers)
    }

    #[test]
    fn a_sampled_trace_is_continued() {
        let expected = TraceContext {
            trace_id: TRACE.to_owned(),
            parent_id: PARENT.to_owned(),
            state: "a=1,b=2".to_owned(),
        };
        for text in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-ff"),
            format!("01-{TRACE}-{PARENT}-01-more"),
        ] {
            assert_eq!(context(&[&text]).as_ref(), Some(&expected), "{text}");
        }
    }

    #[test]
    fn other_requests_have_no_trace() {
        let valid = format!("00-{TRACE}-{PARENT}-01");
        assert_eq!(context(&[]), None);
        assert_eq!(context(&[&valid, &valid]), None);
        for text in [
            String::new(),
            format!("00-{TRACE}-{PARENT}-00"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", &TRACE[1..]),
        ] {
            assert_eq!(context(&[&text]), None, "{text}");
        }
    }
}
