#!/usr/bin/env python3
"""Many processes on one store: concurrent.py UNLADE WORK [--seconds N] [--seed S] [DRIVER...]

Needs root, skopeo, docker-registry, busybox-static, runc. DRIVER: default overlay and erofs. On each:
- two processes pull the same image at once: each layer is fetched once, and both succeed;
- twenty pull images that share layers, one of them is killed: each layer is fetched once, but for
  what the killed one was at, and the others succeed;
- for N seconds (default 60) several pull, are killed, tag, remove, prune, mount and run at random, while a
  tag in the registry moves from image to image. Nothing fails but for what another has done
  (no such image, in use); every tree that is mounted is whole.
In the end what is listed is what the order of the operations allows, every tree is whole, `system
check` finds nothing, and a prune leaves nothing.
"""
import os, random, subprocess, sys, threading, time

import lab, teststore
from imageforms import run
from lab import Disk, Registry
from teststore import Unlade, Wrong, one_of

# 20 images over 12 layers; each has the first, which is the largest share of what there is.
SHARED = {"s%d" % n: [0, 1 + n % 4, 5 + n % 7] for n in range(20)}
# What an operation may say of what another has done meanwhile.
FINE = {"rmi": ["no such image", "is being used", "is in use", "is using its"], "tag": ["no such image"], "mount": ["no such image", "there is no image"], "run": ["no such image", "there is no image"]}


def layers_asked(registry, mark, layouts):
    """{layer: how often it was asked for}"""
    layers = {"sha256:" + os.path.basename(b) for layout in layouts for b in layout.blobs}
    asked = [d for d in registry.asked(mark) if d in layers]
    return {d: asked.count(d) for d in layers}


def two(unlade, registry, layouts, trees, at):
    """The same image twice at a time."""
    name, mark = registry.host + "/s0:latest", registry.mark()
    both = [unlade.start("pull", "-q", name) for _ in range(2)]
    for p in both:
        out, err = p.communicate(timeout=300)
        if p.returncode:
            raise Wrong("status %d: %s" % (p.returncode, err[-400:]))
    times = layers_asked(registry, mark, [layouts["s0"]])
    if set(times.values()) != {1}:
        raise Wrong("fetched: %s" % times)
    unlade.judge(trees, at, [name])


def twenty(unlade, registry, layouts, trees, at, r):
    """Images that share layers; one process is killed."""
    mark = registry.mark()
    pulls = {n: unlade.start("pull", "-q", "%s/%s:latest" % (registry.host, n)) for n in SHARED}
    victim = r.choice(list(SHARED))
    time.sleep(r.uniform(0, 0.5))
    pulls[victim].kill()
    for n, p in pulls.items():
        out, err = p.communicate(timeout=300)
        if p.returncode and n != victim:
            raise Wrong("%s: status %d: %s" % (n, p.returncode, err[-400:]))
    killed = pulls[victim].returncode == -9
    unlade.must("pull", "-q", "%s/%s:latest" % (registry.host, victim))
    times = layers_asked(registry, mark, layouts.values())
    again = [d for d, count in times.items() if count > 1]
    if min(times.values()) < 1 or max(times.values()) > 2 or len(again) > (3 if killed else 0):
        raise Wrong("fetched, one of them killed (%s): %s" % (killed, times))
    unlade.judge(trees, at, ["%s/%s:latest" % (registry.host, n) for n in SHARED])


class Worker(threading.Thread):
    """Random operations until a time. `history`: what, name, start, end, whether it was done."""

    def __init__(self, unlade, names, moving, trees, at, until, seed):
        super().__init__()
        self.unlade, self.names, self.moving, self.trees, self.until = unlade, names, moving, trees, until
        self.at, self.random, self.history, self.error = at, random.Random(seed), [], None
        os.mkdir(at)

    def run(self):
        try:
            while time.time() < self.until and not self.error:
                self.one()
        except Exception as e:  # Told by whoever joins.
            self.error = repr(e)

    def one(self):
        what = self.random.choices(["pull", "kill", "rmi", "tag", "prune", "mount", "run"], [8, 1, 4, 2, 1, 3, 3])[0]
        name = self.random.choice([*self.names, self.moving])
        args = {"pull": ["pull", "-q", name], "kill": ["pull", "-q", name], "rmi": ["rmi", name], "mount": ["image", "mount", name, self.at],
                # The images have no programs.
                "run": ["run", "--rm", "--pull", "never", "--network", "none", "-v", "/bin/busybox:/busybox:ro", name, "/busybox", "cat", "/shared"],
                "tag": ["tag", name, "localhost/other:%d" % self.random.randrange(2)],
                "prune": self.random.choice([["image", "prune", "-a", "-f"], ["system", "prune", "-f"]])}[what]
        start, p = time.time(), self.unlade.start(*args)
        if what == "kill":
            time.sleep(self.random.uniform(0, 0.3))
            p.kill()
        out, err = p.communicate(timeout=300)
        done = p.returncode == 0
        self.history.append((args[0] if what != "prune" else "prune", name, start, time.time(), done))
        if not done and what != "kill" and not any(e in err.lower() for e in FINE.get(what, [])):
            self.error = "%s: status %d, %s" % (" ".join(args), p.returncode, err.strip()[-500:])
        if what == "run" and done and not any(out == "l%d" % n * 20 for n in range(12)):
            self.error = "run: it says %r" % out[:100]
        if what == "mount" and done:
            try:
                one_of(teststore.plain(teststore.treediff.facts(self.at)), self.trees, name)
            finally:
                self.unlade.must("image", "unmount", self.at)


