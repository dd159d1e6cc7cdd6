//! A start is the same fold as running: rows and records change what the broker knows, one after the other.
//!
//! **Invariants**
//! - Applying an entry twice is applying it once.
//! - While running, a session's own rows are already known to the session; only what takes effect at its place in the
//!   log (subscriptions, retained messages, topics) is applied.

use std::sync::Arc;

use super::Shared;
use super::rows::StoredRow;
use super::rows::record::Record;
use super::rows::session::{
    DueRow, GroupPartRow, GroupRow, PositionRow, PublishedTopicsRow, RetainedServedRow, SecretRow, SentRow, SessionRow,
    StartedRow, SubscriptionRow, TopicPositionRow, TotalsRow, WillRow,
};
use super::rows::topic::RetainedRow;
use super::rows::{self, RowError};
use super::session::{Session, SessionId};
use super::subscription::{RetainedDue, Subscription};
use super::topic::Retained;
use super::topic_filter::TopicFilter;
use super::topic_name::TopicName;
use crate::store::{Batch, Entry, EntryKind, LogCreated, LogId, Mark, Offset, Table};

/// When an entry is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// At a start, from snapshot or log.
    Start,
    /// While running, by the dispatcher.
    Live,
}

impl Shared {
    /// Applies one entry of the feed.
    pub(super) fn apply(&self, batch: &Batch, entry: &Entry, origin: Origin) {
        match entry.kind {
            EntryKind::Data => self.apply_record(entry, batch.body(entry)),
            EntryKind::Row => {
                let (key, row) = batch.row(entry);
                self.apply_row(entry.table(), key, Some(row), entry.mark, origin);
            }
            EntryKind::RowDeleted => {
                let (key, _) = batch.row(entry);
                self.apply_row(entry.table(), key, None, entry.mark, origin);
            }
            EntryKind::LogCreated => {
                if let Some(created) = LogCreated::parse(batch.body(entry)) {
                    self.apply_topic(entry.log, created.name);
                }
            }
            EntryKind::Release | EntryKind::Once | EntryKind::LogRemoved | EntryKind::Trim | EntryKind::TrimClass => {}
        }
    }

    pub(super) fn apply_topic(&self, log: LogId, name: &[u8]) {
        if let Some(name) = std::str::from_utf8(name)
            .ok()
            .and_then(|name| TopicName::parse(name).ok())
        {
            self.topics.restore(log, name);
        } else {
            tracing::error!(log = log.0, "a stored topic name is not valid");
        }
    }

    fn apply_record(&self, entry: &Entry, body: &[u8]) {
        let Some(record) = Record::parse(body).filter(|record| record.retain) else {
            return;
        };
        let Some(topic) = self.topics.by_log(entry.log) else {
            return;
        };
        let key = rows::key(entry.log.0);
        if record.payload.is_empty() {
            self.topics.set_retained(&topic, None);
            self.store.derive(rows::RETAINED, &key, None);
        } else {
            self.topics.set_retained(
                &topic,
                Some(Retained {
                    position: entry.position,
                    mark: entry.mark,
                }),
            );
            let row = RetainedRow {
                position: entry.position.0,
                mark: entry.mark.to_bytes(),
            };
            self.store.derive(rows::RETAINED, &key, Some(&row.to_row()));
        }
    }

    /// Applies one row; one that cannot be read is reported and passed over.
    pub(super) fn apply_row(&self, table: Table, key: &[u8], row: Option<&[u8]>, mark: Mark, origin: Origin) {
        let result = match (table, origin) {
            (rows::SUBSCRIPTION, _) => self.apply_subscription(key, row, mark, origin),
            (_, Origin::Live) => Ok(()),
            _ => self.apply_at_start(table, key, row, mark),
        };
        if let Err(error) = result {
            tracing::error!(table = table.0, key = ?String::from_utf8_lossy(key), %error, "a stored row cannot be read");
        }
    }

    fn apply_at_start(&self, table: Table, key: &[u8], row: Option<&[u8]>, mark: Mark) -> Result<(), RowError> {
        if self.apply_foreign_row(table, key, row)? {
            return Ok(());
        }
        let Some((number, rest)) = rows::split_key(key) else {
            return Err(RowError::Key);
        };
        let id = SessionId(number);
        match (table, row) {
            (rows::SESSION, Some(row)) => {
                let row = SessionRow::from_row(row)?;
                let session = self.sessions.by_id(id).unwrap_or_else(|| {
                    let name: Arc<str> = row.client_name.as_str().into();
                    let session = Arc::new(Session::new(id, name, row.kind, mark, row.created));
                    self.sessions.insert(&session);
                    session
                });
                session.state.lock().restore(row);
            }
            (rows::SESSION, None) => {
                if let Some(session) = self.sessions.by_id(id) {
                    self.sessions.remove(&session);
                }
            }
            (rows::RETAINED, Some(row)) => {
                let row = RetainedRow::from_row(row)?;
                if let Some(topic) = self.topics.by_log(LogId(number)) {
                    let retained = Retained {
                        position: Offset(row.position),
                        mark: Mark::from_bytes(row.mark),
                    };
                    self.topics.set_retained(&topic, Some(retained));
                }
            }
            (rows::STARTED, Some(row)) => {
                self.starts.lock().insert(number, (StartedRow::from_row(row)?, mark));
            }
            (rows::WILL, row) => {
                let row = row.map(WillRow::from_row).transpose()?;
                let mut wills = self.stored_wills.lock();
                match row {
                    Some(row) => wills.insert(id, row),
                    None => wills.remove(&id),
                };
            }
            (rows::GROUP | rows::GROUP_PART, _) => self.apply_group(table, key, row, mark)?,
            _ => {
                if let Some(session) = self.sessions.by_id(id) {
                    apply_to_session(&session, table, rest, row, mark)?;
                }
            }
        }
        Ok(())
    }

