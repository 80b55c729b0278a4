//! What a container is asked to be, in the shapes and names of Docker's API, so that `inspect`
//! shows what was asked and a client of that API can ask the same.
//!
//! Source: the Docker Engine API v1.4x, `ContainerConfig`, `HostConfig`, `EndpointSettings`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An empty JSON object, the value of sets in Docker's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nothing {}

/// A set of names, as `{"name": {}}`.
pub type Set = BTreeMap<String, Nothing>;

/// What the container is, wherever it runs: an image's `config` has the same shape.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Host name; empty for the first twelve digits of the id.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `name|uid[:group|gid]`; empty for root.
    pub user: String,
    /// Streams that the foreground wants.
    pub attach_stdin: bool,
    /// See `attach_stdin`.
    pub attach_stdout: bool,
    /// See `attach_stdin`.
    pub attach_stderr: bool,
    /// `port[/protocol]`s that the container listens on.
    #[serde(deserialize_with = "or_default")]
    pub exposed_ports: Set,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether standard input stays open without a client.
    pub open_stdin: bool,
    /// Whether standard input ends with the first client's.
    pub stdin_once: bool,
    /// `NAME=value`; a bare `NAME` takes the variable away.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Arguments; `None` for the image's.
    pub cmd: Option<Vec<String>>,
    /// How its health is found out.
    pub healthcheck: Option<Healthcheck>,
    /// Name of the image as it was asked for.
    pub image: String,
    /// Paths that get a volume.
    #[serde(deserialize_with = "or_default")]
    pub volumes: Set,
    /// Working directory.
    pub working_dir: String,
    /// What runs; `None` for the image's, `[""]` for none.
    pub entrypoint: Option<Vec<String>>,
    /// Whether it has no network.
    pub network_disabled: bool,
    /// Hardware address, `aa:bb:cc:dd:ee:ff`.
    pub mac_address: Option<String>,
    /// For people and programs.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop, a name or a number.
    pub stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL.
    pub stop_timeout: Option<i64>,
}

/// `null` is nothing, as Go's JSON has it.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// A health check. Durations are in nanoseconds; 0 is the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `[]` inherits, `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between checks; default 30 s.
    pub interval: i64,
    /// For one check; default 30 s.
    pub timeout: i64,
    /// Failures that count do so from then on; default 0.
    pub start_period: i64,
    /// Between checks during the start period; default 5 s.
    pub start_interval: i64,
    /// Failures in a row until it is unhealthy; default 3.
    pub retries: i64,
}

