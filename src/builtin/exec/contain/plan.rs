//! What to start and how, written by the daemon and read in another process without allocating.
//!
//! A plan consists of words followed by texts, in an anonymous file. The first words say where the
//! rest begins. Lists of texts end with a zero, as `execve` wants them. A place is an offset in
//! bytes until the reader, whose pages are private, turns it into an address.

#![expect(
    unsafe_code,
    reason = "a plan is read where the kernel has mapped it; the daemon alone has written it"
)]

use std::ffi::{CString, OsStr, c_char};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use nix::libc;

use super::sys;

/// What a program is started with.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Candidate paths of the program, tried in this order.
    pub(super) programs: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) envp: Vec<CString>,
    pub(super) directory: Option<CString>,
    /// The run's cgroup, which the keeper removes if nothing else can.
    pub(super) cgroup: Option<CString>,
    /// User, group and supplementary groups.
    pub(super) user: Option<(u32, u32, Vec<u32>)>,
    /// Resource, soft limit, hard limit.
    pub(super) limits: Vec<(u32, u64, u64)>,
    /// What distinguishes the processes of this run from all others; see `mark`.
    pub(super) mark: u64,
    /// The text for `oom_score_adj`.
    pub(super) oom_score_adj: CString,
}

/// The first words.
#[derive(Clone, Copy)]
enum At {
    Programs,
    Argv,
    Envp,
    Directory,
    Cgroup,
    HasUser,
    Uid,
    Gid,
    Groups,
    GroupCount,
    Limits,
    LimitCount,
    Mark,
    OomScoreAdj,
    End,
}

impl Plan {
    pub(super) fn write(&self) -> io::Result<OwnedFd> {
        let mut words = vec![0_usize; At::End as usize];
        let mut texts: Vec<u8> = Vec::new();
        // Words that hold the place of a text: it moves by the length of the words, which is known
        // at the end.
        let mut places: Vec<usize> = Vec::new();
        let text = |texts: &mut Vec<u8>, text: &CString| {
            let at = texts.len();
            texts.extend_from_slice(text.to_bytes_with_nul());
            at
        };
        for (at, list) in
            [(At::Programs, &self.programs), (At::Argv, &self.argv), (At::Envp, &self.envp)]
        {
            words[at as usize] = words.len() * size_of::<usize>();
            for one in list {
                places.push(words.len());
                words.push(text(&mut texts, one));
            }
            words.push(0);
        }
        let singles = [
            (At::Directory, self.directory.as_ref()),
            (At::Cgroup, self.cgroup.as_ref()),
            (At::OomScoreAdj, Some(&self.oom_score_adj)),
        ];
        for (at, one) in singles {
            if let Some(one) = one {
                places.push(at as usize);
                words[at as usize] = text(&mut texts, one);
            }
        }
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        words[At::Mark as usize] = number(self.mark);
        words[At::Limits as usize] = words.len() * size_of::<usize>();
        words[At::LimitCount as usize] = self.limits.len();
        words.extend(
            self.limits
                .iter()
                .flat_map(|(what, soft, hard)| [*what as usize, number(*soft), number(*hard)]),
        );
        if let Some((uid, gid, groups)) = &self.user {
            words[At::HasUser as usize] = 1;
            words[At::Uid as usize] = *uid as usize;
            words[At::Gid as usize] = *gid as usize;
            words[At::GroupCount as usize] = groups.len();
            words[At::Groups as usize] = words.len() * size_of::<usize>();
            words.extend(groups.iter().map(|group| *group as usize));
        }
        let length = words.len() * size_of::<usize>();
        for place in places {
            words[place] += length;
        }
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(texts);
        sys::file_of(&bytes)
    }
}

/// A plan, as the keeper and the program read it.
#[derive(Clone, Copy)]
pub(super) struct Mapped {
    words: *mut usize,
}

impl Mapped {
    pub(super) fn of(fd: RawFd) -> Option<Self> {
        // SAFETY: zero is a valid stat; a private mapping of the whole file, whose beginning is
        // aligned to a page.
        let words = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd, &raw mut stat) < 0 {
                return None;
            }
            let size = usize::try_from(stat.st_size).ok()?;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), size, protection, libc::MAP_PRIVATE, fd, 0)
        };
        if words == libc::MAP_FAILED {
            return None;
        }
        let mapped = Self { words: words.cast() };
        for at in [At::Programs, At::Argv, At::Envp] {
            // SAFETY: the list ends with a zero; each word before it is the place of a text.
            unsafe {
                let mut word = mapped.words.byte_add(mapped.word(at));
                while *word != 0 {
                    *word = mapped.words.byte_add(*word).addr();
                    word = word.add(1);
                }
            }
        }
        Some(mapped)
    }

    fn word(self, at: At) -> usize {
        // SAFETY: each plan has all of the first words.
        unsafe { *self.words.add(at as usize) }
    }

    fn list(self, at: At) -> *const *const c_char {
        // SAFETY: the place is within the plan.
        unsafe { self.words.byte_add(self.word(at)).cast_const().cast() }
    }

    fn text(self, at: At) -> Option<*const c_char> {
        // SAFETY: the place is within the plan.
        (self.word(at) != 0)
            .then(|| unsafe { self.words.byte_add(self.word(at)).cast_const().cast() })
    }

    pub(super) fn argv(self) -> *const *const c_char {
        self.list(At::Argv)
    }

    pub(super) fn envp(self) -> *const *const c_char {
        self.list(At::Envp)
    }

    /// The path to try as the `index`th.
    pub(super) fn program(self, index: usize) -> Option<*const c_char> {
        // SAFETY: asked in order, and not beyond the null at the end.
        let program = unsafe { *self.list(At::Programs).add(index) };
        (!program.is_null()).then_some(program)
    }

    pub(super) fn directory(self) -> Option<*const c_char> {
        self.text(At::Directory)
    }

    pub(super) fn cgroup(self) -> Option<*const c_char> {
        self.text(At::Cgroup)
    }

    pub(super) fn mark(self) -> usize {
        self.word(At::Mark)
    }

    pub(super) fn oom_score_adj(self) -> &'static [u8] {
        // SAFETY: the text ends with NUL, and the mapping lasts as long as the process.
        self.text(At::OomScoreAdj)
            .map_or(&[], |text| unsafe { std::ffi::CStr::from_ptr(text) }.to_bytes())
    }

    /// Resource, soft limit, hard limit.
    pub(super) fn limit(self, index: usize) -> Option<(usize, usize, usize)> {
        if index >= self.word(At::LimitCount) {
            return None;
        }
        // SAFETY: there are as many, three words each.
        unsafe {
            let limit = self.words.byte_add(self.word(At::Limits)).add(index * 3);
            Some((*limit, *limit.add(1), *limit.add(2)))
        }
    }

    pub(super) fn has_user(self) -> bool {
        self.word(At::HasUser) == 1
    }

    /// User and group.
    pub(super) fn user(self) -> (usize, usize) {
        (self.word(At::Uid), self.word(At::Gid))
    }

    /// As many groups as there is room for.
    pub(super) fn groups(self, into: &mut [libc::gid_t]) -> usize {
        let count = self.word(At::GroupCount).min(into.len());
        for (index, group) in into.iter_mut().enumerate().take(count) {
            // SAFETY: there are as many.
            let number = unsafe { *self.words.byte_add(self.word(At::Groups)).add(index) };
            *group = libc::gid_t::try_from(number).unwrap_or(libc::gid_t::MAX);
        }
        count
    }
}

/// A text without the NUL that would end it early: a text with one was refused when the settings
/// were read.
pub(super) fn text(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
