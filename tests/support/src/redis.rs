//! Temporary Redis servers for tests. Each ends with its test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::free_port;

/// Runs a server until standard input is closed, which happens when the parent process ends.
const KEEPER: &str =
    r#"redis-server "$@" & exec >&-; cat >/dev/null; kill -9 $! 2>/dev/null; wait"#;

const MISSING: &str = "redis-server did not start; if it is not installed, `tests/run` installs it";

/// A running server on its own port. Ends when dropped.
pub struct Redis {
    port: u16,
    /// The cluster bus port; 0 outside of a cluster.
    bus_port: u16,
    arguments: Vec<String>,
    process: Process,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with further options, such as `--maxmemory-policy allkeys-lru`, one word each.
    pub fn with(options: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).to_vec();
        arguments.extend(["--dir".to_owned(), dir.path().to_str().unwrap().to_owned()]);
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        let (port, process) = Self::on_a_free_port(&arguments);
        Self {
            port,
            bus_port: 0,
            arguments,
            process,
            dir,
        }
    }

    /// Starts a future node of a cluster.
    pub fn of_cluster() -> Self {
        let bus = free_port();
        let mut server = Self::with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus.to_string(),
        ]);
        server.bus_port = bus;
        server
    }

    /// Starts a Sentinel that monitors `master` under this name.
    pub fn sentinel(name: &str, master: &Self) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("sentinel.conf");
        let watched = format!("sentinel monitor {name} 127.0.0.1 {} 1\n", master.port);
        std::fs::write(&file, watched).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let arguments = vec![file, "--sentinel".to_owned()];
        let (port, process) = Self::on_a_free_port(&arguments);
        Self {
            port,
            bus_port: 0,
            arguments,
            process,
            dir,
        }
    }

    /// Retries if another process takes the port first.
    fn on_a_free_port(arguments: &[String]) -> (u16, Process) {
        let mut tries = std::iter::repeat_with(free_port).take(10);
        let started = tries.find_map(|port| Some((port, Process::start(port, arguments)?)));
        started.expect(MISSING)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn bus_port(&self) -> u16 {
        self.bus_port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub fn pid(&self) -> i32 {
        self.process.pid.as_raw_nonzero().get()
    }

    /// A new connection.
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }

    /// Runs a command, whose words are separated by blanks.
    pub fn run<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query(&mut self.connect()).unwrap()
    }

    /// The number of calls of a command, including calls from scripts.
    pub fn calls(&self, command: &str) -> u64 {
        let stats: String = self.run("INFO commandstats");
        let start = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&start));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// Kills the server and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.wait();
    }

    /// Restarts the server, empty, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        let again = || Process::start(self.port, &self.arguments);
        let started = std::iter::repeat_with(again).take(100).find_map(|p| p);
        self.process = started.expect("its port was taken");
    }

    /// Suspends the server: connections stay open without responses.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // The process may have ended already.
        let _ = kill_process(self.process.pid, signal);
    }

    /// The directory of the server.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

struct Process {
    keeper: Child,
    pid: Pid,
    stdin: Option<ChildStdin>,
    log: BufReader<ChildStdout>,
}

impl Process {
    /// Returns `None` if the server ends before it is ready.
    fn start(port: u16, arguments: &[String]) -> Option<Self> {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .args(arguments)
            .args(["--port", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = keeper.stdin.take();
        let mut log = BufReader::new(keeper.stdout.take().unwrap());
        let pid = Self::pid_when_ready(&mut log);
        let mut process = Self {
            keeper,
            pid: pid.unwrap_or(Pid::INIT),
            stdin,
            log,
        };
        if pid.is_none() {
            process.end();
        }
        pid.map(|_| process)
    }

    /// Returns the process id, with which log lines begin (`4711:M`).
    fn pid_when_ready(log: &mut impl BufRead) -> Option<Pid> {
        let is_ready = |line: &str| {
            line.contains("Ready to accept connections") || line.contains("Sentinel ID is")
        };
        let line = log
            .lines()
            .map_while(Result::ok)
            .find(|line| is_ready(line))?;
        Pid::from_raw(line.split(':').next()?.parse().ok()?)
    }

    /// Waits until the server has closed its log.
    fn wait(&mut self) {
        let _ = self.log.read_to_end(&mut Vec::new());
    }

    fn end(&mut self) {
        self.stdin = None;
        self.wait();
        let _ = self.keeper.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
