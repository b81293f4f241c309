//! Scripts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::{Function, Lua, Table, Value, Variadic};

use super::Reply;
use super::keyspace::Keyspace;

pub(super) struct Scripts {
    lua: Lua,
    by_hash: BTreeMap<String, Function>,
}

impl Scripts {
    pub(super) fn new(keyspace: Rc<RefCell<Keyspace>>) -> Self {
        let lua = Lua::new();
        let call = lua.create_function(move |lua, words: Variadic<Value>| {
            let words: Vec<String> = words.iter().map(word).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            to_lua(lua, keyspace.borrow_mut().run(&words))
        });
        let (call, redis) = (call.unwrap(), lua.create_table().unwrap());
        for name in ["call", "pcall"] {
            redis.set(name, &call).unwrap();
        }
        lua.globals().set("redis", redis).unwrap();
        Self {
            lua,
            by_hash: BTreeMap::new(),
        }
    }

    /// Returns the hash of the script.
    pub(super) fn load(&mut self, code: &str) -> String {
        let hash = redis::Script::new(code).get_hash().to_owned();
        let script = self.lua.load(code).into_function().unwrap();
        self.by_hash.insert(hash.clone(), script);
        hash
    }

    /// Runs a script that returns numbers.
    pub(super) fn run(&self, hash: &str, keys: &[&str], arguments: &[&str]) -> Reply {
        let Some(script) = self.by_hash.get(hash) else {
            return Reply::Error("NOSCRIPT No matching script. Please use EVAL.");
        };
        let globals = self.lua.globals();
        globals.set("KEYS", keys).unwrap();
        globals.set("ARGV", arguments).unwrap();
        let numbers: Vec<f64> = script.call(()).unwrap();
        Reply::List(
            numbers
                .into_iter()
                .map(|it| Reply::Int(it as i64))
                .collect(),
        )
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_string_lossy(),
        _ => panic!("{value:?}"),
    }
}

fn to_lua(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Nil => Value::Boolean(false),
        Reply::Status(text) | Reply::Error(text) => Value::String(lua.create_string(text)?),
        Reply::Int(number) => Value::Number(number as f64),
        Reply::Text(text) => Value::String(lua.create_string(text)?),
        Reply::List(all) => {
            let table: Table = lua.create_table()?;
            for reply in all {
                table.push(to_lua(lua, reply)?)?;
            }
            Value::Table(table)
        }
    })
}
