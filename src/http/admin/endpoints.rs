//! The table of endpoints.

use super::endpoint::Endpoint;
use super::input::{Json, Query};
use super::operation::Route;
use crate::admin::command::{
    Block, Check, CreateOrg, GetAddressLimits, GetKey, GetKeyLimits, GetOrg, GetStats, KeyRotation,
    ListAudit, ListBlocks, ListKeys, ListOrgs, OverrideLimit, Reload, ResetAddress, ResetKey,
    RestoreLimit, ResumeOrg, RevokeKey, SuspendOrg, Unblock,
};
use crate::admin::{CreateKey, UpdateKey, UpdateOrg};

pub(super) fn all() -> Vec<Endpoint> {
    let groups = [orgs(), keys(), limits(), addresses(), others()];
    groups.into_iter().flatten().collect()
}

fn orgs() -> Vec<Endpoint> {
    vec![
        Route::post("/admin/orgs")
            .summary("Create an organization")
            .creating()
            .run::<Json<CreateOrg>>(),
        Route::get("/admin/orgs")
            .summary("List organizations by id")
            .paged_by("after")
            .run::<Query<ListOrgs>>(),
        Route::get("/admin/orgs/{id}")
            .summary("Show an organization")
            .run::<Query<GetOrg>>(),
        Route::patch("/admin/orgs/{id}")
            .summary("Change the limits of an organization")
            .run::<Json<UpdateOrg>>(),
        Route::post("/admin/orgs/{id}/suspend")
            .summary("Refuse all keys of an organization")
            .run::<Query<SuspendOrg>>(),
        Route::post("/admin/orgs/{id}/resume")
            .summary("Accept the keys of a suspended organization")
            .run::<Query<ResumeOrg>>(),
    ]
}

fn keys() -> Vec<Endpoint> {
    vec![
        Route::post("/admin/keys")
            .summary("Create a key; its text is shown only once")
            .creating()
            .run::<Json<CreateKey>>(),
        Route::get("/admin/keys")
            .summary("List keys by id")
            .paged_by("after")
            .run::<Query<ListKeys>>(),
        Route::get("/admin/keys/{id}")
            .summary("Show a key")
            .run::<Query<GetKey>>(),
        Route::patch("/admin/keys/{id}")
            .summary("Change a key")
            .run::<Json<UpdateKey>>(),
        Route::delete("/admin/keys/{id}")
            .summary("Revoke a key for good")
            .run::<Query<RevokeKey>>(),
        Route::post("/admin/keys/{id}/rotate")
            .summary("Replace the text of a key; the old one is accepted for a while")
            .creating()
            .run::<Json<KeyRotation>>(),
    ]
}

fn limits() -> Vec<Endpoint> {
    vec![
        Route::get("/admin/keys/{id}/limits")
            .summary("Show the state of the limits of a key")
            .run::<Query<GetKeyLimits>>(),
        Route::post("/admin/keys/{id}/reset")
            .summary("Reset the counts of a key")
            .run::<Json<ResetKey>>(),
        Route::post("/admin/keys/{id}/overrides")
            .summary("Override a limit of a key for a time")
            .creating()
            .run::<Json<OverrideLimit>>(),
        Route::delete("/admin/keys/{id}/overrides")
            .summary("End the override of a limit of a key")
            .run::<Query<RestoreLimit>>(),
    ]
}

fn addresses() -> Vec<Endpoint> {
    vec![
        Route::get("/admin/addresses")
            .summary("Show the state of the limits of an IP address")
            .run::<Query<GetAddressLimits>>(),
        Route::post("/admin/addresses/reset")
            .summary("Reset the counts of an IP address")
            .run::<Json<ResetAddress>>(),
        Route::get("/admin/blocks")
            .summary("List all locks")
            .run::<Query<ListBlocks>>(),
        Route::post("/admin/blocks")
            .summary("Lock an IP address out")
            .creating()
            .run::<Json<Block>>(),
        Route::delete("/admin/blocks")
            .summary("End the locks of an IP address, and list them")
            .run::<Query<Unblock>>(),
    ]
}

fn others() -> Vec<Endpoint> {
    vec![
        Route::get("/admin/stats")
            .summary("Show totals and warnings")
            .run::<Query<GetStats>>(),
        Route::get("/admin/audit")
            .summary("List administrative changes, the latest first")
            .paged_by("before")
            .run::<Query<ListAudit>>(),
        Route::post("/admin/check")
            .summary("Show the decision about a request without consuming anything")
            .run::<Json<Check>>(),
        Route::post("/admin/reload")
            .summary("Reload the policy file")
            .run::<Query<Reload>>(),
    ]
}
