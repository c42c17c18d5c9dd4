//! A real Kubernetes API server and etcd, for as long as a value lives: in a netns or on the host, with role-based access
//! control on. What is in it are objects only; no kubelet runs, and no controller, unless it is asked for. It is built by
//! `cargo xtask test kubernetes`.

pub mod accounts;
pub mod api;
mod certificates;
pub mod cluster;
pub mod control_plane;
pub mod deploy;
pub mod objects;
mod ports;
mod programs;
mod servers;
mod users;
pub mod watch;
