"""What tests of the store stand on: a registry, and file systems on loop devices that can be put back.

Everything is mounted in a mount namespace of the script's own (`private`), so that however it ends
nothing stays mounted.
"""
import json, os, socket, subprocess, sys, time, urllib.request

from imageforms import run, skopeo

# Where each driver works, and the size of its disk in MiB.
HOMES = {"overlay": ("ext4", 256), "erofs": ("xfs", 320), "btrfs": ("btrfs", 256), "reflink": ("xfs", 320), "copy": ("ext4", 256)}


def options(args, **known):
    """(what is no option, {name: number}) of `--name N` among the arguments; `known` has the defaults."""
    args, found = list(args), dict(known)
    for name in known:
        if "--" + name in args:
            at = args.index("--" + name)
            found[name] = int(args[at + 1])
            del args[at:at + 2]
    return args, found


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
        # On a small btrfs data would take all room of which metadata needs some.
        mixed = ["--mixed"] if self.mib < 200 else ["-m", "single"]
        more = {"ext4": ["-F"], "xfs": ["-f"], "btrfs": ["-f", *mixed]}[self.kind]
        run(["mkfs." + self.kind, "-q", *more, self.image])
        return self.mount()

    def mount(self, image=None):
        run(["mount", "-o", "loop", "-t", self.kind, image or self.image, self.at])
        return self

    def umount(self):
        for _ in range(600):
            p = subprocess.run(["umount", self.at], stderr=subprocess.PIPE, text=True)
            if p.returncode == 0:
                return
            time.sleep(0.05)
        print("FAIL: %s stays busy: %s" % (self.at, p.stderr), flush=True)
        run(["umount", "-l", self.at])

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
        for _ in range(1200):
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
