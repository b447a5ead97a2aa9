//! The process as its surroundings see it: signals in, systemd told, ECS asked not to stop it while it works.

pub mod protection;
pub mod signals;
pub mod systemd;
