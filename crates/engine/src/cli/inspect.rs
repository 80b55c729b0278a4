//! `unlade inspect`: docker's order: containers, images, networks, volumes.

use clap::{Args, ValueEnum};
use serde::Serialize;
use unlade_unpack::Cancel;

use super::{containers, each::each, globals::Globals, lists, networks, out, volumes};
use crate::{
    container,
    engine::Engine,
    error::{Error, Kind, Result},
    image,
};

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names or ids of containers, images, networks and volumes.
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

    /// Print each field of the OCI specs of containers with where it comes from instead.
    #[arg(long, conflicts_with_all = ["format", "size"])]
    explain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    Container,
    Image,
    Network,
    Volume,
}

/// A document of any.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Document {
    Container(Box<container::Inspect>),
    Image(Box<image::inspect::Inspect>),
    Network(Box<networks::Document>),
    Volume(Box<volumes::Document>),
}

/// Prints all that are there; each of those that are not is an error.
pub(super) fn inspect(globals: &Globals, args: &InspectArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    if args.explain {
        if args.r#type.is_some_and(|t| t != Type::Container) {
            let m = "--explain is for containers: others have no OCI spec";
            return Err(Error::new(Kind::BadInput, m).with_hint("leave out --type or --explain"));
        }
        return containers::explain(&engine, &args.names);
    }
    let (found, done) = each(&args.names, |name| one(&engine, name, args));
    out::text(&lists::inspect(&found, args.format.as_deref())?)?;
    done
}

fn one(engine: &Engine, name: &str, args: &InspectArgs) -> Result<Document> {
    let look = |kind| match kind {
        Type::Container => {
            containers::document(engine, name, args.size).map(|d| Document::Container(Box::new(d)))
        }
        Type::Image => engine.inspect(name).map(|d| Document::Image(Box::new(d))),
        Type::Network => networks::document(engine, name).map(|d| Document::Network(Box::new(d))),
        Type::Volume => volumes::document(engine, name).map(|d| Document::Volume(Box::new(d))),
    };
    if let Some(kind) = args.r#type {
        return look(kind);
    }
    for kind in [Type::Container, Type::Image, Type::Network, Type::Volume] {
        match look(kind) {
            Err(e) if e.kind() == Kind::NotFound => {}
            done => return done,
        }
    }
    let m = format!("No such object: {}", image::json::show(name));
    Err(Error::new(Kind::NotFound, m)
        .with_hint("`unlade ps -a`, `images`, `network ls` and `volume ls` list what there is"))
}
