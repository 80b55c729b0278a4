//! A tar stream as the list of what the reader says of it.

use unlade_unpack::{
    Error, Limits,
    entry::Entry,
    tar::{Reader, Step},
};

use crate::input::Cuts;

/// What the reader gave, in order. Payload is joined, as it may come in any pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Entry(Entry),
    Data { at: u64, bytes: Vec<u8> },
    EntryEnd,
    End,
}

/// The events of a stream and its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    pub events: Vec<Event>,
    /// Where each entry ends, but for padding.
    pub ends: Vec<usize>,
    pub end: Result<(), String>,
}

impl Reading {
    /// Reads `stream` in pieces, or whole.
    pub fn of(stream: &[u8], limits: &Limits, mut cuts: Option<Cuts>) -> Self {
        let mut reader = Reader::new(limits.clone());
        let (mut events, mut ends) = (Vec::new(), Vec::new());
        let mut rest = stream;
        let mut end = Ok(());
        while end.is_ok() {
            let piece = match &mut cuts {
                Some(cuts) => cuts.cut(&mut rest),
                None => std::mem::take(&mut rest),
            };
            if piece.is_empty() {
                break;
            }
            end = feed(&mut reader, piece, &mut events, &mut ends);
        }
        let end = end.and_then(|()| reader.finish());
        assert!(end.is_err() || reader.position() == stream.len() as u64);
        Self {
            events,
            ends,
            end: end.map_err(|e| format!("{e:?}")),
        }
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.events.iter().filter_map(|e| match e {
            Event::Entry(entry) => Some(entry),
            _ => None,
        })
    }
}

fn feed(
    reader: &mut Reader,
    piece: &[u8],
    events: &mut Vec<Event>,
    ends: &mut Vec<usize>,
) -> Result<(), Error> {
    let mut used = 0;
    loop {
        let (n, step) = reader.step(&piece[used..])?;
        let position = usize::try_from(reader.position()).expect("within a slice");
        match step {
            Step::NeedMore => {
                assert_eq!(used + n, piece.len(), "asks for more with input left");
                return Ok(());
            }
            Step::Entry(entry) => {
                ends.push(position);
                events.push(Event::Entry(entry));
            }
            Step::EntryEnd => {
                *ends.last_mut().expect("an entry before its end") = position;
                events.push(Event::EntryEnd);
            }
            Step::End => events.push(Event::End),
            Step::Data { range, at } => {
                assert!(!range.is_empty(), "empty payload");
                let new = &piece[used..][range];
                match events.last_mut() {
                    Some(Event::Data { at: a, bytes }) if *a + bytes.len() as u64 == at => {
                        bytes.extend_from_slice(new);
                    }
                    _ => events.push(Event::Data {
                        at,
                        bytes: new.to_vec(),
                    }),
                }
            }
        }
        used += n;
    }
}

/// The same by [`Reader::skip`]: entries alone.
pub fn skipping(stream: &[u8], limits: &Limits) -> (Vec<Entry>, Result<(), String>) {
    let mut reader = Reader::new(limits.clone());
    let (mut entries, mut used) = (Vec::new(), 0);
    let end = loop {
        match reader.step(&stream[used..]) {
            Err(e) => break Err(e),
            Ok((_, Step::NeedMore)) => break reader.finish(),
            Ok((n, step)) => {
                used += n;
                if let Step::Entry(entry) = step {
                    entries.push(entry);
                }
                let over = usize::try_from(reader.skippable()).unwrap_or(usize::MAX);
                if over <= stream.len() - used {
                    used += over;
                    reader.skip();
                    assert_eq!(reader.position(), used as u64);
                }
            }
        }
    };
    (entries, end.map_err(|e| format!("{e:?}")))
}
