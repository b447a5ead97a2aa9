pub mod backoff;
pub mod outcome;
pub mod step;
