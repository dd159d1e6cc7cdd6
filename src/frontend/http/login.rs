//! The login family: createSession, alterSession, deleteSession, pingSession, listSessions, describeSessions.

use std::sync::Arc;

use super::Api;
use super::envelope::{
    BINARY_VALUES, Call, DEBUG_VALUES, FIXED_CHAR_VALUES, STRING_VALUES, VARIANT_VALUES, merge_options,
};
use super::error_code::{ErrorCode, Fault, INVALID_TOKEN_TEXT, Warning};
use super::params::Params;
use super::reply::{Object, Out};
use super::time;
use crate::broker::login::{Login, LoginSettings};

const API_VALUES: &[&str] = &["admin", "db", "hub", "mq", "transform"];
const NAME_BYTES_MAX: usize = 64;
const PASSWORD_BYTES_MAX: usize = 256;
const DESCRIPTION_BYTES_MAX: usize = 65_500;
const SECONDS_MAX: i64 = 2_147_483_647;

/// Logs in.
pub async fn create(call: &mut Call) -> Result<Out, Fault> {
    let params = &mut call.params;
    let username = params.required_string("username", 1..=NAME_BYTES_MAX)?;
    let password = params.string("password", 0..=PASSWORD_BYTES_MAX)?.unwrap_or_default();
    let (change, permanent) = read_settings(params)?;
    call.finish_params()?;
    let mut settings = LoginSettings::clone(&call.api.defaults);
    change.apply(&mut settings)?;
    let account = match call.api.broker.accounts().log_in(&username, &password).await {
        Ok(account) => account,
        Err(denied) => {
            tracing::warn!(%username, peer = %call.peer, %denied, "login denied");
            return Err(Fault::new(
                ErrorCode::LOGIN_FAILED,
                "The user name or the password is not valid.",
            ));
        }
    };
    let address = call.peer.ip().to_canonical();
    let created = call
        .api
        .broker
        .logins()
        .create(&account.name, settings, permanent.unwrap_or(false), address);
    let login = created.await?;
    call.new_token = login.token();
    Ok(session(&call.api, &login).into())
}

/// Changes the settings of the login that asks.
pub async fn alter(call: &mut Call) -> Result<Out, Fault> {
    for name in ["username", "password"] {
        if call.params.has(name) {
            return Err(call.params.invalid(name, "cannot be changed by \"alterSession\""));
        }
    }
    let (change, permanent) = read_settings(&mut call.params)?;
    call.finish_params()?;
    let login = Arc::clone(call.login()?);
    let mut checked = LoginSettings::clone(&login.settings());
    change.apply(&mut checked)?;
    let apply = move |settings: &mut LoginSettings| {
        // The spellings were checked above; only who altered at the same time can make a difference.
        if change.apply(settings).is_err() {
            *settings = checked;
        }
    };
    call.api.broker.logins().alter(&login, apply, permanent).await?;
    Ok(session(&call.api, &login).into())
}

/// Logs out.
pub async fn delete(call: &mut Call) -> Result<Out, Fault> {
    call.finish_params()?;
    match &call.login {
        Some(login) => call.api.broker.logins().end(login).await?,
        None => call.warnings.push(Warning::new(
            ErrorCode::INVALID_TOKEN,
            "'authToken' does not match any existing session. Use a valid 'authToken'.",
        )),
    }
    Ok(Out::empty())
}

/// Says that the service is up; a valid token has its idle time reset before.
pub fn ping(_call: &mut Call) -> Result<Out, Fault> {
    Ok(Out::empty())
}

/// Lists the logins that the account may see.
pub fn list(call: &mut Call) -> Result<Out, Fault> {
    let names = call
        .params
        .strings("usernameFilter", 1..=NAME_BYTES_MAX)?
        .unwrap_or_default();
    let page = Page::read(&mut call.params)?;
    call.finish_params()?;
    let account = call.account()?;
    let logins = call.api.broker.logins().list().into_iter().filter(|login| {
        let listed = names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(&login.username));
        listed && (account.is_admin() || login.username == account.name)
    });
    let sessions: Vec<Out> = page
        .of(logins)
        .map(|login| {
            Object::new()
                .with("authToken", login.token().as_deref().unwrap_or_default())
                .with("username", login.username.as_str())
                .with(
                    "description",
                    login.settings().description.as_deref().unwrap_or_default(),
                )
                .into()
        })
        .collect();
    Ok(Object::new().with("sessions", sessions).into())
}

