//! The fields of spans and events.

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};

use crate::causes::with_causes;

/// The fields of a span or an event, in the order in which their names first appeared.
#[derive(Debug, Default)]
pub(super) struct Fields {
    all: Vec<(&'static str, Value)>,
    text: Text,
}

/// The text of an event is its first field named `message`. Another field of that name is an
/// ordinary value.
#[derive(Debug, Default)]
enum Text {
    #[default]
    None,
    Awaited,
    Said(String),
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A number or a boolean, as JSON writes it.
    Plain(String),
    Text(String),
}

impl Fields {
    /// Fields of an event, whose text is among them.
    pub(super) fn of_event() -> Self {
        Self { text: Text::Awaited, ..Self::default() }
    }

    pub(super) fn set(&mut self, name: &'static str, value: Value) {
        // The bridge from the `log` crate adds source locations; only `log.target` is useful here.
        if matches!(name, "log.module_path" | "log.file" | "log.line") {
            return;
        }
        let name = match (name.strip_prefix("r#").unwrap_or(name), &self.text) {
            ("message", Text::Awaited) => {
                let (Value::Plain(text) | Value::Text(text)) = value;
                self.text = Text::Said(text);
                return;
            }
            ("message", _) => "field_message",
            (name, _) => name,
        };
        match self.all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.all.push((name, value)),
        }
    }

    pub(super) fn extend(&mut self, others: &Self) {
        for (name, value) in &others.all {
            self.set(name, value.clone());
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.all.iter().find_map(|(known, value)| (*known == name).then_some(value))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> + Clone {
        self.all.iter().map(|(name, value)| (*name, value))
    }

    /// Removes a field.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.all.iter().position(|(known, _)| *known == name)?;
        let (Value::Plain(text) | Value::Text(text)) = self.all.remove(at).1;
        Some(text)
    }

    /// Removes the text of the event.
    pub(super) fn take_text(&mut self) -> String {
        match std::mem::take(&mut self.text) {
            Text::Said(text) => text,
            Text::None | Text::Awaited => String::new(),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), Value::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Plain(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::Plain(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has neither infinity nor NaN.
        let text = format!("{value:?}");
        self.set(
            field.name(),
            if value.is_finite() { Value::Plain(text) } else { Value::Text(text) },
        );
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set(field.name(), Value::Text(with_causes(value)));
    }
}
