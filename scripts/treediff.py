"""Trees as facts, what two of them differ in, and a proof that a difference is seen.

facts(root) walks with tests/corpus/check_tree.py: type, mode, owner, time to the nanosecond,
size, SHA-256, extended attributes, symlink target, device number, and which names share an inode.
"""
import os, shutil, stat, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/corpus"))
import check_tree


def facts(root):
    """{path: {field: value}}, paths as text with surrogates, the root is `.`."""
    names, out = {}, {}
    for path, d in check_tree.walk(root).items():
        path = os.fsdecode(path)
        d["mtime"] = tuple(d.get("mtime", ()))
        d["xattrs"] = {k: v for k, v in d["xattrs"].items() if k not in check_tree.HOST_XATTRS}
        ino, nlink = d.pop("ino"), d.pop("nlink")
        if d["type"] != "dir":
            names.setdefault(ino, []).append(path)
            d["ino"], d["nlink"] = ino, nlink
        out[path] = d
    for d in out.values():
        if "ino" in d:
            d["links"] = tuple(sorted(names[d.pop("ino")]))
    return out


def diff(got, want, links=True):
    """[(path, field, got, want)]; a path that only one has is the field `exists`. Without `links`
    link counts are left out: overlayfs shows those of lower inodes."""
    out = []
    for path in sorted(got.keys() | want.keys()):
        g, w = got.get(path), want.get(path)
        if g is None or w is None:
            out.append((path, "exists", g is not None, w is not None))
            continue
        for field in sorted(g.keys() | w.keys()):
            if g.get(field) != w.get(field) and (links or field != "nlink"):
                out.append((path, field, g.get(field), w.get(field)))
    return out


def features(tree):
    """How often each thing worth comparing occurs."""
    n = {}
    for d in tree.values():
        for what, has in [(d["type"], True), ("xattrs", d["xattrs"]), ("nanoseconds", d["mtime"][1]),
                          ("hard links", len(d.get("links", ())) > 1), ("set-id", int(d["mode"], 8) & 0o6000),
                          ("owners", d["uid"] or d["gid"])]:
            n[what] = n.get(what, 0) + bool(has)
    return n


def disturb(root):
    """Changes one thing each about names in `root`/odd, as the odd layer of images.py makes it.
    -> the set of (path, field) that differ now."""
    odd = os.path.join(root, "odd")
    at = lambda name: os.path.join(odd, name)
    times = lambda path: (os.lstat(path).st_atime_ns, os.lstat(path).st_mtime_ns)

    def again(name, make):
        """Makes `name` anew, all but its owner and time by `make`."""
        t, st = times(at(name)), os.lstat(at(name))
        os.unlink(at(name))
        make(at(name))
        os.lchown(at(name), st.st_uid, st.st_gid)
        os.utime(at(name), ns=t, follow_symlinks=False)

    dir_times = times(odd)
    os.chmod(at("mode"), 0o755)
    os.chown(at("owner"), 7, -1)
    os.chown(at("group"), -1, 7)
    a, m = times(at("time"))
    os.utime(at("time"), ns=(a, m + 1))
    t = times(at("content"))
    with open(at("content"), "r+b") as f:
        f.write(b"X")
    os.utime(at("content"), ns=t)
    t = times(at("size"))
    os.truncate(at("size"), 1)
    os.utime(at("size"), ns=t)
    os.setxattr(at("xattr"), "user.k", b"other")
    os.setxattr(at("dir"), "user.new", b"v")
    os.removexattr(at("caps"), "security.capability")
    again("sym-owned", lambda p: os.symlink("elsewhere", p))
    again("null", lambda p: os.mknod(p, 0o666 | stat.S_IFCHR, os.makedev(1, 5)))
    os.chmod(at("null"), 0o666)
    t = times(at("h3"))
    shutil.copy2(at("h3"), at("h3.new"))
    os.rename(at("h3.new"), at("h3"))
    os.utime(at("h3"), ns=t)
    os.unlink(at("joined"))
    os.link(at("twin"), at("joined"))
    os.unlink(at("gone"))
    os.mkdir(at("new"))
    again("fifo", lambda p: os.mknod(p, 0o644 | stat.S_IFSOCK))
    os.chmod(at("fifo"), 0o644)
    os.utime(odd, ns=dir_times)
    fields = {"mode": ["mode"], "owner": ["uid"], "group": ["gid"], "time": ["mtime"], "content": ["sha256"],
              "size": ["size", "sha256"], "xattr": ["xattrs"], "dir": ["xattrs"], "caps": ["xattrs"], "sym-owned": ["target"],
              "null": ["rdev"], "h1": ["links", "nlink"], "h2": ["links", "nlink"], "h3": ["links", "nlink"],
              "joined": ["links", "nlink", "mtime"], "twin": ["links", "nlink"], "gone": ["exists"], "new": ["exists"],
              "fifo": ["type"]}
    return {("odd/" + name, field) for name, all_fields in fields.items() for field in all_fields}
