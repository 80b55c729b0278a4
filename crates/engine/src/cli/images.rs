//! `unlade images`, `image inspect`, `history`, `tag`, `rmi` and `image prune`.

use std::collections::{BTreeMap, HashSet};

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use unlade_unpack::{Cancel, Digest};

use super::{
    each::each,
    globals::Globals,
    human::{self, Filters, PRUNE_FILTERS},
    lists::{self, Listed, Style},
    out, tree,
};
use crate::{
    engine::Engine,
    error::{Error, Kind, Result},
    image::name::Reference,
    store::{Image, Prune, RemoveOptions, Removed},
};

const FILTERS: &[&str] = &[
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];
/// What stands for a tag or digest that is not there.
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
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
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

    /// Show each image with its platform below it, and what it takes.
    #[arg(long)]
    tree: bool,
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
        let asked = ["label", "label!"]
            .iter()
            .any(|f| self.filters.get(f).next().is_some());
        if !asked {
            return Ok(true);
        }
        let config = self.engine.describe_image(image.clone())?.config.config;
        let labels = config.and_then(|c| c.labels).unwrap_or_default();
        Ok(self
            .filters
            .labels(&labels.into_iter().collect::<BTreeMap<_, _>>()))
    }
}

pub(super) fn list(globals: &Globals, args: &ImagesArgs, cancel: &Cancel) -> Result<()> {
    if args.tree {
        tree_alone(args)?;
    }
    let engine = globals.engine(cancel)?;
    let mut filter = args.filter.clone();
    if let Some(name) = &args.name {
        filter.push(format!("reference={name}"));
    }
    let wanted = Wanted::new(&engine, &filter, FILTERS)?;
    let mut listed = Vec::new();
    let mut shown = Vec::new();
    let used = match args.tree {
        true => with_containers(&engine)?,
        false => HashSet::new(),
    };
    for image in engine.store().images()? {
        if !wanted.image(&image)? {
            continue;
        }
        let Some(entry) = entry(&image, &wanted.filters)? else {
            continue;
        };
        match args.tree {
            true => shown.push(in_tree(&engine, &image, &entry, used.contains(&image.id))?),
            false => listed.push(entry),
        }
    }
    if args.tree {
        return out::text(&tree::tree(&shown, tree::width()));
    }
    let named = |format: &String| format.contains(".Digest");
    let style = Style {
        digests: args.digests || args.format.as_ref().is_some_and(named),
        ..style(args.format.as_deref(), args.quiet, args.no_trunc)
    };
    let text = lists::images(&listed, &style)?;
    if !args.quiet || args.format.is_some() {
        return out::text(&text);
    }
    // Ids alone are shown once each.
    let mut seen = HashSet::new();
    let once: String = text
        .lines()
        .filter(|id| seen.insert(*id))
        .map(|id| format!("{id}\n"))
        .collect();
    out::text(&once)
}

/// What docker does not take with `--tree`.
fn tree_alone(args: &ImagesArgs) -> Result<()> {
    let others = [
        ("quiet", args.quiet),
        ("no-trunc", args.no_trunc),
        ("show-digest", args.digests),
        ("format", args.format.is_some()),
    ];
    match others.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let m = format!("--{flag} is not yet supported with --tree");
            Err(Error::new(Kind::BadInput, m).with_hint("leave out one of them"))
        }
    }
}

/// The images that containers were made of.
fn with_containers(engine: &Engine) -> Result<HashSet<Digest>> {
    let all = engine.containers()?.all()?;
    Ok(all.into_iter().map(|record| record.image).collect())
}

fn in_tree(engine: &Engine, image: &Image, listed: &Listed, used: bool) -> Result<tree::Shown> {
    let store = engine.store();
    let layers = store.image_layers(image)?;
    let blobs: u64 = layers.iter().map(|l| l.blob_size).sum();
    let (_, manifest) = store.manifest_of(image)?;
    let names = listed
        .tags
        .iter()
        .map(|(repo, tag)| format!("{repo}:{tag}"));
    Ok(tree::Shown {
        names: names.collect(),
        ids: (image.id.to_string(), image.manifest.to_string()),
        platform: image
            .platform
            .as_ref()
            .map_or_else(|| NONE.to_owned(), ToString::to_string),
        disk: image.size,
        content: blobs + image.config_size + manifest,
        used,
    })
}

pub(super) fn style(format: Option<&str>, quiet: bool, no_trunc: bool) -> Style<'_> {
    Style {
        format,
        quiet,
        no_trunc,
        digests: false,
        human: true,
        now: Timestamp::now(),
        zone: TimeZone::system(),
    }
}

