//! Temporary PostgreSQL servers for tests: one shared by all tests of a process, and private ones to
//! stop and kill. They end with the process that started them.

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::free_port;

/// Runs a server until it ends. If standard input is closed first, ends the server and removes its data.
/// `$1` is the program; the rest are its arguments.
const KEEPER: &str = r#"
    exec 3<&0
    "$@" >"$DIR/log" 2>&1 </dev/null 3<&- &
    server=$!
    echo $server
    (
        while read -r _ <&3; do :; done
        kill -INT $server || exit
        while kill -0 $server; do sleep 0.05; done
        rm -rf "$DIR"
    ) >/dev/null 2>&1 &
    wait $server
"#;

/// The time limit for the start of a server.
const STARTING: Duration = Duration::from_secs(60);

/// A private server.
pub struct Server {
    dir: TempDir,
    bin: PathBuf,
    port: u16,
    extra: Vec<String>,
    running: Option<Running>,
}

struct Running {
    keeper: Child,
    pid: u32,
}

/// A private database on the shared server.
pub struct Database {
    pub url: String,
}

impl Database {
    pub fn new() -> Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Server::start).database()
    }

    pub fn execute(&self, sql: &str) {
        execute(&self.url, sql);
    }

    pub fn value(&self, sql: &str) -> String {
        value(&self.url, sql)
    }

    /// Ends the sessions that listen for changes. Returns their number.
    pub fn end_listeners(&self) -> u32 {
        let ended = self.value(
            "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
                 AND (query = 'LISTEN keyguard' OR query LIKE '%FROM keyguard_state%')",
        );
        ended.parse().unwrap()
    }
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[], |_| {})
    }

    /// Starts a server with further settings and a data directory modified by `prepare`.
    pub fn start_with(settings: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let bin = programs();
        let dir = TempDir::new().unwrap();
        give_away(dir.path());
        let data = dir.path().join("data");
        let made = as_postgres(&bin.join("initdb"))
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
            ])
            .arg("--pgdata")
            .arg(&data)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        prepare(&data);
        let mut server = Self {
            bin,
            port: free_port(),
            extra: settings.iter().map(|&setting| setting.to_owned()).collect(),
            running: None,
            dir,
        };
        server.restart();
        server
    }

    /// Creates a database.
    pub fn database(&self) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        execute(&self.url("postgres"), &format!("CREATE DATABASE {name}"));
        Database {
            url: self.url(&name),
        }
    }

    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Restarts a stopped or killed server and waits until it responds.
    pub fn restart(&mut self) {
        let data = self.dir.path().join("data");
        let log = self.dir.path().join("log");
        let mut keeper = as_postgres(Path::new("/bin/sh"));
        keeper
            .arg("-c")
            .arg(format!("DIR='{}'; {KEEPER}", self.dir.path().display()))
            .arg("keeper")
            .arg(self.bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args([
                "-p",
                &self.port.to_string(),
                "-k",
                &self.dir.path().display().to_string(),
            ])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "fsync=off",
            ]);
        for setting in &self.extra {
            keeper.args(["-c", setting]);
        }
        let mut keeper = keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = read_line(&mut keeper).parse().unwrap();
        self.running = Some(Running { keeper, pid });
        self.wait_until_ready(&log);
    }

    fn wait_until_ready(&self, log: &Path) {
        let since = Instant::now();
        while !is_up(&self.url("postgres")) {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            assert!(
                since.elapsed() < STARTING,
                "PostgreSQL does not start: {said}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends all sessions and shuts the server down.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Ends the server immediately: data not yet passed to the system is lost.
    pub fn kill(&mut self) {
        self.end("QUIT");
    }

    /// Sends a signal to the server, such as `HUP`.
    pub fn signal(&self, signal: &str) {
        let pid = self.running.as_ref().unwrap().pid;
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid.to_string())
            .status();
        assert!(sent.unwrap().success());
    }

    fn end(&mut self, signal: &str) {
        let pid = self.running.as_ref().unwrap().pid.to_string();
        let _ = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid)
            .stderr(Stdio::null())
            .status();
        let mut keeper = self.running.take().unwrap().keeper;
        // Kept open until the server has ended; otherwise the keeper would remove the data.
        let stdin = keeper.stdin.take();
        keeper.wait().unwrap();
        drop(stdin);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.end("INT");
        }
    }
}

/// The directory of the newest version's programs on Debian.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let versions = versions.filter_map(|version| {
        let bin = version.ok()?.path().join("bin");
        let number: u32 = bin.parent()?.file_name()?.to_str()?.parse().ok()?;
        bin.join("postgres").exists().then_some((number, bin))
    });
    match versions.max() {
        Some((_, bin)) => bin,
        None => panic!("PostgreSQL is not installed: `tests/run` installs it, then runs all tests"),
    }
}

/// PostgreSQL refuses to run as root.
pub fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// Makes the user of the server the owner of a path.
pub fn give_away(path: &Path) {
    if !is_root() {
        return;
    }
    let number = |flag| {
        let id = Command::new("id")
            .args([flag, "postgres"])
            .output()
            .unwrap();
        String::from_utf8(id.stdout).unwrap().trim().parse().ok()
    };
    chown(path, number("-u"), number("-g")).unwrap();
    if path.is_dir() {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    }
}

fn read_line(keeper: &mut Child) -> String {
    let stdout = keeper.stdout.as_mut().unwrap();
    let mut line = String::new();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0].into());
    }
    line
}

pub fn is_up(url: &str) -> bool {
    with_client(url, async |client| {
        client.batch_execute("SELECT 1").await.is_ok()
    })
    .unwrap_or(false)
}

/// Runs statements.
pub fn execute(url: &str, sql: &str) {
    with_client(url, async |client| client.batch_execute(sql).await.unwrap()).unwrap();
}

/// Returns the text result of a query.
pub fn value(url: &str, sql: &str) -> String {
    with_client(url, async |client| {
        client.query_one(sql, &[]).await.unwrap().get(0)
    })
    .unwrap()
}

fn with_client<T>(url: &str, work: impl AsyncFnOnce(&tokio_postgres::Client) -> T) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.ok()?;
        let connection = tokio::spawn(connection);
        let done = work(&client).await;
        drop(client);
        let _ = connection.await;
        Some(done)
    })
}

/// Runs `work` within a transaction, after a statement.
pub fn holding(url: &str, sql: &str, work: impl FnOnce()) {
    let begin = format!("BEGIN; {sql}");
    with_client(url, async |client| {
        client.batch_execute(&begin).await.unwrap();
        work();
    })
    .unwrap();
}
