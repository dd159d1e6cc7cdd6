//! Permanent logins as stored. Key: SHA-256 of the token, so that the data directory never holds a token.

use serde::{Deserialize, Serialize};

use super::StoredRow;
use crate::broker::login::LoginSettings;

/// One permanent login.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoginRow {
    /// The account, upper case.
    pub username: String,
    /// When it was made, ms since 1970 UTC.
    pub started_ms: i64,
    /// What its holder chose. A change of [`LoginSettings`] raises the version.
    pub settings: LoginSettings,
}

impl StoredRow for LoginRow {
    const VERSION: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_survives_the_round_trip() {
        let mut settings = LoginSettings {
            description: Some("dashboard".into()),
            ..LoginSettings::default()
        };
        settings.response.omit = vec!["errorMessage".into()];
        super::super::checks::survives_the_round_trip_and_nothing_else(&LoginRow {
            username: "ADMIN".into(),
            started_ms: 1_700_000_000_000,
            settings,
        });
    }
}
