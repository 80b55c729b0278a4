//! `unlade network`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use unlade_unpack::Cancel;

use super::{
    each::each,
    globals::Globals,
    human::{self, Chosen, Filters},
    lists, out,
    table::{Columns, List},
    template::Value,
};
use crate::{
    engine::Engine,
    error::{Error, Kind, Result},
    network::{Driver, Endpoint, Network, NewNetwork},
    spec::request::{EndpointIpam, EndpointSettings},
};

#[derive(Debug, Subcommand)]
pub(super) enum NetworkCommand {
    /// Connect a container to a network.
    Connect(ConnectArgs),
    /// Make a network.
    Create(CreateArgs),
    /// Disconnect a container from a network.
    Disconnect(DisconnectArgs),
    /// Show all of a network's details.
    Inspect(InspectArgs),
    /// List networks.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove the networks that no container uses.
    Prune(PruneArgs),
    /// Remove networks.
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

pub(super) fn run(globals: &Globals, command: &NetworkCommand, cancel: &Cancel) -> Result<()> {
    match command {
        NetworkCommand::Connect(a) => connect(globals, a, cancel),
        NetworkCommand::Create(a) => create(globals, a, cancel),
        NetworkCommand::Disconnect(a) => disconnect(globals, a, cancel),
        NetworkCommand::Inspect(a) => inspect(globals, a, cancel),
        NetworkCommand::Ls(a) => list(globals, a, cancel),
        NetworkCommand::Prune(a) => prune(globals, a, cancel),
        NetworkCommand::Rm(a) => remove(globals, a, cancel),
    }
}

/// The engine, once what an earlier boot and killed processes have left in networks is gone.
fn engine(globals: &Globals, cancel: &Cancel) -> Result<Engine> {
    let engine = globals.engine(cancel)?;
    engine.containers()?;
    Ok(engine)
}

/// `KEY=VALUE` texts as a map; without a value it is empty.
pub(super) fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    let each = texts.iter().map(|t| t.split_once('=').unwrap_or((t, "")));
    each.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What it is to be called.
    #[arg(value_name = "NETWORK")]
    name: String,

    /// How it works: bridge, or macvlan.
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,

    /// Its subnet, such as 10.1.0.0/16; one of IPv4 and one of IPv6 at most.
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,

    /// The host's address in a subnet, of macvlan the router's [default: its first].
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,

    /// Part of a subnet that containers get addresses from.
    #[arg(long, value_name = "SUBNET")]
    ip_range: Vec<String>,

    /// Addresses that no container gets: NAME=ADDRESS.
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,

    /// Give it IPv6 too.
    #[arg(long)]
    ipv6: bool,

    /// Let nothing outside be reached from it.
    #[arg(long)]
    internal: bool,

    /// Do not resolve names of containers in it.
    #[arg(long)]
    disable_dns: bool,

    /// Taken for docker's sake: containers can always be connected.
    #[arg(long)]
    attachable: bool,

    /// A label: KEY=VALUE.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,

    /// An option: mtu, isolate, or docker's com.docker.network.…; of macvlan, parent (an interface
    /// of the host), macvlan_mode, mtu.
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
}

fn create(globals: &Globals, args: &CreateArgs, cancel: &Cancel) -> Result<()> {
    let made = engine(globals, cancel)?.networks().create(&NewNetwork {
        name: args.name.clone(),
        driver: args.driver.clone(),
        subnets: args.subnet.clone(),
        gateways: args.gateway.clone(),
        ranges: args.ip_range.clone(),
        reserved: pairs(&args.aux_address),
        internal: args.internal,
        ipv6: args.ipv6,
        no_dns: args.disable_dns,
        attachable: args.attachable,
        options: pairs(&args.opt),
        labels: pairs(&args.label),
    })?;
    out::line(&made.id)
}

const LIST: Columns = Columns {
    name: "network",
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    table: &["ID", "Name", "Driver", "Scope"],
    quiet: "ID",
};

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Only networks that KEY=VALUE fits: dangling, driver, id, label, name, scope, type.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// table, `table TEMPLATE`, json, or a template such as {{.ID}}.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Show ids whole.
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only.
    #[arg(short, long)]
    quiet: bool,
}

