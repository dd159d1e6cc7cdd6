//! Which test covers which normative statement of the two MQTT specifications: writes `docs/mqtt-conformance.md` and
//! fails when it is out of date, when a test cites a statement that does not exist, and when a statement that binds a
//! server has neither a test nor a reason why none is needed.
//!
//! The statements stand in `tests/conformance/v5.txt` and `v311.txt`. A test cites them in comments above it, or
//! inside it above the lines that check them: `/// v5 [MQTT-3.1.2-8], [MQTT-3.1.2-10]; v3.1.1 [MQTT-3.1.2-8]`.
//! `[MQTT-4.3.3-1] to [MQTT-4.3.3-3]` are three. After a change of either:
//! `EVERMQ_CONFORMANCE=write cargo test --test conformance`.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const TABLE: &str = "docs/mqtt-conformance.md";
/// Statements nobody has looked at yet, one a line: `v5 MQTT-3.1.2-8`. Only ever gets shorter.
const OPEN: &str = "tests/conformance/open.txt";
const HINT: &str = "run `EVERMQ_CONFORMANCE=write cargo test --test conformance` and commit what it writes";

/// A version as tests cite it, its name, and its statements.
const VERSIONS: [(&str, &str, &str); 2] = [
    ("v5", "MQTT 5.0", "tests/conformance/v5.txt"),
    ("v3.1.1", "MQTT 3.1.1", "tests/conformance/v311.txt"),
];

/// Chapters that have statements, numbered alike in both versions.
const CHAPTERS: [(&str, &str); 32] = [
    ("1.5", "Data representation"),
    ("2.1", "Fixed header"),
    ("2.2", "Fixed and variable header"),
    ("2.3", "Variable header"),
    ("3.1", "CONNECT"),
    ("3.2", "CONNACK"),
    ("3.3", "PUBLISH"),
    ("3.4", "PUBACK"),
    ("3.5", "PUBREC"),
    ("3.6", "PUBREL"),
    ("3.7", "PUBCOMP"),
    ("3.8", "SUBSCRIBE"),
    ("3.9", "SUBACK"),
    ("3.10", "UNSUBSCRIBE"),
    ("3.11", "UNSUBACK"),
    ("3.12", "PINGREQ"),
    ("3.14", "DISCONNECT"),
    ("3.15", "AUTH"),
    ("4.1", "Session state"),
    ("4.2", "Network connections"),
    ("4.3", "Quality of service"),
    ("4.4", "Repetition"),
    ("4.5", "Message receipt"),
    ("4.6", "Order"),
    ("4.7", "Topic names and filters"),
    ("4.8", "Shared subscriptions (5.0), errors (3.1.1)"),
    ("4.9", "Flow control"),
    ("4.12", "Enhanced authentication"),
    ("4.13", "Errors"),
    ("6.0", "WebSocket"),
    ("7.0", "Conformance"),
    ("7.1", "Conformance targets"),
];

/// A place in a specification: `[MQTT-a.b.c-d]`.
type Id = [u16; 4];

fn id(text: &str) -> Option<Id> {
    let (place, number) = text.strip_prefix("MQTT-")?.split_once('-')?;
    let mut parts = place.split('.');
    let mut next = || parts.next()?.parse().ok();
    let found = [next()?, next()?, next()?, number.parse().ok()?];
    parts.next().is_none().then_some(found)
}

fn name([a, b, c, d]: Id) -> String {
    format!("MQTT-{a}.{b}.{c}-{d}")
}

struct Statement {
    /// A server has to do or to leave something.
    binds_server: bool,
    text: String,
    reason: String,
}

fn statements(path: &str) -> BTreeMap<Id, Statement> {
    let mut found = BTreeMap::new();
    for line in read(path).lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split('|').map(str::trim);
        let mut next = || {
            fields
                .next()
                .unwrap_or_else(|| panic!("{path}: a line with four fields: {line}"))
        };
        let (cited, whom, text, reason) = (next(), next(), next(), next());
        let id = id(cited).unwrap_or_else(|| panic!("{path}: `{cited}` is not the number of a statement"));
        assert!(["server", "client", "both"].contains(&whom), "{path}: {line}");
        let statement = Statement {
            binds_server: whom != "client",
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        assert!(found.insert(id, statement).is_none(), "{path}: {cited} twice");
    }
    found
}

/// A test that cites a statement.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    path: String,
    function: String,
}

