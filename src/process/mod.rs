//! The process as its surroundings see it: signals in, systemd told, ECS asked not to stop it while
//! it works.

pub mod adopted;
pub mod limits;
pub mod pages;
pub mod protection;
pub mod secrecy;
pub mod signals;
pub mod systemd;
