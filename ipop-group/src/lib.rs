//! The server of groups (GroupVPN): accounts, groups, who may join, certificates; what nodes ask, and pages for people.
//!
//! What a certificate says and how a request is signed is `ipop_overlay::group`'s. This crate decides who gets one,
//! remembers it, and speaks HTTP.

pub mod app;
pub mod cli;
pub mod error;
pub mod http;
pub mod model;
pub mod names;
pub mod password;
pub mod secrets;
mod serve;
pub mod store;

pub use ipop_group_api as api;
