#!/usr/bin/env python3
"""Power cuts: powercut.py UNLADE WORK [--cuts N] [--seed S] [KIND...]

KIND: ext4, xfs, btrfs; default: all. N cuts (default 100) on each, a quarter of them with
durability = "sync". Needs root, skopeo, docker-registry, xfs with reflinks.

The store lies on a file system whose image lies on xfs. While pulls, tags, removals and prunes run,
the image is cloned at random times: what a disk holds that loses its power then. Each clone is
mounted, as after a boot with another boot id, and:
- what is listed is whole, or is refused when it is mounted, before any check;
- `system check`, with --repair where it finds something, leaves a clean store, and everything that
  is listed then is whole;
- where durability is "sync": what was reported as pulled before the cut is listed, without repair;
- a tag names what it named before, or after; what was removed is whole or gone;
- the next pull, removal and prune succeed and leave nothing behind.
"""
import os, random, subprocess, sys, threading, time

import lab, teststore
from lab import Disk, Registry
from teststore import Unlade, Wrong, one_of, same
from imageforms import run

DRIVERS = {"ext4": ["overlay", "erofs", "copy"], "xfs": ["erofs", "reflink", "overlay"], "btrfs": ["btrfs", "erofs", "reflink"]}
SETS = {"a": [0, 1, 2], "b": [0, 3], "c": [0, 1, 4, 5]}


class Worker(threading.Thread):
    """Random operations, each with the time of its start and end, until told to stop."""

    def __init__(self, unlade, names, tag, seed):
        super().__init__()
        self.unlade, self.names, self.tag, self.random = unlade, names, tag, random.Random(seed)
        self.history, self.stop, self.error, self.pulled = [], False, None, threading.Event()

    def run(self):
        there = set()
        while not self.stop:
            what = self.random.choices(["pull", "tag", "rmi", "prune"], [6, 3, 2, 1])[0]
            name = self.random.choice(self.names)
            if what == "pull":
                args = ["pull", "-q", name]
            elif what == "prune":
                args = ["image", "prune", "-a", "-f"]
            elif name not in there:
                continue
            else:
                args = ["tag", name, self.tag] if what == "tag" else ["rmi", name]
            entry = {"what": what, "name": name, "start": time.time(), "end": None}
            self.history.append(entry)
            status, out, err = self.unlade(*args)
            if status:
                self.error = "%s: status %d, %s" % (" ".join(args), status, err.strip()[-400:])
                return
            entry["end"] = time.time()
            if what == "pull":
                self.pulled.set()
            there = {"pull": there | {name}, "rmi": there - {name}, "prune": set(), "tag": there}[what]


def promised(history, began, names):
    """Images whose pull was done before a cut began, and that nothing since could have removed."""
    sure = set()
    for e in history:
        if e["start"] > began:
            break
        done = e["end"] is not None and e["end"] < began
        if e["what"] == "pull" and done:
            sure.add(e["name"])
        elif e["what"] == "rmi":
            sure.discard(e["name"])
        elif e["what"] == "prune":
            sure.clear()
    return sure & set(names)


def examine(unlade, trees, tag, names, must, at):
    """One cut. -> how many images were listed, how many were refused, whether it was repaired"""
    listed, refused = unlade.images(), 0
    lost = must - set(listed)
    if lost:
        raise Wrong("reported as pulled, not listed: %s" % sorted(lost))
    for name in listed:
        status, out, err = unlade("image", "mount", name, at)
        if status:
            refused += 1
            if name in must:
                raise Wrong("reported as pulled, not mounted: %s: %s" % (name, err.strip()[-400:]))
            continue
        unlade.must("image", "unmount", at)
        one_of(unlade.tree(name, at), trees, name)
    repaired = False
    status, out, err = unlade("system", "check")
    if status:
        if must == set(listed) - {tag} and must:
            raise Wrong("durable, but not clean: %s" % (out + err)[-400:])
        repaired = True
        # Also what is only called by a name of our own is fetched: where it came from is known.
        unlade.must("system", "check", "--repair")
        unlade.must("system", "check")
    unlade.judge(trees, at)
    for name in names:
        unlade.must("pull", "-q", name)
        same(unlade.tree(name, at), trees[name], name + ", pulled again")
    unlade.must("system", "check")
    unlade.must("rmi", names[0])
    unlade.must("image", "prune", "-a", "-f")
    unlade.must("system", "check")
    if unlade.images() or unlade.leftovers():
        raise Wrong("left: %s %s" % (unlade.images(), unlade.leftovers()))
    return len(listed), refused, repaired