/// What this host gives the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `-v`: `[source:]target[:options]`.
    #[serde(deserialize_with = "or_default")]
    pub binds: Vec<String>,
    /// The container's id is written to this file.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Where its output goes.
    pub log_config: LogConfig,
    /// `none`, `host`, `bridge`, `default`, `container:ID` or a network's name.
    pub network_mode: String,
    /// `port/protocol` to where on the host.
    #[serde(deserialize_with = "or_default")]
    pub port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// What is done when it ends.
    pub restart_policy: RestartPolicy,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// `container[:ro|rw]`s whose volumes it gets.
    #[serde(deserialize_with = "or_default")]
    pub volumes_from: Vec<String>,
    /// Driver of the volumes that are made for it: `` or `local`.
    pub volume_driver: String,
    /// `--mount`.
    #[serde(deserialize_with = "or_default")]
    pub mounts: Vec<Mount>,
    /// Rows and columns of the terminal.
    pub console_size: [u16; 2],
    /// Free for the runtime.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// Capabilities, with or without `CAP_`; `ALL`.
    #[serde(deserialize_with = "or_default")]
    pub cap_add: Vec<String>,
    /// See `cap_add`.
    #[serde(deserialize_with = "or_default")]
    pub cap_drop: Vec<String>,
    /// `host`, `private`, or empty for the default.
    pub cgroupns_mode: String,
    /// Name servers.
    #[serde(deserialize_with = "or_default")]
    pub dns: Vec<String>,
    /// Options of the resolver.
    #[serde(deserialize_with = "or_default")]
    pub dns_options: Vec<String>,
    /// Domains that are searched.
    #[serde(deserialize_with = "or_default")]
    pub dns_search: Vec<String>,
    /// `name:address` for `/etc/hosts`; the address may be `host-gateway`.
    #[serde(deserialize_with = "or_default")]
    pub extra_hosts: Vec<String>,
    /// Containers that it is linked to: `name` or `name:alias`.
    #[serde(deserialize_with = "or_default")]
    pub links: Vec<String>,
    /// Further groups, names or numbers.
    #[serde(deserialize_with = "or_default")]
    pub group_add: Vec<String>,
    /// `private`, `shareable`, `none`, `host`, `container:ID`.
    pub ipc_mode: String,
    /// `/docker`-like path under which its control group is made.
    pub cgroup_parent: String,
    /// How willingly the kernel kills it, -1000 to 1000.
    pub oom_score_adj: i32,
    /// ``, `host` or `container:ID`.
    pub pid_mode: String,
    /// Whether nothing is kept from it.
    pub privileged: bool,
    /// Whether all exposed ports are published.
    pub publish_all_ports: bool,
    /// Whether its root is read-only.
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `apparmor=…`, `label=…`, `no-new-privileges`, `systempaths=unconfined`.
    #[serde(deserialize_with = "or_default")]
    pub security_opt: Vec<String>,
    /// Options of the graph driver.
    #[serde(deserialize_with = "or_default")]
    pub storage_opt: BTreeMap<String, String>,
    /// Path to mount options.
    #[serde(deserialize_with = "or_default")]
    pub tmpfs: BTreeMap<String, String>,
    /// `` or `host`.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// `` or `host`.
    pub userns_mode: String,
    /// `` or `default`: Windows has others.
    pub isolation: String,
    /// Bytes of `/dev/shm`; 0 for 64 MiB.
    pub shm_size: i64,
    /// Kernel parameters.
    #[serde(deserialize_with = "or_default")]
    pub sysctls: BTreeMap<String, String>,
    /// Name or path of the OCI runtime; empty for the configured one.
    pub runtime: String,
    /// Bytes; 0 for no limit.
    pub memory: i64,
    /// Bytes of memory and swap; -1 for no limit, 0 for twice `memory`.
    pub memory_swap: i64,
    /// Bytes that it is pressed down to when memory is short.
    pub memory_reservation: i64,
    /// 0 to 100; `None` for the kernel's.
    pub memory_swappiness: Option<i64>,
    /// Billionths of a CPU; 0 for no limit.
    pub nano_cpus: i64,
    /// Relative weight; 0 for the default (1024).
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds of each period.
    pub cpu_quota: i64,
    /// Microseconds of a period of real-time CPU time; 0 for the kernel's.
    pub cpu_realtime_period: i64,
    /// Microseconds of each such period; 0 for none.
    pub cpu_realtime_runtime: i64,
    /// Which CPUs: `0-3,7`.
    pub cpuset_cpus: String,
    /// Which memory nodes.
    pub cpuset_mems: String,
    /// 10 to 1000; 0 for the default.
    pub blkio_weight: u16,
    /// Weights for single disks.
    #[serde(deserialize_with = "or_default")]
    pub blkio_weight_device: Vec<WeightDevice>,
    /// Bytes that may be read from a disk each second.
    #[serde(deserialize_with = "or_default")]
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    /// See `blkio_device_read_bps`.
    #[serde(deserialize_with = "or_default")]
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    /// Reads of a disk each second.
    #[serde(rename = "BlkioDeviceReadIOps", deserialize_with = "or_default")]
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    /// Writes to a disk each second.
    #[serde(rename = "BlkioDeviceWriteIOps", deserialize_with = "or_default")]
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    /// Device nodes of the host.
    #[serde(deserialize_with = "or_default")]
    pub devices: Vec<DeviceMapping>,
    /// Devices by kind or by the names that a vendor gives them: `--gpus`, and `--device` of CDI.
    #[serde(deserialize_with = "or_default")]
    pub device_requests: Vec<DeviceRequest>,
    /// `c 13:* rmw`.
    #[serde(deserialize_with = "or_default")]
    pub device_cgroup_rules: Vec<String>,
    /// Whether the kernel must not kill it for want of memory.
    pub oom_kill_disable: Option<bool>,
    /// Most processes; `None`, 0 and -1 for no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits.
    #[serde(deserialize_with = "or_default")]
    pub ulimits: Vec<Ulimit>,
    /// Whether an init runs as its first process.
    pub init: Option<bool>,
    /// Instead of the default masked paths.
    pub masked_paths: Option<Vec<String>>,
    /// Instead of the default read-only paths.
    pub readonly_paths: Option<Vec<String>>,
    /// Ours: what rules that the image carries may do: `narrow`, `replace` or `ignore`; empty for
    /// the configured.
    pub image_security: String,
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// `json-file`, `local`, `k8s-file`, `none`; empty for the configured.
    pub r#type: String,
    /// `max-size`, `max-file`, …
    #[serde(deserialize_with = "or_default")]
    pub config: BTreeMap<String, String>,
}

