//! A private nginx process.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::load::BODY;

/// Stops when dropped.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It has no child processes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns `None` if nginx is not installed.
pub(crate) fn start(dir: &Path) -> Result<Option<Nginx>, Failure> {
    let Some(program) = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"]
        .into_iter()
        .find(|program| Path::new(program).exists())
    else {
        return Ok(None);
    };
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    std::fs::write(dir.join("nginx.conf"), config(address))?;
    let child = Command::new(program)
        .arg("-p")
        .arg(dir)
        .args(["-c", "nginx.conf"])
        .stderr(Stdio::null())
        .spawn()?;
    let nginx = Nginx { child, address };
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        if start.elapsed() > Duration::from_secs(10) {
            return Err("nginx does not start".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Some(nginx))
}

fn config(address: SocketAddr) -> String {
    format!(
        "daemon off;
        master_process off;
        pid nginx.pid;
        error_log stderr crit;
        events {{}}
        http {{
            access_log off;
            keepalive_requests 1000000000;
            client_body_temp_path t1;
            proxy_temp_path t2;
            fastcgi_temp_path t3;
            uwsgi_temp_path t4;
            scgi_temp_path t5;
            limit_req_zone $binary_remote_addr zone=all:10m rate=1000000r/s;
            server {{
                listen {address};
                location / {{
                    limit_req zone=all burst=1000000 nodelay;
                    try_files /none @answer;
                }}
                location @answer {{
                    default_type text/plain;
                    return 200 '{BODY}';
                }}
            }}
        }}"
    )
}
