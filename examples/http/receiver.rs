//! A service for steps of the type `http`, in Rust.
//!
//! ```text
//! SECRET_FILE=secret cargo run --example receiver -- 8080
//! ```
//!
//! It checks the signature, and answers each step at once. `service.py` shows more: work that goes
//! on, cleanups, and requests that come twice.

#![allow(clippy::print_stdout, clippy::disallowed_types, reason = "it is a program of its own")]

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::post;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// Seconds: how old a request may be, and how far the clocks may differ.
const WINDOW: u64 = 300;

/// Whether a header `Callbackd-Signature` says that someone with one of the keys sent this, lately.
fn is_signed(
    header: &str,
    method: &str,
    path: &str,
    body: &[u8],
    keys: &[String],
    now: u64,
) -> bool {
    let parts = |name: &'static str| {
        let parts = header.split(',').filter_map(|part| part.split_once('='));
        parts.filter(move |(key, _)| *key == name).map(|(_, value)| value)
    };
    let Some(seconds) = parts("t").next() else { return false };
    if !seconds.parse().is_ok_and(|seconds: u64| now.abs_diff(seconds) <= WINDOW) {
        return false;
    }
    let fits = |key: &String, given: &str| {
        let Ok(mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return false };
        let mac = mac.chain_update(format!("{seconds}\n{method}\n{path}\n")).chain_update(body);
        // `verify_slice` takes as long for a wrong signature as for a right one.
        unhex(given).is_some_and(|given| mac.verify_slice(&given).is_ok())
    };
    keys.iter().any(|key| parts("v1").any(|given| fits(key, given)))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| u8::try_from(char::from(digit).to_digit(16)?).ok();
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

/// The keys that are accepted, one a line: two overlap while callbackd changes to the new one.
fn keys() -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(std::env::var("SECRET_FILE").context("SECRET_FILE")?)?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

async fn run(uri: Uri, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let answer = |status, body: Value| (status, body.to_string());
    let signature = headers.get("callbackd-signature").and_then(|value| value.to_str().ok());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let Ok(keys) = keys() else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, json!({ "reason": "there are no keys" }));
    };
    if !is_signed(signature.unwrap_or_default(), "POST", path, &body, &keys, now) {
        let reason = "the signature is missing, wrong or too old";
        return answer(StatusCode::UNAUTHORIZED, json!({ "reason": reason }));
    }
    match serde_json::from_slice::<Value>(&body) {
        Ok(step) => {
            let greeting =
                format!("hello, {}", step["arguments"]["name"].as_str().unwrap_or("you"));
            answer(StatusCode::OK, json!({ "outputs": { "greeting": greeting } }))
        }
        Err(error) => answer(StatusCode::BAD_REQUEST, json!({ "reason": error.to_string() })),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).context("usage: receiver PORT")?.parse::<u16>()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?.port());
    Ok(axum::serve(listener, axum::Router::new().route("/run", post(run))).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_is_signed_and_nothing_that_differs_from_it_is() {
        let vector: Value = serde_json::from_str(include_str!("vector.json")).unwrap();
        let text = |key: &str| vector[key].as_str().unwrap();
        let (now, keys) = (vector["time"].as_u64().unwrap(), [text("secret").to_owned()]);
        let fits = |signature: &str, method: &str, path: &str, body: &str, now: u64| {
            is_signed(signature, method, path, body.as_bytes(), &keys, now)
        };
        let (signature, path, body) = (text("signature"), text("path"), text("body"));
        assert!(fits(signature, "POST", path, body, now));
        assert!(fits(signature, "POST", path, body, now + WINDOW));
        assert!(!fits(signature, "POST", path, body, now + WINDOW + 1));
        assert!(!fits(signature, "PUT", path, body, now));
        assert!(!fits(signature, "POST", "/cleanup", body, now));
        assert!(!fits(signature, "POST", path, "{}", now));
        assert!(!fits(&signature.replace("v1=0", "v1=1"), "POST", path, body, now));
        assert!(!fits("", "POST", path, body, now));
        assert!(!fits(&format!("t={now},v1=0"), "POST", path, body, now));
    }
}
