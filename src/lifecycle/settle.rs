//! What the answer to a report leads to: the step is settled, or SageMaker is asked why it refused.

use std::time::Duration;

use super::machine::{Decision, Here, Transition, later, released};
use super::{Answer, Effect, Ending, Record, Status};
use crate::backoff::Backoff;
use crate::outcome::Outcome;
use crate::seam::{Ending as Closed, Standing};

/// How often in a row SageMaker must not find a step whose report it refused, until the step counts as closed: a listing may lag.
const NOT_FOUND_ENOUGH: u32 = 3;

/// A report that SageMaker refuses while the step waits needs somebody to mend something: slow, but never given up.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_mins(5));

impl Decision<'_> {
    pub(super) fn report_refused(&self, detail: &str) -> Transition {
        let record = Record { last_error: Some(detail.to_owned()), ..self.state.record.clone() };
        let transition = self.write(record).going(Here::Doubting, [Effect::Ask]);
        Transition { refusals: self.state.refusals + 1, ..transition }
    }

    pub(super) fn doubt_answered(&self, answer: &Answer) -> Transition {
        let record = &self.state.record;
        match answer {
            Answer::Standing(Standing::Closed(how)) => {
                let as_ours = matches!(
                    (record.outcome.as_ref(), how),
                    (Some(Outcome::Success(_)), Closed::Succeeded) | (Some(Outcome::Failure(_)), Closed::Failed)
                );
                self.settle(record.ending.filter(|_| as_ours).unwrap_or(Ending::SettledElsewhere))
            }
            Answer::Standing(Standing::NotFound) if self.state.not_found + 1 >= NOT_FOUND_ENOUGH => {
                self.settle(Ending::SettledElsewhere)
            }
            Answer::Standing(Standing::NotFound) => {
                Transition { not_found: self.state.not_found + 1, ..self.report_later() }
            }
            Answer::Standing(Standing::Open { .. }) | Answer::Unknown(_) => {
                Transition { not_found: 0, ..self.report_later() }
            }
        }
    }

    fn report_later(&self) -> Transition {
        let wait = REFUSED.after(self.state.refusals, self.view.random);
        self.sleep(Some(later(self.view.now, wait)))
    }

    pub(super) fn settle(&self, ending: Ending) -> Transition {
        let record = Record {
            status: Status::Settled,
            ending: Some(ending),
            settled_at: Some(self.view.now),
            deadline: None,
            ..released(self.state.record.clone())
        };
        self.write(record).going(Here::Nothing, [Effect::Finish(ending), Effect::Delete])
    }
}
