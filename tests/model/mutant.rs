//! The protocol with one mistake in it: each must be found, or the model would find nothing in the
//! real one either.

use callbackd::lifecycle::{
    Activity, AnsweredBy, Effect, Local, Policy, Record, State, Status, Transition, Urgency,
    Verify, Via, Write,
};
use callbackd::step::StopReason;

use crate::happening::{Happening, Post, Reply, Standing};
use crate::known::NOW;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    // Mistakes in decisions.
    DeleteBeforeReport,
    DeleteStopAtOnce,
    SettleWhenRefused,
    SettleDeferralNotFound,
    RecomputeWhenRefused,
    DoNotCountTheAttempt,
    ForgetToWake,
    DeferForEver,
    NeverTell,
    NeverAbort,
    LeaveStopsToTheWatch,
    LeaveStopsToTheirMessages,
    StartWhatIsFound,
    LeaveWhatIsFound,
    SettleMissingAtOnce,
    NeverGone,
    NeverAskWhenDenied,
    RefuseWhatIsUnknown,
    BelieveStops,
    BelieveForeignStops,
    TakeOverUnasked,
    ForgetThePhase,
    TellOnceWritten,
    ReplaceAtOnce,
    NeverReplace,
    DeleteWhatReturns,
    NeverRefuseStops,
    SuspectEverybody,
    CleanUpWhatIsCompleted,
    CleanUpWhatSucceeded,
    CallASuccessAStop,
    AnswerForTheHandler,
    RunWhatMayBeAnswered,
    AskForTheAnswerOnce,
    KeepTheOwner,
    DeferWithoutALimit,
    RetryUnasked,
    RetryWhatRuns,
    // Mistakes in carrying them out.
    BelieveNotFound,
    AnswerStopBlindly,
    AnswerStopWithoutCleanup,
    RandomRequest,
    ForgetStop,
    RunWithoutClaim,
    RunBeforeWrite,
    OverwriteBlindly,
    IgnoreForeignLease,
    KeepRunningWithoutLease,
    TakeOverWithoutFencing,
    RenewAfterAFence,
    FenceWhateverItsVersion,
    KeepTheIdOfALostLease,
    KeepWhatIsNotTakenYet,
    ForgetTheStopSet,
    DropStopsAsTheyAreRead,
    DropWhatTheLedgerDidNotTake,
    ForgetOutcome,
    ForgetDeferral,
    GiveUpOnALostReply,
    HoldMessagesForEver,
    AnswerWhatIsBeingStopped,
    AnswerAnew,
}

impl Mutant {
    /// Whether the mistake is to ignore what happens.
    pub fn ignores(self, happening: Happening, activity: Activity) -> bool {
        match self {
            Self::KeepRunningWithoutLease => happening == Happening::LeaseLost,
            Self::LeaveStopsToTheWatch => {
                happening == Happening::Delivered(Post::Stop) && activity == Activity::Running
            }
            Self::LeaveWhatIsFound => happening == Happening::Found,
            Self::LeaveStopsToTheirMessages => happening == Happening::StopSeen(Via::Watch),
            _ => false,
        }
    }

    /// What is heard instead.
    pub fn mishear(self, happening: Happening) -> Happening {
        if self == Self::BelieveForeignStops && happening == Happening::Delivered(Post::Foreign) {
            return Happening::Delivered(Post::Stop);
        }
        if self == Self::BelieveNotFound && happening == Happening::Answered(Reply::NotFound) {
            return Happening::Answered(Reply::Standing(Standing::Failed));
        }
        happening
    }

    /// What is wrongly taken for known.
    pub fn misremember(self, state: &mut State, happening: Happening) {
        let found = matches!(happening, Happening::Found | Happening::Woken);
        match self {
            Self::SuspectEverybody if state.record.status == Status::Claimed => {
                (state.record.resume, state.record.suspicion) = (false, u32::MAX);
            }
            Self::StartWhatIsFound if found => state.local.wanted = true,
            Self::RetryUnasked if happening == Happening::RetryAsked => state.local.wanted = true,
            Self::RetryWhatRuns
                if happening == Happening::RetryAsked && state.record.status == Status::Claimed =>
            {
                (state.record.status, state.record.owner) = (Status::Waiting, None);
                state.record.not_before = Some(NOW);
            }
            Self::RunWhatMayBeAnswered if matches!(happening, Happening::Delivered(_)) || found => {
                state.local.wanted = true;
            }
            Self::TakeOverUnasked
                if happening == Happening::Woken
                    && state.record.stop_requested.is_some_and(|stop| stop.at < NOW) =>
            {
                state.record.status = Status::Waiting;
            }
            _ => {}
        }
    }

    /// Wrongly applied settings.
    pub fn misread(self, policy: Policy, happening: Happening) -> Policy {
        match self {
            Self::BelieveStops if happening == Happening::Delivered(Post::Stop) => {
                Policy { verify: Verify::Redelivered, ..policy }
            }
            Self::AnswerForTheHandler if matches!(happening, Happening::Ended(_)) => {
                Policy { answers: AnsweredBy::Callbackd, ..policy }
            }
            _ => policy,
        }
    }

