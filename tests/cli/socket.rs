//! The socket beside a data file: permissions, trust, and waiting commands.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::common::program::{done, keyguard, refused, run};
use crate::common::{IP, child, key, wait_until};
use keyguard::{Config, KeyGuard, Page};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const NOBODY: u32 = 65_534;

fn socket_of(file: &Path) -> PathBuf {
    let mut name = fs::canonicalize(file).unwrap().into_os_string();
    name.push(".sock");
    name.into()
}

#[test]
fn socket_is_private_and_removed_with_the_guard() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let metadata = fs::symlink_metadata(socket_of(&file)).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    drop(kg);
    assert!(!socket_of(&file).exists());
}

/// The first guard holds a file that was moved away.
#[test]
fn socket_of_another_guard_at_the_path_is_kept() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let first = KeyGuard::open(&file, Config::default()).unwrap();
    fs::rename(&file, dir.path().join("moved.redb")).unwrap();
    fs::rename(
        dir.path().join("keyguard.redb.secret"),
        dir.path().join("moved.redb.secret"),
    )
    .unwrap();
    let second = KeyGuard::open(&file, Config::default()).unwrap();
    drop(first);
    done(dir.path(), &["create-org", "acme"]);
    second.admin().find_org("acme").unwrap();
    drop(second);
    assert!(!socket_of(&file).exists());
}

#[test]
fn moved_file_is_not_created_again() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let moved = dir.path().join("moved.redb");
    fs::rename(&file, &moved).unwrap();
    for command in [
        &["init"][..],
        &["stats"],
        &["create-org", "acme"],
        &["admin-key"],
    ] {
        let error = refused(dir.path(), command);
        assert!(error.contains("deleted or moved away"), "{error}");
        assert!(!file.exists());
    }
    fs::rename(&moved, &file).unwrap();
    // The file is reopened at growing intervals.
    wait_until(|| run(dir.path(), &["create-org", "acme"]).status.success());
    kg.admin().find_org("acme").unwrap();
}

/// Once, a failed second half of a rotation went unreported although the new text was printed.
#[test]
fn failed_rotation_reports_whether_the_printed_key_is_in_force() {
    for is_gone in [true, false] {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("keyguard.redb");
        let kg = KeyGuard::open(&file, Config::default()).unwrap();
        key(&kg);
        let (socket, real) = (socket_of(&file), dir.path().join("real.sock"));
        fs::rename(&socket, &real).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let rotate = keyguard(dir.path(), &["rotate-key", "1", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();

        let (mut client, _) = listener.accept().unwrap();
        let mut server = UnixStream::connect(&real).unwrap();
        server.write_all(&read_frame(&mut client)).unwrap();
        let prepared = read_frame(&mut server);
        if is_gone {
            fs::remove_file(&socket).unwrap();
            fs::rename(&file, dir.path().join("moved.redb")).unwrap();
        }
        client.write_all(&prepared).unwrap();
        if !is_gone {
            let (mut client, _) = listener.accept().unwrap();
            read_frame(&mut client);
        }
        let output = rotate.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        let expected = match is_gone {
            true => "the printed key is not in force: there is no data file",
            false => "it is unknown whether the printed key is in force",
        };
        assert!(error.contains(expected), "{error}");
    }
}

fn read_frame(stream: &mut UnixStream) -> Vec<u8> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).unwrap();
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
    frame.resize(4 + length as usize, 0);
    stream.read_exact(&mut frame[4..]).unwrap();
    frame
}

#[test]
fn dead_socket_is_replaced() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    done(dir.path(), &["init"]);
    // The state after a kill.
    drop(UnixListener::bind(socket_of(&file)).unwrap());
    assert!(socket_of(&file).exists());
    done(dir.path(), &["stats"]);
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    done(dir.path(), &["create-org", "acme"]);
    kg.admin().find_org("acme").unwrap();
}

#[test]
fn file_at_the_path_of_the_socket_is_kept_and_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    done(dir.path(), &["init"]);
    fs::write(socket_of(&file), "precious").unwrap();
    let error = KeyGuard::open(&file, Config::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("Config::socket(false)"), "{error}");
    assert_eq!(fs::read_to_string(socket_of(&file)).unwrap(), "precious");
}

