//! The effective configuration as text, without what may be a secret.

use serde_json::Value;

use super::Config;

const HIDDEN: &str = "***";
/// Settings under these keys are hidden whole.
const VALUES_HIDDEN: [&str; 2] = ["env", "headers"];
/// Settings whose key contains one of these are hidden.
const SECRETIVE: [&str; 6] = ["secret", "password", "passwd", "token", "credential", "api_key"];

pub(super) fn toml(config: &Config) -> String {
    let mut config = config.clone();
    for handler in config.handlers.values_mut() {
        hide(&mut handler.settings, false);
        if handler.settings.is_null() {
            handler.settings = Value::Object(serde_json::Map::new());
        }
    }
    toml::to_string(&config).unwrap_or_else(|error| format!("# the configuration cannot be written as TOML: {error}\n"))
}

fn hide(settings: &mut Value, all: bool) {
    match settings {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.to_ascii_lowercase();
                // A file's name is no secret, and the first thing one wants to know.
                let secretive = SECRETIVE.iter().any(|word| key.contains(word)) && !key.ends_with("_file");
                hide(value, all || secretive || VALUES_HIDDEN.contains(&key.as_str()));
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| hide(element, all)),
        Value::String(text) if all => *text = HIDDEN.to_owned(),
        Value::String(text) => *text = without_userinfo(text),
        _ if all => *settings = Value::String(HIDDEN.to_owned()),
        _ => {}
    }
}

/// `https://user:password@host` without what stands before the `@`.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{HIDDEN}@{host}{path}"),
        None => text.to_owned(),
    }
}
