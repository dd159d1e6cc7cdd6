//! Full-text search in JSON of users (spec/json-action.md 10): words, `"quoted phrases"` and `a NEAR b`, all of which
//! must occur.

use serde_json::Value;

/// How far apart the two sides of `NEAR` may be, in words.
const NEAR_WORDS: usize = 10;

/// A query, taken apart once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    conditions: Vec<Condition>,
}

/// Consecutive words, in lower case.
type Phrase = Vec<String>;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Condition {
    Holds(Phrase),
    Near(Phrase, Phrase),
}

impl Query {
    /// Takes a query apart; an empty one matches everything. A word with other characters in it, such as `press-07`, is
    /// a phrase; `NEAR` without two sides is a word.
    pub fn parse(text: &str) -> Self {
        let mut phrases: Vec<(Phrase, bool)> = Vec::new();
        for (place, part) in text.split('"').enumerate() {
            if place % 2 == 1 {
                phrases.push((words(part), false));
            } else {
                phrases.extend(part.split_whitespace().map(|word| (words(word), word == "NEAR")));
            }
        }
        phrases.retain(|(phrase, _)| !phrase.is_empty());
        let mut conditions = Vec::new();
        let mut joined = false;
        for (place, (phrase, is_near)) in phrases.iter().enumerate() {
            let before = place.checked_sub(1).and_then(|place| phrases.get(place));
            let behind = phrases.get(place + 1);
            match (before, behind) {
                (Some((before, _)), Some((behind, _))) if *is_near && !joined => {
                    conditions.push(Condition::Near(before.clone(), behind.clone()));
                    joined = true;
                }
                _ => {
                    conditions.push(Condition::Holds(phrase.clone()));
                    joined = false;
                }
            }
        }
        Self { conditions }
    }

    /// Whether JSON text satisfies it.
    pub fn matches(&self, json: &str) -> bool {
        if self.conditions.is_empty() {
            return true;
        }
        let mut text = Vec::new();
        if let Ok(value) = serde_json::from_str(json) {
            collect(&value, &mut text);
        }
        self.conditions.iter().all(|condition| match condition {
            Condition::Holds(phrase) => !places(&text, phrase).is_empty(),
            Condition::Near(one, other) => {
                let others = places(&text, other);
                places(&text, one)
                    .iter()
                    .any(|place| others.iter().any(|other| place.abs_diff(*other) <= NEAR_WORDS))
            }
        })
    }
}

/// Where a phrase begins.
fn places(text: &[String], phrase: &[String]) -> Vec<usize> {
    let windows = text.windows(phrase.len().max(1)).enumerate();
    windows
        .filter(|(_, window)| *window == phrase)
        .map(|(place, _)| place)
        .collect()
}

/// Runs of letters and digits, in lower case.
fn words(text: &str) -> Vec<String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Names of members and scalars, in the order of the document.
fn collect(value: &Value, text: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Bool(value) => text.push(value.to_string()),
        Value::Number(number) => text.extend(words(&number.to_string())),
        Value::String(string) => text.extend(words(string)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, text)),
        Value::Object(members) => {
            for (name, member) in members {
                text.extend(words(name));
                collect(member, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_phrases_and_nearness_must_all_occur() {
        let json = r#"{"team":"Billing & Ünion","site":{"name":"press-07","floors":[1,12.50,true]},
            "notes":"one two three four five six seven eight nine ten eleven end"}"#;
        for (query, matches) in [
            ("", true),
            ("  ", true),
            ("BILLING", true),
            ("bill", false),
            ("ünion", true),
            ("team floors", true),
            ("team roof", false),
            ("\"billing ünion\"", true),
            ("\"ünion billing\"", false),
            ("press-07", true),
            ("07-press", false),
            ("12.50", true),
            ("true", true),
            ("one NEAR eleven", true),
            ("eleven NEAR one", true),
            ("one NEAR end", false),
            ("\"one two\" NEAR ten", true),
            ("NEAR", false),
            ("near", false),
            ("team NEAR", false),
            ("\"unclosed", false),
            ("\"press 07", true),
        ] {
            assert_eq!(Query::parse(query).matches(json), matches, "{query}");
        }
        assert!(!Query::parse("a").matches("{}"));
    }
}
