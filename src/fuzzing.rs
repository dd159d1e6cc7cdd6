//! What the fuzz targets in `fuzz/` run, and `cargo test` with the inputs they keep in `fuzz/corpus/`: for each target
//! a function that takes any bytes and panics only if the code behind it is wrong.
//!
//! The functions lie beside what they look at, in files named `probe.rs`; this is their list.

use crate::broker::probe as broker;
use crate::frontend::http::probe as http;
use crate::frontend::mqtt::probe as mqtt;
use crate::store::local::probe as store;

/// A target: its name, which is its file's in `fuzz/fuzz_targets/` and its folder's in `fuzz/corpus/`, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("frame", mqtt::frame),
    ("decode_v3", mqtt::decode_v3),
    ("decode_v5", mqtt::decode_v5),
    ("connection", mqtt::connection),
    ("topic", broker::topic),
    ("record", broker::record),
    ("row", broker::row),
    ("log", store::log),
    ("api", http::api),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::frontend::mqtt::corpus::packets;
    use crate::frontend::mqtt::frame::Version;

    fn fuzz() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn names(folder: &str) -> Vec<String> {
        let entries = fs::read_dir(fuzz().join(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Runs every input of a target; its name is in the output if it panics.
    fn run(target: &str) {
        let (_, probe) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
        let folder = fuzz().join("corpus").join(target);
        let mut count = 0;
        for name in names(&format!("corpus/{target}")) {
            eprintln!("{target}/{name}");
            probe(&fs::read(folder.join(name)).unwrap());
            count += 1;
        }
        assert!(count > 0, "no inputs in {}", folder.display());
        probe(&[]);
    }

    macro_rules! corpus {
        ($($test:ident: $target:literal,)*) => {$(
            #[test]
            fn $test() {
                run($target);
            }
        )*};
    }
    corpus! {
        frames_are_cut_from_every_kept_input: "frame",
        every_kept_input_is_decoded_or_refused_before_mqtt_5: "decode_v3",
        every_kept_input_is_decoded_or_refused_by_mqtt_5: "decode_v5",
        every_kept_conversation_is_answered: "connection",
        every_kept_filter_and_name_is_judged_alike: "topic",
        every_kept_publish_record_reads_back: "record",
        every_kept_row_reads_back: "row",
        every_kept_damage_to_the_log_is_cut_or_named: "log",
        every_kept_request_is_answered: "api",
    }

    /// `EVERMQ_WRITE_CORPUS=1 cargo test --lib fuzzing` puts them there.
    #[test]
    fn the_fuzzer_begins_with_every_packet_of_the_corpus() {
        let write = std::env::var_os("EVERMQ_WRITE_CORPUS").is_some();
        for (name, version, bytes) in packets() {
            let (target, mode) = match version {
                Some(Version::V311) => ("decode_v3", 0),
                Some(Version::V31) => ("decode_v3", 1),
                Some(Version::V5) => ("decode_v5", 0),
                None => ("decode_v5", 2),
            };
            let file = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
            let file = fuzz().join("corpus").join(target).join(file.to_lowercase());
            let input = [&[mode], &bytes[..]].concat();
            if write {
                fs::write(&file, &input).unwrap();
            }
            let kept = fs::read(&file).unwrap_or_default();
            assert_eq!(kept, input, "{} is not what the packet is", file.display());
        }
    }

    #[test]
    fn each_target_has_a_program_and_a_corpus_and_nothing_else_is_there() {
        let mut listed: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        listed.sort();
        assert_eq!(names("corpus"), listed);
        let programs: Vec<_> = listed.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names("fuzz_targets"), programs);
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for name in listed {
            assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}");
        }
    }
}
