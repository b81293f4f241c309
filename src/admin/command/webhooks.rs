//! Commands about webhooks, which only the socket takes.

use serde::{Deserialize, Serialize};

use super::{Command, Rows};
use crate::admin::{Admin, AdminError};
use crate::model::Delivery;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListDeliveries {
    /// Only deliveries with a lower id: that of the last row of the previous page.
    pub(crate) before: Option<u64>,
    /// The maximum number of rows.
    #[serde(default)]
    pub(crate) limit: Rows,
}

impl Command for ListDeliveries {
    type Reply = Vec<Delivery>;
    const NAME: &'static str = "listDeliveries";

    fn run(self, admin: &Admin) -> Result<Vec<Delivery>, AdminError> {
        let deliveries = admin.list_deliveries(self.limit.after(self.before))?;
        Rows::page(deliveries.into_iter().map(Ok))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redeliver {
    pub(crate) id: u64,
}

impl Command for Redeliver {
    type Reply = Delivery;
    const NAME: &'static str = "redeliver";

    fn run(self, admin: &Admin) -> Result<Delivery, AdminError> {
        admin.redeliver(self.id)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendTestEvent {}

impl Command for SendTestEvent {
    type Reply = Vec<Delivery>;
    const NAME: &'static str = "sendTestEvent";

    fn run(self, admin: &Admin) -> Result<Vec<Delivery>, AdminError> {
        admin.send_test_event()
    }
}
