//! A person or another system, which answers the step through a ledger.

use callbackd::lifecycle::{Completed, Record, Status, complete};
use callbackd::outcome::{Outcome, Outputs, Reason};

use crate::driver::TOKEN;
use crate::happening::Happening;
use crate::judge::Seen;
use crate::known::{Known, NOW};
use crate::mutant::Mutant;
use crate::turn::Turn;
use crate::witness::Witness;

impl Turn<'_> {
    /// Someone answers the step. A command reads the record and writes it on the condition that it
    /// is still the same, so both are one moment.
    pub fn answer_through(&mut self, ledger: usize, success: bool) {
        let Some(known) = &self.world.ledgers[ledger] else { return };
        let mut record = known.record().clone();
        match self.setup.mutant {
            Some(Mutant::AnswerWhatIsBeingStopped) if record.stop_requested.is_some() => {
                record = Record { status: Status::Deferred, stop_requested: None, ..record };
            }
            Some(Mutant::AnswerAnew) if record.status == Status::Concluded => {
                record.status = Status::Deferred;
            }
            _ => {}
        }
        let answer = if success {
            Outcome::Success(Outputs::of([("approved", true)]).expect("an output"))
        } else {
            Outcome::Failure(Reason::new("rejected"))
        };
        match complete(&record, answer, NOW) {
            Ok(Completed::Now(record)) => self.record_answer(ledger, *record),
            Err(_) if record.outcome.is_some() => self.witness(Witness::AnswerRefused),
            Ok(Completed::Before) | Err(_) => {}
        }
    }

    fn record_answer(&mut self, ledger: usize, record: Record) {
        self.world.budget.answers -= 1;
        self.witness(Witness::AnsweredThroughTheLedger);
        let ledger_name = u8::try_from(ledger).expect("few ledgers");
        self.world.ledgers[ledger] = Some(Known::new(record));
        self.see(&Seen::Concluded { ledger: ledger_name, token: TOKEN });
        for worker in self.world.workers.iter_mut().filter(|it| it.ledger == ledger_name) {
            worker.flagged = true;
            if let Some(driver) = &mut worker.driver {
                driver.fresh = false;
            }
        }
    }

    /// The worker is told that the step was changed elsewhere. A driver reads the record again
    /// before it decides anything else.
    pub fn flagged(&mut self, worker: usize) {
        let concluded = |known: &Known| known.record().status == Status::Concluded;
        if self.world.workers[worker].driver.is_some() {
            self.read_again(worker);
        } else if self.world.stored(worker).is_some_and(concluded) {
            self.spawn(worker);
        } else {
            return;
        }
        self.feed(worker, Happening::Found);
    }
}
