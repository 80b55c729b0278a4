//! `unlade version`: of this program, and of what it works with.

use clap::Args;
use serde_json::{Value, json};

use super::{globals::Globals, out, template::Template};
use crate::{error::Result, image::Platform, runtime::Runtime};

#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// json, or a template such as {{.Server.Version}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints it as docker does, whose client and server are one program here.
pub(super) fn version(globals: &Globals, args: &VersionArgs) -> Result<()> {
    let config = globals.config()?;
    let platform = Platform::host();
    let (os, arch, _) = platform.parts();
    let kernel = kernel();
    let about = || {
        json!({
            "Version": env!("CARGO_PKG_VERSION"),
            "Os": os,
            "Arch": arch,
        })
    };
    let (client, mut server) = (about(), about());
    let mut components = vec![json!({ "Name": "Engine", "Version": env!("CARGO_PKG_VERSION") })];
    // A machine without a runtime has images all the same.
    let runtime = Runtime::find(None, &config).ok();
    if let Some(runtime) = &runtime {
        let (name, version) = (runtime.flavor.name(), &runtime.version);
        components.push(json!({ "Name": name, "Version": version }));
    }
    if let Value::Object(server) = &mut server {
        server.insert("KernelVersion".to_owned(), kernel.clone().into());
        server.insert("Components".to_owned(), components.into());
    }
    let document = json!({ "Client": client, "Server": server });
    match args.format.as_deref() {
        None => {}
        Some("json") => return out::line(&document.to_string()),
        Some(text) => return out::line(&Template::parse(text)?.render_value(&document.into())?),
    }
    let part = |name: &str| {
        format!(
            "{name}: unlade\n Version:  {}\n OS/Arch:  {os}/{arch}\n",
            env!("CARGO_PKG_VERSION")
        )
    };
    let runtime = runtime.map_or("none was found".to_owned(), |r| {
        format!("{} {}", r.flavor.name(), r.version)
    });
    out::text(&format!(
        "{}\n{} Kernel:   {kernel}\n Runtime:  {runtime}\n",
        part("Client"),
        part("Server"),
    ))
}

/// The kernel's release.
pub(super) fn kernel() -> String {
    let uname = rustix::system::uname();
    uname.release().to_string_lossy().into_owned()
}
