//! Lists of steps: unsettled ones by the index, all of them by a scan.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

use super::items::{self, DUE, ID, Item, LIGHT, SHARD};
use super::{DynamoDb, INDEX};
use crate::aws::calls::{Failed, Limit};
use crate::ledger::store::{Cursor, PARTS, Page, Query, Row, StoreError};

/// Items that are looked at for one page, however few of them are wanted.
const LOOKED: usize = 10_000;
/// Items of one request, at least: most of them may be of other handlers.
const AT_ONCE: usize = 100;

/// How the cursors of scans begin.
const ALL: &str = "all ";

/// How far a list has come: in the index, or in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Index { shard: u32, after: Option<(i64, String)> },
    Table { after: Option<String> },
}

/// What one request found.
struct Found {
    items: Vec<Item>,
    /// Where the next request begins; `None` at the end of the shard, or of the table.
    more: Option<Place>,
}

impl DynamoDb {
    pub(super) async fn select<T>(
        &self,
        query: &Query,
        take: impl Fn(Row) -> T,
    ) -> Result<Page<T>, StoreError> {
        let mut page = Page { found: Vec::new(), next: None };
        let mut place = Some(Place::of(query));
        let mut looked = 0;
        while let Some(here) = place {
            let limit = (query.bounded() - page.found.len()).max(AT_ONCE);
            let found =
                self.ask(&here, query, limit).await.map_err(|failed| self.error(&failed))?;
            let last = found.items.len();
            place = found.more.or_else(|| here.next_shard(query));
            for (number, item) in (1..).zip(found.items) {
                looked += 1;
                if items::string(&item, ID).and_then(items::token_of).is_none() {
                    continue;
                }
                let row = items::row(&item);
                if row.as_ref().is_ok_and(|row| !row.answers(query)) {
                    continue;
                }
                page.found.push(row.map(&take));
                if page.found.len() == query.bounded() {
                    if number < last {
                        place = Some(here.at(&item));
                    }
                    break;
                }
            }
            if page.found.len() == query.bounded() || looked >= LOOKED {
                break;
            }
        }
        page.next = place.map(|place| place.cursor());
        Ok(page)
    }

    /// A query for a shard of the index.
    pub(super) fn shard(&self, shard: &str) -> QueryFluentBuilder {
        self.tables
            .query()
            .table_name(self.name())
            .index_name(INDEX)
            .key_condition_expression("#shard = :shard")
            .expression_attribute_names("#shard", SHARD)
            .expression_attribute_values(":shard", items::text(shard))
    }

    /// The same, as far as it is due by then.
    fn shard_until(&self, shard: &str, latest: Timestamp) -> QueryFluentBuilder {
        self.shard(shard)
            .key_condition_expression("#shard = :shard AND #due <= :latest")
            .expression_attribute_names("#due", DUE)
            .expression_attribute_values(":latest", items::number(latest.as_millisecond()))
    }

    async fn ask(&self, place: &Place, query: &Query, limit: usize) -> Result<Found, Failed> {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let (found, last) = match place {
            Place::Index { shard, after } => {
                let ask = || {
                    let mut ask = match query.due {
                        None => self.shard(&shard.to_string()),
                        Some(latest) => self.shard_until(&shard.to_string(), latest),
                    };
                    ask = ask.limit(limit);
                    if let Some((due, id)) = after {
                        ask = ask
                            .exclusive_start_key(SHARD, items::text(shard.to_string()))
                            .exclusive_start_key(DUE, items::number(due))
                            .exclusive_start_key(ID, items::text(id));
                    }
                    ask.send()
                };
                let answer = self.tried("Query", Limit::ANSWER, ask).await?;
                (answer.items, answer.last_evaluated_key)
            }
            Place::Table { after } => {
                let names = LIGHT.iter().chain([&ID, &DUE]);
                let wanted: Vec<String> = names.clone().map(|name| format!("#{name}")).collect();
                let wanted = wanted.join(", ");
                let ask = || {
                    let mut scan = self
                        .tables
                        .scan()
                        .table_name(self.name())
                        .projection_expression(&wanted)
                        .limit(limit);
                    for name in names.clone() {
                        scan = scan.expression_attribute_names(format!("#{name}"), *name);
                    }
                    if let Some(id) = after {
                        scan = scan.exclusive_start_key(ID, items::text(id));
                    }
                    scan.send()
                };
                let answer = self.tried("Scan", Limit::ANSWER, ask).await?;
                (answer.items, answer.last_evaluated_key)
            }
        };
        let items = found.unwrap_or_default().into_iter().map(collected).collect();
        let more = last.map(|key| place.at(&collected(key)));
        Ok(Found { items, more })
    }
}

