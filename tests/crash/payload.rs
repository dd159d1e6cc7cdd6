//! What a test message carries: who published it, on which of its connections, and its number among that publisher's
//! messages of the topic. So every stored record is unlike every other, and the order it should be in can be read off.
//!
//! A `QoS` 1 message that is sent again carries the new connection's number: the server may store it twice, and then it
//! is seen which of the two a subscriber got. A `QoS` 2 message is sent again as it was.

/// Identity of a stored message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Payload {
    pub(crate) publisher: String,
    pub(crate) connection: u64,
    pub(crate) number: u64,
    pub(crate) retain: bool,
    pub(crate) topic: String,
}

impl Payload {
    /// Its text, filled up to a length.
    pub(crate) fn text(&self, padding: usize) -> String {
        let retain = if self.retain { "R" } else { "-" };
        let Self {
            publisher,
            connection,
            number,
            topic,
            ..
        } = self;
        let text = format!("{publisher}|{connection}|{number}|{retain}|{topic}|");
        format!("{text:.<padding$}")
    }

    /// Reads what `text` wrote.
    pub(crate) fn parse(text: &str) -> Self {
        let mut parts = text.split('|');
        let mut part = || parts.next().unwrap_or_else(|| panic!("not one of ours: `{text}`"));
        let publisher = part().to_owned();
        let connection = part().parse().expect("a number");
        let number = part().parse().expect("a number");
        let retain = part() == "R";
        let topic = part().to_owned();
        Self {
            publisher,
            connection,
            number,
            retain,
            topic,
        }
    }
}

/// Cuts the padding, so that what is remembered stays small.
pub(crate) fn identity(payload: &[u8]) -> String {
    let text = std::str::from_utf8(payload).expect("text");
    text.trim_end_matches('.').to_owned()
}
