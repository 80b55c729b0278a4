//! `unlade save`, `load` and `import`.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use unlade_unpack::Cancel;

use super::{flush, globals::Globals, input::Input, out};
use crate::{
    archive::Format,
    engine::{ImportRequest, SaveRequest},
    error::{Error, Kind, Result},
    image::{Platform, name::Reference},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatArg {
    /// What any Docker loads; also an OCI layout.
    DockerArchive,
    /// An OCI layout in a tar.
    OciArchive,
    /// An OCI layout in a directory.
    OciDir,
}

#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// Names or ids of images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Where to write. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// As what.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = FormatArg::DockerArchive)]
    format: FormatArg,
}

pub(super) fn save(globals: &Globals, args: &SaveArgs, cancel: &Cancel) -> Result<()> {
    let request = SaveRequest {
        images: args.images.clone(),
        format: match args.format {
            FormatArg::DockerArchive => Format::Docker,
            FormatArg::OciArchive | FormatArg::OciDir => Format::Oci,
        },
        cancel: cancel.clone(),
    };
    let bad = |m: &str| Error::new(Kind::BadInput, m).with_hint("give a name with --output");
    match (&args.output, args.format) {
        (None, FormatArg::OciDir) => Err(bad("a directory cannot be written to standard output")),
        (None, _) if io::stdout().is_terminal() => {
            Err(bad("cowardly refusing to save to a terminal"))
        }
        (None, _) => globals
            .engine(cancel)?
            .save(&request, &mut io::stdout().lock()),
        (Some(dir), FormatArg::OciDir) => globals.engine(cancel)?.save_dir(&request, dir),
        (Some(path), _) => {
            let engine = globals.engine(cancel)?;
            whole_file(path, |file| engine.save(&request, file))
        }
    }
}

/// Writes a file that appears whole or not at all. What is no regular file is written as it is.
pub(super) fn whole_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let host = |e| Error::host(format!("write `{}`", path.display()), e);
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let mut file = File::options().write(true).open(path).map_err(host)?;
        return write(&mut file);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".unlade-{}", std::process::id()));
    let partial = path.with_file_name(name);
    let mut file = File::create(&partial).map_err(host)?;
    let done = write(&mut file).and_then(|()| fs::rename(&partial, path).map_err(host));
    if done.is_err() {
        // The first error counts.
        let _ = fs::remove_file(&partial);
    }
    done
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// The archive, or the directory of an OCI layout. Default: standard input.
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Which image of several: os/arch[/variant]. Default: this machine's.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    /// Say nothing.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn load(globals: &Globals, args: &LoadArgs, cancel: &Cancel) -> Result<()> {
    let platform = args.platform.as_ref();
    let (engine, loaded);
    match &args.input {
        None if io::stdin().is_terminal() => {
            let m = "requested load from stdin, but stdin is empty";
            return Err(Error::new(Kind::BadInput, m).with_hint("give a name with --input"));
        }
        None => {
            engine = globals.engine(cancel)?;
            loaded = engine.load(Input::new(cancel), platform, cancel)?;
        }
        Some(path) if path.is_dir() => {
            engine = globals.engine(cancel)?;
            loaded = engine.load_dir(path, platform, cancel)?;
        }
        Some(path) => {
            let file = open(path)?;
            engine = globals.engine(cancel)?;
            loaded = engine.load(file, platform, cancel)?;
        }
    }
    flush::soon(&engine);
    if args.quiet {
        return Ok(());
    }
    for image in loaded {
        if image.names.is_empty() {
            out::line(&format!("Loaded image ID: {}", image.id))?;
        }
        for name in &image.names {
            out::line(&format!("Loaded image: {name}"))?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| {
        Error::host(format!("open `{}`", path.display()), e)
            .with_hint("name a file that is there and may be read")
    })
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A tar, plain or compressed with gzip or zstd; - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The image's name: NAME[:TAG].
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// A directive of a Dockerfile, such as 'CMD ["sh"]'.
    #[arg(short, long, value_name = "DIRECTIVE")]
    change: Vec<String>,

    /// A comment.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// What it runs on: os/arch[/variant]. Default: as this machine.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
}

pub(super) fn import(globals: &Globals, args: &ImportArgs, cancel: &Cancel) -> Result<()> {
    let name = args.name.as_deref().map(Reference::parse).transpose()?;
    let request = ImportRequest {
        name: name.map(Reference::with_default_tag),
        changes: args.change.clone(),
        message: args.message.clone(),
        platform: args.platform.clone(),
        cancel: cancel.clone(),
    };
    let input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(Input::new(cancel))
    } else {
        Box::new(open(&args.file)?)
    };
    let engine = globals.engine(cancel)?;
    let id = engine.import(input, &request)?;
    flush::soon(&engine);
    out::line(&id.to_string())
}
