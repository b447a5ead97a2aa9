//! Who gives a command.

use nix::unistd::{Uid, User, gethostname};

/// The user on this machine, as the history of a step names them.
pub(super) fn who() -> String {
    let uid = Uid::current();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    // sudo's word, for people.
    let by = std::env::var("SUDO_USER").ok().filter(|_| uid.is_root());
    let host = gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{}{name} on {host}", by.map(|by| format!("{by} as ")).unwrap_or_default())
}
