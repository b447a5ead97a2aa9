//! The signature by which a service knows that a request is ours, and is not an old one.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use crate::hex::hex;

/// The header that carries it.
pub(super) const HEADER: &str = "callbackd-signature";

/// `t=SECONDS,v1=HEX`: the time, and the HMAC-SHA256 over time, method, path with query, and body,
/// each of the first three with a line feed behind it.
///
/// Method and path are in it so that a request to run a step is of no use as one to clean it up.
pub(super) fn of(secret: &[u8], at: Timestamp, method: &str, path: &str, body: &[u8]) -> String {
    let seconds = at.as_second();
    #[expect(clippy::expect_used, reason = "the error is of other algorithms")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any key is allowed");
    mac.update(format!("{seconds}\n{method}\n{path}\n").as_bytes());
    mac.update(body);
    format!("t={seconds},v1={}", hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn it_is_what_the_receivers_in_examples_expect() {
        let vector = include_str!("../../../examples/http/vector.json");
        let vector: Value = serde_json::from_str(vector).expect("JSON");
        let text = |key: &str| vector[key].as_str().expect(key);
        let at = Timestamp::from_second(vector["time"].as_i64().expect("seconds")).expect("a time");
        let signature = of(
            text("secret").as_bytes(),
            at,
            text("method"),
            text("path"),
            text("body").as_bytes(),
        );
        assert_eq!(signature, text("signature"));
    }
}
