//! The checker of named arguments: every action reads its `params` through it, so that type, leniency, limits, numbers
//! and texts of complaints are the same everywhere.
//!
//! Reading a member takes it out; what is left at [`Params::finish`] is unknown to the action. `null` is the same as
//! absent.

use std::fmt::{Display, Write as _};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error_code::{CodeSet, ErrorCode, Fault, Warning};

/// The longest key of a user property, in bytes.
const USER_PROPERTY_KEY_BYTES_MAX: usize = 128;
/// The most bytes in the keys and values of one list of user properties; they become part of a row. A value that MQTT
/// cannot carry is allowed: it is left out of its packets.
const USER_PROPERTIES_BYTES_MAX: usize = 32 << 20;
/// The longest name or group of a label, in bytes.
const LABEL_BYTES_MAX: usize = 64;
/// The largest `metadata`, in bytes of JSON text.
pub const METADATA_BYTES_MAX: usize = 65_500;

/// The members of one JSON object that are not read yet.
#[derive(Debug)]
pub struct Params {
    members: Map<String, Value>,
    codes: CodeSet,
    place: String,
}

/// A label as an MQ action names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelParam {
    /// Group; `None` if omitted, which is the default group on creation and any group in a filter.
    pub group: Option<String>,
    /// Name; empty only together with an empty group, which takes the label away.
    pub name: String,
}

impl Params {
    /// The members of `params`.
    pub fn new(members: Map<String, Value>, codes: CodeSet) -> Self {
        Self::nested(members, codes, "params")
    }

    /// The members of an object inside; `place` says where it stands.
    pub fn nested(members: Map<String, Value>, codes: CodeSet, place: impl Into<String>) -> Self {
        Self {
            members,
            codes,
            place: place.into(),
        }
    }

    /// Whose numbers complaints carry.
    pub fn codes(&self) -> CodeSet {
        self.codes
    }

