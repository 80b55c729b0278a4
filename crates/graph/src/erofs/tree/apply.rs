//! The rules by which a layer changes the tree, as [`TreeSink`](unlade_unpack::TreeSink) has them.

use unlade_unpack::{
    Error, Kind, Result,
    entry::{Entry, EntryKind, Role, split},
    show,
};

use super::{Inode, NONE, PASSED_BYTES_MOST, Tree, too_many};
use crate::erofs::{
    content::Content,
    format::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG},
    xattrs::effective,
};

/// Symlinks followed on the way to a directory.
const LINKS_MOST: usize = 40;

impl Tree {
    /// A layer begins; its entries come by [`Tree::apply`], in order.
    ///
    /// # Errors
    /// For layer 32768: more than a device table holds.
    pub fn begin_layer(&mut self) -> Result<()> {
        if self.layer > i16::MAX.unsigned_abs() {
            return Err(Error::new(
                Kind::Limit,
                "an image of more than 32767 layers",
            ));
        }
        self.layer += 1;
        self.noted = None;
        // Found anew, so that what it is found through counts for this layer.
        self.recent = None;
        self.passed.clear();
        Ok(())
    }

    /// Applies an entry, whose content (if it is a file) is where `content` says.
    ///
    /// # Errors
    /// Those of a layer that breaks a rule, or that does not fit the layers below it.
    pub fn apply(&mut self, entry: &Entry, content: Content) -> Result<()> {
        self.change(entry, content)
            .map_err(|e| e.at_entry(entry.index, &entry.path))
    }

    fn change(&mut self, entry: &Entry, content: Content) -> Result<()> {
        if matches!(entry.kind, EntryKind::Char { major: 0, minor: 0 }) {
            let what = "character device 0:0 is overlayfs's whiteout, not a device";
            return Err(bad(what));
        }
        if entry.path.is_empty() && entry.kind != EntryKind::Dir {
            return Err(bad("the root of an image must be a directory"));
        }
        let (above, name) = split(&entry.path);
        match entry.role()? {
            Role::Plain => {}
            Role::AufsResidue => return Ok(()),
            Role::Whiteout { name } => return self.whiteout(above, name),
            Role::Opaque => {
                if let Some(dir) = self.resolve(above, false)? {
                    if !self.passed.is_empty() {
                        self.passed.check_opaque(&self.real_path(dir))?;
                    }
                    self.hide(dir)?;
                }
                return Ok(());
            }
        }
        if entry.path.is_empty() {
            return self.set_attributes(0, entry);
        }
        let dir = self.resolve(above, true)?.unwrap_or(0);
        let there = self.look_up(dir, name);
        match &entry.kind {
            EntryKind::HardLink { target } => return self.hard_link(dir, name, target),
            EntryKind::Dir => {
                if let Some(id) = there
                    && self.is_dir(self.entries[id as usize].inode)
                {
                    self.note(id);
                    return self.set_attributes(self.entries[id as usize].inode, entry);
                }
            }
            _ => {}
        }
        if let Some(id) = there {
            self.unlink(id);
        }
        let inode = self.inode_of(entry, content)?;
        let inode = self.add_inode(inode)?;
        self.set_attributes(inode, entry)?;
        let id = self.link(dir, name, inode)?;
        self.note(id);
        Ok(())
    }

    fn inode_of(&mut self, entry: &Entry, content: Content) -> Result<Inode> {
        let mut inode = Inode::fresh_dir();
        if entry.kind == EntryKind::Dir {
            return Ok(inode);
        }
        inode.links = 0;
        let kind = match &entry.kind {
            EntryKind::File { size, .. } => {
                inode.size = *size;
                let layer = u32::from(self.layer) - 1;
                match content {
                    Content::Hole => {}
                    Content::Whole(at) => (inode.at, inode.source) = (at, layer * 2),
                    Content::Chunks(chunks) => {
                        inode.at = self.chunks.len() as u64;
                        inode.source = layer * 2;
                        inode.has_chunks = true;
                        self.chunks.push(chunks);
                    }
                }
                S_IFREG
            }
            EntryKind::Symlink { target } => {
                inode.size = target.len() as u64;
                inode.at = self.text(target)?.into();
                S_IFLNK
            }
            EntryKind::Char { major, minor } => {
                inode.size = u64::from(*major) << 32 | u64::from(*minor);
                S_IFCHR
            }
            EntryKind::Block { major, minor } => {
                inode.size = u64::from(*major) << 32 | u64::from(*minor);
                S_IFBLK
            }
            EntryKind::Fifo => S_IFIFO,
            EntryKind::Dir | EntryKind::HardLink { .. } => S_IFDIR,
        };
        inode.mode = u16::try_from(kind).unwrap_or(0);
        Ok(inode)
    }

