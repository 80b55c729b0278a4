//! Flags of networks, names and ports.

use clap::Args;

/// Networks, names and ports.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(in crate::cli::containers) struct NetworkFlags {
    /// Network: none, host, bridge, container:CONTAINER, or a network's name or
    /// name=…,alias=…,ip=….
    #[arg(long, alias = "net", value_name = "NETWORK")]
    pub(in crate::cli::containers) network: Vec<String>,

    /// Name by which it is found on its network.
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    pub(in crate::cli::containers) network_alias: Vec<String>,

    /// IPv4 address on its network.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) ip: String,

    /// IPv6 address on its network.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) ip6: String,

    /// Link to another container: CONTAINER[:ALIAS].
    #[arg(long, value_name = "LINK")]
    pub(in crate::cli::containers) link: Vec<String>,

    /// Docker's link-local addresses: refused, since networks here have none to give.
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub(in crate::cli::containers) link_local_ip: Vec<String>,

    /// Hardware address.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) mac_address: String,

    /// Publish a port: [[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL], or ranges; or
    /// published=…,target=…[,protocol=…].
    #[arg(short, long, value_name = "PORT")]
    pub(in crate::cli::containers) publish: Vec<String>,

    /// Publish all exposed ports to ports that are free.
    #[arg(short = 'P', long)]
    pub(in crate::cli::containers) publish_all: bool,

    /// Expose a port or range: PORT[-PORT][/PROTOCOL].
    #[arg(long, value_name = "PORT")]
    pub(in crate::cli::containers) expose: Vec<String>,

    /// Name server.
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli::containers) dns: Vec<String>,

    /// Option of the resolver.
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub(in crate::cli::containers) dns_option: Vec<String>,

    /// Domain that names are searched in.
    #[arg(long, value_name = "DOMAIN")]
    pub(in crate::cli::containers) dns_search: Vec<String>,

    /// Line of /etc/hosts: NAME:ADDRESS; the address may be host-gateway.
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(in crate::cli::containers) add_host: Vec<String>,
}
