//! Events of the crate `tracing` (feature `tracing`).

use std::collections::BTreeMap;
use std::fmt::Debug;

use ::tracing::field::{Field, Visit};
use ::tracing::span::{Attributes, Id, Record};
use ::tracing::{Event, Level, Metadata, Subscriber};
use parking_lot::Mutex;

use crate::common::{Home, IP, check_with};
use keyguard::{CreateKey, Request};

type Fields = BTreeMap<&'static str, String>;

static EVENTS: Mutex<Vec<(Level, Fields)>> = Mutex::new(Vec::new());

/// Keeps the events of all guards in this process.
struct Kept;

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "keyguard"
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = FieldsOf::default();
        event.record(&mut fields);
        EVENTS.lock().push((*event.metadata().level(), fields.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct FieldsOf(Fields);

impl Visit for FieldsOf {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

/// Returns the events with this value in a field.
fn events(name: &str, value: &str) -> Vec<(Level, Fields)> {
    let events = EVENTS.lock();
    let is_meant = |fields: &Fields| fields.get(name).is_some_and(|found| found == value);
    let found = events.iter().filter(|(_, fields)| is_meant(fields));
    found.cloned().collect()
}

#[test]
fn changes_refusals_and_warnings_reach_the_subscriber() {
    ::tracing::subscriber::set_global_default(Kept).unwrap();
    let home = Home::new();
    let file = home.dir().join("policy.toml");
    std::fs::write(&file, "").unwrap();
    let kg = home.open_with(home.config().policy_file(&file));
    kg.admin().create_org("traced").unwrap();
    let created = kg.admin().create_key(CreateKey::new("traced", "shop"));
    let key = created.unwrap().raw_key.expose().to_owned();
    let headers = [("X-API-Key", key.as_str())];
    let path = format!("/traced/{key}\u{1b}[2J");
    let request = Request::new(&headers, IP, &path).scopes(&["traced"]);
    kg.decide(request).unwrap_err();
    check_with(&kg, "nonsense").unwrap_err();
    std::fs::write(&file, "traced = 1").unwrap();
    kg.admin().reload().unwrap_err();
    kg.close().unwrap();

    let created = events("details", r#"{"org_name":"traced"}"#);
    assert_eq!(created.len(), 1, "{created:?}");
    let (level, fields) = &created[0];
    assert_eq!(
        (*level, fields["message"].as_str()),
        (Level::INFO, "changed")
    );
    assert_eq!(fields["actor"], "program");

    let shown = format!("/traced/{}…\\u{{1b}}[2J", &key[..12]);
    let [decision, refused]: [_; 2] = events("path", &shown).try_into().unwrap();
    // By this thread, in its span.
    assert_eq!(decision.0, Level::DEBUG);
    assert_eq!(decision.1["message"], "decision");
    assert_eq!(decision.1["reason"], "missing_scope");
    let (level, fields) = &refused;
    assert_eq!(
        (*level, fields["message"].as_str()),
        (Level::INFO, "refused")
    );
    assert_eq!(fields["reason"], "missing_scope");
    assert_eq!((&*fields["key_id"], &*fields["count"]), ("1", "1"));
    assert!(!fields.contains_key("action"));

    let is_ours = |(_, fields): &&(Level, Fields)| {
        let problem = fields.get("problem");
        problem.is_some_and(|problem| problem.contains("traced"))
    };
    let events = EVENTS.lock();
    let warned = events.iter().find(is_ours).unwrap();
    assert_eq!((warned.0, &*warned.1["message"]), (Level::WARN, "warning"));
}
