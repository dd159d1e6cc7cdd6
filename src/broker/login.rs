//! Logins: who speaks over HTTP, under which token, with which defaults. (The API calls them JSON sessions; a
//! messaging session is something else.)
//!
//! A login that is not permanent lives in memory and ends when nobody used it for its idle time, by the monotonic
//! clock. A permanent one is a row under the hash of its token and lives until it is deleted.
//!
//! Leaves to others: checking passwords (`account.rs`), releasing what a login holds (whoever set [`Logins::on_end`]).
//!
//! **Invariants**
//! - A token is on no disk and in no log line; only its hash is stored.
//! - What is shown to others is not expired: every look at the table first removes what is due.
//! - A permanent login is durable before its token is shown, and its deletion before the answer.
//! - The limits hold at every moment: checking and inserting happen under one lock.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::rows::StoredRow;
use super::rows::login::LoginRow;
use super::rows::{self, RowError};
use crate::clock::Clock;
use crate::store::{self, Class, Refused, Store};

/// How long a token is, in characters of `[A-Za-z0-9]`: 381 bits.
pub const TOKEN_CHARS: usize = 64;

/// How many logins there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct LoginLimits {
    /// In all.
    pub total: usize,
    /// From one client address.
    pub per_address: usize,
    /// Of one account.
    pub per_account: usize,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            total: 1024,
            per_address: 50,
            per_account: 50,
        }
    }
}

/// How values are rendered in responses, unless a request says otherwise. Canonical spellings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResponseDefaults {
    /// `hex`, `base64` or `byteArray`.
    pub binary_format: String,
    /// `json`, `binary`, `string` or `variantObject`.
    pub variant_format: String,
    /// Returned, without effect.
    pub data_format: String,
    /// `number` or `string`.
    pub number_format: String,
    /// Returned, without effect.
    pub string_format: String,
    /// Returned, without effect.
    pub fixed_length_char_format: String,
    /// Returned, without effect.
    pub include_bookmarks: bool,
    /// Members that are left out of responses.
    pub omit: Vec<String>,
}

impl Default for ResponseDefaults {
    fn default() -> Self {
        Self {
            binary_format: "hex".into(),
            variant_format: "json".into(),
            data_format: "objects".into(),
            number_format: "number".into(),
            string_format: "json".into(),
            fixed_length_char_format: "sql".into(),
            include_bookmarks: false,
            omit: Vec::new(),
        }
    }
}

/// What the holder of a login chose. Part of a stored row: a change of its fields raises that row's version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoginSettings {
    /// Free text.
    pub description: Option<String>,
    /// API of requests that name none.
    pub default_api: String,
    /// `none`, `min`, `max` or `maxOnError`.
    pub default_debug: String,
    /// Encoding of binary values in requests.
    pub default_binary_format: String,
    /// Form of values of several types in requests.
    pub default_variant_format: String,
    /// Returned, without effect.
    pub default_string_format: String,
    /// Returned, without effect.
    pub default_fixed_length_char_format: String,
    /// Where integration tables are said to lie.
    pub default_database_name: String,
    /// Whose integration tables are said to be.
    pub default_owner_name: String,
    /// Defaults of responses.
    pub response: ResponseDefaults,
    /// Idle time after which a login that is not permanent ends; at least 1.
    pub idle_seconds: u32,
    /// Returned, without effect.
    pub idle_cursor_seconds: u32,
    /// Returned, without effect.
    pub transform_buffer_bytes: u32,
}

impl Default for LoginSettings {
    fn default() -> Self {
        Self {
            description: None,
            default_api: "mq".into(),
            default_debug: "none".into(),
            default_binary_format: "hex".into(),
            default_variant_format: "json".into(),
            default_string_format: "json".into(),
            default_fixed_length_char_format: "sql".into(),
            default_database_name: "faircom".into(),
            default_owner_name: "admin".into(),
            response: ResponseDefaults::default(),
            idle_seconds: 3600,
            idle_cursor_seconds: 600,
            transform_buffer_bytes: 0,
        }
    }
}

/// A login's number within this run of the program; never reused in it, never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LoginId(pub u64);

type TokenHash = [u8; 32];

/// One login.
pub struct Login {
    /// Its number in this run.
    pub id: LoginId,
    /// The account, upper case.
    pub username: String,
    /// When it was made, ms since 1970 UTC.
    pub started_ms: i64,
    hash: TokenHash,
    /// Counted against the limit per address; `None` after a restart.
    address: Option<IpAddr>,
    state: Mutex<LoginState>,
}