/// Describes the named logins, or all of the account.
pub fn describe(call: &mut Call) -> Result<Out, Fault> {
    let tokens = call.params.strings("authTokens", 0..=255)?.unwrap_or_default();
    call.finish_params()?;
    let account = call.account()?;
    let mut described: Vec<Out> = Vec::new();
    if tokens.is_empty() {
        let own = call
            .api
            .broker
            .logins()
            .list()
            .into_iter()
            .filter(|login| login.username == account.name);
        described.extend(own.map(|login| Out::from(session(&call.api, &login))));
    }
    for token in tokens {
        match call.api.broker.logins().peek(&token) {
            Some(login) if account.is_admin() || login.username == account.name => {
                described.push(session(&call.api, &login).into());
            }
            _ => call
                .warnings
                .push(Warning::new(ErrorCode::INVALID_TOKEN, INVALID_TOKEN_TEXT)),
        }
    }
    Ok(Object::new().with("sessions", described).into())
}

/// Which part of a list is wanted.
pub struct Page {
    skip: usize,
    most: usize,
}

impl Page {
    /// `skipRecords` and `maxRecords`.
    pub fn read(params: &mut Params) -> Result<Self, Fault> {
        let skip = params.integer("skipRecords", 0..=i64::MAX)?.unwrap_or(0);
        let most = params.integer("maxRecords", 1..=i64::MAX)?.unwrap_or(i64::MAX);
        Ok(Self {
            skip: skip as usize,
            most: most as usize,
        })
    }

    /// That part of `items`, which are filtered and sorted.
    pub fn of<T>(&self, items: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        items.skip(self.skip).take(self.most)
    }
}

/// What a request changes; `None` leaves as it is.
#[derive(Clone)]
struct Change {
    description: Option<String>,
    default_api: Option<&'static str>,
    default_debug: Option<&'static str>,
    default_binary_format: Option<&'static str>,
    default_variant_format: Option<&'static str>,
    default_string_format: Option<&'static str>,
    default_fixed_length_char_format: Option<&'static str>,
    default_database_name: Option<String>,
    default_owner_name: Option<String>,
    response: serde_json::Map<String, serde_json::Value>,
    idle_seconds: Option<i64>,
    idle_cursor_seconds: Option<i64>,
    transform_buffer_bytes: Option<i64>,
}

fn read_settings(params: &mut Params) -> Result<(Change, Option<bool>), Fault> {
    let change = Change {
        description: params.string("description", 0..=DESCRIPTION_BYTES_MAX)?,
        default_api: params.choice("defaultApi", API_VALUES)?,
        default_debug: params.choice("defaultDebug", DEBUG_VALUES)?,
        default_binary_format: params.choice("defaultBinaryFormat", BINARY_VALUES)?,
        default_variant_format: params.choice("defaultVariantFormat", VARIANT_VALUES)?,
        default_string_format: params.choice("defaultStringFormat", STRING_VALUES)?,
        default_fixed_length_char_format: params.choice("defaultFixedLengthCharFormat", FIXED_CHAR_VALUES)?,
        default_database_name: params.string("defaultDatabaseName", 1..=NAME_BYTES_MAX)?,
        default_owner_name: params.string("defaultOwnerName", 1..=NAME_BYTES_MAX)?,
        response: params.object("defaultResponseOptions")?.unwrap_or_default(),
        // 0 means the server's default, so it is in the range.
        idle_seconds: params.integer("idleConnectionTimeoutSeconds", 0..=SECONDS_MAX)?,
        idle_cursor_seconds: params.integer("idleCursorTimeoutSeconds", 0..=SECONDS_MAX)?,
        transform_buffer_bytes: params.integer("transformBufferInitialBytes", 0..=SECONDS_MAX)?,
    };
    Ok((change, params.boolean("permanentSession")?))
}

