//! With the kernel's namespaces and the real netavark, in a network of the test's own.

mod bridges;
mod faults;
mod macvlans;
mod records;

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;
use crate::{
    spec::request::Request,
    store::{Store, StoreOptions},
    sys,
};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

struct World {
    dir: tempfile::TempDir,
    networks: Networks,
}

impl World {
    fn new(config: &config::Network) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions::new(dir.path().join("root"), "copy")).unwrap();
        let networks = Networks::new(&store, &dir.path().join("run"), config);
        Self { dir, networks }
    }

    fn netns(&self, id: &str) -> std::path::PathBuf {
        self.dir.path().join("run/netns").join(id)
    }

    /// Nothing of any container is left, neither here nor in the kernel.
    fn assert_clean(&self) {
        let list = |dir: &str| -> Vec<String> {
            let dir = self.dir.path().join("run").join(dir);
            let entries = fs::read_dir(dir).map(|d| {
                d.map(|e| e.unwrap().file_name().into_string().unwrap())
                    .filter(|n| n != "lock")
                    .collect()
            });
            entries.unwrap_or_default()
        };
        assert!(list("netns").is_empty(), "{:?}", list("netns"));
        assert!(list("network").is_empty(), "{:?}", list("network"));
        let store = &self.networks.store;
        assert!(
            store
                .read_networks(|tx| tx.containers())
                .unwrap()
                .is_empty()
        );
        let links = run("ip", &["-o", "link"]);
        assert!(
            !links.contains("veth") && !links.contains("unlade0"),
            "{links}"
        );
        for table in ["nat", "filter"] {
            let rules = run("iptables", &["-t", table, "-S"]);
            assert!(!rules.contains("dnat name"), "{rules}");
            assert!(
                !rules.contains("MASQUERADE") || !rules.contains("-s 172."),
                "{rules}"
            );
        }
    }
}

fn who<'a>(id: &'a str, name: &'a str) -> Member<'a> {
    Member {
        id,
        name,
        hostname: name,
        other: None,
        links: &[],
    }
}

fn on(network: &str, published: &[&str]) -> Request {
    let mut request = Request::default();
    network.clone_into(&mut request.host_config.network_mode);
    let published: Vec<String> = published.iter().map(|p| (*p).to_owned()).collect();
    ports::publish(&published, &[], &mut request).unwrap();
    request
}

fn called(name: &str) -> NewNetwork {
    NewNetwork {
        name: name.to_owned(),
        ..NewNetwork::default()
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn has(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|d| Path::new(d).join(program).exists())
}

/// Runs a test in a network namespace that stands for the host's.
fn isolated(test: impl FnOnce() + Send + 'static) {
    let root = rustix::process::geteuid().is_root();
    let programs = netavark::Programs::new(&config::Network::default());
    for (there, what) in [
        (root, "only root can make network namespaces"),
        (programs.netavark().is_ok(), "netavark is not installed"),
        (
            programs.aardvark_dns().is_ok(),
            "aardvark-dns is not installed",
        ),
        (
            has("ip") && has("iptables"),
            "iproute2 or iptables is not installed",
        ),
    ] {
        if !there {
            eprintln!("skipped: {what}");
            return;
        }
    }
    let host = thread::spawn(move || {
        sys::unshare_network().unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(e) = host.join() {
        std::panic::resume_unwind(e);
    }
}

/// Does `f` in a container's network.
fn inside<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(netns).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use std::os::fd::AsFd;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            f()
        });
        thread.join().unwrap()
    })
}

/// A server in a container that tells its name.
fn serve(netns: &Path, port: u16, name: &'static str) {
    let listener = inside(netns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

fn ask(address: impl Into<SocketAddr>) -> Option<String> {
    let time = Duration::from_millis(700);
    let mut stream = TcpStream::connect_timeout(&address.into(), time).ok()?;
    stream.set_read_timeout(Some(time)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Asks a name server for an IPv4 address, as a container does.
fn resolve(netns: &Path, server: IpAddr, name: &str) -> Option<IpAddr> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.push(u8::try_from(name.len()).unwrap());
    query.extend(name.bytes());
    query.extend([0, 0, 1, 0, 1]);
    inside(netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let time = Some(Duration::from_secs(1));
        socket.set_read_timeout(time).unwrap();
        for _ in 0..5 {
            socket.send_to(&query, (server, 53)).unwrap();
            let mut answer = [0; 512];
            let Ok(len) = socket.recv(&mut answer) else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            let found = answer[7] > 0 && answer[3] & 15 == 0;
            let tail: [u8; 4] = answer[len - 4..len].try_into().unwrap();
            return found.then(|| IpAddr::from(tail));
        }
        None
    })
}
