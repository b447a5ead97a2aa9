//! The interesting things that must have happened somewhere in an exploration, so that no claim
//! holds vacuously.
//!
//! They are recorded outside the state: as part of it they would multiply the states.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Witness {
    RedeliveredAfterACrash,
    CleanupInterrupted,
    RunTakenOver,
    CleanupTakenOver,
    StopBeforeWork,
    StopAfterConclusion,
    StopAfterSettlement,
    StopWhileDeferred,
    StopOfAForeignRun,
    StopFoundInLedger,
    DebtPaidHere,
    OutcomeKeptWithinGrace,
    RefusedBecauseClosed,
    ReplyLost,
    ReportArrivedLate,
    LeaseLostWhileRunning,
    LeaseLostWhileCleaning,
    Fenced,
    DecidedAnew,
    WrittenWithoutAnAnswer,
    GaveUpAfterItsAttempts,
    Resumed,
    Verified,
    DeferredTooLong,
    TimeLimitReached,
    AbandonedAtHalt,
    StaleDelete,
    DeferredMeanwhile,
    EndedMeanwhile,
    CompletedElsewhere,
    Replaced,
    PassedOn,
    /// An owner renewed its record after it had been seen unchanged, and before it was fenced.
    RenewedInTime,
    /// A renewal's reply was lost that told of a stop.
    StopUnheard,
    AskedAgain,
    WentOnWithoutItsMessage,
    CameBack,
    AskedWhenDenied,
    GoneForGood,
    GivenBack,
    StopRefused,
    StopConfirmed,
    StopConfirmedWhileRunning,
    HinderedAndTriedAgain,
    SparedInACrash,
    ChargedOnTrial,
    AnsweredThroughTheLedger,
    AnswerRefused,
    SucceededElsewhereInARun,
    SucceededElsewhereInAWait,
    AnsweredByItsHandler,
    AnsweredBeforeAnotherRun,
    TriedAgainAtOnce,
}

impl Witness {
    pub const ALL: [Self; 53] = [
        Self::RedeliveredAfterACrash,
        Self::CleanupInterrupted,
        Self::RunTakenOver,
        Self::CleanupTakenOver,
        Self::StopBeforeWork,
        Self::StopAfterConclusion,
        Self::StopAfterSettlement,
        Self::StopWhileDeferred,
        Self::StopOfAForeignRun,
        Self::StopFoundInLedger,
        Self::DebtPaidHere,
        Self::OutcomeKeptWithinGrace,
        Self::RefusedBecauseClosed,
        Self::ReplyLost,
        Self::ReportArrivedLate,
        Self::LeaseLostWhileRunning,
        Self::LeaseLostWhileCleaning,
        Self::Fenced,
        Self::DecidedAnew,
        Self::WrittenWithoutAnAnswer,
        Self::GaveUpAfterItsAttempts,
        Self::Resumed,
        Self::Verified,
        Self::DeferredTooLong,
        Self::TimeLimitReached,
        Self::AbandonedAtHalt,
        Self::StaleDelete,
        Self::DeferredMeanwhile,
        Self::EndedMeanwhile,
        Self::CompletedElsewhere,
        Self::Replaced,
        Self::PassedOn,
        Self::RenewedInTime,
        Self::StopUnheard,
        Self::AskedAgain,
        Self::WentOnWithoutItsMessage,
        Self::CameBack,
        Self::AskedWhenDenied,
        Self::GoneForGood,
        Self::GivenBack,
        Self::StopRefused,
        Self::StopConfirmed,
        Self::StopConfirmedWhileRunning,
        Self::HinderedAndTriedAgain,
        Self::SparedInACrash,
        Self::ChargedOnTrial,
        Self::AnsweredThroughTheLedger,
        Self::AnswerRefused,
        Self::SucceededElsewhereInARun,
        Self::SucceededElsewhereInAWait,
        Self::AnsweredByItsHandler,
        Self::AnsweredBeforeAnotherRun,
        Self::TriedAgainAtOnce,
    ];
}

/// Who saw what, over a whole exploration.
#[derive(Debug, Default)]
pub struct Witnesses(AtomicU64);

impl Witnesses {
    pub fn note(&self, witness: Witness) {
        let bit = 1 << witness as u8;
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Those of `wanted` that nobody saw.
    pub fn missing(&self, wanted: &[Witness]) -> Vec<Witness> {
        let seen = self.0.load(Ordering::Relaxed);
        wanted.iter().copied().filter(|one| seen & (1 << *one as u8) == 0).collect()
    }
}