impl Change {
    fn apply(&self, settings: &mut LoginSettings) -> Result<(), Fault> {
        let defaults = LoginSettings::default();
        let choose = |value: Option<&str>, target: &mut String| {
            if let Some(value) = value {
                value.clone_into(target);
            }
        };
        if self.description.is_some() {
            settings.description.clone_from(&self.description);
        }
        choose(self.default_api, &mut settings.default_api);
        choose(self.default_debug, &mut settings.default_debug);
        choose(self.default_binary_format, &mut settings.default_binary_format);
        choose(self.default_variant_format, &mut settings.default_variant_format);
        choose(self.default_string_format, &mut settings.default_string_format);
        choose(
            self.default_fixed_length_char_format,
            &mut settings.default_fixed_length_char_format,
        );
        choose(
            self.default_database_name.as_deref(),
            &mut settings.default_database_name,
        );
        choose(self.default_owner_name.as_deref(), &mut settings.default_owner_name);
        merge_options(&mut settings.response, self.response.clone(), ErrorCode::INVALID_VALUE)?;
        let or_default = |value: i64, default: u32| match u32::try_from(value) {
            Ok(0) | Err(_) => default,
            Ok(value) => value,
        };
        if let Some(value) = self.idle_seconds {
            settings.idle_seconds = or_default(value, defaults.idle_seconds);
        }
        if let Some(value) = self.idle_cursor_seconds {
            settings.idle_cursor_seconds = or_default(value, defaults.idle_cursor_seconds);
        }
        if let Some(value) = self.transform_buffer_bytes {
            settings.transform_buffer_bytes = or_default(value, 0);
        }
        Ok(())
    }
}

/// A login as every action of the family shows it.
fn session(api: &Api, login: &Login) -> Object {
    let settings = login.settings();
    let response = &settings.response;
    let options = Object::new()
        .with("binaryFormat", response.binary_format.as_str())
        .with("variantFormat", response.variant_format.as_str())
        .with("dataFormat", response.data_format.as_str())
        .with("numberFormat", response.number_format.as_str())
        .with("stringFormat", response.string_format.as_str())
        .with("fixedLengthCharFormat", response.fixed_length_char_format.as_str())
        .with("includeBookmarks", response.include_bookmarks);
    let info = &api.info;
    let addresses: Vec<Out> = info.addresses.iter().map(|address| address.as_str().into()).collect();
    Object::new()
        .with("authToken", login.token().as_deref().unwrap_or_default())
        .with("username", login.username.as_str())
        .with_some("description", settings.description.as_deref())
        .with("defaultApi", settings.default_api.as_str())
        .with("defaultDebug", settings.default_debug.as_str())
        .with("defaultBinaryFormat", settings.default_binary_format.as_str())
        .with("defaultVariantFormat", settings.default_variant_format.as_str())
        .with("defaultStringFormat", settings.default_string_format.as_str())
        .with(
            "defaultFixedLengthCharFormat",
            settings.default_fixed_length_char_format.as_str(),
        )
        .with("defaultDatabaseName", settings.default_database_name.as_str())
        .with("defaultOwnerName", settings.default_owner_name.as_str())
        .with("defaultResponseOptions", options)
        .with("idleConnectionTimeoutSeconds", settings.idle_seconds)
        .with("idleCursorTimeoutSeconds", settings.idle_cursor_seconds)
        .with("transformBufferInitialBytes", settings.transform_buffer_bytes)
        .with("permanentSession", login.is_permanent())
        .with("sessionStartTimestamp", time::seconds(login.started_ms))
        .with("sessionLastAccessedTimestamp", time::seconds(login.used_ms()))
        .with("defaultRetentionPolicy", info.retention_policy.as_str())
        .with("defaultRetentionUnit", info.retention_unit.as_str())
        .with("defaultRetentionPeriod", info.retention_period)
        .with("serverVersion", info.version.as_str())
        .with("hostname", info.hostname.as_str())
        .with("hostUuid", info.uuid.as_str())
        .with("hostIpAddresses", addresses)
}