    fn set_attributes(&mut self, inode: u32, entry: &Entry) -> Result<()> {
        let (mode, xattrs) = effective(entry, &mut |_, _| {});
        let xattrs = if xattrs.is_empty() {
            0
        } else {
            self.xattr_number(xattrs)?
        };
        let inode = &mut self.inodes[inode as usize];
        // What symlinks have on every file system.
        let mode = if matches!(entry.kind, EntryKind::Symlink { .. }) {
            0o777
        } else {
            mode
        };
        inode.mode = inode.mode & 0o170_000 | u16::try_from(mode & 0o7777).unwrap_or(0);
        inode.uid = entry.meta.uid;
        inode.gid = entry.meta.gid;
        inode.secs = entry.meta.mtime.secs;
        inode.nanos = entry.meta.mtime.nanos;
        inode.xattrs = xattrs;
        Ok(())
    }

    /// The layer has an entry for this path. Directories on the way count as implied by it.
    fn note(&mut self, id: u32) {
        let layer = self.layer;
        let entry = &mut self.entries[id as usize];
        (entry.layer, entry.listed) = (layer, true);
        let mut dir = entry.dir;
        if self.noted == Some(dir) {
            return;
        }
        self.noted = Some(dir);
        while let Some(entry) = self
            .entries
            .get_mut(self.inodes[dir as usize].source as usize)
        {
            if entry.layer != layer {
                (entry.layer, entry.listed) = (layer, false);
            }
            dir = entry.dir;
        }
    }

    fn listed(&self, id: u32) -> bool {
        let entry = &self.entries[id as usize];
        entry.layer == self.layer && entry.listed
    }

    fn implied(&self, id: u32) -> bool {
        let entry = &self.entries[id as usize];
        entry.layer == self.layer && !entry.listed
    }

    /// The directory `path`, symlinks followed; with `create` what is missing is made.
    fn resolve(&mut self, path: &[u8], create: bool) -> Result<Option<u32>> {
        if path.is_empty() {
            return Ok(Some(0));
        }
        if let Some((known, dir)) = &self.recent
            && **known == *path
        {
            return Ok(Some(*dir));
        }
        let found = self.walk(path, create)?;
        if let Some(dir) = found {
            self.recent = Some((path.into(), dir));
        }
        Ok(found)
    }

    fn walk(&mut self, path: &[u8], create: bool) -> Result<Option<u32>> {
        let parts = |path: &[u8]| -> Vec<Box<[u8]>> {
            let parts = path.rsplit(|&b| b == b'/');
            let real = parts.filter(|c| !c.is_empty() && *c != b".");
            real.map(Box::from).collect()
        };
        let mut todo = parts(path);
        let (mut dir, mut links) = (0, 0);
        while let Some(name) = todo.pop() {
            if *name == *b".." {
                dir = self.above(dir);
                continue;
            }
            let there = self.look_up(dir, &name);
            if let Some(id) = there {
                let inode = self.entries[id as usize].inode;
                if self.is_dir(inode) {
                    dir = inode;
                    continue;
                }
                let node = &self.inodes[inode as usize];
                if u32::from(node.mode) & S_IFMT == S_IFLNK {
                    let (at, size) = (node.at, node.size);
                    if !self.listed(id) {
                        let real = self.path_of(id);
                        self.passed.note(&real);
                        if self.passed.bytes() > PASSED_BYTES_MOST {
                            let message = "the layer's entries go through too many symlinks";
                            return Err(Error::new(Kind::Limit, message));
                        }
                    }
                    links += 1;
                    if links > LINKS_MOST {
                        if !create {
                            return Ok(None);
                        }
                        return Err(bad("too many symlinks on the way to it"));
                    }
                    let at = super::index(at);
                    let target = &self.text[at..at + super::index(size)];
                    if target.starts_with(b"/") {
                        dir = 0;
                    }
                    todo.extend(parts(target));
                    continue;
                }
            }
            if !create || name.len() > 255 {
                return if create {
                    Err(too_long(&name))
                } else {
                    Ok(None)
                };
            }
            let listed = there.is_some_and(|id| self.listed(id));
            if let Some(id) = there {
                self.unlink(id);
            }
            let made = self.add_inode(Inode::fresh_dir())?;
            let id = self.link(dir, &name, made)?;
            let entry = &mut self.entries[id as usize];
            (entry.layer, entry.listed) = (self.layer, listed);
            dir = made;
        }
        Ok(Some(dir))
    }

