//! Common to all batch operations: the rules for their entries, and an answer per entry.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::error;
use crate::local::call::Call;
use crate::local::protocol::ApiError;
use crate::local::undocumented::TwiceInABatch;

/// SQS accepts no more entries in a call.
const MAX_ENTRIES: usize = 10;

/// An entry of a batch, named by the client.
pub(super) trait BatchEntry {
    fn id(&self) -> &str;

    /// The message that it names, if any.
    fn receipt(&self) -> Option<&str> {
        None
    }
}

/// Performs each entry; a failing entry fails alone. `each` returns the members of a successful
/// entry's result beside its `Id`.
///
/// # Errors
/// Errors that refuse a batch as a whole: none or too many entries, ids that are malformed or not
/// distinct.
pub(super) fn run<E: BatchEntry>(
    entries: Vec<E>,
    call: &mut Call<'_>,
    mut each: impl FnMut(E, &mut Call<'_>) -> Result<Value, ApiError>,
) -> Result<Value, ApiError> {
    check(&entries)?;
    if call.undocumented.twice_in_a_batch == TwiceInABatch::Refused {
        check_receipts(&entries)?;
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (index, entry) in entries.into_iter().enumerate() {
        let id = entry.id().to_owned();
        if let Some((_, code)) =
            call.misbehaviour.fail_entries.as_ref().filter(|(first, _)| index < *first)
        {
            failed.push(json!({"Id": id, "SenderFault": false, "Code": code, "Message": "as a \
                fault rule demands"}));
            continue;
        }
        match each(entry, call) {
            Ok(mut result) => {
                result["Id"] = Value::String(id);
                successful.push(result);
            }
            Err(error) => failed.push(json!({
                "Id": id,
                "SenderFault": error.status < 500,
                "Code": error.reported_code(),
                "Message": error.message,
            })),
        }
    }
    Ok(json!({"Successful": successful, "Failed": failed}))
}

fn check<E: BatchEntry>(entries: &[E]) -> Result<(), ApiError> {
    if entries.is_empty() {
        return Err(error::empty_batch());
    }
    if entries.len() > MAX_ENTRIES {
        return Err(error::too_many_entries(entries.len()));
    }
    let mut ids = BTreeSet::new();
    for id in entries.iter().map(BatchEntry::id) {
        let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if id.is_empty() || id.len() > 80 || !id.chars().all(named) {
            return Err(error::invalid_entry_id());
        }
        if !ids.insert(id) {
            return Err(error::ids_not_distinct(id));
        }
    }
    Ok(())
}

fn check_receipts<E: BatchEntry>(entries: &[E]) -> Result<(), ApiError> {
    let mut receipts = BTreeSet::new();
    let twice = entries
        .iter()
        .find(|entry| entry.receipt().is_some_and(|receipt| !receipts.insert(receipt)));
    twice.map_or(Ok(()), |entry| Err(error::ids_not_distinct(entry.id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Delete(&'static str, &'static str);

    impl BatchEntry for Delete {
        fn id(&self) -> &str {
            self.0
        }

        fn receipt(&self) -> Option<&str> {
            Some(self.1)
        }
    }

    #[test]
    fn a_receipt_handle_stands_in_a_batch_once() {
        let refusal = check_receipts(&[Delete("a", "x"), Delete("b", "x")]).expect_err("twice");
        assert_eq!(refusal.code, "BatchEntryIdsNotDistinct");
        assert_eq!(check_receipts(&[Delete("a", "x"), Delete("b", "y")]), Ok(()));
    }

    impl BatchEntry for &str {
        fn id(&self) -> &str {
            self
        }
    }

    #[test]
    fn a_batch_of_none_or_of_more_than_ten_is_refused() {
        assert_eq!(check::<&str>(&[]).expect_err("none").code, "EmptyBatchRequest");
        let ids: Vec<String> = (0..11).map(|id| id.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(check(&ids).expect_err("eleven").code, "TooManyEntriesInBatchRequest");
        assert_eq!(check(&ids[..10]), Ok(()));
    }

    #[test]
    fn ids_that_are_malformed_or_not_distinct_are_refused() {
        assert_eq!(check(&["a", "b", "a"]).expect_err("twice").code, "BatchEntryIdsNotDistinct");
        for wrong in ["", "a b", &"a".repeat(81)] {
            assert_eq!(check(&[wrong]).expect_err(wrong).code, "InvalidBatchEntryId");
        }
    }
}
