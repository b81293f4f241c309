//! The table of endpoints.

use super::endpoint::Endpoint;
use super::input::{Json, Query};
use super::operation::OperationRoute;
use crate::admin::command::{
    Block, Check, CreateOrg, GetIpLimits, GetKey, GetKeyLimits, GetOrg, GetStats, GetUsage,
    ListAudit, ListBlocks, ListKeys, ListOrgs, ListRequests, OverrideLimit, Reload, ResetIp,
    ResetKey, RestoreLimit, ResumeOrg, RevokeKey, RotateKeyCommand, SuspendOrg, TailUsage, Unblock,
};
use crate::admin::{CreateKey, UpdateKey, UpdateOrg};

pub(super) fn all() -> Vec<Endpoint> {
    let groups = [orgs(), keys(), limits(), ips(), others()];
    groups.into_iter().flatten().collect()
}

fn orgs() -> Vec<Endpoint> {
    vec![
        OperationRoute::post("/admin/orgs")
            .summary("Create an organization")
            .creating()
            .run::<Json<CreateOrg>>(),
        OperationRoute::get("/admin/orgs")
            .summary("List organizations by id")
            .paged_by("after")
            .run::<Query<ListOrgs>>(),
        OperationRoute::get("/admin/orgs/{id}")
            .summary("Show an organization")
            .run::<Query<GetOrg>>(),
        OperationRoute::patch("/admin/orgs/{id}")
            .summary("Change the limits of an organization")
            .run::<Json<UpdateOrg>>(),
        OperationRoute::post("/admin/orgs/{id}/suspend")
            .summary("Refuse all keys of an organization")
            .run::<Query<SuspendOrg>>(),
        OperationRoute::post("/admin/orgs/{id}/resume")
            .summary("Accept the keys of a suspended organization")
            .run::<Query<ResumeOrg>>(),
    ]
}

fn keys() -> Vec<Endpoint> {
    vec![
        OperationRoute::post("/admin/keys")
            .summary("Create a key; its text is shown only once")
            .creating()
            .run::<Json<CreateKey>>(),
        OperationRoute::get("/admin/keys")
            .summary("List keys by id")
            .paged_by("after")
            .run::<Query<ListKeys>>(),
        OperationRoute::get("/admin/keys/{id}")
            .summary("Show a key")
            .run::<Query<GetKey>>(),
        OperationRoute::patch("/admin/keys/{id}")
            .summary("Change a key")
            .run::<Json<UpdateKey>>(),
        OperationRoute::delete("/admin/keys/{id}")
            .summary("Revoke a key for good")
            .run::<Query<RevokeKey>>(),
        OperationRoute::post("/admin/keys/{id}/rotate")
            .summary("Replace the text of a key; the old one is accepted for a while")
            .creating()
            .run::<Json<RotateKeyCommand>>(),
    ]
}

fn limits() -> Vec<Endpoint> {
    vec![
        OperationRoute::get("/admin/keys/{id}/limits")
            .summary("Show the state of the limits of a key")
            .run::<Query<GetKeyLimits>>(),
        OperationRoute::post("/admin/keys/{id}/reset")
            .summary("Reset the counts of a key")
            .run::<Json<ResetKey>>(),
        OperationRoute::post("/admin/keys/{id}/overrides")
            .summary("Override a limit of a key for a time")
            .creating()
            .run::<Json<OverrideLimit>>(),
        OperationRoute::delete("/admin/keys/{id}/overrides")
            .summary("End the override of a limit of a key")
            .run::<Query<RestoreLimit>>(),
    ]
}

fn ips() -> Vec<Endpoint> {
    vec![
        OperationRoute::get("/admin/ips")
            .summary("Show the state of the limits of an IP address")
            .run::<Query<GetIpLimits>>(),
        OperationRoute::post("/admin/ips/reset")
            .summary("Reset the counts of an IP address")
            .run::<Json<ResetIp>>(),
        OperationRoute::get("/admin/blocks")
            .summary("List all locks")
            .run::<Query<ListBlocks>>(),
        OperationRoute::post("/admin/blocks")
            .summary("Lock an IP address out")
            .creating()
            .run::<Json<Block>>(),
        OperationRoute::delete("/admin/blocks")
            .summary("End the locks of an IP address, and list them")
            .run::<Query<Unblock>>(),
    ]
}

fn others() -> Vec<Endpoint> {
    vec![
        OperationRoute::get("/admin/stats")
            .summary("Show totals and warnings")
            .run::<Query<GetStats>>(),
        OperationRoute::get("/admin/usage")
            .summary("Count recorded requests by time, key, path, status, address or reason")
            .run::<Query<GetUsage>>(),
        OperationRoute::get("/admin/usage/requests")
            .summary("List recorded requests in the order of recording")
            .run::<Query<ListRequests>>(),
        OperationRoute::get("/admin/usage/tail")
            .summary("Show the latest requests of this process")
            .run::<Query<TailUsage>>(),
        OperationRoute::get("/admin/audit")
            .summary("List administrative changes, the latest first")
            .paged_by("before")
            .run::<Query<ListAudit>>(),
        OperationRoute::post("/admin/check")
            .summary("Show the decision about a request without consuming anything")
            .run::<Json<Check>>(),
        OperationRoute::post("/admin/reload")
            .summary("Reload the policy file")
            .run::<Query<Reload>>(),
    ]
}
