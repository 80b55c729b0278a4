"""unlade with containers of a small image, on a machine that is the script's own: what there is of
them, so that a test can say that nothing has grown.

`private` gives the script namespaces of its own: of mounts, of the network, and of processes, so
that every process there is belongs to the test, and none outlives it.
"""
import glob, json, os, subprocess, sys, threading, time
from collections import Counter

import lab, teststore
from imageforms import run
from teststore import Wrong

TOOLS = ["awk", "cat", "dd", "echo", "head", "printf", "seq", "sh", "sleep", "tr", "true", "usleep", "wc", "yes"]
# A container that ends when it is asked to, and one that does not.
SLEEPS = ["sh", "-c", "trap 'exit 0' TERM; echo ready; sleep 100000 & wait"]
DEAF = ["sh", "-c", "trap '' TERM INT; echo ready; while :; do sleep 1000; done"]
# What is waited for at most, where something must happen.
PATIENCE = 60


def private():
    """Goes on in namespaces of its own."""
    if os.getuid():
        sys.exit("FAIL: needs root")
    if "UNLADE_BOXES" not in os.environ:
        os.environ.update(UNLADE_BOXES="in", UNLADE_LAB="in")
        # Processes whose parents were killed come to catatonit, which waits for them.
        os.execvp("unshare", ["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "catatonit", "--", sys.executable, *sys.argv])
    run(["/usr/sbin/ip", "link", "set", "lo", "up"])


def until(what, done, most=PATIENCE):
    """-> what `done` gives, once that is true; `what` may be a function that tells more."""
    end = time.time() + most
    while True:
        got = done()
        if got:
            return got
        if time.time() > end:
            raise Wrong("not within %d s: %s" % (most, what() if callable(what) else what))
        time.sleep(0.05)


def lines(path):
    try:
        with open(path, errors="replace") as f:
            return f.read().splitlines()
    except OSError:  # The process has ended.
        return []


def listed(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def processes():
    """{number: name} of every process but the script, its waiter, and those that have ended."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        status = dict(l.split(":", 1) for l in lines("/proc/%s/status" % pid) if ":" in l)
        if status and int(pid) not in (1, os.getpid()) and "Z" not in status.get("State", "Z"):
            found[int(pid)] = status["Name"].strip()
    return found


def shims():
    return [pid for pid, name in processes().items() if name.startswith("unlade-shim")]


class Size:
    """Of one process: descriptors, threads, KiB of memory that is its own."""

    def __init__(self, pid):
        self.pid, self.fds, self.threads = pid, len(listed("/proc/%d/fd" % pid)), len(listed("/proc/%d/task" % pid))
        self.kib = sum(int(l.split()[1]) for l in lines("/proc/%d/smaps_rollup" % pid) if l.startswith("Private_"))

    @classmethod
    def most(cls, sizes):
        """The most there is of each."""
        found = cls(0)
        for kind in ("fds", "threads", "kib"):
            setattr(found, kind, max(getattr(s, kind) for s in sizes))
        return found

    def __repr__(self):
        return "%d descriptors, %d threads, %d KiB" % (self.fds, self.threads, self.kib)


class Watch(threading.Thread):
    """Looks at the memory of every shim until it is told to stop."""

    def __enter__(self):
        self.most, self.over = 0, threading.Event()
        self.start()
        return self

    def run(self):
        while not self.over.wait(0.1):
            self.most = max([self.most, *(Size(pid).kib for pid in shims())])

    def __exit__(self, *_):
        self.over.set()
        self.join()


class Boxes(teststore.Unlade):
    """An engine whose store has the image `box`."""

    def __init__(self, binary, work, driver="overlay"):
        self.work, self.run_root, self.group = work, work + "/run", "unlade-load-%d-%d" % (time.time(), os.getppid())
        super().__init__(binary, work + "/root", self.run_root, driver)
        tree = work + "/tree"
        for name in ("bin", "etc", "tmp", "proc", "dev"):
            os.makedirs("%s/%s" % (tree, name))
        run(["cp", "/bin/busybox", tree + "/bin/busybox"])
        for tool in TOOLS:
            os.symlink("busybox", "%s/bin/%s" % (tree, tool))
        run(["tar", "-C", tree, "-cf", work + "/box.tar", "."])
        self.must("import", work + "/box.tar", "box", "-c", 'CMD ["true"]')

    def leave(self):
        """Removes the control groups above those of containers, which runtimes leave; after a failure
        those of containers too, as far as they are empty."""
        for tree in glob.glob("/sys/fs/cgroup/%s" % self.group) + glob.glob("/sys/fs/cgroup/*/%s" % self.group):
            for at, _, _ in os.walk(tree, topdown=False):
                try:
                    os.rmdir(at)
                except OSError:  # Busy, or one hierarchy that has several names.
                    pass

    def words(self, verb, *flags, network="none", command=("true",)):
        return [verb, "--network", network, "--cgroup-parent", self.group, *flags, "box", *command]

    def up(self, name, *flags, command=SLEEPS, network="none"):
        """A container that runs. -> its id"""
        return self.must(*self.words("run", "-d", "--name", name, *flags, command=command, network=network)).strip()

    def size(self, id):
        """Of the container's shim."""
        with open("%s/containers/%s/state.json" % (self.run_root, id)) as f:
            return Size(json.load(f)["shim"]["pid"])

    def ids(self, *flags):
        return self.must("ps", "-q", "--no-trunc", *flags).split()

    def all(self, commands, within=300):
        """Many at a time. -> [(status, output, error)]"""
        ends, started = [], [self.start(*c) for c in commands]
        for p in started:
            try:
                out, err = p.communicate(timeout=within)
            except subprocess.TimeoutExpired:
                p.kill()
                raise Wrong("still running after %d s: %s" % (within, p.args[7:]))
            ends.append((p.returncode, out, err))
        return ends

    def all_well(self, commands):
        ends = self.all(commands)
        bad = [e for e in ends if e[0]]
        if bad:
            raise Wrong("%d of %d failed, the first with %d: %s" % (len(bad), len(ends), bad[0][0], bad[0][2][-400:]))
        return ends

    def census_of_containers(self):
        """What there is of containers: {kind: list or number}."""
        store, run_root = self.root, self.run_root
        return {
            "processes": sorted(processes().values()),
            # Those of the machine come and go here too.
            "mounts": [at for at in (l.split()[4] for l in lines("/proc/self/mountinfo")) if at.startswith(self.work)],
            "control groups": sorted(os.path.relpath(g, "/sys/fs/cgroup") for at in ("/sys/fs/cgroup", "/sys/fs/cgroup/*")
                                     for g in glob.glob("%s/%s/*/" % (at, self.group))),
            "network namespaces": listed(run_root + "/netns"),
            "attached": listed(run_root + "/network"),
            "netavark": sorted(os.path.join(at, f) for at, _, files in os.walk(run_root + "/netavark") for f in files),
            "interfaces": [l.split(":")[1].strip() for l in subprocess.run(["/usr/sbin/ip", "-o", "link"], capture_output=True, text=True).stdout.splitlines()],
            "rules": [l for l in subprocess.run(["/usr/sbin/iptables-save"], capture_output=True, text=True).stdout.splitlines() if l.startswith("-A")],
            "run directories": listed(run_root + "/containers"),
            "logs": listed(store + "/containers"),
            "snapshots": listed("%s/graph/%s/snapshots" % (store, self.driver)),
            "containers": self.ids("-a"),
        }

    def unchanged(self, before):
        """There is no more than there was, once what ends by itself has ended."""
        def more():
            now = self.census_of_containers()
            # The bridge of the default network stays, but for the last container that has ports.
            new = {k: list((Counter(now[k]) - Counter(before[k])).elements()) for k in ("interfaces", "rules")}
            return {k: new.get(k) or [before[k], now[k]] for k in now if new.get(k, now[k] != before[k])}
        until(lambda: "grown: %s" % more(), lambda: not more())
