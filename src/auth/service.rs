//! Answers the shards' questions, and takes rights back that have ended.
//!
//! Two tasks: one takes what the hub passes on and gives each question a task of its own; the
//! other looks once a second for changed files and for rights that have run out. They meet in
//! the registry, behind locks that are held for a look-up and never across a wait.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use octopus_engine::{
    Acl, AuthAnswer, AuthExchange, AuthOutcome, AuthRequest, AuthStep, ShardId, Verdict,
};
use octopus_mqtt::ReasonCode;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use super::acl::{Policy, Shared};
use super::ban::{Bans, Failures, Flaps, Reach, Target};
use super::chain::{Chain, lock};
use super::credentials::{Credentials, Grant, Proof};
use super::files::{Files, Reloaded, Sources, Which};
use super::group_bans::{Change, GroupBans, Seen};
use super::log::Quiet;
use super::password::Stored;
use super::registry::{Admitted, Key, Registry};
use super::scram::{self, ClientFirst, Exchange};
use super::stats::AuthStats;
use crate::config::{self, Config, Listener};
use crate::hub::{AuthEvent, AuthQuestion, Hub};
use crate::link::Link;
use crate::watched::LOOK_EVERY;

/// Why authentication did not start; its text says what and where.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// What others may ask of authentication. Cheap to clone. Scope: node.
#[derive(Clone)]
pub struct Auth {
    state: Arc<State>,
}

/// Where the nodes of a group keep what they have in common about clients.
pub struct Common {
    pub link: Link,
    /// Key of the group's ban list.
    pub bans_key: String,
}

/// Authentication before it runs.
pub struct Service {
    auth: Auth,
    sources: Sources,
}

/// Scope: node.
struct State {
    hub: Hub,
    chain: Chain,
    limits: Mutex<config::Connections>,
    /// How long a ban lasts that the node sets by itself.
    ban_time: Mutex<Duration>,
    files: Mutex<Files>,
    registry: Mutex<Registry>,
    rules: Mutex<Shared>,
    bans: Mutex<Bans>,
    /// `None`: this node is alone.
    group: Option<GroupBans>,
    /// Another look at the group's list is due before its time.
    group_changed: Notify,
    /// Shards ask before they let a client in.
    is_asked: AtomicBool,
    failures: Mutex<Failures>,
    flaps: Mutex<Flaps>,
    stats: Mutex<AuthStats>,
    log: Mutex<Quiet>,
    reload: Notify,
}

/// Whether shards have to ask before they let a client in.
pub(crate) fn is_needed(config: &Config) -> bool {
    let limits = &config.connections;
    let is_checked = |listener: &Listener| !config.chain_of(listener).is_empty();
    config.all_listeners().iter().any(is_checked)
        || !config.auth.acl_file.is_empty()
        || !config.auth.ban.list.is_empty()
        || config.auth.ban.flaps_max > 0
        || limits.per_address_max > 0
        || limits.per_user_max > 0
}

impl Service {
    /// Reads the files of the configuration.
    ///
    /// - `group`: where the nodes of the group keep their ban list; `None`: this node is alone.
    ///
    /// # Errors
    /// A file that cannot be used, or a backend that cannot be.
    pub fn new(config: &Config, hub: Hub, group: Option<Common>) -> Result<Self, StartError> {
        let auth = &config.auth;
        let mut sources = Sources::new(auth);
        let mut files = Files::default();
        if let Some((path, error)) = sources.reload(&mut files, Which::All).errors.pop() {
            let keys = [("password_file", &auth.password_file), ("acl_file", &auth.acl_file)];
            let key = keys.into_iter().find(|(_, file)| path == std::path::Path::new(file));
            let key = key.map_or_else(|| "auth".to_owned(), |(key, _)| format!("auth.{key}"));
            return Err(StartError(format!("{key}: {}: {error}", path.display())));
        }
        let chain = Chain::new(config).map_err(|cause| StartError(format!("auth: {cause}")))?;
        let mut bans = Bans::default();
        bans.configure(&targets(&auth.ban));
        let window = auth.ban.window;
        let state = State {
            hub,
            chain,
            limits: Mutex::new(config.connections.clone()),
            ban_time: Mutex::new(auth.ban.time),
            files: Mutex::new(files),
            registry: Mutex::default(),
            rules: Mutex::default(),
            bans: Mutex::new(bans),
            group: group.map(|Common { link, bans_key }| GroupBans::new(link, &bans_key)),
            group_changed: Notify::new(),
            is_asked: AtomicBool::new(is_needed(config)),
            failures: Mutex::new(Failures::new(auth.ban.failures_max, window)),
            flaps: Mutex::new(Flaps::new(auth.ban.flaps_max, window)),
            stats: Mutex::default(),
            log: Mutex::default(),
            reload: Notify::new(),
        };
        Ok(Self { auth: Auth { state: Arc::new(state) }, sources })
    }

