//! What of a ledger fails: each part is tried by itself, so that one that works says nothing of the
//! others.

use crate::step::CallbackToken;

/// What can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Writing,
    /// Reading single records.
    Records,
    /// Reading lists of them.
    Lists,
    /// What is written is where a next process finds it.
    Place,
}

/// The parts that failed when they were last tried.
#[derive(Default)]
pub(super) struct Trouble {
    parts: [bool; Part::ALL.len()],
    /// The step whose record could not be read last: it shows whether records can be read again.
    pub(super) unread: Option<CallbackToken>,
}

impl Part {
    const ALL: [Self; 4] = [Self::Writing, Self::Records, Self::Lists, Self::Place];

    pub(super) fn ails(self) -> &'static str {
        match self {
            Self::Writing => "it cannot be written",
            Self::Records | Self::Lists => "it cannot be read",
            Self::Place => "its file was moved, removed or replaced while it is open",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Writing => "free space on its disk or fix its permissions",
            Self::Records | Self::Lists => {
                "look at its disk and at the permissions and descriptors of this process"
            }
            Self::Place => {
                "move the file back if it was moved; if it is gone, all that it holds ends with \
                 this process: let what runs come to its end, \
                 and start the worker anew"
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

    /// Says whether that is news.
    pub(super) fn set(&mut self, part: Part, ails: bool) -> bool {
        if part == Part::Records && !ails {
            self.unread = None;
        }
        std::mem::replace(&mut self.parts[part as usize], ails) != ails
    }
}
