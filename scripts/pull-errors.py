#!/usr/bin/env python3
"""Errors that a pull meets: pull-errors.py UNLADE WORK [--points N] [WHAT...]

WHAT: calls, descriptors, space; default: all, on every driver. --points N: only N points of each
call on each driver, chosen by a seed. Needs root, strace, skopeo, docker-registry.

calls: the Nth rename, fsync, write, ... of a thread fails with EIO, ENOSPC or EDQUOT. descriptors:
few are allowed. space: the disk is too small, or full at the start. Each operation works after all,
or fails with status 1 and the cause; nothing that is listed is damaged, `system check` is clean,
the next try works. On a full disk lists, inspection, removal and prune go on working.
"""
import errno, os, random, sys, time

import lab, teststore
from lab import Disk, Registry
from teststore import Unlade, Wrong
from imageforms import run

# SQLite has words of its own.
EIO = ("EIO", ("Input/output error", "disk I/O error"))
# (calls, error, what stderr says then, whether it has to fail)
CALLS = [("?rename,?renameat,renameat2", *EIO, True),
         ("fsync,fdatasync,syncfs", *EIO, True),
         ("pwrite64,?pwritev,?pwritev2", *EIO, False),
         ("pwrite64,?pwritev,?pwritev2", "ENOSPC", ("No space left", "disk I/O error"), False),
         ("?mkdir,mkdirat", "EDQUOT", ("quota",), False),
         ("?link,linkat,?symlink,symlinkat", *EIO, False),
         ("?open,openat,openat2", "EMFILE", ("Too many open files",), False),
         ("mount,move_mount,fsmount,fsconfig", *EIO, False)]
# With the odd ones in the middle a pull fails that cannot remove what it has begun.
LIMITS = (6, 8, 10, 12, 16, 20, 26, 24, 28, 32, 48, 64, 128)


class Check:
    runs = bad = 0
    def __call__(self, label, test, *args):
        self.runs += 1
        try:
            return test(*args)
        except Wrong as e:
            self.fail(label, e)

    def fail(self, label, why):
        self.bad += 1
        print("FAIL %s: %s" % (label, why), flush=True)


def judge(status, err, words):
    """A failure has to be a clean one. -> whether it was a failure"""
    if status == 0:
        return False
    if "error while loading shared libraries" in err:
        return True  # The dynamic linker, before anything of ours runs.
    wrong = ["status %d" % status] if status != 1 else []
    if "panicked" in err:
        wrong.append("a panic")
    if words and not any(w.lower() in err.lower() for w in words):
        wrong.append("none of %s" % (words,))
    if wrong:
        raise Wrong("%s: %s" % (", ".join(wrong), err.strip()[-400:]))
    return True


class Store:
    def __init__(self, binary, work, driver, name, tree, mib=0):
        kind, usual = lab.HOMES[driver]
        self.disk = Disk(kind, "%s/%s.img" % (work, driver), "%s/%s" % (work, driver), mib or usual).make()
        # State lies in memory elsewhere; here it is put back with the disk, but for a full one.
        self.unlade = Unlade(binary, self.disk.at + "/root", (work + "/run." + driver) if mib else self.disk.at + "/run", driver)
        self.name, self.trees, self.at = name, {name: tree}, work + "/tree"
        self.disk.keep("empty")

    def then_works(self):
        """What is listed is whole, the store is clean, the next try works."""
        self.unlade.judge(self.trees, self.at)
        self.unlade.must("system", "check")
        self.unlade.must("pull", "-q", self.name)
        self.unlade.judge(self.trees, self.at, [self.name])
        self.unlade.must("system", "check")
        if self.unlade.leftovers():
            raise Wrong("leftovers: %s" % self.unlade.leftovers())

    def call(self, calls, error, words, n):
        """-> None where nothing was met, else whether it failed"""
        self.disk.put_back("empty")
        trace = "%s/../trace" % self.disk.at
        status, out, err = self.unlade("pull", "-q", self.name, prefix=[
            "strace", "-f", "-qq", "--seccomp-bpf", "-o", trace, "-e", "trace=" + calls, "-e", "inject=%s:error=%s:when=%d" % (calls, error, n)])
        with open(trace, errors="replace") as f:
            met = "(INJECTED)" in f.read()
        failed = judge(status, err, words if met else ())
        self.then_works()
        return failed if met else None

    def limited(self, limit):
        self.disk.put_back("empty")
        status, out, err = self.unlade("pull", "-q", self.name, prefix=["prlimit", "--nofile=%d" % limit])
        judge(status, err, ("Too many open files",))
        self.then_works()


