//! The page at `/`: files as they are in `page/`, without a build step. They ask this server for
//! `/status` and `/steps`, give it a person's orders, and reach nothing else.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use super::server::answer;

/// The path, type and text of each file.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/page/app.js", SCRIPT, include_str!("page/app.js")),
    ("/page/orders.js", SCRIPT, include_str!("page/orders.js")),
    ("/page/views.js", SCRIPT, include_str!("page/views.js")),
    ("/page/words.js", SCRIPT, include_str!("page/words.js")),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Answers for the page's files.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let add = |router: Router<S>,
               (path, content_type, text): (&str, &'static str, &'static str)| {
        router.route(path, get(async move || answer(StatusCode::OK, content_type, text)))
    };
    FILES.into_iter().fold(Router::new(), add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_no_one_else_and_writes_no_markup() {
        for (path, _, text) in FILES {
            for (at, _) in text.match_indices("://") {
                let namespace = text[at..].starts_with("://www.w3.org/2000/svg");
                assert!(namespace, "{path}: {}", &text[at..text.len().min(at + 40)]);
            }
            for banned in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                assert!(!text.contains(banned), "{path}: {banned}");
            }
        }
    }
}
