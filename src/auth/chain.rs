//! The backends, asked one after the other until one knows the client.
//!
//! Each answer is waited for no longer than `auth.timeout`; each backend that is somewhere
//! else answers a bounded number of questions at a time; what they say is remembered for a
//! while, a yes longer than a no. A backend that fails is passed over or refuses the client,
//! as `auth.on_error` says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use octopus_mqtt::ReasonCode;
use tokio::sync::Semaphore;

use super::cache::{Cache, CacheKey, Hasher};
use super::credentials::{Credentials, Grant, Opinion, Proof};
use super::files::Files;
use super::hash_pool::HashPool;
use super::http::Http;
use super::password::Stored;
use super::redis;
use super::stats::AuthStats;
use crate::config::{self, Config, NoOpinion, OnError};

/// One link of the chain. `scram` is not here: it answers enhanced authentication only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Anonymous,
    PasswordFile,
    Certificate,
    Jwt,
    Http,
    Redis,
}

impl Backend {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "anonymous" => Self::Anonymous,
            "password_file" => Self::PasswordFile,
            "certificate" => Self::Certificate,
            "jwt" => Self::Jwt,
            "http" => Self::Http,
            "redis" => Self::Redis,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::PasswordFile => "password_file",
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::Http => "http",
            Self::Redis => "redis",
        }
    }

    /// Whether its answers are worth remembering.
    fn is_cached(self) -> bool {
        !matches!(self, Self::Anonymous | Self::Certificate)
    }
}

/// Who decides about the clients of one listener. The default lets nobody in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    backends: Vec<Backend>,
    offers_scram: bool,
    no_opinion: NoOpinion,
    /// The user that a client says it is, is that user, though nobody has checked it.
    keeps_names: bool,
}

impl Links {
    /// Those of every listener, by its id.
    pub(crate) fn of_all(config: &Config) -> Vec<Self> {
        let listeners = config.all_listeners();
        let chains = || listeners.iter().map(|listener| config.chain_of(listener));
        // As long as nobody is checked anywhere, names are for telling clients apart.
        let is_open = chains().all(<[String]>::is_empty);
        let links = |chain: &[String]| match chain {
            [] => {
                let no_opinion = NoOpinion::Allow;
                Self { no_opinion, keeps_names: is_open, ..Self::default() }
            }
            chain => Self {
                backends: chain.iter().filter_map(|name| Backend::parse(name)).collect(),
                offers_scram: chain.iter().any(|name| name == "scram"),
                no_opinion: config.auth.no_opinion,
                keeps_names: false,
            },
        };
        chains().map(links).collect()
    }

    /// Whether a name that no backend knows could be told from one with a wrong password by the
    /// time that the answer takes.
    fn tells_by_time(&self) -> bool {
        let hashes = |backend: &Backend| matches!(backend, Backend::PasswordFile | Backend::Redis);
        self.backends.iter().any(hashes)
    }
}

/// Scope: node.
pub(crate) struct Chain {
    /// By listener.
    links: Vec<Links>,
    nobody: Links,
    config: config::Auth,
    /// Whose password is checked where there is no account at all.
    decoy: Arc<Stored>,
    pool: HashPool,
    http: Option<Http>,
    redis: Option<Arc<redis::Accounts>>,
    /// Questions under way to HTTP and Redis, each.
    places: [Semaphore; 2],
    hasher: Hasher,
    granted: Mutex<Cache<Grant>>,
    refused: Mutex<Cache<ReasonCode>>,
}