#[test]
fn process_without_socket_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default().socket(false)).unwrap();
    assert!(!socket_of(&file).exists());
    let error = refused(dir.path(), &["stats"]);
    if cfg!(target_os = "linux") {
        let me = std::process::id().to_string();
        assert!(
            error.contains(&format!("process {me}")) && error.contains(&format!("ps -p {me}")),
            "{error}"
        );
    }
    drop(kg);
    done(dir.path(), &["stats"]);
}

#[cfg(feature = "serve")]
#[test]
fn second_server_names_the_first() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let _kg = KeyGuard::open(&file, Config::default()).unwrap();
    let error = refused(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let (_, next) = error.split_once("next:").unwrap();
    assert!(!next.contains("with a socket"), "{error}");
}

#[test]
fn path_too_long_for_a_socket_has_one_elsewhere() {
    let dir = TempDir::new().unwrap();
    let deep = dir.path().join("d".repeat(90));
    fs::create_dir(&deep).unwrap();
    let file = deep.join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    assert!(!socket_of(&file).exists());
    done(&deep, &["create-org", "acme"]);
    kg.admin().find_org("acme").unwrap();
}

#[test]
fn invalid_input_does_not_disturb_the_next_command() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let _kg = KeyGuard::open(&file, Config::default()).unwrap();
    for (bytes, expected) in [
        (b"\xff\xff\xff\xff".to_vec(), ""),
        (frame("{}"), ""),
        (frame(r#"{"version":9,"command":null}"#), "version"),
        (
            frame(r#"{"version":3,"command":{"command":"dance"}}"#),
            "unknown command `dance`",
        ),
    ] {
        let mut stream = UnixStream::connect(socket_of(&file)).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        let response = String::from_utf8_lossy(&response);
        assert!(
            response.contains(expected) && response.is_empty() == expected.is_empty(),
            "{response}"
        );
    }
    done(dir.path(), &["stats"]);
}

#[test]
#[ignore = "needs root"]
fn file_of_another_user_at_the_path_does_not_stop_the_guard() {
    let stage = Stage::new();
    let file = stage.file("data");
    drop(KeyGuard::open(&file, Config::default()).unwrap());
    fs::write(socket_of(&file), "precious").unwrap();
    chown(socket_of(&file), Some(NOBODY), None).unwrap();
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    done(file.parent().unwrap(), &["create-org", "acme"]);
    kg.admin().find_org("acme").unwrap();
    assert_eq!(fs::read_to_string(socket_of(&file)).unwrap(), "precious");
}

/// A child process of the following tests: listens at a path, replies to everything, and prints what it
/// received.
#[test]
fn child_that_answers_everybody() {
    let Some(path) = child::argument() else {
        return;
    };
    let listener = UnixListener::bind(&path).unwrap();
    set_mode(Path::new(&path), 0o777);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let received = stream.read(&mut [0; 4_096]).unwrap();
            // A peer that closes the connection first has sent nothing.
            if received > 0 {
                println!("\nreceived {received} bytes");
            }
            let _ = stream.write_all(&frame(r#"{"version":3,"outcome":{"ok":null}}"#));
        }
    });
    ready();
}

/// A child process of the following tests: holds a data file and prints its warnings.
#[test]
fn child_that_holds_a_file() {
    let Some(file) = child::argument() else {
        return;
    };
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    ready();
    for warning in kg.admin().stats().unwrap().warnings {
        println!("\nwarning: {warning}");
    }
    for org in kg.admin().list_orgs(Page::first().limit(100)).unwrap() {
        println!("\norganization: {}", org.name);
    }
}

/// Unit tests check which users are trusted, too.
#[test]
#[ignore = "needs root"]
fn listener_of_another_user_receives_nothing() {
    let stage = Stage::new();
    let file = stage.file("data");
    let dir = file.parent().unwrap();
    let key = {
        let kg = KeyGuard::open(&file, Config::default()).unwrap();
        key(&kg)
    };
    set_mode(dir, 0o777);
    let stranger = stage.spawn("child_that_answers_everybody", &socket_of(&file), NOBODY);
    done(dir, &["revoke-key", "1"]);
    // The user of the listening process counts, not the owner of the socket.
    chown(socket_of(&file), Some(0), Some(0)).unwrap();
    let mut check = keyguard(dir, &["check"]);
    let check = check.env("KEYGUARD_KEY", key.raw_key.expose()).output();
    assert_eq!(check.unwrap().status.code(), Some(1), "the key is revoked");

    // The process that holds the file is named, and the file at the path of the socket.
    let kg = KeyGuard::open(&file, Config::default().socket(false)).unwrap();
    let error = refused(dir, &["stats"]);
    assert!(
        error.contains(&format!("belongs to user {NOBODY}")) && error.contains("next:  ls -l"),
        "{error}"
    );
    drop(kg);
    let received = stranger.end();
    assert!(
        !received.iter().any(|line| line.contains("received")),
        "{received:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn private_directory_of_another_user_is_not_trusted() {
    let stage = Stage::new();
    // No other test uses this user.
    let user = 2_000_000 + std::process::id();
    let file = stage.file_of(&"d".repeat(90), user);
    let dir = file.parent().unwrap();
    let init = stage.keyguard_as(user, dir, &["init"]);
    assert_eq!(init.status.code(), Some(0), "{init:?}");

    let squatted = Squatted::new(user);
    let canonical = fs::canonicalize(&file).unwrap();
    let hash = blake3::hash(canonical.as_os_str().as_bytes()).to_hex();
    let socket = squatted.0.join(format!("keyguard-{}.sock", &hash[..32]));
    let stranger = stage.spawn("child_that_answers_everybody", &socket, NOBODY);
    for caller in [user, 0] {
        let org = format!("of {caller}");
        let created = stage.keyguard_as(caller, dir, &["create-org", &org]);
        assert_eq!(created.status.code(), Some(0), "{created:?}");
    }
    let subject = stage.spawn("child_that_holds_a_file", &file, user);
    let said = subject.end().join("\n");
    assert!(said.contains("organization: of 0"), "{said}");
    let warning = format!(
        "`{}` is not a private directory of user {user}",
        squatted.0.display()
    );
    assert!(said.contains(&warning), "{said}");
    let received = stranger.end();
    assert!(
        !received.iter().any(|line| line.contains("received")),
        "{received:?}"
    );
    drop(squatted);

    // A directory of its own is created, for this user and root.
    let subject = stage.spawn("child_that_holds_a_file", &file, user);
    let _own = Squatted(PathBuf::from(format!("/tmp/keyguard-{user}")));
    for caller in [user, 0] {
        let org = format!("again of {caller}");
        let created = stage.keyguard_as(caller, dir, &["create-org", &org]);
        assert_eq!(created.status.code(), Some(0), "{created:?}");
    }
    let said = subject.end().join("\n");
    assert!(
        said.contains("again of 0") && !said.contains("warning"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root"]
fn another_user_is_refused() {
    let stage = Stage::new();
    let file = stage.file("data");
    let dir = file.parent().unwrap();
    let _kg = KeyGuard::open(&file, Config::default()).unwrap();
    let as_nobody = || {
        let output = stage.keyguard_as(NOBODY, dir, &["stats"]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let error = as_nobody();
    assert!(error.contains("denies access to this user"), "{error}");
    // Even if the socket is made public.
    set_mode(&socket_of(&file), 0o777);
    let error = as_nobody();
    assert!(
        error.contains("open in a process of another user"),
        "{error}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn stopped_process_is_named_and_receives_nothing() {
    let stage = Stage::new();
    let file = stage.file("data");
    let dir = file.parent().unwrap();
    let me = rustix::process::geteuid().as_raw();
    let subject = stage.spawn("child_that_holds_a_file", &file, me);
    let pid = Pid::from_child(&subject.child);
    kill_process(pid, Signal::STOP).unwrap();
    let stat = format!("/proc/{}/stat", subject.child.id());
    wait_until(|| fs::read_to_string(&stat).unwrap().contains(") T "));
    let error = refused(dir, &["create-org", "acme"]);
    let next = format!("next:  kill -CONT {}", subject.child.id());
    assert!(
        error.contains("is stopped") && error.contains(&next),
        "{error}"
    );
    kill_process(pid, Signal::CONT).unwrap();
    done(dir, &["create-org", "globex"]);
    let said = subject.end().join("\n");
    assert!(said.contains("globex") && !said.contains("acme"), "{said}");
}

/// More commands than run at a time. Together they take longer than one waits for another.
#[test]
fn fifty_concurrent_commands_succeed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let all_done = |commands: Vec<Child>| {
        for command in commands {
            let output = command.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{error}");
        }
    };
    let start = |arguments: &[&str]| {
        let mut command = keyguard(dir.path(), arguments);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    all_done((0..10).map(|_| start(&["init"])).collect());
    for live in [false, true] {
        let kg = live.then(|| KeyGuard::open(&file, Config::default()).unwrap());
        let names = (0..50).map(|i| format!("{i} of {live}"));
        let mut commands: Vec<Child> = names.map(|name| start(&["create-org", &name])).collect();
        if !live {
            commands.push(start(&["export", "--to", "copy.redb"]));
        }
        all_done(commands);
        drop(kg);
    }
    let orgs = done(dir.path(), &["list-orgs", "--json"]);
    assert_eq!(orgs.matches("\"org_name\"").count(), 100, "{orgs}");
}

/// Without descriptors, the accepting thread warns, sleeps, and continues later.
#[cfg(target_os = "linux")]
#[test]
fn socket_server_waits_for_descriptors_and_warns() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::io::Seek;

    let test = "socket_server_waits_for_descriptors_and_warns";
    let Some(file) = child::argument().map(PathBuf::from) else {
        let stage = Stage::new();
        child::run(&mut child::command(
            module_path!(),
            test,
            stage.file("data"),
        ));
        return;
    };
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let mut status = status_of_thread("keyguard-socket");
    let mut sleeps = || {
        let mut text = String::new();
        status.rewind().unwrap();
        status.read_to_string(&mut text).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let client = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let unlimited = getrlimit(Resource::Nofile);
    let next = std::os::fd::AsRawFd::as_raw_fd(&fs::File::open("/dev/null").unwrap());
    let limited = Rlimit {
        current: Some(next as u64),
        ..unlimited
    };
    setrlimit(Resource::Nofile, limited).unwrap();
    connect(
        &client,
        &SocketAddrUnix::new(socket_of_canonical(&file)).unwrap(),
    )
    .unwrap();

    let warned = || {
        kg.admin()
            .stats()
            .unwrap()
            .warnings
            .iter()
            .any(|text| text.contains("ulimit -n"))
    };
    wait_until(warned);
    // A busy loop would never be found asleep.
    let before = sleeps();
    wait_until(|| sleeps() >= before + 3);
    setrlimit(Resource::Nofile, unlimited).unwrap();
    let mut client = UnixStream::from(client);
    client
        .write_all(&frame(r#"{"version":9,"command":null}"#))
        .unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut response = Vec::new();
    client.read_to_end(&mut response).unwrap();
    let response = String::from_utf8_lossy(&response);
    assert!(response.contains("version"), "{response}");
}

/// Waits until a thread has set its name.
#[cfg(target_os = "linux")]
fn status_of_thread(name: &str) -> fs::File {
    let is_named = |thread: &PathBuf| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    let mut found = None;
    wait_until(|| {
        let threads = fs::read_dir("/proc/self/task").unwrap();
        found = threads.map(|entry| entry.unwrap().path()).find(is_named);
        found.is_some()
    });
    fs::File::open(found.unwrap().join("status")).unwrap()
}

fn socket_of_canonical(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sock");
    name.into()
}

fn frame(body: &str) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory for data files and for copies of the programs, which every user may run.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        set_mode(dir.path(), 0o755);
        Self(dir)
    }

    /// Returns the path of a data file in a new directory.
    fn file(&self, dir: &str) -> PathBuf {
        self.file_of(dir, rustix::process::geteuid().as_raw())
    }

    fn file_of(&self, dir: &str, uid: u32) -> PathBuf {
        let dir = self.0.path().join(dir);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(uid), Some(uid)).unwrap();
        dir.join("keyguard.redb")
    }

    fn copy_of(&self, program: &Path) -> PathBuf {
        let copy = self.0.path().join(program.file_name().unwrap());
        if !copy.exists() {
            fs::copy(program, &copy).unwrap();
            set_mode(&copy, 0o755);
        }
        copy
    }

    fn keyguard_as(&self, uid: u32, dir: &Path, arguments: &[&str]) -> std::process::Output {
        let command = keyguard(dir, arguments);
        let program = self.copy_of(Path::new(command.get_program()));
        let mut command = child::again(command, program);
        command.current_dir(dir).uid(uid).gid(uid);
        child::start(|| command.output())
    }

    /// Runs a test of this file as the user `uid` and waits until it is ready.
    fn spawn(&self, test: &str, argument: &Path, uid: u32) -> Other {
        let program = self.copy_of(&std::env::current_exe().unwrap());
        let mut command = child::again(child::command(module_path!(), test, argument), program);
        command.uid(uid).gid(rustix::process::getegid().as_raw());
        if uid != rustix::process::geteuid().as_raw() {
            command.gid(uid);
        }
        command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = child::start(|| command.spawn());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"), "it ended early");
        Other { child, lines }
    }
}

/// A child process that ends when it is dropped.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    /// Ends the child and returns the rest of its output.
    fn end(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let lines: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success(), "{lines:?}");
        lines
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // The child may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints that this child is ready, and waits until the parent closes the pipe.
fn ready() {
    println!("\nready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A private socket directory of one user, created by another. Removed when dropped.
struct Squatted(PathBuf);

impl Squatted {
    fn new(user: u32) -> Self {
        let dir = PathBuf::from(format!("/tmp/keyguard-{user}"));
        fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o755);
        chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
        Self(dir)
    }
}

impl Drop for Squatted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn tail_follows_the_requests_of_the_process_that_holds_the_file() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    let (own, other) = (key(&kg), key(&kg));
    let tail = |arguments: &[&str]| {
        let mut child = keyguard(dir.path(), &[&["tail"], arguments].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, received) = mpsc::channel();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        (child, received)
    };
    let id = own.key.id.to_string();
    let (mut json, of_key) = tail(&["--json", "--key", &id, "--path", "/v1/*"]);
    let (mut plain, refusals) = tail(&["--refused", "--path", "/keyless"]);
    let (mut line, mut refusal) = (None, None);
    // Failed authentications may lock it out.
    let another = std::net::IpAddr::from([198, 51, 100, 7]);
    // Requests before the first poll are not shown.
    wait_until(|| {
        for (key, path) in [
            (&own, "/v1/items"),
            (&own, "/v2/items"),
            (&other, "/v1/items"),
        ] {
            let headers = [("X-API-Key", key.raw_key.expose())];
            if let Ok(grant) = kg.check(&headers, IP, path) {
                grant.finish(204);
            }
        }
        let _ = kg.check(&[("X-API-Key", "kg_live_nonsense")], another, "/keyless");
        line = line.take().or_else(|| of_key.try_recv().ok());
        refusal = refusal.take().or_else(|| refusals.try_recv().ok());
        line.is_some() && refusal.is_some()
    });
    let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
    assert_eq!(
        (&line["key_id"], &line["path"]),
        (&own.key.id.0.into(), &"/v1/items".into())
    );
    let refusal = refusal.unwrap();
    let fields: Vec<_> = refusal.split('\t').collect();
    assert_eq!(fields[2..6], ["-", "/keyless", "-", "198.51.100.7"]);
    for child in [&mut json, &mut plain] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(kg);
    let error = refused(dir.path(), &["tail"]);
    assert!(error.contains("no process holds the data file"), "{error}");
    assert!(
        error.contains("next:  keyguard usage --by minute"),
        "{error}"
    );
}
