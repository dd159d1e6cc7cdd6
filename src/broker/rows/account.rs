//! Accounts as stored. Key: the name in upper case, UTF-8.

use serde::{Deserialize, Serialize};

use super::StoredRow;

/// One account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccountRow {
    /// Argon2id in PHC string form; never the password.
    pub password_hash: String,
    /// Free text.
    pub description: String,
    /// First moment of logins, ms since 1970 UTC.
    pub enabled_from_ms: Option<i64>,
    /// Last moment of logins, ms since 1970 UTC.
    pub enabled_until_ms: Option<i64>,
    /// Failures in a row before a lock-out; 0 is never.
    pub lockout_after_failures: u32,
    /// Length of a lock-out.
    pub lockout_minutes: u32,
    /// Age at which a password must be changed; 0 is never.
    pub password_days_max: u32,
    /// The account must log in at least this often; 0 is unlimited.
    pub login_gap_minutes_max: u32,
    /// Kept for its readers, without effect.
    pub memory_limit: u32,
    /// When the password was set, ms since 1970 UTC.
    pub password_changed_ms: i64,
    /// Roles, upper case.
    pub roles: Vec<String>,
}

impl StoredRow for AccountRow {
    const VERSION: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_survives_the_round_trip() {
        super::super::checks::survives_the_round_trip_and_nothing_else(&AccountRow {
            password_hash: "$argon2id$v=19$m=8,t=1,p=1$AAAA$BBBB".into(),
            description: "press line 4".into(),
            enabled_from_ms: Some(-5),
            enabled_until_ms: None,
            lockout_after_failures: 3,
            lockout_minutes: 15,
            password_days_max: 90,
            login_gap_minutes_max: 0,
            memory_limit: 7,
            password_changed_ms: 1_700_000_000_000,
            roles: vec!["ADMIN".into()],
        });
    }
}
