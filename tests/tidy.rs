//! The code base checks itself: what a part must not know, module headers, leftover markers.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a wrong index is a failed test")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// One source file: its path from the root of the repository, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// Code that is compiled into the program: without the tests at the end, and without files of tests.
    fn program(&self) -> Option<String> {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let only_tests = ["tests.rs", "harness.rs", "simulation.rs", "faulty_disk.rs"];
        if only_tests.iter().any(|end| name.ends_with(end)) || self.path.contains("/tests/") {
            return None;
        }
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        Some(code(self.text.get(..end).unwrap_or_default()))
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut left: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source {
                    path: path.strip_prefix(root).unwrap().to_string_lossy().into_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The text with comments, strings and characters blanked out; line breaks stay.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = at + skipped(&bytes[at..], out.last().copied());
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        }
    }
    String::from_utf8(out).unwrap()
}

/// How many bytes at the start are a comment, a string or a character.
fn skipped(rest: &[u8], before: Option<u8>) -> usize {
    let until = |from: usize, end: &[u8]| {
        rest[from..]
            .windows(end.len())
            .position(|window| window == end)
            .map_or(rest.len(), |found| from + found + end.len())
    };
    let quoted = |from: usize, quote: u8| {
        let mut at = from;
        while at < rest.len() && rest[at] != quote {
            at += if rest[at] == b'\\' { 2 } else { 1 };
        }
        (at + 1).min(rest.len())
    };
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match rest {
        [b'/', b'/', ..] => until(2, b"\n") - 1,
        [b'/', b'*', ..] => until(2, b"*/"),
        [b'r', b'"', ..] if !in_word => until(2, b"\""),
        [b'r', b'#', b'"', ..] if !in_word => until(3, b"\"#"),
        [b'"', ..] => quoted(1, b'"'),
        // A character and not a lifetime.
        [b'\'', b'\\', ..] => quoted(1, b'\''),
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

/// Identifiers with the number of their line.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (line + 1, word))
    })
}

fn none(findings: &[String]) {
    let mut list = String::new();
    for finding in findings {
        writeln!(list, "  {finding}").unwrap();
    }
    assert!(findings.is_empty(), "\n{list}");
}

/// Words of the program in `places` that `is_foreign`.
fn foreign(places: &[&str], except: &[&str], is_foreign: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources(&["src"]) {
        if !source.is_in(places) || source.is_in(except) {
            continue;
        }
        if let Some(program) = source.program() {
            findings.extend(
                words(&program)
                    .filter(|(_, word)| is_foreign(word))
                    .map(|(line, word)| format!("{}:{line}: `{word}`", source.path)),
            );
        }
    }
    findings
}

#[test]
fn the_store_has_never_heard_of_brokers_frontends_or_protocols() {
    none(&foreign(&["src/store"], &[], |word| {
        let word = word.to_lowercase();
        ["broker", "frontend", "mqtt", "http", "json", "warp"]
            .iter()
            .any(|foreign| word.contains(foreign))
            || word.starts_with("ntex")
    }));
}

#[test]
fn the_broker_sees_no_packets_no_json_and_no_files() {
    none(&foreign(&["src/broker"], &[], |word| {
        word.starts_with("ntex")
            || [
                "frontend",
                "server",
                "config",
                "warp",
                "hyper",
                "serde_json",
                "sled",
                "local",
            ]
            .contains(&word)
            || is_file_call(word)
    }));
}

#[test]
fn each_library_of_an_edge_stays_at_its_edge() {
    none(&foreign(&["src"], &["src/frontend/mqtt"], |word| {
        word.starts_with("ntex") || word == "tungstenite"
    }));
    none(&foreign(&["src"], &["src/frontend/tls"], |word| {
        word.contains("rustls")
    }));
    // The load tool writes its report as JSON.
    none(&foreign(&["src"], &["src/frontend/http", "src/bench/"], |word| {
        ["warp", "hyper", "hyper_util", "serde_json"].contains(&word)
    }));
    none(&foreign(&["src"], &["src/store/local/catalog"], |word| word == "sled"));
}

#[test]
fn frontends_know_the_broker_and_not_each_other() {
    none(&foreign(&["src/frontend/mqtt/"], &[], |word| word == "http"));
    none(&foreign(&["src/frontend/http/"], &[], |word| word == "mqtt"));
}

fn is_file_call(word: &str) -> bool {
    [
        "fs",
        "File",
        "OpenOptions",
        "read_to_string",
        "remove_file",
        "create_dir_all",
    ]
    .contains(&word)
}

#[test]
fn raw_file_calls_stay_behind_the_disk() {
    // The settings are read before there is a disk to speak of; the catalog syncs sled's file itself.
    // The load tool measures bare files.
    let except = [
        "src/store/local/disk.rs",
        "src/store/local/catalog/",
        "src/config.rs",
        "src/bench/",
    ];
    none(&foreign(&["src"], &except, is_file_call));
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let findings: Vec<String> = sources(&["src", "tests", "benches"])
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    none(&findings);
}

#[test]
fn nothing_is_left_over() {
    let mut findings = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        if source.path == "tests/tidy.rs" {
            continue;
        }
        for (line, word) in words(&source.text) {
            if ["TODO", "FIXME", "XXX"].contains(&word) {
                findings.push(format!("{}:{line}: {word}", source.path));
            }
        }
        for (line, text) in code(&source.text).lines().enumerate() {
            for marker in ["dbg!", "todo!", "unimplemented!", "#[allow("] {
                if text.contains(marker) {
                    findings.push(format!("{}:{}: {marker}", source.path, line + 1));
                }
            }
        }
    }
    none(&findings);
}

#[test]
fn comments_and_strings_are_not_code() {
    let text = "let a = \"mqtt \\\" http\"; // json\nlet b = 'x'; let c: &'static str = r#\"warp\"#; /* sled */ d";
    let code = code(text);
    let seen: Vec<_> = words(&code).collect();
    let wanted = [
        (1, "let"),
        (1, "a"),
        (2, "let"),
        (2, "b"),
        (2, "let"),
        (2, "c"),
        (2, "static"),
        (2, "str"),
        (2, "d"),
    ];
    assert_eq!(seen, wanted);
}
