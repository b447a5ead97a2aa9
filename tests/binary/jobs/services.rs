//! moto's services, one server for all tests, in which each test has what it creates.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::{Value, json};
use toml::Table;

use super::{Job, Loss, Site};
use crate::http;
use crate::moto::Moto;
use crate::scene::random_token;
use crate::venv::Venv;

/// One of the services, with something that runs jobs.
pub struct Service {
    kind: &'static str,
    /// Of everything in it, and the access key of the test's programs.
    name: String,
    variables: Table,
}

impl Service {
    pub async fn new(kind: &'static str) -> Self {
        let mut new = Self { kind, name: random_token(), variables: Table::new() };
        let created = new.ask("create", json!({})).await;
        new.variables = serde_json::from_value(created).expect("variables");
        let more = [
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{}", address())),
            ("AWS_ACCESS_KEY_ID", new.name.clone()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ];
        new.variables.extend(more.map(|(name, value)| (name.to_owned(), value.into())));
        new
    }

    /// Starts a job of this name, by nobody's program, and returns its id.
    pub async fn submit(&self, job: &str) -> String {
        let id = self.ask("submit", json!({ "job": job })).await;
        id.as_str().expect("an id").to_owned()
    }

    /// The operations that the test's programs have asked for.
    pub async fn calls(&self) -> Vec<String> {
        serde_json::from_value(self.ask("calls", json!({})).await).expect("names")
    }

    async fn ask(&self, what: &str, more: Value) -> Value {
        let mut question = json!({ "do": what, "service": self.kind, "name": self.name });
        let more = more.as_object().expect("an object").clone();
        question.as_object_mut().expect("an object").extend(more);
        let (status, body) =
            http::post(address(), "", &question.to_string()).await.expect("the server answers");
        assert_eq!(status, 200, "{question}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }
}

impl Site for Service {
    fn program(&self) -> &'static str {
        match self.kind {
            "glue" => "glue.py",
            "emr" => "emr.py",
            "batch" => "batch.py",
            "step_functions" => "step_functions.py",
            _ => "ecs.py",
        }
    }

    fn variables(&self) -> Table {
        self.variables.clone()
    }

    fn path(&self) -> String {
        let python = Venv::ready().python();
        python.parent().expect("a folder").display().to_string()
    }

    async fn jobs(&self) -> Vec<Job> {
        let jobs = self.ask("jobs", json!({})).await;
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let job = |job: &Value| Job {
            id: text(&job["id"]),
            state: text(&job["state"]),
            given: job["given"].to_string(),
        };
        jobs.as_array().expect("a list").iter().map(job).collect()
    }

    async fn end(&self, job: &Job, message: Option<&str>) {
        self.ask("end", json!({ "id": job.id, "message": message })).await;
    }

    async fn lose(&self, what: Loss) {
        let how = match what {
            Loss::Nothing => None,
            Loss::Answers => Some("withheld"),
            Loss::OneAnswer => Some("reset"),
            Loss::Requests => Some("refused"),
        };
        self.ask("lose", json!({ "how": how })).await;
    }

    fn cancelled(&self) -> &'static str {
        match self.kind {
            "emr" => "CANCELLED",
            "batch" => "FAILED",
            "step_functions" => "ABORTED",
            _ => "STOPPED",
        }
    }

    fn outputs(&self, job: &Job) -> Value {
        let id = &job.id;
        match self.kind {
            "glue" => json!({ "job_run_id": id, "seconds": "123" }),
            "emr" => json!({ "step_id": id }),
            "batch" => json!({ "job_id": id, "log_stream": format!("{}/default/{id}", self.name) }),
            "step_functions" => {
                json!({ "execution_arn": id, "rows": "7", "tables": "[\"a\"]" })
            }
            _ => json!({ "task_arn": id }),
        }
    }
}

fn address() -> SocketAddr {
    static SERVICES: OnceLock<Moto> = OnceLock::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/jobs/services.py");
    SERVICES.get_or_init(|| Moto::start_script(script, &[], Stdio::inherit())).address
}
