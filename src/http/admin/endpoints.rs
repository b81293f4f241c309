//! The table of endpoints.

use super::endpoint::Endpoint;
use super::input::{Json, Query};
use super::operation::Tag;
use crate::admin::command::{
    Block, Check, CreateOrg, Diagnose, GetIpLimits, GetKey, GetKeyLimits, GetOrg, GetStats,
    GetUsage, ListAudit, ListBlocks, ListKeys, ListOrgs, ListRequests, OverrideLimit, Reload,
    ResetIp, ResetKey, RestoreLimit, ResumeKey, ResumeOrg, RevokeKey, RotateKeyCommand, SuspendKey,
    SuspendOrg, TailUsage, Unblock,
};
use crate::admin::{CreateKey, UpdateKey, UpdateOrg};

pub(super) fn all() -> Vec<Endpoint> {
    let groups = [orgs(), keys(), limits(), ips(), others()];
    groups.into_iter().flatten().collect()
}

fn orgs() -> Vec<Endpoint> {
    vec![
        Tag::Organizations
            .post("/admin/orgs")
            .summary("Create an organization")
            .creating()
            .run::<Json<CreateOrg>>(),
        Tag::Organizations
            .get("/admin/orgs")
            .summary("List organizations by id")
            .paged_by("after")
            .run::<Query<ListOrgs>>(),
        Tag::Organizations
            .get("/admin/orgs/{id}")
            .summary("Show an organization")
            .run::<Query<GetOrg>>(),
        Tag::Organizations
            .patch("/admin/orgs/{id}")
            .summary("Change the limits of an organization")
            .run::<Json<UpdateOrg>>(),
        Tag::Organizations
            .post("/admin/orgs/{id}/suspend")
            .summary("Refuse all keys of an organization")
            .run::<Query<SuspendOrg>>(),
        Tag::Organizations
            .post("/admin/orgs/{id}/resume")
            .summary("Accept the keys of a suspended organization")
            .run::<Query<ResumeOrg>>(),
    ]
}

fn keys() -> Vec<Endpoint> {
    vec![
        Tag::Keys
            .post("/admin/keys")
            .summary("Create a key; its text is shown only once")
            .creating()
            .run::<Json<CreateKey>>(),
        Tag::Keys
            .get("/admin/keys")
            .summary("List keys by id")
            .paged_by("after")
            .run::<Query<ListKeys>>(),
        Tag::Keys
            .get("/admin/keys/{id}")
            .summary("Show a key")
            .run::<Query<GetKey>>(),
        Tag::Keys
            .patch("/admin/keys/{id}")
            .summary("Change a key")
            .run::<Json<UpdateKey>>(),
        Tag::Keys
            .delete("/admin/keys/{id}")
            .summary("Revoke a key for good")
            .run::<Query<RevokeKey>>(),
        Tag::Keys
            .post("/admin/keys/{id}/suspend")
            .summary("Refuse a key until it is resumed")
            .run::<Query<SuspendKey>>(),
        Tag::Keys
            .post("/admin/keys/{id}/resume")
            .summary("Accept a suspended key")
            .run::<Query<ResumeKey>>(),
        Tag::Keys
            .post("/admin/keys/{id}/rotate")
            .summary("Replace the text of a key; the old one is accepted for a while")
            .creating()
            .run::<Json<RotateKeyCommand>>(),
    ]
}

fn limits() -> Vec<Endpoint> {
    vec![
        Tag::Limits
            .get("/admin/keys/{id}/limits")
            .summary("Show the state of the limits of a key")
            .run::<Query<GetKeyLimits>>(),
        Tag::Limits
            .post("/admin/keys/{id}/reset")
            .summary("Reset the counts of a key")
            .run::<Json<ResetKey>>(),
        Tag::Limits
            .post("/admin/keys/{id}/overrides")
            .summary("Override a limit of a key for a time")
            .creating()
            .run::<Json<OverrideLimit>>(),
        Tag::Limits
            .delete("/admin/keys/{id}/overrides")
            .summary("End the override of a limit of a key")
            .run::<Query<RestoreLimit>>(),
    ]
}

fn ips() -> Vec<Endpoint> {
    vec![
        Tag::Addresses
            .get("/admin/ips")
            .summary("Show the state of the limits of an IP address")
            .run::<Query<GetIpLimits>>(),
        Tag::Addresses
            .post("/admin/ips/reset")
            .summary("Reset the counts of an IP address")
            .run::<Json<ResetIp>>(),
        Tag::Addresses
            .get("/admin/blocks")
            .summary("List all locks")
            .run::<Query<ListBlocks>>(),
        Tag::Addresses
            .post("/admin/blocks")
            .summary("Lock an IP address out")
            .creating()
            .run::<Json<Block>>(),
        Tag::Addresses
            .delete("/admin/blocks")
            .summary("End the locks of an IP address, and list them")
            .run::<Query<Unblock>>(),
    ]
}

fn others() -> Vec<Endpoint> {
    vec![
        Tag::Usage
            .get("/admin/stats")
            .summary("Show totals and warnings")
            .run::<Query<GetStats>>(),
        Tag::Usage
            .get("/admin/usage")
            .summary("Count recorded requests by time, key, path, status, address or reason")
            .run::<Query<GetUsage>>(),
        Tag::Usage
            .get("/admin/usage/requests")
            .summary("List recorded requests in the order of recording")
            .run::<Query<ListRequests>>(),
        Tag::Usage
            .get("/admin/usage/tail")
            .summary("Show the latest requests of this process")
            .run::<Query<TailUsage>>(),
        Tag::Service
            .get("/admin/audit")
            .summary("List administrative changes, the latest first")
            .paged_by("before")
            .run::<Query<ListAudit>>(),
        Tag::Service
            .get("/admin/diagnosis")
            .summary("Show warnings, weak points, and keys that are unused or expire soon")
            .run::<Query<Diagnose>>(),
        Tag::Decisions
            .post("/admin/check")
            .summary("Show the decision about a request without consuming anything")
            .run::<Json<Check>>(),
        Tag::Service
            .post("/admin/reload")
            .summary("Reload the policy file")
            .run::<Query<Reload>>(),
    ]
}
