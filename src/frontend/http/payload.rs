//! Payloads and correlation data between JSON and bytes.
//!
//! Bytes are what is stored and delivered; JSON is only how a request or a response carries them. The chain that decides
//! how a request meant its payload is here in one place: [`Encoding::of_message`].
//!
//! **Invariants**
//! - A string without any format is never guessed to be text: whether `FACADE` is text or hex must not depend on its
//!   letters.
//! - Decoding what [`encode`] wrote, under the format it names, gives the same bytes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Value, json};

use super::error_code::{CodeSet, ErrorCode, Fault, Warning};
use super::params::{Params, canonical, too_long};
use super::reply::Out;
use crate::broker::login::{LoginSettings, ResponseDefaults};

/// The largest correlation data, in bytes.
pub const CORRELATION_BYTES_MAX: usize = 65_500;

/// Values of `binaryFormat` on messages.
pub const FORMAT_VALUES: &[&str] = &["hex", "base64", "byteArray", "utf8", "json"];
const VARIANT_SCHEMA: &str = "jsonaction.org/schemas/variantObject";
const TYPE_NAME_BYTES_MAX: usize = 64;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How JSON carries bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Hexadecimal digits, written in upper case.
    Hex,
    /// RFC 4648, standard alphabet, padded when written.
    Base64,
    /// A list of numbers from 0 to 255.
    ByteArray,
    /// Text.
    Utf8,
    /// The JSON value whose compact text the bytes are.
    Json,
}

impl Format {
    /// The format of a spelling, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match canonical(text, FORMAT_VALUES)? {
            "hex" => Self::Hex,
            "base64" => Self::Base64,
            "byteArray" => Self::ByteArray,
            "utf8" => Self::Utf8,
            _ => Self::Json,
        })
    }

    /// Its canonical spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::ByteArray => "byteArray",
            Self::Utf8 => "utf8",
            Self::Json => "json",
        }
    }

    /// Whether a publish in this format sets the Payload Format Indicator.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Utf8 | Self::Json)
    }
}

/// The type a message carries besides its bytes: a hint for validation and presentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PayloadType {
    /// Bytes of unknown kind.
    Binary,
    /// Text.
    Utf8,
    /// JSON text.
    Json,
    /// Another variant type, stored and returned as it is.
    Named(String),
}

impl PayloadType {
    /// The type of a spelling, in any case; `string` is `utf8`.
    pub fn parse(text: &str) -> Self {
        match canonical(text, &["binary", "utf8", "string", "json"]) {
            Some("binary") => Self::Binary,
            Some("utf8" | "string") => Self::Utf8,
            Some(_) => Self::Json,
            None => Self::Named(text.to_owned()),
        }
    }

    /// Its spelling on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Binary => "binary",
            Self::Utf8 => "utf8",
            Self::Json => "json",
            Self::Named(name) => name,
        }
    }

    /// The encoding it implies; `binary` and others imply none.
    fn format(&self) -> Option<Format> {
        match self {
            Self::Utf8 => Some(Format::Utf8),
            Self::Json => Some(Format::Json),
            Self::Binary | Self::Named(_) => None,
        }
    }

    /// Reads `mqttPayloadType`, or a property that means the same.
    ///
    /// # Errors
    /// Wrong type, empty or too long.
    pub fn read(params: &mut Params, name: &str) -> Result<Option<Self>, Fault> {
        let text = params.string(name, 1..=TYPE_NAME_BYTES_MAX)?;
        Ok(text.map(|text| Self::parse(&text)))
    }
}

/// Reads `binaryFormat` of a message or of a whole request.
///
/// # Errors
/// Wrong type, or an unknown spelling.
pub fn read_format(params: &mut Params, name: &str) -> Result<Option<Format>, Fault> {
    Ok(params.choice(name, FORMAT_VALUES)?.and_then(Format::parse))
}

/// What one place of a request (a message, or `params`) says about payloads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// `binaryFormat`.
    pub format: Option<Format>,
    /// `mqttPayloadType`.
    pub kind: Option<PayloadType>,
}

