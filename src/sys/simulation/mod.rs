//! Simulated time and simulated servers under one thread's guards, for tests.
//!
//! While a simulation runs on a thread, the I/O threads of the backends that are opened there are tasks
//! of that thread, their streams lead through a simulated [`Network`], and all clocks show the time of
//! the runtime, which passes only while the thread waits, in jumps from timer to timer. So a run depends
//! on nothing but its seed. Writers of usage have no thread: whoever opens a guard runs their rounds.
//! Calls that block are [`run`](run_blocking) as tasks.

mod fiber;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use keyguard_test_support::simulated::Network;
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, LocalSet};

use self::fiber::Fiber;
use crate::sys::Instant;

/// One round of a writer. Fails with the reason why usage could not be stored.
pub(crate) type WriterRound = Box<dyn FnMut() -> Result<(), String> + Send>;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Simulation>>> = const { RefCell::new(None) };
    static HAS_PANICKED: Cell<bool> = const { Cell::new(false) };
}

struct Simulation {
    // Dropped before the runtime on which they run.
    tasks: LocalSet,
    runtime: Runtime,
    network: Rc<Network>,
    /// The writer of the guard that was opened last.
    writer: RefCell<Option<WriterRound>>,
}

/// Ends the simulation of this thread when dropped.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let simulation = CURRENT.take();
        drop(simulation);
    }
}

/// Runs `work` in a simulation.
pub(crate) fn run<T>(seed: u64, work: impl FnOnce(Rc<Network>) -> T) -> T {
    note_panics();
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let handle = runtime.handle().clone();
    let _context = handle.enter();
    let network = Network::new(seed);
    CURRENT.set(Some(Rc::new(Simulation {
        tasks: LocalSet::new(),
        runtime,
        network: Rc::clone(&network),
        writer: RefCell::default(),
    })));
    let _end = End;
    work(network)
}

/// Notes panics of tasks, which otherwise only end.
fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            HAS_PANICKED.set(true);
            hook(panic);
        }));
    });
    HAS_PANICKED.set(false);
}

/// Whether a task of this thread has panicked.
pub(crate) fn has_panicked() -> bool {
    HAS_PANICKED.get()
}

fn current() -> Option<Rc<Simulation>> {
    CURRENT.with_borrow(Clone::clone)
}

pub(crate) fn is_active() -> bool {
    CURRENT.with_borrow(Option::is_some) || fiber::is_current()
}

/// Lets time pass, and all tasks run, until a future is ready.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    if fiber::is_current() {
        return fiber::block_on(future);
    }
    let simulation = current().unwrap();
    simulation.tasks.block_on(&simulation.runtime, future)
}

/// Starts a task.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) -> AbortHandle {
    let simulation = current().unwrap();
    simulation.tasks.spawn_local(task).abort_handle()
}

/// Makes a task of a call that blocks.
pub(crate) fn run_blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let now = (Instant::now(), current().unwrap().network.unix_time());
    Fiber::new(now, call)
}

/// Lets time pass.
pub(crate) fn wait(time: Duration) {
    block_on(tokio::time::sleep(time));
}

/// Connects to a host of the network; `None` outside of a simulation.
pub(crate) fn connect(
    host: &str,
) -> Option<impl Future<Output = io::Result<DuplexStream>> + use<>> {
    let network = Rc::clone(&current()?.network);
    let host = host.to_owned();
    Some(async move { network.connect(&host).await })
}

/// Calendar time; `None` outside of a simulation.
pub(crate) fn system_time() -> Option<SystemTime> {
    let network = || Some(current()?.network.unix_time());
    Some(SystemTime::UNIX_EPOCH + fiber::unix_time().or_else(network)?)
}

/// Keeps the writer of a guard for [`take_writer`].
pub(crate) fn keep_writer(round: impl FnMut() -> Result<(), String> + Send + 'static) {
    *current().unwrap().writer.borrow_mut() = Some(Box::new(round));
}

/// Returns the writer of the guard that was opened last.
pub(crate) fn take_writer() -> WriterRound {
    let simulation = current().unwrap();
    let writer = simulation.writer.borrow_mut().take();
    writer.unwrap()
}
