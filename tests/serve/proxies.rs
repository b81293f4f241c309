//! The example configurations, with real proxies in front of `keyguard serve`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::program::keyguard;
use crate::common::server::{HttpResponse, Server, get, request};
use crate::common::{free_port, wait_until};
use crate::server::data_file;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A proxy, a `keyguard serve`, and an application that responds with the request it received.
struct World {
    address: String,
    key: String,
    server: Server,
    _proxy: Proxy,
    _dir: TempDir,
}

impl World {
    /// `examples` are the files of a configuration in `examples/sidecar`; `command` runs the proxy with them.
    fn start(examples: &[&str], command: impl Fn(&Path) -> Command) -> Self {
        let dir = TempDir::new().unwrap();
        let key = data_file(dir.path(), 3);
        // All other paths need a key.
        fs::write(dir.path().join("policy.toml"), "exempt = [\"/open\"]").unwrap();
        let server = serve(dir.path());
        let application = application();
        let sidecar = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sidecar");
        // Another process may take the port before the proxy binds it.
        let started = (0..10).find_map(|_| {
            let port = free_port();
            let address = format!("127.0.0.1:{port}");
            for example in examples {
                let text = fs::read_to_string(sidecar.join(example)).unwrap();
                let config = text
                    .replace("127.0.0.1:8700", &server.address)
                    .replace("127.0.0.1:9000", &format!("127.0.0.1:{application}"))
                    .replace("127.0.0.1:8080", &address)
                    .replace("http://:8080", &format!("http://:{port}"));
                fs::write(dir.path().join(example), config).unwrap();
            }
            Some((Proxy::start(command(dir.path()), &address)?, address))
        });
        let (proxy, address) = started.expect("the proxy starts");
        Self {
            address,
            key,
            server,
            _proxy: proxy,
            _dir: dir,
        }
    }

    fn fetch(&self, target: &str, fields: &[(&str, &str)]) -> HttpResponse {
        get(&self.address, target, fields)
    }
}

/// A proxy process, which is killed when this is dropped.
struct Proxy(Child);

impl Proxy {
    /// Waits until it listens; `None` if it ends.
    fn start(mut command: Command, address: &str) -> Option<Self> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut proxy = Self(child.expect("the proxy has to be there: tests/run installs it"));
        let mut has_ended = false;
        wait_until(|| {
            has_ended = proxy.0.try_wait().unwrap().is_some();
            has_ended || TcpStream::connect(address).is_ok()
        });
        (!has_ended).then_some(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Only an orderly stop ends the workers, too.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn serve(dir: &Path) -> Server {
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--policy",
        "policy.toml",
    ];
    Server::spawn(keyguard(dir, &arguments))
}

/// Starts an application that responds with the head of the request; returns its port.
fn application() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut fields = String::new();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines
                .map(Result::unwrap)
                .take_while(|line| !line.is_empty())
            {
                fields += &format!("{line}\n");
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", fields.len());
            let _ = write!(stream, "{head}Connection: close\r\n\r\n{fields}");
        }
    });
    port
}

