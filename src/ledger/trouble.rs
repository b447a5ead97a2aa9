//! Which parts of a ledger fail: each is tested by itself, because one that works says nothing
//! about the others.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::after;
use crate::step::CallbackToken;

/// What can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Writing,
    /// Reading single records.
    Records,
    /// Reading lists of them.
    Lists,
    /// That what is written is where a next process finds it.
    Place,
    /// The renewal of this worker's lease.
    Lease,
}

/// The parts that failed when they were last used.
#[derive(Default)]
pub(super) struct Trouble {
    parts: [bool; Part::ALL.len()],
    /// Those that the log shows as failing, and when they last changed.
    told: [Option<Timestamp>; Part::ALL.len()],
    /// The step whose record could not be read last: it shows whether records can be read again.
    pub(super) unread: Option<CallbackToken>,
}

/// How long a part must work before the log says that it does.
const STEADY: Duration = Duration::from_secs(10);

impl Part {
    const ALL: [Self; 5] = [Self::Writing, Self::Records, Self::Lists, Self::Place, Self::Lease];

    pub(super) fn ails(self) -> &'static str {
        match self {
            Self::Writing => "it cannot be written",
            Self::Records | Self::Lists => "it cannot be read",
            Self::Place => "its file was moved, removed or replaced while it is open",
            Self::Lease => "this worker's lease in it cannot be renewed",
        }
    }

    pub(super) fn healed(self) -> &'static str {
        match self {
            Self::Writing => "it can be written again",
            Self::Records => "its records can be read again",
            Self::Lists => "its lists can be read again",
            Self::Place => "its file is in its place again",
            Self::Lease => "this worker's lease in it is renewed again",
        }
    }

    /// What to do about it; `shared`: the ledger is a table.
    pub(super) fn remedy(self, shared: bool) -> &'static str {
        match self {
            _ if shared => {
                "check that its table exists and can be reached, and that the credentials allow it"
            }
            Self::Writing | Self::Lease => "free space on its disk or fix its permissions",
            Self::Records | Self::Lists => {
                "check its disk, and the permissions and descriptors of this process"
            }
            Self::Place => {
                "move the file back if it was moved; if it is gone, its content is lost when this \
                 process ends: let running steps finish, then restart the worker"
            }
        }
    }
}

impl Trouble {
    pub(super) fn is_any(&self) -> bool {
        self.first().is_some()
    }

    pub(super) fn first(&self) -> Option<Part> {
        Part::ALL.into_iter().find(|part| self.ails(*part))
    }

    pub(super) fn ails(&self, part: Part) -> bool {
        self.parts[part as usize]
    }

    /// Returns whether that is a change.
    pub(super) fn set(&mut self, part: Part, ails: bool) -> bool {
        if part == Part::Records && !ails {
            self.unread = None;
        }
        std::mem::replace(&mut self.parts[part as usize], ails) != ails
    }

    /// Whether the log is to say that a part fails which has just changed.
    pub(super) fn tells(&mut self, part: Part, now: Timestamp) -> bool {
        let (ails, told) = (self.ails(part), &mut self.told[part as usize]);
        let is_news = ails && told.is_none();
        if is_news || told.is_some() {
            *told = Some(now);
        }
        is_news
    }

    /// The parts of which the log is to say that they work again.
    pub(super) fn recovered(&mut self, now: Timestamp) -> Vec<Part> {
        let works = |part: &Part| {
            let told = self.told[*part as usize];
            !self.ails(*part) && told.is_some_and(|since| after(since, STEADY) <= now)
        };
        let parts: Vec<Part> = Part::ALL.into_iter().filter(works).collect();
        for part in &parts {
            self.told[*part as usize] = None;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_fails_now_and_then_is_said_to_fail_once_and_to_work_once_it_does_so_steadily() {
        let mut trouble = Trouble::default();
        let at = |seconds| after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds));
        let mut said = Vec::new();
        for second in 0..30_u64 {
            for ails in [true, false] {
                assert!(trouble.set(Part::Writing, ails));
                said.extend(trouble.tells(Part::Writing, at(second)).then_some(second));
                assert_eq!(trouble.recovered(at(second)), []);
            }
        }
        assert_eq!(said, [0]);
        assert_eq!(trouble.recovered(at(38)), []);
        assert_eq!(trouble.recovered(at(39)), [Part::Writing]);
        assert_eq!(trouble.recovered(at(99)), []);
        trouble.set(Part::Writing, true);
        assert!(trouble.tells(Part::Writing, at(100)));
        assert_eq!(trouble.recovered(at(200)), [], "it still fails");
    }
}
