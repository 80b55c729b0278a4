//! `unlade info`, `system boot`, `system df`, `system check` and `system prune`.

use clap::Args;
use serde_json::json;
use unlade_unpack::Cancel;

use super::{
    containers,
    globals::Globals,
    human, images, out, pull,
    table::{Columns, List},
    template::{Template, Value},
    unit::unit,
};
use crate::{
    container::Begin,
    engine::{Checked, Engine},
    error::{Error, Kind, Result},
    image::name::Reference,
    store::{CheckReport, Remedy, Share},
};

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// json, or a template such as {{.Driver}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(super) fn info(globals: &Globals, args: &InfoArgs, cancel: &Cancel) -> Result<()> {
    let info = globals.engine(cancel)?.info()?;
    let mounts: Vec<_> = info
        .mounts
        .iter()
        .map(|(at, id)| json!({ "Path": at.display().to_string(), "Image": id.to_string() }))
        .collect();
    let document = json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Driver": info.driver,
        "DriverNotes": info.driver_notes,
        "DriverReasons": info.reasons,
        "Root": info.root.display().to_string(),
        "ConfigFile": info.config_file.as_ref().map(|f| f.display().to_string()),
        "Durability": info.durability,
        "KeepBlobs": info.keep_blobs,
        "Images": info.images,
        "Mounts": mounts,
    });
    match args.format.as_deref() {
        None => {}
        Some("json") => return out::line(&document.to_string()),
        Some(text) => return out::line(&Template::parse(text)?.render(&document)?),
    }
    let mut text = format!(
        "Version: {}\nRoot: {}\nConfig file: {}\nImages: {}\nGraph driver: {}\n",
        env!("CARGO_PKG_VERSION"),
        info.root.display(),
        info.config_file
            .map_or("none".to_owned(), |f| f.display().to_string()),
        info.images,
        info.driver,
    );
    for line in info.driver_notes.iter().chain(&info.reasons) {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(&format!(
        "Durability: {}\nKeep blobs: {}\n",
        info.durability, info.keep_blobs
    ));
    for (at, id) in &info.mounts {
        let id = id.to_string();
        text.push_str(&format!(
            "Mounted: {} at {}\n",
            human::short_id(&id),
            at.display()
        ));
    }
    out::text(&text)
}

#[derive(Debug, Args)]
#[command(after_help = "\
Those with the policy always are started; with unless-stopped, unless they were stopped; with
on-failure, if they had failed or were running. One that has run since the boot is left alone, so
the command may be given again. With systemd:
  unlade system boot --unit > /etc/systemd/system/unlade-boot.service
  systemctl enable unlade-boot")]
pub(super) struct BootArgs {
    /// Print a unit for systemd that does this at each boot, and start nothing.
    #[arg(long)]
    unit: bool,
}