fn collected(item: impl IntoIterator<Item = (String, AttributeValue)>) -> Item {
    item.into_iter().collect()
}

impl Place {
    /// Where a list begins. A cursor that is none of ours begins it anew.
    fn of(query: &Query) -> Self {
        let after = query.after.as_ref().map(|cursor| cursor.0.as_str());
        if !query.leaves_settled_out() {
            let after = after.and_then(|cursor| cursor.strip_prefix(ALL));
            return Self::Table { after: after.map(str::to_owned) };
        }
        let read = |cursor: &str| {
            let mut parts = cursor.splitn(3, ' ');
            let shard = parts.next()?.parse().ok().filter(|shard| *shard < PARTS)?;
            let after = match (parts.next(), parts.next()) {
                (Some(due), Some(id)) => Some((due.parse().ok()?, id.to_owned())),
                _ => None,
            };
            Some(Self::Index { shard, after })
        };
        after.and_then(read).unwrap_or(Self::Index { shard: query.part.unwrap_or(0), after: None })
    }

    fn cursor(&self) -> Cursor {
        Cursor(match self {
            Self::Index { shard, after: Some((due, id)) } => format!("{shard} {due} {id}"),
            Self::Index { shard, after: None } => shard.to_string(),
            Self::Table { after } => format!("{ALL}{}", after.as_deref().unwrap_or_default()),
        })
    }

    /// After this item.
    fn at(&self, item: &Item) -> Self {
        let id = items::string(item, ID).unwrap_or_default().to_owned();
        match self {
            Self::Index { shard, .. } => {
                let due = items::due(item).unwrap_or_default();
                Self::Index { shard: *shard, after: Some((due, id)) }
            }
            Self::Table { .. } => Self::Table { after: Some(id) },
        }
    }

    fn next_shard(&self, query: &Query) -> Option<Self> {
        match self {
            Self::Index { shard, .. } if query.part.is_none() && shard + 1 < PARTS => {
                Some(Self::Index { shard: shard + 1, after: None })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(statuses: &[&str], after: Option<&str>) -> Query {
        Query {
            statuses: statuses.iter().map(|status| (*status).to_owned()).collect(),
            after: after.map(|text| Cursor(text.to_owned())),
            limit: 10,
            ..Query::default()
        }
    }

    #[test]
    fn a_list_goes_on_where_its_cursor_says_and_a_wrong_one_begins_it() {
        let unsettled = |after: Option<&str>| Place::of(&query(&["claimed"], after));
        let index = |shard, after| Place::Index { shard, after };
        for place in [
            index(0, None),
            index(3, None),
            index(7, Some((i64::MAX, "step#abcdefghij".to_owned()))),
        ] {
            assert_eq!(unsettled(Some(&place.cursor().0)), place);
        }
        for wrong in ["", "64", "-1", "x 1 y", "1 x y", "step#abcdefghij"] {
            assert_eq!(unsettled(Some(wrong)), index(0, None), "{wrong}");
        }
        let all = |after: Option<&str>| Place::of(&query(&[], after));
        let place = Place::Table { after: Some("step#abcdefghij".to_owned()) };
        assert_eq!(all(Some(&place.cursor().0)), place);
        assert_eq!(all(None), Place::Table { after: None });
        assert_eq!(all(Some("3 4 step#a")), Place::Table { after: None });
    }

    #[test]
    fn the_shards_are_listed_one_after_another() {
        let all = query(&["claimed"], None);
        let mut place = Place::of(&all);
        let mut count = 1;
        while let Some(next) = place.next_shard(&all) {
            place = next;
            count += 1;
        }
        assert_eq!(count, PARTS);
        assert_eq!(Place::Table { after: None }.next_shard(&all), None);
        let some = Query { part: Some(5), ..all };
        assert_eq!(Place::of(&some), Place::Index { shard: 5, after: None });
        assert_eq!(Place::of(&some).next_shard(&some), None);
    }
}
