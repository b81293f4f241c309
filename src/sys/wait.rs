//! Results that may be ready at once, deadlines, and blocking on futures.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use super::Instant;

/// A value that is ready now, or a future of it.
pub(crate) enum MaybeReady<'a, T> {
    Now(T),
    #[cfg_attr(not(any(feature = "redis", feature = "postgres")), allow(dead_code))]
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

#[cfg(any(feature = "redis", feature = "postgres"))]
impl<'a, T> MaybeReady<'a, T> {
    pub(crate) fn later(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T> MaybeReady<'_, T> {
    #[inline(always)]
    pub(crate) async fn get(self) -> T {
        match self {
            Self::Now(value) => value,
            Self::Later(future) => future.await,
        }
    }
}

/// The deadline of one decision, shared by all backends. The time starts with the first call.
#[derive(Debug, Default)]
#[cfg_attr(not(any(feature = "redis", feature = "postgres")), allow(dead_code))]
pub(crate) struct Deadline(OnceLock<Instant>);

#[cfg(any(feature = "redis", feature = "postgres"))]
impl Deadline {
    /// The instant at which a timeout of `whole` ends.
    pub(crate) fn ends_at(&self, whole: std::time::Duration) -> Instant {
        *self.0.get_or_init(Instant::now) + whole
    }
}

/// Blocks until a future is ready. May be called on any thread, including threads of an async
/// runtime, because other threads drive the future.
#[inline(always)]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => park_until_ready(future),
    }
}

#[cold]
fn park_until_ready<F: Future>(future: Pin<&mut F>) -> F::Output {
    // Inside a tokio task, tokio channels return `Pending` once the task has used its budget. The
    // task cannot yield while this thread is parked.
    #[cfg(any(feature = "redis", feature = "postgres"))]
    let future = tokio::task::unconstrained(future);
    #[cfg(all(test, feature = "postgres", feature = "redis", not(loom)))]
    if super::simulation::is_active() {
        return super::simulation::block_on(future);
    }
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        // May wake spuriously; the loop then polls again.
        std::thread::park();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_on_waits_for_another_thread() {
        let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
        let mut polled = false;
        let value = std::future::poll_fn(move |context| {
            if std::mem::replace(&mut polled, true) {
                // A second poll means that the waker was called, or a spurious wake-up.
                return Poll::Ready(7);
            }
            let _ = sender.send(context.waker().clone());
            Poll::Pending
        });
        let waking = std::thread::spawn(move || receiver.iter().for_each(Waker::wake));
        assert_eq!(block_on(value), 7);
        waking.join().unwrap();
    }
}
