//! The store at a server that answers from a script: what goes wrong, and what it makes of that.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::aws::server::{Reply, Request, Server};
use crate::ledger::store::Writer;
use crate::lifecycle::WorkerId;

const RETENTION: Duration = Duration::from_hours(24);
const TABLE: &str = include_str!("../../../deploy/dynamodb/table.json");
const TIME_TO_LIVE: &str = include_str!("../../../deploy/dynamodb/time-to-live.json");

/// A server with this script, and the table at it.
async fn table(replies: impl IntoIterator<Item = Reply>) -> (Server, DynamoDb) {
    let server = Server::start(replies).await;
    let table = DynamoDb::new(&server.account(), "callbackd", RETENTION);
    (server, table)
}

fn ok(body: Value) -> Reply {
    Reply::Json(200, body)
}

fn refused(code: &str, message: &str) -> Reply {
    let code = format!("com.amazonaws.dynamodb.v20120810#{code}");
    Reply::Json(400, json!({ "__type": code, "message": message }))
}

fn condition() -> Reply {
    refused("ConditionalCheckFailedException", "The conditional request failed")
}

fn throttled() -> Reply {
    refused("ProvisionedThroughputExceededException", "Rate exceeded")
}

fn operations(server: &Server) -> Vec<String> {
    let name = |request: &Request| request.target().to_owned();
    server.requests().iter().map(name).collect()
}

fn row(version: u64, writer: &str) -> Row {
    let head = Head {
        token: "abcdefghij".parse().expect("a token"),
        version,
        status: "claimed".into(),
        queue: "https://sqs.us-east-1.amazonaws.com/123456789012/q".into(),
        execution: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc".into(),
        handler: Some("train".into()),
        owner: Some("me".into()),
        due: None,
        flagged: false,
        settled_at: None,
        writer: Writer { id: Some(writer.into()), correction: 0 },
    };
    Row { head, body: "{}".into(), arguments: Some("{}".into()), checkpoint: None }
}

/// An item as the service answers it.
fn stored(row: &Row) -> Value {
    let value = |value: AttributeValue| match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(number) => json!({ "N": number }),
        AttributeValue::Bool(bool) => json!({ "BOOL": bool }),
        other => panic!("{other:?}"),
    };
    let item = items::item(row, RETENTION).into_iter();
    json!({ "Item": item.map(|(name, of)| (name, value(of))).collect::<serde_json::Map<_, _>>() })
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// A change of a table's description.
type Flaw = fn(&mut Value);