/// Returns the values of an identity header field that the application received, in any spelling: some
/// servers read `_` as `-`.
fn received(response: &HttpResponse, name: &str) -> Vec<String> {
    let lines = response
        .body
        .lines()
        .filter_map(|line| line.split_once(':'));
    lines
        .filter(|(field, _)| field.replace('_', "-").eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

const IDENTITY: [&str; 5] = [
    "X-KeyGuard-Key-Id",
    "X-KeyGuard-Org-Id",
    "X-KeyGuard-Org",
    "X-KeyGuard-Scopes",
    "X-KeyGuard-Ip",
];

/// Checks that apply to every proxy.
fn decides_and_replaces_identity_header_fields(world: &World) {
    let missing = world.fetch("/", &[]);
    assert_eq!(missing.status, 401);
    assert!(missing.field("www-authenticate").starts_with("Bearer"));

    let good = ("X-API-Key", world.key.as_str());
    let names = IDENTITY.join(", ");
    let mut posing = vec![
        ("X-Original-URI", "/open"),
        ("X-Original-Method", "GET"),
        ("X-Forwarded-Uri", "/open"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.1"),
        // A proxy removes the header fields listed in `Connection`.
        ("Connection", names.as_str()),
    ];
    let spellings = IDENTITY.map(|name| [name.to_lowercase(), name.replace('-', "_"), name.into()]);
    let names = spellings.iter().flatten();
    posing.extend(names.map(|name| (name.as_str(), "somebody")));
    let is_unsaid = |response: &HttpResponse, name| {
        let values = received(response, name);
        assert!(
            values.iter().all(String::is_empty),
            "{name}: {}",
            response.body
        );
    };
    // Header fields of the client do not open a protected path.
    assert_eq!(world.fetch("/", &posing).status, 401);
    let anonymous = world.fetch("/open", &posing);
    assert_eq!(anonymous.status, 200, "{}", anonymous.body);
    for name in &IDENTITY[..4] {
        is_unsaid(&anonymous, name);
    }
    assert_eq!(received(&anonymous, "X-KeyGuard-Ip"), ["127.0.0.1"]);

    posing.push(good);
    let admitted = world.fetch("/orders?page=2", &posing);
    assert_eq!(admitted.status, 200, "{}", admitted.body);
    assert!(admitted.body.starts_with("GET /orders?page=2 "));
    assert!(!admitted.body.contains(&world.key), "{}", admitted.body);
    for (name, value) in IDENTITY.iter().zip(["1", "1", "acme", "read", "127.0.0.1"]) {
        assert_eq!(
            received(&admitted, name),
            [value],
            "{name}: {}",
            admitted.body
        );
    }
    assert_eq!(world.fetch("/", &[good, good]).status, 400);
    for _ in 0..2 {
        assert_eq!(world.fetch("/", &[good]).status, 200);
    }
    let limited = world.fetch("/", &[good]);
    assert_eq!(limited.status, 429);
    let wait: u64 = limited.field("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(limited.field("x-ratelimit-remaining"), "0");
    // The body reaches the application, and not the sidecar.
    let body = "x".repeat(1_000);
    assert_eq!(request(&world.address, "POST", "/", &[], &body).status, 401);
}

/// Without a decision, no request reaches the application.
fn refuses_all_requests_without_a_decision(mut world: World) {
    let pid = Pid::from_child(&world.server.child);
    kill_process(pid, Signal::TERM).unwrap();
    world.server.child.wait().unwrap();
    for target in ["/", "/open"] {
        let response = world.fetch(target, &[("X-API-Key", &world.key)]);
        assert!([502, 503].contains(&response.status), "{}", response.status);
    }
}

#[test]
fn nginx_example_works() {
    let program = ["/usr/sbin/nginx", "nginx"];
    let program = program.into_iter().find(|p| Path::new(p).exists());
    let world = World::start(&["nginx.conf"], |dir| {
        let mut command = Command::new(program.unwrap_or("nginx"));
        command.arg("-p").arg(dir).args(["-c", "nginx.conf"]);
        command
    });
    decides_and_replaces_identity_header_fields(&world);
    let good = ("X-API-Key", world.key.as_str());
    assert_eq!(world.fetch("/open", &[good]).status, 200);
    refuses_all_requests_without_a_decision(world);
}

#[test]
fn caddy_example_works() {
    let world = World::start(&["Caddyfile"], |dir| {
        let mut command = Command::new("caddy");
        command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
        command.current_dir(dir);
        command
            .env("XDG_DATA_HOME", dir)
            .env("XDG_CONFIG_HOME", dir);
        command
    });
    decides_and_replaces_identity_header_fields(&world);
    refuses_all_requests_without_a_decision(world);
}

#[test]
fn haproxy_example_works() {
    let program = ["/usr/sbin/haproxy", "haproxy"];
    let program = program.into_iter().find(|p| Path::new(p).exists());
    let world = World::start(&["haproxy.cfg", "keyguard.lua"], |dir| {
        let mut command = Command::new(program.unwrap_or("haproxy"));
        command
            .arg("-db")
            .arg("-C")
            .arg(dir)
            .args(["-f", "haproxy.cfg"]);
        command
    });
    decides_and_replaces_identity_header_fields(&world);
    refuses_all_requests_without_a_decision(world);
}
