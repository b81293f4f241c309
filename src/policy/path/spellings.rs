//! Tests of path spellings used by attackers and browsers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::readings::{Readings, readings};
use super::*;
use crate::model::Method;

/// Spellings that some server reads as `/api` or a path below it.
const API: &[&str] = &[
    // Canonical.
    "/api",
    "/api/",
    "/api/x",
    "/api?x=/y",
    "/api/x/y?z#",
    // Slashes and dots.
    "//api",
    "///api//x",
    "/./api",
    "/api/.",
    "/api/x/..",
    "/x/../api",
    "/../api",
    "/../../api/",
    "/x/y/../../api",
    "/x/./../api",
    "/x//../api",
    "/x/..//api",
    "//x/api",
    // Escapes.
    "/%61pi",
    "/%61%70%69",
    "/ap%69?x",
    "%2fapi",
    "/%2fapi",
    "/%2Fapi%2Fx",
    "/api%2fx",
    "/x/%2e%2e/api",
    "/x/.%2E/api",
    "/x/..%2fapi",
    "/x%2f..%2fapi",
    "/x%2F%2e%2E%2Fapi",
    "/%2e/api",
    "/%2561pi",
    "/%252561pi",
    "/%25%36%31pi",
    "/x/%252e%252e/api",
    "/x%252f..%252fapi",
    "/%zz/../api",
    "/%/../%61pi",
    // Backslashes.
    "\\api",
    "/\\api",
    "/x\\..\\api",
    "/x/..\\api",
    "/x/..%5capi",
    "/x%5C..%5Capi",
    "/x%255c..%255capi",
    "/api\\x",
    // Parameters.
    "/api;v=1",
    "/api;/x",
    "/x;/../api",
    "/..;/api",
    "/x/..;/api",
    "/x/..;a=b/api",
    "/x/..%3b/api",
    "/;a/api",
    // Ends of segments.
    "/api.",
    "/api./x",
    "/api...",
    "/api%20",
    "/api%20/x",
    "/api .",
    "/api. /x",
    "/api%2e",
    "/api.%20.?x",
    "/x/..%20/api",
    "/x/.. /api",
    "/.../api",
    "/x/../api.",
    "/api%0a",
    "/api%09/x",
    "/api%0d%0a?x",
    "/api%0b",
    "/api%0c",
    "/api%1f",
    "/api%7f",
    "/api%85",
    "/api%a0",
    "/api%c2%85",
    "/api%c2%a0/x",
    "/api%e2%80%89",
    "/api%e3%80%80",
    "/api%ef%bb%bf",
    "/api%250a",
    "/api.%0a",
    "/api%0a.",
    // Beginnings of segments.
    "/%20api",
    "/%0aapi/x",
    "/%a0api",
    "/%c2%a0%20api%09",
    "%20/api",
    "/x/..%09/api",
    "/x/%0b../api",
    // Ends.
    "/api%00.png",
    "/api%2500.png",
    "/api\0",
    "/api%3Fx",
    "/api%23x",
    "/api#x",
    "/x#/../api",
    "/x%23/../api",
    "/x%3f/../api",
    // Overlong bytes.
    "/%c0%afapi",
    "/%C1%A1pi",
    "/x/%c0%ae%c0%ae/api",
    "/x/..%c0%afapi",
    "/x/..%c1%9capi",
    "/x/..%c1%1capi",
    "/x/..%e0%80%afapi",
    "/x/%e0%80%ae%e0%80%ae/api",
    "/x/..%f0%80%80%afapi",
    "/x/..%25c0%25afapi",
    // Other forms of a target.
    "http://host/api",
    "HTTPS://user:pass@host:443/api?x",
    "http://host//api",
    "http://host/x/../%61pi",
    "http:\\\\host\\api",
    "api",
    "api/x",
    "./api",
    "../api",
];