/// The table as it is described once it was created as `deploy/` has it.
fn described(change: impl Fn(&mut Value)) -> Reply {
    let mut table = json_of(TABLE);
    table["TableStatus"] = "ACTIVE".into();
    table["GlobalSecondaryIndexes"][0]["IndexStatus"] = "ACTIVE".into();
    change(&mut table);
    ok(json!({ "Table": table }))
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_done_if_it_is_what_is_stored() {
    let mine = row(2, "me");
    for lost in [Reply::Reset, Reply::Json(500, json!({ "__type": "InternalServerError" }))] {
        let (server, table) = table([lost, condition(), ok(stored(&mine))]).await;
        assert_eq!(table.put(mine.clone(), Some(1), Commit::Now).await, Ok(Put::Done));
        let requests = server.requests();
        assert_eq!(requests[0].json(), requests[1].json(), "it is sent again as it was");
        assert_eq!(requests[2].json()["ConsistentRead"], true);
        assert_eq!(operations(&server), ["PutItem", "PutItem", "GetItem"]);
    }
}

#[tokio::test]
async fn a_write_that_another_one_overtook_changes_nothing() {
    let mine = row(2, "me");
    let other = Row { body: "{\"attempt\":2}".into(), ..mine.clone() };
    for found in [stored(&row(2, "another")), stored(&row(3, "me")), stored(&other), json!({})] {
        let (_server, table) = table([condition(), ok(found.clone())]).await;
        let put = table.put(mine.clone(), Some(1), Commit::Now).await;
        assert_eq!(put, Ok(Put::Changed), "{found}");
    }
}

#[tokio::test]
async fn a_write_is_conditional_on_what_was_read() {
    let (server, table) = table([ok(json!({})), ok(json!({}))]).await;
    for expected in [None, Some(1)] {
        assert_eq!(table.put(row(2, "me"), expected, Commit::Now).await, Ok(Put::Done));
    }
    let requests: Vec<Value> = server.requests().iter().map(Request::json).collect();
    assert_eq!(requests[0]["ConditionExpression"], "attribute_not_exists(#id)");
    assert_eq!(requests[1]["ConditionExpression"], "#version = :expected");
    assert_eq!(requests[1]["ExpressionAttributeValues"], json!({ ":expected": { "N": "1" } }));
}

#[tokio::test]
async fn a_request_is_sent_three_times_and_no_more() {
    let (server, table) = table((0..9).map(|_| throttled())).await;
    let error = table.put(row(1, "me"), None, Commit::Now).await.expect_err("throttled");
    assert!(error.0.contains("table callbackd in us-east-1"), "{error}");
    assert!(error.0.contains("ProvisionedThroughputExceeded"), "{error}");
    assert_eq!(operations(&server), ["PutItem"; 3]);
    let counted = "dynamodb PutItem ProvisionedThroughputExceededException";
    assert_eq!(server.seen.all(), [counted; 3]);
}

#[tokio::test]
async fn throttling_that_ends_costs_only_time() {
    let (_server, table) = table([throttled(), throttled(), ok(json!({}))]).await;
    assert_eq!(table.put(row(1, "me"), None, Commit::Now).await, Ok(Put::Done));
}

#[tokio::test]
async fn what_a_table_refuses_says_what_to_do() {
    let (_server, table) = table([
        refused("ResourceNotFoundException", "Requested resource not found"),
        refused("AccessDeniedException", "User x is not authorized to perform: dynamodb:GetItem"),
        refused("ValidationException", "The provided key element does not match the schema"),
        refused("AccessDeniedException", "no"),
    ])
    .await;
    let token = "abcdefghij".parse().expect("a token");
    for wants in [
        "create it with `callbackd ledger create`, or correct ledger.table and aws.region",
        "allow dynamodb:GetItem on it",
        "`callbackd check --online` says whether it is a ledger's table",
    ] {
        let error = table.get(&token).await.expect_err(wants);
        assert!(error.0.starts_with("the ledger's table callbackd in us-east-1: "), "{error}");
        assert!(error.0.ends_with(wants), "{error}");
    }
    let list = Query { statuses: vec!["claimed".into()], limit: 10, ..Query::default() };
    let error = table.page(list).await.expect_err("denied");
    assert!(error.0.ends_with("allow dynamodb:Query on its indexes"), "{error}");
}

#[tokio::test]
async fn an_item_of_a_newer_version_is_left_alone() {
    let mut newer = stored(&row(1, "me"));
    newer["Item"]["format"] = json!({ "N": "2" });
    let (_server, table) = table([ok(newer)]).await;
    let token = "abcdefghij".parse().expect("a token");
    let damaged = table.get(&token).await.expect("an answer").expect("there").expect_err("newer");
    assert!(damaged.to_string().contains("update this worker"), "{damaged}");
}

#[tokio::test]
async fn an_item_over_the_limit_is_not_sent() {
    let (server, table) = table([]).await;
    let large = Row { checkpoint: Some("x".repeat(500_000)), ..row(1, "me") };
    let error = table.put(large, None, Commit::Now).await.expect_err("too large");
    assert!(error.0.contains("at most 409600: its checkpoint has 500000"), "{error}");
    assert_eq!(operations(&server), [""; 0]);
}

#[tokio::test]
async fn large_arguments_are_written_once_and_expire_before_the_record_that_has_none() {
    let (server, table) = table((0..9).map(|_| ok(json!({})))).await;
    let text = "x".repeat(500_000);
    let large = |version| Row { arguments: Some(text.clone()), ..row(version, "me") };
    let settled = Row { arguments: None, ..row(3, "me") };
    for (row, expected) in
        [(large(1), None), (large(2), Some(1)), (settled, Some(2)), (row(4, "me"), Some(3))]
    {
        assert_eq!(table.put(row, expected, Commit::Now).await, Ok(Put::Done));
    }
    let requests = server.requests();
    let id = |request: &Request| {
        let request = request.json();
        let id = request["Item"]["id"]["S"].as_str().or(request["Key"]["id"]["S"].as_str());
        let mut parts: Vec<_> = id.expect("an id").split('#').map(str::to_owned).collect();
        parts.retain(|part| part.len() < 20);
        format!("{} {}", request_name(&request), parts.join(" "))
    };
    let sent: Vec<String> = requests.iter().map(id).collect();
    let (first, second) = ("arguments abcdefghij 0", "arguments abcdefghij 1");
    let step = "put step abcdefghij";
    assert_eq!(
        sent,
        [
            &format!("put {first}"),
            &format!("put {second}"),
            step,
            step,
            &format!("expire {first}"),
            &format!("expire {second}"),
            step,
            step,
        ]
    );
    assert!(requests[2].json()["Item"]["arguments"].is_null());
}

fn request_name(request: &Value) -> &'static str {
    if request["UpdateExpression"].is_null() { "put" } else { "expire" }
}