/// Version and statement to the tests that cite it, and what is wrong with citations.
#[derive(Default)]
struct Citations {
    tests: BTreeMap<(&'static str, Id), BTreeSet<Test>>,
    findings: Vec<String>,
}

impl Citations {
    fn add_file(&mut self, path: &str, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if !["#[test]", "#[tokio::test]", "#[tokio::test("]
                .iter()
                .any(|attribute| line.trim_start().starts_with(attribute))
            {
                continue;
            }
            let is_head = |line: &&&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
            let begin = at - lines.iter().take(at).rev().take_while(is_head).count();
            let Some((start, signature)) = lines.iter().enumerate().skip(at).find(|(_, line)| line.contains("fn "))
            else {
                continue;
            };
            let indent: String = signature.chars().take_while(|letter| *letter == ' ').collect();
            let close = format!("{indent}}}");
            let body = lines.iter().skip(start).position(|line| *line == close).unwrap_or(0);
            let function = signature
                .split_once("fn ")
                .and_then(|(_, rest)| rest.split_once('('))
                .map_or("", |(name, _)| name);
            let mut comments = Comments::default();
            for line in lines.iter().take(start + body).skip(begin) {
                comments.read_line(line, |version, cited| {
                    let test = Test {
                        path: path.to_owned(),
                        function: function.to_owned(),
                    };
                    match (version, id(cited)) {
                        (Some(version), Some(id)) => {
                            self.tests.entry((version, id)).or_default().insert(test);
                        }
                        (None, _) => self
                            .findings
                            .push(format!("{path}: `{function}` cites [{cited}] of no version")),
                        (_, None) => self
                            .findings
                            .push(format!("{path}: `{function}` cites [{cited}], which is no number")),
                    }
                });
            }
        }
    }
}

/// Reads citations out of the comments of one test; the version holds for what follows in the same run of comments.
#[derive(Default)]
struct Comments {
    version: Option<&'static str>,
    last: Option<Id>,
}

