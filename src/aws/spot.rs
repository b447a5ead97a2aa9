//! The notice that EC2 gives before it takes a Spot instance back, two minutes ahead, in the
//! instance's metadata (`IMDSv2`; the SDK renews its token).

use std::time::Duration;

use aws_config::imds;
use aws_config::imds::client::error::ImdsError;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::sleep;

/// Where the notice is; 404 as long as there is none.
const ACTION: &str = "/latest/meta-data/spot/instance-action";
/// As often as EC2 recommends.
const EVERY: Duration = Duration::from_secs(5);
/// What EC2 leaves at least, if the notice does not say when.
const USUAL: Duration = Duration::from_mins(2);

/// Asks the instance for the notice.
#[derive(Clone, Debug)]
pub struct SpotNotices(imds::Client);

#[derive(Deserialize)]
struct Action {
    time: Timestamp,
}

impl SpotNotices {
    pub(super) fn new(client: imds::Client) -> Self {
        Self(client)
    }

    /// How much time the instance has left, if EC2 takes it back. `Err` says why that is not known.
    ///
    /// # Errors
    /// The text of an answer that is neither, or of none.
    pub async fn left(&self) -> Result<Option<Duration>, String> {
        match self.0.get(ACTION).await {
            Ok(action) => Ok(Some(time_left(action.as_ref(), Timestamp::now()))),
            Err(ImdsError::ErrorResponse(answer)) if answer.response().status().as_u16() == 404 => {
                Ok(None)
            }
            Err(error) => Err(format!("{error:?}")),
        }
    }

    /// Resolves with the time that is left once EC2 gives notice. That the metadata cannot be
    /// reached is said once, at debug: the machine may not be an instance.
    pub async fn notice(&self) -> Duration {
        let mut is_told = false;
        loop {
            match self.left().await {
                Ok(Some(left)) => return left,
                Ok(None) => {}
                Err(error) if is_told => drop(error),
                Err(error) => {
                    is_told = true;
                    tracing::debug!(%error, "EC2's metadata cannot be asked for a Spot notice");
                }
            }
            sleep(EVERY).await;
        }
    }
}

fn time_left(action: &str, now: Timestamp) -> Duration {
    let at = serde_json::from_str::<Action>(action).map(|action| action.time);
    at.map_or(USUAL, |at| Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::server::{Reply, Server};
    use super::*;

    const TOKEN: Reply =
        Reply::Raw(200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", "secret");

    async fn notices(replies: impl IntoIterator<Item = Reply>) -> (SpotNotices, Server) {
        let server = Server::start(replies).await;
        let client = imds::Client::builder().endpoint(&server.url).expect("a URL");
        (SpotNotices::new(client.max_attempts(1).build()), server)
    }

    #[test]
    fn the_time_left_is_until_the_moment_of_the_notice_and_never_negative() {
        let now = "2026-11-27T08:20:00Z".parse().expect("a time");
        let told = |time: &str| time_left(&format!(r#"{{"action":"stop","time":"{time}"}}"#), now);
        assert_eq!(told("2026-11-27T08:22:00Z"), USUAL);
        assert_eq!(told("2026-11-27T08:20:07Z"), Duration::from_secs(7));
        assert_eq!(told("2026-11-27T08:19:00Z"), Duration::ZERO);
        assert_eq!((told("soon"), time_left("", now)), (USUAL, USUAL));
    }

    #[tokio::test]
    async fn a_notice_is_asked_for_with_a_token_and_its_absence_is_none() {
        let action = r#"{"action":"terminate","time":"2000-01-01T00:00:00Z"}"#;
        let replies = [TOKEN, Reply::Raw(404, "", ""), Reply::Raw(200, "", action)];
        let (notices, server) = notices(replies).await;
        assert_eq!(notices.left().await, Ok(None));
        assert_eq!(notices.left().await, Ok(Some(Duration::ZERO)));
        let requests = server.requests();
        assert!(requests[0].head.starts_with("PUT /latest/api/token "), "{}", requests[0].head);
        for request in &requests[1..] {
            assert!(request.head.starts_with(&format!("GET {ACTION} ")), "{}", request.head);
            assert_eq!(request.header("x-aws-ec2-metadata-token"), Some("secret"));
        }
    }

    #[tokio::test]
    async fn metadata_that_fails_is_no_notice() {
        let (notices, _server) = notices([TOKEN, Reply::Raw(500, "", ""), Reply::Reset]).await;
        assert!(notices.left().await.is_err());
        assert!(notices.left().await.is_err());
    }
}
