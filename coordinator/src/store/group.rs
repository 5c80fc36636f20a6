//! Group commit: operations that wait at the same time share one transaction and are answered after its commit. A commit
//! waits for the disk; this way one wait does for all of them. Calls of one operation that can be done in one are, in a
//! savepoint of their own: its statements, too, do for all of them.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Op;
use super::error::{Error, Failure};
use super::tx::{Sql, Tx, args};
use crate::trial::Millis;

/// Operations committed together at most.
const GROUP: usize = 256;
/// Operations that may wait for the writer before callers have to.
const WAITING: usize = 1024;

const SAVE: Sql = Sql::both("SAVEPOINT op");
const KEEP: Sql = Sql::both("RELEASE SAVEPOINT op");
const UNDO: Sql = Sql::both("ROLLBACK TO SAVEPOINT op");

/// Work whose type the writer does not know.
pub(super) trait Job<C>: Send + Any {
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut C,
        now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done<C>> + Send + 'a>>;

    /// Answers without having run.
    fn refuse(self: Box<Self>, error: Error);

    /// Takes in what can be done in one with this; gives back what cannot.
    fn join(&mut self, other: Box<dyn Job<C>>) -> Result<(), Box<dyn Job<C>>> {
        Err(other)
    }

    fn is_stop(&self) -> bool {
        false
    }
}

/// What became of a job.
pub(super) enum Done<C> {
    /// The answer is sent after the commit.
    Well(Answer),
    /// Nothing of it may stay. Of several calls each is to be tried alone.
    Badly(Error, Vec<Box<dyn Job<C>>>),
}

type Answer = Box<dyn FnOnce(Option<Error>) + Send>;

type Reply<O> = oneshot::Sender<Result<<O as Op>::Output, Error>>;

/// Calls of one operation that are done in one.
struct Calls<O: Op>(Vec<(Arc<O>, Reply<O>)>);

impl<C: Tx + 'static, O: Op> Job<C> for Calls<O> {
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut C,
        now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done<C>> + Send + 'a>> {
        Box::pin(async move {
            let calls: Vec<&O> = self.0.iter().map(|(op, _)| &**op).collect();
            let outputs = O::run_all(&calls, connection, now).await;
            match outputs {
                Ok(outputs) => Done::Well(self.answer(outputs)),
                Err(error) => {
                    let calls = self.0.into_iter().map(|call| Box::new(Self(vec![call])) as _);
                    Done::Badly(error, calls.collect())
                }
            }
        })
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.0.into_iter().for_each(|(_, reply)| drop(reply.send(Err(error.clone()))));
    }

    fn join(&mut self, other: Box<dyn Job<C>>) -> Result<(), Box<dyn Job<C>>> {
        let joins = (&*other as &dyn Any).downcast_ref::<Self>().is_some_and(|other| {
            let calls: Vec<&O> = self.0.iter().map(|(op, _)| &**op).collect();
            other.0.iter().all(|(op, _)| op.joins(&calls))
        });
        if !joins {
            return Err(other);
        }
        if let Ok(other) = (other as Box<dyn Any>).downcast::<Self>() {
            self.0.extend(other.0);
        }
        Ok(())
    }
}

impl<O: Op> Calls<O> {
    fn answer(self: Box<Self>, outputs: Vec<Result<O::Output, Error>>) -> Answer {
        Box::new(move |error| {
            for ((_, reply), output) in self.0.into_iter().zip(outputs) {
                // Nobody listens when the caller went away; the commit stands, and its repetition is harmless.
                drop(reply.send(error.clone().map_or(output, Err)));
            }
        })
    }
}

/// The last job.
struct Stop;

impl<C: Tx + 'static> Job<C> for Stop {
    fn run<'a>(
        self: Box<Self>,
        _connection: &'a mut C,
        _now: Millis,
    ) -> Pin<Box<dyn Future<Output = Done<C>> + Send + 'a>> {
        Box::pin(async { Done::Well(Box::new(|_| ())) })
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

impl<C: 'static> Queue<C> {
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
    /// `run` starts the task: it takes groups from the queue until that ends.
    pub(super) fn start(run: impl FnOnce(Queue<C>) -> JoinHandle<()>) -> Self {
        let (jobs, queue) = mpsc::channel(WAITING);
        let task = run(Queue { jobs: queue });
        Self { jobs, task: Arc::new(Mutex::new(Some(task))) }
    }

    pub(super) async fn write<O: Op>(&self, op: Arc<O>) -> Result<O::Output, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Box::new(Calls(vec![(op, reply)]))).await.map_err(|_| Error::Closed)?;
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
pub(super) async fn run<C: Tx + 'static>(
    connection: &mut C,
    group: Vec<Box<dyn Job<C>>>,
    now: Millis,
) -> (Vec<Answer>, Result<(), Error>) {
    let mut answers = Vec::new();
    let mut outcome = Ok(());
    let mut jobs = joined(group);
    while let Some(job) = jobs.pop_front() {
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
        match job.run(connection, now).await {
            Done::Well(answer) => {
                answers.push(answer);
                outcome = connection.execute(KEEP, args![]).await.map(drop).map_err(Error::from);
            }
            Done::Badly(error, calls) => {
                if let Err(failure) = undo(connection).await {
                    // Then the transaction is lost, by what the job has met first.
                    tracing::debug!(%failure, "savepoint lost");
                    outcome = Err(error.clone());
                }
                let is_alone = calls.len() == 1;
                for call in calls.into_iter().rev() {
                    let error = error.clone();
                    match is_alone {
                        true => answers.push(Box::new(|failure| call.refuse(failure.unwrap_or(error)))),
                        false => jobs.push_front(call),
                    }
                }
            }
        }
    }
    (answers, outcome)
}

async fn undo<C: Tx>(connection: &mut C) -> Result<(), Failure> {
    connection.execute(UNDO, args![]).await?;
    connection.execute(KEEP, args![]).await.map(drop)
}

/// What waits at the same time may be done in any order, and what joins is done in one.
fn joined<C: 'static>(group: Vec<Box<dyn Job<C>>>) -> VecDeque<Box<dyn Job<C>>> {
    let mut jobs: VecDeque<Box<dyn Job<C>>> = VecDeque::new();
    for job in group {
        let mut rest = Some(job);
        for other in &mut jobs {
            rest = rest.and_then(|job| other.join(job).err());
        }
        jobs.extend(rest);
    }
    jobs
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
pub(super) fn refuse<C: 'static>(group: Vec<Box<dyn Job<C>>>, error: &Error) {
    group.into_iter().for_each(|job| job.refuse(error.clone()));
}
