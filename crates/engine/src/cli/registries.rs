//! `unlade push`, `login` and `logout`.

use std::{
    io::{self, IsTerminal, Read},
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use unlade_unpack::{Cancel, Digest};

use super::{
    args::When,
    globals::Globals,
    human,
    input::{self, Input},
    out,
    trust::Trust,
};
use crate::{
    engine::{Engine, login, logout, registry_config},
    error::{Error, Kind, Result},
    image::name::Reference,
    push::{PushEvent, PushRequest},
    registry::{Credentials, Secret},
};

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// The image, which says where it goes: NAME[:TAG].
    #[arg(value_name = "NAME")]
    name: String,

    /// Push all tags of the repository.
    #[arg(short, long)]
    all_tags: bool,

    /// Say nothing but the image's name.
    #[arg(short, long)]
    quiet: bool,

    /// When to show a bar for each blob.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::Auto)]
    progress: When,

    #[command(flatten)]
    trust: Trust,
}

pub(super) fn push(globals: &Globals, args: &PushArgs, cancel: &Cancel) -> Result<()> {
    args.trust.check()?;
    let reference = Reference::parse(&args.name)?;
    if args.all_tags && (reference.tag().is_some() || reference.digest().is_some()) {
        return Err(
            Error::new(Kind::BadInput, "tag can't be used with --all-tags/-a")
                .with_hint("give the repository's name alone"),
        );
    }
    if reference.digest().is_some() {
        return Err(Error::new(Kind::BadInput, "cannot push a digest reference")
            .with_hint("give the name with a tag: `unlade images` lists them"));
    }
    let engine = globals.engine(cancel)?;
    if args.all_tags {
        let tags = engine.local_tags(&reference)?;
        return tags
            .into_iter()
            .try_for_each(|r| push_one(&engine, r, args, cancel));
    }
    if reference.tag().is_none() && reference.digest().is_none() && !args.quiet {
        out::line("Using default tag: latest")?;
    }
    push_one(&engine, reference.with_default_tag(), args, cancel)
}

fn push_one(engine: &Engine, reference: Reference, args: &PushArgs, cancel: &Cancel) -> Result<()> {
    let shown = reference.familiar();
    if !args.quiet {
        out::line(&format!(
            "The push refers to repository [{}]",
            reference.repository()
        ))?;
    }
    let bars = super::wanted(args.progress, args.quiet).then(Bars::new);
    let watch = bars.clone();
    let request = PushRequest {
        reference: reference.clone(),
        at_once: engine.config().max_concurrent_downloads,
        cancel: cancel.clone(),
        watch: Arc::new(move |n, digest, size, event| {
            if let Some(bars) = &watch {
                bars.tell(n, digest, size, event);
            }
        }),
    };
    let done = engine.push(&request);
    if let Some(bars) = &bars {
        bars.clear();
    }
    let pushed = done.map_err(|e| e.context(format!("push {shown}")))?;
    if args.quiet {
        return out::line(&reference.canonical());
    }
    if let Some(digest) = pushed.instead_of {
        out::line(&format!(
            "Layers were compressed for the registry, so the manifest is not {digest}"
        ))?;
    }
    let tag = reference.tag().unwrap_or("digest");
    out::line(&format!(
        "{tag}: digest: {} size: {}",
        pushed.digest, pushed.size
    ))
}

/// A bar for each blob that is sent.
#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    blobs: Mutex<Vec<Option<ProgressBar>>>,
}

impl Bars {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            blobs: Mutex::default(),
        })
    }

    fn tell(&self, n: usize, digest: &Digest, size: u64, event: PushEvent) {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        if blobs.len() <= n {
            blobs.resize_with(n + 1, || None);
        }
        let bar = blobs[n].get_or_insert_with(|| {
            let style =
                ProgressStyle::with_template("{prefix}: {msg:20} {bar:30} {bytes} / {total_bytes}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(size).with_style(style);
            self.all
                .add(bar.with_prefix(human::short_id(&digest.hex()).to_owned()))
        });
        match event {
            PushEvent::Exists => bar.finish_with_message("Layer already exists"),
            PushEvent::Mounted => bar.finish_with_message("Mounted"),
            PushEvent::Compressed(bytes) => {
                bar.set_message("Compressing");
                bar.set_length(size);
                bar.set_position(bytes);
            }
            PushEvent::Sent(bytes) => {
                bar.set_message("Pushing");
                bar.set_length(size);
                bar.set_position(bytes);
            }
            PushEvent::Done => bar.finish_with_message("Pushed"),
        }
    }

    fn clear(&self) {
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// The registry. Default: Docker Hub.
    #[arg(value_name = "SERVER", default_value = "docker.io")]
    server: String,

    /// The user.
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// The password. Others can see it in the list of processes: better give it to stdin.
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        conflicts_with = "password_stdin"
    )]
    password: Option<String>,

    /// Read the password from stdin.
    #[arg(long)]
    password_stdin: bool,
}

/// Longest password that is read from stdin, in bytes.
const MAX_PASSWORD: u64 = 64 << 10;

fn server(text: &str) -> &str {
    let text = text.strip_prefix("https://").unwrap_or(text);
    let text = text.strip_prefix("http://").unwrap_or(text);
    match text.split('/').next().unwrap_or(text) {
        "index.docker.io" | "registry-1.docker.io" | "" => "docker.io",
        host => host,
    }
}

pub(super) fn log_in(globals: &Globals, args: &LoginArgs, cancel: &Cancel) -> Result<()> {
    let ask = |what: &str| -> Result<String> {
        if !io::stdin().is_terminal() {
            let m = "cannot ask for user name and password: standard input is no terminal";
            return Err(
                Error::new(Kind::BadInput, m).with_hint("give --username and --password-stdin")
            );
        }
        super::ask(what);
        input::line(cancel)
    };
    let user = match &args.username {
        Some(user) => user.clone(),
        None if args.password_stdin => {
            return Err(Error::new(
                Kind::BadInput,
                "must provide --username with --password-stdin",
            )
            .with_hint("unlade login -u NAME --password-stdin SERVER < FILE"));
        }
        None => ask("Username: ")?,
    };
    let password = match &args.password {
        Some(password) => {
            super::say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            Input::new(cancel)
                .take(MAX_PASSWORD)
                .read_to_string(&mut text)
                .map_err(|e| Error::host("read standard input", e))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => {
            let _hidden = super::echo::hide();
            let password = ask("Password: ");
            super::ask("\n");
            password?
        }
    };
    let config = globals.config()?;
    let credentials = Credentials::Password {
        user,
        password: Secret::new(password),
    };
    let kept = login(
        registry_config(&config.registry),
        server(&args.server),
        &credentials,
    )?;
    out::line(&format!("Credentials are kept in {kept}\nLogin Succeeded"))
}

#[derive(Debug, Args)]
pub(super) struct LogoutArgs {
    /// The registry. Default: Docker Hub.
    #[arg(value_name = "SERVER", default_value = "docker.io")]
    server: String,
}

pub(super) fn log_out(args: &LogoutArgs) -> Result<()> {
    let server = server(&args.server);
    if logout(server)? {
        out::line(&format!("Removing login credentials for {server}"))
    } else {
        out::line(&format!("Not logged in to {server}"))
    }
}