    fn whiteout(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        let Some(dir) = self.resolve(dir, false)? else {
            return Ok(());
        };
        if !self.passed.is_empty() {
            let mut real = self.real_path(dir);
            if !real.is_empty() {
                real.push(b'/');
            }
            real.extend_from_slice(name);
            self.passed.check_whiteout(&real)?;
        }
        let Some(id) = self.look_up(dir, name) else {
            return Ok(());
        };
        let inode = self.entries[id as usize].inode;
        if self.implied(id) && self.is_dir(inode) {
            self.refresh(inode);
        } else if !self.listed(id) {
            self.unlink(id);
            return Ok(());
        }
        if self.is_dir(inode) {
            self.hide(inode)
        } else {
            Ok(())
        }
    }

    /// Gives an implied directory the attributes of one that has nothing below.
    fn refresh(&mut self, dir: u32) {
        let inode = &mut self.inodes[dir as usize];
        let fresh = Inode::fresh_dir();
        (inode.mode, inode.uid, inode.gid) = (fresh.mode, fresh.uid, fresh.gid);
        (inode.secs, inode.nanos, inode.xattrs) = (fresh.secs, fresh.nanos, fresh.xattrs);
    }

    /// Removes under `dir` what this layer did not put there.
    fn hide(&mut self, dir: u32) -> Result<()> {
        let mut todo = vec![dir];
        while let Some(dir) = todo.pop() {
            let mut next = self.first(dir);
            while next != NONE {
                let id = next;
                let entry = self.entries[id as usize];
                next = entry.next;
                if entry.layer != self.layer {
                    self.unlink(id);
                } else if self.is_dir(entry.inode) {
                    if !entry.listed {
                        self.refresh(entry.inode);
                    }
                    todo.push(entry.inode);
                }
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, dir: u32, name: &[u8], target: &[u8]) -> Result<()> {
        let missing = || {
            bad(format!(
                "hard link to `{}`, which does not exist",
                show(target)
            ))
            .with_hint("the layer is broken, or lower layers are missing")
        };
        let (above, last) = split(target);
        let from = self.resolve(above, false)?.ok_or_else(missing)?;
        let from = self.look_up(from, last).ok_or_else(missing)?;
        let there = self.look_up(dir, name);
        if there == Some(from) {
            self.note(from);
            return Ok(());
        }
        let inode = self.entries[from as usize].inode;
        if self.is_dir(inode) {
            return Err(bad("hard link to a directory"));
        }
        if let Some(id) = there {
            let before = self.free.len();
            self.unlink(id);
            // A directory in the way may be what the target was in.
            if self.free[before..].contains(&from) {
                return Err(missing());
            }
        }
        if self.inodes[inode as usize].links == u32::MAX {
            return Err(too_many());
        }
        let id = self.link(dir, name, inode)?;
        self.note(id);
        Ok(())
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
}

fn too_long(name: &[u8]) -> Error {
    bad(format!(
        "a symlink on the way has a name of {} bytes, file systems take 255",
        name.len()
    ))
}
