//! Lines of Docker's `json-file`: `{"log":"…\n","stream":"stdout","time":"…"}`.

use crate::shim::Stream;

/// Adds a line; `text` with its newline, if it has one. `attrs` is a JSON object or empty.
pub(super) fn encode(out: &mut Vec<u8>, stream: Stream, time: &str, attrs: &str, text: &[u8]) {
    out.extend_from_slice(b"{\"log\":");
    string(out, text);
    out.extend_from_slice(b",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    if !attrs.is_empty() {
        out.extend_from_slice(b"\",\"attrs\":");
        out.extend_from_slice(attrs.as_bytes());
        out.extend_from_slice(b",\"time\":\"");
    } else {
        out.extend_from_slice(b"\",\"time\":\"");
    }
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// A JSON string as Docker writes it: what could be HTML is escaped, bytes that are not UTF-8 are
/// U+FFFD.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid());
        // Go counts each byte that is wrong, Rust each sequence.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let special = byte < 0x20 || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&');
        // U+2028 and U+2029 end a line in JavaScript.
        let separator = byte == 0xe2 && matches!(bytes[at..], [_, 0x80, 0xa8 | 0xa9, ..]);
        if !special && !separator {
            continue;
        }
        out.extend_from_slice(&bytes[plain..at]);
        plain = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0xe2 => {
                out.extend_from_slice(b"\\u202");
                out.push(HEX[usize::from(bytes[at + 2] & 0xf)]);
                plain = at + 3;
            }
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 0xf)]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8], attrs: &str) -> String {
        let mut out = Vec::new();
        encode(&mut out, Stream::Stdout, "T", attrs, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_docker_writes_it() {
        let want = "{\"log\":\"a \\\"b\\\" \\\\\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n";
        assert_eq!(line(b"a \"b\" \\\n", ""), want);
        let want = "{\"log\":\"x\",\"stream\":\"stdout\",\"attrs\":{\"a\":\"b\"},\"time\":\"T\"}\n";
        assert_eq!(line(b"x", "{\"a\":\"b\"}"), want);
        for (text, want) in [
            (&b"<&>"[..], r"\u003c\u0026\u003e"),
            (b"\t\0\x1b\r", r"\u0009\u0000\u001b\r"),
            (b"\xff\xfe\xe2\x82", r"\ufffd\ufffd\ufffd\ufffd"),
            ("ü\u{2028}€\u{2029}".as_bytes(), r"ü\u2028€\u2029"),
        ] {
            let want = format!("{{\"log\":\"{want}\",\"stream\"");
            assert!(line(text, "").starts_with(&want), "{}", line(text, ""));
        }
    }

    proptest::proptest! {
        #[test]
        fn always_json(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let value: serde_json::Value = serde_json::from_str(&line(&text, "")).unwrap();
            let log = value["log"].as_str().unwrap();
            if let Ok(text) = std::str::from_utf8(&text) {
                proptest::prop_assert_eq!(log, text);
            }
        }
    }
}