/// Spellings that no server reads as `/api`.
const NOT_API: &[&str] = &[
    "",
    "/",
    "*",
    "?/api",
    "/?/api",
    "/apiary",
    "/ap",
    "/api-x",
    "/api,x",
    "/api:x",
    "/api=",
    "/x/api",
    "/x/api/",
    "/x?/../api",
    "/x/../apiary",
    "/files/a%25b",
    "/files/a%20b",
    "/%zz",
    "/%61",
    "/%61piary",
    "/api.x",
    "/api%20x",
    "/api%2",
    "/api%",
    "/caf\u{e9}",
    "/caf%C3%A9",
    "/api%C3%A0",
    "/api%0ax",
    "/ap%0ai",
    "/%20apiary%0a",
    "/x/%61pi",
    "/x;/api",
    "/..api",
    "/...x/api",
    "http://api",
    "http://api/",
    "http://host/apiary",
    "http://host/x/api",
    "host:443",
];

fn matches(pattern: &str, target: &str, ignore_case: bool) -> bool {
    let pattern: Pattern = pattern.parse().unwrap();
    let matched = Matcher::new([&pattern], ignore_case).matching(target, Method::Get);
    !matched.unwrap().is_empty()
}

#[test]
fn all_spellings_of_a_protected_path_match() {
    for target in API {
        assert_ne!(readings(target), Readings::Unreadable, "{target}");
        assert!(matches("/api", target, false), "{target}");
        assert!(matches("/api", target, true), "{target}");
        assert!(matches("/", target, false), "{target}");
    }
}

#[test]
fn other_paths_do_not_match() {
    for target in NOT_API {
        assert!(!matches("/api", target, false), "{target}");
        assert!(!matches("/api", target, true), "{target}");
        assert!(matches("/", target, false), "{target}");
    }
}

#[test]
fn case_matters_unless_it_is_ignored() {
    let long = format!("/API/{}", "x".repeat(300));
    for target in ["/API", "/Api/X", "/x/../aPI", "/AP%49", "/%41pi", &long] {
        assert!(!matches("/api", target, false), "{target}");
        assert!(matches("/api", target, true), "{target}");
        assert!(matches("/API", target, true), "{target}");
    }
    assert!(matches("/API", "/API", false));
    assert!(!matches("/API", "/api", false));
    assert!(!matches("/api", "/APIARY", true));
}

#[test]
fn only_the_exact_path_is_exempt() {
    let exempt: ExactPath = "/api".parse().unwrap();
    for target in API.iter().chain(NOT_API) {
        let expected = matches!(*target, "/api" | "/api?x=/y");
        assert_eq!(exempt.matches(target, Method::Get), expected, "{target}");
    }
}

/// A pattern matches a plain path that begins with its segments.
fn covers(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut wanted = pattern.split('/').filter(|segment| !segment.is_empty());
    wanted.all(|wanted| {
        let segment = segments.next();
        segment.is_some_and(|segment| wanted == "*" || wanted == segment)
    })
}

fn encoded(byte: u8, times: u8) -> String {
    match times {
        0 => char::from(byte).to_string(),
        1 => format!("%{byte:02X}"),
        _ => format!("%25{byte:02x}"),
    }
}

