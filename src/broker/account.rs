//! Accounts: names, passwords, roles, and when they may log in.
//!
//! Names are kept and compared in upper case (ASCII), passwords as they are. A password is checked with argon2id on the
//! blocking pool, one at a time, or a storm of reconnects would take all cores; what was right a moment ago is
//! remembered under a keyed hash and not computed again.
//!
//! Leaves to others: what a role allows (whoever asks [`Account::is_admin`]), ending the sessions of a dropped account.
//!
//! **Invariants**
//! - Neither a password nor anything it can be tested against without the process's own random key is in memory
//!   beyond a check, except the argon2 hash.
//! - There is always at least one member of `ADMIN`.
//! - Rows are queued in the order of the changes: both happen under the table's lock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::rows::StoredRow;
use super::rows::account::AccountRow;
use super::rows::{self, RowError};
use crate::clock::Clock;
use crate::store::{self, Class, Refused, Store, Ticket};

/// The built-in role, and the name of the first account and its first password.
pub const ADMIN: &str = "ADMIN";

/// Right answers that are remembered, at most; then all are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// How long a right answer is remembered.
const REMEMBERED_FOR: Duration = Duration::from_mins(10);
const MS_PER_DAY: i64 = 86_400_000;

/// One account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Its name, upper case.
    pub name: String,
    /// Everything else.
    pub stored: AccountRow,
}

impl Account {
    /// Whether it may do everything.
    pub fn is_admin(&self) -> bool {
        self.stored.roles.iter().any(|role| role == ADMIN)
    }
}

/// Why nobody is logged in. For the log only: a client hears the same for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// No such account.
    UnknownAccount,
    /// Wrong password.
    WrongPassword,
    /// Too many wrong passwords in a row.
    LockedOut,
    /// Before the first or behind the last moment the account may log in.
    OutsideDates,
    /// The password is older than it may be.
    PasswordTooOld,
    /// The check could not be done; the process is ending.
    Unchecked,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAccount => "the account does not exist",
            Self::WrongPassword => "the password is wrong",
            Self::LockedOut => "the account is locked after too many wrong passwords",
            Self::OutsideDates => "the account is outside of its validity dates",
            Self::PasswordTooOld => "the password must be changed by an administrator",
            Self::Unchecked => "the password could not be checked",
        })
    }
}

impl std::error::Error for Denied {}

/// Why accounts do not change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccountError {
    /// The name is taken.
    Exists(String),
    /// No such account.
    NotFound(String),
    /// Nobody would be left in `ADMIN`, or it is the account `ADMIN` itself.
    LastAdministrator,
    /// Definite: nothing was stored.
    Refused(Refused),
    /// Indefinite: the next start decides.
    Store(store::Error),
    /// The password could not be hashed.
    Hashing(String),
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => write!(f, "account `{name}` exists already"),
            Self::NotFound(name) => write!(f, "account `{name}` does not exist"),
            Self::LastAdministrator => f.write_str("an administrator must remain; make another one first"),
            Self::Refused(refused) => refused.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Hashing(cause) => write!(f, "the password cannot be hashed: {cause}"),
        }
    }
}

impl std::error::Error for AccountError {}

#[derive(Default)]
struct Attempts {
    failures: u32,
    locked_until: Option<Duration>,
}

struct State {
    accounts: BTreeMap<String, Arc<Account>>,
    attempts: HashMap<String, Attempts>,
    remembered: HashMap<[u8; 32], Duration>,
}

/// The table of all accounts.
pub struct Accounts {
    store: Arc<dyn Store>,
    clock: Clock,
    state: Mutex<State>,
    checking: Arc<Semaphore>,
    key: [u8; 32],
}

/// The form in which names are kept and compared.
pub fn canonical(name: &str) -> String {
    name.to_ascii_uppercase()
}