    pub fn auth(&self) -> Auth {
        self.auth.clone()
    }

    /// Answers until the hub has ended.
    pub async fn run(self, mut events: mpsc::UnboundedReceiver<AuthEvent>) {
        let state = self.auth.state;
        let watch = tokio::spawn(watch(Arc::clone(&state), self.sources));
        let share = tokio::spawn(share_bans(Arc::clone(&state)));
        while let Some(event) = events.recv().await {
            match event {
                AuthEvent::Asked(question) => {
                    state.note(&question);
                    tokio::spawn(answer(Arc::clone(&state), question));
                }
                AuthEvent::Live { shard, request } => state.note_live(shard, &request),
                AuthEvent::Parted { shard, connection } => {
                    lock(&state.registry).remove((shard, connection));
                }
            }
        }
        watch.abort();
        share.abort();
    }
}

impl Auth {
    pub fn stats(&self) -> AuthStats {
        let mut stats = lock(&self.state.stats).clone();
        stats.bans = lock(&self.state.bans).len() as u64;
        stats
    }

    /// Reads all files again, as SIGHUP does.
    pub fn reload(&self) {
        self.state.reload.notify_one();
    }

    /// Puts other limits in force. Who is connected stays, but for those who are banned now.
    pub fn reconfigure(&self, config: &Config) {
        let (state, ban) = (&self.state, &config.auth.ban);
        *lock(&state.limits) = config.connections.clone();
        *lock(&state.ban_time) = ban.time;
        lock(&state.failures).set(ban.failures_max, ban.window);
        lock(&state.flaps).set(ban.flaps_max, ban.window);
        let new = lock(&state.bans).configure(&targets(ban));
        if is_needed(config) {
            state.ask_from_now_on();
        }
        if !new.is_empty() {
            state.end_banned(&new);
        }
    }

    /// Keeps `target` out of the whole group, for a while or until it is taken off the list;
    /// clients of it that are connected go. `false` if the list is full.
    pub fn ban(&self, target: Target, time: Option<Duration>) -> bool {
        self.state.ban(target, time)
    }

    /// Takes `target` off the list of the whole group; `false` if it was not on it, or is
    /// banned by the configuration.
    pub fn unban(&self, target: &Target) -> bool {
        let is_removed = lock(&self.state.bans).remove(target);
        if is_removed {
            self.state.tell_group(Change::Remove(target.clone()));
        }
        is_removed
    }

    /// The ban list: who, and for how long still.
    pub fn bans(&self) -> Vec<(Target, Option<Duration>)> {
        lock(&self.state.bans).list(Instant::now())
    }
}

async fn answer(state: Arc<State>, question: AuthQuestion) {
    let (shard, request) = (question.shard, &question.request);
    let key = (shard, request.connection);
    let outcome = match &request.exchange {
        Some(exchange) => state.exchange(key, request, exchange),
        None => state.decide(key, request).await,
    };
    let result = match &outcome {
        AuthOutcome::Granted { .. } => "granted",
        AuthOutcome::Continue { .. } => "continue",
        _ => "refused",
    };
    lock(&state.stats).count("chain", result);
    state.tell(key, outcome);
}