    /// Whether a member stands there and is not null.
    pub fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|value| !value.is_null())
    }

    /// Reads `alias` under `name`, unless `name` itself stands there.
    pub fn alias(&mut self, alias: &str, name: &str) {
        if let Some(value) = self.members.swap_remove(alias)
            && !self.has(name)
        {
            self.members.insert(name.to_owned(), value);
        }
    }

    /// A member, whatever it is.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.members.swap_remove(name).filter(|value| !value.is_null())
    }

    /// A member with `null` told from absence, for the few places where they differ.
    pub fn raw(&mut self, name: &str) -> Option<Value> {
        self.members.swap_remove(name)
    }

    /// The complaint that a member is missing.
    pub fn missing(&self, name: &str) -> Fault {
        Fault::new(
            ErrorCode::MISSING,
            format!("Required property \"{name}\" is missing from \"{}\".", self.place),
        )
    }

    /// The complaint that a value is not allowed.
    pub fn invalid(&self, name: &str, why: impl Display) -> Fault {
        Fault::new(self.codes.invalid_value(), format!("Property \"{name}\" {why}."))
    }

    /// A member that must be there, read by one of the other methods.
    pub fn required<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self, &str) -> Result<Option<T>, Fault>,
    ) -> Result<T, Fault> {
        match read(self, name)? {
            Some(value) => Ok(value),
            None => Err(self.missing(name)),
        }
    }

    /// Text with a length in bytes.
    pub fn string(&mut self, name: &str, bytes: RangeInclusive<usize>) -> Result<Option<String>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => self.check_string(name, value, &bytes).map(Some),
        }
    }

    /// Text that must be there.
    pub fn required_string(&mut self, name: &str, bytes: RangeInclusive<usize>) -> Result<String, Fault> {
        self.required(name, |params, name| params.string(name, bytes))
    }

    fn check_string(&self, name: &str, value: Value, bytes: &RangeInclusive<usize>) -> Result<String, Fault> {
        let Value::String(text) = value else {
            return Err(wrong_type(name, "a string", &value));
        };
        if text.len() > *bytes.end() {
            return Err(too_long(self.codes, name, *bytes.end()));
        }
        if text.len() < *bytes.start() {
            return Err(self.invalid(name, "must not be empty"));
        }
        Ok(text)
    }

    /// One of several spellings, in any case; returned in its canonical one.
    pub fn choice(&mut self, name: &str, values: &[&'static str]) -> Result<Option<&'static str>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => match canonical(&text, values) {
                Some(value) => Ok(Some(value)),
                None => Err(bad_choice(self.codes.invalid_value(), name, &text, values)),
            },
            Some(value) => Err(wrong_type(name, "a string", &value)),
        }
    }

    /// A list of such spellings.
    pub fn choices(&mut self, name: &str, values: &[&'static str]) -> Result<Vec<&'static str>, Fault> {
        let mut chosen = Vec::new();
        for item in self.array(name)?.unwrap_or_default() {
            let Value::String(text) = item else {
                return Err(wrong_type(name, "an array of strings", &Value::Array(vec![item])));
            };
            match canonical(&text, values) {
                Some(value) => chosen.push(value),
                None => return Err(bad_choice(self.codes.invalid_value(), name, &text, values)),
            }
        }
        Ok(chosen)
    }

    /// A Boolean, also as text.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => boolean(name, &value).map(Some),
        }
    }

    /// A whole number in a range, also as text or with a fraction of zero.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => self.check_integer(name, &value, &range).map(Some),
        }
    }

    fn check_integer(&self, name: &str, value: &Value, range: &RangeInclusive<i64>) -> Result<i64, Fault> {
        let digits = number_text(value).ok_or_else(|| wrong_type(name, "an integer", value))?;
        match whole_number(&digits) {
            Whole::Fraction => Err(Fault::new(
                ErrorCode::WRONG_TYPE,
                format!("Property \"{name}\" must be an integer but is {digits}."),
            )),
            Whole::Is(number) if range.contains(&number) => Ok(number),
            Whole::Is(_) | Whole::Huge => Err(Fault::new(
                self.codes.out_of_range(),
                format!(
                    "Property \"{name}\" must be between {} and {} but is {digits}.",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// A list of whole numbers.
    pub fn integers(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Vec<i64>, Fault> {
        let items = self.array(name)?.unwrap_or_default();
        items
            .iter()
            .map(|item| self.check_integer(name, item, &range))
            .collect()
    }

    /// A list of anything.
    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(value) => Err(wrong_type(name, "an array", &value)),
        }
    }

    /// A list of texts, each with a length in bytes.
    pub fn strings(&mut self, name: &str, bytes: RangeInclusive<usize>) -> Result<Option<Vec<String>>, Fault> {
        let Some(items) = self.array(name)? else {
            return Ok(None);
        };
        let texts: Result<_, _> = items
            .into_iter()
            .map(|item| self.check_string(name, item, &bytes))
            .collect();
        texts.map(Some)
    }

    /// An object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members)),
            Some(value) => Err(wrong_type(name, "an object", &value)),
        }
    }

    /// A list of objects, each with a checker of its own.
    pub fn objects(&mut self, name: &str) -> Result<Option<Vec<Params>>, Fault> {
        let Some(items) = self.array(name)? else {
            return Ok(None);
        };
        let mut objects = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::Object(members) => objects.push(Self::nested(members, self.codes, format!("{name}[{index}]"))),
                other => return Err(wrong_type(&format!("{name}[{index}]"), "an object", &other)),
            }
        }
        Ok(Some(objects))
    }

    /// Any JSON as its compact text, member order and number tokens kept.
    pub fn json(&mut self, name: &str, bytes_max: usize) -> Result<Option<String>, Fault> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let text = value.to_string();
        if text.len() > bytes_max {
            return Err(too_long(self.codes, name, bytes_max));
        }
        Ok(Some(text))
    }

    /// `metadata`: an object as its compact text.
    pub fn metadata(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.object(name)? {
            None => Ok(None),
            Some(members) => {
                let text = Value::Object(members).to_string();
                if text.len() > METADATA_BYTES_MAX {
                    return Err(too_long(self.codes, name, METADATA_BYTES_MAX));
                }
                Ok(Some(text))
            }
        }
    }

    /// A list of `{key, value}`; order and duplicates are kept.
    pub fn user_properties(&mut self, name: &str) -> Result<Option<Vec<(String, String)>>, Fault> {
        let Some(objects) = self.objects(name)? else {
            return Ok(None);
        };
        let mut properties = Vec::with_capacity(objects.len());
        let mut bytes = 0;
        for mut object in objects {
            let key = object.required_string("key", 1..=USER_PROPERTY_KEY_BYTES_MAX)?;
            let value = object.required_string("value", 0..=USER_PROPERTIES_BYTES_MAX)?;
            bytes += key.len() + value.len();
            if bytes > USER_PROPERTIES_BYTES_MAX {
                return Err(too_long(self.codes, name, USER_PROPERTIES_BYTES_MAX));
            }
            properties.push((key, value));
        }
        Ok(Some(properties))
    }

    /// A label by group and name.
    pub fn label(&mut self, name: &str) -> Result<Option<LabelParam>, Fault> {
        let Some(members) = self.object(name)? else {
            return Ok(None);
        };
        let mut label = Self::nested(members, self.codes, name);
        let group = label.string("group", 0..=LABEL_BYTES_MAX)?;
        let text = label.required_string("name", 0..=LABEL_BYTES_MAX)?;
        if text.is_empty() && group.as_deref().is_some_and(|group| !group.is_empty()) {
            return Err(label.invalid("name", "must not be empty in a group"));
        }
        Ok(Some(LabelParam { group, name: text }))
    }

    /// A date, or a date with a time, in UTC: milliseconds since 1970.
    pub fn timestamp(&mut self, name: &str) -> Result<Option<i64>, Fault> {
        match self.string(name, 0..=64)? {
            None => Ok(None),
            Some(text) => match super::time::parse(&text) {
                Some(ms) => Ok(Some(ms)),
                None => Err(self.invalid(
                    name,
                    format_args!("has invalid value \"{text}\". Use YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS"),
                )),
            },
        }
    }

    /// Complains about what no method has read.
    ///
    /// # Errors
    /// The first unknown member, if `strict`; otherwise each is a warning.
    pub fn finish(self, strict: bool, warnings: &mut Vec<Warning>) -> Result<(), Fault> {
        for (name, _) in self.members {
            let message = format!("Unknown property \"{name}\" in \"{}\".", self.place);
            if strict {
                return Err(Fault::new(ErrorCode::ENVELOPE_VALUE, message));
            }
            warnings.push(Warning::new(ErrorCode::ENVELOPE_VALUE, message));
        }
        Ok(())
    }
}