pub(super) fn boot(globals: &Globals, args: &BootArgs, cancel: &Cancel) -> Result<()> {
    if args.unit {
        return out::text(&unit(&globals.config()?, &globals.given()?)?);
    }
    let engine = globals.engine(cancel)?;
    let begin = Begin {
        cleanup: containers::cleanup_line(&engine),
        ..Begin::default()
    };
    let mut failed: Option<Error> = None;
    engine.start_after_boot(&begin, &mut |record, done| match done {
        Ok(()) => out::line(&record.name),
        Err(e) => {
            let e = e.context(format!("start {}", record.name));
            if let Some(before) = failed.replace(e) {
                super::say(&before.to_string());
            }
            Ok(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

const DF: Columns = Columns {
    name: "disk usage",
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    table: &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
    quiet: "Type",
};

#[derive(Debug, Args)]
pub(super) struct DfArgs {
    /// table, `table TEMPLATE`, json, or a template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(super) fn df(globals: &Globals, args: &DfArgs, cancel: &Cancel) -> Result<()> {
    let df = globals.engine(cancel)?.df()?;
    let mut list = List::new(&DF, args.format.as_deref(), false)?;
    for (name, share) in [
        ("Images", df.images),
        ("Layers", df.layers),
        ("Blobs", df.blobs),
        ("Partial downloads", df.partial),
    ] {
        list.row(share_row(name, &share))?;
    }
    out::text(&list.finish()?)
}

fn share_row(name: &str, share: &Share) -> Vec<(&'static str, Value)> {
    let percent = (share.reclaimable * 100)
        .checked_div(share.bytes)
        .unwrap_or(0);
    let reclaimable = format!("{} ({percent}%)", human::size(share.reclaimable, 4));
    vec![
        ("Type", Value::text(name)),
        ("TotalCount", Value::text(share.count.to_string())),
        ("Active", Value::text(share.active.to_string())),
        ("Size", Value::text(human::size(share.bytes, 4))),
        ("Reclaimable", Value::text(reclaimable)),
    ]
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Remove what is damaged, and fetch it again from where it came.
    #[arg(long)]
    repair: bool,

    /// json for all findings as one document.
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], default_value = "text")]
    format: String,
}

/// Fails if anything is wrong in the end.
pub(super) fn check(globals: &Globals, args: &CheckArgs, cancel: &Cancel) -> Result<()> {
    let (engine, rebuilt) = match args.repair {
        true => globals.engine_rebuilt(cancel)?,
        false => (globals.engine(cancel)?, None),
    };
    let repair = args.repair.then(|| any_pull(&engine, cancel)).transpose()?;
    let checked = engine.check(repair, cancel)?;
    if args.format == "json" {
        let document = json!({
            "ok": checked.is_clean(),
            "recovered": engine.recovered(),
            "rebuilt": rebuilt,
            "found": checked.found,
            "fetched": checked.fetched,
            "lost": checked.lost.iter().map(|(image, why)| json!({ "image": image, "why": why }))
                .collect::<Vec<_>>(),
            "left": checked.left,
        });
        out::text(&format!("{document:#}\n"))?;
    } else {
        if let Some(rebuilt) = &rebuilt {
            let (images, names) = (rebuilt.images, rebuilt.names);
            let (containers, networks) = (rebuilt.containers, rebuilt.networks);
            let old = match &rebuilt.old {
                Some(path) => format!("; the old one is `{}`", path.display()),
                None => String::new(),
            };
            out::line(&format!(
                "Rebuilt the database: {images} images, {names} names, {containers} containers, \
                 {networks} networks{old}"
            ))?;
        }
        say(&checked)?;
    }
    if checked.is_clean() {
        return Ok(());
    }
    let left = checked.left.as_ref().unwrap_or(&checked.found);
    let only_prune = left.findings.iter().all(|f| f.remedy == Remedy::Prune);
    let hint = if only_prune && checked.lost.is_empty() {
        "`unlade system prune` removes what containers without a record have written"
    } else if args.repair {
        "pull or load what is lost again, or remove it with `unlade rmi`"
    } else {
        "run `unlade system check --repair`"
    };
    Err(Error::new(Kind::Integrity, "the store is not sound").with_hint(hint))
}

/// What a repair pulls by; its name is replaced.
fn any_pull(engine: &Engine, cancel: &Cancel) -> Result<crate::pull::PullRequest> {
    Ok(pull::request(engine, Reference::parse("scratch")?, cancel))
}

fn say(checked: &Checked) -> Result<()> {
    let report = |report: &CheckReport| -> Result<()> {
        report
            .findings
            .iter()
            .try_for_each(|finding| out::line(&finding.to_string()))
    };
    report(&checked.found)?;
    if let Some(repaired) = &checked.repaired {
        out::line(&format!(
            "Repaired: {} damaged objects dropped, {} strays swept, {} images merged anew",
            repaired.dropped, repaired.swept, repaired.remade
        ))?;
    }
    for image in &checked.fetched {
        out::line(&format!("Fetched again: {image}"))?;
    }
    for (image, why) in &checked.lost {
        out::line(&format!("Lost: {image}: {why}"))?;
    }
    if let Some(left) = &checked.left {
        report(left)?;
    }
    let now = checked.left.as_ref().unwrap_or(&checked.found);
    out::line(&format!(
        "Checked {} images, {} layers, {} blobs: {}",
        now.images,
        now.layers,
        now.blobs,
        if checked.is_clean() {
            "all sound"
        } else {
            "not sound"
        }
    ))
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// All images that are not in use, not only those without a name.
    #[arg(short, long)]
    all: bool,

    /// Also volumes without a name that no container uses.
    #[arg(long)]
    volumes: bool,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

pub(super) fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let images = images::pruned(args.all);
    let volumes = if args.volumes {
        " volumes without a name that no container uses,"
    } else {
        ""
    };
    let what = format!(
        "This will remove networks that no container uses,{volumes} {images}, what containers without \
         a record have written, and layers, blobs and partial downloads that nothing needs."
    );
    if !args.force && !super::confirm(&what, cancel)? {
        return Ok(());
    }
    let pruned = globals.engine(cancel)?.prune(args.all, args.volumes)?;
    for (what, names) in [
        ("Snapshots", &pruned.snapshots),
        ("Networks", &pruned.networks),
        ("Volumes", &pruned.volumes),
    ] {
        if !names.is_empty() {
            out::text(&format!("Deleted {what}:\n{}\n\n", names.join("\n")))?;
        }
    }
    pruned.images.iter().try_for_each(images::say_removed)?;
    let swept = &pruned.swept;
    let total = swept.bytes + swept.partial_bytes + pruned.volume_bytes;
    out::line(&format!(
        "Removed {} layers, {} blobs, {} strays\nTotal reclaimed space: {}",
        swept.layers.len(),
        swept.blobs.len(),
        swept.strays,
        human::size(total, 4)
    ))
}
