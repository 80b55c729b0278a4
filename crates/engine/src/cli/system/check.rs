//! `unlade system check`.

use clap::Args;
use serde_json::json;
use unlade_unpack::Cancel;

use crate::{
    cli::{globals::Globals, out, pull},
    engine::{Checked, Engine},
    error::{Error, Kind, Result},
    image::name::Reference,
    store::{CheckReport, Remedy},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Remove what is damaged, and fetch it again from where it came.
    #[arg(long)]
    repair: bool,

    /// json for all findings as one document.
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], default_value = "text")]
    format: String,
}

/// Fails if anything is wrong in the end.
pub(in crate::cli) fn check(globals: &Globals, args: &CheckArgs, cancel: &Cancel) -> Result<()> {
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
