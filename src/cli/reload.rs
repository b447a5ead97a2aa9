//! `callbackd reload`: has the daemon on this machine read its configuration again.

use std::path::Path;
use std::process::ExitCode;

use super::admin::Socket;
use super::{Failure, complain, plain, say};
use crate::observe::admin::Taken;
use crate::observe::events::coded;

pub(super) async fn run(socket: &Socket, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let asked = socket.post("/reload", file).await?;
    match asked.status() {
        200 => {}
        400 => {
            let why = asked.refusal().await?;
            let text = format!("{why}\nthe daemon goes on with the configuration that it had");
            return Err(Failure::Configuration(coded(text, "reload_refused")));
        }
        _ => return Err(Failure::Runtime(asked.refusal().await?)),
    }
    let taken: Taken = asked.answer().await?;
    taken.warnings.iter().for_each(|warning| complain(plain(warning)));
    lines(&taken).iter().for_each(say);
    Ok(ExitCode::SUCCESS)
}

fn lines(taken: &Taken) -> Vec<String> {
    let changed = match &*taken.changed {
        [] => "the configuration is reloaded: nothing that may change meanwhile has".to_owned(),
        keys => format!("the configuration is reloaded; changed: {}", keys.join(", ")),
    };
    let waits = (!taken.needs_restart.is_empty())
        .then(|| format!("at the next start: {}", taken.needs_restart.join(", ")));
    std::iter::once(changed).chain(waits).map(|line| plain(&line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_over_and_what_waits_for_a_start_are_told_apart() {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let taken = Taken {
            changed: keys(&["log.level", "queues[0].routes"]),
            needs_restart: keys(&["http.listen"]),
            warnings: Vec::new(),
        };
        assert_eq!(
            lines(&taken),
            [
                "the configuration is reloaded; changed: log.level, queues[0].routes",
                "at the next start: http.listen",
            ]
        );
        let nothing = lines(&Taken::default());
        assert!(nothing.len() == 1 && nothing[0].contains("nothing"), "{nothing:?}");
    }
}
