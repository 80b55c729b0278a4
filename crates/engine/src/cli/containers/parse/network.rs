//! Addresses, and names of other hosts.

use super::bad;
use crate::{error::Result, image::json::show};

/// `aa:bb:cc:dd:ee:ff`, or with hyphens.
pub(in crate::cli::containers) fn mac_address(text: &str) -> Result<String> {
    let octets: Vec<&str> = text.split([':', '-']).collect();
    let good = octets.len() == 6
        && octets
            .iter()
            .all(|o| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit()));
    if good {
        return Ok(octets.join(":").to_ascii_lowercase());
    }
    Err(bad(
        format!("{} is not a valid mac address", show(text)),
        "write six pairs of digits: 02:42:ac:11:00:02",
    ))
}

/// An address, in its usual form.
pub(in crate::cli::containers) fn address(text: &str) -> Result<String> {
    text.trim()
        .parse::<std::net::IpAddr>()
        .map(|a| a.to_string())
        .map_err(|_| {
            bad(
                format!("IP address is not correctly formatted: {}", show(text)),
                "write an IPv4 or IPv6 address",
            )
        })
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
pub(in crate::cli::containers) fn extra_host(text: &str) -> Result<String> {
    let hint = "write NAME:ADDRESS, or NAME:host-gateway";
    let (name, address) = match text.split_once('=') {
        Some(pair) => pair,
        None => text.split_once(':').unwrap_or((text, "")),
    };
    if name.is_empty() || address.is_empty() {
        return Err(bad(
            format!("bad format for add-host: \"{}\"", show(text)),
            hint,
        ));
    }
    let plain = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if plain != "host-gateway" && plain.parse::<std::net::IpAddr>().is_err() {
        let m = format!("invalid IP address in add-host: \"{}\"", show(address));
        return Err(bad(m, hint));
    }
    Ok(format!("{name}:{plain}"))
}

#[cfg(test)]
mod tests {
    use super::{super::said, *};

    #[test]
    fn addresses_and_hosts() {
        assert_eq!(
            mac_address("02-42-AC-11-00-02").unwrap(),
            "02:42:ac:11:00:02"
        );
        assert_eq!(
            said(mac_address("02:42")),
            "02:42 is not a valid mac address"
        );
        assert_eq!(address("::0001").unwrap(), "::1");
        assert!(said(address("1.2.3")).contains("not correctly formatted"));
        for (text, want) in [
            ("a:1.2.3.4", "a:1.2.3.4"),
            ("a:::1", "a:::1"),
            ("a=[::1]", "a:::1"),
            ("a:host-gateway", "a:host-gateway"),
        ] {
            assert_eq!(extra_host(text).unwrap(), want);
        }
        assert_eq!(said(extra_host("a")), "bad format for add-host: \"a\"");
        assert_eq!(
            said(extra_host("a:b")),
            "invalid IP address in add-host: \"b\""
        );
    }
}
