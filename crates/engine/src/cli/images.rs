//! `unlade images`, `inspect`, `history`, `tag`, `rmi` and `image prune`.

use std::collections::BTreeMap;

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use unlade_unpack::Cancel;

use super::{
    globals::Globals,
    human::{self, Filters},
    out,
    table::{Columns, List},
    template::{Template, Value},
};
use crate::{
    engine::Engine,
    error::{Error, Kind, Result},
    image::name::Reference,
    store::{Image, Prune, RemoveOptions, Removed},
};

const IMAGES: Columns = Columns {
    name: "image",
    headers: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
    table: &["Repository", "Tag", "ID", "CreatedSince", "Size"],
    quiet: "ID",
};
const WITH_DIGESTS: &[&str] = &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"];
const FILTERS: &[&str] = &[
    "before", "dangling", "label", "label!", "reference", "since", "until",
];
const NONE: &str = "<none>";

#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// Only this repository: NAME[:TAG], with * and ? as wildcards.
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Show all images. Layers of builds, which this would add, are not kept.
    #[arg(short, long)]
    all: bool,

    /// Show digests.
    #[arg(long)]
    digests: bool,

    /// Only images that KEY=VALUE fits: before, dangling, label, reference, since, until.
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// table, `table TEMPLATE`, json, or a template such as {{.ID}}.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Show ids and digests whole.
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only.
    #[arg(short, long)]
    quiet: bool,
}

/// Which images are wanted.
struct Wanted<'a> {
    engine: &'a Engine,
    filters: Filters,
    before: Option<i64>,
    since: Option<i64>,
    until: Option<Timestamp>,
    dangling: Option<bool>,
}

impl<'a> Wanted<'a> {
    fn new(engine: &'a Engine, filter: &[String], known: &[&str]) -> Result<Self> {
        let filters = Filters::parse(filter, known)?;
        let created = |name: &str| -> Result<Option<i64>> {
            let mut all = filters.get(name);
            let image = all.next().map(|text| engine.store().resolve(text));
            Ok(image.transpose()?.map(|image| image.created.unwrap_or(0)))
        };
        Ok(Self {
            engine,
            before: created("before")?,
            since: created("since")?,
            until: filters.until(Timestamp::now(), &TimeZone::system())?,
            dangling: filters.flag("dangling")?,
            filters,
        })
    }

    fn image(&self, image: &Image) -> Result<bool> {
        let created = image.created.unwrap_or(0);
        let dangling = image.names.is_empty();
        Ok(self.before.is_none_or(|t| created < t)
            && self.since.is_none_or(|t| created > t)
            && self.until.is_none_or(|t| created < t.as_second())
            && self.dangling.is_none_or(|d| d == dangling)
            && self.labels(image)?)
    }

    fn labels(&self, image: &Image) -> Result<bool> {
        let asked = ["label", "label!"].iter().any(|f| self.filters.get(f).next().is_some());
        if !asked {
            return Ok(true);
        }
        let config = self.engine.describe_image(image.clone())?.config.config;
        let labels = config.and_then(|c| c.labels).unwrap_or_default();
        Ok(self.filters.labels(&labels.into_iter().collect::<BTreeMap<_, _>>()))
    }
}

pub(super) fn list(globals: &Globals, args: &ImagesArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let mut filter = args.filter.clone();
    if let Some(name) = &args.name {
        filter.push(format!("reference={name}"));
    }
    let wanted = Wanted::new(&engine, &filter, FILTERS)?;
    let columns = Columns {
        table: if args.digests { WITH_DIGESTS } else { IMAGES.table },
        ..IMAGES
    };
    let mut list = List::new(&columns, args.format.as_deref(), args.quiet)?;
    let now = Timestamp::now();
    let mut shown = std::collections::HashSet::new();
    for image in engine.store().images()? {
        if !wanted.image(&image)? {
            continue;
        }
        for row in rows(&image, args.digests, &wanted.filters)? {
            // Ids alone are shown once each.
            if args.quiet && args.format.is_none() && !shown.insert(image.id) {
                continue;
            }
            list.row(fields(&image, &row, args.no_trunc, now))?;
        }
    }
    out::text(&list.finish()?)
}

