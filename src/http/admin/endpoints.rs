//! The table of endpoints.

use super::endpoint::Endpoint;
use super::input::{Json, Query};
use super::inputs::{
    Address, AuditPage, Blocked, KeyChanges, KeyPage, KeyReset, KeyRotation, NewOrg, NewOverride,
    OrgChanges, OrgPage, RuleName,
};
use super::operation::Route;
use crate::admin::answer::{
    Check, CheckReply, Command, ListKeys, ListedKey, NewKeyReply, OrgReply, Reloaded, StatsReply,
    Whose,
};
use crate::admin::{Admin, AdminError};
use crate::guard::RuleState;
use crate::lockout::Lock;
use crate::model::{AuditEntry, KeyId, OrgId};

pub(super) fn all() -> Vec<Endpoint> {
    let groups = [orgs(), keys(), limits(), addresses(), others()];
    groups.into_iter().flatten().collect()
}

fn orgs() -> Vec<Endpoint> {
    let name = |admin: &Admin, id: u64| -> Result<String, AdminError> {
        Ok(admin.get_org(OrgId(id))?.name)
    };
    vec![
        Route::post("/admin/orgs", "createOrg")
            .summary("Create an organization")
            .creating()
            .run::<OrgReply, _>(|_, _, Json(NewOrg { org_name })| {
                Ok(Command::CreateOrg { org_name })
            }),
        Route::get("/admin/orgs", "listOrgs")
            .summary("List organizations by id")
            .paged_by("after")
            .run::<Vec<OrgReply>, _>(|_, _, Query(OrgPage { after, limit })| {
                let (after, limit) = (after.map(OrgId), limit.0);
                Ok(Command::ListOrgs { after, limit })
            }),
        Route::get("/admin/orgs/{id}", "getOrg")
            .summary("Show an organization")
            .run::<OrgReply, _>(|_, id, ()| Ok(Command::FindOrg { id: OrgId(id) })),
        Route::patch("/admin/orgs/{id}", "updateOrg")
            .summary("Change the limits of an organization")
            .run::<OrgReply, _>(move |admin, id, Json(OrgChanges { limits })| {
                let org_name = name(admin, id)?;
                Ok(Command::UpdateOrg { org_name, limits })
            }),
        Route::post("/admin/orgs/{id}/suspend", "suspendOrg")
            .summary("Refuse all keys of an organization")
            .run::<OrgReply, _>(move |admin, id, ()| {
                let org_name = name(admin, id)?;
                Ok(Command::SuspendOrg { org_name })
            }),
        Route::post("/admin/orgs/{id}/resume", "resumeOrg")
            .summary("Accept the keys of a suspended organization")
            .run::<OrgReply, _>(move |admin, id, ()| {
                let org_name = name(admin, id)?;
                Ok(Command::ResumeOrg { org_name })
            }),
    ]
}

fn keys() -> Vec<Endpoint> {
    vec![
        Route::post("/admin/keys", "createKey")
            .summary("Create a key; its text is shown only once")
            .creating()
            .run::<NewKeyReply, _>(|_, _, Json(key)| Ok(Command::CreateKey(key))),
        Route::get("/admin/keys", "listKeys")
            .summary("List keys by id")
            .paged_by("after")
            .run::<Vec<ListedKey>, _>(|admin, _, Query::<KeyPage>(page)| {
                Ok(Command::ListKeys(ListKeys {
                    org_id: page.org_id(admin)?,
                    after: page.after.map(KeyId),
                    limit: page.limit.0,
                }))
            }),
        Route::get("/admin/keys/{id}", "getKey")
            .summary("Show a key")
            .run::<ListedKey, _>(|_, id, ()| {
                let key = id.to_string();
                Ok(Command::FindKey { key })
            }),
        Route::patch("/admin/keys/{id}", "updateKey")
            .summary("Change a key")
            .run::<ListedKey, _>(|_, id, Json::<KeyChanges>(changes)| {
                Ok(Command::UpdateKey(changes.of_key(id)))
            }),
        Route::delete("/admin/keys/{id}", "revokeKey")
            .summary("Revoke a key for good")
            .run::<ListedKey, _>(|_, id, ()| {
                let key = id.to_string();
                Ok(Command::RevokeKey { key })
            }),
        Route::post("/admin/keys/{id}/rotate", "rotateKey")
            .summary("Replace the text of a key; the old one is accepted for a while")
            .creating()
            .run::<NewKeyReply, _>(|_, id, Json::<KeyRotation>(rotation)| {
                Ok(Command::RotateKey(rotation.of_key(id)))
            }),
    ]
}