#[tokio::test]
async fn a_step_whose_large_arguments_are_gone_is_damaged() {
    let large = Row { arguments: Some("x".repeat(200_000)), ..row(1, "me") };
    let (server, writer) = table([ok(json!({})), ok(json!({}))]).await;
    assert_eq!(writer.put(large.clone(), None, Commit::Now).await, Ok(Put::Done));
    let [part, step] = &server.requests()[..] else { panic!("two requests") };
    let item = |of: &Request| ok(json!({ "Item": of.json()["Item"] }));
    let (_server, reader) = table([item(step), item(part), item(step), ok(json!({}))]).await;
    assert_eq!(reader.get(&large.head.token).await, Ok(Some(Ok(large.clone()))));
    let damaged = reader.get(&large.head.token).await.expect("read").expect("there");
    let detail = damaged.expect_err("gone").detail;
    assert_eq!(detail, "its arguments are not in the table any more");
}

#[tokio::test]
async fn a_worker_that_was_fenced_is_not_renewed_told_or_fenced_again() {
    let (server, table) = table([condition(), condition(), condition()]).await;
    let worker = WorkerId("host/1".into());
    let stop = "abcdefghij".parse().expect("a token");
    assert_eq!(table.renew(&worker, Some(3), BTreeSet::new(), String::new()).await, Ok(None));
    assert_eq!(table.flag(&worker, &stop).await, Ok(()));
    assert_eq!(table.fence(&worker, 3).await, Ok(Put::Changed));
    assert_eq!(operations(&server), ["UpdateItem", "UpdateItem", "DeleteItem"]);
    assert!(server.requests().iter().all(|it| it.json()["Key"]["id"]["S"] == "worker#host/1"));
}

#[tokio::test]
async fn a_renewal_that_was_not_answered_is_for_the_lease_to_judge() {
    let (server, table) = table([Reply::Reset, ok(json!({}))]).await;
    let worker = WorkerId("host/1".into());
    table.renew(&worker, None, BTreeSet::new(), String::new()).await.expect_err("lost");
    assert_eq!(operations(&server), ["UpdateItem"]);
}

#[tokio::test]
async fn a_table_is_used_only_if_it_is_a_ledger() {
    let (_server, good) = table([described(|_| ()), ok(json!({}))]).await;
    assert_eq!(good.open().await, Ok(()));
    let flaws: [(Flaw, &str); 6] = [
        (
            |it| it["KeySchema"][0]["AttributeName"] = "to\nken".into(),
            "its key is `to\\nken` (of an unknown type), not `id` (a string) alone",
        ),
        (
            |it| it["AttributeDefinitions"][0]["AttributeType"] = "N".into(),
            "its key is `id` (a number), not `id` (a string) alone",
        ),
        (
            |it| it["GlobalSecondaryIndexes"] = json!([]),
            "it has no index `unsettled`: set ledger.table to another name",
        ),
        (
            |it| it["GlobalSecondaryIndexes"][0]["KeySchema"][1]["AttributeName"] = "id".into(),
            "the key of its index `unsettled` is `shard` (a string) and `id` (a string), not `shard`",
        ),
        (
            |it| {
                it["GlobalSecondaryIndexes"][0]["Projection"]["NonKeyAttributes"] = json!(["body"]);
            },
            "lacks the attributes format, version,",
        ),
        (|it| it["TableStatus"] = "CREATING".into(), "is not active yet"),
    ];
    for (flaw, wants) in flaws {
        let (_server, table) = table([described(flaw)]).await;
        let error = table.open().await.expect_err(wants).to_string();
        assert!(error.contains(wants), "{error}");
    }
    let gone = refused("ResourceNotFoundException", "Requested resource not found");
    let (_server, gone) = table([gone]).await;
    let error = gone.open().await.expect_err("gone").to_string();
    assert!(error.contains("does not exist: create it with `callbackd ledger create`"), "{error}");
}