/// A time as Go's `Time.String` writes it.
fn created(text: &str) -> String {
    let Ok(time) = text.parse::<Timestamp>() else {
        return text.to_owned();
    };
    time.to_zoned_datetime(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S%.f %z %Z")
        .to_string()
}

fn list(globals: &Globals, args: &LsArgs, cancel: &Cancel) -> Result<()> {
    let known = ["dangling", "driver", "id", "label", "name", "scope", "type"];
    let filters = Filters::parse(&args.filter, &known)?;
    let dangling = filters.flag("dangling")?;
    for kind in filters.get("type") {
        if !matches!(kind, "custom" | "builtin") {
            let m = format!("invalid filter: 'type'='{}'", kind.escape_debug());
            return Err(Error::new(Kind::BadInput, m).with_hint("write type=custom or builtin"));
        }
    }
    let networks = engine(globals, cancel)?.networks();
    let mut list = List::new(&LIST, args.format.as_deref(), args.quiet)?;
    for network in networks.list()? {
        let kind = if network.is_predefined() {
            "builtin"
        } else {
            "custom"
        };
        let wanted = filters.any("driver", |v| v == network.driver.name())
            && filters.any("id", |v| network.id.starts_with(v))
            && filters.any("name", |v| network.name.contains(v))
            && filters.any("scope", |v| v == "local")
            && filters.any("type", |v| v == kind)
            && filters.labels(&network.labels);
        let idle = |n: &Network| -> Result<bool> {
            Ok(!n.is_predefined() && networks.members(n)?.is_empty())
        };
        if !wanted || dangling.map_or(Ok(false), |d| idle(&network).map(|i| i != d))? {
            continue;
        }
        list.row(row(&network, args.no_trunc))?;
    }
    out::text(&list.finish()?)
}

fn row(network: &Network, whole: bool) -> Vec<(&'static str, Value)> {
    let id = if whole {
        &network.id
    } else {
        human::short_id(&network.id)
    };
    vec![
        ("ID", Value::text(id)),
        ("Name", Value::text(&network.name)),
        ("Driver", Value::text(network.driver.name())),
        ("Scope", Value::text("local")),
        ("IPv4", Value::text("true")),
        ("IPv6", Value::text(network.ipv6.to_string())),
        ("Internal", Value::text(network.internal.to_string())),
        ("Label", Value::labels(&network.labels)),
        ("Labels", Value::text(human::labels(&network.labels))),
        ("CreatedAt", Value::text(created(&network.created))),
    ]
}

/// A network as docker's `network inspect` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    name: &'a str,
    id: &'a str,
    created: &'a str,
    scope: &'static str,
    driver: &'static str,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    containers: BTreeMap<&'a str, Inside<'a>>,
    options: BTreeMap<&'a str, &'a str>,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: &'static str,
    options: Option<BTreeMap<String, String>>,
    config: Vec<IpamConfig>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    ip_range: Option<String>,
    gateway: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary_addresses: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFrom {
    network: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inside<'a> {
    name: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    mac_address: &'a str,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

fn shown<'a>(network: &'a Network, members: &'a [Endpoint]) -> Shown<'a> {
    let address = |m: &Endpoint, v4: bool| -> String {
        let ranges = network.subnets.iter().filter(|r| r.subnet.is_v4() == v4);
        let mut found = ranges.filter_map(|r| {
            let address = m.address_in(&r.subnet)?;
            Some(format!("{address}/{}", r.subnet.prefix()))
        });
        found.next().unwrap_or_default()
    };
    let mut options: BTreeMap<&str, &str> = BTreeMap::new();
    if network.driver == Driver::Bridge {
        options.insert("com.docker.network.bridge.name", &network.interface);
    }
    options.extend(network.options.iter().map(|(k, v)| (&**k, &**v)));
    Shown {
        name: &network.name,
        id: &network.id,
        created: &network.created,
        scope: "local",
        driver: network.driver.name(),
        enable_ipv4: true,
        enable_ipv6: network.ipv6,
        ipam: Ipam {
            driver: "default",
            options: None,
            config: network
                .subnets
                .iter()
                .map(|r| IpamConfig {
                    subnet: r.subnet.to_string(),
                    ip_range: r.range.map(|r| r.to_string()),
                    gateway: r.gateway.to_string(),
                    auxiliary_addresses: r
                        .reserved
                        .iter()
                        .map(|(k, v)| (k.clone(), v.to_string()))
                        .collect(),
                })
                .collect(),
        },
        internal: network.internal,
        attachable: network.attachable,
        ingress: false,
        config_from: ConfigFrom { network: "" },
        config_only: false,
        containers: members
            .iter()
            .map(|m| {
                let inside = Inside {
                    name: &m.name,
                    endpoint_id: &m.id,
                    mac_address: &m.mac,
                    ipv4_address: address(m, true),
                    ipv6_address: address(m, false),
                };
                (&*m.container, inside)
            })
            .collect(),
        options,
        labels: &network.labels,
    }
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names or ids of networks.
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,

    /// json, or a template such as {{.Driver}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// A network with who is in it, written as docker's `network inspect` does.
#[derive(Debug)]
pub(super) struct Document(Network, Vec<Endpoint>);

impl Serialize for Document {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        shown(&self.0, &self.1).serialize(s)
    }
}

/// The document of a network.
pub(super) fn document(engine: &Engine, name: &str) -> Result<Document> {
    let networks = engine.networks();
    let network = networks.find(name)?;
    let members = networks.members(&network)?;
    Ok(Document(network, members))
}

/// Prints all that are there; each of those that are not is an error.
fn inspect(globals: &Globals, args: &InspectArgs, cancel: &Cancel) -> Result<()> {
    let engine = engine(globals, cancel)?;
    let (found, done) = each(&args.networks, |name| document(&engine, name));
    out::text(&lists::inspect(&found, args.format.as_deref())?)?;
    done
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Names or ids of networks.
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,

    /// What is not there is no failure.
    #[arg(short, long)]
    force: bool,
}

/// Removes all that can be; each of those that cannot is an error.
fn remove(globals: &Globals, args: &RmArgs, cancel: &Cancel) -> Result<()> {
    let networks = engine(globals, cancel)?.networks();
    let remove = |name: &String| match networks.remove(name) {
        Ok(_) => out::line(name),
        Err(e) if args.force && e.kind() == Kind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    each(&args.networks, remove).1
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Only networks that KEY=VALUE fits: label, label!, until.
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

/// Whether a prune takes a network, if no container uses it.
pub(super) fn is_chosen(chosen: &Chosen, network: &Network) -> bool {
    let made = network.created.parse::<Timestamp>().unwrap_or_default();
    chosen.fits(made, &network.labels)
}

fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let what = "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !super::confirm(what, cancel)? {
        return Ok(());
    }
    let chosen = Chosen::parse(&args.filter)?;
    let removed = engine(globals, cancel)?.prune_networks(&|n| is_chosen(&chosen, n))?;
    if removed.is_empty() {
        return Ok(());
    }
    out::text(&format!("Deleted Networks:\n{}\n\n", removed.join("\n")))
}

#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    /// Name or id of the network.
    network: String,

    /// Name or id of the container.
    container: String,

    /// A further name of the container in the network.
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,

    /// Its IPv4 address there [default: a free one].
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,

    /// Its IPv6 address there [default: a free one].
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
}

fn connect(globals: &Globals, args: &ConnectArgs, cancel: &Cancel) -> Result<()> {
    let ipam = EndpointIpam {
        ipv4: args.ip.clone().unwrap_or_default(),
        ipv6: args.ip6.clone().unwrap_or_default(),
    };
    let how = EndpointSettings {
        ipam_config: (ipam != EndpointIpam::default()).then_some(ipam),
        aliases: args.alias.clone(),
        mac_address: String::new(),
    };
    engine(globals, cancel)?.connect(&args.network, &args.container, &how)
}

#[derive(Debug, Args)]
pub(super) struct DisconnectArgs {
    /// Name or id of the network.
    network: String,

    /// Name or id of the container.
    container: String,

    /// Also a container that is gone and still in the network.
    #[arg(short, long)]
    force: bool,
}

fn disconnect(globals: &Globals, args: &DisconnectArgs, cancel: &Cancel) -> Result<()> {
    engine(globals, cancel)?.disconnect(&args.network, &args.container, args.force)
}
