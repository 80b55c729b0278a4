"""unlade with a store of its own, images to put into it, and a judge of what it holds."""
import os, random, shutil, subprocess, tarfile
import io as streams

import treediff
from imageforms import run, write_layout


class Wrong(Exception):
    """Something is not as it has to be."""


class Unlade:
    """The binary with a store at `root`."""

    def __init__(self, binary, root, run_root, driver, config=None, **env):
        self.root, self.driver = root, driver
        self.base = [os.path.abspath(binary), "--root", root, "--run-root", run_root, "--graph-driver", driver]
        # The machine's own settings are none of the test's.
        # None of its processes outlives a command, where nothing else is said.
        self.env = dict(os.environ, **{"UNLADE_CONFIG": config or "/dev/null", "UNLADE_FLUSH": "later", **env})

    def start(self, *args, prefix=()):
        return subprocess.Popen([*prefix, *self.base, *args], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, errors="replace")

    def __call__(self, *args, prefix=()):
        """-> (status, standard output, standard error); 137 where it was killed."""
        p = self.start(*args, prefix=prefix)
        try:
            out, err = p.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            p.kill()
            out, err = p.communicate()
            return 124, out, "still running after 300 s\n" + err
        return (137 if p.returncode == -9 else p.returncode), out, err

    def must(self, *args):
        status, out, err = self(*args)
        if status:
            raise Wrong("%s: status %d, %s" % (" ".join(args), status, (out + err).strip()[-600:]))
        return out

    def images(self):
        """Names of what is listed; the id of an image that has none."""
        lines = self.must("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
        return sorted(name if "<none>" not in name else id for name, id in map(str.split, lines))

    def tree(self, reference, at):
        """The facts of an image, mounted."""
        os.makedirs(at, exist_ok=True)
        self.must("image", "mount", reference, at)
        try:
            return plain(treediff.facts(at))
        finally:
            self.must("image", "unmount", at)

    def judge(self, trees, at, exactly=None):
        """Every image listed is whole; `exactly` these are listed, where given."""
        listed = self.images()
        if exactly is not None and listed != sorted(exactly):
            raise Wrong("listed: %s, not %s" % (listed, sorted(exactly)))
        for name in listed:
            one_of(self.tree(name, at), trees, name)
        return listed

    def census(self):
        """Names of what is kept: layers, blobs."""
        names = []
        for at, dirs, files in os.walk(self.root):
            where = at[len(self.root):].split("/")
            if where[-1] == "layers" or "blobs" in where:
                names += [os.path.join(at, n)[len(self.root):] for n in files + (dirs if where[-1] == "layers" else [])]
            if where[-1] in ("layers", "snapshots", "staging", "trash", "ingest", "tmp"):
                dirs.clear()
        return sorted(names)

    def leftovers(self):
        """Files and directories in places for what is not finished."""
        left = []
        for at, dirs, files in os.walk(self.root):
            if os.path.basename(at) in ("staging", "trash", "ingest", "tmp"):
                left += [os.path.join(at, n) for n in dirs + files]
            if os.path.basename(at) in ("layers", "snapshots", "staging", "trash"):
                dirs.clear()
        return left


def plain(tree):
    """But for the time of the root, which no layer needs to give, and link counts, of which overlayfs
    shows those of lower inodes."""
    for d in tree.values():
        d.pop("nlink", None)
    tree["."].pop("mtime", None)
    return tree


def same(got, want, what):
    d = treediff.diff(got, want)
    if d:
        raise Wrong("%s: %d differences, first %s" % (what, len(d), d[:3]))


def one_of(got, trees, name):
    """The tree of that name, or of any, where that is not known: of an id, or a tag that moves."""
    if name in trees:
        same(got, trees[name], name)
    elif got not in trees.values():
        same(got, next(iter(trees.values())), name + ", compared with one of several")


def make_layer(path, name, files, size):
    """A tar: directories, files of up to `size` bytes, links, odd modes."""
    r = random.Random(name)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as t:
        def add(path, kind=tarfile.REGTYPE, data=b"", **more):
            m = tarfile.TarInfo(path)
            m.type, m.size, m.mtime, m.mode = kind, len(data), 1600000000, 0o755 if kind == tarfile.DIRTYPE else 0o644
            for k, v in more.items():
                setattr(m, k, v)
            t.addfile(m, streams.BytesIO(data))
        add("./", tarfile.DIRTYPE)
        add(name, tarfile.DIRTYPE, mode=0o750)
        for n in range(files):
            add("%s/f%d" % (name, n), data=r.randbytes(r.randrange(size)), uid=n % 3, mode=0o4755 if n % 7 == 3 else 0o640)
        add("%s/sym" % name, tarfile.SYMTYPE, linkname="f0")
        # Some engines take the mode of a link for that of the file.
        add("%s/hard" % name, tarfile.LNKTYPE, linkname="%s/f0" % name, mode=0o640)
        add("shared", data=name.encode() * 20)
        if name != "l0":
            # Its parent is implied: the layer depends on those below.
            add("l0/.wh.f1")
    return path


def make_images(work, sets, files=6, size=9000, compression="gzip", **more):
    """{name: layout} of {name: layer numbers}; layers of the same number are the same."""
    numbers = sorted({n for layers in sets.values() for n in layers})
    tars = {n: make_layer("%s/l%d.tar" % (work, n), "l%d" % n, files, size) for n in numbers}
    return {name: write_layout("%s/%s.%s" % (work, name, compression), [tars[n] for n in layers], compression, **more) for name, layers in sets.items()}


def trees(unlade, layouts, work):
    """{name: facts}, by `unlade unpack`."""
    out = {}
    for name, layout in layouts.items():
        run([unlade, "unpack", "-q", "oci:%s:%s" % (layout.dir, layout.ref), work + "/unpacked"])
        out[name] = plain(treediff.facts(work + "/unpacked"))
        shutil.rmtree(work + "/unpacked")
    return out
