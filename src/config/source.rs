//! Where settings come from: a TOML file overlaid with environment variables, each value with its
//! origin.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Toml};
use serde_json::{Map, Value};

use super::{DEFAULT_PATH, Mistakes};

/// The settings as a tree, not yet checked.
pub(super) struct Source {
    pub(super) tree: Value,
    file: PathBuf,
    /// The top-level keys in the file itself.
    in_file: BTreeSet<String>,
    /// Variables that cannot be a setting: every setting is in a section.
    pub(super) ignored: Vec<String>,
    /// The variable behind each key that the environment sets.
    variables: BTreeMap<String, String>,
}

const PREFIX: &str = "CALLBACKD_";
pub(super) const PATH_VARIABLE: &str = "CALLBACKD_CONFIG";
/// More elements than anyone lists by hand. An index beyond this is a typing error and must not
/// create a huge array.
const MAX_ELEMENTS: usize = 1000;
/// The digits of an account id, which is a key and not an index.
const ACCOUNT: usize = 12;

impl Source {
    pub(super) fn read(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Mistakes> {
        Self::of(path, environment, true)
    }

    /// The same, but a missing file is allowed.
    pub(super) fn read_if_there(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Mistakes> {
        Self::of(path, environment, false)
    }

    fn of(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        required: bool,
    ) -> Result<Self, Mistakes> {
        let mut variables = BTreeMap::new();
        for (name, value) in environment {
            let Ok(name) = name.into_string() else { continue };
            if name.starts_with(PREFIX) {
                let value = value
                    .into_string()
                    .map_err(|_| Mistakes::one(name.clone(), "the value is not UTF-8"))?;
                variables.insert(name, value);
            }
        }
        let named =
            path.map(Path::to_owned).or_else(|| variables.remove(PATH_VARIABLE).map(PathBuf::from));
        variables.remove(PATH_VARIABLE);
        let file = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            // The environment alone may contain everything, as in a container.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && named.is_none()
                    && (!required || variables.keys().any(|name| name.contains("__"))) =>
            {
                String::new()
            }
            Err(error) => {
                let what = format!(
                    "the configuration cannot be read ({error}); name another file with --config \
                     or ${PATH_VARIABLE}; it needs at least one [[queues]] with a url and a \
                     handler, and that [handlers.NAME]"
                );
                return Err(Mistakes::one(file.display().to_string(), what));
            }
        };
        let mut source = Self::of_text(file, &text)?;
        for (name, value) in variables {
            // Kubernetes, for example, sets CALLBACKD_PORT and the like for a service of this name.
            if name.contains("__") {
                source.overlay(&name, value)?;
            } else {
                source.ignored.push(name);
            }
        }
        source.refuse_gaps()?;
        Ok(source)
    }

    pub(super) fn of_text(file: PathBuf, text: &str) -> Result<Self, Mistakes> {
        let name = || file.display().to_string();
        if let Err(error) = toml::from_str::<toml::Table>(text) {
            // The parser's own message quotes the line, which may contain a secret.
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            return Err(Mistakes::one(
                name(),
                format!("it is not TOML: line {line}: {}", error.message().trim()),
            ));
        }
        let tree = Figment::from(Toml::string(text)).extract::<Value>().map_err(|error| {
            Mistakes::one(name(), format!("it is not TOML: {}", error.to_string().trim()))
        })?;
        let in_file = tree.as_object().into_iter().flat_map(Map::keys).cloned().collect();
        Ok(Self { tree, file, in_file, ignored: Vec::new(), variables: BTreeMap::new() })
    }

    /// The same without all other sections.
    pub(super) fn keep_only(mut self, section: &str) -> Self {
        if let Value::Object(sections) = &mut self.tree {
            sections.retain(|name, _| name == section);
        }
        self
    }

    /// Where the value of a key comes from, or would come from.
    pub(super) fn origin(&self, key: &str) -> String {
        let part = |whole: &str, of: &str| {
            whole
                .strip_prefix(of)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let set_by = self
            .variables
            .iter()
            .find(|(set, _)| part(key, set) || part(set, key) && !self.in_file.contains(key));
        set_by.map_or_else(|| self.file.display().to_string(), |(_, variable)| variable.clone())
    }

    /// Whether the file itself sets a key of a section, and no variable replaces it.
    pub(super) fn is_in_file(&self, section: &str, key: &str) -> bool {
        let is_set = self.tree.get(section).and_then(|fields| fields.get(key)).is_some();
        is_set && !self.is_from_environment(&format!("{section}.{key}"))
    }

    pub(super) fn is_from_environment(&self, key: &str) -> bool {
        self.variables.contains_key(key)
    }

    /// Elements that exist only because later ones were set are a mistake: nothing says what they
    /// are.
    fn refuse_gaps(&self) -> Result<(), Mistakes> {
        let Some((array, index)) = gap(&self.tree, "") else { return Ok(()) };
        let beyond = format!("{array}[");
        let variable = self
            .variables
            .iter()
            .find_map(|(key, variable)| key.starts_with(&beyond).then_some(variable));
        let what = format!(
            "there is no {array}[{index}]: indices count from 0, those of the file included"
        );
        Err(Mistakes::one(
            variable.cloned().unwrap_or_else(|| self.file.display().to_string()),
            what,
        ))
    }

    /// Puts the raw text of a variable at the place that its name says. A number is parsed only
    /// when it is decoded, so account ids keep their leading zeros.
    fn overlay(&mut self, variable: &str, text: String) -> Result<(), Mistakes> {
        let segments = segments(&variable[PREFIX.len()..]);
        let mut key = String::new();
        let mut at = &mut self.tree;
        for segment in &segments {
            if segment.is_empty() {
                return Err(Mistakes::one(variable, "the name is not CALLBACKD_<KEY>__<KEY>"));
            }
            match segment
                .parse::<usize>()
                .ok()
                .filter(|_| !at.is_object() && !key.is_empty() && segment.len() < ACCOUNT)
            {
                Some(index) if index < MAX_ELEMENTS => {
                    key.push_str(&format!("[{index}]"));
                    if !at.is_array() {
                        *at = Value::Array(Vec::new());
                    }
                    let Value::Array(elements) = at else { return Ok(()) };
                    while elements.len() <= index {
                        elements.push(Value::Null);
                    }
                    at = &mut elements[index];
                }
                Some(index) => {
                    return Err(Mistakes::one(
                        variable,
                        format!("the index {index} is beyond {MAX_ELEMENTS}"),
                    ));
                }
                None => {
                    if !key.is_empty() {
                        key.push('.');
                    }
                    key.push_str(segment);
                    if !at.is_object() {
                        *at = Value::Object(Map::new());
                    }
                    let Value::Object(fields) = at else { return Ok(()) };
                    at = fields.entry(segment.clone()).or_insert(Value::Null);
                }
            }
        }
        *at = Value::String(text);
        self.variables.insert(key, variable.to_owned());
        Ok(())
    }
}

/// The first array with an element that was never set, and the element's index.
fn gap(value: &Value, path: &str) -> Option<(String, usize)> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let dot = if path.is_empty() { "" } else { "." };
            gap(field, &format!("{path}{dot}{name}"))
        }),
        Value::Array(elements) => {
            elements.iter().enumerate().find_map(|(index, element)| match element {
                Value::Null => Some((path.to_owned(), index)),
                element => gap(element, &format!("{path}[{index}]")),
            })
        }
        _ => None,
    }
}

/// The keys in a variable's name. Our own keys are lower-cased; keys of maps whose keys the user
/// chooses stay as written; the name of a variable for programs takes all of the rest.
fn segments(name: &str) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    let mut rest = Some(name);
    while let Some(left) = rest {
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (segment, after) =
            left.split_once("__").map_or((left, None), |(segment, after)| (segment, Some(after)));
        rest = match path[..] {
            ["handlers", _, "settings", "env"] => {
                segments.push(left.to_owned());
                None
            }
            ["queues", _, "routes", _, "arguments", ..] => {
                segments.push(segment.to_owned());
                after
            }
            _ => {
                segments.push(segment.to_ascii_lowercase());
                after
            }
        };
    }
    segments
}
