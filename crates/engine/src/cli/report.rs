//! The result of an unpack, as JSON and as one line.

use serde_json::{Map, Value, json};
use unlade_unpack::{Counts, Error, Kind, LayerReport, Result, Skipped, Stream};

use super::args::UnpackArgs;
use crate::unpack::{LayerDone, UnpackReport};

/// Raised whenever a field changes its meaning or goes.
pub(super) const VERSION: u32 = 1;

/// The report, or the error, as JSON with a newline.
pub(super) fn json(args: &UnpackArgs, done: &Result<UnpackReport>) -> String {
    let mut top = json!({
        "report_version": VERSION,
        "unlade_version": env!("CARGO_PKG_VERSION"),
        "source": args.source.to_string(),
        "ok": done.is_ok(),
    });
    let rest = match done {
        Ok(report) => success(report),
        Err(e) => json!({ "error": error(e) }),
    };
    if let (Value::Object(top), Value::Object(rest)) = (&mut top, rest) {
        top.extend(rest);
    }
    format!("{top:#}\n")
}

fn success(report: &UnpackReport) -> Value {
    json!({
        "dest": report.dest.as_ref().map(|d| d.display().to_string()),
        "verified_only": report.dest.is_none(),
        "confined": report.confined,
        "manifest_digest": report.manifest_digest.map(|d| d.to_string()),
        "config_digest": report.config_digest.map(|d| d.to_string()),
        "platform": report.platform.as_ref().map(ToString::to_string),
        "layers": report.layers.iter().map(done_layer).collect::<Vec<_>>(),
        "entries": counts(&total(report)),
        "compressed_bytes": sum(report, |l| l.compressed_bytes),
        "tar_bytes": sum(report, |l| l.tar_bytes),
        "skipped": skipped(report).iter().map(skipped_json).collect::<Vec<_>>(),
        "seconds": report.seconds,
        "user_seconds": report.cpu_seconds.0,
        "system_seconds": report.cpu_seconds.1,
        "peak_rss_bytes": report.peak_rss_bytes,
        "left_behind": report.left_behind.as_ref().map(ToString::to_string),
    })
}

fn done_layer(done: &LayerDone) -> Value {
    layer(done.media_type.as_deref(), &done.report)
}

/// What the unpacker says of a layer.
pub(super) fn layer(media_type: Option<&str>, report: &LayerReport) -> Value {
    let stages: Map<String, Value> = report
        .stages
        .iter()
        .map(|s| {
            let stage = json!({
                "seconds": s.seconds,
                "cpu_seconds": s.cpu_seconds,
                "bytes": s.bytes,
            });
            (s.name.to_owned(), stage)
        })
        .collect();
    json!({
        "digest": report.blob.to_string(),
        "diff_id": report.diff_id.to_string(),
        "media_type": media_type,
        "compression": report.compression.name(),
        "decoder": report.decoder,
        "io": report.io,
        "compressed_bytes": report.compressed_bytes,
        "tar_bytes": report.tar_bytes,
        "entries": counts(&report.counts),
        "skipped": report.skipped.iter().map(skipped_json).collect::<Vec<_>>(),
        "stages": stages,
    })
}

fn counts(c: &Counts) -> Value {
    json!({
        "total": c.entries(),
        "files": c.files,
        "directories": c.directories,
        "symlinks": c.symlinks,
        "hard_links": c.hard_links,
        "devices": c.devices,
        "fifos": c.fifos,
        "whiteouts": c.whiteouts,
        "opaques": c.opaques,
        "duplicates": c.duplicates,
        "file_bytes": c.file_bytes,
    })
}

fn skipped_json(s: &Skipped) -> Value {
    json!({
        "what": s.what,
        "why": s.why,
        "count": s.count,
        "first": String::from_utf8_lossy(&s.first),
    })
}

fn error(e: &Error) -> Value {
    let kind = match e.kind() {
        Kind::BadInput => "bad-input",
        Kind::Limit => "limit",
        Kind::Unsupported => "unsupported",
        Kind::Integrity => "integrity",
        Kind::Host => "host",
        Kind::Cancelled => "cancelled",
        _ => "bug",
    };
    let place = e.place();
    let (stream, offset) = match place.offset {
        Some((Stream::Compressed, at)) => (Some("blob"), Some(at)),
        Some((_, at)) => (Some("tar"), Some(at)),
        None => (None, None),
    };
    json!({
        "kind": kind,
        "message": e.to_string(),
        "hint": e.hint(),
        "part": place.part,
        "blob": place.blob,
        "entry": place.entry,
        "path": place.path.as_ref().map(|p| String::from_utf8_lossy(p)),
        "offset": offset,
        "offset_in": stream,
    })
}

fn sum(report: &UnpackReport, of: impl Fn(&LayerReport) -> u64) -> u64 {
    report.layers.iter().map(|l| of(&l.report)).sum()
}

fn total(report: &UnpackReport) -> Counts {
    let mut all = Counts::default();
    for c in report.layers.iter().map(|l| &l.report.counts) {
        all.files += c.files;
        all.directories += c.directories;
        all.symlinks += c.symlinks;
        all.hard_links += c.hard_links;
        all.devices += c.devices;
        all.fifos += c.fifos;
        all.whiteouts += c.whiteouts;
        all.opaques += c.opaques;
        all.duplicates += c.duplicates;
        all.file_bytes += c.file_bytes;
    }
    all
}

/// What all layers left out, added up.
pub(super) fn skipped(report: &UnpackReport) -> Vec<Skipped> {
    let mut all: Vec<Skipped> = Vec::new();
    for s in report.layers.iter().flat_map(|l| &l.report.skipped) {
        match all.iter_mut().find(|a| a.what == s.what && a.why == s.why) {
            Some(a) => a.count += s.count,
            None => all.push(s.clone()),
        }
    }
    all
}

/// The line for people, with a newline.
pub(super) fn line(args: &UnpackArgs, report: &UnpackReport) -> String {
    let digest = report
        .manifest_digest
        .or(report.config_digest)
        .or_else(|| report.layers.first().map(|l| l.report.blob));
    let digest = digest.map_or_else(String::new, |d| format!("{d}: "));
    let what = if report.dest.is_some() {
        "unpacked"
    } else {
        "verified"
    };
    let count = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let layers = count(report.layers.len() as u64, "layer", "layers");
    let entries = count(total(report).entries(), "entry", "entries");
    let size = bytes(sum(report, |l| l.tar_bytes));
    let to = match &report.dest {
        Some(dest) => format!(" to {}", dest.display()),
        None => format!(" from {}", args.source),
    };
    format!(
        "{digest}{what} {layers}, {entries}, {size} in {:.2} s{to}\n",
        report.seconds
    )
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (n, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (3 << 30, "3.0 GiB"),
        ] {
            assert_eq!(bytes(n), want);
        }
    }

    #[test]
    fn errors_keep_their_place() {
        let e = Error::new(Kind::Limit, "too much")
            .with_hint("less")
            .in_part("layer 1 of 2");
        let e = error(&e.at_entry(7, b"a/b").at_offset(Stream::Tar, 512));
        assert_eq!((&e["kind"], &e["hint"]), (&"limit".into(), &"less".into()));
        assert_eq!(
            (&e["part"], &e["entry"]),
            (&"layer 1 of 2".into(), &7.into())
        );
        assert_eq!(
            (&e["path"], &e["offset"], &e["offset_in"]),
            (&"a/b".into(), &512.into(), &"tar".into())
        );
    }
}
