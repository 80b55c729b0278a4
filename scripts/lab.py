"""What the tests of the store share: a registry, file systems on loop devices that can be put back,
unlade with a store of its own, and a judge of what a cut-off operation left.

Everything is mounted in a mount namespace of the script's own (`private`), so that however it ends
nothing stays mounted.
"""
import json, os, random, shutil, socket, subprocess, sys, tarfile, time, urllib.request
import io as streams

import treediff
from imageforms import run, skopeo, write_layout

# Where each driver works, and the size of its disk in MiB.
HOMES = {"overlay": ("ext4", 256), "erofs": ("xfs", 320), "btrfs": ("btrfs", 256), "reflink": ("xfs", 320), "copy": ("ext4", 256)}


def private():
    """Goes on in a mount namespace of its own."""
    if os.getuid():
        sys.exit("FAIL: needs root")
    if "UNLADE_LAB" not in os.environ:
        os.environ["UNLADE_LAB"] = "in"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])


def workdir(path):
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)
    os.makedirs(path)
    return os.path.abspath(path)


class Disk:
    """A file system in the file `image`, mounted at `at`; its state can be kept and put back."""

    def __init__(self, kind, image, at, mib):
        self.kind, self.image, self.at, self.mib = kind, image, at, mib
        os.makedirs(at, exist_ok=True)

    def make(self):
        with open(self.image, "wb") as f:
            f.truncate(self.mib << 20)
        more = {"ext4": ["-F"], "xfs": ["-f"], "btrfs": ["-f", "-m", "single"]}[self.kind]
        run(["mkfs." + self.kind, "-q", *more, self.image])
        return self.mount()

    def mount(self, image=None):
        run(["mount", "-o", "loop", "-t", self.kind, image or self.image, self.at])
        return self

    def umount(self):
        for _ in range(100):
            p = subprocess.run(["umount", self.at], stderr=subprocess.PIPE, text=True)
            if p.returncode == 0:
                return
            time.sleep(0.05)
        sys.exit("FAIL: %s stays busy: %s" % (self.at, p.stderr))

    def keep(self, name):
        self.umount()
        run(["cp", "--sparse=always", self.image, self.image + "." + name])
        return self.mount()

    def put_back(self, name):
        self.umount()
        run(["cp", "--sparse=always", self.image + "." + name, self.image])
        return self.mount()

    def mounts(self):
        """What is mounted below it."""
        with open("/proc/self/mounts") as f:
            return [l.split()[1] for l in f if l.split()[1].startswith(self.at + "/")]


class Registry:
    """Debian's docker-registry on a free loopback port, with a log of what was asked for."""

    def __init__(self, work):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.host, self.log, at = "localhost:%d" % self.port, work + "/registry.log", work + "/registry"
        os.mkdir(at)
        with open(work + "/registry.yml", "w") as f:
            json.dump({"version": 0.1, "log": {"level": "error"}, "http": {"addr": "127.0.0.1:%d" % self.port},
                       "storage": {"filesystem": {"rootdirectory": at}, "delete": {"enabled": True}}}, f)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", work + "/registry.yml"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(200):
            try:
                urllib.request.urlopen("http://127.0.0.1:%d/v2/" % self.port, timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        with open(self.log) as f:
            sys.exit("FAIL: docker-registry does not answer: " + f.read()[-1000:])

    def put(self, layout, name, *more):
        skopeo("oci:%s:%s" % (layout.dir, layout.ref), "docker://%s/%s" % (self.host, name), "--dest-tls-verify=false", *more)
        return "%s/%s" % (self.host, name)

    def asked(self, since=0):
        """Digests of the blobs that were asked for, after byte `since` of the log."""
        with open(self.log, errors="replace") as f:
            f.seek(since)
            return [l.split("/blobs/")[1].split()[0] for l in f if '"GET /v2/' in l and "/blobs/" in l]

    def mark(self):
        return os.path.getsize(self.log)


class Unlade:
    """The binary with a store at `root`."""

    def __init__(self, binary, root, run_root, driver, config=None, **env):
        self.root, self.driver = root, driver
        self.base = [os.path.abspath(binary), "--root", root, "--run-root", run_root, "--graph-driver", driver]
        # The machine's own settings are none of the test's.
        self.env = dict(os.environ, UNLADE_CONFIG=config or "/dev/null", **env)

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
            raise Wrong("%s: status %d, %s" % (" ".join(args), status, (err or out).strip()[-400:]))
        return out

    def images(self):
        return sorted(l for l in self.must("images", "--format", "{{.Repository}}:{{.Tag}}").split("\n") if l)

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
            same(self.tree(name, at), trees[name], name)
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


class Wrong(Exception):
    """Something is not as it has to be."""


def plain(tree):
    """But for the time of the root, which no layer needs to give, and link counts, which overlayfs shows of lower inodes."""
    for d in tree.values():
        d.pop("nlink", None)
    tree["."].pop("mtime", None)
    return tree


def same(got, want, what):
    d = treediff.diff(got, want)
    if d:
        raise Wrong("%s: %d differences, first %s" % (what, len(d), d[:3]))


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


def make_images(work, sets, files=6, size=9000, compression="gzip"):
    """{name: layout} of {name: layer numbers}; layers of the same number are the same."""
    numbers = sorted({n for layers in sets.values() for n in layers})
    tars = {n: make_layer("%s/l%d.tar" % (work, n), "l%d" % n, files, size) for n in numbers}
    return {name: write_layout("%s/%s.%s" % (work, name, compression), [tars[n] for n in layers], compression) for name, layers in sets.items()}


def trees(unlade, layouts, work):
    """{name: facts}, by `unlade unpack`."""
    out = {}
    for name, layout in layouts.items():
        run([unlade, "unpack", "-q", "oci:%s:%s" % (layout.dir, layout.ref), work + "/unpacked"])
        out[name] = plain(treediff.facts(work + "/unpacked"))
        shutil.rmtree(work + "/unpacked")
    return out
