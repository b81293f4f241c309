//! The I/O thread of the PostgreSQL backend.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use super::Options;
use super::address::DatabaseUrl;
use super::change_listener::ChangeListener;
use super::in_flight::InFlight;
use super::migrate::SchemaParams;
use super::negative_cache::NegativeCache;
use super::pool::Pool;
use super::server_error::{ServerError, unusable};
use super::sessions::Sessions;
use super::state::State;
use super::worker::Worker;
use crate::store::{OpenError, StoreError};
use crate::sys::{Instant, block_on, spawn_io};

/// Capacity of the request queue.
const QUEUE: usize = 65_536;

/// Time for closing sessions.
const CLOSING: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(Rc<Worker>) + Send>;

pub(super) struct Link {
    jobs: mpsc::Sender<Job>,
}

impl Link {
    /// Starts the thread and waits briefly for the first connection. Fails if the server is
    /// reachable but unusable.
    pub(super) fn open(
        address: DatabaseUrl,
        params: SchemaParams,
        options: &Options,
        negative_cache: Arc<NegativeCache>,
        state: Arc<State>,
        listener: Arc<ChangeListener>,
    ) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (tried, first_try) = oneshot::channel();
        let (deadline, stale_for) = (options.deadline, options.stale_for);
        let (connections, clock) = (options.connections, options.clock.clone());
        let work = move || async move {
            let worker = Rc::new(Worker {
                pool: Rc::new(Pool::new(
                    Sessions::new(address, params, Arc::clone(&state)),
                    connections,
                    deadline,
                    Arc::clone(&state),
                )),
                negative_cache,
                state,
                listener,
                deadline,
                stale_for,
                clock,
                in_flight: InFlight::default(),
                applied: Cell::new(None),
                own: RefCell::default(),
                unread_locks: RefCell::default(),
                is_behind: Cell::new(false),
                synced_at: Cell::new(Instant::now()),
                days: RefCell::default(),
            });
            run(worker, queue, tried).await;
        };
        spawn_io("keyguard-postgres", work).map_err(not_started)?;
        match block_on(first_try) {
            Ok(Err(error)) if error.is_refusal() => Err(unusable(error)),
            // The server may start later.
            _ => Ok(Self { jobs }),
        }
    }

    /// Runs `work` on the thread.
    pub(super) async fn run<T, E, F>(
        &self,
        work: impl FnOnce(Rc<Worker>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        E: Send + Into<StoreError> + 'static,
        F: Future<Output = Result<T, E>> + 'static,
    {
        let (reply, received) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            spawn_local(async move {
                let _ = reply.send(work(worker).await);
            });
        });
        let overloaded = |_| ServerError::new("its request queue is full");
        self.jobs.try_send(job).map_err(overloaded)?;
        let reply = received
            .await
            .map_err(|_| ServerError::new("it was closed"))?;
        reply.map_err(Into::into)
    }
}

async fn run(
    worker: Rc<Worker>,
    mut queue: mpsc::Receiver<Job>,
    tried: oneshot::Sender<Result<(), ServerError>>,
) {
    let first = worker.open_feed().await;
    let is_refused = first.as_ref().is_err_and(ServerError::is_refusal);
    if let Err(error) = &first {
        worker.set_feed_error(error.clone().into());
    }
    let (conn, first) = match first {
        Ok(conn) => (Some(conn), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let _ = tried.send(first);
    if is_refused {
        return;
    }
    let following = [
        spawn_local(Rc::clone(&worker).follow(conn)),
        spawn_local(Rc::clone(&worker).watch()),
        spawn_local(Rc::clone(&worker).recover()),
    ];
    while let Some(job) = queue.recv().await {
        job(Rc::clone(&worker));
    }
    following.iter().for_each(tokio::task::JoinHandle::abort);
    let _ = tokio::time::timeout(CLOSING, worker.pool.close()).await;
}

fn not_started(error: std::io::Error) -> OpenError {
    unusable(format!("its thread cannot be started: {error}"))
}
