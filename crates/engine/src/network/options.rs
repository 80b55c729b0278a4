//! Options of networks: `network create -o`.

use std::collections::BTreeMap;

use super::record::{Driver, is_name};
use crate::error::{Error, Kind, Result};

/// Names of the option for the largest packet.
pub(super) const MTU: &[&str] = &["com.docker.network.driver.mtu", "mtu"];
/// Names of the option for whether other networks cannot reach it.
pub(super) const ISOLATE: &[&str] = &["isolate"];
/// Names of the option for the bridge's name.
pub(super) const INTERFACE: &[&str] = &["com.docker.network.bridge.name"];
/// Names of the option for the address that ports are published at.
pub(super) const HOST_IP: &[&str] = &["com.docker.network.bridge.host_binding_ipv4"];
/// Names of the option for the interface that a network's containers are beside.
pub(super) const PARENT: &[&str] = &["parent"];
/// Names of the option for who reaches whom through a parent.
pub(super) const MODE: &[&str] = &["macvlan_mode", "mode"];
/// Bytes of an interface's name, with the NUL.
const INTERFACE_BYTES: usize = 16;

/// Checks options; what would be passed over in silence is an error.
pub(super) fn check(driver: Driver, options: &BTreeMap<String, String>) -> Result<()> {
    let known = match driver {
        Driver::Macvlan => [PARENT, MODE, MTU].concat(),
        _ => [MTU, ISOLATE, INTERFACE, HOST_IP].concat(),
    };
    for (key, value) in options {
        let key = &**key;
        let good = if !known.contains(&key) {
            // What docker does anyway, and so do we.
            match key {
                "com.docker.network.bridge.enable_icc"
                | "com.docker.network.bridge.enable_ip_masquerade"
                    if driver == Driver::Bridge =>
                {
                    value == "true"
                }
                _ => {
                    let m = format!("network option `{}` is not supported", key.escape_debug());
                    return Err(Error::new(Kind::Unsupported, m)
                        .with_hint(format!("there are {}", known.join(", "))));
                }
            }
        } else if MTU.contains(&key) {
            let mtu = value.parse::<u32>();
            mtu.is_ok_and(|n| (68..=65535).contains(&n))
        } else if ISOLATE.contains(&key) {
            matches!(&**value, "true" | "false" | "strict")
        } else if MODE.contains(&key) {
            matches!(&**value, "bridge" | "private" | "vepa" | "passthru")
        } else if HOST_IP.contains(&key) {
            value.parse::<std::net::Ipv4Addr>().is_ok()
        } else {
            is_name(value) && value.len() < INTERFACE_BYTES
        };
        if !good {
            let m = format!(
                "network option `{key}` cannot be `{}`",
                value.escape_debug()
            );
            return Err(Error::new(Kind::BadInput, m));
        }
    }
    Ok(())
}