    /// Rows of tables whose owners keep them themselves.
    fn apply_foreign_row(&self, table: Table, key: &[u8], row: Option<&[u8]>) -> Result<bool, RowError> {
        match table {
            rows::SECRET => {
                if let Some(row) = row {
                    *self.secret.lock() = Some(SecretRow::from_row(row)?.key);
                }
                Ok(true)
            }
            rows::ACCOUNT => self.accounts.apply_row(key, row).map(|()| true),
            rows::LOGIN => self.logins.apply_row(key, row).map(|()| true),
            rows::LABEL => self.labels.apply_row(key, row).map(|()| true),
            _ => Ok(false),
        }
    }

    fn apply_group(&self, table: Table, key: &[u8], row: Option<&[u8]>, mark: Mark) -> Result<(), RowError> {
        if table == rows::GROUP {
            let row = row.map(GroupRow::from_row).transpose()?;
            self.groups.restore(self, key, row, mark);
        } else {
            let row = row.map(GroupPartRow::from_row).transpose()?;
            self.groups.restore_part(key, row);
        }
        Ok(())
    }

    /// A subscription takes effect where its row stands; a row that is gone ends it.
    fn apply_subscription(&self, key: &[u8], row: Option<&[u8]>, mark: Mark, origin: Origin) -> Result<(), RowError> {
        let parts = rows::split_key(key).and_then(|(id, filter)| Some((id, std::str::from_utf8(filter).ok()?)));
        let Some((id, filter)) = parts else {
            return Err(RowError::Key);
        };
        let Some(session) = self.sessions.by_id(SessionId(id)) else {
            return Ok(());
        };
        let filter = TopicFilter::parse(filter).map_err(|invalid| RowError::Malformed(invalid.to_string()))?;
        match row.map(SubscriptionRow::from_row).transpose()? {
            // Written by the session itself, which knows better by now: the row may be older than its cursor.
            Some(row) if origin == Origin::Live && row.start.is_some() => {}
            Some(row) => {
                let due = match row.due {
                    DueRow::None => None,
                    DueRow::Here => Some(RetainedDue {
                        mark,
                        cursor: String::new(),
                    }),
                    DueRow::Behind { mark, cursor } => Some(RetainedDue {
                        mark: Mark::from_bytes(mark),
                        cursor,
                    }),
                };
                let start = row.start.map_or(mark, Mark::from_bytes);
                let subscription = Subscription {
                    filter,
                    options: row.options,
                    start,
                    due_stored: if origin == Origin::Start { due.clone() } else { None },
                    due,
                };
                self.subscribed(&session, subscription, origin);
            }
            None => self.unsubscribed(&session, &filter, origin),
        }
        Ok(())
    }
}

fn apply_to_session(
    session: &Session,
    table: Table,
    rest: &[u8],
    row: Option<&[u8]>,
    _mark: Mark,
) -> Result<(), RowError> {
    let mut state = session.state.lock();
    match (table, row) {
        (rows::POSITION, Some(row)) => {
            let floor = Mark::from_bytes(PositionRow::from_row(row)?.floor);
            state.position.floor = floor;
            state.position.stored_floor = floor;
        }
        (rows::TOPIC_POSITION, row) => {
            let log = rows::split_key(rest).map(|(log, _)| LogId(log));
            let row = row.map(TopicPositionRow::from_row).transpose()?;
            if let Some(log) = log {
                state.position.restore(log, row);
            }
        }
        (rows::SENT, row) => {
            let Ok(first) = rest.try_into().map(u16::from_be_bytes) else {
                return Err(RowError::Key);
            };
            match row {
                Some(row) => {
                    let row = SentRow::from_row(row)?;
                    let floor = Mark::from_bytes(row.floor);
                    state.position.floor = state.position.floor.max(floor);
                    state.inflight.restore(first, &row);
                }
                None => state.inflight.remove_row(first),
            }
        }
        (rows::RETAINED_SERVED, row) => {
            let parts = rest.split_last_chunk::<8>().and_then(|(filter, log)| {
                let (_, filter) = filter.split_last()?;
                let filter = TopicFilter::parse(std::str::from_utf8(filter).ok()?).ok()?;
                Some((filter, LogId(u64::from_be_bytes(*log))))
            });
            let Some(served) = parts else { return Err(RowError::Key) };
            match row.map(RetainedServedRow::from_row).transpose()? {
                Some(row) => state.retained_served.insert(served, Mark::from_bytes(row.due)),
                None => state.retained_served.remove(&served),
            };
        }
        (rows::TOTALS, Some(row)) => state.totals = TotalsRow::from_row(row)?,
        (rows::PUBLISHED_TOPICS, Some(row)) => state.published_topics = PublishedTopicsRow::from_row(row)?,
        _ => {}
    }
    Ok(())
}
