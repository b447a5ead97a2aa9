//! Lists in pages, as both services return them.

/// A page of a list, and the token for the rest if there is one; `None` for a foreign token.
///
/// A token is the number of items before the page: enough for lists that rarely change while they
/// are read.
pub(super) fn page<T>(
    items: impl Iterator<Item = T>,
    most: usize,
    token: Option<&str>,
) -> Option<(Vec<T>, Option<String>)> {
    let start: usize = token.map_or(Ok(0), str::parse).ok()?;
    let mut items = items.skip(start);
    let page: Vec<T> = items.by_ref().take(most).collect();
    let next = items.next().map(|_| (start + page.len()).to_string());
    Some((page, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_a_list_are_the_list() {
        let mut token = None;
        let mut seen = Vec::new();
        loop {
            let (items, next) = page(0..25, 10, token.as_deref()).expect("our own token");
            assert!(items.len() <= 10);
            seen.extend(items);
            token = next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..25).collect::<Vec<_>>());
    }

    #[test]
    fn a_foreign_token_is_refused_and_one_past_the_end_finds_nothing() {
        assert_eq!(page(0..5, 10, Some("x")), None);
        assert_eq!(page(0..5, 10, Some("99")), Some((vec![], None)));
    }
}
