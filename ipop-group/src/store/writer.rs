//! The thread that writes, and the connections that read.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::database;
use crate::error::Error;

/// Work that waits to be written; more is refused.
const WAITING_MAX: usize = 1024;
/// Pieces of work in one transaction.
const BATCH_MAX: usize = 128;
/// Connections that read at a time.
const READERS: usize = 2;

/// The database, as the rest of the server sees it.
#[derive(Clone, Debug)]
pub struct Store {
    work: mpsc::Sender<Box<dyn Work>>,
    readers: Arc<Readers>,
    /// Said whenever something has been written.
    written: watch::Sender<()>,
}

#[derive(Debug)]
struct Readers {
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

/// A piece of work, its outcome, and who waits for it.
struct Piece<T, F> {
    run: Option<F>,
    outcome: Option<Result<T, Error>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

trait Work: Send {
    /// Whether what it wrote is to stay.
    fn run(&mut self, connection: &Connection) -> bool;
    fn answer(self: Box<Self>, is_written: bool);
}

impl<T, F> Work for Piece<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Error> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        self.outcome = self.run.take().map(|run| run(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, is_written: bool) {
        let outcome = match self.outcome {
            Some(Ok(_)) if !is_written => {
                Err(Error::Internal("the transaction could not be written".to_owned()))
            }
            Some(outcome) => outcome,
            None => Err(Error::Internal("the transaction could not be begun".to_owned())),
        };
        // Who has gone away in the meantime needs no answer.
        drop(self.reply.send(outcome));
    }
}

impl Store {
    /// Opens the database in `folder`, and starts the thread.
    ///
    /// # Errors
    /// A database that cannot be used.
    pub fn open(folder: &Path) -> Result<Self> {
        let connection = database::open(folder)?;
        let (work, waiting) = mpsc::channel(WAITING_MAX);
        let idle = (0..READERS).map(|_| database::open_reader(folder)).collect::<Result<_>>()?;
        std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write(&connection, waiting))
            .context("cannot start a thread")?;
        Ok(Self {
            work,
            readers: Arc::new(Readers { idle: Mutex::new(idle), turns: Semaphore::new(READERS) }),
            written: watch::Sender::new(()),
        })
    }

    /// Does `run` in a transaction; the answer comes when it is on the disk. If it fails, nothing of it stays.
    ///
    /// # Errors
    /// Those of `run`; or too much work waits.
    pub async fn write<T, F>(&self, run: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let piece = Piece { run: Some(run), outcome: None, reply };
        self.work.try_send(Box::new(piece)).map_err(|_| Error::Busy)?;
        let outcome = answer.await.map_err(|_| Error::Internal("the writer has ended".to_owned()))?;
        if outcome.is_ok() {
            self.written.send_replace(());
        }
        outcome
    }

    /// For who waits until something has been written: no matter what.
    pub fn written(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    /// Does `run` with a connection that only reads, on a thread that may wait.
    ///
    /// # Errors
    /// Those of `run`.
    pub async fn read<T, F>(&self, run: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let turn = self.readers.turns.acquire().await;
        let readers = Arc::clone(&self.readers);
        let work = tokio::task::spawn_blocking(move || readers.with(run));
        let outcome = work.await.map_err(|error| Error::Internal(error.to_string()))?;
        drop(turn);
        outcome
    }
}

impl Readers {
    fn with<T>(&self, run: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let taken = self.lock().pop();
        let connection = taken.ok_or_else(|| Error::Internal("no connection is idle".to_owned()))?;
        let outcome = run(&connection);
        self.lock().push(connection);
        outcome
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until nobody can ask for anything any more.
fn write(connection: &Connection, mut waiting: mpsc::Receiver<Box<dyn Work>>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        let is_written = transaction(connection, &mut batch);
        if let Err(error) = &is_written {
            tracing::error!("cannot write to the database: {error}");
        }
        batch.into_iter().for_each(|piece| piece.answer(is_written.is_ok()));
    }
}

fn transaction(connection: &Connection, batch: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let done = savepoints(connection, batch).and_then(|()| connection.execute_batch("COMMIT"));
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    done
}

fn savepoints(connection: &Connection, batch: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
    for piece in batch {
        connection.execute_batch("SAVEPOINT piece")?;
        if !piece.run(connection) {
            connection.execute_batch("ROLLBACK TO piece")?;
        }
        connection.execute_batch("RELEASE piece")?;
    }
    Ok(())
}
