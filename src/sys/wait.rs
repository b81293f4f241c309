//! What a backend answers at once or later, and waiting for it from any thread.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

/// An answer that is there, or that another thread brings.
pub(crate) enum MaybeReady<'a, T> {
    Now(T),
    #[cfg_attr(not(any(feature = "redis", feature = "postgres")), allow(dead_code))]
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

#[cfg(any(feature = "redis", feature = "postgres"))]
impl<'a, T> MaybeReady<'a, T> {
    pub(crate) fn later(answer: impl Future<Output = T> + Send + 'a) -> Self {
        Self::Later(Box::pin(answer))
    }
}

impl<T> MaybeReady<'_, T> {
    #[inline(always)]
    pub(crate) async fn get(self) -> T {
        match self {
            Self::Now(answer) => answer,
            Self::Later(answer) => answer.await,
        }
    }
}

/// How long one decision waits for all backends together, counted from the first that it asks.
#[derive(Debug, Default)]
#[cfg_attr(not(any(feature = "redis", feature = "postgres")), allow(dead_code))]
pub(crate) struct Deadline(OnceLock<Instant>);

#[cfg(any(feature = "redis", feature = "postgres"))]
impl Deadline {
    /// When it ends, if it is `whole` in all.
    pub(crate) fn ends_at(&self, whole: std::time::Duration) -> Instant {
        *self.0.get_or_init(Instant::now) + whole
    }
}

/// The output of a future that other threads drive on. May be called from any thread, also from one
/// that runs an async executor.
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
    // Within a task of tokio, channels of tokio are ready for a number of times only until the task
    // yields, which it does not while this thread is parked.
    #[cfg(any(feature = "redis", feature = "postgres"))]
    let future = tokio::task::unconstrained(future);
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        // May return early; the future then says that it is not ready.
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
    fn what_another_thread_brings_is_waited_for() {
        let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
        let mut asked = false;
        let answer = std::future::poll_fn(move |context| {
            if std::mem::replace(&mut asked, true) {
                // Polled again only by who was woken, or by chance; either is an answer.
                return Poll::Ready(7);
            }
            let _ = sender.send(context.waker().clone());
            Poll::Pending
        });
        let waking = std::thread::spawn(move || receiver.iter().for_each(Waker::wake));
        assert_eq!(block_on(answer), 7);
        waking.join().unwrap();
    }
}