/// Repository, tag and digest of a line.
struct Row {
    repository: String,
    tag: String,
    digest: String,
}

/// One line a name; an image without one has a line for each repository it came from.
fn rows(image: &Image, digests: bool, filters: &Filters) -> Result<Vec<Row>> {
    let none = || NONE.to_owned();
    let digest_in = |repository: &str| {
        let found = image.repo_digests.iter().find(|(repo, _)| repo == repository);
        found.map_or_else(none, |(_, digest)| digest.to_string())
    };
    let mut rows = Vec::new();
    for name in &image.names {
        let reference = Reference::parse(name)?;
        let (repository, tag) = (reference.familiar_repository(), reference.tag().unwrap_or(NONE));
        if filters.reference(&repository, tag)? {
            rows.push(Row {
                digest: digest_in(&reference.repository()),
                tag: tag.to_owned(),
                repository,
            });
        }
    }
    if !image.names.is_empty() {
        return Ok(rows);
    }
    for (repo, digest) in &image.repo_digests {
        let repository = Reference::parse(repo)?.familiar_repository();
        if filters.reference(&repository, NONE)? {
            rows.push(Row { repository, tag: none(), digest: digest.to_string() });
        }
        if !digests {
            break;
        }
    }
    if image.repo_digests.is_empty() && filters.reference(NONE, NONE)? {
        rows.push(Row { repository: none(), tag: none(), digest: none() });
    }
    Ok(rows)
}

