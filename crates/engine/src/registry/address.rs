//! Where an address lies, and who may send us there.
//!
//! A registry on the internet must not make this machine talk to its own network: redirects,
//! token servers and layer URLs that it names lead to public addresses only. Addresses are
//! checked where the connection is made, so that no second look-up can give another answer.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// This machine.
    Loopback,
    /// A private network.
    Private,
    /// The link: where clouds keep their machines' credentials.
    LinkLocal,
    /// Anywhere else.
    Public,
}

impl Class {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                match (a, b) {
                    (127 | 0, _) => Self::Loopback,
                    (169, 254) => Self::LinkLocal,
                    (10, _) | (192, 168) | (172, 16..=31) | (100, 64..=127) | (198, 18..=19) => {
                        Self::Private
                    }
                    (224.., _) => Self::LinkLocal,
                    _ => Self::Public,
                }
            }
            IpAddr::V6(v6) => {
                let first = v6.segments()[0];
                if v6.is_loopback() || v6.is_unspecified() {
                    Self::Loopback
                } else if first & 0xffc0 == 0xfe80 || v6.is_multicast() {
                    Self::LinkLocal
                } else if first & 0xfe00 == 0xfc00 {
                    Self::Private
                } else {
                    Self::Public
                }
            }
        }
    }

    /// Of a host as written, if that needs no look-up.
    pub(super) fn of_literal(host: &str) -> Option<Self> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some(Self::of(ip));
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        (name == "localhost" || name.ends_with(".localhost")).then_some(Self::Loopback)
    }

    /// Whether a host of this class may name an address of class `target` for us to go to.
    pub(super) fn may_name(self, target: Self) -> bool {
        match target {
            Self::Public => true,
            Self::Private => matches!(self, Self::Private | Self::Loopback),
            Self::Loopback => self == Self::Loopback,
            Self::LinkLocal => self == Self::LinkLocal,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Loopback => "this machine itself",
            Self::Private => "a private network",
            Self::LinkLocal => "a link-local address",
            Self::Public => "a public address",
        }
    }
}

/// What hosts were found to be, by name.
#[derive(Debug, Default, Clone)]
pub(super) struct Classes(Arc<Mutex<HashMap<String, Class>>>);

impl Classes {
    /// The class of a host that was talked to; public if nothing is known, as through a proxy.
    pub(super) fn get(&self, host: &str) -> Class {
        let known = || {
            let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.get(&host.to_ascii_lowercase()).copied()
        };
        Class::of_literal(host)
            .or_else(known)
            .unwrap_or(Class::Public)
    }

    fn note(&self, host: &str, found: &[SocketAddr]) {
        let mut all = found.iter().map(|a| Class::of(a.ip()));
        let Some(first) = all.next() else {
            return;
        };
        // One public address makes it public: who has that one may have made up the others.
        let class = all.fold(first, |a, b| if a == b { a } else { Class::Public });
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(host.to_ascii_lowercase(), class);
    }
}

/// The host's resolver, which leaves out what `named_by` must not name.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) named_by: Option<Class>,
    pub(super) classes: Classes,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (named_by, classes) = (self.named_by, self.classes.clone());
        Box::pin(async move {
            let host = name.as_str();
            let mut found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            match named_by {
                None => classes.note(host, &found),
                Some(by) => {
                    let first = found.first().map(|a| Class::of(a.ip()));
                    found.retain(|a| by.may_name(Class::of(a.ip())));
                    if let (true, Some(class)) = (found.is_empty(), first) {
                        return Err(Box::new(Refused(class)) as _);
                    }
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// What [`Resolver`] says of a name that leads where it must not.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Class);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leads to {}", self.0.words())
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (text, want) in [
            ("127.0.0.1", Class::Loopback),
            ("127.9.9.9", Class::Loopback),
            ("0.0.0.0", Class::Loopback),
            ("::1", Class::Loopback),
            ("[::1]", Class::Loopback),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("localhost", Class::Loopback),
            ("LOCALHOST.", Class::Loopback),
            ("a.localhost", Class::Loopback),
            ("10.1.2.3", Class::Private),
            ("172.16.0.1", Class::Private),
            ("172.32.0.1", Class::Public),
            ("192.168.0.1", Class::Private),
            ("100.100.100.200", Class::Private),
            ("fd00:ec2::254", Class::Private),
            ("169.254.169.254", Class::LinkLocal),
            ("::ffff:169.254.169.254", Class::LinkLocal),
            ("fe80::1", Class::LinkLocal),
            ("224.0.0.1", Class::LinkLocal),
            ("255.255.255.255", Class::LinkLocal),
            ("8.8.8.8", Class::Public),
            ("2606:4700::1111", Class::Public),
        ] {
            assert_eq!(Class::of_literal(text), Some(want), "{text}");
        }
        assert_eq!(Class::of_literal("example.com"), None);
        assert_eq!(Class::of_literal("notlocalhost"), None);
    }

    #[test]
    fn the_internet_names_only_itself() {
        use Class::*;
        for class in [Loopback, Private, LinkLocal, Public] {
            assert!(class.may_name(Public));
            assert_eq!(class.may_name(LinkLocal), class == LinkLocal);
            assert_eq!(class.may_name(Loopback), class == Loopback);
        }
        assert!(!Public.may_name(Private) && Private.may_name(Private));
    }

    #[tokio::test]
    async fn names_are_checked_where_they_are_looked_up() {
        let look = async |named_by| {
            let classes = Classes::default();
            let name = "localhost".parse().unwrap();
            let found = Resolver { named_by, classes }.resolve(name).await;
            found.map(Iterator::count)
        };
        assert!(look(None).await.unwrap() > 0);
        assert!(look(Some(Class::Loopback)).await.unwrap() > 0);
        let e = look(Some(Class::Public)).await.unwrap_err();
        assert_eq!(e.downcast_ref::<Refused>().unwrap().0, Class::Loopback);
    }

    #[test]
    fn one_public_address_makes_a_name_public() {
        let classes = Classes::default();
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        classes.note("Evil.example", &[at("10.0.0.1"), at("8.8.8.8")]);
        assert_eq!(classes.get("evil.example"), Class::Public);
        classes.note("lan.example", &[at("10.0.0.1"), at("10.0.0.2")]);
        assert_eq!(classes.get("LAN.example"), Class::Private);
        assert_eq!(classes.get("unknown.example"), Class::Public);
    }
}
