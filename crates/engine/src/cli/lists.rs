//! The lists of `images` and `history`, and what `image inspect` prints.

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{
    human,
    table::{Columns, List},
    template::{Template, Value},
};
use crate::{
    error::{Error, Kind, Result},
    image::inspect::HistoryRow,
};

const NONE: &str = "<none>";

const IMAGE_HEADERS: &[(&str, &str)] = &[
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
];

pub(crate) const IMAGES: Columns = Columns {
    name: "image",
    headers: IMAGE_HEADERS,
    table: &["Repository", "Tag", "ID", "CreatedSince", "Size"],
    quiet: "ID",
};

const IMAGES_WITH_DIGESTS: Columns = Columns {
    table: &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"],
    ..IMAGES
};

const HISTORY: Columns = Columns {
    name: "history",
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    table: &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
    quiet: "ID",
};

/// How a list is printed.
#[derive(Debug, Clone)]
pub(crate) struct Style<'a> {
    /// `--format`.
    pub(crate) format: Option<&'a str>,
    /// `--quiet`.
    pub(crate) quiet: bool,
    /// `--no-trunc`.
    pub(crate) no_trunc: bool,
    /// `--digests`, of images.
    pub(crate) digests: bool,
    /// Sizes and times for people: the default; only `history` can do without.
    pub(crate) human: bool,
    /// What `ago` counts from.
    pub(crate) now: Timestamp,
    /// The zone of times.
    pub(crate) zone: TimeZone,
}

/// An image in the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    /// The id.
    pub(crate) id: String,
    /// Repositories in docker's short form, with tags.
    pub(crate) tags: Vec<(String, String)>,
    /// Repositories in docker's short form, with digests.
    pub(crate) digests: Vec<(String, String)>,
    /// When it was made, in seconds since 1970; 0 if it is not known.
    pub(crate) created: i64,
    /// Bytes.
    pub(crate) size: u64,
    /// What of its size other images have too, in bytes, and how many containers it has: known to
    /// `system df` alone.
    pub(crate) usage: Option<(u64, u64)>,
}

impl Listed {
    /// Repository, tag and digest of each row, by docker's rules: a row for a tag, one for a
    /// repository that has digests alone, and one for an image without either.
    fn rows(&self, with_digests: bool) -> Vec<[&str; 3]> {
        let mut rows = Vec::new();
        let digests_of = |repo: &str| {
            let of = self
                .digests
                .iter()
                .filter(move |(r, _)| with_digests && r == repo);
            of.map(|(_, d)| &**d).collect::<Vec<_>>()
        };
        for (repo, tag) in &self.tags {
            match &digests_of(repo)[..] {
                [] => rows.push([repo, tag, NONE]),
                digests => rows.extend(digests.iter().map(|d| [&**repo, &**tag, *d])),
            }
        }
        let tagged = |repo: &str| self.tags.iter().any(|(r, _)| r == repo);
        let mut last = "";
        for (repo, digest) in self.digests.iter().filter(|(r, _)| !tagged(r)) {
            if with_digests {
                rows.push([repo, NONE, digest]);
            } else if repo != last {
                rows.push([repo, NONE, ""]);
            }
            last = repo;
        }
        if rows.is_empty() {
            rows.push([NONE, NONE, NONE]);
        }
        rows
    }
}

/// What `images` prints.
///
/// # Errors
/// As [`List::new`]'s and [`List::row`]'s.
pub(crate) fn images(images: &[Listed], style: &Style<'_>) -> Result<String> {
    let columns = if style.digests && style.format.is_none_or(|f| f == "table") {
        &IMAGES_WITH_DIGESTS
    } else {
        &IMAGES
    };
    let mut list = List::new(columns, style.format, style.quiet)?;
    for image in images {
        for row in image_rows(image, style) {
            list.row(row)?;
        }
    }
    list.finish()
}

/// The rows of an image in a list.
pub(crate) fn image_rows(image: &Listed, style: &Style<'_>) -> Vec<Vec<(&'static str, Value)>> {
    let id = if style.no_trunc {
        &image.id
    } else {
        human::short_id(&image.id)
    };
    let known = |text: fn(&Listed, u64, u64) -> String| match image.usage {
        Some((shared, containers)) => Value::text(text(image, shared, containers)),
        None => Value::text("N/A"),
    };
    let row = |[repository, tag, digest]: [&str; 3]| {
        vec![
            (
                "Containers",
                known(|_, _, containers| containers.to_string()),
            ),
            (
                "CreatedAt",
                Value::text(human::date(image.created, &style.zone)),
            ),
            (
                "CreatedSince",
                Value::text(human::ago(image.created, style.now)),
            ),
            ("Digest", Value::text(digest)),
            ("ID", Value::text(id)),
            ("Repository", Value::text(repository)),
            ("SharedSize", known(|_, shared, _| human::size(shared, 4))),
            ("Size", Value::text(human::size(image.size, 3))),
            ("Tag", Value::text(tag)),
            (
                "UniqueSize",
                known(|image, shared, _| human::size(image.size.saturating_sub(shared), 4)),
            ),
            ("VirtualSize", Value::text(human::size(image.size, 4))),
        ]
    };
    image.rows(style.digests).into_iter().map(row).collect()
}

