//! Requests built once and answers read in place. An answer has a `Content-Length`, or is chunked.

/// A whole answer.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Answer<'a> {
    /// Status.
    pub(super) status: u16,
    /// Body; where it came in chunks, put together.
    pub(super) body: std::borrow::Cow<'a, [u8]>,
    /// Bytes of all of it.
    pub(super) length: usize,
}

/// The largest head that is waited for.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The first answer of `bytes`, once it is whole.
///
/// # Errors
/// It is none.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<Answer<'_>>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX {
            Err("the head of an answer has no end".into())
        } else {
            Ok(None)
        };
    };
    let (head, rest) = bytes.split_at(end + 4);
    let head = std::str::from_utf8(head).map_err(|_| "the head of an answer is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|line| line.get(..3)?.parse().ok());
    let status = status.ok_or("an answer is not HTTP/1.1")?;
    let mut length = None;
    let mut is_chunked = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    if is_chunked {
        return Ok(chunks(rest)?.map(|(body, length)| Answer {
            status,
            body: body.into(),
            length: head.len() + length,
        }));
    }
    let length = length.ok_or("an answer does not say how long it is")?;
    Ok(rest.get(..length).map(|body| Answer {
        status,
        body: body.into(),
        length: head.len() + length,
    }))
}

/// All chunks put together, and the bytes they take; `None` until the last is there.
fn chunks(mut rest: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let all = rest.len();
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let (line, behind) = rest.split_at(end);
        let size = std::str::from_utf8(line).ok().and_then(|line| line.split(';').next());
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.ok_or("a chunk has no length")?;
        // Its own line break, the chunk, and the line break behind it.
        let Some(chunk) = behind.get(2..2 + size).filter(|_| behind.len() >= size + 4) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        rest = behind.get(size + 4..).unwrap_or_default();
        if size == 0 {
            return Ok(Some((body, all - rest.len())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_last_byte_is_there() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n",
        ] {
            for end in 0..text.len() {
                assert_eq!(answer(&text.as_bytes()[..end]), Ok(None), "{end}");
            }
            let more = format!("{text}HTTP/1.1 ");
            let found = answer(more.as_bytes()).unwrap().unwrap();
            assert_eq!((found.status, found.length), (200, text.len()));
            assert_eq!(&found.body[..], b"hello");
        }
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(answer(b"SSH-2.0\r\n\r\n").is_err());
    }
}
