//! The action table: every action by name, with its handler, in one line.

use std::future::{Future, ready};
use std::pin::Pin;

use super::envelope::Call;
use super::error_code::{CodeSet, ErrorCode, Fault};
use super::reply::Out;
use super::{login, mq_message, mq_publish, mq_retrieve, mq_session, mq_session_read, mq_session_write};

/// Name spaces of actions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApiName {
    /// Logins, accounts, labels, services.
    Admin,
    /// Messaging.
    Mq,
    /// One action of it.
    Hub,
}

impl ApiName {
    /// Whose numbers its actions use.
    pub fn codes(self) -> CodeSet {
        match self {
            Self::Admin => CodeSet::Admin,
            Self::Mq | Self::Hub => CodeSet::Mq,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Mq => "mq",
            Self::Hub => "hub",
        }
    }
}

/// What an action needs for a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    /// Not looked at.
    Ignored,
    /// Valid if there is one.
    Optional,
    /// Valid.
    Required,
    /// There must be one, valid or not.
    MayBeGone,
}

/// How an action is run.
pub type Handler = for<'a> fn(&'a mut Call) -> Pin<Box<dyn Future<Output = Result<Out, Fault>> + Send + 'a>>;

/// One line of the table.
pub struct Action {
    /// Its name space.
    pub api: ApiName,
    /// Its name, in its canonical spelling.
    pub name: &'static str,
    aliases: &'static [&'static str],
    /// What it needs for a token.
    pub token: Token,
    /// Its handler.
    pub run: Handler,
}

const fn line(
    api: ApiName,
    name: &'static str,
    aliases: &'static [&'static str],
    token: Token,
    run: Handler,
) -> Action {
    Action {
        api,
        name,
        aliases,
        token,
        run,
    }
}

use ApiName::{Admin, Mq};
use Token::{Ignored, MayBeGone, Optional, Required};

static ACTIONS: &[Action] = &[
    line(Admin, "createSession", &[], Ignored, |call| {
        Box::pin(login::create(call))
    }),
    line(Admin, "alterSession", &[], Required, |call| {
        Box::pin(login::alter(call))
    }),
    line(Admin, "deleteSession", &[], MayBeGone, |call| {
        Box::pin(login::delete(call))
    }),
    line(Admin, "pingSession", &[], Optional, |call| {
        Box::pin(ready(login::ping(call)))
    }),
    line(Admin, "listSessions", &[], Required, |call| {
        Box::pin(ready(login::list(call)))
    }),
    line(Admin, "describeSessions", &[], Required, |call| {
        Box::pin(ready(login::describe(call)))
    }),
    line(Admin, "manageService", &[], Required, |_| {
        Box::pin(ready(not_implemented("manageService")))
    }),
    line(Mq, "subscribeToMq", &["subscribeToMqtt"], Required, |call| {
        Box::pin(mq_message::subscribe(call))
    }),
    line(
        Mq,
        "publishMessagesToMq",
        &["publishMessagesToMqtt"],
        Required,
        |call| Box::pin(mq_publish::publish(call)),
    ),
    line(
        Mq,
        "getMessagesFromMqApiSession",
        &["getMessagesFromMqttSession"],
        Required,
        |call| Box::pin(mq_retrieve::from_session(call)),
    ),
    line(
        Mq,
        "getMessagesFromMqTopic",
        &["getMessagesFromMqttTopic", "getMessagesFromMqApiTopic"],
        Required,
        |call| Box::pin(mq_retrieve::from_topic(call)),
    ),
    line(Mq, "createMqApiSession", &["createMqttSession"], Required, |call| {
        Box::pin(mq_session_write::create(call))
    }),
    line(Mq, "alterMqSession", &["alterMqttSession"], Required, |call| {
        Box::pin(mq_session_write::alter(call))
    }),
    line(Mq, "listMqSessions", &[], Required, |call| {
        Box::pin(mq_session_read::list(call))
    }),
    line(Mq, "describeMqSessions", &["describeMqttSession"], Required, |call| {
        Box::pin(mq_session_read::describe(call))
    }),
    line(Mq, "deleteMqSession", &["deleteMqttSession"], Required, |call| {
        Box::pin(mq_session::delete(call))
    }),
];