def allowed(history, names, listed):
    """Whether what is listed can be what these operations leave, in some order that keeps to their times."""
    for name in names:
        pulls = [h for h in history if h[0] == "pull" and h[1] == name]
        gone = [h for h in history if h[0] == "prune" or h[0] == "rmi" and h[1] == name and h[4]]
        last = max((end for *_, end, _ in gone), default=0)
        if any(start > last and done for _, _, start, _, done in pulls) and name not in listed:
            raise Wrong("%s was pulled after all removals and is not listed" % name)
        removed = max((start for what, _, start, _, _ in gone if what == "rmi"), default=0)
        if name in listed and removed and all(end < removed for *_, end, _ in pulls):
            raise Wrong("%s was removed after all pulls and is listed" % name)


def storm(unlade, registry, layouts, trees, work, seconds, seed):
    names = ["%s/%s:latest" % (registry.host, n) for n in ("s0", "s1", "s2", "s5")]
    moving, until = registry.host + "/moving:latest", time.time() + seconds
    registry.put(layouts["s0"], "moving:latest")
    workers = [Worker(unlade, names, moving, trees, "%s/at%d" % (work, n), until, seed * 100 + n) for n in range(6)]
    for w in workers:
        w.start()
    moves = 0
    while time.time() < until:
        registry.put(layouts["s%d" % (moves % 4)], "moving:latest")
        moves += 1
        time.sleep(0.3)
    for w in workers:
        w.join()
    errors = [w.error for w in workers if w.error]
    if errors:
        raise Wrong("%d workers failed: %s" % (len(errors), errors[0]))
    history = [h for w in workers for h in w.history]
    allowed(history, names, unlade.judge(trees, work + "/tree"))
    return len(history), moves


def finish(unlade, trees, work, disk):
    """Sound, and empty once everything is removed."""
    unlade.must("system", "check")
    unlade.judge(trees, work + "/tree")
    unlade.must("image", "prune", "-a", "-f")
    unlade.must("system", "prune", "-f")
    unlade.must("system", "check")
    left = [unlade.images(), unlade.leftovers(), unlade.census(), disk.mounts(), unlade.must("ps", "-aq")]
    if any(left):
        raise Wrong("left: %s" % left)


def main(binary, work, *args):
    lab.private()
    args, options = lab.options(args, seconds=60, seed=1)
    work, began, bad, runs = lab.workdir(work), time.time(), 0, 0
    registry = Registry(work)
    layouts = teststore.make_images(work, SHARED, files=8, size=60000)
    for name, layout in layouts.items():
        registry.put(layout, name + ":latest")
    trees = {"%s/%s:latest" % (registry.host, n): t for n, t in teststore.trees(binary, layouts, work).items()}
    for driver in args or ("overlay", "erofs"):
        kind, _ = lab.HOMES[driver]
        disk = Disk(kind, work + "/disk.img", work + "/disk", 1024).make()
        unlade = Unlade(binary, disk.at + "/root", work + "/run." + driver, driver)
        here = lab.workdir(work + "/" + driver)
        os.mkdir(here + "/tree")
        r = random.Random(options["seed"])
        told = ""
        for label, test, *more in (("two pull one image", two, here + "/tree"), ("twenty pull, one is killed", twenty, here + "/tree", r),
                                   ("storm", storm, here, options["seconds"], options["seed"])):
            runs += 1
            try:
                done = test(unlade, registry, layouts, trees, *more)
                told = ", %d operations, %d moves of a tag" % done if done else told
                finish(unlade, trees, here, disk)
            except Wrong as e:
                bad += 1
                print("FAIL %s, %s: %s" % (driver, label, e), flush=True)
                with open("/proc/self/mounts") as f:
                    for at in [l.split()[1] for l in f if l.split()[1].startswith(here + "/")]:
                        subprocess.run(["umount", "-l", at])
        disk.umount()
        print("concurrent: %s%s" % (driver, told), flush=True)
    registry.process.kill()
    run(["rm", "-rf", "--one-file-system", work])
    print("concurrent: %d tests in %d s, %d failures" % (runs, time.time() - began, bad))
    return 1 if bad or not runs else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