def calls(store, driver, points, check, r):
    for group, error, words, has_to in CALLS:
        most = points or 10 ** 6
        failed, n = 0, 1
        while n and most:
            hit = check("%s, %s of %s %d" % (driver, error, group, n), store.call, group, error, words, n)
            failed += bool(hit)
            most -= 1
            # After a miss all further points would miss too.
            n = 0 if hit is None else n + (r.randrange(1, 6) if points else 1)
        if has_to and not failed:
            check.fail(driver, "no %s of %s made it fail" % (error, group))


def too_small(binary, work, driver, registry, layouts, tree, check):
    """A disk on which an image does not fit, then one that is full at the start."""
    store = Store(binary, work, driver, "%s/a:latest" % registry.host, tree, {"ext4": 64, "xfs": 320, "btrfs": 160}[lab.HOMES[driver][0]])
    disk, u = store.disk, store.unlade
    def free(what="f_bfree"):
        # syncfs leaves removed subvolumes of btrfs to its cleaner, which may sleep for 30 s; this wakes it.
        run(["btrfs", "filesystem", "sync", disk.at] if disk.kind == "btrfs" else ["sync", "-f", disk.at])
        s = os.statvfs(disk.at)
        return getattr(s, what) * s.f_frsize

    def fill(leave):
        left = free("f_bavail") - leave if leave else 1 << 40
        try:
            with open(disk.at + "/filler", "wb", buffering=0) as f:
                while left > 0:
                    left -= f.write(os.urandom(min(left, 1 << 20)))
        except OSError as e:
            assert e.errno == errno.ENOSPC

    def image_too_big():
        u.must("images")
        fill(30 << 20)
        before = free()
        status, out, err = u("pull", "-q", "%s/big:latest" % registry.host)
        if not judge(status, err, ("No space left",)):
            raise Wrong("it was pulled")
        # Partial blobs may stay, to go on with: prune takes them.
        u.must("system", "prune", "-f")
        for _ in range(50):
            # Some metadata of the file system itself may have grown.
            if free() > before - ((14 if disk.kind == "btrfs" else 6) << 20):
                return store.then_works()
            time.sleep(0.1)
        raise Wrong("free before %d, after %d" % (before, free()))

    def full_at_start():
        fill(0)
        if u.images() != [store.name]:
            raise Wrong("listed: %s" % u.images())
        u.must("image", "inspect", store.name)
        u.must("info")
        status, out, err = u("pull", "-q", "%s/big:latest" % registry.host)
        if not judge(status, err, ("No space left",)):
            raise Wrong("it was pulled")
        u.must("rmi", store.name)
        u.must("system", "prune", "-f")
        os.unlink(disk.at + "/filler")
        u.must("system", "prune", "-f")  # What a full btrfs could not remove.
        store.then_works()

    check("%s, an image too big" % driver, image_too_big)
    check("%s, a full disk" % driver, full_at_start)
    disk.umount()


def main(binary, work, *args):
    lab.private()
    args, options = lab.options(args, points=0)
    points, work, r, check = options["points"], lab.workdir(work), random.Random(1), Check()
    registry = Registry(work)
    layouts = teststore.make_images(work, {"a": [0, 1, 2]})
    layouts.update(teststore.make_images(lab.workdir(work + "/large"), {"big": [0, 4]}, files=40, size=6 << 20))
    for name, layout in layouts.items():
        registry.put(layout, name + ":latest")
    tree = teststore.trees(binary, {"a": layouts["a"]}, work)["a"]
    for driver in lab.HOMES:
        began = time.time()
        try:
            store = Store(binary, work, driver, "%s/a:latest" % registry.host, tree)
            if not args or "calls" in args:
                calls(store, driver, points, check, r)
            for limit in (LIMITS[::3] if points else LIMITS) if not args or "descriptors" in args else ():
                check("%s, %d descriptors" % (driver, limit), store.limited, limit)
            store.disk.umount()
            if not args or "space" in args:
                too_small(binary, work, driver, registry, layouts, tree, check)
        except Wrong as e:
            check.fail(driver, e)
        print("pull-errors: %s took %d s" % (driver, time.time() - began), flush=True)
    registry.process.kill()
    run(["rm", "-rf", "--one-file-system", work])
    print("pull-errors: %d runs, %d failures" % (check.runs, check.bad))
    return 1 if check.bad or not check.runs else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