/// Actions that exist elsewhere, with the API they belong to.
static NOT_OFFERED: &[(&str, &str)] = &[
    ("admin", "createCodePackage"),
    ("admin", "alterCodePackage"),
    ("admin", "cloneCodePackage"),
    ("admin", "revertCodePackage"),
    ("admin", "listCodePackages"),
    ("admin", "listCodePackageHistory"),
    ("admin", "describeCodePackages"),
    ("admin", "describeCodePackageHistory"),
    ("admin", "listThings"),
    ("db", "createDatabase"),
    ("db", "listDatabases"),
    ("db", "createTable"),
    ("db", "listTables"),
    ("db", "describeTables"),
    ("db", "insertRecords"),
    ("db", "updateRecords"),
    ("db", "deleteRecords"),
    ("db", "getRecordsByTable"),
    ("db", "getRecordsByIds"),
    ("db", "getRecordsByIndex"),
    ("db", "getRecordsUsingSQL"),
    ("db", "runSqlStatements"),
    ("db", "createTransaction"),
    ("db", "commitTransaction"),
    ("db", "rollbackTransaction"),
    ("db", "getRecordsFromCursor"),
    ("db", "closeCursor"),
    ("hub", "createIntegrationTable"),
    ("hub", "deleteIntegrationTables"),
    ("hub", "listIntegrationTables"),
    ("hub", "describeIntegrationTables"),
    ("hub", "createInput"),
    ("hub", "alterInput"),
    ("hub", "deleteInput"),
    ("hub", "listInputs"),
    ("hub", "describeInputs"),
    ("hub", "createOutput"),
    ("hub", "alterOutput"),
    ("hub", "deleteOutput"),
    ("hub", "listOutputs"),
    ("hub", "describeOutputs"),
];

/// APIs that exist elsewhere: every name in them is taken for one of theirs.
const FOREIGN_APIS: &[&str] = &["db", "hub", "transform"];

/// The action of a name, in any case; `api` may be empty, then all APIs are searched: no two share a name.
///
/// # Errors
/// 14701 if there is no such action, 12006 if it is not offered here.
pub fn resolve(api: &str, name: &str) -> Result<&'static Action, Fault> {
    let found = ACTIONS.iter().find(|action| {
        let named = action.name.eq_ignore_ascii_case(name)
            || action.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name));
        named && (api.is_empty() || action.api.name().eq_ignore_ascii_case(api))
    });
    if let Some(action) = found {
        return Ok(action);
    }
    let is_foreign_api = FOREIGN_APIS.iter().any(|known| known.eq_ignore_ascii_case(api));
    let is_foreign = NOT_OFFERED.iter().any(|(known_api, known)| {
        known.eq_ignore_ascii_case(name) && (api.is_empty() || known_api.eq_ignore_ascii_case(api))
    });
    if is_foreign_api || is_foreign {
        return Err(Fault::new(
            ErrorCode::NOT_SUPPORTED,
            format!("Action \"{name}\" is not supported by this server."),
        ));
    }
    let message = if api.is_empty() {
        format!("Unknown action \"{name}\".")
    } else if [ApiName::Admin, ApiName::Mq]
        .iter()
        .any(|known| known.name().eq_ignore_ascii_case(api))
    {
        format!("Unknown action \"{name}\" in API \"{api}\".")
    } else {
        format!("Unknown API \"{api}\". Use one of: admin, mq.")
    };
    Err(Fault::new(ErrorCode::UNKNOWN_ACTION, message))
}

fn not_implemented(name: &'static str) -> Result<Out, Fault> {
    Err(Fault::new(
        ErrorCode::NOT_IMPLEMENTED,
        format!("Action \"{name}\" is not implemented."),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_for_two_actions() {
        let mut names: Vec<String> = ACTIONS
            .iter()
            .flat_map(|action| std::iter::once(&action.name).chain(action.aliases))
            .chain(NOT_OFFERED.iter().map(|(_, name)| name))
            .map(|name| name.to_ascii_lowercase())
            .collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
