//! Sees when the kernel kills a process of the container for want of memory.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify,
};

use super::Server;
use crate::runtime::cgroup::Cgroup;

/// A descriptor that becomes readable when something happened.
pub(super) struct Watch {
    fd: OwnedFd,
    /// Kept open: the first version's events end with it.
    _control: Option<File>,
    seen: u64,
}

impl Watch {
    pub(super) fn on(cgroup: &Cgroup) -> io::Result<Self> {
        let dir = cgroup.dir("memory");
        let file = dir.join(cgroup.oom_file());
        if cgroup.is_v2() {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&fd, &file, inotify::WatchFlags::MODIFY)?;
            return Ok(Self {
                fd,
                _control: None,
                seen: 0,
            });
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = File::open(file)?;
        let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        fs::write(dir.join("cgroup.event_control"), line)?;
        Ok(Self {
            fd,
            _control: Some(control),
            seen: 0,
        })
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Server {
    /// Begins to watch; without it, it is still seen at the end.
    pub(super) fn watch_memory(&mut self) {
        let cgroup = self.job.container().and_then(|c| c.cgroup.as_ref());
        self.oom = cgroup.and_then(|c| Watch::on(c).ok());
    }

    /// Looks whether it is what was watched for.
    pub(super) fn look_at_memory(&mut self) {
        if let Some(watch) = &self.oom {
            // An event counts eight bytes, those of inotify more: what does not fit comes again.
            while rustix::io::read(&watch.fd, &mut [0; 1024]).is_ok() {}
        }
        self.count_kills();
    }

    /// Compares the kernel's count with what was seen; also the last thing that is done with the
    /// control group.
    pub(super) fn count_kills(&mut self) {
        let cgroup = self.job.container().and_then(|c| c.cgroup.as_ref());
        let Some(kills) = cgroup.and_then(Cgroup::oom_kills) else {
            self.oom = None;
            return;
        };
        let seen = self.oom.as_mut().map_or(&mut self.kills, |w| &mut w.seen);
        if kills > std::mem::replace(seen, kills) {
            self.state.oom = true;
            self.save();
            self.event("oom", None);
        }
    }
}