impl Said {
    /// Reads both members of one place.
    ///
    /// # Errors
    /// See [`read_format`] and [`PayloadType::read`].
    pub fn read(params: &mut Params) -> Result<Self, Fault> {
        Ok(Self {
            format: read_format(params, "binaryFormat")?,
            kind: PayloadType::read(params, "mqttPayloadType")?,
        })
    }
}

/// How a payload is to be read, and how sure that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Somebody said so.
    Said(Format),
    /// An object with the schema of a variant object is unpacked, anything else is as [`Encoding::Default`].
    VariantObject(Format),
    /// Nobody said anything: the default of the login.
    Default(Format),
}

impl Encoding {
    /// What is said first counts: by the message, by the request, by the MQ session's `mqttPayloadType`, by
    /// `variantFormat` (of the request, else of the login), by the login's default.
    ///
    /// A `mqttPayloadType` of `binary` in one of the first two places ends the search for text: the default applies.
    pub fn of_message(
        message: &Said,
        request: &Said,
        session: &PayloadType,
        variant_format: Option<&str>,
        login: &LoginSettings,
    ) -> Self {
        let default = Format::parse(&login.default_binary_format).unwrap_or(Format::Hex);
        for said in [message, request] {
            if let Some(format) = said.format {
                return Self::Said(format);
            }
            if let Some(kind) = &said.kind {
                return kind.format().map_or(Self::Default(default), Self::Said);
            }
        }
        if let Some(format) = session.format() {
            return Self::Said(format);
        }
        match variant_format.unwrap_or(&login.default_variant_format) {
            "string" => Self::Said(Format::Utf8),
            "variantObject" => Self::VariantObject(default),
            _ => Self::Default(default),
        }
    }
}

/// A payload that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The format it was in.
    pub format: Format,
}

impl Decoded {
    /// The payload type that the format stands for, if the request named none.
    pub fn kind(&self) -> PayloadType {
        match self.format {
            Format::Utf8 => PayloadType::Utf8,
            Format::Json => PayloadType::Json,
            Format::Hex | Format::Base64 | Format::ByteArray => PayloadType::Binary,
        }
    }
}

/// The bytes of a payload; `None` is the empty one.
///
/// # Errors
/// 14222 if it is not in its format.
pub fn decode(
    name: &str,
    payload: Option<Value>,
    encoding: Encoding,
    warnings: &mut Vec<Warning>,
) -> Result<Decoded, Fault> {
    let (Encoding::Said(mut format) | Encoding::Default(mut format) | Encoding::VariantObject(mut format)) = encoding;
    // Under a format that somebody chose, null is no payload; only JSON has it as a value.
    let says_nothing =
        |value: &Value| value.is_null() && matches!(encoding, Encoding::Said(said) if said != Format::Json);
    let mut payload = payload
        .filter(|value| !says_nothing(value))
        .unwrap_or_else(|| Value::String(String::new()));
    if matches!(encoding, Encoding::VariantObject(_))
        && let Some((value, inner)) = unpack(&payload, format)
    {
        payload = value;
        format = inner;
    } else if !matches!(encoding, Encoding::Said(_)) && !matches!(payload, Value::String(_) | Value::Array(_)) {
        // A bare default of hex cannot mean an object, a number or a Boolean.
        format = Format::Json;
    }
    let hint = if matches!(encoding, Encoding::Said(_)) {
        ""
    } else {
        " Add \"mqttPayloadType\": \"utf8\" to send text."
    };
    let fault = |why: &str| {
        Fault::new(
            ErrorCode::INVALID_FORMAT,
            format!(
                "Property \"{name}\" is not valid in format \"{}\": {why}.{hint}",
                format.name()
            ),
        )
    };
    let bytes = match (format, payload) {
        (Format::Json, Value::String(text)) if text.is_empty() => Vec::new(),
        (Format::Json, value) => value.to_string().into_bytes(),
        (Format::Utf8, Value::String(text)) => text.into_bytes(),
        (Format::Hex, Value::String(text)) => {
            if text.len() % 2 == 1 {
                let message = format!("Property \"{name}\" has an odd number of hex digits; a 0 was put before them.");
                warnings.push(Warning::new(ErrorCode::INVALID_FORMAT, message));
            }
            from_hex(&text).ok_or_else(|| fault("it has characters that are no hex digits"))?
        }
        (Format::Base64, Value::String(text)) => BASE64
            .decode(text)
            .map_err(|error| fault(&error.to_string().to_lowercase()))?,
        (Format::ByteArray, Value::String(text)) if text.is_empty() => Vec::new(),
        (Format::ByteArray, Value::Array(items)) => {
            let bytes = items
                .iter()
                .map(|item| item.as_u64().and_then(|byte| u8::try_from(byte).ok()));
            let bytes: Option<Vec<u8>> = bytes.collect();
            bytes.ok_or_else(|| fault("its elements must be integers from 0 to 255"))?
        }
        (Format::ByteArray, _) => return Err(fault("it must be an array of integers")),
        (Format::Hex | Format::Base64 | Format::Utf8, _) => return Err(fault("it must be a string")),
    };
    Ok(Decoded { bytes, format })
}

