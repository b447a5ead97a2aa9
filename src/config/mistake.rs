//! Mistakes in a configuration, with the location and the remedy.

use std::fmt;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file, or the environment variable.
    pub source: String,
    /// Dotted, with indices, as in `queues[0].visibility_timeout`; empty if it is about the whole
    /// file.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub what: String,
}

/// All mistakes of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn one(source: impl Into<String>, what: impl Into<String>) -> Self {
        Self(vec![Mistake { source: source.into(), key: String::new(), what: what.into() }])
    }

    /// Adds a mistake, unless one about this key exists.
    pub(super) fn add(&mut self, mistake: Mistake) {
        if !self.knows(&mistake.key) {
            self.0.push(mistake);
        }
    }

    /// These mistakes and `others`.
    pub(super) fn and(mut self, others: Self) -> Self {
        others.0.into_iter().for_each(|mistake| self.add(mistake));
        self
    }

    pub(super) fn knows(&self, key: &str) -> bool {
        self.0.iter().any(|mistake| mistake.key == key)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Mistake { source, key, what } in &self.0 {
            if key.is_empty() {
                writeln!(f, "{source}: {what}")?;
            } else {
                writeln!(f, "{source}: {key}: {what}")?;
            }
        }
        let count = self.0.len();
        let mistakes =
            if count == 1 { "1 mistake".to_owned() } else { format!("{count} mistakes") };
        write!(
            f,
            "{mistakes} in the configuration; `callbackd check` checks it without running \
             anything, `callbackd config --schema` prints what is allowed"
        )
    }
}

impl std::error::Error for Mistakes {}
