//! The handler: writes a report about a model to a directory.

use std::path::PathBuf;

use callbackd::{Context, Handler, HandlerError, HandlerResult, Outputs};
use serde::Deserialize;

/// `[handlers.NAME.settings]` with `type = "export"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where reports are put.
    folder: PathBuf,
}

/// The callback step's arguments.
#[derive(Deserialize)]
pub struct Args {
    model: String,
}

pub struct Export {
    folder: PathBuf,
}

impl Export {
    /// Called once at start for each handler of this type; an error is a mistake in the
    /// configuration.
    pub fn new(settings: Settings) -> Result<Self, String> {
        if settings.folder.is_relative() {
            return Err("folder must be an absolute path".to_owned());
        }
        Ok(Self { folder: settings.folder })
    }

    /// Named by the token: a second attempt writes the same file.
    fn report(&self, cx: &Context) -> PathBuf {
        self.folder.join(format!("{}.txt", cx.token()))
    }
}

impl Handler for Export {
    type Args = Args;

    async fn run(&self, cx: Context, args: Args) -> HandlerResult {
        let report = self.report(&cx);
        tokio::fs::create_dir_all(&self.folder).await?;
        tokio::fs::write(&report, format!("model {}\n", args.model)).await?;
        Ok(Outputs::of([("report", report.to_string_lossy())])?.into())
    }

    /// The pipeline was stopped: the report is not needed.
    async fn cleanup(&self, cx: Context, _: Args) -> Result<(), HandlerError> {
        match tokio::fs::remove_file(self.report(&cx)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use callbackd::StopReason;
    use callbackd::testing::TestStep;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_report_is_written_and_removed_after_a_stop() {
        let step = TestStep::new(json!({"model": "penguins-7"}));
        let export = Export::new(Settings { folder: step.work_dir().to_owned() }).unwrap();

        let done = step.run(&export).await.unwrap();
        let report = done.outputs().unwrap().get("report").unwrap();
        assert_eq!(std::fs::read_to_string(report).unwrap(), "model penguins-7\n");

        step.clean_up(&export, StopReason::PipelineStopped).await.unwrap();
        assert!(!std::path::Path::new(report).exists());
    }

    #[tokio::test]
    async fn a_step_without_a_model_fails_and_says_so() {
        let step = TestStep::new(json!({}));
        let export = Export::new(Settings { folder: step.work_dir().to_owned() }).unwrap();
        let error = step.run(&export).await.unwrap_err();
        assert!(error.is_permanent() && error.message().contains("model"), "{error}");
    }
}