/// Value and format of a variant object; `None` if it is none.
fn unpack(payload: &Value, default: Format) -> Option<(Value, Format)> {
    let members = payload.as_object()?;
    if members.get("schema")?.as_str()? != VARIANT_SCHEMA {
        return None;
    }
    let value = members.get("value")?.clone();
    let encoded = |name: &str| {
        let encodings = members.get("valueEncoding").and_then(Value::as_array);
        encodings.is_some_and(|all| {
            all.iter()
                .any(|one| one.as_str().is_some_and(|one| one.eq_ignore_ascii_case(name)))
        })
    };
    let kind = members.get("type").and_then(Value::as_str).unwrap_or_default();
    let format = if encoded("hex") {
        Format::Hex
    } else if encoded("base64") {
        Format::Base64
    } else if kind.eq_ignore_ascii_case("binary") {
        default
    } else if matches!(value, Value::String(_)) && (encoded("json") || !kind.eq_ignore_ascii_case("json")) {
        // Text, or JSON already written as text.
        Format::Utf8
    } else {
        Format::Json
    };
    Some((value, format))
}

/// How a response shall carry payloads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// `binaryFormat` of `params`.
    pub format: Option<Format>,
    /// `variantFormat` in force.
    pub variant: String,
    /// The format of what is neither text nor JSON.
    pub binary: Format,
}

impl Wanted {
    /// From `params.binaryFormat` and the response options in force.
    pub fn new(format: Option<Format>, options: &ResponseDefaults) -> Self {
        Self {
            format,
            variant: options.variant_format.clone(),
            binary: Format::parse(&options.binary_format).unwrap_or(Format::Hex),
        }
    }
}

/// A payload as JSON, and the format it is in, which may be another one than wanted: bytes that cannot be shown as
/// wanted are shown as text if they are text, else in the binary format. A message is never held back for that.
pub fn encode(bytes: &[u8], kind: &PayloadType, wanted: &Wanted) -> (Out, Format) {
    let by_kind = kind.format().unwrap_or(wanted.binary);
    if wanted.format.is_none() && wanted.variant == "variantObject" {
        let (value, format) = encode_as(bytes, by_kind, wanted.binary);
        return (variant_object(&value, format), format);
    }
    let format = wanted.format.unwrap_or(match wanted.variant.as_str() {
        "string" => Format::Utf8,
        "binary" => wanted.binary,
        _ => by_kind,
    });
    let (value, format) = encode_as(bytes, format, wanted.binary);
    (Out::User(value), format)
}

fn encode_as(bytes: &[u8], format: Format, binary: Format) -> (Value, Format) {
    match format {
        Format::Hex => (Value::String(to_hex(bytes)), format),
        Format::Base64 => (Value::String(BASE64.encode(bytes)), format),
        Format::ByteArray => (Value::Array(bytes.iter().map(|byte| json!(byte)).collect()), format),
        Format::Utf8 => match std::str::from_utf8(bytes) {
            Ok(text) => (Value::String(text.to_owned()), format),
            Err(_) => encode_as(bytes, binary, binary_only(binary)),
        },
        Format::Json => match serde_json::from_slice(bytes) {
            Ok(value) => (value, format),
            Err(_) => encode_as(bytes, Format::Utf8, binary_only(binary)),
        },
    }
}

