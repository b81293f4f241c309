//! PgBouncer in front of a PostgreSQL server, for tests. It ends with the process that started it.

use std::path::Path;
use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::{free_port, postgres, wait_until};

/// Runs a program until it ends or standard input is closed.
const KEEPER: &str = r#"exec 3<&0; "$@" </dev/null 3<&- & pid=$!; (read -r _ <&3; kill -INT $pid) 2>/dev/null & wait $pid"#;

pub struct PgBouncer {
    keeper: Child,
    port: u16,
    dir: TempDir,
}

impl PgBouncer {
    /// `mode` is `session`, `transaction` or `statement`, optionally followed by lines of settings.
    pub fn start(server_port: u16, mode: &str) -> Self {
        // Another process may take the port first.
        let mut tries = (0..10).filter_map(|_| Self::start_at(free_port(), server_port, mode));
        tries.next().expect("PgBouncer does not start")
    }

    /// Returns `None` if the process ends before it responds.
    fn start_at(port: u16, server_port: u16, mode: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let (users, log) = (dir.path().join("users"), dir.path().join("log"));
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nadmin_users = postgres\nauth_file = {}\nlogfile = {}\npool_mode = {mode}\n",
            users.display(),
            log.display()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        std::fs::write(&file, settings).unwrap();
        for path in [dir.path(), &users, &file] {
            postgres::give_away(path);
        }
        let keeper = postgres::as_postgres(Path::new("/bin/sh"))
            .args(["-c", KEEPER, "keeper"])
            .arg(program())
            .args(["-q".as_ref(), file.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pooler = Self { keeper, port, dir };
        let mut has_ended = false;
        wait_until(|| {
            has_ended = pooler.keeper.try_wait().unwrap().is_some();
            has_ended || postgres::is_up(&pooler.url("postgres"))
        });
        (!has_ended).then_some(pooler)
    }

    pub fn url(&self, database: &str) -> String {
        let port = self.port;
        format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// Changes the mode. Closes the server connections of all sessions.
    pub fn change_mode(&self, mode: &str) {
        let file = self.dir.path().join("pgbouncer.ini");
        let settings = std::fs::read_to_string(&file).unwrap();
        let (before, _) = settings.rsplit_once("pool_mode").unwrap();
        std::fs::write(&file, format!("{before}pool_mode = {mode}\n")).unwrap();
        postgres::execute(&self.url("pgbouncer"), "RELOAD");
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Debian installs it outside of the `PATH` of ordinary users.
fn program() -> &'static str {
    let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    found.expect("PgBouncer is not installed: `tests/run` installs it, then runs all tests")
}
