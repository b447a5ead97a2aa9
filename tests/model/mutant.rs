//! The protocol with one mistake in it: each must be found, or the model would find nothing in the shipped one either.

use callbackd::lifecycle::{Arrival, Effect, Here, Record, State, Status, Transition, Via};

use crate::happening::{Happening, Reply, Standing};

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
    // Mistakes in carrying them out.
    BelieveNotFound,
    CleanUpWhatIsCompleted,
    AnswerStopBlindly,
    AnswerStopWithoutCleanup,
    RandomRequest,
    ForgetStop,
    RunWithoutClaim,
    RunBeforeWrite,
    OverwriteBlindly,
    IgnoreForeignLease,
    KeepRunningWithoutLease,
    DropWhatTheLedgerDidNotTake,
    ForgetOutcome,
    ForgetDeferral,
    GiveUpOnALostReply,
    HoldMessagesForEver,
}

impl Mutant {
    /// Whether the mistake is not to hear what happens.
    pub fn ignores(self, happening: Happening, here: Here) -> bool {
        match self {
            Self::KeepRunningWithoutLease => happening == Happening::LeaseLost,
            Self::LeaveStopsToTheWatch => happening == Happening::Delivered(Arrival::Stop) && here == Here::Running,
            Self::LeaveStopsToTheirMessages => happening == Happening::StopSeen(Via::Watch),
            _ => false,
        }
    }

    /// What is heard instead.
    pub fn mishear(self, happening: Happening) -> Happening {
        let (heard, instead) = match self {
            Self::BelieveNotFound => (Reply::NotFound, Standing::Failed),
            Self::CleanUpWhatIsCompleted => (Reply::Standing(Standing::Succeeded), Standing::Stopped),
            _ => return happening,
        };
        if happening == Happening::Answered(heard) {
            return Happening::Answered(Reply::Standing(instead));
        }
        happening
    }

    /// Makes the mistake, where it is one of decisions.
    pub fn distort(self, transition: &mut Transition, state: &State, happening: Happening) {
        let effects = &mut transition.effects;
        let refused = happening == Happening::ReportRefused;
        let not_found = happening == Happening::Answered(Reply::NotFound);
        match self {
            Self::DeleteBeforeReport if effects.contains(&Effect::Report) => effects.insert(0, Effect::Delete),
            Self::DeleteStopAtOnce
                if happening == Happening::Delivered(Arrival::Stop) && state.here == Here::Nothing =>
            {
                *transition =
                    Transition { write: None, here: Here::Nothing, effects: vec![Effect::Delete], ..*transition };
            }
            Self::SettleWhenRefused if refused => settle(transition, state),
            Self::SettleDeferralNotFound if not_found && state.record.status == Status::Deferred => {
                settle(transition, state);
            }
            Self::RecomputeWhenRefused if refused => {
                let outcome = None;
                let record =
                    Record { status: Status::Waiting, owner: None, outcome, resume: true, ..state.record.clone() };
                let effects = vec![Effect::Return];
                *transition = Transition { write: Some(record), here: Here::Nothing, effects, ..*transition };
            }
            Self::DoNotCountTheAttempt if effects.contains(&Effect::Run) => {
                if let Some(record) = &mut transition.write {
                    record.attempt = state.record.attempt;
                }
            }
            Self::ForgetToWake => effects.retain(|effect| !matches!(effect, Effect::Wake(_))),
            Self::DeferForEver if state.record.status == Status::Deferred && effects.contains(&Effect::Report) => {
                *transition = Transition { write: None, here: Here::Nothing, effects: Vec::new(), ..*transition };
            }
            Self::NeverTell => effects.retain(|effect| !matches!(effect, Effect::Tell(_))),
            Self::NeverAbort => effects.retain(|effect| *effect != Effect::Abort),
            _ => {}
        }
    }
}

fn settle(transition: &mut Transition, state: &State) {
    let record = Record { status: Status::Settled, owner: None, ..state.record.clone() };
    let effects = vec![Effect::Delete];
    *transition = Transition { write: Some(record), here: Here::Nothing, effects, ..*transition };
}