/// The canonical spelling of `text`.
pub fn canonical(text: &str, values: &[&'static str]) -> Option<&'static str> {
    values.iter().copied().find(|value| value.eq_ignore_ascii_case(text))
}

/// The complaint about a wrong JSON type.
pub fn wrong_type(name: &str, wanted: &str, found: &Value) -> Fault {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a Boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Fault::new(
        ErrorCode::WRONG_TYPE,
        format!("Property \"{name}\" must be {wanted} but is {found}."),
    )
}

/// The complaint about an unknown spelling.
pub fn bad_choice(code: ErrorCode, name: &str, text: &str, values: &[&str]) -> Fault {
    let mut message = format!("Property \"{name}\" has invalid value \"{text}\".");
    // What is allowed matters more than the whole of what was sent.
    if text.len() > 64 {
        message = format!("Property \"{name}\" has an invalid value.");
    }
    write!(message, " Use one of: {}.", values.join(", ")).ok();
    Fault::new(code, message)
}

/// The complaint about a length.
pub fn too_long(codes: CodeSet, name: &str, bytes_max: usize) -> Fault {
    Fault::new(
        codes.too_long(),
        format!("Property \"{name}\" exceeds the maximum of {bytes_max} bytes."),
    )
}

/// A Boolean, also as text in any case.
pub fn boolean(name: &str, value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(wrong_type(name, "a Boolean", other)),
    }
}

/// The digits of a number, or of text that holds exactly one.
fn number_text(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => {
            let begins = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
            let ends = text.ends_with(|last: char| last.is_ascii_digit());
            let number: serde_json::Number = serde_json::from_str(text).ok().filter(|_| begins && ends)?;
            Some(number.to_string())
        }
        _ => None,
    }
}

enum Whole {
    Is(i64),
    Fraction,
    Huge,
}

