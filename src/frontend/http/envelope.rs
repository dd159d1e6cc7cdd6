//! The shape of requests and responses: one JSON object in, one out, whatever the action.
//!
//! The order of checks is the order of the code: body, types of the envelope, action, token, then the action itself.
//! The first failure is the answer. Whoever sends a valid token resets its idle time, also with a request that fails.
//!
//! An action runs as a task of its own: a client that hangs up does not stop it half way, and a panic in it is an
//! answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::Api;
use super::dispatch::{self, Token};
use super::error_code::{CodeSet, ErrorCode, Fault, Warning, invalid_token};
use super::params::{Params, bad_choice, boolean, canonical, wrong_type};
use super::reply::Out;
use crate::broker::Caller;
use crate::broker::account::Account;
use crate::broker::login::{Login, LoginSettings, ResponseDefaults};

/// The longest `errorMessage`, in bytes.
const MESSAGE_BYTES_MAX: usize = 256;
/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 255;
/// The longest `apiVersion`, in bytes.
const VERSION_BYTES_MAX: usize = 12;

pub(super) const DEBUG_VALUES: &[&str] = &["none", "min", "max", "maxOnError"];
pub(super) const BINARY_VALUES: &[&str] = &["base64", "hex", "byteArray"];
pub(super) const VARIANT_VALUES: &[&str] = &["json", "binary", "string", "variantObject"];
pub(super) const STRING_VALUES: &[&str] = &["json"];
pub(super) const FIXED_CHAR_VALUES: &[&str] = &["sql", "trimTrailingSpaces", "trimTrailingPadding"];
const NUMBER_VALUES: &[&str] = &["number", "string"];
const DATA_VALUES: &[&str] = &["objects", "arrays", "default", "autoDetect"];

/// One request on its way through an action.
pub struct Call {
    /// What actions reach.
    pub api: Arc<Api>,
    /// Where it came from.
    pub peer: SocketAddr,
    /// The login of its token.
    pub login: Option<Arc<Login>>,
    /// Its arguments.
    pub params: Params,
    /// The name of the action as it was sent; an older name may mean something else.
    pub action_as_sent: String,
    /// Members of the envelope; some actions accept one of their arguments there.
    pub envelope: Map<String, Value>,
    /// How values are rendered.
    pub options: ResponseDefaults,
    /// What is worth knowing and no failure.
    pub warnings: Vec<Warning>,
    /// The token of a login made by this call.
    pub new_token: Option<Arc<str>>,
    gone: oneshot::Receiver<Infallible>,
}

impl Call {
    /// Over when the client has hung up; nobody waits for the answer then.
    pub async fn client_gone(&mut self) {
        // Nothing is ever sent: the other end is dropped with the request.
        (&mut self.gone).await.ok();
    }

    /// The settings of the login, or the server's.
    pub fn settings(&self) -> Arc<LoginSettings> {
        match &self.login {
            Some(login) => login.settings(),
            None => Arc::clone(&self.api.defaults),
        }
    }

    /// The login of an action that cannot be reached without one.
    ///
    /// # Errors
    /// 12031 if there is none.
    pub fn login(&self) -> Result<&Arc<Login>, Fault> {
        self.login.as_ref().ok_or_else(invalid_token)
    }

    /// The account of the login.
    ///
    /// # Errors
    /// 12031 if there is none, or it was dropped.
    pub fn account(&self) -> Result<Arc<Account>, Fault> {
        self.api
            .broker
            .accounts()
            .get(&self.login()?.username)
            .ok_or_else(invalid_token)
    }

    /// Who acts on messaging sessions.
    ///
    /// # Errors
    /// As [`Call::account`].
    pub fn caller(&self) -> Result<Caller, Fault> {
        let account = self.account()?;
        Ok(Caller {
            administrator: account.is_admin(),
            account: account.name.clone(),
            login: self.login()?.id.0,
            peer: self.peer,
        })
    }

