//! Locks and atomics of the parts that `interleavings` tests check: those of loom, if it is compiled for
//! these tests.

#[cfg(not(loom))]
pub(crate) use {
    parking_lot::{Mutex, MutexGuard},
    std::sync::atomic,
    std::thread_local,
};

#[cfg(loom)]
pub(crate) use {
    self::checked::{Mutex, loom_thread_local as thread_local},
    keyguard_test_support::loom::sync::{MutexGuard, atomic},
};

#[cfg(loom)]
mod checked {
    use std::sync::PoisonError;

    use keyguard_test_support::loom::sync;

    /// The mutex of loom with the methods of that of `parking_lot`.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// The macro of loom with the syntax of that of std.
    macro_rules! loom_thread_local {
        (static $name:ident: $type:ty = const { $init:expr } $(;)?) => {
            keyguard_test_support::loom::thread_local!(
                static $name: $type = $init;
            );
        };
    }
    pub(crate) use loom_thread_local;
}