/// Digits as a whole number, exactly: never through a float, which has only 53 bits.
fn whole_number(digits: &str) -> Whole {
    if let Ok(number) = digits.parse() {
        return Whole::Is(number);
    }
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let Ok(exponent) = exponent.parse::<i64>() else {
        return Whole::Huge;
    };
    if mantissa.trim_matches(['-', '0', '.']).is_empty() {
        return Whole::Is(0);
    }
    let mut all = format!("{whole}{fraction}");
    let mut zeros = exponent.saturating_sub(fraction.len() as i64);
    while zeros < 0 {
        if all.pop() != Some('0') {
            return Whole::Fraction;
        }
        zeros += 1;
    }
    if zeros > 20 {
        return Whole::Huge;
    }
    all.extend(std::iter::repeat_n('0', zeros as usize));
    all.parse().map_or(Whole::Huge, Whole::Is)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(value: Value) -> Params {
        match value {
            Value::Object(members) => Params::new(members, CodeSet::Mq),
            _ => panic!("not an object"),
        }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Fault>) -> i32 {
        result.unwrap_err().code.0
    }

    #[test]
    fn whole_numbers_are_read_exactly_in_all_their_spellings() {
        for (text, wanted) in [
            ("1", 1),
            ("\"1\"", 1),
            ("5.0", 5),
            ("1e2", 100),
            ("1.5E1", 15),
            ("-0", 0),
            ("0.000", 0),
            ("100e-2", 1),
            ("9007199254740993", 9_007_199_254_740_993),
            ("\"1724442618569203714\"", 1_724_442_618_569_203_714),
        ] {
            let mut params = params(serde_json::from_str(&format!("{{\"n\":{text}}}")).unwrap());
            assert_eq!(
                params.integer("n", i64::MIN..=i64::MAX).unwrap(),
                Some(wanted),
                "{text}"
            );
        }
        for text in ["1.5", "\"1 \"", "\"x\"", "true", "[1]", "1e-1", "\" 1\"", "\"0x1\""] {
            let mut params = params(serde_json::from_str(&format!("{{\"n\":{text}}}")).unwrap());
            assert_eq!(code(params.integer("n", 0..=9)), 14702, "{text}");
        }
        for text in ["10", "-1", "1e300", "99999999999999999999", "1e9999999999999999999999"] {
            let mut params = params(serde_json::from_str(&format!("{{\"n\":{text}}}")).unwrap());
            assert_eq!(code(params.integer("n", 0..=9)), 14228, "{text}");
        }
    }

    #[test]
    fn limits_of_text_count_bytes_and_each_api_has_its_numbers() {
        assert_eq!(code(params(json!({"a": "ää"})).string("a", 0..=3)), 14245);
        assert_eq!(code(params(json!({"a": ""})).string("a", 1..=3)), 14228);
        assert_eq!(code(params(json!({})).required_string("a", 1..=3)), 12025);
        assert_eq!(code(params(json!({"a": null})).required_string("a", 1..=3)), 12025);
        assert_eq!(code(params(json!({"a": 1})).string("a", 1..=3)), 14702);
        let Value::Object(members) = json!({"a": "ää", "b": "", "n": 7}) else {
            panic!()
        };
        let mut admin = Params::new(members, CodeSet::Admin);
        assert_eq!(code(admin.string("a", 0..=3)), 12034);
        assert_eq!(code(admin.string("b", 1..=3)), 12012);
        assert_eq!(code(admin.integer("n", 0..=3)), 12015);
    }

    #[test]
    fn spellings_are_canonical_and_booleans_may_be_text() {
        let mut read = params(json!({"s": "MQAPI", "t": ["Mqtt"], "b": "TRUE", "c": false, "d": "yes", "e": "foo"}));
        assert_eq!(read.choice("s", &["mqtt", "mqApi"]).unwrap(), Some("mqApi"));
        assert_eq!(read.choices("t", &["mqtt", "mqApi"]).unwrap(), vec!["mqtt"]);
        assert_eq!(read.boolean("b").unwrap(), Some(true));
        assert_eq!(read.boolean("c").unwrap(), Some(false));
        assert_eq!(code(read.boolean("d")), 14702);
        let fault = read.choice("e", &["normal", "hidden"]).unwrap_err();
        assert_eq!(
            fault.message,
            "Property \"e\" has invalid value \"foo\". Use one of: normal, hidden."
        );
    }

    #[test]
    fn objects_inside_are_checked_where_they_stand() {
        let mut read = params(json!({
            "userProperties": [{"key": "a", "value": ""}, {"key": "a", "value": "b"}],
            "bad": [{"key": "", "value": "x"}],
            "label": {"name": "north"},
            "nameless": {},
            "removed": {"group": "", "name": ""},
            "half": {"group": "g", "name": ""},
            "metadata": {"b": 12.50, "a": 1_724_442_618_569_203_714_u64},
        }));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            read.user_properties("userProperties").unwrap(),
            Some(vec![pair("a", ""), pair("a", "b")])
        );
        assert_eq!(code(read.user_properties("bad")), 14228);
        let label = read.label("label").unwrap().unwrap();
        assert_eq!((label.group, label.name), (None, "north".to_owned()));
        assert_eq!(code(read.label("nameless")), 12025);
        assert!(read.label("removed").unwrap().unwrap().name.is_empty());
        assert_eq!(code(read.label("half")), 14228);
        let mut digits =
            params(serde_json::from_str("{\"metadata\": {\"b\": 12.50, \"a\": 1724442618569203714}}").unwrap());
        assert_eq!(
            digits.metadata("metadata").unwrap().unwrap(),
            "{\"b\":12.50,\"a\":1724442618569203714}"
        );
    }

    #[test]
    fn what_nobody_reads_is_a_warning_or_in_strict_mode_an_error() {
        let mut warnings = Vec::new();
        params(json!({"foo": 1})).finish(false, &mut warnings).unwrap();
        assert_eq!(
            warnings,
            vec![Warning::new(
                ErrorCode(14700),
                "Unknown property \"foo\" in \"params\"."
            )]
        );
        assert_eq!(code(params(json!({"foo": null})).finish(true, &mut warnings)), 14700);
    }
}
