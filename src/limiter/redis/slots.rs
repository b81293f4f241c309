//! The slots that this node holds: its requests in flight, by their keys in Redis.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::script::{Action, CounterArgs, ScriptCall, ScriptReply};

#[derive(Default)]
pub(super) struct HeldSlots(Mutex<HashMap<String, Slots>>);

/// The slots under one key.
#[derive(Clone, Copy, Default)]
struct Slots {
    held: u32,
    /// Calls in progress that may take a slot.
    pending: u32,
}

impl Slots {
    fn is_unused(self) -> bool {
        self.held == 0 && self.pending == 0
    }
}

impl HeldSlots {
    /// Notes a call that is about to be sent, or a release that cannot be sent: the next renewal
    /// corrects it.
    pub(super) fn note_call(&self, call: &ScriptCall) {
        match call.action {
            Action::Admit => self.update(call.slots(), |slots| slots.pending += 1),
            Action::Release => self.update(call.slots(), |slots| {
                slots.held = slots.held.saturating_sub(1);
            }),
            _ => {}
        }
    }

    /// Notes the end of a call.
    pub(super) fn note_reply(&self, call: &ScriptCall, reply: Option<&ScriptReply>) {
        if call.action != Action::Admit {
            return;
        }
        self.update(call.slots(), |slots| {
            slots.pending = slots.pending.saturating_sub(1);
        });
        if let Some(reply) = reply {
            self.update(call.taken_slots(reply), |slots| slots.held += 1);
        }
    }

    fn update<'a>(&self, keys: impl Iterator<Item = &'a str>, change: impl Fn(&mut Slots)) {
        let mut keys = keys.peekable();
        // True for most calls, which need no lock then.
        if keys.peek().is_none() {
            return;
        }
        let mut all = self.0.lock();
        for key in keys {
            change(all.entry(key.to_owned()).or_default());
        }
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    /// Returns the call that renews the lease of the slots under a key.
    pub(super) fn renewal(&self, key: &str) -> Option<ScriptCall> {
        let slots = *self.0.lock().get(key)?;
        let action = match slots.pending {
            0 => Action::Renew,
            // Redis may count slots that are not known here yet.
            _ => Action::Extend,
        };
        Some(report(action, key, slots.held))
    }

    /// Notes that a renewal has succeeded. Keys without slots need no further one.
    pub(super) fn note_renewed(&self, renewal: &ScriptCall) {
        let mut all = self.0.lock();
        for key in renewal.slots().filter(|_| renewal.cost == 0) {
            if all.get(key).is_some_and(|slots| slots.is_unused()) {
                all.remove(key);
            }
        }
    }

    /// Returns the calls that give all slots up.
    pub(super) fn give_up(&self) -> Vec<ScriptCall> {
        let all = std::mem::take(&mut *self.0.lock());
        let keys = all.keys();
        keys.map(|key| report(Action::Renew, key, 0)).collect()
    }

    #[cfg(test)]
    pub(super) fn held(&self, key: &str) -> u32 {
        self.0.lock().get(key).map_or(0, |slots| slots.held)
    }
}

/// Reports the number of slots under a key.
fn report(action: Action, key: &str, held: u32) -> ScriptCall {
    ScriptCall::new(
        action,
        held.into(),
        vec![CounterArgs::slots(key.to_owned())],
    )
}