async fn watch(state: Arc<State>, mut sources: Sources) {
    let mut clock = tokio::time::interval(LOOK_EVERY);
    loop {
        let which = tokio::select! {
            _ = clock.tick() => Which::Changed,
            () = state.reload.notified() => Which::All,
        };
        let mut files = lock(&state.files).clone();
        let read = tokio::task::spawn_blocking(move || {
            let reloaded = sources.reload(&mut files, which);
            (sources, files, reloaded)
        });
        let Ok((kept, files, reloaded)) = read.await else { return };
        sources = kept;
        state.take(files, &reloaded);
        state.expire(SystemTime::now());
        lock(&state.bans).sweep(Instant::now());
    }
}

/// Keeps the ban list the same on all nodes of the group.
async fn share_bans(state: Arc<State>) {
    let Some(group) = &state.group else { return };
    let mut clock = tokio::time::interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = state.group_changed.notified() => {}
        }
        match group.exchange().await {
            Ok(seen) => state.follow_group(group, seen),
            Err(cause) => tracing::debug!(%cause, "the group's ban list cannot be reached"),
        }
    }
}

impl State {
    /// Notes a connection with its first question, before any task may see its end.
    fn note(&self, question: &AuthQuestion) {
        let is_first = question
            .request
            .exchange
            .as_ref()
            .is_none_or(|exchange| exchange.step == AuthStep::Start);
        if is_first {
            let key = (question.shard, question.request.connection);
            lock(&self.registry).insert(key, &Credentials::of(&question.request));
        }
    }

    /// Notes a client that was let in before anybody asked.
    fn note_live(&self, shard: ShardId, request: &AuthRequest) {
        let (key, who) = ((shard, request.connection), Credentials::of(request));
        let mut registry = lock(&self.registry);
        registry.insert(key, &who);
        registry.admit(key, &who, Admitted { grant: Grant::default(), acl: None });
        drop(registry);
        if lock(&self.bans).must_go(&who, Instant::now()) {
            self.tell(key, AuthOutcome::Refused { reason: ReasonCode::Banned });
        }
    }

    fn tell(&self, (shard, connection): Key, outcome: AuthOutcome) {
        self.hub.authenticated(shard, AuthAnswer { connection, outcome });
    }

    async fn decide(&self, key: Key, request: &AuthRequest) -> AuthOutcome {
        let who = Credentials::of(request);
        if let Err(refused) = self.may_try(&who) {
            return refused;
        }
        let files = lock(&self.files).clone();
        match self.chain.ask(&who, &files, &self.stats).await {
            Ok(grant) => self.admit(key, who, grant, None),
            Err(reason) => self.refuse(&who, reason, "no backend lets this client in"),
        }
    }

    /// What is asked before any backend is: bans and the limit of the address.
    fn may_try(&self, who: &Credentials) -> Result<(), AuthOutcome> {
        let now = Instant::now();
        if lock(&self.bans).is_banned(who, now) {
            lock(&self.stats).banned += 1;
            return Err(self.turn_away(who, ReasonCode::Banned, "banned"));
        }
        let max = lock(&self.limits).per_address_max;
        let count = who.address.map_or(0, |address| lock(&self.registry).count_from(address));
        if max > 0 && count > max {
            lock(&self.stats).over_address_limit += 1;
            let why = "too many connections from this address";
            return Err(self.turn_away(who, ReasonCode::QuotaExceeded, why));
        }
        let is_named = !who.client.is_empty();
        if is_named && lock(&self.flaps).strike(who.client.clone(), now) {
            lock(&self.stats).bans_for_flapping += 1;
            let (target, time) = (Target::Client(who.client.clone()), *lock(&self.ban_time));
            lock(&self.log).banned(&target, time, "it connects too often");
            self.ban(target, Some(time));
            return Err(self.turn_away(who, ReasonCode::Banned, "banned for flapping"));
        }
        Ok(())
    }