/// Guards the fall-back against a "binary" format that is none.
fn binary_only(format: Format) -> Format {
    if format.is_text() { Format::Hex } else { format }
}

fn variant_object(value: &Value, format: Format) -> Out {
    let (kind, encoding) = match format {
        Format::Json => ("json", json!([])),
        Format::Utf8 => ("string", json!([])),
        Format::Hex | Format::Base64 => ("binary", json!([format.name()])),
        Format::ByteArray => ("binary", json!(["byteArray"])),
    };
    Out::User(json!({"schema": VARIANT_SCHEMA, "value": value, "type": kind, "valueEncoding": encoding}))
}

/// Correlation data as a publisher gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Correlation {
    /// What goes to MQTT.
    pub bytes: Vec<u8>,
    /// Whether it was a JSON value other than a string, and the bytes are its text.
    pub is_json: bool,
}

impl Correlation {
    /// From any JSON value.
    ///
    /// # Errors
    /// If it is longer than allowed.
    pub fn read(params: &mut Params, name: &str) -> Result<Option<Self>, Fault> {
        let Some(value) = params.value(name) else {
            return Ok(None);
        };
        let correlation = match value {
            Value::String(text) => Self {
                bytes: text.into_bytes(),
                is_json: false,
            },
            other => Self {
                bytes: other.to_string().into_bytes(),
                is_json: true,
            },
        };
        if correlation.bytes.len() > CORRELATION_BYTES_MAX {
            return Err(too_long(CodeSet::Mq, name, CORRELATION_BYTES_MAX));
        }
        Ok(Some(correlation))
    }

    /// The JSON value it was read from.
    pub fn to_value(&self) -> Value {
        let format = if self.is_json { Format::Json } else { Format::Utf8 };
        encode_as(&self.bytes, format, Format::Hex).0
    }

    /// As JSON: the value it was, or text, or a string in the binary format.
    pub fn show(&self, binary: Format) -> Out {
        let format = if self.is_json { Format::Json } else { Format::Utf8 };
        Out::User(encode_as(&self.bytes, format, binary_only(binary)).0)
    }
}

/// User properties as JSON.
pub fn user_properties<'a>(properties: impl Iterator<Item = (&'a str, &'a str)>) -> Out {
    Out::User(
        properties
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect(),
    )
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02X}").ok();
    }
    text
}

