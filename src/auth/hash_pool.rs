//! Threads for what costs milliseconds of CPU: password hashes and signatures.
//!
//! A few threads, nice to the shards, with a short queue. When the queue is full the caller is
//! told at once, so that a flood of passwords costs a bounded share of the machine.

use std::thread;

use tokio::sync::oneshot;

/// Jobs that wait for a thread, for each thread. At 30 ms a hash, the last waits a second.
const WAITING_PER_THREAD: usize = 32;
/// A shard that wants the core gets nine tenths of it; logins go on even then.
const NICENESS: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// Cheap to clone. The threads end with the last clone. Scope: node.
#[derive(Clone)]
pub(crate) struct HashPool {
    jobs: flume::Sender<Job>,
}

impl HashPool {
    pub(crate) fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let (jobs, queue) = flume::bounded::<Job>(threads * WAITING_PER_THREAD);
        for _ in 0..threads {
            let queue = queue.clone();
            let builder = thread::Builder::new().name("hash".to_owned());
            let spawned = builder.spawn(move || work(&queue));
            if let Err(error) = spawned {
                tracing::warn!(%error, "a hashing thread did not start");
            }
        }
        Self { jobs }
    }

    /// Runs `job` on one of the threads; `None` if too many wait already, or it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, result) = oneshot::channel();
        let job = move || {
            // Nobody waits any more if the client was given up meanwhile: not worth the work.
            if !answer.is_closed() {
                let _ = answer.send(job());
            }
        };
        self.jobs.try_send(Box::new(job)).ok()?;
        result.await.ok()
    }
}

fn work(queue: &flume::Receiver<Job>) {
    // On Linux this is the calling thread's own niceness. Refused: it works all the same.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    while let Ok(job) = queue.recv() {
        job();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_told_at_once() {
        let pool = HashPool::new(1);
        let (release, gate) = mpsc::channel::<()>();
        let (started, has_started) = oneshot::channel();
        let held = pool.clone();
        let first = tokio::spawn(async move {
            held.run(move || {
                let _ = started.send(());
                gate.recv().is_ok()
            })
            .await
        });
        has_started.await.expect("the thread runs");
        for _ in 0..WAITING_PER_THREAD {
            pool.jobs.try_send(Box::new(|| ())).expect("there is room");
        }
        assert_eq!(pool.run(|| 1).await, None);
        release.send(()).expect("the job waits for it");
        assert_eq!(first.await.expect("no panic"), Some(true));
    }
}
