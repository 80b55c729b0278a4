//! Interfaces of the machine: whether one is there, its hardware address, and taking one away, as
//! netavark's teardown does, by a message to the kernel (rtnetlink(7)).

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice::name_to_index,
        recv, send, socket_with,
    },
};

/// `RTM_NEWLINK`: of one that is there, it changes what is said.
const NEW_LINK: u16 = 16;
/// `RTM_DELLINK`.
const DELETE_LINK: u16 = 17;
/// `NLM_F_REQUEST` and `NLM_F_ACK`.
const ACKNOWLEDGED: u16 = 0x1 | 0x4;
/// `NLMSG_ERROR`: with 0 it is an acknowledgement.
const ANSWER: u16 = 2;
/// `IFLA_ADDRESS`.
const ADDRESS: u16 = 1;
/// Of that attribute, with its header, in bytes.
const ADDRESS_LENGTH: u16 = 4 + 6;
/// Of `struct nlmsghdr` and `struct ifinfomsg` together, in bytes.
const LENGTH: u32 = 16 + 16;

/// Whether the network namespace that we are in has an interface of that name. `/sys/class/net` may
/// be another's.
pub(super) fn exists(name: &str) -> bool {
    let kind = (AddressFamily::UNIX, SocketType::DGRAM);
    socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)
        .and_then(|socket| name_to_index(&socket, name))
        .is_ok()
}

/// Removes the interface `name` of the calling thread's network namespace, with its other end
/// elsewhere. One that is not there is fine.
pub(super) fn remove(name: &str) -> Result<(), Errno> {
    change(name, DELETE_LINK, &[])
}

/// Gives the interface `name` a hardware address, that it keeps: a bridge without one takes that of
/// some container's interface, and when that comes or goes its neighbours do not find it for a
/// while. One that is not there is fine.
pub(super) fn set_address(name: &str, address: [u8; 6]) -> Result<(), Errno> {
    let mut attribute = Vec::new();
    attribute.extend(ADDRESS_LENGTH.to_ne_bytes());
    attribute.extend(ADDRESS.to_ne_bytes());
    attribute.extend(address);
    // Attributes end at multiples of four bytes.
    attribute.extend([0; 2]);
    change(name, NEW_LINK, &attribute)
}

/// Sends a message about an interface, and waits until it is done.
fn change(name: &str, what: u16, attributes: &[u8]) -> Result<(), Errno> {
    let socket: OwnedFd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is 0.
        None,
    )?;
    let index = match name_to_index(&socket, name) {
        Err(Errno::NODEV) => return Ok(()),
        index => index?,
    };
    let length = u32::try_from(attributes.len()).map_err(|_| Errno::MSGSIZE)?;
    let mut message = Vec::new();
    message.extend((LENGTH + length).to_ne_bytes());
    message.extend(what.to_ne_bytes());
    message.extend(ACKNOWLEDGED.to_ne_bytes());
    // Its sequence number and sender, then the family and type of the interface: none.
    message.extend([0; 8 + 4]);
    message.extend(index.to_ne_bytes());
    // No flags are changed.
    message.extend([0; 8]);
    message.extend(attributes);
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    match answer.get(..length) {
        Some([_, _, _, _, a, b, _, _, _, _, _, _, _, _, _, _, rest @ ..])
            if u16::from_ne_bytes([*a, *b]) == ANSWER =>
        {
            let code = rest.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
            match code {
                0 => Ok(()),
                code if code == -libc::ENODEV => Ok(()),
                code => Err(Errno::from_raw_os_error(-code)),
            }
        }
        _ => Err(Errno::PROTO),
    }
}