    /// Lets a client in with what its backend granted.
    fn admit(
        &self,
        key: Key,
        mut who: Credentials,
        grant: Grant,
        data: Option<Box<[u8]>>,
    ) -> AuthOutcome {
        let files = lock(&self.files).clone();
        if !still_stands(&grant, &files) {
            let why = "the account changed meanwhile";
            return self.refuse(&who, ReasonCode::BadUserNameOrPassword, why);
        }
        match &grant.user {
            Some(user) => who.user = Some(user.clone()),
            None if grant.is_unproven => who.user = None,
            None => {}
        }
        // Who it is, is known only now: a certificate, a token or SCRAM may have told.
        if lock(&self.bans).is_banned(&who, Instant::now()) {
            lock(&self.stats).banned += 1;
            return self.turn_away(&who, ReasonCode::Banned, "banned");
        }
        let acl = self.acl(&who, &grant, &files);
        let mut registry = lock(&self.registry);
        let max = lock(&self.limits).per_user_max;
        let is_new = registry.get_mut(key).is_some_and(|live| live.admitted.is_none());
        let has_all = who.user.as_ref().is_some_and(|user| registry.count_of(user) >= max);
        if max > 0 && is_new && has_all {
            drop(registry);
            lock(&self.stats).over_user_limit += 1;
            let why = "too many connections of this user";
            return self.turn_away(&who, ReasonCode::QuotaExceeded, why);
        }
        let user = grant.user.clone();
        registry.admit(key, &who, Admitted { grant, acl: acl.clone() });
        AuthOutcome::Granted { user, acl, data }
    }

    /// The rules of one client; `None` if neither its backend nor a file has any.
    fn acl(&self, who: &Credentials, grant: &Grant, files: &Files) -> Option<Arc<Acl>> {
        let own = grant.rules.as_deref();
        let none = Policy { entries: Vec::new(), otherwise: Verdict::Deny };
        let acl = match (&files.policy, own) {
            (None, None) => return None,
            (None, Some(_)) => none.rules_for(who, own),
            (Some(policy), _) => policy.rules_for(who, own),
        };
        Some(lock(&self.rules).intern(acl))
    }

    // --- enhanced authentication (§4.12) ---

    fn exchange(&self, key: Key, request: &AuthRequest, exchange: &AuthExchange) -> AuthOutcome {
        let mut who = Credentials::of(request);
        if !self.chain.offers_scram(&who) || &*exchange.method != scram::METHOD {
            return self.turn_away(
                &who,
                ReasonCode::BadAuthenticationMethod,
                "this authentication method is not offered",
            );
        }
        match exchange.step {
            AuthStep::Continue => self.finish_exchange(key, who, &exchange.data),
            AuthStep::Start => match self.may_try(&who) {
                Ok(()) => {
                    self.begin_exchange(key, &who, &exchange.data, self.chain.certified(&who))
                }
                Err(refused) => refused,
            },
            AuthStep::Again => {
                let known = lock(&self.registry).get_mut(key).map(|live| live.who.user.clone());
                who.user = known.flatten();
                let user = who.user.clone().unwrap_or_default();
                self.begin_exchange(key, &who, &exchange.data, Some(&user))
            }
        }
    }