struct LoginState {
    settings: Arc<LoginSettings>,
    permanent: bool,
    /// Known from its making or from its first use in this run.
    token: Option<Arc<str>>,
    used: Duration,
    used_ms: i64,
}

impl Login {
    /// What its holder chose, as of now.
    pub fn settings(&self) -> Arc<LoginSettings> {
        Arc::clone(&self.state.lock().settings)
    }

    /// Whether it lives until it is deleted.
    pub fn is_permanent(&self) -> bool {
        self.state.lock().permanent
    }

    /// Its token; `None` for a permanent one that was not used since the start.
    pub fn token(&self) -> Option<Arc<str>> {
        self.state.lock().token.clone()
    }

    /// When it was last used, ms since 1970 UTC.
    pub fn used_ms(&self) -> i64 {
        self.state.lock().used_ms
    }

    fn is_due(&self, now: Duration) -> bool {
        let state = self.state.lock();
        !state.permanent && now >= state.used + Duration::from_secs(u64::from(state.settings.idle_seconds))
    }

    fn row(&self, settings: &LoginSettings) -> Vec<u8> {
        LoginRow {
            username: self.username.clone(),
            started_ms: self.started_ms,
            settings: settings.clone(),
        }
        .to_row()
    }
}

/// Why a login cannot be made or changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoginError {
    /// A limit of [`LoginLimits`] is reached; the text says which.
    Limit(&'static str, usize),
    /// It ended meanwhile.
    Gone,
    /// A login that is not permanent cannot become so.
    CannotBecomePermanent,
    /// Definite: nothing was stored.
    Refused(Refused),
    /// Indefinite: the next start decides.
    Store(store::Error),
    /// The system has no randomness.
    NoRandomness,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(what, most) => write!(f, "the limit of `{most}` sessions {what} is reached"),
            Self::Gone => f.write_str("the session has ended"),
            Self::CannotBecomePermanent => f.write_str("a temporary session cannot become permanent; create a new one"),
            Self::Refused(refused) => refused.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::NoRandomness => f.write_str("the system has no randomness for a token"),
        }
    }
}

impl std::error::Error for LoginError {}

type EndHook = Box<dyn Fn(LoginId) + Send + Sync>;

/// The table of all logins.
pub struct Logins {
    store: Arc<dyn Store>,
    clock: Clock,
    limits: LoginLimits,
    next: AtomicU64,
    table: Mutex<HashMap<TokenHash, Arc<Login>, ahash::RandomState>>,
    on_end: RwLock<Option<EndHook>>,
}