impl Accounts {
    /// An empty table; rows come through [`Accounts::apply_row`], the first account through [`Accounts::begin`].
    ///
    /// # Panics
    /// If the system has no randomness.
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        Self {
            store,
            clock,
            state: Mutex::new(State {
                accounts: BTreeMap::new(),
                attempts: HashMap::new(),
                remembered: HashMap::new(),
            }),
            checking: Arc::new(Semaphore::new(1)),
            key,
        }
    }

    /// Takes over one stored row at start; `None` is a deletion. Newest wins, by order of calls.
    ///
    /// # Errors
    /// If the row or its key cannot be read.
    pub fn apply_row(&self, key: &[u8], row: Option<&[u8]>) -> Result<(), RowError> {
        let name = String::from_utf8(key.to_vec()).map_err(|_| RowError::Malformed("key".into()))?;
        let mut state = self.state.lock();
        match row {
            Some(row) => {
                let stored = AccountRow::from_row(row)?;
                state.accounts.insert(name.clone(), Arc::new(Account { name, stored }));
            }
            None => {
                state.accounts.remove(&name);
            }
        }
        Ok(())
    }

    /// Creates `ADMIN` with the given password, or `ADMIN`, if there is no account yet. Called once all rows are
    /// applied; returns whether it did.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn begin(&self, password: Option<&str>) -> Result<bool, AccountError> {
        if !self.state.lock().accounts.is_empty() {
            return Ok(false);
        }
        let roles = vec![ADMIN.to_owned()];
        self.create(ADMIN, password.unwrap_or(ADMIN), |stored| stored.roles = roles)
            .await?;
        Ok(true)
    }

    /// Whether `ADMIN` still has the password it was made with.
    pub async fn has_default_password(&self) -> bool {
        match self.get(ADMIN) {
            Some(admin) => self.verify(admin.stored.password_hash.clone(), ADMIN.to_owned()).await == Ok(true),
            None => false,
        }
    }

    /// One account, whatever the case of `name`.
    pub fn get(&self, name: &str) -> Option<Arc<Account>> {
        self.state.lock().accounts.get(&canonical(name)).cloned()
    }

    /// All accounts, by name.
    pub fn list(&self) -> Vec<Arc<Account>> {
        self.state.lock().accounts.values().cloned().collect()
    }

    /// The account, if the password is right and it may log in now.
    ///
    /// # Errors
    /// [`Denied`], which is for the log: a client must not learn more than that it was denied.
    pub async fn log_in(&self, name: &str, password: &str) -> Result<Arc<Account>, Denied> {
        let name = canonical(name);
        let account = self.state.lock().accounts.get(&name).cloned();
        let Some(account) = account else {
            // As long as for a known name, so that names cannot be probed by the time.
            self.verify(UNKNOWN_HASH.to_owned(), password.to_owned()).await.ok();
            return Err(Denied::UnknownAccount);
        };
        self.may_log_in(&account)?;
        let remembered = self.remember_as(&account, password);
        let now = self.clock.now();
        {
            let state = self.state.lock();
            if state.remembered.get(&remembered).is_some_and(|until| *until > now) {
                return Ok(account);
            }
        }
        let right = self
            .verify(account.stored.password_hash.clone(), password.to_owned())
            .await?;
        let mut state = self.state.lock();
        if right {
            if state.remembered.len() >= REMEMBERED_MAX {
                state.remembered.clear();
            }
            state.remembered.insert(remembered, now + REMEMBERED_FOR);
            state.attempts.remove(&name);
            return Ok(account);
        }
        if account.stored.lockout_after_failures > 0 {
            let attempts = state.attempts.entry(name).or_default();
            attempts.failures += 1;
            if attempts.failures >= account.stored.lockout_after_failures {
                attempts.failures = 0;
                let minutes = u64::from(account.stored.lockout_minutes);
                attempts.locked_until = Some(self.clock.now() + Duration::from_secs(60 * minutes));
            }
        }
        Err(Denied::WrongPassword)
    }

    fn may_log_in(&self, account: &Account) -> Result<(), Denied> {
        let now_ms = self.clock.wall_ms();
        let stored = &account.stored;
        if stored.enabled_from_ms.is_some_and(|from| now_ms < from)
            || stored.enabled_until_ms.is_some_and(|until| now_ms > until)
        {
            return Err(Denied::OutsideDates);
        }
        let age_max = i64::from(stored.password_days_max) * MS_PER_DAY;
        if age_max > 0 && now_ms - stored.password_changed_ms > age_max {
            return Err(Denied::PasswordTooOld);
        }
        let now = self.clock.now();
        let state = self.state.lock();
        let locked = state
            .attempts
            .get(&account.name)
            .and_then(|attempts| attempts.locked_until);
        if locked.is_some_and(|until| now < until) {
            return Err(Denied::LockedOut);
        }
        Ok(())
    }

    /// Makes an account; durable when this returns. `fill` sets what differs from the defaults.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn create(
        &self,
        name: &str,
        password: &str,
        fill: impl FnOnce(&mut AccountRow),
    ) -> Result<(), AccountError> {
        let name = canonical(name);
        let mut stored = AccountRow {
            password_hash: self.hash(password.to_owned()).await?,
            description: String::new(),
            enabled_from_ms: None,
            enabled_until_ms: None,
            lockout_after_failures: 0,
            lockout_minutes: 0,
            password_days_max: 0,
            login_gap_minutes_max: 0,
            memory_limit: 0,
            password_changed_ms: self.clock.wall_ms(),
            roles: Vec::new(),
        };
        fill(&mut stored);
        let ticket = {
            let mut state = self.state.lock();
            if state.accounts.contains_key(&name) {
                return Err(AccountError::Exists(name));
            }
            self.change(&mut state, vec![(name.clone(), Some(Account { name, stored }))])?
        };
        self.settle(&ticket).await
    }

    /// Changes accounts, all or none; durable when this returns. A given password becomes that of all of them.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn alter(
        &self,
        names: &[&str],
        password: Option<&str>,
        change: impl Fn(&mut AccountRow),
    ) -> Result<(), AccountError> {
        let hash = match password {
            Some(password) => Some(self.hash(password.to_owned()).await?),
            None => None,
        };
        let ticket = {
            let mut state = self.state.lock();
            let mut changed = Vec::with_capacity(names.len());
            for name in names {
                let name = canonical(name);
                let Some(held) = state.accounts.get(&name) else {
                    return Err(AccountError::NotFound(name));
                };
                let mut account = Account::clone(held);
                if let Some(hash) = &hash {
                    account.stored.password_hash.clone_from(hash);
                    account.stored.password_changed_ms = self.clock.wall_ms();
                }
                change(&mut account.stored);
                changed.push((name, Some(account)));
            }
            self.change(&mut state, changed)?
        };
        self.settle(&ticket).await
    }

    /// Removes accounts, all or none; durable when this returns. Names that do not exist are passed over; the result
    /// holds those that did.
    ///
    /// # Errors
    /// See [`AccountError`]; [`AccountError::LastAdministrator`] also if `ADMIN` is among them.
    pub async fn remove(&self, names: &[&str]) -> Result<Vec<String>, AccountError> {
        let (removed, ticket) = {
            let mut state = self.state.lock();
            let mut removed: Vec<String> = names.iter().map(|name| canonical(name)).collect();
            removed.retain(|name| state.accounts.contains_key(name));
            if removed.iter().any(|name| name == ADMIN) {
                return Err(AccountError::LastAdministrator);
            }
            let changes = removed.iter().map(|name| (name.clone(), None)).collect();
            let ticket = self.change(&mut state, changes)?;
            (removed, ticket)
        };
        self.settle(&ticket).await?;
        Ok(removed)
    }

    fn change(&self, state: &mut State, changes: Vec<(String, Option<Account>)>) -> Result<Ticket, AccountError> {
        let admins_before = state.accounts.values().any(|account| account.is_admin());
        let untouched = state
            .accounts
            .iter()
            .filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == *name))
            .any(|(_, account)| account.is_admin());
        let touched = changes
            .iter()
            .any(|(_, account)| account.as_ref().is_some_and(Account::is_admin));
        if admins_before && !untouched && !touched {
            return Err(AccountError::LastAdministrator);
        }
        let mut commit = self.store.begin(Class::C);
        for (name, account) in &changes {
            match account {
                Some(account) => commit.put(rows::ACCOUNT, name.as_bytes(), &account.stored.to_row()),
                None => commit.delete(rows::ACCOUNT, name.as_bytes()),
            }
        }
        let ticket = self.store.commit(commit).map_err(AccountError::Refused)?;
        for (name, account) in changes {
            state.attempts.remove(&name);
            match account {
                Some(account) => state.accounts.insert(name, Arc::new(account)),
                None => state.accounts.remove(&name),
            };
        }
        Ok(ticket)
    }

    async fn settle(&self, ticket: &Ticket) -> Result<(), AccountError> {
        self.store.settled(ticket).await.map_err(AccountError::Store)
    }

    /// The argon2 hash is part of what is remembered, so a changed password is forgotten by itself.
    fn remember_as(&self, account: &Account, password: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [
            &self.key[..],
            account.stored.password_hash.as_bytes(),
            password.as_bytes(),
        ] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    async fn verify(&self, hash: String, password: String) -> Result<bool, Denied> {
        let permit = Arc::clone(&self.checking)
            .acquire_owned()
            .await
            .map_err(|_| Denied::Unchecked)?;
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            PasswordHash::new(&hash).is_ok_and(|hash| argon2().verify_password(password.as_bytes(), &hash).is_ok())
        });
        checked.await.map_err(|_| Denied::Unchecked)
    }

    async fn hash(&self, password: String) -> Result<String, AccountError> {
        let failed = |cause: &dyn fmt::Display| AccountError::Hashing(cause.to_string());
        let permit = Arc::clone(&self.checking)
            .acquire_owned()
            .await
            .map_err(|error| failed(&error))?;
        let hashed = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let hash: Result<PasswordHash, _> = argon2().hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
        });
        let hashed = hashed.await.map_err(|error| failed(&error))?;
        hashed.map_err(AccountError::Hashing)
    }
}

