//! The command line (feature `cli`).

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod backup;
mod commands;
#[cfg(unix)]
mod doctor;
mod init;
mod install_docs;
mod keys;
mod policy;
mod replay;
#[cfg(unix)]
mod socket;
#[cfg(feature = "import")]
mod transfer;
mod verify;