impl Logins {
    /// An empty table; rows come through [`Logins::apply_row`].
    pub fn new(store: Arc<dyn Store>, clock: Clock, limits: LoginLimits) -> Self {
        Self {
            store,
            clock,
            limits,
            next: AtomicU64::new(1),
            table: Mutex::default(),
            on_end: RwLock::new(None),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who is told that a login has ended, however it did; called without a lock held, at most once per login.
    pub fn on_end(&self, hook: impl Fn(LoginId) + Send + Sync + 'static) {
        *self.on_end.write() = Some(Box::new(hook));
    }

    /// Takes over one stored row at start; `None` is a deletion. Newest wins, by order of calls.
    ///
    /// # Errors
    /// If the row or its key cannot be read.
    pub fn apply_row(&self, key: &[u8], row: Option<&[u8]>) -> Result<(), RowError> {
        let hash = TokenHash::try_from(key).map_err(|_| RowError::Malformed("key".into()))?;
        let Some(row) = row else {
            self.table.lock().remove(&hash);
            return Ok(());
        };
        let row: LoginRow = LoginRow::from_row(row)?;
        let login = Arc::new(Login {
            id: self.next_id(),
            username: row.username,
            started_ms: row.started_ms,
            hash,
            address: None,
            state: Mutex::new(LoginState {
                settings: Arc::new(row.settings),
                permanent: true,
                token: None,
                used: self.clock.now(),
                used_ms: row.started_ms,
            }),
        });
        self.table.lock().insert(hash, login);
        Ok(())
    }

    /// Makes a login for an account whose password was checked. Its token is in [`Login::token`]; a permanent one is
    /// durable then.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn create(
        &self,
        username: &str,
        settings: LoginSettings,
        permanent: bool,
        address: IpAddr,
    ) -> Result<Arc<Login>, LoginError> {
        self.end_due();
        let token = new_token()?;
        let hash = hash(&token);
        let settings = Arc::new(settings);
        let now_ms = self.clock.wall_ms();
        let login = Arc::new(Login {
            id: self.next_id(),
            username: username.to_owned(),
            started_ms: now_ms,
            hash,
            address: Some(address),
            state: Mutex::new(LoginState {
                settings: Arc::clone(&settings),
                permanent,
                token: Some(token.into()),
                used: self.clock.now(),
                used_ms: now_ms,
            }),
        });
        let ticket = {
            let mut logins = self.table.lock();
            self.check_limits(&logins, username, address)?;
            let ticket = if permanent {
                Some(self.commit(&hash, Some(&login.row(&settings)))?)
            } else {
                None
            };
            logins.insert(hash, Arc::clone(&login));
            ticket
        };
        if let Err(error) = self.settle(ticket).await {
            self.forget(&login);
            return Err(error);
        }
        Ok(login)
    }

    fn check_limits(
        &self,
        logins: &HashMap<TokenHash, Arc<Login>, ahash::RandomState>,
        username: &str,
        address: IpAddr,
    ) -> Result<(), LoginError> {
        let limits = self.limits;
        if logins.len() >= limits.total {
            return Err(LoginError::Limit("of this server", limits.total));
        }
        if logins.values().filter(|login| login.address == Some(address)).count() >= limits.per_address {
            return Err(LoginError::Limit("per client address", limits.per_address));
        }
        if logins.values().filter(|login| login.username == username).count() >= limits.per_account {
            return Err(LoginError::Limit("per account", limits.per_account));
        }
        Ok(())
    }

    /// The login of a token, whose idle time begins anew; `None` if there is none or it has ended.
    pub fn authenticate(&self, token: &str) -> Option<Arc<Login>> {
        let login = self.peek(token)?;
        let mut state = login.state.lock();
        state.used = self.clock.now();
        state.used_ms = self.clock.wall_ms();
        if state.token.is_none() {
            state.token = Some(token.into());
        }
        drop(state);
        Some(login)
    }

    /// The login of a token; its idle time goes on.
    pub fn peek(&self, token: &str) -> Option<Arc<Login>> {
        // Looking up a hash tells nothing about how much of a guessed token is right.
        let hash = hash(token);
        let login = self.table.lock().get(&hash).cloned()?;
        if login.is_due(self.clock.now()) {
            self.forget(&login);
            return None;
        }
        Some(login)
    }

    /// Changes the settings and, if asked, whether the login is permanent; durable when this returns, if it concerns a
    /// permanent one.
    ///
    /// # Errors
    /// See [`LoginError`]; nothing has changed then, unless it is [`LoginError::Store`].
    pub async fn alter(
        &self,
        login: &Arc<Login>,
        change: impl FnOnce(&mut LoginSettings),
        permanent: Option<bool>,
    ) -> Result<(), LoginError> {
        let ticket = {
            // Under the table's lock the login cannot end in between, and rows are queued in the order of changes.
            let logins = self.table.lock();
            if !logins.get(&login.hash).is_some_and(|held| Arc::ptr_eq(held, login)) {
                return Err(LoginError::Gone);
            }
            let mut state = login.state.lock();
            if permanent == Some(true) && !state.permanent {
                return Err(LoginError::CannotBecomePermanent);
            }
            let mut settings = LoginSettings::clone(&state.settings);
            change(&mut settings);
            let stays = permanent.unwrap_or(state.permanent);
            let ticket = if state.permanent {
                let row = stays.then(|| login.row(&settings));
                Some(self.commit(&login.hash, row.as_deref())?)
            } else {
                None
            };
            state.settings = Arc::new(settings);
            state.permanent = stays;
            state.used = self.clock.now();
            ticket
        };
        self.settle(ticket).await
    }

    /// Ends a login; durable when this returns. One that has ended already stays so.
    ///
    /// # Errors
    /// [`LoginError::Refused`]: it lives on. [`LoginError::Store`]: it has ended here, the next start decides.
    pub async fn end(&self, login: &Arc<Login>) -> Result<(), LoginError> {
        let ticket = {
            // One lock over both: a row queued behind the deletion would bring the login back at the next start.
            let mut logins = self.table.lock();
            if !logins.get(&login.hash).is_some_and(|held| Arc::ptr_eq(held, login)) {
                return Ok(());
            }
            let ticket = if login.is_permanent() {
                Some(self.commit(&login.hash, None)?)
            } else {
                None
            };
            logins.remove(&login.hash);
            ticket
        };
        self.tell_end(login.id);
        self.settle(ticket).await
    }

    /// Ends all logins of an account, because it was dropped; durable when this returns.
    ///
    /// # Errors
    /// As [`Logins::end`].
    pub async fn end_account(&self, username: &str) -> Result<(), LoginError> {
        let of_account: Vec<_> = self
            .table
            .lock()
            .values()
            .filter(|login| login.username == username)
            .cloned()
            .collect();
        for login in of_account {
            self.end(&login).await?;
        }
        Ok(())
    }

    /// Ends what was idle for too long, and returns when the next one would be, by the monotonic clock.
    pub fn end_due(&self) -> Option<Duration> {
        let now = self.clock.now();
        let mut next = None;
        let mut due = Vec::new();
        for login in self.table.lock().values() {
            if login.is_due(now) {
                due.push(Arc::clone(login));
                continue;
            }
            let state = login.state.lock();
            if !state.permanent {
                let ends = state.used + Duration::from_secs(u64::from(state.settings.idle_seconds));
                next = Some(next.map_or(ends, |earliest: Duration| earliest.min(ends)));
            }
        }
        for login in due {
            self.forget(&login);
        }
        next
    }

    /// All logins that live, by start and number.
    pub fn list(&self) -> Vec<Arc<Login>> {
        self.end_due();
        let mut all: Vec<_> = self.table.lock().values().cloned().collect();
        all.sort_by_key(|login| (login.started_ms, login.id));
        all
    }

    fn forget(&self, login: &Arc<Login>) {
        let removed = {
            let mut logins = self.table.lock();
            match logins.get(&login.hash) {
                Some(held) if Arc::ptr_eq(held, login) => logins.remove(&login.hash).is_some(),
                _ => false,
            }
        };
        if removed {
            self.tell_end(login.id);
        }
    }

    fn tell_end(&self, id: LoginId) {
        if let Some(hook) = self.on_end.read().as_ref() {
            hook(id);
        }
    }

    fn next_id(&self) -> LoginId {
        LoginId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn commit(&self, hash: &TokenHash, row: Option<&[u8]>) -> Result<store::Ticket, LoginError> {
        let mut commit = self.store.begin(Class::C);
        match row {
            Some(row) => commit.put(rows::LOGIN, hash, row),
            None => commit.delete(rows::LOGIN, hash),
        }
        self.store.commit(commit).map_err(LoginError::Refused)
    }

    async fn settle(&self, ticket: Option<store::Ticket>) -> Result<(), LoginError> {
        match ticket {
            Some(ticket) => self.store.settled(&ticket).await.map_err(LoginError::Store),
            None => Ok(()),
        }
    }
}

/// Ends idle logins within a few seconds of their time, so that what they hold is released although nobody asks.
pub(super) async fn watch_idle(logins: Arc<Logins>, clock: Clock) {
    const LOOK_EVERY: Duration = Duration::from_secs(2);
    while Arc::strong_count(&logins) > 1 {
        let next = logins.end_due();
        let latest = clock.now() + LOOK_EVERY;
        clock.sleep_until(next.map_or(latest, |next| next.min(latest))).await;
    }
}

fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

fn new_token() -> Result<String, LoginError> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut token = String::with_capacity(TOKEN_CHARS);
    let mut random = [0; 96];
    while token.len() < TOKEN_CHARS {
        getrandom::fill(&mut random).map_err(|_| LoginError::NoRandomness)?;
        // 248 is the largest multiple of 62 in a byte: what lies above would make some characters more likely.
        for byte in random
            .iter()
            .filter(|byte| **byte < 248)
            .take(TOKEN_CHARS - token.len())
        {
            if let Some(character) = ALPHABET.get(usize::from(byte % 62)) {
                token.push(char::from(*character));
            }
        }
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::rows::LOGIN;
    use crate::store::memory::MemoryStore;
    use crate::store::{FeedItem, MessageLog, MetaStore};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn drained(clock: &Clock) -> Arc<MemoryStore> {
        let store = MemoryStore::new(clock.clone());
        drain(&store);
        store
    }

    fn drain(store: &Arc<MemoryStore>) {
        let mut feed = store.feed();
        tokio::spawn(async move { while !matches!(feed.next().await, FeedItem::Closed | FeedItem::Latched(_)) {} });
    }

    fn logins(limits: LoginLimits) -> (Clock, Arc<MemoryStore>, Logins) {
        let clock = Clock::manual(1_700_000_000_000);
        let store = drained(&clock);
        let logins = Logins::new(store.clone(), clock.clone(), limits);
        (clock, store, logins)
    }

    #[tokio::test]
    async fn an_idle_login_ends_and_tells_and_a_used_one_does_not() {
        let (clock, _store, logins) = logins(LoginLimits::default());
        let ended = Arc::new(Mutex::new(Vec::new()));
        logins.on_end({
            let ended = ended.clone();
            move |id| ended.lock().push(id)
        });
        let settings = LoginSettings {
            idle_seconds: 10,
            ..LoginSettings::default()
        };
        let login = logins.create("ADMIN", settings, false, HERE).await.unwrap();
        let token = login.token().unwrap();
        assert_eq!(token.len(), TOKEN_CHARS);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        clock.advance(Duration::from_secs(9));
        assert!(logins.authenticate(&token).is_some());
        clock.step_wall(86_400_000);
        clock.advance(Duration::from_secs(9));
        assert!(
            logins.authenticate(&token).is_some(),
            "a step of the wall clock ended it"
        );
        clock.advance(Duration::from_secs(10));
        assert!(logins.list().is_empty());
        assert_eq!(*ended.lock(), vec![login.id]);
        assert!(logins.authenticate(&token).is_none());
        assert_eq!(logins.end_due(), None);
        assert_eq!(ended.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_permanent_login_survives_a_restart_by_hash_only() {
        let (clock, store, logins) = logins(LoginLimits::default());
        let kept = logins
            .create("ADMIN", LoginSettings::default(), true, HERE)
            .await
            .unwrap();
        let token = kept.token().unwrap();
        let gone = logins
            .create("ADMIN", LoginSettings::default(), false, HERE)
            .await
            .unwrap();
        let gone = gone.token().unwrap();
        logins
            .alter(&kept, |settings| settings.default_debug = "max".into(), None)
            .await
            .unwrap();

        let store = store.restart(false);
        let again = Logins::new(store.clone(), clock.clone(), LoginLimits::default());
        for (key, row) in store.scan(LOGIN, vec![]..vec![0xFF; 40], 100).await.unwrap() {
            assert!(!row.bytes.windows(8).any(|bytes| bytes == &token.as_bytes()[..8]));
            again.apply_row(&key, Some(&row.bytes)).unwrap();
        }
        assert_eq!(again.list().len(), 1);
        assert!(again.list()[0].token().is_none());
        assert!(again.authenticate(&gone).is_none());
        clock.advance(Duration::from_secs(1_000_000));
        let found = again.authenticate(&token).unwrap();
        assert_eq!(found.settings().default_debug, "max");
        assert_eq!(found.token().unwrap(), token);
    }

    #[tokio::test]
    async fn a_permanent_login_can_become_temporary_and_not_the_other_way() {
        let (clock, store, logins) = logins(LoginLimits::default());
        let login = logins
            .create("ADMIN", LoginSettings::default(), true, HERE)
            .await
            .unwrap();
        clock.advance(Duration::from_hours(2));
        logins.alter(&login, |_| (), Some(false)).await.unwrap();
        assert!(store.scan(LOGIN, vec![]..vec![0xFF; 40], 9).await.unwrap().is_empty());
        assert_eq!(logins.list().len(), 1, "the idle time begins with the change");
        let refused = logins.alter(&login, |_| (), Some(true)).await;
        assert_eq!(refused, Err(LoginError::CannotBecomePermanent));
        clock.advance(Duration::from_hours(1));
        assert!(logins.list().is_empty());
        assert_eq!(logins.alter(&login, |_| (), None).await, Err(LoginError::Gone));
    }

    #[tokio::test]
    async fn each_limit_holds_and_an_ended_login_makes_room() {
        let limits = LoginLimits {
            total: 4,
            per_address: 3,
            per_account: 2,
        };
        let (_clock, _store, logins) = logins(limits);
        let make = |name: &'static str, last: u8| {
            logins.create(name, LoginSettings::default(), false, IpAddr::from([10, 0, 0, last]))
        };
        let first = make("A", 1).await.unwrap();
        make("A", 1).await.unwrap();
        assert_eq!(make("A", 2).await.err(), Some(LoginError::Limit("per account", 2)));
        make("B", 1).await.unwrap();
        assert_eq!(
            make("B", 1).await.err(),
            Some(LoginError::Limit("per client address", 3))
        );
        make("B", 2).await.unwrap();
        assert_eq!(make("C", 3).await.err(), Some(LoginError::Limit("of this server", 4)));
        logins.end(&first).await.unwrap();
        make("C", 3).await.unwrap();
    }

    #[tokio::test]
    async fn a_login_that_cannot_be_stored_does_not_exist() {
        let (_clock, store, logins) = logins(LoginLimits::default());
        store.latch("no disk");
        let refused = logins.create("ADMIN", LoginSettings::default(), true, HERE).await;
        assert!(matches!(
            refused.err(),
            Some(LoginError::Refused(_) | LoginError::Store(_))
        ));
        assert!(logins.list().is_empty());
    }
}
