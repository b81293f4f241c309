-- Organizations, keys and usage: by the names and columns that dashboards know.

-- Names with the same skeleton look alike.
CREATE TABLE organizations (
    id          bigint PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    skeleton    text NOT NULL UNIQUE,
    status      text NOT NULL CHECK (status IN ('active', 'suspended')),
    created_at  timestamptz NOT NULL,
    limits      text[] NOT NULL DEFAULT '{}',
    overrides   jsonb NOT NULL DEFAULT '[]'
);

-- A key that is neither active nor suspended was revoked. `scopes` are separated by commas. `hashed_key` is the latest credential's hash in hexadecimal
-- digits and `monthly_limit` one of `limits`: both are for display only.
CREATE TABLE api_keys (
    id                     bigint PRIMARY KEY,
    org_id                 bigint NOT NULL REFERENCES organizations,
    label                  text NOT NULL,
    prefix                 text NOT NULL,
    hashed_key             text NOT NULL,
    active                 boolean NOT NULL,
    scopes                 text NOT NULL,
    rate_limit_per_minute  bigint NOT NULL CHECK (rate_limit_per_minute > 0),
    monthly_limit          bigint,
    created_at             timestamptz NOT NULL,
    expires_at             timestamptz,
    last_used_at           timestamptz,
    limits                 text[] NOT NULL DEFAULT '{}',
    allowed_ips            text[] NOT NULL DEFAULT '{}',
    overrides              jsonb NOT NULL DEFAULT '[]',
    suspended              boolean NOT NULL DEFAULT false CHECK (NOT (active AND suspended))
) WITH (fillfactor = 80); -- so that a new `last_used_at` stays on its page

CREATE INDEX api_keys_org ON api_keys (org_id, id);
CREATE INDEX api_keys_prefix ON api_keys (prefix COLLATE "C", id);
CREATE INDEX api_keys_expiry ON api_keys (expires_at) WHERE active AND expires_at IS NOT NULL;

CREATE SEQUENCE usage_logs_id_seq;

CREATE TABLE usage_logs (
    id           bigint NOT NULL DEFAULT nextval('usage_logs_id_seq'),
    key_id       bigint NOT NULL,
    path         text NOT NULL,
    method       text NOT NULL,
    status_code  integer NOT NULL,
    latency_ms   double precision NOT NULL,
    ip           text NOT NULL,
    created_at   timestamptz NOT NULL,
    refused      smallint,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

ALTER SEQUENCE usage_logs_id_seq OWNED BY usage_logs.id;
CREATE INDEX usage_logs_key ON usage_logs (key_id, created_at);
-- Rows are stored nearly in the order of their times, so that the pages of an hour are found by an index of 80 KB
-- for 10 million rows.
CREATE INDEX usage_logs_at ON usage_logs USING brin (created_at) WITH (autosummarize = on);
CREATE INDEX usage_logs_refused ON usage_logs (key_id, created_at) INCLUDE (refused)
    WHERE refused IS NOT NULL;
CREATE TABLE usage_logs_default PARTITION OF usage_logs DEFAULT;

-- One row. Every administrative change locks it, so that changes commit in the order of their
-- generations. `forgotten` is the last generation whose changes are no longer listed.
CREATE TABLE keyguard_state (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation   bigint NOT NULL DEFAULT 0,
    forgotten    bigint NOT NULL DEFAULT 0,
    last_org_id  bigint NOT NULL DEFAULT 0,
    last_key_id  bigint NOT NULL DEFAULT 0,
    orgs         bigint NOT NULL DEFAULT 0,
    keys         bigint NOT NULL DEFAULT 0,
    active_keys  bigint NOT NULL DEFAULT 0
);

INSERT INTO keyguard_state DEFAULT VALUES;

CREATE TABLE keyguard_changes (
    generation  bigint NOT NULL,
    number      integer NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('created', 'key', 'org', 'lock')),
    subject     bigint,
    lock        bytea,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (generation, number)
);

CREATE TABLE keyguard_credentials (
    hash        bytea PRIMARY KEY,
    key_id      bigint NOT NULL REFERENCES api_keys,
    scheme      smallint NOT NULL,
    secret_id   integer NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz
);

CREATE INDEX keyguard_credentials_key ON keyguard_credentials (key_id);

-- `ip` and `until` are for display only.
CREATE TABLE keyguard_locks (
    id     bytea PRIMARY KEY,
    lock   bytea NOT NULL,
    ip     text NOT NULL,
    until  timestamptz NOT NULL
);

-- `details` are not `jsonb`, which refuses some texts.
CREATE TABLE keyguard_audit (
    id       bigint PRIMARY KEY,
    at       timestamptz NOT NULL,
    actor    text NOT NULL,
    ip       text NOT NULL,
    action   text NOT NULL,
    subject  bigint,
    details  json NOT NULL
);

CREATE TABLE keyguard_completed_requests (
    name     bytea PRIMARY KEY,
    request  bytea NOT NULL,
    subject  bigint,
    at       timestamptz NOT NULL
);

CREATE INDEX keyguard_completed_requests_at ON keyguard_completed_requests (at);

-- `at` in milliseconds since the Unix epoch.
CREATE TABLE keyguard_balances (
    subject_id  bigint NOT NULL,
    counter     bytea NOT NULL,
    used        bigint NOT NULL,
    at          bigint NOT NULL,
    PRIMARY KEY (subject_id, counter)
);

-- Batches of usage that were written, so that none is counted twice.
CREATE TABLE keyguard_batches (
    node        bytea NOT NULL,
    sequence    bigint NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node, sequence)
);

-- By name: `requests`, `errors`, `dropped`, and `refused` with a reason behind it.
CREATE TABLE keyguard_totals (
    name   text PRIMARY KEY,
    value  bigint NOT NULL
);

CREATE TABLE keyguard_minutes (
    minute  timestamptz NOT NULL,
    name    text NOT NULL,
    value   bigint NOT NULL,
    PRIMARY KEY (minute, name)
);

CREATE TABLE keyguard_shadow_denied (
    name   text PRIMARY KEY,
    value  bigint NOT NULL
);

CREATE TABLE keyguard_key_totals (
    key_id    bigint PRIMARY KEY,
    requests  bigint NOT NULL,
    errors    bigint NOT NULL
);

CREATE INDEX keyguard_key_totals_top ON keyguard_key_totals (requests DESC, key_id);

CREATE TABLE keyguard_key_hours (
    hour      timestamptz NOT NULL,
    key_id    bigint NOT NULL,
    requests  bigint NOT NULL,
    errors    bigint NOT NULL,
    PRIMARY KEY (hour, key_id)
);

CREATE TABLE keyguard_key_days (
    day       timestamptz NOT NULL,
    key_id    bigint NOT NULL,
    requests  bigint NOT NULL,
    errors    bigint NOT NULL,
    PRIMARY KEY (day, key_id)
);
