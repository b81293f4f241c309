//! The reference of the fields of policies, made from the parser and the documentation in its source.
//!
//! `KEYGUARD_BLESS=1 cargo test --all-features --test examples policy_fields` writes the page again.

use std::fs;
use std::path::Path;

use keyguard::Policy;

const PAGE: &str = "src/manual/policy_fields.md";

const POLICY: &str = include_str!("../../src/policy/mod.rs");
const ROUTE: &str = include_str!("../../src/policy/route.rs");
const PATTERN: &str = include_str!("../../src/policy/path/pattern.rs");

/// A table of a policy file.
struct Table {
    heading: &'static str,
    /// The lines before a field of the table, in a policy that is valid without the field.
    before: &'static str,
    source: &'static str,
    type_name: &'static str,
    /// Names, types and examples of the fields.
    fields: &'static [(&'static str, &'static str, &'static str)],
}

const TABLES: [Table; 3] = [
    Table {
        heading: "The policy",
        before: "",
        source: POLICY,
        type_name: "Policy",
        fields: &[
            ("protect", "paths", r#"["/api"]"#),
            ("exempt", "exact paths", r#"["GET /api/health"]"#),
            ("route", "tables", r#"[{ name = "a", path = "/a" }]"#),
            ("ignore_case", "boolean", "true"),
            ("trusted_proxies", "addresses", r#"["10.0.0.0/8"]"#),
            (
                "client_ip_header",
                "name of a header field",
                r#""x-real-ip""#,
            ),
            ("require_client_ip", "boolean", "true"),
            ("nat64_prefixes", "IPv6 networks", r#"["2001:db8:64::/96"]"#),
            ("allow", "addresses", r#"["10.0.0.0/8", "local"]"#),
            ("deny", "addresses", r#"["203.0.113.0/24"]"#),
            ("never_lock", "addresses", r#"["192.0.2.7"]"#),
            ("key_limits", "limits", r#"["50/s"]"#),
            ("org_limits", "limits", r#"["20000 daily"]"#),
            ("lockout", "table", "{ threshold = 20 }"),
        ],
    },
    Table {
        heading: "`[lockout]`",
        before: "[lockout]\n",
        source: POLICY,
        type_name: "Lockout",
        fields: &[
            ("threshold", "number", "20"),
            ("steps", "durations", r#"["1 min", "1 hour"]"#),
            ("decay", "duration", r#""1 hour""#),
        ],
    },
    Table {
        heading: "`[[route]]`",
        before: "[[route]]\n",
        source: ROUTE,
        type_name: "Route",
        fields: &[
            ("name", "text", r#""orders""#),
            ("path", "path", r#""POST /api/orders""#),
            ("protect", "boolean", "false"),
            ("scopes", "scopes", r#"["orders:write"]"#),
            ("limits", "limits", r#"["10/s"]"#),
            ("ip_limits", "limits", r#"["10/s"]"#),
            ("lockout", "duration or time of day", r#""5 minutes""#),
            ("cost", "number", "5"),
            ("shadow", "boolean", "true"),
        ],
    },
];

/// Words of the column `type`, and the types whose documentation explains them.
const TYPES: [(&str, &str, &str, &str); 6] = [
    (
        "addresses",
        r#"["192.0.2.7", "10.0.0.0/8"]"#,
        include_str!("../../src/net/cidr_set.rs"),
        "CidrSet",
    ),
    (
        "duration",
        r#""90 s""#,
        include_str!("../../src/time/duration.rs"),
        "LockDuration",
    ),
    ("exact path", r#""GET /health""#, PATTERN, "ExactPath"),
    (
        "limit",
        r#""600/min""#,
        include_str!("../../src/limit/spec.rs"),
        "Limit",
    ),
    ("path", r#""POST /api/orders""#, PATTERN, "Pattern"),
    (
        "scope",
        r#""orders:write""#,
        include_str!("../../src/model/scope.rs"),
        "Scope",
    ),
];

impl Table {
    /// The names of the fields, from the error of the parser about another name.
    fn names(&self) -> Vec<String> {
        let policy = format!("{}unknown = 1", self.before);
        let error = policy.parse::<Policy>().unwrap_err().to_string();
        let (_, names) = error.split_once(", expected one of ").expect(&error);
        let names = names.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect()
    }

    /// A policy with these values of some fields, which has what the others need.
    fn policy(&self, values: &[(&str, &str)]) -> String {
        let mut text = self.before.to_owned();
        if self.type_name == "Route" {
            for (name, value) in [
                ("name", "\"a\""),
                ("path", "\"/a\""),
                ("ip_limits", "[\"9/s\"]"),
            ] {
                if !values.iter().any(|(given, _)| *given == name) {
                    text += &format!("{name} = {value}\n");
                }
            }
        }
        for (name, value) in values {
            text += &format!("{name} = {value}\n");
        }
        text
    }

    /// The first paragraph of the documentation of a field, or of the setter that has its name.
    fn docs(&self, field: &str) -> String {
        let body = format!("pub struct {} {{", self.type_name);
        let (_, body) = self.source.split_once(&body).unwrap();
        let (body, _) = body.split_once("\n}").unwrap();
        let of_field = docs_before(body, &format!("{field}: "));
        let docs = match of_field.is_empty() {
            true => docs_before(self.source, &format!("fn {field}(")),
            false => of_field,
        };
        let paragraph = docs.split(|line| line.is_empty()).next();
        let text = unlinked(&paragraph.expect(field).join(" "));
        text.replace(&format!("`{}::", self.type_name), "`")
    }

    fn render(&self) -> String {
        let mut page = format!(
            "\n## {}\n\n| field | type | example | default | meaning |\n|---|---|---|---|---|\n",
            self.heading
        );
        for (name, words, example) in self.fields {
            let (meaning, default) = meaning_and_default(&self.docs(name));
            page += &format!("| `{name}` | {words} | `{example}` | {default} | {meaning} |\n");
        }
        page
    }
}

/// Whether a line of code defines something that begins with `start`.
fn is_item(line: &str, start: &str) -> bool {
    let line = line.trim_start();
    let line = line
        .strip_prefix("pub")
        .map_or(line, |rest| match rest.split_once(") ") {
            Some((scope, rest)) if scope.starts_with('(') => rest,
            _ => rest.trim_start(),
        });
    line.starts_with(start)
}

/// The lines of the documentation of the first documented item that begins with `start`.
fn docs_before<'s>(source: &'s str, start: &str) -> Vec<&'s str> {
    let mut docs = Vec::new();
    for line in source.lines() {
        let code = line.trim_start();
        match code.strip_prefix("///") {
            Some(doc) => docs.push(doc.trim()),
            None if is_item(line, start) && !docs.is_empty() => break,
            None if code.starts_with("#[") => {}
            None => docs.clear(),
        }
    }
    docs
}

/// The text with its links to Rust items as plain text.
fn unlinked(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        let (label, target) = after.split_once(']').unwrap_or((after, ""));
        let is_link = label.starts_with('`') || target.starts_with('(');
        plain += before;
        rest = match target
            .strip_prefix('(')
            .and_then(|target| target.split_once(')'))
        {
            Some((_, rest)) if is_link => rest,
            _ if is_link => target,
            _ => {
                plain.push('[');
                rest = after;
                continue;
            }
        };
        plain += label;
    }
    plain + rest
}

/// Separates the default from the rest.
fn meaning_and_default(docs: &str) -> (String, String) {
    if let Some(meaning) = docs.strip_suffix(" Required.") {
        return (meaning.to_owned(), "required".to_owned());
    }
    let Some((meaning, default)) = docs.split_once(" Default: ") else {
        return (docs.to_owned(), String::new());
    };
    match default.split_once(". ") {
        Some((default, rest)) => (format!("{meaning} {rest}"), default.to_owned()),
        None => (meaning.to_owned(), default.trim_end_matches('.').to_owned()),
    }
}

/// The default as a value of TOML, if it is one.
fn value(default: &str) -> Option<String> {
    Some(match default {
        "none" | "all" => "[]".to_owned(),
        "24 hours" => r#"["24 hours"]"#.to_owned(),
        "a day" => r#""1 day""#.to_owned(),
        "`false`" => "false".to_owned(),
        "`X-Forwarded-For`" => r#""x-forwarded-for""#.to_owned(),
        _ => return None,
    })
}

fn page() -> String {
    let mut page = "# Policy fields\n\n\
        Every field of [a policy][policy], with the documentation of the setter of the same name in Rust. \
        Unknown fields are\nrefused.\n"
        .to_owned();
    page.extend(TABLES.iter().map(Table::render));
    page += "\n## Types\n\n| type | example | meaning |\n|---|---|---|\n";
    for (words, example, source, type_name) in TYPES {
        let docs = docs_before(source, &format!("struct {type_name}"));
        let text = docs
            .iter()
            .take_while(|line| !line.starts_with("```") && !line.starts_with('|'));
        let text = text.filter(|line| !line.is_empty()).copied();
        let meaning = unlinked(&text.collect::<Vec<_>>().join(" "));
        page += &format!("| {words} | `{example}` | {meaning} |\n");
    }
    page + "\n[Limits][limits] explains the forms of limits.\n\n[limits]: limits.md\n[policy]: policy.md\n"
}

#[test]
fn page_has_the_fields_of_the_parser() {
    for table in TABLES {
        let documented = table.fields.iter().map(|(name, ..)| *name);
        assert_eq!(documented.collect::<Vec<_>>(), table.names());
    }
}

#[test]
fn examples_are_valid_and_differ_from_the_defaults() {
    for table in TABLES {
        let without: Policy = table.policy(&[]).parse().unwrap();
        for (name, _, example) in table.fields {
            let policy: Result<Policy, _> = table.policy(&[(name, example)]).parse();
            assert_ne!(policy.expect(name), without, "{name}");
        }
    }
}

#[test]
fn defaults_are_those_of_the_parser() {
    let mut compared = 0;
    for table in TABLES {
        let without: Policy = table.policy(&[]).parse().unwrap();
        for (name, ..) in table.fields {
            let (_, default) = meaning_and_default(&table.docs(name));
            if let Some(value) = value(&default).filter(|_| *name != "ip_limits") {
                let policy: Policy = table.policy(&[(name, &value)]).parse().expect(name);
                assert_eq!(policy, without, "{name}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 17);
}

#[test]
fn page_is_made_from_the_source() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    match std::env::var_os("KEYGUARD_BLESS") {
        Some(_) => fs::write(file, page()).unwrap(),
        None => assert_eq!(fs::read_to_string(file).unwrap(), page()),
    }
}
