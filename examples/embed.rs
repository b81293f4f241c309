//! Decides the requests of an access log on standard input, without a server.
//!
//! A line has the common or combined format, as for `keyguard replay`, or the form `IP KEY METHOD PATH STATUS`.
//! The text of the key stands in place of the user, and `-` means no key:
//!
//! ```text
//! 192.0.2.7 - kg_live_… [24/Nov/2026:10:00:00 +0000] "GET /api/data HTTP/1.1" 200 12
//! 192.0.2.8 - GET /api/data 200
//! ```
//!
//! `KEYGUARD_DB` is the path of the data file (default `keyguard.redb`), for example that of the quick
//! start.

use std::error::Error;
use std::io::BufRead;
use std::process::ExitCode;

use keyguard::{ClientIp, Config, KeyGuard, Request};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("caused by: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let file = std::env::var("KEYGUARD_DB").unwrap_or_else(|_| "keyguard.redb".into());
    let kg = KeyGuard::open(&file, Config::default())?;

    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line?;
        let at = |error: &dyn Error| format!("line {number}: {error}");
        let [ip, key, method, path, status] = fields(&line).ok_or_else(|| {
            format!("line {number}: expected the common format or `IP KEY METHOD PATH STATUS`")
        })?;
        let ip: ClientIp = ip.parse().map_err(|error| at(&error))?;
        let status: u16 = status.parse().map_err(|error| at(&error))?;

        let headers: &[(&str, &str)] = if key == "-" {
            &[]
        } else {
            &[("X-API-Key", key)]
        };
        match kg.decide(Request::new(headers, ip, path).method(method)) {
            Ok(grant) => {
                match grant.remaining() {
                    Some(remaining) => println!("{number}: admitted, {remaining} left"),
                    None => println!("{number}: admitted"),
                }
                grant.finish(status);
            }
            Err(denial) => println!("{number}: {} {}", denial.status(), denial.reason()),
        }
    }

    let stats = kg.admin().stats()?;
    println!(
        "{} requests recorded, {} of them errors",
        stats.requests, stats.errors
    );
    Ok(())
}

/// The address, key, method, path and status of a line.
fn fields(line: &str) -> Option<[&str; 5]> {
    let Some((client, rest)) = line.split_once('"') else {
        let fields: Vec<&str> = line.split_whitespace().collect();
        return fields.try_into().ok();
    };
    let (request, rest) = rest.split_once('"')?;
    let mut client = client.split_whitespace();
    let mut request = request.split_whitespace();
    let status = rest.split_whitespace().next()?;
    Some([
        client.next()?,
        client.nth(1)?,
        request.next()?,
        request.next()?,
        status,
    ])
}