/// A port of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Address; empty for all.
    pub host_ip: String,
    /// Port or range; empty for any that is free.
    pub host_port: String,
}

/// What is done when a container ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `` or `no`, `always`, `unless-stopped`, `on-failure`.
    pub name: String,
    /// How often, for `on-failure`; 0 for ever.
    pub maximum_retry_count: i64,
}

/// One `--mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub r#type: String,
    /// Path, volume or image; empty for an anonymous volume.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// For `bind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// For `volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// For `tmpfs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// For `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
}

/// Options of a mount of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageOptions {
    /// Directory or file of the image that is mounted.
    pub subpath: String,
}

/// Options of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    /// `[r]private`, `[r]shared`, `[r]slave`.
    pub propagation: String,
    /// Whether mounts below the source stay out.
    pub non_recursive: bool,
    /// Whether a source that is not there is made.
    pub create_mountpoint: bool,
    /// Whether read-only is for the topmost mount alone.
    pub read_only_non_recursive: bool,
    /// Whether it is an error if mounts below cannot be made read-only.
    pub read_only_force_recursive: bool,
}

/// Options of a volume mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// Whether what the image has there is not copied into a new volume.
    pub no_copy: bool,
    /// For a volume that is made for it.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Directory of the volume that is mounted.
    pub subpath: String,
}

/// Options of a tmpfs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// 0 for half of the memory.
    pub size_bytes: i64,
    /// Mode of its root; 0 for 1777.
    pub mode: u32,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// A node, or a directory of them.
    pub path_on_host: String,
    /// Where it is in the container; empty for the same.
    pub path_in_container: String,
    /// Of `rwm`; empty for all.
    pub cgroup_permissions: String,
}

/// How much a disk's time counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WeightDevice {
    /// Its node on the host.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// How much a disk may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ThrottleDevice {
    /// Its node on the host.
    pub path: String,
    /// Bytes or operations each second; 0 for no limit.
    pub rate: u64,
}

/// Devices that a driver knows how to give.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceRequest {
    /// `cdi`, `nvidia`, or empty for what `capabilities` say.
    pub driver: String,
    /// How many; -1 for all.
    pub count: i64,
    /// Which ones; for `cdi` whole names.
    #[serde(rename = "DeviceIDs", deserialize_with = "or_default")]
    pub device_ids: Vec<String>,
    /// What they must all be able to, in any of these sets.
    #[serde(deserialize_with = "or_default")]
    pub capabilities: Vec<Vec<String>>,
    /// Free for the driver.
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// `nofile`, without `RLIMIT_`.
    pub name: String,
    /// -1 for no limit.
    pub soft: i64,
    /// -1 for no limit.
    pub hard: i64,
}

/// How the container is in one network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSettings {
    /// Addresses that were asked for.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    /// Names that resolve to it there.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<String>,
    /// Hardware address that was asked for.
    pub mac_address: String,
}

/// Addresses that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIpam {
    /// IPv4.
    #[serde(rename = "IPv4Address")]
    pub ipv4: String,
    /// IPv6.
    #[serde(rename = "IPv6Address")]
    pub ipv6: String,
}

/// All that makes a container. `networking` has an entry for each network by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Request {
    /// What it is.
    pub config: ContainerConfig,
    /// What this host gives it.
    pub host_config: HostConfig,
    /// Its networks beyond `NetworkMode`, and its place in them.
    #[serde(deserialize_with = "or_default")]
    pub networks: BTreeMap<String, EndpointSettings>,
}
