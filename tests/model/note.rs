//! Which decisions are recorded as witnesses.

use callbackd::lifecycle::{Activity, Effect, Ending, State, Status, Transition};
use callbackd::step::StopReason;

use crate::happening::{EndKind, Happening, Post, Reply, Standing};
use crate::turn::Turn;
use crate::witness::Witness;

impl Turn<'_> {
    #[expect(clippy::too_many_lines, reason = "one match of all that can be witnessed")]
    pub fn note(&self, state: &State, happening: Happening, transition: &Transition) {
        let (activity, effects) = (transition.local.activity, &transition.effects);
        let status = state.record.status;
        let written = transition.write.as_ref().map(|write| &write.record);
        match (happening, state.local.activity) {
            (Happening::LeaseLost, Activity::Running) => {
                self.witness(Witness::LeaseLostWhileRunning);
            }
            (Happening::LeaseLost, Activity::Cleaning(_)) => {
                self.witness(Witness::LeaseLostWhileCleaning);
            }
            (Happening::StopSeen(_) | Happening::Delivered(Post::Stop), _) => match status {
                Status::New => self.witness(Witness::StopBeforeWork),
                Status::Concluded => self.witness(Witness::StopAfterConclusion),
                Status::Settled => self.witness(Witness::StopAfterSettlement),
                Status::Deferred => self.witness(Witness::StopWhileDeferred),
                Status::Claimed if activity == Activity::Sleeping => {
                    self.witness(Witness::StopOfAForeignRun);
                }
                _ => {}
            },
            (Happening::Ended(end), Activity::Stopping(StopReason::PipelineStopped))
                if end.is_own() =>
            {
                self.witness(Witness::OutcomeKeptWithinGrace);
            }
            (Happening::Ended(EndKind::Retry), _) if effects.contains(&Effect::Report) => {
                self.witness(Witness::GaveUpAfterItsAttempts);
            }
            (Happening::SlotFree | Happening::Woken, Activity::Queued | Activity::Sleeping)
                if status == Status::Deferred =>
            {
                self.witness(Witness::DeferredMeanwhile);
            }
            (Happening::SlotFree, Activity::Queued) if status == Status::Settled => {
                self.witness(Witness::EndedMeanwhile);
            }
            (Happening::Answered(_), Activity::Verifying) if activity == Activity::Unverified => {
                self.witness(Witness::AskedAgain);
            }
            (Happening::Answered(_), Activity::Verifying) => self.witness(Witness::Verified),
            (Happening::Answered(_), Activity::Resuming)
                if effects.contains(&Effect::AwaitSlot) =>
            {
                self.witness(Witness::WentOnWithoutItsMessage);
            }
            (Happening::Answered(_), Activity::Reopening)
                if effects.contains(&Effect::AwaitSlot) =>
            {
                self.witness(Witness::CameBack);
            }
            (Happening::ReportFailed { denied: true }, _)
                if activity == Activity::CheckingRefusal =>
            {
                self.witness(Witness::AskedWhenDenied);
            }
            (Happening::Answered(Reply::Standing(Standing::Gone)), Activity::CheckingRefusal)
                if activity == Activity::Idle =>
            {
                self.witness(Witness::GoneForGood);
            }
            (Happening::RetryAsked, _) if written.is_some() => {
                self.witness(Witness::TriedAgainAtOnce);
            }
            (Happening::Phase, _) if effects.contains(&Effect::Return) => {
                self.witness(Witness::GivenBack);
            }
            (Happening::Answered(_), Activity::CheckingRefusal)
                if effects.contains(&Effect::Delete) =>
            {
                self.witness(Witness::RefusedBecauseClosed);
            }
            _ => {}
        }
        if state.local.stop_in_doubt.is_some() && transition.local.stop_in_doubt.is_none() {
            let refused = effects.iter().any(|effect| matches!(effect, Effect::RefuseStop(_)));
            let confirmed = written.is_some_and(|record| record.stop_requested.is_some());
            match (refused, confirmed, state.local.activity) {
                (true, ..) => self.witness(Witness::StopRefused),
                (_, true, Activity::Running) => self.witness(Witness::StopConfirmedWhileRunning),
                (_, true, _) => self.witness(Witness::StopConfirmed),
                _ => {}
            }
        }
        let cleans = effects.iter().any(|effect| matches!(effect, Effect::CleanUp(_)));
        let foreign = state.record.owner.is_some()
            && written.is_some_and(|to| to.owner != state.record.owner);
        match status {
            Status::Claimed if foreign && cleans => self.witness(Witness::CleanupTakenOver),
            Status::Claimed if foreign && effects.contains(&Effect::Run) => {
                self.witness(Witness::RunTakenOver);
            }
            Status::Owed if cleans => self.witness(Witness::DebtPaidHere),
            Status::Waiting if state.record.hindered && effects.contains(&Effect::Run) => {
                self.witness(Witness::HinderedAndTriedAgain);
            }
            Status::Waiting if state.record.resume && effects.contains(&Effect::Run) => {
                self.witness(Witness::Resumed);
            }
            Status::Deferred if effects.contains(&Effect::Report) => {
                self.witness(Witness::DeferredTooLong);
            }
            Status::Deferred if written.is_some_and(|to| to.status == Status::Settled) => {
                self.witness(Witness::CompletedElsewhere);
            }
            _ => {}
        }
        if let Some(to) = written.filter(|_| effects.contains(&Effect::Run)) {
            let (was, attempts) = (&state.record, to.attempt - state.record.attempt);
            match (was.status, attempts) {
                (Status::Claimed, 0) if to.owner != was.owner => {
                    self.witness(Witness::SparedInACrash);
                }
                (_, 1) if was.is_suspected() => self.witness(Witness::ChargedOnTrial),
                _ => {}
            }
        }
        self.note_answers(state, transition);
        if effects.contains(&Effect::CleanUp(StopReason::TimeLimit)) {
            self.witness(Witness::TimeLimitReached);
        }
    }

    /// What is known of answers that the ledger has not given.
    fn note_answers(&self, state: &State, transition: &Transition) {
        let effects = &transition.effects;
        let by_handler = effects.contains(&Effect::Finish(Ending::AnsweredByHandler));
        let elsewhere = effects.contains(&Effect::Finish(Ending::SettledElsewhere));
        let waits = matches!(state.record.status, Status::Waiting | Status::Claimed);
        if effects.contains(&Effect::Tell(StopReason::SettledElsewhere)) {
            self.witness(Witness::SucceededElsewhereInARun);
        }
        if elsewhere && waits && state.record.attempt > 0 && state.record.stop_requested.is_none() {
            self.witness(Witness::SucceededElsewhereInAWait);
        }
        if by_handler && state.record.status == Status::Deferred {
            self.witness(Witness::AnsweredByItsHandler);
        }
        if by_handler && waits {
            self.witness(Witness::AnsweredBeforeAnotherRun);
        }
    }
}