    /// `only`: the user it has to be for: of a certificate, or of a re-authentication.
    fn begin_exchange(
        &self,
        key: Key,
        who: &Credentials,
        data: &[u8],
        only: Option<&str>,
    ) -> AuthOutcome {
        let Some(first) = ClientFirst::parse(data) else {
            return self.refuse(who, ReasonCode::NotAuthorized, "no SCRAM message");
        };
        if only.is_some_and(|only| only != first.user) {
            return self.refuse(who, ReasonCode::NotAuthorized, "another user than it is");
        }
        let files = lock(&self.files).clone();
        let account = files.accounts.as_ref().and_then(|accounts| accounts.get(&first.user));
        let keys = account.and_then(|account| match &*account.stored {
            Stored::Scram(keys) => Some(keys.clone()),
            _ => None,
        });
        let decoy = scram::decoy(&first.user, self.chain.hasher().key());
        let Some((exchange, data)) = Exchange::begin(first, keys, decoy) else {
            return self.turn_away(who, ReasonCode::ServerUnavailable, "no random bytes");
        };
        if let Some(live) = lock(&self.registry).get_mut(key) {
            live.exchange = Some(Box::new(exchange));
        }
        AuthOutcome::Continue { data: data.into() }
    }

    fn finish_exchange(&self, key: Key, mut who: Credentials, data: &[u8]) -> AuthOutcome {
        let mut registry = lock(&self.registry);
        let exchange = registry.get_mut(key).and_then(|live| {
            who.client.clone_from(&live.who.client);
            live.exchange.take()
        });
        drop(registry);
        let user = exchange.as_ref().map(|exchange| exchange.user.clone());
        who.user.clone_from(&user);
        let files = lock(&self.files).clone();
        let stored = user.as_ref().and_then(|user| {
            let account = files.accounts.as_ref()?.get(user)?;
            Some(account.text.clone())
        });
        let proven = exchange.and_then(|exchange| exchange.finish(data));
        let (Some(data), Some(user), Some(stored)) = (proven, user, stored) else {
            lock(&self.stats).count("scram", "refused");
            return self.refuse(&who, ReasonCode::NotAuthorized, "SCRAM: wrong user or password");
        };
        lock(&self.stats).count("scram", "granted");
        let proof = Proof::Account { user: user.clone(), stored };
        let grant = Grant { user: Some(user), proof, ..Grant::default() };
        self.admit(key, who, grant, Some(data.into()))
    }

    // --- no ---

    /// A no that counts against the address, if it is for a wrong password or none.
    fn refuse(&self, who: &Credentials, reason: ReasonCode, why: &str) -> AuthOutcome {
        let is_failure =
            matches!(reason, ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized);
        if is_failure
            && let Some(address) = who.address
            && lock(&self.failures).strike(address, Instant::now())
        {
            lock(&self.stats).bans_for_failures += 1;
            let (target, time) = (Target::Address(address.into()), *lock(&self.ban_time));
            lock(&self.log).banned(&target, time, "too many failures");
            self.list(target, Some(time), Reach::Newcomers);
        }
        self.turn_away(who, reason, why)
    }

    fn turn_away(&self, who: &Credentials, reason: ReasonCode, why: &str) -> AuthOutcome {
        lock(&self.log).refused(who, reason, why);
        AuthOutcome::Refused { reason }
    }

    fn ban(&self, target: Target, time: Option<Duration>) -> bool {
        let is_listed = self.list(target.clone(), time, Reach::Everyone);
        if is_listed {
            self.end_banned(&[target]);
        }
        is_listed
    }

    /// Puts `target` on the list, here and in the group.
    fn list(&self, target: Target, time: Option<Duration>, reach: Reach) -> bool {
        let until = time.and_then(|time| Instant::now().checked_add(time));
        if !lock(&self.bans).add(target.clone(), until, reach) {
            return false;
        }
        self.ask_from_now_on();
        self.tell_group(Change::Set(target, time, reach));
        true
    }

    fn tell_group(&self, change: Change) {
        if let Some(group) = &self.group {
            group.tell(change);
            self.group_changed.notify_one();
        }
    }

    /// Has shards ask before they let a client in, if they do not yet.
    fn ask_from_now_on(&self) {
        if !self.is_asked.swap(true, Ordering::Relaxed) {
            self.hub.ask_from_now_on();
        }
    }

