//! The workers, as the coordinator has them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use carillon_proto::tasks::Tasks;
use parking_lot::Mutex;
use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::Instant,
};

use super::{
    handshake::{Secret, admit},
    message::{Order, Told},
    wire::{MOST_BYTES, receive, send},
};
use crate::report::{
    recorded::{Counts, Recorded},
    recorder::Recorder,
};

/// A worker tells something each second.
const SILENCE: Duration = Duration::from_secs(15);
/// Handshakes at the same time; further ones wait.
const HANDSHAKES: usize = 16;
/// Answers that wait to be taken. Each worker gives one answer to each order.
const ANSWERS: usize = 64;

pub(super) struct Worker {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) threads: usize,
    to: OwnedWriteHalf,
    /// Why nothing more is heard of it.
    lost: Arc<Mutex<Option<String>>>,
}

pub(super) struct Crew {
    pub(super) workers: Vec<Worker>,
    /// By the worker's index. `None`: nothing more is heard of it.
    answers: mpsc::Receiver<(usize, Option<Told>)>,
}

/// Someone who has shown that he knows the secret.
struct Admitted {
    stream: TcpStream,
    address: SocketAddr,
    threads: usize,
}

impl Crew {
    /// Waits until so many workers have come.
    pub(super) async fn gather(
        listener: TcpListener,
        secret: &Secret,
        wanted: usize,
        patience: Duration,
        recorder: &Arc<Recorder>,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let (tell, answers) = mpsc::channel(ANSWERS.max(wanted));
        let (coming, mut come) = mpsc::channel(wanted);
        let door = tasks.child();
        door.spawn("admit workers", admit_all(listener, secret.clone(), coming, door.clone()));
        let mut workers = Vec::new();
        let give_up = Instant::now() + patience;
        while workers.len() < wanted {
            let Ok(Some(Admitted { stream, address, threads })) = tokio::time::timeout_at(give_up, come.recv()).await
            else {
                anyhow::bail!("only {} of {wanted} workers came within {patience:?}", workers.len());
            };
            let name = format!("worker-{}", workers.len() + 1);
            eprintln!("{name} is at {address}, with {threads} threads");
            let (from, to) = stream.into_split();
            let lost = Arc::new(Mutex::new(None));
            let listening = Listening {
                index: workers.len(),
                from,
                tell: tell.clone(),
                lost: Arc::clone(&lost),
                recorder: Arc::clone(recorder),
            };
            tasks.spawn("listen to a worker", listening.run());
            workers.push(Worker { name, address, threads, to, lost });
        }
        door.stop();
        Ok(Self { workers, answers })
    }

    /// Numbers of the workers that are still heard.
    pub(super) fn present(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|at| self.lost(*at).is_none()).collect()
    }

    pub(super) fn lost(&self, at: usize) -> Option<String> {
        self.workers[at].lost.lock().clone()
    }

    /// The first one of whom nothing more is heard, and why.
    pub(super) fn any_lost(&self) -> Option<String> {
        let at = (0..self.workers.len()).find(|at| self.lost(*at).is_some())?;
        let Worker { name, address, .. } = &self.workers[at];
        Some(format!("{name} ({address}) is lost: {}", self.lost(at)?))
    }

    /// Gives each one its order. One that can't be given it is lost.
    pub(super) async fn order(&mut self, mut order: impl FnMut(usize) -> Order) {
        for at in self.present() {
            let worker = &mut self.workers[at];
            if let Err(error) = send(&mut worker.to, &order(at)).await {
                worker.lost.lock().get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// Waits for the answer of each one that is not lost. Answers of another kind are left out: they are those of an order that nobody
    /// waits for any more.
    pub(super) async fn all<T>(&mut self, mut is: impl FnMut(Told) -> Option<T>) -> Vec<(usize, T)> {
        let mut found: Vec<(usize, T)> = Vec::new();
        let has = |found: &[(usize, T)], at: usize| found.iter().any(|(known, _)| *known == at);
        while self.present().into_iter().any(|at| !has(&found, at)) {
            match self.answers.recv().await {
                Some((at, Some(told))) if !has(&found, at) => found.extend(is(told).map(|answer| (at, answer))),
                // One is lost, or has told something that nobody asked for: who is still waited for is looked at again.
                Some(_) => {}
                None => break,
            }
        }
        found.sort_by_key(|(at, _)| *at);
        found
    }
}

async fn admit_all(listener: TcpListener, secret: Secret, coming: mpsc::Sender<Admitted>, tasks: Tasks) {
    let at_once = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = Arc::clone(&at_once).acquire_owned().await else { return };
        let Ok((mut stream, address)) = listener.accept().await else {
            // No file is free, for example.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (secret, coming) = (secret.clone(), coming.clone());
        tasks.spawn("handshake", async move {
            let _place = place;
            match admit(&mut stream, &secret).await {
                // Whoever comes when all are there is sent away by the end of the connection.
                Ok(threads) => _ = coming.try_send(Admitted { stream, address, threads }),
                Err(error) => eprintln!("{address} is not admitted: {error}"),
            }
        });
    }
}

struct Listening {
    index: usize,
    from: OwnedReadHalf,
    tell: mpsc::Sender<(usize, Option<Told>)>,
    lost: Arc<Mutex<Option<String>>>,
    recorder: Arc<Recorder>,
}

impl Listening {
    async fn run(mut self) {
        let mut before = Counts::default();
        let why = loop {
            match receive(&mut self.from, MOST_BYTES, SILENCE).await {
                Ok(Told::Recorded(recorded)) => {
                    self.recorder.absorb(&recorded, &before);
                    before = recorded.counts;
                }
                Ok(Told::Failed { why }) => break Some(why),
                Ok(told) => {
                    let done = matches!(told, Told::Done(_));
                    if self.tell.send((self.index, Some(told))).await.is_err() || done {
                        break None;
                    }
                }
                Err(error) => break Some(error.to_string()),
            }
        };
        if let Some(why) = why {
            self.lost.lock().get_or_insert(why);
            let _ = self.tell.send((self.index, None)).await;
        }
        // Its connections are not there any more, or nobody counts them.
        let away = Counts { signed_in: 0, ..before };
        self.recorder.absorb(&Recorded::of(away), &before);
    }
}
