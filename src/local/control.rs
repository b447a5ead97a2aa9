//! The control API under `/_local/`, by which tests and drills in any language set faults and
//! switches.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::HeaderValue;
use hyper::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::faults::{self, Rule};
use super::service::Service;
use super::sts::ExternalIds;
use super::undocumented::Undocumented;

/// Where the API begins. No AWS path does.
pub(super) const PATH: &str = "/_local/";

/// A whole set of rules: it replaces the one in force, and its counts begin again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Faults {
    /// Seeds the choice of calls for rules with a probability; random if absent.
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// Answers a request to the API; `path` is what follows [`PATH`].
pub(super) fn answer(
    service: &Service,
    method: &Method,
    path: &str,
    body: &[u8],
) -> Response<Full<Bytes>> {
    let (status, answer) = match (method.as_str(), path) {
        ("GET", "faults") => (StatusCode::OK, json!({"rules": service.faults()})),
        ("POST" | "PUT", "faults") => {
            match read::<Faults>(body).and_then(|set| faults::check(&set.rules).map(|()| set)) {
                Ok(set) => {
                    service.set_faults(set.rules, set.seed);
                    (StatusCode::OK, json!({"rules": service.faults()}))
                }
                Err(reason) => (StatusCode::BAD_REQUEST, json!({"error": reason})),
            }
        }
        ("DELETE", "faults") => {
            service.set_faults(Vec::new(), None);
            (StatusCode::OK, json!({"rules": []}))
        }
        ("GET", "external_ids") => (StatusCode::OK, json!(service.external_ids())),
        ("POST" | "PUT", "external_ids") => match read::<ExternalIds>(body) {
            Ok(set) => {
                service.set_external_ids(set);
                (StatusCode::OK, json!(service.external_ids()))
            }
            Err(reason) => (StatusCode::BAD_REQUEST, json!({"error": reason})),
        },
        ("GET", "undocumented") => (StatusCode::OK, json!(service.undocumented())),
        ("POST" | "PUT", "undocumented") => {
            match read::<Undocumented>(body).and_then(Undocumented::checked) {
                Ok(set) => {
                    service.set_undocumented(set);
                    (StatusCode::OK, json!(service.undocumented()))
                }
                Err(reason) => (StatusCode::BAD_REQUEST, json!({"error": reason})),
            }
        }
        _ => (StatusCode::NOT_FOUND, unknown(path)),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{answer:#}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn unknown(path: &str) -> Value {
    json!({
        "error": format!("nothing is at {PATH}{path}"),
        "faults": "GET, PUT {\"seed\": …, \"rules\": […]}, DELETE",
        "undocumented": "GET, PUT {\"switch\": \"variant\", …}; what is not named goes back to its \
                         default",
        "external_ids": "GET, PUT {\"role ARN\": \"external id\", …}; other roles require none",
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::clock::Clock;
    use crate::local::options::Options;
    use tokio_util::sync::CancellationToken;

    fn service() -> Service {
        Service::new(
            "http://localhost",
            Options::default(),
            Clock::start(),
            CancellationToken::new(),
        )
    }

    #[tokio::test]
    async fn rules_are_replaced_shown_with_their_counts_and_taken_away() {
        let service = service();
        let rules =
            br#"{"rules": [{"operation": "DeleteMessage", "fault": {"kind": "disconnect"}}]}"#;
        assert_eq!(answer(&service, &Method::PUT, "faults", rules).status(), 200);
        assert!(service.strike("DeleteMessage").disconnect.is_some());
        assert_eq!(service.faults()[0].struck, 1);
        assert_eq!(answer(&service, &Method::DELETE, "faults", b"").status(), 200);
        assert!(service.strike("DeleteMessage").disconnect.is_none());
    }

    #[tokio::test]
    async fn a_rule_that_cannot_be_replaces_nothing() {
        let service = service();
        let good =
            br#"{"rules": [{"operation": "DeleteMessage", "fault": {"kind": "disconnect"}}]}"#;
        assert_eq!(answer(&service, &Method::PUT, "faults", good).status(), 200);
        for wrong in [
            &br#"{"rules": [{"operation": "DeleteMessage", "fault": {"kind": "lose"}}]}"#[..],
            br#"{"rule": []}"#,
            b"nonsense",
        ] {
            assert_eq!(answer(&service, &Method::PUT, "faults", wrong).status(), 400);
            assert_eq!(service.faults().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_switch_that_is_not_named_goes_back_to_its_default() {
        let service = service();
        let body = br#"{"failed_step": "cut"}"#;
        assert_eq!(answer(&service, &Method::PUT, "undocumented", body).status(), 200);
        assert_ne!(service.undocumented(), Undocumented::default());
        assert_eq!(answer(&service, &Method::PUT, "undocumented", b"{}").status(), 200);
        assert_eq!(service.undocumented(), Undocumented::default());
        assert_eq!(
            answer(&service, &Method::PUT, "undocumented", br#"{"stopping_delay": "1h"}"#).status(),
            400
        );
    }

    #[tokio::test]
    async fn the_external_ids_of_roles_are_replaced_as_a_whole() {
        let service = service();
        let body = br#"{"arn:aws:iam::210987654321:role/r": "tenant-7"}"#;
        assert_eq!(answer(&service, &Method::PUT, "external_ids", body).status(), 200);
        assert_eq!(service.external_ids()["arn:aws:iam::210987654321:role/r"], "tenant-7");
        assert_eq!(answer(&service, &Method::PUT, "external_ids", b"[]").status(), 400);
        assert_eq!(answer(&service, &Method::PUT, "external_ids", b"{}").status(), 200);
        assert!(service.external_ids().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_there_tells_what_is() {
        assert_eq!(answer(&service(), &Method::GET, "nonsense", b"").status(), 404);
    }
}
