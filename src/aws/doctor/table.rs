//! Whether the ledger's table is there, is a ledger's, and may be used.

use std::time::Duration;

use super::rights::{allow, allowed};
use super::{Finding, Level};
use crate::aws::clients::Clients;
use crate::aws::dynamodb::DynamoDb;
use crate::seam::{Fault, FaultKind};

/// Checks the ledger's table: its definition, its time to live, the permissions on it.
pub async fn examine_table(clients: &Clients, name: &str, retention: Duration) -> Vec<Finding> {
    match clients.table(name, retention).await {
        Ok(table) => examined(&table).await,
        Err(why) => vec![Finding::without_endpoint(&why, &subject(name))],
    }
}

fn subject(name: &str) -> String {
    format!("the ledger's table {name}")
}

async fn examined(table: &DynamoDb) -> Vec<Finding> {
    let subject = subject(table.name());
    let subject = subject.as_str();
    let mut findings = Vec::new();
    match table.look().await {
        Ok(None) => {
            let text = format!("does not exist in {}", table.region());
            let remedy = "create it with `callbackd ledger create`, or correct ledger.table and \
                          aws.region";
            return vec![Finding::bad(Level::Error, subject, text, remedy)];
        }
        Ok(Some(look)) => {
            let other = "set ledger.table to another name, and create that with `callbackd ledger \
                         create`";
            let flaws = look.flaws.iter();
            findings.extend(flaws.map(|flaw| Finding::bad(Level::Error, subject, flaw, other)));
            if findings.is_empty() && !look.active {
                let remedy = "try again in a minute";
                findings.push(Finding::bad(Level::Error, subject, "is not active yet", remedy));
            }
            if findings.is_empty() {
                findings.push(Finding::ok(subject, format!("is a ledger, in {}", table.region())));
            }
        }
        Err(failed) => findings.push(unknown(subject, &failed.into(), "dynamodb:DescribeTable")),
    }
    findings.push(match table.expires().await {
        Ok(true) => Finding::ok(subject, "settled steps are removed when they expire"),
        Ok(false) => Finding::bad(
            Level::Warn,
            subject,
            "its time to live on `expires` is off, so settled steps are never removed",
            "run `callbackd ledger create`, which switches it on",
        ),
        Err(failed) => unknown(subject, &failed.into(), "dynamodb:DescribeTimeToLive"),
    });
    let tried = Box::pin(table.tried_actions()).await.into_iter();
    findings.extend(
        tried.map(|(action, failed)| {
            allowed(subject, action, failed.map(Fault::from), Level::Error)
        }),
    );
    findings
}

/// Without this permission the table works all the same.
fn unknown(subject: &str, fault: &Fault, action: &str) -> Finding {
    let finding = Finding::of(fault, subject, &allow(action));
    let level = if fault.kind == FaultKind::Denied { Level::Warn } else { finding.level };
    Finding { level, ..finding }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::server::{Reply, Server};

    const TABLE: &str = include_str!("../../../deploy/dynamodb/table.json");

    fn ok(body: Value) -> Reply {
        Reply::Json(200, body)
    }

    fn refused(code: &str) -> Reply {
        Reply::Json(400, json!({ "__type": code, "message": "no" }))
    }

    fn described() -> Reply {
        let mut table: Value = serde_json::from_str(TABLE).expect("JSON");
        table["TableStatus"] = "ACTIVE".into();
        table["GlobalSecondaryIndexes"][0]["IndexStatus"] = "ACTIVE".into();
        ok(json!({ "Table": table }))
    }

    fn expiring(status: &str) -> Reply {
        let how = json!({ "TimeToLiveStatus": status, "AttributeName": "expires" });
        ok(json!({ "TimeToLiveDescription": how }))
    }

    /// Every permission is there.
    fn allowed_all() -> [Reply; 6] {
        let condition = || refused("ConditionalCheckFailedException");
        [ok(json!({})), condition(), condition(), condition(), ok(json!({})), ok(json!({}))]
    }

    async fn findings(replies: impl IntoIterator<Item = Reply>) -> Vec<Finding> {
        let server = Server::start(replies).await;
        let table = DynamoDb::new(&server.account(), "steps", Duration::from_hours(1));
        examined(&table).await
    }

    #[tokio::test]
    async fn a_table_as_it_should_be_gives_no_complaint() {
        let script = [described(), expiring("ENABLED")].into_iter().chain(allowed_all());
        let findings = findings(script).await;
        assert_eq!(findings.len(), 8);
        assert!(findings.iter().all(|it| it.level == Level::Ok), "{findings:#?}");
    }

    #[tokio::test]
    async fn a_table_that_is_not_there_is_told_with_its_remedy() {
        let findings = findings([refused("ResourceNotFoundException")]).await;
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, Level::Error);
        assert_eq!(findings[0].text, "does not exist in us-east-1");
    }

    #[tokio::test]
    async fn each_denied_action_is_named() {
        let denied = || refused("AccessDeniedException");
        let findings = findings((0..8).map(|_| denied())).await;
        let (described, used) = findings.split_at(2);
        assert!(described.iter().all(|it| it.level == Level::Warn), "{described:#?}");
        let actions = ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan"];
        assert_eq!(used.len(), actions.len());
        for (finding, action) in used.iter().zip(actions) {
            assert_eq!(finding.level, Level::Error);
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            assert!(remedy.starts_with(&format!("allow dynamodb:{action}")), "{remedy}");
            assert!(remedy.ends_with("(deploy/iam/ledger-policy.json)"), "{remedy}");
        }
    }

    #[tokio::test]
    async fn a_table_that_keeps_everything_is_told() {
        let script = [described(), expiring("DISABLED")].into_iter().chain(allowed_all());
        let findings = findings(script).await;
        let told: Vec<_> = findings.iter().filter(|it| it.level != Level::Ok).collect();
        assert!(matches!(&told[..], [it] if it.text.contains("never removed")), "{told:#?}");
    }
}
