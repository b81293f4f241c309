//! The admin service: the vocabulary of the command line over HTTP.

mod access;
mod docs;
mod endpoint;
mod endpoints;
mod openapi;
mod problem;
mod schemas;
mod service;

pub use self::service::AdminService;