    /// Complains about arguments that nobody has read.
    ///
    /// # Errors
    /// In strict mode.
    pub fn finish_params(&mut self) -> Result<(), Fault> {
        let nothing = Params::new(Map::new(), self.params.codes());
        std::mem::replace(&mut self.params, nothing).finish(self.api.strict_params, &mut self.warnings)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Debug {
    None,
    Max,
    MaxOnError,
}

impl Debug {
    fn parse(text: &str) -> Option<Self> {
        match canonical(text, DEBUG_VALUES)? {
            "none" => Some(Self::None),
            "maxOnError" => Some(Self::MaxOnError),
            _ => Some(Self::Max),
        }
    }
}

/// What the response is made of besides the outcome; known before the action runs.
struct Frame {
    auth_token: Option<String>,
    request_id: Option<Value>,
    request: Option<Map<String, Value>>,
    debug: Debug,
    options: ResponseDefaults,
}

#[derive(Default)]
struct Outcome {
    warnings: Vec<Warning>,
    new_token: Option<Arc<str>>,
}

/// Answers the body of one request.
pub async fn answer(api: &Arc<Api>, peer: SocketAddr, body: &[u8]) -> Vec<u8> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let request = match serde_json::from_slice(body) {
        Ok(Value::Object(request)) => request,
        Ok(_) => return failed("The request body must be a JSON object."),
        Err(error) => return failed(&format!("The request body is not valid JSON: {error}.")),
    };
    let auth_token = match request.get("authToken") {
        Some(Value::String(token)) if !token.is_empty() => Some(token.clone()),
        _ => None,
    };
    let login = match &auth_token {
        Some(token) if token.len() <= TOKEN_BYTES_MAX => api.broker.logins().authenticate(token),
        _ => None,
    };
    let settings = login
        .as_ref()
        .map_or_else(|| Arc::clone(&api.defaults), |login| login.settings());
    let debug = match request.get("debug") {
        Some(Value::String(text)) => Debug::parse(text),
        _ => None,
    };
    let debug = debug
        .or_else(|| Debug::parse(&settings.default_debug))
        .unwrap_or(Debug::None);
    let mut frame = Frame {
        auth_token,
        request_id: request.get("requestId").filter(|id| !id.is_null()).cloned(),
        request: (debug != Debug::None).then(|| masked(&request)),
        debug,
        options: settings.response.clone(),
    };
    let mut outcome = Outcome::default();
    let result = run(api, peer, request, login, &mut frame, &mut outcome).await;
    frame.render(result, outcome)
}

/// The answer to what never became a request.
pub fn failed(message: &str) -> Vec<u8> {
    let frame = Frame {
        auth_token: None,
        request_id: None,
        request: None,
        debug: Debug::None,
        options: ResponseDefaults::default(),
    };
    frame.render(Err(Fault::new(ErrorCode::TRANSPORT, message)), Outcome::default())
}

async fn run(
    api: &Arc<Api>,
    peer: SocketAddr,
    mut request: Map<String, Value>,
    login: Option<Arc<Login>>,
    frame: &mut Frame,
    outcome: &mut Outcome,
) -> Result<Out, Fault> {
    let action = text(&mut request, "action")?;
    let api_name = text(&mut request, "api")?;
    let params = match request.swap_remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(members)) => members,
        Some(other) => return Err(wrong_type("params", "an object", &other)),
    };
    let auth_token = text(&mut request, "authToken")?.unwrap_or_default();
    if auth_token.len() > TOKEN_BYTES_MAX {
        return Err(super::params::too_long(CodeSet::Admin, "authToken", TOKEN_BYTES_MAX));
    }
    if let Some(debug) = text(&mut request, "debug")?
        && Debug::parse(&debug).is_none()
    {
        return Err(bad_choice(ErrorCode::ENVELOPE_VALUE, "debug", &debug, DEBUG_VALUES));
    }
    match request.swap_remove("responseOptions") {
        None | Some(Value::Null) => {}
        Some(Value::Object(members)) => {
            let mut options = frame.options.clone();
            merge_options(&mut options, members, ErrorCode::ENVELOPE_VALUE)?;
            frame.options = options;
        }
        Some(other) => return Err(wrong_type("responseOptions", "an object", &other)),
    }
    check_version(text(&mut request, "apiVersion")?.as_deref().unwrap_or_default())?;
    let action = match action {
        Some(action) if !action.is_empty() => action,
        _ => {
            return Err(Fault::new(
                ErrorCode::ENVELOPE_VALUE,
                "Required property \"action\" is missing from the request.",
            ));
        }
    };
    let action_as_sent = action;
    let action = dispatch::resolve(api_name.as_deref().unwrap_or_default(), &action_as_sent)?;
    match action.token {
        Token::Ignored => {}
        Token::Optional => {
            if !auth_token.is_empty() && login.is_none() {
                return Err(invalid_token());
            }
        }
        Token::Required | Token::MayBeGone => {
            if auth_token.is_empty() {
                return Err(Fault::new(
                    ErrorCode::MISSING,
                    "Required property \"authToken\" is missing from the request. Use 'createSession' to get one.",
                ));
            }
            if login.is_none() && action.token == Token::Required {
                return Err(invalid_token());
            }
        }
    }
    let (_here, gone) = oneshot::channel();
    let mut call = Call {
        api: Arc::clone(api),
        peer,
        login,
        params: Params::new(params, action.api.codes()),
        action_as_sent,
        envelope: request,
        options: frame.options.clone(),
        warnings: Vec::new(),
        new_token: None,
        gone,
    };
    let task = tokio::spawn(async move {
        let mut result = (action.run)(&mut call).await;
        if result.is_ok()
            && let Err(fault) = call.finish_params()
        {
            result = Err(fault);
        }
        (result, call.warnings, call.new_token)
    });
    match task.await {
        Ok((result, warnings, new_token)) => {
            *outcome = Outcome { warnings, new_token };
            result
        }
        Err(error) => {
            tracing::error!(action = action.name, %error, "an action did not end");
            Err(Fault::new(
                ErrorCode::INTERNAL,
                "Internal error. The server's log has the cause.",
            ))
        }
    }
}

