#!/usr/bin/env python3
"""Kills pull, rmi, prune and load at their system calls: pull-faults.py UNLADE WORK [options] [DRIVER...]

    --points N   of each verb on each driver only N points, chosen by a seed; default: every one
    --kills N    pulls of ten layers killed at a random time; default 200

Needs root, strace, skopeo, docker-registry. A point is the Nth rename, link, fsync, open, ... of a
thread (strace counts by thread and call). After each: what is listed is whole, `system check` is
clean, the operation succeeds when called again, and then nothing is left that a run without a kill
does not leave. After a kill at a random time, blobs that were there already are not fetched again.
"""
import os, random, re, sys, time

import lab, teststore
from lab import Disk, Registry
from teststore import Unlade, Wrong
from imageforms import run, skopeo

GROUPS = ["?rename,?renameat,renameat2", "?link,linkat", "fsync,fdatasync,?sync_file_range,syncfs", "?open,openat,openat2",
          "?unlink,unlinkat,?rmdir", "?mkdir,mkdirat", "?ftruncate,pwrite64"]
SETS = {"a": [0, 1, 2], "b": [0, 3]}


class Sweep:
    """One driver on its own disk."""

    def __init__(self, binary, work, registry, driver, layouts, trees):
        kind, mib = lab.HOMES[driver]
        self.disk = Disk(kind, "%s/%s.img" % (work, driver), "%s/%s" % (work, driver), mib).make()
        self.unlade = Unlade(binary, self.disk.at + "/root", self.disk.at + "/run", driver)
        self.at, self.log, self.driver = work + "/tree", work + "/trace", driver
        self.trees = {"%s/%s:latest" % (registry.host, n): t for n, t in trees.items()}
        self.a, self.b = ("%s/%s:latest" % (registry.host, n) for n in "ab")
        archive = work + "/a.tar"
        if not os.path.exists(archive):
            skopeo("oci:%s:latest" % layouts["a"].dir, "docker-archive:%s:%s" % (archive, self.a))
        self.disk.keep("empty")
        for name in (self.a, self.b):
            self.unlade.must("pull", "-q", name)
        self.disk.keep("full")
        # verb: (where it begins, how it is called, what is listed after it)
        self.verbs = {"pull": ("empty", ["pull", "-q", self.a], [self.a]), "rmi": ("full", ["rmi", self.a], [self.b]),
                      "prune": ("full", ["image", "prune", "-a", "-f"], []), "load": ("empty", ["load", "-i", archive], [self.a])}

    def counts(self, verb):
        """How often, at most, a thread makes each call of each group; what a good run leaves."""
        start, args, after = self.verbs[verb]
        self.disk.put_back(start)
        traced = ",".join(GROUPS)
        status, out, err = self.unlade(*args, prefix=["strace", "-f", "-qq", "-o", self.log, "-e", "trace=" + traced])
        if status:
            raise Wrong("%s: status %d: %s" % (verb, status, err[-400:]))
        self.unlade.judge(self.trees, self.at, after)
        seen = {}
        with open(self.log, errors="replace") as f:
            for line in f:
                m = re.match(r"(\d+) +(\w+)\(", line)
                if m:
                    seen[m.groups()] = seen.get(m.groups(), 0) + 1
        most = {g: max([n for (_, call), n in seen.items() if call in g.replace("?", "").split(",")], default=0) for g in GROUPS}
        return most, self.unlade.census()

    def point(self, verb, group, n, census):
        """Kills at one point. -> whether it was reached"""
        start, args, after = self.verbs[verb]
        self.disk.put_back(start)
        status, out, err = self.unlade(*args, prefix=["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e",
                                                      "trace=" + group, "-e", "inject=%s:signal=KILL:when=%d" % (group, n)])
        if status not in (0, 137):
            raise Wrong("status %d: %s" % (status, err[-400:]))
        self.after(args, after, census)
        return status == 137

    def after(self, args, after, census):
        """What has to hold after a kill, and after the same once more."""
        u = self.unlade
        listed = u.judge(self.trees, self.at)
        u.must("system", "check")
        if args[0] != "rmi" or args[-1] in listed:
            u.must(*args)
        u.judge(self.trees, self.at, after)
        u.must("system", "check")
        if args[0] == "rmi" and args[-1] not in listed:
            u.must("system", "prune", "-f")
        if u.leftovers():
            raise Wrong("leftovers: %s" % u.leftovers())
        if census is not None and u.census() != census:
            raise Wrong("kept: %s" % sorted(set(u.census()) ^ set(census))[:6])
        if self.disk.mounts():
            raise Wrong("mounted: %s" % self.disk.mounts())

    def begin_kills(self, name, layout):
        """How long a pull takes that is not killed."""
        self.blobs = {os.path.basename(b) for b in layout.blobs}
        self.disk.put_back("empty")
        began = time.time()
        self.unlade.must("pull", "-q", name)
        self.whole = time.time() - began

    def random_kill(self, registry, name, r):
        """A pull killed at a random time: what it had fetched is not fetched again."""
        self.disk.put_back("empty")
        p = self.unlade.start("pull", "-q", name)
        time.sleep(r.uniform(0, self.whole * 1.1))
        p.kill()
        p.communicate()
        done = {n for n in map(os.path.basename, self.unlade.census()) if n in self.blobs}
        mark = registry.mark()
        self.after(["pull", "-q", name], [name], None)
        asked = done & {d.split(":")[1] for d in registry.asked(mark)}
        # Also one that had its name, but not yet its record.
        if asked:
            raise Wrong("fetched again: %s" % sorted(asked))


def main(binary, work, *args):
    lab.private()
    args, options = lab.options(args, points=0, kills=200)
    work, r = lab.workdir(work), random.Random(1)
    registry = Registry(work)
    layouts = teststore.make_images(work, SETS)
    many = teststore.make_images(lab.workdir(work + "/many"), {"many": list(range(10))}, files=12, size=300000)
    for name, layout in {**layouts, **many}.items():
        registry.put(layout, name + ":latest")
    trees = teststore.trees(binary, {**layouts, **many}, work)
    runs = bad = 0
    for driver in args or lab.HOMES:
        began = time.time()

        def check(label, test, *more):
            nonlocal runs, bad
            runs += 1
            try:
                return test(*more)
            except Wrong as e:
                bad += 1
                print("FAIL %s, %s: %s" % (driver, label, e), flush=True)

        sweep = check("pulls", Sweep, binary, work, registry, driver, layouts, {n: trees[n] for n in SETS})
        for verb in sweep.verbs if sweep else ():
            most, census = check(verb, sweep.counts, verb) or ({g: 0 for g in GROUPS}, None)
            points = [(g, n) for g in GROUPS for n in range(1, most[g] + 1)]
            if options["points"]:
                points = r.sample(points, min(options["points"], len(points)))
            for group, n in points:
                check("%s, %s %d" % (verb, group, n), sweep.point, verb, group, n, census)
        if sweep:
            name = registry.host + "/many:latest"
            sweep.trees[name] = trees["many"]
            check("a pull of ten layers", sweep.begin_kills, name, many["many"])
            for kill in range(options["kills"]):
                check("random kill %d" % kill, sweep.random_kill, registry, name, r)
            sweep.disk.umount()
        print("pull-faults: %s took %d s" % (driver, time.time() - began), flush=True)
    registry.process.kill()
    run(["rm", "-rf", "--one-file-system", work])
    print("pull-faults: %d kills, %d failures" % (runs, bad))
    return 1 if bad or not runs else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
