//! Values of docker's flags for containers, with docker's words for what is wrong.

mod devices;
mod disks;
mod limits;
mod lists;
mod network;

pub(super) use self::{
    devices::{device, device_rule, gpus},
    disks::{rate, weight},
    limits::{bytes_or_unlimited, cpus, ulimit},
    lists::{env, full_pairs, labels, pairs},
    network::{address, extra_host, mac_address},
};
pub(super) use crate::spec::size::bytes;
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
    spec::request::RestartPolicy,
};

pub(super) fn bad(message: impl Into<String>, hint: &str) -> Error {
    Error::new(Kind::BadInput, message).with_hint(hint)
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
pub(super) fn restart_policy(text: &str) -> Result<RestartPolicy> {
    let hint = "policies are no, always, unless-stopped and on-failure[:RETRIES]";
    if text.is_empty() {
        return Ok(RestartPolicy::default());
    }
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    if count.is_some() && name.is_empty() {
        let m = "invalid restart policy format: no policy provided before colon";
        return Err(bad(m, hint));
    }
    let retries = match count {
        None => 0,
        Some(count) => count.parse().map_err(|_| {
            bad(
                "invalid restart policy format: maximum retry count must be an integer",
                hint,
            )
        })?,
    };
    let policy = RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: retries,
    };
    match name {
        "on-failure" if retries < 0 => Err(bad(
            "invalid restart policy: maximum retry count cannot be negative",
            hint,
        )),
        "no" | "always" | "unless-stopped" if retries != 0 => {
            let m =
                "invalid restart policy: maximum retry count can only be used with 'on-failure'";
            Err(bad(m, hint))
        }
        "no" | "always" | "unless-stopped" | "on-failure" => Ok(policy),
        _ => {
            let m = format!(
                "invalid restart policy: unknown policy '{}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'",
                show(name)
            );
            Err(bad(m, hint))
        }
    }
}

/// What is said of a value that is wrong.
#[cfg(test)]
fn said<T: std::fmt::Debug>(result: Result<T>) -> String {
    let e = result.unwrap_err();
    assert!(e.hint().is_some(), "{e}");
    e.message().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let p = restart_policy("on-failure:3").unwrap();
        assert_eq!((&*p.name, p.maximum_retry_count), ("on-failure", 3));
        assert_eq!(restart_policy("no").unwrap().name, "no");
        for (text, part) in [
            (":3", "no policy provided before colon"),
            ("on-failure:x", "must be an integer"),
            ("on-failure:-1", "cannot be negative"),
            ("always:2", "can only be used with 'on-failure'"),
            ("never", "unknown policy 'never'"),
        ] {
            assert!(said(restart_policy(text)).contains(part), "{text}");
        }
    }
}