#[tokio::test]
async fn a_worker_that_may_not_describe_its_table_tries_it() {
    let denied = || refused("AccessDeniedException", "no");
    let (_server, writable) = table([denied(), ok(json!({}))]).await;
    assert_eq!(writable.open().await, Ok(()));
    let (_server, locked) = table([denied(), denied()]).await;
    let error = locked.open().await.expect_err("denied").to_string();
    assert!(error.contains("allow dynamodb:PutItem on it"), "{error}");
}

#[tokio::test]
async fn a_table_is_created_as_deploy_has_it() {
    let none = refused("ResourceNotFoundException", "Requested resource not found");
    let off = ok(json!({ "TimeToLiveDescription": { "TimeToLiveStatus": "DISABLED" } }));
    let (server, table) = table([none, ok(json!({})), described(|_| ()), off, ok(json!({}))]).await;
    assert_eq!(table.create().await, Ok(Created::Table));
    let requests = server.requests();
    assert_eq!(requests[1].json(), json_of(TABLE));
    assert_eq!(requests[4].json(), json_of(TIME_TO_LIVE));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_another_one_creates_is_waited_for() {
    let none = || refused("ResourceNotFoundException", "Requested resource not found");
    let on = json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": "expires" });
    let (server, table) = table([
        none(),
        refused("ResourceInUseException", "Table already exists"),
        none(),
        described(|it| it["GlobalSecondaryIndexes"][0]["IndexStatus"] = "CREATING".into()),
        described(|_| ()),
        ok(json!({ "TimeToLiveDescription": on })),
    ])
    .await;
    assert_eq!(table.create().await, Ok(Created::Table));
    assert_eq!(operations(&server).last().map(String::as_str), Some("DescribeTimeToLive"));
}

/// An answer with this date.
macro_rules! dated {
    ($date:literal, $status:literal, $body:literal) => {
        Reply::Raw(
            $status,
            concat!("content-type: application/x-amz-json-1.0\r\ndate: ", $date, "\r\n"),
            $body,
        )
    };
}

/// The year that the table's clock shows.
fn year(table: &DynamoDb) -> i16 {
    table.now().to_zoned(jiff::tz::TimeZone::UTC).year()
}

#[tokio::test]
async fn times_are_by_the_dates_of_the_table_s_answers() {
    let (server, table) = table([
        dated!("Tue, 01 Jan 2199 00:00:00 GMT", 200, "{}"),
        dated!("Tue, 01 Jan 2199 00:00:00 GMT", 200, "{}"),
    ])
    .await;
    let table = table.for_lease(Duration::from_mins(1));
    assert!(year(&table) < 2199, "nothing was heard yet");
    table.probe().await.expect("it works");
    assert_eq!(year(&table), 2199);
    let clock = table.clock().expect("it has one");
    assert!(clock.now().duration_since(table.now()).abs() < jiff::SignedDuration::from_mins(1));
    let worker = WorkerId("me".into());
    table.renew(&worker, None, BTreeSet::new(), String::new()).await.expect("it works");
    let expires = &server.requests()[1].json()["ExpressionAttributeValues"][":expires"]["N"];
    let expires: i64 = expires.as_str().and_then(|text| text.parse().ok()).expect("a number");
    assert!(expires > table.now().as_second(), "it would be removed at once");
}

#[tokio::test]
async fn no_date_counts_that_is_missing_or_malformed_or_not_the_table_s() {
    let answers = [
        ok(json!({})),
        dated!("yesterday", 200, "{}"),
        dated!("Tue, 99 Jan 2199 00:00:00 GMT", 200, "{}"),
        dated!("Tue, 01 Jan 2199 00:00:00 GMT", 200, "<html>Welcome to the hotel</html>"),
        dated!("Tue, 01 Jan 2199 00:00:00 GMT", 400, "{}"),
    ];
    for answer in answers {
        // What is not answered as it should be is asked again.
        let (server, table) = table([answer, ok(json!({}))]).await;
        let _ = table.probe().await;
        assert!(!server.requests().is_empty());
        assert!(year(&table) < 2199);
    }
}
