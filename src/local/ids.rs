//! Names that the services make up: message ids, request ids, callback tokens, execution ids.

use std::iter;

/// Makes names from a seeded generator, so that a run can be repeated. They are guessable, which
/// does not matter here.
#[derive(Debug)]
pub(super) struct Ids {
    random: fastrand::Rng,
}

impl Ids {
    pub(super) fn seeded(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed) }
    }

    /// A version 4 UUID, as SQS names messages and both services name requests.
    pub(super) fn uuid(&mut self) -> String {
        let bits = self.random.u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    /// Ten of `[a-zA-Z0-9]`.
    pub(super) fn callback_token(&mut self) -> String {
        iter::repeat_with(|| self.random.alphanumeric()).take(10).collect()
    }

    /// Twelve of `[a-z0-9]`, the last part of an execution's ARN.
    pub(super) fn execution(&mut self) -> String {
        iter::repeat_with(|| self.random.digit(36)).take(12).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_the_version_and_variant_of_a_random_one() {
        let mut ids = Ids::seeded(1);
        for _ in 0..100 {
            let uuid = ids.uuid();
            let parts: Vec<&str> = uuid.split('-').collect();
            assert_eq!(
                parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
                [8, 4, 4, 4, 12],
                "{uuid}"
            );
            assert!(parts[2].starts_with('4'), "{uuid}");
            assert!(parts[3].starts_with(['8', '9', 'a', 'b']), "{uuid}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_names() {
        let names = |seed| {
            let mut ids = Ids::seeded(seed);
            (ids.uuid(), ids.callback_token(), ids.execution())
        };
        assert_eq!(names(7), names(7));
        assert_ne!(names(7), names(8));
    }

    #[test]
    fn a_callback_token_is_one_that_the_service_model_allows() {
        let token = Ids::seeded(3).callback_token();
        assert_eq!(token.len(), 10);
        assert!(token.chars().all(|c| c.is_ascii_alphanumeric()), "{token}");
    }
}
