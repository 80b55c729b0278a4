//! Lines of Kubernetes' CRI: `TIME stdout F text`, with `P` for a part of a line.

use crate::shim::Stream;

/// Adds a line; `text` with its newline, if it has one: without, it is a part.
pub(super) fn encode(out: &mut Vec<u8>, stream: Stream, time: &str, text: &[u8]) {
    let (text, tag) = match text.split_last() {
        Some((b'\n', text)) => (text, b" F "),
        _ => (text, b" P "),
    };
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(tag);
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_and_parts() {
        let mut out = Vec::new();
        encode(&mut out, Stream::Stdout, "T", b"a b\n");
        encode(&mut out, Stream::Stderr, "T", b"part");
        encode(&mut out, Stream::Stdout, "T", b"\n");
        assert_eq!(out, b"T stdout F a b\nT stderr P part\nT stdout F \n");
    }
}
