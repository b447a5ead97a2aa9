//! The table: its definition, what is wrong with an existing one, and how it is created.

use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, IndexStatus, KeySchemaElement, KeyType,
    Projection, ProjectionType, ScalarAttributeType, TableDescription, TableStatus,
    TimeToLiveSpecification, TimeToLiveStatus,
};
use aws_smithy_types::error::operation::BuildError;
use tokio::time::{Instant, sleep};

use super::items::{DUE, EXPIRES, ID, LIGHT, SHARD};
use super::{DynamoDb, INDEX, Unusable};
use crate::aws::calls::{Failed, Limit};

/// What [`DynamoDb::create`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    Table,
    /// It existed, and only its time to live was switched on.
    TimeToLive,
    /// Everything existed.
    Nothing,
}

/// A table of a few items is active within seconds; an index may take minutes.
const PATIENCE: Duration = Duration::from_mins(10);
const LOOK: Duration = Duration::from_secs(1);

/// A table as far as a worker needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aws) struct Look {
    /// What no waiting changes.
    pub flaws: Vec<String>,
    /// The table and its index can be used.
    pub active: bool,
}

impl DynamoDb {
    /// The table's definition; `None` if there is no such table.
    pub(in crate::aws) async fn look(&self) -> Result<Option<Look>, Failed> {
        let described = self
            .tried("DescribeTable", Limit::ANSWER, || {
                self.tables.describe_table().table_name(self.name()).send()
            })
            .await;
        match described {
            Ok(answer) => Ok(answer.table.as_ref().map(look)),
            Err(failed) if failed.failure.is_not_found() => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Whether DynamoDB removes items that have expired.
    pub(in crate::aws) async fn expires(&self) -> Result<bool, Failed> {
        let answer = self
            .tried("DescribeTimeToLive", Limit::ANSWER, || {
                self.tables.describe_time_to_live().table_name(self.name()).send()
            })
            .await?;
        Ok(answer.time_to_live_description.is_some_and(|found| {
            let on = matches!(
                found.time_to_live_status,
                Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
            );
            on && found.attribute_name.as_deref() == Some(EXPIRES)
        }))
    }

    /// Creates the table unless it exists, waits until it can be used, and switches its time to
    /// live on. It may be called again, by several at a time.
    ///
    /// # Errors
    /// [`Unusable`] if the table is another one than the ledger needs, or a request is refused.
    pub async fn create(&self) -> Result<Created, Unusable> {
        let mut created = Created::Nothing;
        if self.look().await.map_err(|failed| self.unusable(&failed))?.is_none() {
            self.create_table().await?;
            created = Created::Table;
        }
        self.wait().await?;
        if self.expires().await.map_err(|failed| self.unusable(&failed))? {
            return Ok(created);
        }
        let on = TimeToLiveSpecification::builder().attribute_name(EXPIRES).enabled(true);
        let on = on.build().map_err(|error| self.not_built(&error))?;
        let update = || {
            let update = self.tables.update_time_to_live().table_name(self.name());
            update.time_to_live_specification(on.clone()).send()
        };
        let updated = self.tried("UpdateTimeToLive", Limit::ANSWER, update).await;
        updated.map_err(|failed| self.unusable(&failed))?;
        Ok(if created == Created::Table { created } else { Created::TimeToLive })
    }

    async fn create_table(&self) -> Result<(), Unusable> {
        let keys = keys().map_err(|error| self.not_built(&error))?;
        let create = || {
            self.tables
                .create_table()
                .table_name(self.name())
                .billing_mode(BillingMode::PayPerRequest)
                .set_attribute_definitions(Some(keys.attributes.clone()))
                .set_key_schema(Some(keys.table.clone()))
                .global_secondary_indexes(keys.index.clone())
                .send()
        };
        match self.tried("CreateTable", Limit::ANSWER, create).await {
            Ok(_) => Ok(()),
            // Another one creates it, or an earlier request did whose answer was lost.
            Err(failed) if failed.failure.code() == Some("ResourceInUse") => Ok(()),
            Err(failed) => Err(self.unusable(&failed)),
        }
    }

    async fn wait(&self) -> Result<(), Unusable> {
        let until = Instant::now() + PATIENCE;
        loop {
            // A table that was just created may not be known everywhere yet.
            let found = self.look().await.map_err(|failed| self.unusable(&failed))?;
            match found {
                Some(Look { flaws, .. }) if !flaws.is_empty() => return Err(self.flawed(&flaws)),
                Some(Look { active: true, .. }) => return Ok(()),
                _ if Instant::now() > until => {
                    return Err(self.broken("is still not active: run the command again later"));
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    pub(super) fn flawed(&self, flaws: &[String]) -> Unusable {
        self.broken(&format!(
            "is not a ledger of this version: {}: set ledger.table to another name, and create \
             that with `callbackd ledger create`",
            flaws.join("; ")
        ))
    }

    fn not_built(&self, error: &BuildError) -> Unusable {
        self.broken(&format!("cannot be asked for: {error}"))
    }
}

/// The keys of the table and of its index.
struct Keys {
    attributes: Vec<AttributeDefinition>,
    table: Vec<KeySchemaElement>,
    index: GlobalSecondaryIndex,
}

fn keys() -> Result<Keys, BuildError> {
    let attribute = |name: &str, kind| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()
    };
    let key =
        |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    let projection = LIGHT
        .iter()
        .fold(Projection::builder().projection_type(ProjectionType::Include), |all, name| {
            all.non_key_attributes(*name)
        });
    Ok(Keys {
        attributes: vec![
            attribute(ID, ScalarAttributeType::S)?,
            attribute(SHARD, ScalarAttributeType::S)?,
            attribute(DUE, ScalarAttributeType::N)?,
        ],
        table: vec![key(ID, KeyType::Hash)?],
        index: GlobalSecondaryIndex::builder()
            .index_name(INDEX)
            .key_schema(key(SHARD, KeyType::Hash)?)
            .key_schema(key(DUE, KeyType::Range)?)
            .projection(projection.build())
            .build()?,
    })
}

fn look(table: &TableDescription) -> Look {
    let mut flaws = Vec::new();
    if !is_keyed(table, table.key_schema(), &[(ID, KeyType::Hash, ScalarAttributeType::S)]) {
        let found = found(table, table.key_schema());
        flaws.push(format!("its key is {found}, not `{ID}` (a string) alone"));
    }
    let index = table.global_secondary_indexes().iter().find(|it| it.index_name() == Some(INDEX));
    let Some(index) = index else {
        flaws.push(format!("it has no index `{INDEX}`"));
        return Look { flaws, active: false };
    };
    let of_index = [
        (SHARD, KeyType::Hash, ScalarAttributeType::S),
        (DUE, KeyType::Range, ScalarAttributeType::N),
    ];
    if !is_keyed(table, index.key_schema(), &of_index) {
        let found = found(table, index.key_schema());
        flaws.push(format!(
            "the key of its index `{INDEX}` is {found}, not `{SHARD}` (a string) and `{DUE}` (a \
             number)"
        ));
    }
    let projection = index.projection();
    let all = projection.and_then(|it| it.projection_type()) == Some(&ProjectionType::All);
    let projected = projection.map(Projection::non_key_attributes).unwrap_or_default();
    let lacking: Vec<&str> = LIGHT
        .into_iter()
        .filter(|name| !all && !projected.iter().any(|projected| projected == name))
        .collect();
    if !lacking.is_empty() {
        flaws.push(format!("its index `{INDEX}` lacks the attributes {}", lacking.join(", ")));
    }
    // An update of a table, as of its tags, keeps it usable.
    let usable = matches!(table.table_status(), Some(TableStatus::Active | TableStatus::Updating));
    let indexed = matches!(index.index_status(), Some(IndexStatus::Active | IndexStatus::Updating));
    Look { flaws, active: usable && indexed }
}

/// A key, for people. Names of attributes may hold anything.
fn found(table: &TableDescription, schema: &[KeySchemaElement]) -> String {
    let kind = |name: &str| {
        let mut defined = table.attribute_definitions().iter();
        let it = defined.find(|it| it.attribute_name() == name);
        match it.map(AttributeDefinition::attribute_type) {
            Some(ScalarAttributeType::S) => "a string",
            Some(ScalarAttributeType::N) => "a number",
            Some(ScalarAttributeType::B) => "binary",
            _ => "of an unknown type",
        }
    };
    let parts: Vec<String> = schema
        .iter()
        .map(|key| {
            let name = key.attribute_name();
            format!("`{}` ({})", name.escape_debug(), kind(name))
        })
        .collect();
    if parts.is_empty() { "empty".to_owned() } else { parts.join(" and ") }
}

fn is_keyed(
    table: &TableDescription,
    schema: &[KeySchemaElement],
    keys: &[(&str, KeyType, ScalarAttributeType)],
) -> bool {
    let defined = |name: &str, kind: &ScalarAttributeType| {
        table
            .attribute_definitions()
            .iter()
            .any(|it| it.attribute_name() == name && it.attribute_type() == kind)
    };
    schema.len() == keys.len()
        && keys.iter().all(|(name, role, kind)| {
            schema.iter().any(|key| key.attribute_name() == *name && key.key_type() == role)
                && defined(name, kind)
        })
}