    /// Applies the mistake, if it is one of decisions.
    pub fn distort(self, transition: &mut Transition, state: &State, happening: Happening) {
        let effects = &mut transition.effects;
        let refused = happening == Happening::ReportRefused;
        let not_found = happening == Happening::Answered(Reply::NotFound);
        let succeeded = happening == Happening::Answered(Reply::Standing(Standing::Succeeded));
        let activity = state.local.activity;
        match self {
            Self::CleanUpWhatIsCompleted
                if succeeded && state.record.status == Status::Deferred =>
            {
                *transition = cleaning(state, StopReason::TimeLimit);
            }
            Self::CleanUpWhatSucceeded if succeeded && state.record.status == Status::Waiting => {
                *transition = cleaning(state, StopReason::SettledElsewhere);
            }
            Self::CallASuccessAStop => effects.iter_mut().for_each(call_it_a_stop),
            Self::AskForTheAnswerOnce
                if activity == Activity::Asking && state.record.status == Status::Deferred =>
            {
                effects.retain(|effect| !matches!(effect, Effect::Wake(_)));
            }
            Self::DeleteBeforeReport if effects.contains(&Effect::Report) => {
                effects.insert(0, Effect::Delete);
            }
            Self::DeleteStopAtOnce
                if happening == Happening::Delivered(Post::Stop) && activity == Activity::Idle =>
            {
                *transition = idle(None, Effect::Delete);
            }
            Self::SettleWhenRefused if refused => *transition = settled(state),
            Self::SettleDeferralNotFound
                if not_found && state.record.status == Status::Deferred =>
            {
                *transition = settled(state);
            }
            Self::SettleMissingAtOnce if effects.contains(&Effect::Missing) => {
                *transition = settled(state);
            }
            Self::NeverGone
                if activity == Activity::CheckingRefusal && effects.contains(&Effect::Delete) =>
            {
                transition.write = None;
                transition.local = Local { activity: Activity::Sleeping, ..state.local };
                transition.effects = vec![Effect::Wake(jiff::Timestamp::MAX)];
            }
            Self::NeverAskWhenDenied if matches!(happening, Happening::ReportFailed { .. }) => {
                transition.write = None;
                transition.local.activity = Activity::Sleeping;
                transition.effects = vec![Effect::Wake(jiff::Timestamp::MAX)];
            }
            Self::RefuseWhatIsUnknown if transition.local.activity == Activity::Unverified => {
                *transition = idle(None, Effect::Refuse("there is no answer".to_owned()));
            }
            Self::RecomputeWhenRefused if refused => {
                let outcome = None;
                let record = Record {
                    status: Status::Waiting,
                    owner: None,
                    outcome,
                    resume: true,
                    ..state.record.clone()
                };
                *transition = idle(Some(record), Effect::Return);
            }
            Self::ForgetToWake => effects.retain(|effect| !matches!(effect, Effect::Wake(_))),
            Self::DeferForEver
                if state.record.status == Status::Deferred && effects.contains(&Effect::Report) =>
            {
                *transition =
                    Transition { write: None, local: Local::NOTHING, effects: Vec::new() };
            }
            Self::NeverTell => effects.retain(|effect| !matches!(effect, Effect::Tell(_))),
            Self::NeverAbort => effects.retain(|effect| *effect != Effect::Abort),
            Self::ReplaceAtOnce if matches!(happening, Happening::Delivered(_)) => {
                effects.push(Effect::Replace);
            }
            Self::NeverReplace => effects.retain(|effect| *effect != Effect::Replace),
            Self::DeleteWhatReturns if transition.local.activity == Activity::Reopening => {
                *transition = idle(None, Effect::Delete);
            }
            Self::NeverRefuseStops => {
                effects.retain(|effect| !matches!(effect, Effect::RefuseStop(_)));
            }
            _ => self.miswrite(transition, state),
        }
    }

    /// Applies the mistake, if it is one in what is written.
    fn miswrite(self, transition: &mut Transition, state: &State) {
        let runs = transition.effects.contains(&Effect::Run);
        let Some(write) = &mut transition.write else { return };
        let record = &mut write.record;
        match self {
            Self::DoNotCountTheAttempt if runs => record.attempt = state.record.attempt,
            Self::TellOnceWritten => write.urgency = Urgency::First,
            Self::KeepTheOwner => {
                record.owner = record.owner.take().or(state.record.owner.clone());
            }
            Self::DeferWithoutALimit if record.status == Status::Deferred => {
                record.deadline = None;
            }
            _ => {}
        }
    }
}

fn idle(record: Option<Record>, effect: Effect) -> Transition {
    let write = record.map(|record| Write { record, urgency: Urgency::First });
    Transition { write, local: Local::NOTHING, effects: vec![effect] }
}

fn call_it_a_stop(effect: &mut Effect) {
    if *effect == Effect::Tell(StopReason::SettledElsewhere) {
        *effect = Effect::Tell(StopReason::PipelineStopped);
    }
}

fn cleaning(state: &State, reason: StopReason) -> Transition {
    let local = Local { activity: Activity::Cleaning(reason), ..state.local };
    Transition { write: None, local, effects: vec![Effect::CleanUp(reason)] }
}

fn settled(state: &State) -> Transition {
    idle(
        Some(Record { status: Status::Settled, owner: None, ..state.record.clone() }),
        Effect::Delete,
    )
}