impl Frame {
    fn render(self, result: Result<Out, Fault>, outcome: Outcome) -> Vec<u8> {
        let omit = &self.options.omit;
        let keeps = |name: &str| !omit.iter().any(|omitted| omitted == name);
        let (result, code, message) = match result {
            Ok(result) => (result, 0, String::new()),
            Err(fault) => (Out::empty(), fault.code.0, cut(fault.message)),
        };
        let numbers_as_text = self.options.number_format == "string";
        let mut response = Map::new();
        let new_token = outcome.new_token.filter(|_| code == 0).map(|token| token.to_string());
        if let Some(token) = new_token.or(self.auth_token)
            && keeps("authToken")
        {
            response.insert("authToken".into(), token.into());
        }
        if keeps("result") {
            response.insert("result".into(), result.finish(numbers_as_text, omit));
        }
        if let Some(id) = self.request_id
            && keeps("requestId")
        {
            response.insert("requestId".into(), id);
        }
        let wants_debug = match self.debug {
            Debug::None => false,
            Debug::Max => true,
            Debug::MaxOnError => code != 0,
        };
        if wants_debug && keeps("debugInfo") {
            let mut debug = Map::new();
            debug.insert("request".into(), self.request.unwrap_or_default().into());
            if !outcome.warnings.is_empty() {
                let warnings = outcome.warnings.into_iter();
                let warnings = warnings.map(|warning| json!({"code": warning.code.0, "message": cut(warning.message)}));
                debug.insert("warnings".into(), warnings.collect());
            }
            if code != 0 {
                debug.insert("errorData".into(), json!({}));
            }
            response.insert("debugInfo".into(), Out::Own(debug.into()).finish(false, omit));
        }
        // An error must not be mistaken for success, whatever the client does not want to see.
        if code != 0 || keeps("errorCode") {
            response.insert("errorCode".into(), code.into());
        }
        if keeps("errorMessage") {
            response.insert("errorMessage".into(), message.into());
        }
        let written = match self.debug {
            Debug::None => serde_json::to_vec(&response),
            Debug::Max | Debug::MaxOnError => serde_json::to_vec_pretty(&response),
        };
        written.unwrap_or_else(|error| {
            tracing::error!(%error, "a response cannot be written");
            br#"{"result":{},"errorCode":12009,"errorMessage":"Internal error."}"#.to_vec()
        })
    }
}

