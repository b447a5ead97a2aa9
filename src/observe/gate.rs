//! Who may give orders over TCP: those who have the token in `http.token_file`.
//!
//! The token comes in a header that no browser adds by itself, and no cookie is read, so another
//! site's page has no authority to borrow; what a browser says is from another site is refused all
//! the same. Wrong tokens are told, and never keep out who has the right one: a token as long as
//! it must be is not found by trying.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;
use tokio::time::{Instant, timeout};

use super::caller::Caller;
use super::server::{PATIENCE, Problem, problem};
use crate::secret;

/// The token's file, if orders are taken at all, and what was tried.
pub(super) struct Gate {
    file: Option<PathBuf>,
    refusals: Mutex<Refusals>,
}

/// What is told of those who are not let in.
#[derive(Default)]
struct Refusals {
    /// When a wrong token was last told.
    told: Option<Instant>,
    /// Wrong ones since.
    untold: u64,
    /// The file could not be read, which has been told.
    unreadable: bool,
}

/// How often wrong tokens are told at most.
const MINUTE: Duration = Duration::from_mins(1);
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Gate {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, refusals: Mutex::default() }
    }

    /// Whether anyone is let in.
    pub(super) fn opens(&self) -> bool {
        self.file.is_some()
    }

    async fn admits(
        &self,
        method: &Method,
        headers: &HeaderMap,
        by: Option<Caller>,
    ) -> Result<(), Problem> {
        let Some(file) = &self.file else {
            return Err(Problem::not_found(
                "not here: set http.token_file to the file of a token, or use callbackd's \
                 commands on the worker's machine",
            ));
        };
        if is_from_elsewhere(headers) {
            return Err(refused(
                StatusCode::FORBIDDEN,
                "the page of another site has made this request; a proxy in between has to pass \
                 on the header sec-fetch-site",
            ));
        }
        if method == Method::POST && !is_json(headers) {
            return Err(refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the header content-type: application/json",
            ));
        }
        let given = bearer(headers).ok_or_else(|| {
            refused(
                StatusCode::UNAUTHORIZED,
                "send the header authorization: Bearer TOKEN, with what the file at \
                 http.token_file holds",
            )
        })?;
        let late = |_| Err(format!("was not read within {PATIENCE:?}"));
        let token = timeout(PATIENCE, secret::key_beside_tasks(file)).await.unwrap_or_else(late);
        let token = self.readable(file, token.and_then(secret::in_a_header))?;
        self.compare(given, &token, by)
    }

    /// The file's content; that it has none is told once.
    fn readable(&self, file: &Path, read: Result<Vec<u8>, String>) -> Result<Vec<u8>, Problem> {
        let told = std::mem::replace(&mut self.refusals().unreadable, read.is_err());
        read.map_err(|why| {
            if !told {
                tracing::error!(
                    event = "token_unusable",
                    path = %file.display(),
                    why,
                    "the token in http.token_file cannot be used: the status server takes no \
                     orders until it can"
                );
            }
            Problem::unavailable("the worker's token cannot be used; its log says why")
        })
    }

    fn compare(&self, given: &[u8], token: &[u8], by: Option<Caller>) -> Result<(), Problem> {
        if bool::from(given.ct_eq(token)) {
            return Ok(());
        }
        let now = Instant::now();
        let mut refusals = self.refusals();
        if refusals.told.is_none_or(|told| now - told >= MINUTE) {
            refusals.told = Some(now);
            let more = std::mem::take(&mut refusals.untold);
            drop(refusals);
            let by = by.map(|by| by.to_string());
            tracing::warn!(
                event = "token_refused",
                by,
                more,
                "an order with a wrong token is refused; more of them in this minute are counted"
            );
        } else {
            refusals.untold += 1;
        }
        Err(refused(StatusCode::UNAUTHORIZED, "the token is wrong"))
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a request pass, or answers why not.
pub(super) async fn admit(
    State(gate): State<Arc<Gate>>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let by = request.extensions().get::<Caller>().copied();
    let admitted = gate.admits(request.method(), request.headers(), by).await;
    let Err(Problem { status, reason }) = admitted else {
        return Ok(next.run(request).await);
    };
    let mut response = problem(status, &reason);
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer realm=\"callbackd\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    Ok(response)
}

fn refused(status: StatusCode, reason: &str) -> Problem {
    Problem { status, reason: reason.to_owned() }
}

/// Whether a browser says that the page of another site makes the request. Others say nothing, and
/// browsers say only `Origin` where the connection is neither HTTPS nor to this machine.
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SITE).iter().peekable();
    if sites.peek().is_some() {
        return sites.any(|site| site != "same-origin");
    }
    let host = headers.get(header::HOST);
    let is_own = |origin: &HeaderValue| {
        let host = host.and_then(|host| host.to_str().ok());
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.zip(host).is_some_and(|((_, at), host)| at.eq_ignore_ascii_case(host))
    };
    !headers.get_all(header::ORIGIN).iter().all(is_own)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The one token that is given.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (one, None) = (given.next()?, given.next()) else { return None };
    let (scheme, token) = one.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const TOKEN: &str = "correct-horse-battery";

    fn gate(text: &str) -> (Gate, TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, text).expect("it is ours");
        (Gate::new(Some(path)), folder)
    }

    const JSON: (&str, &str) = ("content-type", "application/json");
    const RIGHT: (&str, &str) = ("authorization", "Bearer correct-horse-battery");
    const WRONG: (&str, &str) = ("authorization", "Bearer correct-horse-batterx");

    async fn asked(gate: &Gate, method: Method, headers: &[(&str, &str)]) -> u16 {
        let mut all = HeaderMap::new();
        for (name, value) in [("host", "localhost:9464")].iter().chain(headers) {
            let name: HeaderName = name.parse().expect("a name");
            all.append(name, value.parse().expect("a value"));
        }
        let admitted = gate.admits(&method, &all, None).await;
        admitted.map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    async fn posted(gate: &Gate, headers: &[(&str, &str)]) -> u16 {
        asked(gate, Method::POST, headers).await
    }

    #[tokio::test]
    async fn without_a_file_nobody_is_let_in() {
        let gate = Gate::new(None);
        assert!(!gate.opens());
        assert_eq!(posted(&gate, &[JSON, RIGHT]).await, 404);
    }

    #[tokio::test]
    async fn who_has_the_token_is_let_in_if_the_request_is_of_the_servers_own_page_or_of_none() {
        let (gate, _folder) = gate(&format!("{TOKEN}\n"));
        let by =
            async |more: &[(&str, &str)]| posted(&gate, &[&[JSON, RIGHT], more].concat()).await;
        let origin = |at| ("origin", at);
        let site = |site| ("sec-fetch-site", site);
        assert_eq!(by(&[]).await, 200);
        assert_eq!(by(&[origin("http://localhost:9464")]).await, 200);
        // A proxy may have another name for it, and the browser knows what is the same.
        assert_eq!(by(&[site("same-origin"), origin("https://worker.example")]).await, 200);
        for more in [
            &[site("cross-site")][..],
            &[site("same-site"), origin("http://localhost:9464")],
            &[site("none")],
            &[site("same-origin"), site("cross-site")],
            &[origin("http://evil.example")],
            &[origin("http://localhost:9465")],
            &[origin("http://localhost:9464.evil.example")],
            &[origin("http://localhost:9464"), origin("http://evil.example")],
            &[origin("null")],
        ] {
            assert_eq!(by(more).await, 403, "{more:?}");
        }
    }

    #[tokio::test]
    async fn a_header_that_is_missing_or_not_as_it_must_be_lets_nobody_in() {
        let (gate, _folder) = gate(TOKEN);
        for (headers, status) in [
            (&[RIGHT][..], 415),
            (&[RIGHT, ("content-type", "text/plain")], 415),
            (&[RIGHT, ("content-type", "application/x-www-form-urlencoded")], 415),
            (&[JSON], 401),
            (&[JSON, ("authorization", TOKEN)], 401),
            (&[JSON, ("authorization", "Basic correct-horse-battery")], 401),
            (&[JSON, ("authorization", "Bearer")], 401),
            (&[JSON, ("authorization", "Bearer correct-horse")], 401),
            (&[JSON, ("cookie", "token=correct-horse-battery")], 401),
            (&[JSON, RIGHT, WRONG], 401),
            (&[("content-type", "application/json; charset=utf-8"), RIGHT], 200),
        ] {
            assert_eq!(posted(&gate, headers).await, status, "{headers:?}");
        }
        assert_eq!(asked(&gate, Method::GET, &[RIGHT]).await, 200, "it has no body");
        assert_eq!(asked(&gate, Method::GET, &[WRONG]).await, 401);
    }

    #[tokio::test]
    async fn wrong_tokens_keep_nobody_out_who_has_the_right_one_and_are_counted() {
        let (gate, _folder) = gate(TOKEN);
        for _ in 0..100 {
            assert_eq!(posted(&gate, &[JSON, WRONG]).await, 401);
        }
        assert_eq!(posted(&gate, &[JSON, RIGHT]).await, 200);
        let foreign = [JSON, WRONG, ("sec-fetch-site", "cross-site")];
        assert_eq!(posted(&gate, &foreign).await, 403);
        assert_eq!(gate.refusals().untold, 99, "the first one is told");
    }

    #[tokio::test]
    async fn the_token_is_the_one_that_the_file_has_now() {
        let (gate, folder) = gate(TOKEN);
        let path = folder.path().join("token");
        assert_eq!(posted(&gate, &[JSON, RIGHT]).await, 200);
        std::fs::write(&path, "another-horse-battery").expect("it is ours");
        assert_eq!(posted(&gate, &[JSON, RIGHT]).await, 401);
        let new = ("authorization", "Bearer another-horse-battery");
        assert_eq!(posted(&gate, &[JSON, new]).await, 200);
        for text in ["short", "", "correct horse battery", "correct-horse\nbattery"] {
            std::fs::write(&path, text).expect("it is ours");
            let given = format!("Bearer {}", text.replace('\n', ""));
            assert_eq!(posted(&gate, &[JSON, ("authorization", &given)]).await, 503, "{text:?}");
        }
        std::fs::remove_file(&path).expect("it is ours");
        assert_eq!(posted(&gate, &[JSON, RIGHT]).await, 503);
    }
}
