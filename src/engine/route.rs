use super::config::QueueConfig;
use serde_json::Value;
pub struct Routes(Option<String>);
impl Routes {
    pub fn new(config: &QueueConfig) -> Self {
        Self(config.handler.clone())
    }
    pub fn handler(&self, _: &str, _: &Value) -> Option<&str> {
        self.0.as_deref()
    }
}