fn limits() -> Vec<Endpoint> {
    let of_key = |id: u64| Whose::Key(id.to_string());
    vec![
        Route::get("/admin/keys/{id}/limits", "getKeyLimits")
            .summary("Show the state of the limits of a key")
            .run::<Vec<RuleState>, _>(move |_, id, ()| Ok(Command::Limits(of_key(id)))),
        Route::post("/admin/keys/{id}/reset", "resetKey")
            .summary("Reset the counts of a key")
            .run::<Vec<RuleState>, _>(move |_, id, Json(KeyReset { rule })| {
                let whose = of_key(id);
                Ok(Command::Reset { whose, rule })
            }),
        Route::post("/admin/keys/{id}/overrides", "overrideLimit")
            .summary("Override a limit of a key for a time")
            .creating()
            .run::<ListedKey, _>(|_, id, Json(NewOverride { rule, duration })| {
                let key = id.to_string();
                Ok(Command::OverrideLimit {
                    key,
                    rule,
                    duration,
                })
            }),
        Route::delete("/admin/keys/{id}/overrides", "restoreLimit")
            .summary("End the override of a limit of a key")
            .run::<ListedKey, _>(|_, id, Query(RuleName { rule })| {
                let key = id.to_string();
                Ok(Command::RestoreLimit { key, rule })
            }),
    ]
}

fn addresses() -> Vec<Endpoint> {
    vec![
        Route::get("/admin/addresses", "getAddressLimits")
            .summary("Show the state of the limits of an IP address")
            .run::<Vec<RuleState>, _>(|_, _, Query(Address { ip })| {
                Ok(Command::Limits(Whose::Ip(ip)))
            }),
        Route::post("/admin/addresses/reset", "resetAddress")
            .summary("Reset the counts of an IP address")
            .run::<Vec<RuleState>, _>(|_, _, Json(Address { ip })| {
                let (whose, rule) = (Whose::Ip(ip), None);
                Ok(Command::Reset { whose, rule })
            }),
        Route::get("/admin/blocks", "listBlocks")
            .summary("List all locks")
            .run::<Vec<Lock>, _>(|_, _, ()| Ok(Command::ListBlocks)),
        Route::post("/admin/blocks", "block")
            .summary("Lock an IP address out")
            .creating()
            .run::<Lock, _>(|_, _, Json(block)| Ok(Command::Block(block))),
        Route::delete("/admin/blocks", "unblock")
            .summary("End the locks of an IP address, and list them")
            .run::<Vec<Lock>, _>(|_, _, Query(Blocked { ip, path })| {
                Ok(Command::Unblock { ip, path })
            }),
    ]
}

fn others() -> Vec<Endpoint> {
    vec![
        Route::get("/admin/stats", "getStats")
            .summary("Show totals and warnings")
            .run::<StatsReply, _>(|_, _, ()| Ok(Command::Stats)),
        Route::get("/admin/audit", "listAudit")
            .summary("List administrative changes, the latest first")
            .paged_by("before")
            .run::<Vec<AuditEntry>, _>(|_, _, Query(AuditPage { before, limit })| {
                let limit = limit.0;
                Ok(Command::Audit { before, limit })
            }),
        Route::post("/admin/check", "check")
            .summary("Show the decision about a request without consuming anything")
            .run::<CheckReply, _>(|_, _, Json::<Check>(check)| Ok(Command::Check(check))),
        Route::post("/admin/reload", "reload")
            .summary("Reload the policy file")
            .run::<Reloaded, _>(|_, _, ()| Ok(Command::Reload)),
    ]
}
