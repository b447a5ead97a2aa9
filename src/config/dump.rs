//! The effective configuration as text, without possible secrets.

use serde_json::Value;

use super::Config;

const HIDDEN: &str = "***";
/// Settings under these keys are hidden completely.
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
    let written = toml::Value::try_from(&config).map(|mut all| {
        hide_in_urls(&mut all);
        toml::to_string(&all)
    });
    let failed = |error| format!("# the configuration cannot be written as TOML: {error}\n");
    written.unwrap_or_else(Err).unwrap_or_else(failed)
}

/// Any setting may be a URL, and any URL may contain a password.
fn hide_in_urls(value: &mut toml::Value) {
    match value {
        toml::Value::Table(fields) => fields.iter_mut().for_each(|(_, field)| hide_in_urls(field)),
        toml::Value::Array(elements) => elements.iter_mut().for_each(hide_in_urls),
        toml::Value::String(text) => *text = without_userinfo(text),
        _ => {}
    }
}

fn hide(settings: &mut Value, all: bool) {
    match settings {
        Value::Object(fields) => {
            for (key, value) in fields {
                let hidden = VALUES_HIDDEN.contains(&key.to_ascii_lowercase().as_str());
                hide(value, all || hidden || is_secretive(key));
            }
        }
        Value::Array(elements) => hide_elements(elements, all),
        Value::String(text) if all => *text = HIDDEN.to_owned(),
        _ if all => *settings = Value::String(HIDDEN.to_owned()),
        _ => {}
    }
}

/// Hides the value of a program's option whose name suggests a secret, as in `--password=x` and
/// `--password x`.
fn hide_elements(elements: &mut [Value], all: bool) {
    let mut hides_next = false;
    for element in elements {
        let hides = std::mem::take(&mut hides_next);
        if let (Value::String(text), false) = (&mut *element, hides || all)
            && text.starts_with('-')
        {
            let (option, value) = text
                .split_once('=')
                .map_or((&**text, None), |(option, value)| (option, Some(value)));
            if is_secretive(&option.replace('-', "_")) {
                hides_next = value.is_none();
                if value.is_some() {
                    *text = format!("{option}={HIDDEN}");
                }
                continue;
            }
        }
        hide(element, all || hides);
    }
}

/// The name of a file is no secret, and the first thing an operator needs.
fn is_secretive(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRETIVE.iter().any(|word| key.contains(word))
        && !["_file", "_path"].iter().any(|end| key.ends_with(end))
}

/// `https://user:password@host` without the part before the `@`, for each URL in the text.
fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let end =
            after.find(|c: char| "/?#\"'".contains(c) || c.is_whitespace()).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        out.push_str(before);
        match authority.rsplit_once('@') {
            Some((_, host)) => out.push_str(&format!("{HIDDEN}@{host}")),
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out + rest
}
