//! `bench http`: EverMQ's JSON-action API, and as much HTTP/1.1 as a caller needs.
//!
//! Requests are built once, with digits in them that count; a request is those digits and one write.

mod answer;
mod caller;
mod presets;
mod request;
mod round;

use super::args::HttpWhat;
use super::report;

pub(super) use self::caller::{Url, get};

/// Runs a preset, and prints what was found.
///
/// # Errors
/// The broker cannot be reached, or refuses the login.
pub(super) fn run(what: &HttpWhat) -> Result<(), String> {
    match what {
        HttpWhat::Publish(args) => report::print(&presets::publish(args)?, args.target.watch.json),
        HttpWhat::Fetch(args) => report::print(&presets::fetch(args)?, args.target.watch.json),
        HttpWhat::Sessions(args) => report::print(&presets::sessions(args)?, args.target.watch.json),
    }
}