impl Chain {
    /// # Errors
    /// What of the configuration cannot be used, or that the system has no random bytes.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        let links = Links::of_all(config);
        let (config, redis) = (&config.auth, &config.redis);
        let has = |backend| links.iter().any(|links| links.backends.contains(&backend));
        let no_random = "the system gives no random bytes";
        let http = has(Backend::Http).then(|| Http::new(&config.http.url)).transpose()?;
        let redis = has(Backend::Redis)
            .then(|| redis::Accounts::new(redis, &config.redis.prefix))
            .transpose()?;
        let cache = &config.cache;
        let places = || Semaphore::new(usize::from(config.concurrency_max));
        Ok(Self {
            http,
            redis: redis.map(Arc::new),
            places: [places(), places()],
            pool: HashPool::new(usize::from(config.hash_threads)),
            hasher: Hasher::new().ok_or(no_random)?,
            decoy: Arc::new(Stored::decoy().ok_or(no_random)?),
            granted: Mutex::new(Cache::new(cache.ttl, cache.count_max)),
            refused: Mutex::new(Cache::new(cache.negative_ttl, cache.count_max)),
            config: config.clone(),
            nobody: Links::default(),
            links,
        })
    }

    pub(crate) fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    pub(crate) fn forget(&self) {
        lock(&self.granted).clear();
        lock(&self.refused).clear();
    }

    /// The user that a client's certificate says it is, if the chain goes by certificates.
    pub(crate) fn certified<'a>(&self, who: &'a Credentials) -> Option<&'a str> {
        let links = self.links_of(who);
        who.certificate.as_deref().filter(|_| links.backends.contains(&Backend::Certificate))
    }

    /// Whether clients may authenticate by SCRAM where this one came in.
    pub(crate) fn offers_scram(&self, who: &Credentials) -> bool {
        self.links_of(who).offers_scram
    }

    fn links_of(&self, who: &Credentials) -> &Links {
        self.links.get(usize::from(who.listener.0)).unwrap_or(&self.nobody)
    }

    /// The chain's word on a client: a yes, or the Reason Code of a no. Who has proven by its
    /// certificate who it is, is that user; nothing it says in CONNECT makes it another.
    pub(crate) async fn ask(
        &self,
        who: &Credentials,
        files: &Files,
        stats: &Mutex<AuthStats>,
    ) -> Result<Grant, ReasonCode> {
        let is_certified = self.certified(who).is_some();
        let links = self.links_of(who);
        let asked = if is_certified { &[Backend::Certificate] } else { &links.backends[..] };
        for &backend in asked {
            let opinion = self.ask_one(backend, who, files, stats).await;
            lock(stats).count(backend.name(), name_of(&opinion));
            match opinion {
                Opinion::Granted(grant) => return Ok(grant),
                Opinion::Refused(reason) => return Err(reason),
                Opinion::Busy => return Err(ReasonCode::ServerBusy),
                Opinion::None => {}
                Opinion::Failed(cause) => {
                    tracing::debug!(backend = backend.name(), %cause, "authentication backend");
                    if self.config.on_error == OnError::Refuse {
                        return Err(ReasonCode::ServerUnavailable);
                    }
                }
            }
        }
        match (links.no_opinion, &who.user) {
            (NoOpinion::Allow, _) => {
                Ok(Grant { is_unproven: !links.keeps_names, ..Grant::default() })
            }
            (NoOpinion::Deny, Some(_)) if links.tells_by_time() => {
                Err(self.refuse_slowly(who, files).await)
            }
            (NoOpinion::Deny, Some(_)) => Err(ReasonCode::BadUserNameOrPassword),
            (NoOpinion::Deny, None) => Err(ReasonCode::NotAuthorized),
        }
    }

    /// Refuses a user whom nobody knows in the time, and with the answers, that a wrong password
    /// of a known one gets: who has an account is nobody's business.
    async fn refuse_slowly(&self, who: &Credentials, files: &Files) -> ReasonCode {
        let Some(password) = who.password.clone() else {
            return ReasonCode::BadUserNameOrPassword;
        };
        let key = self.hasher.hash(&[b"nobody", who.user().as_bytes(), &password]);
        if let Some(reason) = lock(&self.refused).get(&key, Instant::now()) {
            return reason;
        }
        let name = self.hasher.hash(&[b"decoy", who.user().as_bytes()]);
        let accounts = files.accounts.as_ref();
        let stored = accounts.and_then(|accounts| accounts.some(&name)).unwrap_or(&self.decoy);
        let stored = Arc::clone(stored);
        let checked = self.pool.run(move || stored.verify(&password));
        match tokio::time::timeout(self.config.timeout, checked).await {
            Ok(Some(_)) => {
                let reason = ReasonCode::BadUserNameOrPassword;
                lock(&self.refused).put(key, reason, Instant::now());
                reason
            }
            Ok(None) => ReasonCode::ServerBusy,
            Err(_) if self.config.on_error == OnError::Refuse => ReasonCode::ServerUnavailable,
            Err(_) => ReasonCode::BadUserNameOrPassword,
        }
    }

    async fn ask_one(
        &self,
        backend: Backend,
        who: &Credentials,
        files: &Files,
        stats: &Mutex<AuthStats>,
    ) -> Opinion {
        if !backend.is_cached() {
            return self.ask_now(backend, who, files).await;
        }
        let key = self.key(backend, who);
        let found = self.remembered(&key);
        let counter = |stats: &mut AuthStats| match found {
            Some(_) => stats.cache_hits += 1,
            None => stats.cache_misses += 1,
        };
        counter(&mut lock(stats));
        if let Some(opinion) = found {
            return opinion;
        }
        let asked = tokio::time::timeout(self.config.timeout, self.ask_now(backend, who, files));
        let opinion = asked.await.unwrap_or_else(|_| Opinion::Failed("no answer in time".into()));
        self.remember(key, &opinion);
        opinion
    }

    fn key(&self, backend: Backend, who: &Credentials) -> CacheKey {
        let address = who.address.map(|address| address.to_string()).unwrap_or_default();
        // What an endpoint is not told cannot change its answer.
        let (client, address) = match backend {
            Backend::Http => (who.client.as_bytes(), address.as_bytes()),
            _ => (&b""[..], &b""[..]),
        };
        let is_given = [u8::from(who.user.is_some()), u8::from(who.password.is_some())];
        self.hasher.hash(&[
            backend.name().as_bytes(),
            &is_given,
            who.user().as_bytes(),
            who.password.as_deref().unwrap_or_default(),
            client,
            address,
            who.certificate.as_deref().unwrap_or_default().as_bytes(),
        ])
    }

    fn remembered(&self, key: &CacheKey) -> Option<Opinion> {
        let now = Instant::now();
        if let Some(grant) = lock(&self.granted).get(key, now) {
            let is_over = grant.expires.is_some_and(|at| at <= std::time::SystemTime::now());
            return (!is_over).then_some(Opinion::Granted(grant));
        }
        lock(&self.refused).get(key, now).map(Opinion::Refused)
    }

    fn remember(&self, key: CacheKey, opinion: &Opinion) {
        match opinion {
            Opinion::Granted(grant) => {
                lock(&self.granted).put(key, grant.clone(), Instant::now());
            }
            Opinion::Refused(reason) => lock(&self.refused).put(key, *reason, Instant::now()),
            _ => {}
        }
    }

    async fn ask_now(&self, backend: Backend, who: &Credentials, files: &Files) -> Opinion {
        match backend {
            Backend::Anonymous if who.user.is_none() && who.password.is_none() => {
                Opinion::Granted(Grant::default())
            }
            Backend::Anonymous => Opinion::None,
            Backend::Certificate => certificate(who),
            Backend::PasswordFile => self.ask_password_file(who, files).await,
            Backend::Jwt => self.ask_jwt(who, files).await,
            Backend::Http => self.ask_http(who).await,
            Backend::Redis => self.ask_redis(who).await,
        }
    }

    async fn ask_password_file(&self, who: &Credentials, files: &Files) -> Opinion {
        let (Some(user), Some(accounts)) = (&who.user, &files.accounts) else {
            return Opinion::None;
        };
        let Some(account) = accounts.get(user) else { return Opinion::None };
        let stored = account.text.clone();
        let grant =
            Grant { proof: Proof::Account { user: user.clone(), stored }, ..Grant::default() };
        let keys = Arc::clone(&account.stored);
        self.verify(who, grant, move |password| keys.verify(password)).await
    }

    /// Checks the password on a hashing thread.
    async fn verify(
        &self,
        who: &Credentials,
        grant: Grant,
        check: impl FnOnce(&[u8]) -> bool + Send + 'static,
    ) -> Opinion {
        let Some(password) = who.password.clone() else {
            return Opinion::Refused(ReasonCode::BadUserNameOrPassword);
        };
        match self.pool.run(move || check(&password)).await {
            Some(true) => Opinion::Granted(grant),
            Some(false) => Opinion::Refused(ReasonCode::BadUserNameOrPassword),
            None => Opinion::Busy,
        }
    }

    async fn ask_jwt(&self, who: &Credentials, files: &Files) -> Opinion {
        let (Some(token), Some(jwt)) = (who.password.clone(), files.jwt.clone()) else {
            return Opinion::None;
        };
        self.pool.run(move || jwt.check(&token)).await.unwrap_or(Opinion::Busy)
    }

    async fn ask_http(&self, who: &Credentials) -> Opinion {
        let Some(http) = &self.http else { return Opinion::None };
        match self.places[0].acquire().await {
            Ok(_place) => http.ask(who).await,
            Err(_) => Opinion::Busy,
        }
    }

    async fn ask_redis(&self, who: &Credentials) -> Opinion {
        let (Some(redis), Some(user)) = (&self.redis, &who.user) else { return Opinion::None };
        let found = match self.places[1].acquire().await {
            Ok(_place) => redis.get(user).await,
            Err(_) => return Opinion::Busy,
        };
        match found {
            Err(cause) => Opinion::Failed(cause.into()),
            Ok(None) => Opinion::None,
            Ok(Some(account)) => {
                let grant = Grant { rules: account.rules, ..Grant::default() };
                self.verify(who, grant, move |password| account.stored.verify(password)).await
            }
        }
    }
}

/// The name in the certificate is the user; the TLS layer has verified it.
fn certificate(who: &Credentials) -> Opinion {
    match &who.certificate {
        Some(name) => Opinion::Granted(Grant { user: Some(name.clone()), ..Grant::default() }),
        None => Opinion::None,
    }
}

fn name_of(opinion: &Opinion) -> &'static str {
    match opinion {
        Opinion::Granted(_) => "granted",
        Opinion::Refused(_) => "refused",
        Opinion::None => "no_opinion",
        Opinion::Failed(_) => "failed",
        Opinion::Busy => "busy",
    }
}

/// A lock of which no holder panics or waits; if one did, its data are whole all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