/// A hash nobody has a password for, of the usual cost.
const UNKNOWN_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn argon2() -> Argon2<'static> {
    let params = if cfg!(test) {
        Params::new(Params::MIN_M_COST, 1, 1, None).unwrap_or_default()
    } else {
        Params::default()
    };
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::rows::ACCOUNT;
    use crate::store::memory::MemoryStore;
    use crate::store::{FeedItem, MessageLog, MetaStore};

    fn accounts() -> (Clock, Arc<MemoryStore>, Accounts) {
        let clock = Clock::manual(1_700_000_000_000);
        let store = MemoryStore::new(clock.clone());
        let mut feed = store.feed();
        tokio::spawn(async move { while !matches!(feed.next().await, FeedItem::Closed | FeedItem::Latched(_)) {} });
        let accounts = Accounts::new(store.clone(), clock.clone());
        (clock, store, accounts)
    }

    #[tokio::test]
    async fn the_first_start_makes_admin_and_later_ones_read_it_back() {
        let (clock, store, accounts) = accounts();
        assert_eq!(accounts.begin(None).await, Ok(true));
        assert!(accounts.has_default_password().await);
        assert!(accounts.log_in("admin", "ADMIN").await.unwrap().is_admin());
        assert_eq!(accounts.log_in("ADMIN", "admin").await, Err(Denied::WrongPassword));
        accounts.alter(&["Admin"], Some("s3cret"), |_| ()).await.unwrap();
        assert_eq!(accounts.log_in("ADMIN", "ADMIN").await, Err(Denied::WrongPassword));

        let again = Accounts::new(store.clone(), clock);
        for (key, row) in store.scan(ACCOUNT, vec![]..vec![0xFF], 9).await.unwrap() {
            again.apply_row(&key, Some(&row.bytes)).unwrap();
        }
        assert_eq!(again.begin(None).await, Ok(false));
        assert!(!again.has_default_password().await);
        assert!(again.log_in("ADMIN", "s3cret").await.is_ok());
    }

    #[tokio::test]
    async fn an_account_locks_after_its_failures_and_opens_again() {
        let (clock, _store, accounts) = accounts();
        accounts.begin(None).await.unwrap();
        accounts
            .create("press4", "right", |stored| {
                stored.lockout_after_failures = 2;
                stored.lockout_minutes = 5;
            })
            .await
            .unwrap();
        assert!(accounts.log_in("press4", "right").await.is_ok());
        for _ in 0..2 {
            assert_eq!(accounts.log_in("PRESS4", "wrong").await, Err(Denied::WrongPassword));
        }
        assert_eq!(accounts.log_in("press4", "right").await, Err(Denied::LockedOut));
        clock.advance(Duration::from_mins(5));
        assert!(accounts.log_in("press4", "right").await.is_ok());
    }

    #[tokio::test]
    async fn dates_and_password_age_bound_the_logins() {
        let (clock, _store, accounts) = accounts();
        accounts.begin(None).await.unwrap();
        let now = clock.wall_ms();
        accounts
            .create("a", "x", |stored| {
                stored.enabled_from_ms = Some(now + 1000);
                stored.password_days_max = 2;
            })
            .await
            .unwrap();
        assert_eq!(accounts.log_in("a", "x").await, Err(Denied::OutsideDates));
        clock.advance(Duration::from_secs(1));
        assert!(accounts.log_in("a", "x").await.is_ok());
        clock.advance(Duration::from_hours(48));
        assert_eq!(accounts.log_in("a", "x").await, Err(Denied::PasswordTooOld));
        assert_eq!(accounts.log_in("nobody", "x").await, Err(Denied::UnknownAccount));
    }

    #[tokio::test]
    async fn an_administrator_always_remains() {
        let (_clock, _store, accounts) = accounts();
        accounts.begin(Some("p")).await.unwrap();
        let no_roles = |stored: &mut AccountRow| stored.roles.clear();
        assert_eq!(
            accounts.alter(&["ADMIN"], None, no_roles).await,
            Err(AccountError::LastAdministrator)
        );
        accounts
            .create("b", "x", |stored| stored.roles.push(ADMIN.into()))
            .await
            .unwrap();
        accounts.alter(&["ADMIN"], None, no_roles).await.unwrap();
        assert_eq!(accounts.remove(&["B"]).await, Err(AccountError::LastAdministrator));
        assert_eq!(accounts.remove(&["nobody"]).await, Ok(vec![]));
        assert!(matches!(
            accounts.create("B", "y", |_| ()).await,
            Err(AccountError::Exists(_))
        ));
    }
}
