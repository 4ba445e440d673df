//! Reads the listeners' certificates, keys and revocation lists again: when a file changes, on
//! SIGHUP, and when an operator asks.
//!
//! New connections get what was read; live ones are held against it, and those whose
//! certificate does not hold any more go. A file that cannot be used leaves the old ones in
//! force; the log says why, and the metrics that it is so.

use std::sync::{Arc, Mutex, PoisonError};

use octopus_runtime::{Certificates, ListenerId};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::stats::exposition::Exposition;
use crate::watched::{Change, LOOK_EVERY, Watched};

/// What others may ask. Cheap to clone. Scope: node.
#[derive(Clone, Default)]
pub struct Reloading {
    wanted: Arc<Notify>,
    counts: Arc<Mutex<Vec<Counts>>>,
}

/// Of one listener.
#[derive(Clone, Debug)]
struct Counts {
    listener: String,
    reloads: u64,
    failures: u64,
    /// The files as they are now cannot be used.
    is_broken: bool,
    /// Seconds since 1970.
    not_after_s: i64,
}

/// One listener with TLS.
struct Door {
    certificates: Certificates,
    files: Vec<Watched>,
}

/// Begins to watch the files of `certificates`, which were read a moment ago.
pub fn watch(config: &Config, certificates: Vec<Certificates>) -> Reloading {
    let names: Vec<String> =
        config.all_listeners().into_iter().map(|listener| listener.name).collect();
    let name = |ListenerId(id)| names.get(usize::from(id)).cloned().unwrap_or_default();
    let counts = certificates.iter().map(|certificates| Counts {
        listener: name(certificates.listener()),
        reloads: 0,
        failures: 0,
        is_broken: false,
        not_after_s: certificates.not_after_s(),
    });
    let reloading =
        Reloading { wanted: Arc::default(), counts: Arc::new(Mutex::new(counts.collect())) };
    let doors: Vec<Door> = certificates
        .into_iter()
        .map(|certificates| {
            let files = certificates.files().into_iter().map(Watched::just_read).collect();
            Door { certificates, files }
        })
        .collect();
    if !doors.is_empty() {
        tokio::spawn(reloading.clone().run(doors));
    }
    reloading
}

impl Reloading {
    /// Reads all files again, changed or not.
    pub fn reload(&self) {
        self.wanted.notify_one();
    }

    async fn run(self, mut doors: Vec<Door>) {
        let mut clock = tokio::time::interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_wanted = tokio::select! {
                _ = clock.tick() => false,
                () = self.wanted.notified() => true,
            };
            let counts = Arc::clone(&self.counts);
            let read = tokio::task::spawn_blocking(move || {
                for (door, index) in doors.iter_mut().zip(0..) {
                    let has_changed = door.has_changed();
                    if is_wanted || has_changed {
                        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                        let counts: &mut Vec<Counts> = &mut counts;
                        counts.get_mut(index).into_iter().for_each(|counts| door.read(counts));
                    }
                }
                doors
            });
            let Ok(kept) = read.await else { return };
            doors = kept;
        }
    }

    /// What `/metrics` says of it.
    pub fn write(&self, text: &mut Exposition) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        type Figure = (&'static str, &'static str, fn(&Counts) -> f64);
        let counters: [Figure; 2] = [
            ("octopus_tls_reloads", "Certificates read again.", |c| c.reloads as f64),
            ("octopus_tls_reload_failures", "Certificates not usable.", |c| c.failures as f64),
        ];
        let gauges: [Figure; 2] = [
            ("octopus_tls_files_broken", "1: the files cannot be used, older ones are.", |c| {
                f64::from(u8::from(c.is_broken))
            }),
            ("octopus_tls_not_after_seconds", "When the certificate ends, since 1970.", |c| {
                c.not_after_s as f64
            }),
        ];
        type Begin = fn(&mut Exposition, &str, &str);
        let families: [(&[Figure], Begin); 2] =
            [(&counters, Exposition::counter), (&gauges, Exposition::gauge)];
        for (figures, begin) in families {
            for (name, help, value) in figures {
                begin(text, name, help);
                for counts in &counts {
                    text.sample(&[("listener", &counts.listener)], value(counts));
                }
            }
        }
    }
}

impl Door {
    /// Whether a file is another than when it was read, and none is being written.
    fn has_changed(&mut self) -> bool {
        let changes: Vec<Change> = self.files.iter_mut().map(Watched::look).collect();
        changes.contains(&Change::Done) && !changes.contains(&Change::Underway)
    }

    fn read(&mut self, counts: &mut Counts) {
        self.files.iter_mut().for_each(Watched::mark_read);
        let listener = counts.listener.clone();
        let outcome = self.certificates.reload();
        counts.is_broken = outcome.is_err();
        match outcome {
            Ok(()) => {
                counts.reloads += 1;
                counts.not_after_s = self.certificates.not_after_s();
                tracing::info!(listener, "certificates read again");
            }
            Err(error) => {
                counts.failures += 1;
                tracing::error!(listener, %error, "the old certificates stay in force");
            }
        }
    }
}
