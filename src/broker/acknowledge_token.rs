//! The token of a manual retrieval: it stands for the positions behind a batch, and for what the batch took from share
//! groups (spec/semantics.md 6).
//!
//! ```text
//! base64 of: version u8 (1) | session u64 | generation u32 | floor mark | count u32 | (log u64, next u64) each
//!            | for each share group: filter length u16, filter, count u32, (log u64, position u64) each
//!            | 8 bytes of a keyed hash over all that, under the store's secret
//! ```
//!
//! **Invariants**
//! - A token moves positions forward only, and acknowledges only what no other member has taken since.
//! - What is no token of this session is ignored.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::Shared;
use super::position::{Bookmark, Explicit};
use super::session::{Session, SessionState};
use super::shared_retrieval::Leased;
use super::topic_filter::TopicFilter;
use crate::store::{LogId, Mark, Offset};

/// What a valid token says.
struct Token {
    session: u64,
    generation: u32,
    floor: Mark,
    positions: Vec<(LogId, Offset)>,
    leased: Vec<Leased>,
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn pairs(&mut self) -> Option<Vec<(LogId, Offset)>> {
        let count = u32::from_le_bytes(self.array()?);
        let mut pair = || {
            Some((
                LogId(u64::from_le_bytes(self.array()?)),
                Offset(u64::from_le_bytes(self.array()?)),
            ))
        };
        (0..count).map(|_| pair()).collect()
    }

    fn filter(&mut self) -> Option<TopicFilter> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (filter, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        TopicFilter::parse(std::str::from_utf8(filter).ok()?).ok()
    }
}

fn parse(covered: &[u8]) -> Option<Token> {
    let mut bytes = Bytes(covered);
    let [1] = bytes.array()? else { return None };
    let mut token = Token {
        session: u64::from_le_bytes(bytes.array()?),
        generation: u32::from_le_bytes(bytes.array()?),
        floor: Mark::from_bytes(bytes.array()?),
        positions: bytes.pairs()?,
        leased: Vec::new(),
    };
    while !bytes.0.is_empty() {
        let filter = bytes.filter()?;
        let leased = |(log, position)| Leased {
            filter: filter.clone(),
            log,
            position,
        };
        token.leased.extend(bytes.pairs()?.into_iter().map(leased));
    }
    Some(token)
}

fn put_pairs(bytes: &mut Vec<u8>, pairs: &[(LogId, Offset)]) {
    bytes.extend_from_slice(&(pairs.len() as u32).to_le_bytes());
    for (log, offset) in pairs {
        bytes.extend_from_slice(&log.0.to_le_bytes());
        bytes.extend_from_slice(&offset.0.to_le_bytes());
    }
}

impl Shared {
    /// The token that stands for the session's positions as they are now, behind a batch, and for what it leased.
    pub(super) fn token(
        &self,
        session: &Session,
        state: &SessionState,
        before: &Bookmark,
        leased: &[Leased],
    ) -> String {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&session.id.0.to_le_bytes());
        bytes.extend_from_slice(&state.generation.to_le_bytes());
        bytes.extend_from_slice(&state.position.floor.to_bytes());
        put_pairs(&mut bytes, &state.position.moved_since(before));
        let mut groups: BTreeMap<&TopicFilter, Vec<(LogId, Offset)>> = BTreeMap::new();
        for one in leased {
            groups.entry(&one.filter).or_default().push((one.log, one.position));
        }
        for (filter, pairs) in groups {
            bytes.extend_from_slice(&(filter.as_str().len() as u16).to_le_bytes());
            bytes.extend_from_slice(filter.as_str().as_bytes());
            put_pairs(&mut bytes, &pairs);
        }
        let seal = self.seal(&bytes);
        bytes.extend_from_slice(&seal);
        BASE64.encode(bytes)
    }

    fn seal(&self, bytes: &[u8]) -> [u8; 8] {
        let key = self.secret.lock().unwrap_or_default();
        // Length-extension gives nothing here: the token's fields are fixed by its length and checked by their seal.
        let inner = Sha256::new().chain_update(key).chain_update(bytes).finalize();
        let outer = Sha256::new().chain_update(key).chain_update(inner).finalize();
        let mut seal = [0; 8];
        seal.iter_mut()
            .zip(outer.iter())
            .for_each(|(place, byte)| *place = *byte);
        seal
    }

    /// Does what a token says; one that is not this session's is ignored.
    pub(super) fn acknowledge(&self, session: &Session, state: &mut SessionState, token: &str) {
        let Ok(bytes) = BASE64.decode(token) else { return };
        let Some((covered, seal)) = bytes.split_last_chunk::<8>() else {
            return;
        };
        let Some(token) = parse(covered).filter(|_| self.seal(covered) == *seal) else {
            return;
        };
        if token.session != session.id.0 || token.generation != state.generation {
            return;
        }
        if token.floor > state.position.floor {
            state.position.floor = token.floor;
            state.step = None;
        }
        for (log, next) in token.positions {
            let further = match state.position.of(log) {
                Some(Explicit::Ahead(held) | Explicit::Behind(held)) => next > held,
                None => self.topics.by_log(log).is_some(),
            };
            if further {
                state.position.set(log, Explicit::Ahead(next));
            }
        }
        for one in &token.leased {
            if let Some(group) = self.groups.get(&one.filter) {
                group.acked_by(session.id, one.log, one.position);
            }
        }
        state.leased.retain(|held| !token.leased.contains(held));
    }
}
