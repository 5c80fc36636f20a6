//! Group commit: operations that wait at the same time share one transaction, each in a savepoint of its own, and are
//! answered after its commit. A commit waits for the disk; this way one wait does for all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Op;
use super::error::Error;
use super::tx::{Sql, Tx, args};
use crate::trial::Millis;

/// Operations committed together at most.
const GROUP: usize = 64;
/// Operations that may wait for the writer before callers have to.
const WAITING: usize = 1024;

const SAVE: Sql = Sql::both("SAVEPOINT op");
const KEEP: Sql = Sql::both("RELEASE SAVEPOINT op");
const UNDO: Sql = Sql::both("ROLLBACK TO SAVEPOINT op");

/// An operation whose type the writer does not know.
pub(super) trait Job<C>: Send {
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut C,
        now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

    /// Answers without having run.
    fn refuse(self: Box<Self>, error: Error);

    fn is_stop(&self) -> bool {
        false
    }
}

/// A job that has run: whether to keep its writes, and the answer that is sent after the commit.
pub(super) struct Done {
    keep: bool,
    answer: Answer,
}

type Answer = Box<dyn FnOnce(Option<Error>) + Send>;

struct Queued<O: Op> {
    op: Arc<O>,
    reply: oneshot::Sender<Result<O::Output, Error>>,
}

impl<C: Tx, O: Op> Job<C> for Queued<O> {
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut C,
        now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>> {
        Box::pin(async move {
            let Self { op, reply } = *self;
            let output = op.run(connection, now).await;
            Done {
                keep: output.is_ok(),
                // Nobody listens when the caller went away; the commit stands, and its repetition is harmless.
                answer: Box::new(move |error| drop(reply.send(error.map_or(output, Err)))),
            }
        })
    }

    fn refuse(self: Box<Self>, error: Error) {
        drop(self.reply.send(Err(error)));
    }
}

/// The last job.
struct Stop;

impl<C: Tx> Job<C> for Stop {
    fn run<'a>(
        self: Box<Self>,
        _connection: &'a mut C,
        _now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>> {
        Box::pin(async { Done { keep: true, answer: Box::new(|_| ()) } })
    }

    fn refuse(self: Box<Self>, _error: Error) {}

    fn is_stop(&self) -> bool {
        true
    }
}

/// What the writer task takes from.
pub(super) struct Queue<C> {
    jobs: mpsc::Receiver<Box<dyn Job<C>>>,
}

impl<C> Queue<C> {
    /// The operations that wait, and whether there will be more; `None` when nobody can send any.
    pub(super) async fn next(&mut self) -> Option<(Vec<Box<dyn Job<C>>>, bool)> {
        let mut group = Vec::with_capacity(GROUP);
        if self.jobs.recv_many(&mut group, GROUP).await == 0 {
            return None;
        }
        let is_last = group.iter().any(|job| job.is_stop());
        Some((group, !is_last))
    }

    /// Nothing more is taken, and what waits is refused.
    pub(super) async fn close(mut self) {
        self.jobs.close();
        while let Some(job) = self.jobs.recv().await {
            job.refuse(Error::Closed);
        }
    }
}

/// The way to a writer task.
#[derive(Debug)]
pub(super) struct Writer<C> {
    jobs: mpsc::Sender<Box<dyn Job<C>>>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl<C> Clone for Writer<C> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), task: Arc::clone(&self.task) }
    }
}

impl<C: Tx + 'static> Writer<C> {
    /// `run` is the task: it takes groups from the queue until that ends.
    pub(super) fn start<F>(run: impl FnOnce(Queue<C>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (jobs, queue) = mpsc::channel(WAITING);
        let task = tokio::spawn(run(Queue { jobs: queue }));
        Self { jobs, task: Arc::new(Mutex::new(Some(task))) }
    }

    pub(super) async fn write<O: Op>(&self, op: Arc<O>) -> Result<O::Output, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Box::new(Queued { op, reply })).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Finishes what was accepted.
    pub(super) async fn close(&self) {
        let task = self.task.lock().ok().and_then(|mut task| task.take());
        if let Some(task) = task {
            // A full queue is drained first: the writer takes messages in order.
            let _ = self.jobs.send(Box::new(Stop)).await;
            let _ = task.await;
        }
    }
}

/// Runs a group in the transaction that is open. An error means that it must not be committed.
pub(super) async fn run<C: Tx>(
    connection: &mut C,
    group: Vec<Box<dyn Job<C>>>,
    now: Millis,
) -> (Vec<Answer>, Result<(), Error>) {
    let mut answers = Vec::with_capacity(group.len());
    let mut outcome = Ok(());
    for job in group {
        if let Err(error) = &outcome {
            job.refuse(Error::clone(error));
            continue;
        }
        if let Err(error) = connection.execute(SAVE, args![]).await {
            let error = Error::from(error);
            job.refuse(error.clone());
            outcome = Err(error);
            continue;
        }
        let done = job.run(connection, now).await;
        answers.push(done.answer);
        outcome = settle(connection, done.keep).await.map_err(Error::from);
    }
    (answers, outcome)
}

async fn settle<C: Tx>(connection: &mut C, keep: bool) -> Result<(), sqlx::Error> {
    if !keep {
        connection.execute(UNDO, args![]).await?;
    }
    connection.execute(KEEP, args![]).await.map(drop)
}

/// Tells everybody, after the commit or its failure.
pub(super) fn tell(answers: Vec<Answer>, outcome: &Result<(), Error>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "group of writes failed");
    }
    for answer in answers {
        answer(outcome.as_ref().err().cloned());
    }
}

/// Answers a group that could not be begun.
pub(super) fn refuse<C>(group: Vec<Box<dyn Job<C>>>, error: &Error) {
    group.into_iter().for_each(|job| job.refuse(error.clone()));
}
