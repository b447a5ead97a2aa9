//! The process in its environment: signals, systemd, and the ECS agent.

pub mod adopted;
pub mod limits;
pub mod pages;
pub mod protection;
pub mod secrecy;
pub mod signals;
pub mod systemd;
