//! Arguments of a step that are too large for its item, in items of their own.
//!
//! A message of SQS may have 1 MiB, an item 400 KB. Such arguments are written once, before the
//! first record that names them; later records only name them. Once the step needs them no more,
//! they expire with its record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::DynamoDb;
use super::items::{self, EXPIRES, ID, Item};
use crate::aws::calls::Failed;
use crate::hex::hex;
use crate::step::CallbackToken;

/// What stays in the step's item, which is written again with every change of the record.
const INLINE: usize = 100 << 10;
/// What one item takes.
const PART: usize = 350 << 10;

/// The attributes of a step's item that name its arguments.
const HASH: &str = "arguments_hash";
const PARTS: &str = "arguments_parts";
/// The text in an item of arguments.
const TEXT: &str = "text";

/// Where the arguments of a step are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Of the text.
    hash: String,
    parts: usize,
}

/// The places that this process has written to, or read from.
pub(super) type Places = Arc<Mutex<BTreeMap<CallbackToken, Place>>>;

impl Place {
    /// `None` for arguments that have room in their step's item.
    pub(super) fn of(arguments: &str) -> Option<Self> {
        (arguments.len() > INLINE).then(|| Self {
            hash: hex(&Sha256::digest(arguments.as_bytes())[..16]),
            parts: parts(arguments).len(),
        })
    }

    /// As a step's item names it.
    pub(super) fn from(item: &Item) -> Option<Self> {
        let hash = items::string(item, HASH)?.to_owned();
        Some(Self { hash, parts: items::integer(item, PARTS).ok()? })
    }

    /// Names it in a step's item.
    pub(super) fn name_in(&self, item: &mut Item) {
        item.insert(HASH.to_owned(), items::text(&self.hash));
        item.insert(PARTS.to_owned(), items::number(self.parts));
    }

    fn ids(&self, token: &CallbackToken) -> impl Iterator<Item = String> {
        let begin = format!("arguments#{token}#{}", self.hash);
        (0..self.parts).map(move |part| format!("{begin}#{part}"))
    }
}

/// A text in as few parts as fit into items.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (part, more) = rest.split_at(rest.floor_char_boundary(PART));
        parts.push(part);
        rest = more;
    }
    parts
}

impl DynamoDb {
    /// Writes the arguments of a step to `place`, unless they are there.
    pub(super) async fn keep_arguments(
        &self,
        token: &CallbackToken,
        place: &Place,
        arguments: &str,
    ) -> Result<(), Failed> {
        if self.places().get(token) == Some(place) {
            return Ok(());
        }
        for (id, part) in place.ids(token).zip(parts(arguments)) {
            let put = || {
                let put = self.client.put_item().table_name(self.name());
                put.item(ID, items::text(&id)).item(TEXT, items::text(part)).send()
            };
            self.tried("PutItem", self.limit, put).await?;
        }
        self.places().insert(token.clone(), place.clone());
        Ok(())
    }

    /// The arguments at a place; `None` if they are not there any more.
    pub(super) async fn arguments(
        &self,
        token: &CallbackToken,
        place: &Place,
    ) -> Result<Option<String>, Failed> {
        let mut arguments = String::new();
        for id in place.ids(token) {
            let item = self.item(&id).await?;
            let Some(part) = item.as_ref().and_then(|item| items::string(item, TEXT)) else {
                return Ok(None);
            };
            arguments += part;
        }
        self.places().insert(token.clone(), place.clone());
        Ok(Some(arguments))
    }

    /// Lets what this process knows of a step's arguments expire, before a record is written that
    /// has none.
    pub(super) async fn expire_arguments(&self, token: &CallbackToken) -> Result<(), Failed> {
        let Some(place) = self.places().get(token).cloned() else { return Ok(()) };
        for id in place.ids(token) {
            let expire = || {
                self.client
                    .update_item()
                    .table_name(self.name())
                    .key(ID, items::text(&id))
                    .condition_expression("attribute_exists(#id)")
                    .update_expression("SET #expires = :expires")
                    .expression_attribute_names("#id", ID)
                    .expression_attribute_names("#expires", EXPIRES)
                    .expression_attribute_values(":expires", self.expiry(self.retention))
                    .send()
            };
            match self.tried("UpdateItem", self.limit, expire).await {
                Err(failed) if !failed.failure.is_condition() => return Err(failed),
                _ => {}
            }
        }
        self.places().remove(token);
        Ok(())
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<CallbackToken, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_arguments_are_taken_apart_between_characters_and_named_in_their_step_s_item() {
        assert_eq!(Place::of(&"x".repeat(INLINE)), None);
        let text = "é€".repeat(200 << 10);
        let place = Place::of(&text).expect("large");
        assert_eq!((place.parts, parts(&text).concat()), (3, text.clone()));
        assert!(parts(&text).iter().all(|part| part.len() <= PART));
        let mut item = Item::new();
        place.name_in(&mut item);
        assert_eq!(Place::from(&item), Some(place.clone()));
        let token = "abcdefghij".parse().expect("a token");
        let ids: Vec<String> = place.ids(&token).collect();
        assert_eq!(ids[2], format!("arguments#abcdefghij#{}#2", place.hash));
        assert_ne!(Place::of(&text.replace('é', "è")), Some(place));
    }
}
