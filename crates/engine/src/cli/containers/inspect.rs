//! `unlade container inspect`, and the fields of a spec with where they come from.

use clap::Args;
use unlade_unpack::Cancel;

use crate::{
    cli::{each::each, globals::Globals, lists, out, table::laid_out},
    container::{self, Listed},
    engine::Engine,
    error::{Error, Kind, Result},
    spec::Field,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,

    /// json, or a template such as {{.State.Status}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,

    /// Also what it takes of the disk.
    #[arg(short, long)]
    size: bool,

    /// Print each field of its OCI spec with where it comes from instead.
    #[arg(long, conflicts_with_all = ["format", "size"])]
    explain: bool,
}

/// The document of a container.
pub(in crate::cli) fn document(
    engine: &Engine,
    name: &str,
    size: bool,
) -> Result<container::Inspect> {
    let containers = engine.containers()?;
    let record = containers.find(name)?;
    let view = containers.view(&record)?;
    container::inspect(&containers, &Listed { record, view }, size)
}

/// Prints all that are there; each of those that are not is an error.
pub(super) fn inspect(globals: &Globals, args: &InspectArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    if args.explain {
        return explain(&engine, &args.containers);
    }
    let (found, done) = each(&args.containers, |name| document(&engine, name, args.size));
    out::text(&lists::inspect(&found, args.format.as_deref())?)?;
    done
}

/// Prints the fields of each container's spec with where they come from.
pub(in crate::cli) fn explain(engine: &Engine, names: &[String]) -> Result<()> {
    let containers = engine.containers()?;
    let one = |name: &String| {
        let fields = containers.explain(&containers.find(name)?)?;
        out::text(&explained(&fields)?)
    };
    each(names, one).1
}

/// A line for each field: where it is, who decided on it, what it is. Values may be very long.
pub(super) fn explained(fields: &[Field]) -> Result<String> {
    let mut text = String::from("FIELD\tORIGIN\tVALUE\n");
    for field in fields {
        let origin = serde_json::to_value(field.origin)
            .map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))?;
        let origin = origin.as_str().unwrap_or_default().to_owned();
        let detail = if field.detail.is_empty() {
            String::new()
        } else {
            format!(": {}", field.detail)
        };
        text.push_str(&format!(
            "{}\t{origin}{detail}\t{}\n",
            field.path, field.value
        ));
    }
    laid_out(&text, 2)
}