/// An image's lines, but for the names that `reference` leaves out; none if nothing is left.
pub(super) fn entry(image: &Image, filters: &Filters) -> Result<Option<Listed>> {
    let mut listed = Listed {
        id: image.id.to_string(),
        created: image.created.unwrap_or(0),
        size: image.size,
        ..Listed::default()
    };
    for name in &image.names {
        let reference = Reference::parse(name)?;
        let (repo, tag) = (
            reference.familiar_repository(),
            reference.tag().unwrap_or(NONE),
        );
        if filters.reference(&repo, tag)? {
            listed.tags.push((repo, tag.to_owned()));
        }
    }
    for (repo, digest) in &image.repo_digests {
        let repo = Reference::parse(repo)?.familiar_repository();
        let named = listed.tags.iter().any(|(r, _)| *r == repo);
        if named || filters.reference(&repo, NONE)? {
            listed.digests.push((repo, digest.to_string()));
        }
    }
    let left = !listed.tags.is_empty() || !listed.digests.is_empty();
    // What has no name fits no pattern, not even `*`.
    let asked = filters.get("reference").next().is_some();
    Ok((left || !asked).then_some(listed))
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

/// Prints all that are there; each of those that are not is an error.
pub(super) fn inspect(globals: &Globals, args: &InspectArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let (found, done) = each(&args.images, |image| engine.inspect(image));
    out::text(&lists::inspect(&found, args.format.as_deref())?)?;
    done
}

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
    let rows = engine.history(&args.image)?;
    let style = Style {
        human: args.human,
        ..style(args.format.as_deref(), args.quiet, args.no_trunc)
    };
    out::text(&lists::history(&rows, &style)?)
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
    if matches!(target.path(), "library/sha256" | "library/sha512") {
        let m = "refusing to create an ambiguous tag using digest algorithm as name";
        return Err(Error::new(Kind::BadInput, m).with_hint("choose another name"));
    }
    globals.engine(cancel)?.tag(&args.source, &target)
}

#[derive(Debug, Args)]
pub(super) struct RmiArgs {
    /// Names or ids of images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Also what containers that do not run use, or by id while it has several names.
    #[arg(short, long)]
    force: bool,

    /// Keep layers that no image needs any more.
    #[arg(long)]
    no_prune: bool,
}

/// Removes all that can be; each of those that cannot is an error.
pub(super) fn rmi(globals: &Globals, args: &RmiArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let options = RemoveOptions {
        force: args.force,
        no_prune: args.no_prune,
        ..RemoveOptions::default()
    };
    let remove = |image: &String| match engine.remove(image, options) {
        Ok(removed) => removed.iter().try_for_each(say_removed),
        // As docker: what is not there is no failure with --force.
        Err(e) if args.force && e.kind() == Kind::NotFound => {
            super::say(&e.to_string());
            Ok(())
        }
        Err(e) => Err(e),
    };
    each(&args.images, remove).1
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
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

/// Which images a prune takes.
pub(super) fn pruned(all: bool) -> &'static str {
    if all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    }
}

/// The images that filters choose, and why the first that could not be read was not.
///
/// It is looked at beforehand: nothing may fail once images are being removed.
pub(super) fn chosen(
    engine: &Engine,
    filter: &[String],
) -> Result<(HashSet<Digest>, Option<Error>)> {
    let wanted = Wanted::new(engine, filter, PRUNE_FILTERS)?;
    let (mut chosen, mut failed) = (HashSet::new(), None);
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
    Ok((chosen, failed))
}

pub(super) fn say_pruned(removed: &[Removed]) -> Result<()> {
    if !removed.is_empty() {
        out::line("Deleted Images:")?;
        for one in removed {
            match one {
                Removed::Untagged(name) => out::line(&format!("untagged: {}", familiar(name)))?,
                Removed::Deleted(digest) => out::line(&format!("deleted: {digest}"))?,
            }
        }
        out::line("")?;
    }
    Ok(())
}

pub(super) fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let what = format!("WARNING! This will remove {}.", pruned(args.all));
    if !args.force && !super::confirm(&what, cancel)? {
        return Ok(());
    }
    let engine = globals.engine(cancel)?;
    let (chosen, failed) = chosen(&engine, &args.filter)?;
    let options = Prune { all: args.all };
    let (removed, bytes) = engine.prune_images(options, &|image| chosen.contains(&image.id))?;
    say_pruned(&removed)?;
    out::line(&format!("Total reclaimed space: {}", human::size(bytes, 4)))?;
    failed.map_or(Ok(()), Err)
}
