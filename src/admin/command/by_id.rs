//! Commands whose only argument is the id of an organization or a key.

use serde::{Deserialize, Serialize};

use super::{Command, KeyReply, OrgReply};
use crate::admin::{Admin, AdminError};
use crate::guard::LimitStatus;
use crate::model::{KeyId, OrgId};

macro_rules! commands_by_id {
    ($($command:ident($id:ty) = $name:literal => $reply:ty: |$admin:ident, $arg:ident| $run:expr;)+) => {$(
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
        pub(crate) struct $command {
            pub(crate) id: $id,
        }

        impl Command for $command {
            type Reply = $reply;
            const NAME: &'static str = $name;

            fn run(self, $admin: &Admin) -> Result<$reply, AdminError> {
                let $arg = self.id;
                $run
            }
        }
    )+};
}

commands_by_id! {
    GetOrg(OrgId) = "getOrg" => OrgReply: |admin, id| Ok(admin.get_org(id)?.into());
    SuspendOrg(OrgId) = "suspendOrg" => OrgReply: |admin, id| Ok(admin.suspend_org(id)?.into());
    ResumeOrg(OrgId) = "resumeOrg" => OrgReply: |admin, id| Ok(admin.resume_org(id)?.into());
    GetKey(KeyId) = "getKey" => KeyReply: |admin, id| KeyReply::new(admin.get_key(id)?, admin);
    SuspendKey(KeyId) = "suspendKey" => KeyReply: |admin, id| KeyReply::new(admin.suspend_key(id)?, admin);
    ResumeKey(KeyId) = "resumeKey" => KeyReply: |admin, id| KeyReply::new(admin.resume_key(id)?, admin);
    RevokeKey(KeyId) = "revokeKey" => KeyReply: |admin, id| KeyReply::new(admin.revoke_key(id)?, admin);
    GetKeyLimits(KeyId) = "getKeyLimits" => Vec<LimitStatus>: |admin, id| admin.key_limits(id);
}