fn fields(image: &Image, row: &Row, whole: bool, now: Timestamp) -> Vec<(&'static str, Value)> {
    let id = image.id.to_string();
    let id = if whole { &*id } else { human::short_id(&id) };
    let created = image.created.unwrap_or(0);
    let size = human::size(image.size, 3);
    vec![
        ("ID", Value::text(id)),
        ("Repository", Value::text(&row.repository)),
        ("Tag", Value::text(&row.tag)),
        ("Digest", Value::text(&row.digest)),
        ("CreatedSince", Value::text(human::ago(created, now))),
        ("CreatedAt", Value::text(human::date(created, &TimeZone::system()))),
        ("Size", Value::text(&size)),
        ("VirtualSize", Value::text(&size)),
        ("Containers", Value::text("N/A")),
        ("SharedSize", Value::text("N/A")),
        ("UniqueSize", Value::text("N/A")),
    ]
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names or ids of images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// json, or a template such as {{.Config.Cmd}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints all that are there, then fails for the first that is not.
pub(super) fn inspect(globals: &Globals, args: &InspectArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let template = match args.format.as_deref() {
        None => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(text) => Some(Template::parse(text)?),
    };
    let (mut found, mut failed) = (Vec::new(), None);
    for image in &args.images {
        match engine.inspect(image) {
            Ok(one) => found.push(one),
            Err(e) => {
                failed.get_or_insert(e);
            }
        }
    }
    match template {
        None => {
            let text = serde_json::to_string_pretty(&found)
                .map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))?;
            // Docker indents by four.
            let text: String = text
                .lines()
                .map(|line| {
                    let rest = line.trim_start_matches(' ');
                    format!("{}{rest}\n", " ".repeat((line.len() - rest.len()) * 2))
                })
                .collect();
            out::text(&text)?;
        }
        Some(template) => {
            for one in &found {
                out::line(&template.render(one)?)?;
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

const HISTORY: Columns = Columns {
    name: "history",
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    table: &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
    quiet: "ID",
};

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Name or id of the image.
    #[arg(value_name = "IMAGE")]
    image: String,

    /// table, `table TEMPLATE`, json, or a template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Sizes and times for people; with =false in bytes and as RFC 3339.
    #[arg(short = 'H', long, default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_name = "BOOL", require_equals = true)]
    human: bool,

    /// Show ids and commands whole.
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn history(globals: &Globals, args: &HistoryArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let mut list = List::new(&HISTORY, args.format.as_deref(), args.quiet)?;
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    for row in engine.history(&args.image)? {
        let id = row.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string());
        let id = match row.id {
            Some(_) if !args.no_trunc => human::short_id(&id).to_owned(),
            _ => id,
        };
        let by = row.created_by.replace('\t', " ");
        let by = if args.no_trunc { by } else { human::ellipsis(&by, 45) };
        let at = human::rfc3339(row.created, &zone);
        let (since, size) = if args.human {
            (human::ago(row.created, now), human::size(row.size, 3))
        } else {
            (at.clone(), row.size.to_string())
        };
        list.row(vec![
            ("ID", Value::text(id)),
            ("CreatedSince", Value::text(since)),
            ("CreatedAt", Value::text(at)),
            ("CreatedBy", Value::text(by)),
            ("Size", Value::text(size)),
            ("Comment", Value::text(row.comment)),
        ])?;
    }
    out::text(&list.finish()?)
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// Name or id of the image.
    #[arg(value_name = "IMAGE")]
    source: String,

    /// The further name: NAME[:TAG].
    #[arg(value_name = "NAME")]
    target: String,
}

pub(super) fn tag(globals: &Globals, args: &TagArgs, cancel: &Cancel) -> Result<()> {
    let target = Reference::parse(&args.target)?.with_default_tag();
    globals.engine(cancel)?.store().tag(&args.source, &target)
}

#[derive(Debug, Args)]
pub(super) struct RmiArgs {
    /// Names or ids of images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Also what is in use, or by id while it has several names.
    #[arg(short, long)]
    force: bool,

    /// Keep layers that no image needs any more.
    #[arg(long)]
    no_prune: bool,
}

/// Removes all that can be, then fails for the first that could not.
pub(super) fn rmi(globals: &Globals, args: &RmiArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let mut options = RemoveOptions::default();
    options.force = args.force;
    options.no_prune = args.no_prune;
    let mut failed = None;
    for image in &args.images {
        match engine.remove(image, options) {
            Ok(removed) => removed.iter().try_for_each(say_removed)?,
            // As docker: what is not there is no failure with --force.
            Err(e) if args.force && e.kind() == Kind::NotFound => super::say(&e.to_string()),
            Err(e) => {
                failed.get_or_insert(e);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.familiar())
}

pub(super) fn say_removed(removed: &Removed) -> Result<()> {
    match removed {
        Removed::Untagged(name) => out::line(&format!("Untagged: {}", familiar(name))),
        Removed::Deleted(digest) => out::line(&format!("Deleted: {digest}")),
    }
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// All that are not in use, not only those without a name.
    #[arg(short, long)]
    all: bool,

    /// Only images that KEY=VALUE fits: label, label!, until.
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

pub(super) fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let what = if args.all {
        "all images that are not in use"
    } else {
        "all images without a name"
    };
    if !args.force && !super::confirm(&format!("This will remove {what}."))? {
        return Ok(());
    }
    let engine = globals.engine(cancel)?;
    let wanted = Wanted::new(&engine, &args.filter, &["label", "label!", "until"])?;
    let mut options = Prune::default();
    options.all = args.all;
    let mut failed = None;
    // Looked at beforehand: nothing may fail once images are being removed.
    let mut chosen = std::collections::HashSet::new();
    for image in engine.store().images()? {
        match wanted.image(&image) {
            Ok(true) => {
                chosen.insert(image.id);
            }
            Ok(false) => {}
            Err(e) => {
                failed.get_or_insert(e);
            }
        }
    }
    let (removed, bytes) = engine.prune_images(options, &|image| chosen.contains(&image.id))?;
    if !removed.is_empty() {
        out::line("Deleted Images:")?;
        for one in &removed {
            match one {
                Removed::Untagged(name) => out::line(&format!("untagged: {}", familiar(name)))?,
                Removed::Deleted(digest) => out::line(&format!("deleted: {digest}"))?,
            }
        }
        out::line("")?;
    }
    out::line(&format!("Total reclaimed space: {}", human::size(bytes, 4)))?;
    failed.map_or(Ok(()), Err)
}