/// Takes response options over `options`, member by member; unknown ones are ignored.
///
/// # Errors
/// 14702 for a wrong type, `bad_value` for an unknown spelling.
pub fn merge_options(
    options: &mut ResponseDefaults,
    members: Map<String, Value>,
    bad_value: ErrorCode,
) -> Result<(), Fault> {
    for (name, value) in members {
        if value.is_null() {
            continue;
        }
        let (target, values) = match name.as_str() {
            "binaryFormat" => (&mut options.binary_format, BINARY_VALUES),
            "variantFormat" => (&mut options.variant_format, VARIANT_VALUES),
            "numberFormat" => (&mut options.number_format, NUMBER_VALUES),
            "stringFormat" => (&mut options.string_format, STRING_VALUES),
            "fixedLengthCharFormat" => (&mut options.fixed_length_char_format, FIXED_CHAR_VALUES),
            "dataFormat" => (&mut options.data_format, DATA_VALUES),
            "includeBookmarks" => {
                options.include_bookmarks = boolean(&name, &value)?;
                continue;
            }
            "omit" => {
                options.omit = names(&name, value)?;
                continue;
            }
            "includeFields" | "excludeFields" | "includePaths" | "excludePaths" => {
                names(&name, value)?;
                continue;
            }
            _ => continue,
        };
        let Value::String(text) = value else {
            return Err(wrong_type(&name, "a string", &value));
        };
        match canonical(&text, values) {
            Some("default") => {}
            Some(value) => value.clone_into(target),
            None => return Err(bad_choice(bad_value, &name, &text, values)),
        }
    }
    Ok(())
}

fn names(name: &str, value: Value) -> Result<Vec<String>, Fault> {
    let Value::Array(items) = value else {
        return Err(wrong_type(name, "an array", &value));
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::String(text) => texts.push(text),
            other => return Err(wrong_type(name, "an array of strings", &Value::Array(vec![other]))),
        }
    }
    Ok(texts)
}

fn text(request: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    match request.swap_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(name, "a string", &other)),
    }
}

fn check_version(version: &str) -> Result<(), Fault> {
    if version.is_empty() {
        return Ok(());
    }
    let parts: Vec<&str> = version.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if version.len() > VERSION_BYTES_MAX || parts.len() > 3 || !parts.iter().all(is_number) {
        return Err(Fault::new(
            ErrorCode::WRONG_TYPE,
            "Property \"apiVersion\" must be major[.minor[.patch]], for example \"1.0\".",
        ));
    }
    if parts.first().is_some_and(|major| major.parse() == Ok(1)) {
        return Ok(());
    }
    Err(Fault::new(
        ErrorCode::NOT_SUPPORTED,
        format!("API version \"{version}\" is not supported. Use \"1.0\"."),
    ))
}

/// The request as received, without the password.
fn masked(request: &Map<String, Value>) -> Map<String, Value> {
    let mut request = request.clone();
    if let Some(Value::Object(params)) = request.get_mut("params")
        && let Some(password) = params.get_mut("password")
    {
        *password = "********".into();
    }
    request
}

fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}