impl Comments {
    fn read_line(&mut self, line: &str, mut cite: impl FnMut(Option<&'static str>, &str)) {
        let Some((_, comment)) = line
            .trim_start()
            .split_once("//")
            .filter(|(before, _)| before.is_empty())
        else {
            self.version = None;
            return;
        };
        let mut is_range = false;
        for word in comment.split([' ', ';', ',', ':', '(', ')']) {
            if let Some((version, ..)) = VERSIONS.iter().find(|(version, ..)| *version == word) {
                self.version = Some(version);
            } else if word == "to" {
                is_range = true;
                continue;
            } else if let Some(cited) = word
                .trim_start_matches('[')
                .split(']')
                .next()
                .filter(|cited| cited.starts_with("MQTT-"))
            {
                let to = id(cited);
                if is_range && let (Some(from), Some(to)) = (self.last, to) {
                    for number in from[3] + 1..to[3] {
                        cite(self.version, &name([to[0], to[1], to[2], number]));
                    }
                }
                cite(self.version, cited);
                self.last = to;
            }
            is_range = is_range && word.is_empty();
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn citations() -> Citations {
    let mut paths = Vec::new();
    let mut left = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    paths.sort();
    let mut citations = Citations::default();
    // This file only shows what a citation looks like.
    for path in paths.iter().filter(|path| *path != "tests/conformance.rs") {
        citations.add_file(path, &read(path));
    }
    citations
}

fn chapter([a, b, ..]: Id) -> String {
    let number = format!("{a}.{b}");
    let title = CHAPTERS.iter().find(|(chapter, _)| *chapter == number);
    let title = title.unwrap_or_else(|| panic!("chapter {number} has a title")).1;
    format!("{number} {title}")
}

/// One version of the table.
fn table(
    out: &mut String,
    (version, title, _): (&'static str, &str, &str),
    statements: &BTreeMap<Id, Statement>,
    citations: &Citations,
    open: &BTreeSet<(&str, Id)>,
) {
    let tests = |id: Id| citations.tests.get(&(version, id));
    let of_server = || statements.iter().filter(|(_, statement)| statement.binds_server);
    let with_test = of_server().filter(|(id, _)| tests(**id).is_some()).count();
    let open_count = of_server().filter(|(id, _)| open.contains(&(version, **id))).count();
    writeln!(out, "\n## {title}\n").unwrap();
    write!(
        out,
        "{} statements, {} of them bind a server: {with_test} have a test, {} a reason why they need none",
        statements.len(),
        of_server().count(),
        of_server().count() - with_test - open_count,
    )
    .unwrap();
    if open_count > 0 {
        write!(out, ", {open_count} are open").unwrap();
    }
    writeln!(out, ".").unwrap();
    let mut present = String::new();
    for (&id, statement) in statements {
        if !statement.binds_server && tests(id).is_none() {
            continue;
        }
        let chapter = chapter(id);
        if chapter != present {
            writeln!(out, "\n### {chapter}\n\n| statement | says | test |\n|---|---|---|").unwrap();
            present = chapter;
        }
        let mut cell = Vec::new();
        for test in tests(id).into_iter().flatten() {
            cell.push(format!("[`{}`](../{})", test.function, test.path));
        }
        if !statement.reason.is_empty() {
            cell.push(format!("*{}*", statement.reason));
        }
        if cell.is_empty() {
            cell.push("open".to_owned());
        }
        let whom = if statement.binds_server { "" } else { " (client)" };
        writeln!(
            out,
            "| {}{whom} | {} | {} |",
            name(id),
            statement.text,
            cell.join("<br>")
        )
        .unwrap();
    }
}

#[test]
fn every_statement_that_binds_a_server_has_a_test_or_a_reason() {
    let citations = citations();
    let mut findings = citations.findings.clone();
    let is_writing = std::env::var_os("EVERMQ_CONFORMANCE").is_some_and(|value| value == "write");
    let listed = read(OPEN);
    let mut open: BTreeSet<(&str, Id)> = listed
        .lines()
        .map(|line| {
            let (version, cited) = line.split_once(' ').unwrap();
            (version, id(cited).unwrap())
        })
        .collect();
    let mut out = String::from(
        "# MQTT conformance\n\n\
         Each numbered normative statement of MQTT 5.0 and 3.1.1 that binds a server, in our own words, with the tests that cover it or\n\
         the reason why none is needed. Statements that bind clients appear where a test plays a client that breaks them.\n\
         `cargo test --test conformance` checks this page; it is written from the statements in `tests/conformance` and the\n\
         comments of the tests, never by hand.\n",
    );
    for version in VERSIONS {
        let statements = statements(version.2);
        for (&(cited_version, id), tests) in &citations.tests {
            if cited_version == version.0 && !statements.contains_key(&id) {
                let by: Vec<_> = tests.iter().map(|test| test.function.as_str()).collect();
                findings.push(format!("{cited_version} has no [{}], cited by {by:?}", name(id)));
            }
        }
        for (&id, statement) in statements.iter().filter(|(_, statement)| statement.binds_server) {
            let key = (version.0, id);
            let is_covered = citations.tests.contains_key(&key) || !statement.reason.is_empty();
            if is_covered && is_writing {
                open.remove(&key);
            }
            match (is_covered, open.contains(&key)) {
                (false, false) => findings.push(format!("{} [{}] has neither test nor reason", version.0, name(id))),
                (true, true) => findings.push(format!("{} [{}] is covered: take it off {OPEN}", version.0, name(id))),
                _ => {}
            }
        }
        table(&mut out, version, &statements, &citations, &open);
    }
    if is_writing {
        let mut rest: Vec<_> = open.iter().collect();
        rest.sort_by_key(|(version, id)| (std::cmp::Reverse(*version), *id));
        let mut lines = String::new();
        for (version, id) in rest {
            writeln!(lines, "{version} {}", name(*id)).unwrap();
        }
        fs::write(root().join(OPEN), lines).unwrap();
        fs::create_dir_all(root().join("docs")).unwrap();
        fs::write(root().join(TABLE), &out).unwrap();
    } else if fs::read_to_string(root().join(TABLE)).unwrap_or_default() != out {
        findings.push(format!("{TABLE} is out of date: {HINT}"));
    }
    assert!(findings.is_empty(), "\n  {}\n", findings.join("\n  "));
}

#[test]
fn citations_are_read_above_a_test_and_inside_it() {
    let text = "\
/// v5 [MQTT-1.2.3-4]: words, [MQTT-1.2.3-5]; v3.1.1 [MQTT-1.1.1-1] to [MQTT-1.1.1-3]
#[tokio::test]
async fn first() {
    // v5 and v3.1.1 [MQTT-9.9.9-9]
    let x = 1;
    // [MQTT-8.8.8-8]
}

/// v5 [MQTT-7.7.7-7]
fn no_test() {
}
";
    let mut citations = Citations::default();
    citations.add_file("a.rs", text);
    let found: Vec<_> = citations
        .tests
        .keys()
        .map(|(version, id)| format!("{version} {}", name(*id)))
        .collect();
    let wanted = [
        "v3.1.1 MQTT-1.1.1-1",
        "v3.1.1 MQTT-1.1.1-2",
        "v3.1.1 MQTT-1.1.1-3",
        "v3.1.1 MQTT-9.9.9-9",
        "v5 MQTT-1.2.3-4",
        "v5 MQTT-1.2.3-5",
    ];
    assert_eq!(found, wanted);
    assert_eq!(citations.findings, ["a.rs: `first` cites [MQTT-8.8.8-8] of no version"]);
}
