//! What an action answers, before the response options are applied.
//!
//! JSON that belongs to a user (metadata, payloads) is marked as such: it leaves as it came, whatever `numberFormat` and
//! `omit` say.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A value of a result.
#[derive(Clone, PartialEq, Debug)]
pub enum Out {
    /// Made by the server: numbers follow `numberFormat`, members `omit`.
    Own(Value),
    /// A user's JSON, never touched.
    User(Value),
    /// A list.
    List(Vec<Out>),
    /// An object.
    Object(Object),
}

/// Members in the order in which they are written.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Object(Vec<(Cow<'static, str>, Out)>);

impl Object {
    /// No members.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more member.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Out>) -> Self {
        self.set(name, value);
        self
    }

    /// One more member, if there is a value.
    #[must_use]
    pub fn with_some(mut self, name: &'static str, value: Option<impl Into<Out>>) -> Self {
        if let Some(value) = value {
            self.set(name, value);
        }
        self
    }

    /// Adds a member.
    pub fn set(&mut self, name: &'static str, value: impl Into<Out>) {
        self.0.push((Cow::Borrowed(name), value.into()));
    }

    /// Adds a user's JSON from its text; text that is none stays a string.
    pub fn set_user_text(&mut self, name: &'static str, text: &str) {
        self.set(name, Out::user_text(text));
    }
}

impl Out {
    /// The empty result.
    pub fn empty() -> Self {
        Self::Object(Object::new())
    }

    /// A user's JSON from its text; text that is none stays a string.
    pub fn user_text(text: &str) -> Self {
        Self::User(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
    }

    /// The value as it is sent.
    pub fn finish(self, numbers_as_text: bool, omit: &[String]) -> Value {
        match self {
            Self::Own(Value::Number(number)) if numbers_as_text => Value::String(number.to_string()),
            Self::Own(Value::Array(items)) => {
                Self::List(items.into_iter().map(Self::Own).collect()).finish(numbers_as_text, omit)
            }
            Self::Own(Value::Object(members)) => {
                let members = members
                    .into_iter()
                    .map(|(name, value)| (Cow::Owned(name), Self::Own(value)));
                Self::Object(Object(members.collect())).finish(numbers_as_text, omit)
            }
            Self::Own(value) | Self::User(value) => value,
            Self::List(items) => items
                .into_iter()
                .map(|item| item.finish(numbers_as_text, omit))
                .collect(),
            Self::Object(Object(members)) => {
                let mut map = Map::with_capacity(members.len());
                for (name, value) in members {
                    if !omit.iter().any(|omitted| *omitted == name) {
                        map.insert(name.into_owned(), value.finish(numbers_as_text, omit));
                    }
                }
                Value::Object(map)
            }
        }
    }
}

impl From<Object> for Out {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl From<Vec<Out>> for Out {
    fn from(items: Vec<Out>) -> Self {
        Self::List(items)
    }
}

macro_rules! own {
    ($($from:ty),*) => {$(
        impl From<$from> for Out {
            fn from(value: $from) -> Self {
                Self::Own(value.into())
            }
        }
    )*};
}
own!(&str, String, bool, i32, i64, u16, u32, u64, Value);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_users_json_is_untouched_by_number_format_and_omit() {
        let metadata = "{\"id\":1724442618569203714,\"a\":[12.50]}";
        let mut object = Object::new().with("id", 7).with("list", json!([1, {"id": 2, "b": 3}]));
        object.set_user_text("metadata", metadata);
        let sent = Out::from(object).finish(true, &["id".to_owned()]);
        assert_eq!(
            sent.to_string(),
            format!("{{\"list\":[\"1\",{{\"b\":\"3\"}}],\"metadata\":{metadata}}}")
        );
    }
}