/// What `history` prints.
///
/// # Errors
/// As [`List::new`]'s and [`List::row`]'s.
pub(crate) fn history(rows: &[HistoryRow], style: &Style<'_>) -> Result<String> {
    let mut list = List::new(&HISTORY, style.format, style.quiet)?;
    for row in rows {
        let id = row.id.map(|id| id.to_string());
        let id = match &id {
            None => "<missing>",
            Some(id) if style.no_trunc => id,
            Some(id) => human::short_id(id),
        };
        let at = human::rfc3339(row.created, &style.zone);
        let since = if style.human {
            human::ago(row.created, style.now)
        } else {
            at.clone()
        };
        let by = row.created_by.replace('\t', " ");
        let by = if style.no_trunc {
            by
        } else {
            human::ellipsis(&by, 45)
        };
        let size = if style.human {
            human::size(row.size, 3)
        } else {
            row.size.to_string()
        };
        list.row(vec![
            ("ID", Value::text(id)),
            ("CreatedAt", Value::text(at)),
            ("CreatedSince", Value::text(since)),
            ("CreatedBy", Value::text(by)),
            ("Size", Value::text(size)),
            ("Comment", Value::text(&row.comment)),
        ])?;
    }
    list.finish()
}

/// What `inspect` prints of `things`: a JSON list, with `json` one a line, else by a template.
///
/// # Errors
/// As [`Template::parse`]'s and [`Template::render`]'s.
pub(crate) fn inspect<T: Serialize>(things: &[T], format: Option<&str>) -> Result<String> {
    let failed = |e: serde_json::Error| Error::new(Kind::Bug, format!("write JSON: {e}"));
    let format = match format {
        Some(format) if !format.is_empty() => format,
        _ => {
            let mut out = Vec::new();
            let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut json = serde_json::Serializer::with_formatter(&mut out, indent);
            things.serialize(&mut json).map_err(failed)?;
            out.push(b'\n');
            return Ok(String::from_utf8_lossy(&out).into_owned());
        }
    };
    if format == "json" {
        return Ok(serde_json::to_string(things).map_err(failed)? + "\n");
    }
    let template = Template::parse(format)?;
    let mut out = String::new();
    for thing in things {
        out.push_str(&template.render(thing)?);
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use unlade_unpack::{Algorithm, Digest};

    use super::*;
    use crate::image::{
        FullConfig,
        inspect::{self as documents, Facts},
    };

    fn style(format: Option<&str>) -> Style<'_> {
        Style {
            format,
            quiet: false,
            no_trunc: false,
            digests: false,
            human: true,
            now: Timestamp::from_second(1_795_558_274).unwrap(),
            zone: TimeZone::UTC,
        }
    }

    fn sample() -> Vec<Listed> {
        let id = |two: &str| format!("sha256:{}", two.repeat(32));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        vec![
            Listed {
                id: id("a1"),
                tags: vec![
                    pair("alpine", "latest"),
                    pair("localhost:5000/team/app", "v1"),
                ],
                digests: vec![pair("alpine", &id("c3"))],
                created: 1_700_000_000,
                size: 5_530_000,
                ..Listed::default()
            },
            Listed {
                id: id("b2"),
                created: 1_795_550_000,
                size: 1_234_567_890,
                ..Listed::default()
            },
            Listed {
                id: id("d4"),
                digests: vec![pair("foo/bar", &id("c3"))],
                size: 999,
                ..Listed::default()
            },
        ]
    }

    /// What docker 28.2.2 printed for the same images.
    #[test]
    fn images_as_docker() {
        let table = "\
REPOSITORY                TAG       IMAGE ID       CREATED        SIZE
alpine                    latest    a1a1a1a1a1a1   3 years ago    5.53MB
localhost:5000/team/app   v1        a1a1a1a1a1a1   3 years ago    5.53MB
<none>                    <none>    b2b2b2b2b2b2   2 hours ago    1.23GB
foo/bar                   <none>    d4d4d4d4d4d4   56 years ago   999B
";
        assert_eq!(images(&sample(), &style(None)).unwrap(), table);
        let wide = Style {
            digests: true,
            no_trunc: true,
            ..style(None)
        };
        let text = images(&sample(), &wide).unwrap();
        let first = "REPOSITORY                TAG       DIGEST                                                                    IMAGE ID                                                                  CREATED        SIZE";
        assert_eq!(text.lines().next(), Some(first));
        let second = "localhost:5000/team/app   v1        <none>                                                                    sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1   3 years ago    5.53MB";
        assert_eq!(text.lines().nth(2), Some(second));
        let json = r#"{"Containers":"N/A","CreatedAt":"2026-11-24 19:53:20 +0000 UTC","CreatedSince":"2 hours ago","Digest":"\u003cnone\u003e","ID":"b2b2b2b2b2b2","Repository":"\u003cnone\u003e","SharedSize":"N/A","Size":"1.23GB","Tag":"\u003cnone\u003e","UniqueSize":"N/A","VirtualSize":"1.235GB"}"#;
        assert_eq!(
            images(&sample(), &style(Some("json")))
                .unwrap()
                .lines()
                .nth(2),
            Some(json)
        );
        let ids = images(
            &sample(),
            &Style {
                quiet: true,
                ..style(None)
            },
        )
        .unwrap();
        assert_eq!(
            ids,
            "a1a1a1a1a1a1\na1a1a1a1a1a1\nb2b2b2b2b2b2\nd4d4d4d4d4d4\n"
        );
    }

    #[test]
    fn history_as_docker() {
        let a1: Digest = format!("sha256:{}", "a1".repeat(32)).parse().unwrap();
        let long = format!("/bin/sh -c #(nop)  CMD [\"/bin/sh\"] {}", "a".repeat(51));
        let row = |id, created, by: &str, size, comment: &str| HistoryRow {
            id,
            created,
            created_by: by.to_owned(),
            size,
            comment: comment.to_owned(),
        };
        let rows = [
            row(Some(a1), 1_700_000_000, &long, 0, ""),
            row(
                None,
                1_699_990_000,
                "ADD\tfile /\n x",
                7_660_000,
                "buildkit.dockerfile.v0",
            ),
        ];
        let table = "\
IMAGE          CREATED       CREATED BY                                      SIZE      COMMENT
a1a1a1a1a1a1   3 years ago   /bin/sh -c #(nop)  CMD [\"/bin/sh\"] aaaaaaaaa…   0B        \n\
<missing>      3 years ago   ADD file /
 x             7.66MB        buildkit.dockerfile.v0
";
        assert_eq!(history(&rows, &style(None)).unwrap(), table);
        let json = r#"{"Comment":"buildkit.dockerfile.v0","CreatedAt":"2023-11-14T19:26:40Z","CreatedBy":"ADD file /\n x","CreatedSince":"3 years ago","ID":"\u003cmissing\u003e","Size":"7.66MB"}"#;
        assert_eq!(
            history(&rows, &style(Some("json"))).unwrap().lines().nth(1),
            Some(json)
        );
        let plain = Style {
            human: false,
            no_trunc: true,
            ..style(Some("{{.Size}} {{.CreatedSince}}"))
        };
        let text = history(&rows, &plain).unwrap();
        assert_eq!(
            text,
            "0 2023-11-14T22:13:20Z\n7660000 2023-11-14T19:26:40Z\n"
        );
    }

    #[test]
    fn documents() {
        let facts = Facts {
            id: Digest::of(Algorithm::Sha256, b"id"),
            repo_tags: vec!["a:1".to_owned()],
            repo_digests: Vec::new(),
            size: 7,
            driver: ("overlay".to_owned(), BTreeMap::new()),
            manifest: None,
            last_tagged: None,
        };
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=<b>"],"Labels":{"x":"y"}},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = FullConfig::parse(text.as_bytes().to_vec()).unwrap();
        let docs = [documents::inspect(facts, &config)];
        let show = |t: &str| inspect(&docs, Some(t)).map_err(|e| e.message().to_owned());
        for (template, want) in [
            ("{{.Os}}/{{.Architecture}}{{.Variant}}", "linux/amd64"),
            (
                "{{.Config.Volumes}} {{.Config.Cmd}} {{json .Config.Cmd}}",
                "map[] [] null",
            ),
            (
                "{{.Config.Labels.none}}|{{index .Config.Labels \"x\"}}",
                "<no value>|y",
            ),
            (
                "{{range .Config.Env}}{{.}}{{end}} {{.RepoDigests}}",
                "A=<b> []",
            ),
            ("{{if .Config.Healthcheck}}x{{else}}none{{end}}", "none"),
        ] {
            assert_eq!(show(template).unwrap(), format!("{want}\n"), "{template}");
        }
        let e = show("{{.Foo}}").unwrap_err();
        assert!(
            e.ends_with("<.Foo>: map has no entry for key \"Foo\""),
            "{e}"
        );
        assert!(show("json").unwrap().starts_with("[{\"Id\":\"sha256:"));
        let all = inspect(&docs, None).unwrap();
        assert!(all.starts_with("[\n    {\n        \"Id\": \"sha256:") && all.ends_with("\n]\n"));
        assert_eq!(inspect::<u8>(&[], None).unwrap(), "[]\n");
    }
}
