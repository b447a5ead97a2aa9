//! `$STEP_PROGRESS`: how far a program is, for operators. It is never saved.

use std::time::Duration;

use tokio::time::sleep;

use super::watch::Notices;
use super::workspace::{PROGRESS, Workspace};
use crate::handler::Context;

/// How often it is read at most: a program may write it in each round of a loop.
const REST: Duration = Duration::from_secs(1);

/// Tells operators what the program writes, as long as it is polled.
pub(super) async fn report(cx: &Context, workspace: &Workspace) {
    let notices = Notices::of(&workspace.files(), PROGRESS);
    // The program may have written before the watch began.
    loop {
        look(cx, workspace);
        sleep(REST).await;
        notices.next().await;
    }
}

/// Tells operators what the program has written. If that is the same as before, nothing follows.
pub(super) fn look(cx: &Context, workspace: &Workspace) {
    if let Some((fraction, text)) = workspace.progress().as_deref().and_then(read) {
        cx.progress(fraction, text);
    }
}

/// The last line that is not blank: a fraction, a text, or both.
fn read(text: &str) -> Option<(Option<f64>, String)> {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let fraction = first.parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
    let text = if fraction.is_some() { rest.trim_start() } else { line };
    Some((fraction, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_a_fraction_a_text_or_both() {
        for (text, fraction, says) in [
            ("0.4 epoch 4 of 10\n", Some(0.4), "epoch 4 of 10"),
            ("0.1 one\n0.2  two\n\n", Some(0.2), "two"),
            ("1", Some(1.0), ""),
            ("epoch 4\r\n", None, "epoch 4"),
            ("4 of 10", None, "4 of 10"),
            ("NaN left", None, "NaN left"),
        ] {
            assert_eq!(read(text), Some((fraction, says.to_owned())), "{text:?}");
        }
        assert_eq!(read(" \n"), None);
    }
}
