//! A request that is built once and counts in place, and the stamps found in an answer.
//!
//! ```text
//!  run, 8 digits | caller, 8 digits | number, 16 digits | filling      hexadecimal, lower case
//! ```

use super::caller::post;

/// Bytes of a stamp.
pub(super) const STAMP_BYTES: usize = 32;
const NUMBER_BYTES: usize = 16;
/// Stands in a template where the number goes.
const PLACE: &str = "################";

/// What stands before the number.
pub(super) fn stamp(run: u32, caller: u32) -> String {
    format!("{run:08x}{caller:08x}")
}

/// A payload of `size` bytes, its number still open.
pub(super) fn payload(run: u32, caller: u32, size: usize) -> String {
    let filling = ".".repeat(size.saturating_sub(STAMP_BYTES));
    format!("{}{PLACE}{filling}", stamp(run, caller))
}

/// A name with a number still open.
pub(super) fn name(prefix: &str, run: u32, caller: u32) -> String {
    format!("{prefix}-h-{}{PLACE}", stamp(run, caller))
}

/// A request.
#[derive(Clone)]
pub(super) struct Request {
    bytes: Vec<u8>,
    places: Vec<usize>,
    next: u64,
}

impl Request {
    /// Of a body with open numbers; the first will be 1.
    pub(super) fn new(body: &str) -> Self {
        let bytes = post(body);
        let places = bytes
            .windows(NUMBER_BYTES)
            .enumerate()
            .filter(|(_, window)| *window == PLACE.as_bytes())
            .map(|(at, _)| at)
            .collect();
        Self { bytes, places, next: 1 }
    }

    /// The next one: each open number is one more than the one before it.
    pub(super) fn advance(&mut self) -> &[u8] {
        for at in &self.places {
            let mut number = self.next;
            self.next += 1;
            for digit in self.bytes.iter_mut().skip(*at).take(NUMBER_BYTES).rev() {
                *digit = b"0123456789abcdef".get((number & 15) as usize).copied().unwrap_or(b'0');
                number >>= 4;
            }
        }
        &self.bytes
    }

    /// What is left of the present one when so much was written.
    pub(super) fn rest(&self, written: usize) -> &[u8] {
        self.bytes.get(written..).unwrap_or_default()
    }
}

/// The stamps of a run in a body, as they stand: caller and number. What only begins like one, a name say, is none.
pub(super) fn stamps(body: &[u8], run: u32) -> impl Iterator<Item = (u32, u64)> {
    let run = format!("{run:08x}").into_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = body.get(at..)?;
            let found = rest.windows(run.len()).position(|window| window == run)?;
            at += found + run.len();
            if let Some(stamp) = body.get(at..).and_then(caller_and_number) {
                at += STAMP_BYTES - run.len();
                return Some(stamp);
            }
        }
    })
}

/// What stands behind a run.
fn caller_and_number(bytes: &[u8]) -> Option<(u32, u64)> {
    let digits = std::str::from_utf8(bytes.get(..STAMP_BYTES - 8)?).ok()?;
    let (caller, number) = digits.split_at_checked(8)?;
    Some((
        u32::from_str_radix(caller, 16).ok()?,
        u64::from_str_radix(number, 16).ok()?,
    ))
}

/// Whether an answer says that the action was done.
pub(super) fn is_done(body: &[u8]) -> bool {
    const DONE: &[u8] = b"\"errorCode\":0";
    // It stands behind the result.
    let found = body.windows(DONE.len()).rposition(|window| window == DONE);
    found.is_some_and(|at| body.get(at + DONE.len()).is_some_and(|next| !next.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_through_all_its_messages() {
        let body = format!(
            "[\"{}\",\"{}\",\"{}\"]",
            payload(7, 1, 40),
            stamp(7, 1),
            payload(7, 1, 40)
        );
        let mut request = Request::new(&body);
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.extend(stamps(request.advance(), 7));
        }
        assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]);
        let text = String::from_utf8(request.rest(0).to_vec()).unwrap();
        assert!(
            text.ends_with("\"00000007000000010000000000000006........\"]"),
            "{text}"
        );
        assert!(text.contains("Content-Length: 106\r\n"), "{text}");
    }

    #[test]
    fn an_error_is_not_taken_for_success() {
        assert!(is_done(br#"{"result":{},"errorCode":0,"errorMessage":""}"#));
        assert!(is_done(br#"{"errorCode":0}"#));
        assert!(!is_done(br#"{"errorCode":12015}"#));
        assert!(!is_done(br#"{"errorCode":01}"#));
        assert!(!is_done(b""));
    }
}