fn plain_path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        4 => select(&["a", "b", "api", "api2", "A", "...a"][..]).prop_map(str::to_owned),
        1 => "[a-z0-9_~:@!$&'()*+,=-]{1,6}",
    ];
    let path = (vec(segment, 0..5), select(&["", "/"][..]));
    path.prop_map(|(segments, end)| match segments.is_empty() {
        true => "/".to_owned(),
        false => format!("/{}{end}", segments.join("/")),
    })
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = select(&["a", "b", "api", "api2", "A", "*"][..]);
    vec(segment, 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// Fragments that path parsers disagree about.
fn odd_target() -> impl Strategy<Value = String> {
    let part = select(
        &[
            "/", "a", "api", ".", "..", "%", "%2", "%2f", "%5C", "%25", "%00", "%c0", "%af",
            "%e0%80", " ", "%20", "\\", ";", "=", "?", "#", "\0", "é", "http:", "//", "%3b", "%61",
            "A",
        ][..],
    );
    vec(part, 0..12).prop_map(|parts| parts.concat())
}

fn parsed(patterns: &[String]) -> Vec<Pattern> {
    patterns.iter().map(|text| text.parse().unwrap()).collect()
}

proptest! {
    #[test]
    fn no_target_and_no_pattern_panics(text in ".{0,40}", odd in odd_target()) {
        for text in [text, odd] {
            let _ = text.parse::<ExactPath>();
            let pattern = text.parse().unwrap_or_else(|_| "/api".parse::<Pattern>().unwrap());
            for ignore_case in [false, true] {
                Matcher::new([&pattern], ignore_case).matching(&text, Method::Get);
            }
        }
    }

    #[test]
    fn readings_are_few_and_only_plain_paths_are_exempt(target in odd_target()) {
        match readings(&target) {
            Readings::Several(texts) => {
                prop_assert!((1..=32).contains(&texts.len()));
                prop_assert!(texts.iter().all(|text| text.len() <= target.len() + 1));
                let path = target.split('?').next().unwrap();
                if let Ok(exempt) = path.parse::<ExactPath>() {
                    prop_assert!(!exempt.matches(&target, Method::Get));
                }
            }
            Readings::Plain(path) => prop_assert!(target.starts_with(path)),
            Readings::Unreadable => {}
        }
    }

    #[test]
    fn a_plain_path_matches_by_its_segments(
        patterns in vec(pattern(), 0..20),
        path in plain_path(),
        query in select(&["", "?", "?x=%2f"][..]),
    ) {
        prop_assert_eq!(readings(&path), Readings::Plain(&path));
        let matcher = Matcher::new(&parsed(&patterns), false);
        let matched = matcher.matching(&format!("{path}{query}"), Method::Get).unwrap();
        let expected: Vec<u16> = (0u16..)
            .zip(&patterns)
            .filter(|(_, pattern)| covers(pattern, &path))
            .map(|(index, _)| index)
            .collect();
        prop_assert_eq!(matched.to_vec(), expected);
    }

    #[test]
    fn an_encoded_path_matches_what_it_matched(
        patterns in vec(pattern(), 1..20),
        path in plain_path(),
        times in vec((any::<Index>(), 1..=2u8), 0..6),
    ) {
        let mut parts: Vec<String> = path.bytes().map(|byte| encoded(byte, 0)).collect();
        for (index, times) in times {
            let at = index.index(parts.len());
            parts[at] = encoded(path.as_bytes()[at], times);
        }
        let matcher = Matcher::new(&parsed(&patterns), false);
        let plain = matcher.matching(&path, Method::Get).unwrap();
        let encoded = matcher.matching(&parts.concat(), Method::Get).unwrap();
        prop_assert!(plain.iter().all(|index| encoded.contains(index)));
    }

    #[test]
    fn a_pattern_that_covers_one_reading_matches(
        patterns in vec(pattern(), 1..10),
        target in odd_target(),
    ) {
        let matched = Matcher::new(&parsed(&patterns), false).matching(&target, Method::Get);
        let readings = readings(&target);
        prop_assert_eq!(matched.is_none(), readings == Readings::Unreadable);
        let matched = matched.unwrap_or_default();
        prop_assert!(matched.is_sorted_by(|a, b| a < b));
        if let Readings::Several(texts) = readings {
            for (index, pattern) in (0u16..).zip(&patterns) {
                let covered = texts.iter().any(|text| {
                    let text = String::from_utf8_lossy(text);
                    covers(pattern, &text)
                });
                prop_assert!(!covered || matched.contains(&index), "{} {}", pattern, target);
            }
        }
    }
}
