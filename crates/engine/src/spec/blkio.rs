//! What a container may do with disks: its share of their time, and how much of it each second.

use std::{collections::BTreeMap, fs, os::unix::fs::FileTypeExt, os::unix::fs::MetadataExt};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice,
    LinuxWeightDeviceBuilder,
};
use rustix::fs::{major, minor};

use super::{
    check::bad,
    explain::{Notes, Origin},
    host::HostFacts,
    request::{HostConfig, ThrottleDevice},
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Major and minor number.
type Numbers = (u32, u32);

/// The lists of limits of a request: name in the spec, flag, entries.
fn throttles(h: &HostConfig) -> [(&'static str, &'static str, &[ThrottleDevice]); 4] {
    [
        (
            "throttleReadBpsDevice",
            "--device-read-bps",
            &h.blkio_device_read_bps,
        ),
        (
            "throttleWriteBpsDevice",
            "--device-write-bps",
            &h.blkio_device_write_bps,
        ),
        (
            "throttleReadIOPSDevice",
            "--device-read-iops",
            &h.blkio_device_read_iops,
        ),
        (
            "throttleWriteIOPSDevice",
            "--device-write-iops",
            &h.blkio_device_write_iops,
        ),
    ]
}

/// The numbers of the disks that a request limits the use of.
///
/// # Errors
/// [`Kind::NotFound`] for one that is not there, [`Kind::BadInput`] for what is no disk.
pub fn find(h: &HostConfig) -> Result<BTreeMap<String, Numbers>> {
    let weighted = h.blkio_weight_device.iter().map(|w| &w.path);
    let limited = throttles(h).into_iter().flat_map(|(_, _, list)| list);
    let mut out = BTreeMap::new();
    for path in weighted.chain(limited.map(|t| &t.path)) {
        let meta = fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let m = format!("there is no device `{}`", show(path));
                Error::new(Kind::NotFound, m).with_hint("`lsblk -p` lists disks")
            }
            _ => Error::host(format!("look at {}", show(path)), e),
        })?;
        if !meta.file_type().is_block_device() {
            let m = format!("`{}` is no block device", show(path));
            return bad(m, "`lsblk -p` lists disks");
        }
        out.insert(path.clone(), (major(meta.rdev()), minor(meta.rdev())));
    }
    Ok(out)
}

/// Refuses weights that are none, and says what this host will pass over.
pub(super) fn check(h: &HostConfig, host: &HostFacts, warnings: &mut Vec<String>) -> Result<()> {
    let weights = h.blkio_weight_device.iter().map(|w| w.weight);
    for weight in weights.chain([h.blkio_weight]) {
        if weight != 0 && !(10..=1000).contains(&weight) {
            let m = format!("a block I/O weight of {weight}");
            return bad(m, "it is between 10 and 1000");
        }
    }
    let mut lacks = |flag: &str, given: bool, has: bool| {
        if given && !has {
            warnings.push(format!(
                "{flag} is passed over: this kernel cannot weight it"
            ));
        }
    };
    lacks("--blkio-weight", h.blkio_weight != 0, host.blkio_weight);
    let given = !h.blkio_weight_device.is_empty();
    lacks("--blkio-weight-device", given, host.blkio_weight_device);
    let controller = controller(host);
    for (_, flag, list) in throttles(h) {
        if !list.is_empty() && !host.controllers.contains(controller) {
            warnings.push(format!(
                "{flag} is passed over: this host gives no control group controller `{controller}`"
            ));
        }
    }
    Ok(())
}

fn controller(host: &HostFacts) -> &'static str {
    if host.cgroup_v2 { "io" } else { "blkio" }
}

/// What the runtime is told.
pub(super) fn assemble(
    h: &HostConfig,
    host: &HostFacts,
    disks: &BTreeMap<String, Numbers>,
    notes: &mut Notes,
) -> Result<Option<LinuxBlockIo>> {
    let numbers = |path: &str| {
        disks.get(path).copied().ok_or_else(|| {
            Error::new(Kind::Bug, format!("nobody has looked at {}", show(path)))
                .with_hint("report this")
        })
    };
    let mut out = LinuxBlockIo::default();
    let mut note = |field: &str, flag: &str| {
        notes.set(
            format!("linux.resources.blockIO.{field}"),
            Origin::User,
            flag,
        );
    };
    note("weight", "--blkio-weight");
    note("weightDevice", "--blkio-weight-device");
    if host.blkio_weight && h.blkio_weight != 0 {
        out.set_weight(Some(h.blkio_weight));
    }
    if host.blkio_weight_device && !h.blkio_weight_device.is_empty() {
        let build = |path: &str, weight: u16| -> Result<LinuxWeightDevice> {
            let (major, minor) = numbers(path)?;
            LinuxWeightDeviceBuilder::default()
                .major(i64::from(major))
                .minor(i64::from(minor))
                .weight(weight)
                .build()
                .map_err(|e| Error::new(Kind::Bug, e.to_string()))
        };
        let list = h.blkio_weight_device.iter();
        let list: Result<_> = list.map(|w| build(&w.path, w.weight)).collect();
        out.set_weight_device(Some(list?));
    }
    for (field, flag, list) in throttles(h) {
        note(field, flag);
        if list.is_empty() || !host.controllers.contains(controller(host)) {
            continue;
        }
        let build = |one: &ThrottleDevice| -> Result<LinuxThrottleDevice> {
            let (major, minor) = numbers(&one.path)?;
            LinuxThrottleDeviceBuilder::default()
                .major(i64::from(major))
                .minor(i64::from(minor))
                .rate(one.rate)
                .build()
                .map_err(|e| Error::new(Kind::Bug, e.to_string()))
        };
        let all = Some(list.iter().map(build).collect::<Result<Vec<_>>>()?);
        match field {
            "throttleReadBpsDevice" => out.set_throttle_read_bps_device(all),
            "throttleWriteBpsDevice" => out.set_throttle_write_bps_device(all),
            "throttleReadIOPSDevice" => out.set_throttle_read_iops_device(all),
            _ => out.set_throttle_write_iops_device(all),
        };
    }
    Ok(Some(out).filter(|io| *io != LinuxBlockIo::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_this_host() {
        let ask = |path: &str| {
            let one = ThrottleDevice {
                path: path.to_owned(),
                rate: 1,
            };
            find(&HostConfig {
                blkio_device_read_bps: vec![one],
                ..HostConfig::default()
            })
        };
        assert_eq!(ask("/dev/no-such").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(ask("/dev/null").unwrap_err().kind(), Kind::BadInput);
    }
}
