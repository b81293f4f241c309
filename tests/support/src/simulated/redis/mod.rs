//! A simulated Redis: its protocol, the commands that KeyGuard uses, and scripts by the Lua of Redis.

mod keyspace;
mod script;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, DuplexStream, ReadHalf};
use tokio::task::{AbortHandle, spawn_local};

use self::keyspace::Keyspace;
use self::script::Scripts;
use super::Network;
use super::outbox::Outbox;

pub struct Redis {
    keyspace: Rc<RefCell<Keyspace>>,
    scripts: RefCell<Scripts>,
    connections: RefCell<Vec<AbortHandle>>,
}

/// A reply.
#[derive(Clone, Debug)]
enum Reply {
    Nil,
    Status(&'static str),
    Error(&'static str),
    Int(i64),
    Text(String),
    List(Vec<Reply>),
}

/// Subscribers by channel.
type Subscribers = BTreeMap<String, Vec<Outbox>>;

impl Redis {
    /// A server of the network under the name `redis`.
    pub fn serve(network: &Rc<Network>) -> Rc<Self> {
        let keyspace = Rc::new(RefCell::new(Keyspace::new(network)));
        let redis = Rc::new(Self {
            scripts: RefCell::new(Scripts::new(Rc::clone(&keyspace))),
            keyspace,
            connections: RefCell::default(),
        });
        let server = Rc::clone(&redis);
        network.serve("redis", move |stream| Rc::clone(&server).accept(stream));
        redis
    }

    /// Ends all connections and forgets all scripts.
    pub fn crash(&self) {
        self.keyspace.borrow_mut().subscribers.clear();
        self.scripts
            .replace(Scripts::new(Rc::clone(&self.keyspace)));
        for connection in self.connections.take() {
            connection.abort();
        }
    }

    /// Deletes all keys.
    pub fn flush(&self) {
        self.keyspace.borrow_mut().flush();
    }

    fn accept(self: Rc<Self>, stream: DuplexStream) {
        let server = Rc::clone(&self);
        let connection = spawn_local(async move {
            let (requests, replies) = tokio::io::split(stream);
            let outbox = Outbox::new(replies);
            // Until the client is gone.
            let _ = server.run(requests, &outbox).await;
            server.keyspace.borrow_mut().unsubscribe(&outbox);
        });
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.is_finished());
        connections.push(connection.abort_handle());
    }

    async fn run(&self, requests: ReadHalf<DuplexStream>, outbox: &Outbox) -> io::Result<()> {
        let mut requests = BufReader::new(requests);
        loop {
            let command = read(&mut requests).await?;
            outbox.send(encoded(&self.reply(&command, outbox)));
        }
    }

    fn reply(&self, command: &[String], outbox: &Outbox) -> Reply {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        match command.as_slice() {
            ["CLIENT", ..] => Reply::Status("OK"),
            ["INFO", ..] => Reply::Text("maxmemory_policy:noeviction\r\n".to_owned()),
            ["SCRIPT", "LOAD", code] => Reply::Text(self.scripts.borrow_mut().load(code)),
            ["EVALSHA", hash, count, rest @ ..] => {
                let (keys, arguments) = rest.split_at(count.parse().unwrap());
                self.scripts.borrow().run(hash, keys, arguments)
            }
            ["SET", ..] => self.keyspace.borrow_mut().run(&command),
            ["SUBSCRIBE", channel] => {
                let mut keyspace = self.keyspace.borrow_mut();
                let subscribers = keyspace.subscribers.entry((*channel).to_owned());
                subscribers.or_default().push(outbox.clone());
                let words = ["subscribe", channel].map(|word| Reply::Text(word.to_owned()));
                Reply::List(words.into_iter().chain([Reply::Int(1)]).collect())
            }
            _ => panic!("unknown: {command:?}"),
        }
    }
}

/// Reads a command.
async fn read(requests: &mut BufReader<ReadHalf<DuplexStream>>) -> io::Result<Vec<String>> {
    let count = read_number(requests, '*').await?;
    let mut command = Vec::with_capacity(count);
    for _ in 0..count {
        let len = read_number(requests, '$').await?;
        let mut word = vec![0; len + 2];
        requests.read_exact(&mut word).await?;
        word.truncate(len);
        command.push(String::from_utf8(word).unwrap());
    }
    Ok(command)
}

async fn read_number(
    requests: &mut BufReader<ReadHalf<DuplexStream>>,
    kind: char,
) -> io::Result<usize> {
    let mut line = String::new();
    if requests.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.strip_prefix(kind).unwrap().trim_end().parse().unwrap())
}

fn encoded(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Nil => b"$-1\r\n".to_vec(),
        Reply::Status(text) => format!("+{text}\r\n").into_bytes(),
        Reply::Error(text) => format!("-{text}\r\n").into_bytes(),
        Reply::Int(number) => format!(":{number}\r\n").into_bytes(),
        Reply::Text(text) => format!("${}\r\n{text}\r\n", text.len()).into_bytes(),
        Reply::List(all) => {
            let mut bytes = format!("*{}\r\n", all.len()).into_bytes();
            all.iter().for_each(|reply| bytes.extend(encoded(reply)));
            bytes
        }
    }
}
