//! What a killed worker left on this machine.

/// Something that a run left behind when its worker was killed. It is removed once nothing can need
/// it any more.
pub struct Leftover {
    token: String,
    remove: Box<dyn FnOnce() + Send>,
}

impl Leftover {
    /// Of the step with this token; `remove` logs its own result.
    pub fn new(token: impl Into<String>, remove: impl FnOnce() + Send + 'static) -> Self {
        Self { token: token.into(), remove: Box::new(remove) }
    }

    /// The step's callback token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Removes it.
    pub fn remove(self) {
        (self.remove)();
    }
}
