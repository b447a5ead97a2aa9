//! Which actions on the table are allowed, found by requests that change nothing.

use super::items::{self, ID, SHARD, VERSION};
use super::{DynamoDb, INDEX};
use crate::aws::calls::{Failed, Limit};

/// The key of no item. DynamoDB checks permissions before conditions.
const NOTHING: &str = "check";
const EXISTS: &str = "attribute_exists(#id)";

impl DynamoDb {
    /// Tries each action that a worker needs; `Some` if it failed, as the writes always do: their
    /// condition does not hold.
    pub(in crate::aws) async fn tried_actions(&self) -> Vec<(&'static str, Option<Failed>)> {
        let (client, name) = (&self.client, self.name());
        let get = client.get_item().table_name(name).key(ID, items::text(NOTHING)).send();
        let put = client
            .put_item()
            .table_name(name)
            .item(ID, items::text(NOTHING))
            .condition_expression(EXISTS)
            .expression_attribute_names("#id", ID)
            .send();
        let update = client
            .update_item()
            .table_name(name)
            .key(ID, items::text(NOTHING))
            .update_expression("SET #version = :version")
            .condition_expression(EXISTS)
            .expression_attribute_names("#id", ID)
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":version", items::number(0))
            .send();
        let delete = client
            .delete_item()
            .table_name(name)
            .key(ID, items::text(NOTHING))
            .condition_expression(EXISTS)
            .expression_attribute_names("#id", ID)
            .send();
        let query = self
            .tables
            .query()
            .table_name(name)
            .index_name(INDEX)
            .key_condition_expression("#shard = :shard")
            .expression_attribute_names("#shard", SHARD)
            .expression_attribute_values(":shard", items::text("0"))
            .limit(1)
            .send();
        let scan = self.tables.scan().table_name(name).limit(1).send();
        let calls = &self.calls;
        vec![
            ("dynamodb:GetItem", calls.send("GetItem", Limit::LEDGER, get).await.err()),
            ("dynamodb:PutItem", calls.send("PutItem", Limit::LEDGER, put).await.err()),
            ("dynamodb:UpdateItem", calls.send("UpdateItem", Limit::LEDGER, update).await.err()),
            ("dynamodb:DeleteItem", calls.send("DeleteItem", Limit::LEDGER, delete).await.err()),
            (
                "dynamodb:Query (on its index)",
                calls.send("Query", Limit::ANSWER, query).await.err(),
            ),
            ("dynamodb:Scan", calls.send("Scan", Limit::ANSWER, scan).await.err()),
        ]
    }
}
