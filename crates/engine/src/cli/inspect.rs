//! `unlade inspect`: containers first, then images.

use clap::{Args, ValueEnum};
use serde::Serialize;
use unlade_unpack::Cancel;

use super::{containers, each::each, globals::Globals, lists, out};
use crate::{
    container,
    engine::Engine,
    error::{Error, Kind, Result},
    image,
};

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names or ids of containers and images.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// json, or a template such as {{.Config.Cmd}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,

    /// Also what containers take of the disk.
    #[arg(short, long)]
    size: bool,

    /// Look among these only.
    #[arg(long, value_enum, value_name = "TYPE")]
    r#type: Option<Type>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    Container,
    Image,
}

/// A document of either.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Document {
    Container(Box<container::Inspect>),
    Image(Box<image::inspect::Inspect>),
}

/// Prints all that are there, then fails for the first that is not.
pub(super) fn inspect(globals: &Globals, args: &InspectArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let (found, done) = each(&args.names, |name| one(&engine, name, args));
    out::text(&lists::inspect(&found, args.format.as_deref())?)?;
    done
}

fn one(engine: &Engine, name: &str, args: &InspectArgs) -> Result<Document> {
    if args.r#type != Some(Type::Image) {
        match containers::document(engine, name, args.size) {
            Err(e) if e.kind() == Kind::NotFound && args.r#type.is_none() => {}
            done => return done.map(|d| Document::Container(Box::new(d))),
        }
    }
    match engine.inspect(name) {
        Err(e) if e.kind() == Kind::NotFound && args.r#type.is_none() => {
            let m = format!("No such object: {}", image::json::show(name));
            Err(Error::new(Kind::NotFound, m)
                .with_hint("`unlade ps -a` and `unlade images` list what there is"))
        }
        done => done.map(|d| Document::Image(Box::new(d))),
    }
}