def cuts(binary, work, host, kind, driver, durability, count, trees, names, seed):
    """`count` cuts of one busy store. -> failures"""
    disk = Disk(kind, host + "/disk.img", work + "/disk", 1024).make()
    config = "%s/%s.toml" % (work, durability)
    with open(config, "w") as f:
        f.write('durability = "%s"\n' % durability)
    store = lambda boot: Unlade(binary, disk.at + "/root", work + "/run." + boot, driver, config, UNLADE_TEST_BOOT_ID=boot)
    tag = names[0].rpartition("/")[0] + "/tagged:latest"
    worker, r, taken, bad, sums = Worker(store("first"), names, tag, seed), random.Random(seed), [], 0, [0, 0, 0, 0]
    worker.start()
    for cut in range(count):
        if cut % 2:
            time.sleep(r.uniform(0.02, 0.8))
        else:
            # Just when a pull is done.
            worker.pulled.clear()
            worker.pulled.wait(20)
        began = time.time()
        run(["cp", "--reflink=always", disk.image, "%s/cut%d.img" % (host, cut)])
        taken.append(began)
        if not worker.is_alive():
            break
    worker.stop = True
    worker.join()
    if worker.error:
        bad += 1
        print("FAIL %s, %s, %s: %s" % (kind, driver, durability, worker.error), flush=True)
    else:
        worker.unlade.judge(trees, work + "/tree")
        worker.unlade.must("system", "check")
    # Only now: two file systems of one identity are not mounted at a time.
    disk.umount()
    for cut, began in enumerate(taken):
        image = "%s/cut%d.img" % (host, cut)
        disk.mount(image)
        must = promised(worker.history, began, names) if durability == "sync" else set()
        try:
            listed, refused, repaired = examine(store("cut%d" % cut), trees, tag, names, must, work + "/tree")
            sums = [sums[0] + listed, sums[1] + refused, sums[2] + repaired, sums[3] + len(must)]
        except Wrong as e:
            bad += 1
            print("FAIL %s, %s, %s, cut %d: %s" % (kind, driver, durability, cut, e), flush=True)
        subprocess.run(["umount", "-l", work + "/tree"], stderr=subprocess.DEVNULL)
        disk.umount()
        run(["rm", "-rf", image, work + "/run.cut%d" % cut])
    run(["rm", "-rf", disk.image, work + "/run.first"])
    print("powercut: %s, %s, %s: %d cuts, %d operations; images listed %d, refused %d, promised %d; stores repaired %d"
          % (kind, driver, durability, len(taken), len(worker.history), sums[0], sums[1], sums[3], sums[2]), flush=True)
    return bad


def main(binary, work, *args):
    lab.private()
    args, options = lab.options(args, cuts=100, seed=1)
    work = lab.workdir(work)
    os.mkdir(work + "/tree")
    host = Disk("xfs", work + "/host.img", work + "/host", 24 << 10).make().at
    registry, bad, total = Registry(work), 0, 0
    layouts = teststore.make_images(work, SETS, files=20, size=200000)
    names = [registry.put(layout, name + ":latest") for name, layout in layouts.items()]
    trees = {"%s/%s:latest" % (registry.host, n): t for n, t in teststore.trees(binary, layouts, work).items()}
    for kind in args or DRIVERS:
        sync = max(1, options["cuts"] // 4)
        left, rounds = options["cuts"] - sync, 0
        # No more than 25 of one busy store, then another driver.
        parts = [("sync", sync)] + [("fenced", min(25, left - at)) for at in range(0, left, 25)]
        for durability, count in parts:
            driver = DRIVERS[kind][rounds % len(DRIVERS[kind])]
            try:
                bad += cuts(binary, work, host, kind, driver, durability, count, trees, names, options["seed"] * 1000 + rounds)
            except Wrong as e:
                bad += 1
                print("FAIL %s, %s, %s: %s" % (kind, driver, durability, e), flush=True)
            total, rounds = total + count, rounds + 1
    registry.process.kill()
    run(["umount", host])
    run(["rm", "-rf", "--one-file-system", work])
    print("powercut: %d cuts, %d failures" % (total, bad))
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
