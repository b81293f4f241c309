//! Blocking calls as tasks. Each has a thread, which runs only while the task is polled, so that still one
//! thread runs at a time.
//!
//! A fiber that waits for a lock which another fiber holds never ends; its caller must prevent that.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use crate::sys::Instant;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Baton>>> = const { RefCell::new(None) };
}

/// A blocking call.
pub(super) struct Fiber<T> {
    baton: Arc<Baton>,
    thread: Option<JoinHandle<T>>,
}

/// Passes control between a task and the thread of its fiber.
struct Baton {
    turn: Mutex<Turn>,
    changed: Condvar,
    /// Wakes the task.
    waker: Mutex<Waker>,
    /// The start of simulated time, and calendar time then.
    start: (Instant, Duration),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Task,
    Fiber,
    /// The call has returned.
    Done,
    /// The task was dropped.
    Abandoned,
}

impl<T: Send + 'static> Fiber<T> {
    pub(super) fn new(
        start: (Instant, Duration),
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Self {
        let baton = Arc::new(Baton {
            turn: Mutex::new(Turn::Task),
            changed: Condvar::new(),
            waker: Mutex::new(Waker::noop().clone()),
            start,
        });
        let (handle, own) = (Handle::current(), Arc::clone(&baton));
        let thread = std::thread::spawn(move || {
            let _context = handle.enter();
            CURRENT.set(Some(Arc::clone(&own)));
            let result = catch_unwind(AssertUnwindSafe(|| {
                own.wait();
                call()
            }));
            own.set(Turn::Done);
            result.unwrap_or_else(|panic| resume_unwind(panic))
        });
        Self {
            baton,
            thread: Some(thread),
        }
    }
}

impl<T> Future for Fiber<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.baton.waker.lock().clone_from(context.waker());
        if self.baton.run() != Turn::Done {
            return Poll::Pending;
        }
        let thread = self.thread.take().unwrap();
        match thread.join() {
            Ok(value) => Poll::Ready(value),
            Err(panic) => {
                super::HAS_PANICKED.set(true);
                resume_unwind(panic)
            }
        }
    }
}

impl<T> Drop for Fiber<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.baton.set(Turn::Abandoned);
            let _ = thread.join();
        }
    }
}

impl Baton {
    fn set(&self, turn: Turn) {
        *self.turn.lock() = turn;
        self.changed.notify_all();
    }

    /// Lets the fiber run until it waits or has ended.
    fn run(&self) -> Turn {
        self.set(Turn::Fiber);
        let mut turn = self.turn.lock();
        while *turn == Turn::Fiber {
            self.changed.wait(&mut turn);
        }
        *turn
    }

    /// Waits for the turn of the fiber. Unwinds if the task was dropped.
    fn wait(&self) {
        let mut turn = self.turn.lock();
        while *turn == Turn::Task {
            self.changed.wait(&mut turn);
        }
        let is_abandoned = *turn == Turn::Abandoned;
        drop(turn);
        if is_abandoned {
            resume_unwind(Box::new("abandoned"));
        }
    }
}

impl Wake for Baton {
    fn wake(self: Arc<Self>) {
        let waker = self.waker.lock().clone();
        waker.wake();
    }
}

fn current() -> Option<Arc<Baton>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether this thread is that of a fiber.
pub(super) fn is_current() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Waits for a future in a fiber, whose task waits meanwhile.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let baton = current().unwrap();
    let waker = Waker::from(Arc::clone(&baton));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        baton.set(Turn::Task);
        baton.wait();
    }
}

/// Calendar time since the Unix epoch; `None` outside of a fiber.
pub(super) fn unix_time() -> Option<Duration> {
    let (start, unix_time) = current()?.start;
    Some(unix_time + start.elapsed())
}
