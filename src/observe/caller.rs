//! Who asks a server of the daemon.

use std::fmt;
use std::net::IpAddr;

/// Who is at the other end of a connection, for the log and a step's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// At this address. One that gives an order has the token.
    Http(IpAddr),
    /// A process of this user on this machine.
    Socket { uid: u32 },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "status server, from {address}"),
            Self::Socket { uid } => write!(f, "admin socket, user {uid}"),
        }
    }
}