    /// Ends the connections of clients that are on the list now.
    fn end_banned(&self, targets: &[Target]) {
        let mut only = Bans::default();
        for target in targets {
            only.add(target.clone(), None, Reach::Everyone);
        }
        let now = Instant::now();
        let hit: Vec<Key> = lock(&self.registry)
            .admitted()
            .filter(|(_, who, _)| only.is_banned(who, now))
            .map(|(key, ..)| key)
            .collect();
        for key in hit {
            self.tell(key, AuthOutcome::Refused { reason: ReasonCode::Banned });
        }
    }

    /// Does here what other nodes did to the ban list.
    fn follow_group(&self, group: &GroupBans, seen: Seen) {
        let now = Instant::now();
        match seen {
            Seen::Same => {}
            Seen::Empty => {
                for (target, left, reach) in lock(&self.bans).common(now) {
                    group.tell(Change::Set(target, left, reach));
                }
            }
            // What happened here meanwhile is not in the list that was read.
            Seen::Changed(_) if group.is_behind() => group.read_again(),
            Seen::Changed(list) => {
                let new = lock(&self.bans).follow(&list, now);
                if lock(&self.bans).len() > 0 {
                    self.ask_from_now_on();
                }
                if !new.is_empty() {
                    self.end_banned(&new);
                }
            }
        }
    }

    // --- what changes later ---

    /// Puts files that were read anew in force, for live clients as well.
    fn take(&self, files: Files, reloaded: &Reloaded) {
        for (path, error) in &reloaded.errors {
            lock(&self.stats).reload_failures += 1;
            let file = path.display();
            tracing::error!(%file, %error, "not usable; what was read before stays in force");
        }
        lock(&self.stats).files_broken = reloaded.broken;
        if reloaded.read == 0 {
            return;
        }
        *lock(&self.files) = files.clone();
        self.chain.forget();
        let (mut revoked, mut changed) = (Vec::new(), Vec::new());
        for (key, who, admitted) in lock(&self.registry).admitted() {
            if !still_stands(&admitted.grant, &files) {
                // It goes now; that it is gone comes later.
                admitted.grant.proof = Proof::Standing;
                revoked.push(key);
                continue;
            }
            let acl = self.acl(who, &admitted.grant, &files);
            if acl != admitted.acl {
                admitted.acl.clone_from(&acl);
                changed.push((key, acl));
            }
        }
        let mut stats = lock(&self.stats);
        stats.reloads += reloaded.read;
        stats.revoked += revoked.len() as u64;
        stats.acl_changed += changed.len() as u64;
        drop(stats);
        let (revoked_count, changed_count) = (revoked.len(), changed.len());
        for key in revoked {
            self.tell(key, AuthOutcome::Refused { reason: ReasonCode::NotAuthorized });
        }
        for (key, acl) in changed {
            self.tell(key, AuthOutcome::Changed { acl });
        }
        tracing::info!(files = reloaded.read, revoked_count, changed_count, "reloaded");
    }

    /// Ends the connections whose right has run out.
    fn expire(&self, now: SystemTime) {
        let mut registry = lock(&self.registry);
        let expired = registry.expired(now);
        for key in &expired {
            if let Some(admitted) = registry.get_mut(*key).and_then(|live| live.admitted.as_mut()) {
                admitted.grant.expires = None;
            }
        }
        drop(registry);
        lock(&self.stats).expired += expired.len() as u64;
        for key in expired {
            self.tell(key, AuthOutcome::Refused { reason: ReasonCode::NotAuthorized });
        }
    }
}

/// Whom the configuration bans. What is no target was refused when it was read.
fn targets(ban: &config::Ban) -> Vec<Target> {
    ban.list.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether what a right rests on is still in the files.
fn still_stands(grant: &Grant, files: &Files) -> bool {
    match &grant.proof {
        Proof::Standing => true,
        Proof::Account { user, stored } => files
            .accounts
            .as_ref()
            .and_then(|accounts| accounts.get(user))
            .is_some_and(|account| account.text == *stored),
        Proof::Key(fingerprint) => files.jwt.as_ref().is_some_and(|jwt| jwt.has_key(fingerprint)),
    }
}