/// An odd number of digits has a 0 put before it.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |character: u8| char::from(character).to_digit(16).map(|digit| digit as u8);
    let digits: Option<Vec<u8>> = text.bytes().map(digit).collect();
    let digits = digits?;
    let (first, pairs) = digits.split_at(digits.len() % 2);
    let mut bytes = first.to_vec();
    for pair in pairs.chunks_exact(2) {
        bytes.push(pair.iter().fold(0, |byte, digit| byte << 4 | digit));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN: &[u8] = br#"{"a":1}"#;

    fn read(value: Value, encoding: Encoding) -> Result<Decoded, Fault> {
        decode("payload", Some(value), encoding, &mut Vec::new())
    }

    fn wanted(format: Option<Format>, variant: &str) -> Wanted {
        Wanted {
            format,
            variant: variant.into(),
            binary: Format::Hex,
        }
    }

    fn shown(bytes: &[u8], kind: &PayloadType, wanted: &Wanted) -> (Value, Format) {
        let (out, format) = encode(bytes, kind, wanted);
        (out.finish(true, &[]), format)
    }

    #[test]
    fn the_same_seven_bytes_have_a_form_in_each_format() {
        for (format, value) in [
            (Format::Hex, json!("7B2261223A317D")),
            (Format::Base64, json!("eyJhIjoxfQ==")),
            (Format::ByteArray, json!([123, 34, 97, 34, 58, 49, 125])),
            (Format::Utf8, json!("{\"a\":1}")),
            (Format::Json, json!({"a": 1})),
        ] {
            assert_eq!(read(value.clone(), Encoding::Said(format)).unwrap().bytes, SEVEN);
            let (out, used) = encode(SEVEN, &PayloadType::Binary, &wanted(Some(format), "json"));
            assert_eq!((out.finish(true, &[]), used), (value, format));
            assert_eq!(Format::parse(&format.name().to_uppercase()), Some(format));
        }
        assert_eq!(
            read(json!("7b2261223a317d"), Encoding::Said(Format::Hex))
                .unwrap()
                .bytes,
            SEVEN
        );
        assert_eq!(
            read(json!("eyJhIjoxfQ"), Encoding::Said(Format::Base64)).unwrap().bytes,
            SEVEN
        );
    }

    #[test]
    fn json_payloads_keep_their_digits_and_their_order() {
        let text = r#"{"b":12.50,"a":1724442618569203714,"c":[1e400]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let decoded = read(value, Encoding::Said(Format::Json)).unwrap();
        assert_eq!(decoded.kind(), PayloadType::Json);
        let (value, _) = shown(&decoded.bytes, &PayloadType::Json, &wanted(None, "json"));
        assert_eq!(value.to_string(), std::str::from_utf8(&decoded.bytes).unwrap());
        assert!(value.to_string().contains(r#""b":12.50,"a":1724442618569203714"#));
    }

    #[test]
    fn a_bare_string_is_never_guessed_to_be_text() {
        let default = Encoding::Default(Format::Hex);
        assert_eq!(read(json!("FACADE"), default).unwrap().bytes, [0xFA, 0xCA, 0xDE]);
        let fault = read(json!("hello"), default).unwrap_err();
        assert_eq!(fault.code, ErrorCode(14222));
        assert!(fault.message.contains("\"mqttPayloadType\": \"utf8\""));
        for value in [json!({"a": 1}), json!(12.5), json!(true), Value::Null] {
            let decoded = read(value.clone(), default).unwrap();
            assert_eq!(
                (decoded.format, decoded.bytes),
                (Format::Json, value.to_string().into_bytes())
            );
        }
        assert!(
            read(json!([1, 2]), default).is_err(),
            "an array may be meant as bytes, so it is not guessed"
        );
    }

    #[test]
    fn an_odd_hex_digit_is_padded_with_a_warning_and_nonsense_is_refused() {
        let mut warnings = Vec::new();
        let odd = decode(
            "payload",
            Some(json!("ABC")),
            Encoding::Said(Format::Hex),
            &mut warnings,
        );
        assert_eq!(odd.unwrap().bytes, [0x0A, 0xBC]);
        assert_eq!(warnings.len(), 1);
        for (format, value) in [
            (Format::Hex, json!("+1")),
            (Format::Hex, json!(["00"])),
            (Format::Base64, json!("a*==")),
            (Format::ByteArray, json!([256])),
            (Format::ByteArray, json!([1.5])),
            (Format::ByteArray, json!("00")),
            (Format::Utf8, json!({"a": 1})),
        ] {
            assert_eq!(
                read(value.clone(), Encoding::Said(format)).unwrap_err().code.0,
                14222,
                "{value}"
            );
        }
    }

    #[test]
    fn the_empty_payload_is_missing_or_an_empty_string() {
        for format in [
            Format::Hex,
            Format::Base64,
            Format::ByteArray,
            Format::Utf8,
            Format::Json,
        ] {
            assert!(read(json!(""), Encoding::Said(format)).unwrap().bytes.is_empty());
            let missing = decode("payload", None, Encoding::Said(format), &mut Vec::new());
            assert!(missing.unwrap().bytes.is_empty());
            let null = read(Value::Null, Encoding::Said(format)).unwrap();
            assert_eq!(null.bytes, if format == Format::Json { &b"null"[..] } else { b"" });
        }
    }

    #[test]
    fn what_is_said_first_decides_how_a_payload_is_read() {
        let format = |format| Said {
            format: Some(format),
            kind: None,
        };
        let kind = |kind| Said {
            format: None,
            kind: Some(kind),
        };
        let nothing = Said::default();
        let login = LoginSettings::default();
        let text = LoginSettings {
            default_variant_format: "string".into(),
            default_binary_format: "base64".into(),
            ..LoginSettings::default()
        };
        let of = Encoding::of_message;
        let binary = &PayloadType::Binary;
        assert_eq!(
            of(&format(Format::Base64), &format(Format::Utf8), binary, None, &login),
            Encoding::Said(Format::Base64)
        );
        assert_eq!(
            of(&kind(PayloadType::Utf8), &format(Format::Json), binary, None, &login),
            Encoding::Said(Format::Utf8)
        );
        assert_eq!(
            of(&kind(PayloadType::Binary), &format(Format::Json), binary, None, &login),
            Encoding::Default(Format::Hex)
        );
        assert_eq!(
            of(&nothing, &kind(PayloadType::Json), binary, None, &login),
            Encoding::Said(Format::Json)
        );
        assert_eq!(
            of(&nothing, &nothing, &PayloadType::Utf8, None, &login),
            Encoding::Said(Format::Utf8)
        );
        assert_eq!(
            of(&nothing, &nothing, binary, None, &text),
            Encoding::Said(Format::Utf8)
        );
        assert_eq!(
            of(&nothing, &nothing, binary, Some("variantObject"), &text),
            Encoding::VariantObject(Format::Base64)
        );
        assert_eq!(
            of(&nothing, &nothing, binary, None, &login),
            Encoding::Default(Format::Hex)
        );
    }

    #[test]
    fn a_response_falls_back_instead_of_failing() {
        let bytes = [0xFF, 0x01];
        assert_eq!(
            shown(&bytes, &PayloadType::Binary, &wanted(Some(Format::Json), "json")),
            (json!("FF01"), Format::Hex)
        );
        assert_eq!(
            shown(b"hello", &PayloadType::Json, &wanted(None, "json")),
            (json!("hello"), Format::Utf8)
        );
        assert_eq!(
            shown(b"hello", &PayloadType::Utf8, &wanted(None, "binary")),
            (json!("68656C6C6F"), Format::Hex)
        );
        assert_eq!(
            shown(b"hello", &PayloadType::Binary, &wanted(None, "string")),
            (json!("hello"), Format::Utf8)
        );
        assert_eq!(
            shown(b"hello", &PayloadType::Named("xml".into()), &wanted(None, "json")),
            (json!("68656C6C6F"), Format::Hex)
        );
    }

    #[test]
    fn a_variant_object_comes_back_as_the_same_bytes() {
        let all = wanted(None, "variantObject");
        for (bytes, kind) in [
            (&b"\xFF\x00"[..], PayloadType::Binary),
            (b"hello", PayloadType::Utf8),
            (br#"{"a":12.50}"#, PayloadType::Json),
            (br#""text""#, PayloadType::Json),
        ] {
            let (value, _) = shown(bytes, &kind, &all);
            assert_eq!(value["schema"], VARIANT_SCHEMA);
            let again = read(value.clone(), Encoding::VariantObject(Format::Hex)).unwrap();
            assert_eq!(again.bytes, bytes, "{value}");
        }
        let plain = read(json!({"a": 1}), Encoding::VariantObject(Format::Hex)).unwrap();
        assert_eq!(plain.bytes, SEVEN);
    }

    #[test]
    fn correlation_data_keeps_its_kind() {
        let read = |value: Value| {
            let Value::Object(members) = json!({"correlationData": value}) else {
                panic!()
            };
            Correlation::read(&mut Params::new(members, CodeSet::Mq), "correlationData")
        };
        for value in [json!("abc"), json!({"req": 9}), json!(7), json!("{}")] {
            let correlation = read(value.clone()).unwrap().unwrap();
            assert_eq!(correlation.show(Format::Hex).finish(true, &[]), value);
        }
        assert_eq!(read(json!("x".repeat(65_501))).unwrap_err().code.0, 14245);
        let from_mqtt = Correlation {
            bytes: vec![0xFF],
            is_json: false,
        };
        assert_eq!(from_mqtt.show(Format::Base64).finish(false, &[]), json!("/w=="));
    }
}
