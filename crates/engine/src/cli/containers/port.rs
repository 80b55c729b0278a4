//! `unlade port`.

use clap::Args;
use unlade_unpack::Cancel;

use crate::{
    cli::{globals::Globals, out},
    error::{Error, Kind, Result},
    image::json::show,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct PortArgs {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    container: String,

    /// Only this one: PORT[/PROTOCOL].
    #[arg(value_name = "PORT")]
    port: Option<String>,
}

pub(super) fn port(globals: &Globals, args: &PortArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let record = containers.find(&args.container)?;
    let view = containers.view(&record)?;
    let settings = containers.network_settings(&record, &view)?;
    let wanted = args.port.as_ref().map(|p| match p.split_once('/') {
        Some((port, protocol)) => format!("{port}/{}", protocol.to_ascii_lowercase()),
        None => format!("{p}/tcp"),
    });
    let mut lines = Vec::new();
    for (port, bindings) in &settings.ports {
        if wanted.as_ref().is_some_and(|w| w != port) {
            continue;
        }
        for binding in bindings.iter().flatten() {
            let ip = match &*binding.host_ip {
                "" => "0.0.0.0".to_owned(),
                ip if ip.contains(':') => format!("[{ip}]"),
                ip => ip.to_owned(),
            };
            let at = format!("{ip}:{}", binding.host_port);
            lines.push(if wanted.is_some() {
                at
            } else {
                format!("{port} -> {at}")
            });
        }
    }
    if lines.is_empty()
        && let Some(wanted) = wanted
    {
        let m = format!(
            "no public port '{}' published for {}",
            show(&wanted),
            args.container
        );
        return Err(Error::new(Kind::NotFound, m)
            .with_hint("`unlade port CONTAINER` lists those that there are"));
    }
    lines.sort_by_key(|line| {
        let number = line
            .split(['/', ' '])
            .next()
            .and_then(|n| n.parse::<u16>().ok());
        (number, line.clone())
    });
    lines.iter().try_for_each(|line| out::line(line))
}
