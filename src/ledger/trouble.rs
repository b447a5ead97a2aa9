//! Which parts of a ledger fail: each is tested by itself, because one that works says nothing
//! about the others.

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
    /// The step whose record could not be read last: it shows whether records can be read again.
    pub(super) unread: Option<CallbackToken>,
}

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
}
