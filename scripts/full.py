#!/usr/bin/env python3
"""Disks that fill up and descriptors that run out: full.py UNLADE WORK [--short] [WHAT...]

WHAT: ext4, xfs, btrfs, descriptors; default: all. Needs root.

On a small, new file system of each kind an image is unpacked that does not fit: by its bytes in
many files, by those in one, by inodes (where the kind has a fixed number), by the report's and the
decoded archive's. Each must fail with status 1, say where and what to do, leave nothing, give the
space back, and let a small image be unpacked after. Then an image with few descriptors: it works,
or fails in the same way.
"""
import io, os, re, subprocess, sys, tarfile, time

import treediff
from imageforms import archive, run, write_layout

MIB = {"ext4": 64, "xfs": 320, "btrfs": 128}
APPLY, OVERLAY = [], ["--whiteouts", "overlay"]
WAYS = [(engine, how) for engine in ("threads", "ring") for how in (APPLY, OVERLAY)]
SHORT = [("threads", APPLY), ("ring", OVERLAY)]
LIMITS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 128)


def tar_of(path, files):
    """A layer; `files` yields (name, bytes), directories first named when needed."""
    dirs = set()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as t:
        for name, data in files:
            m = tarfile.TarInfo(os.path.dirname(name))
            if m.name and m.name not in dirs:
                dirs.add(m.name)
                m.type, m.mode = tarfile.DIRTYPE, 0o755
                t.addfile(m)
            m = tarfile.TarInfo(name)
            m.size = len(data)
            t.addfile(m, io.BytesIO(data))
    return path


def images(work, mib):
    """{name: source}: three that do not fit `mib`, and one that does."""
    noise = os.urandom(1 << 20)
    many = ((("d%d/f%d" % (n // 100, n), noise[n % 500 * 1000:][:60000])) for n in range(mib * 20))
    # A small layer first: half of an image is there when it fails.
    small = tar_of(work + "/small.tar", [("a/b", b"small"), ("c", noise[:5000])])
    layers = {"many": tar_of(work + "/many.tar", many), "one": tar_of(work + "/one.tar", [("big", noise * (mib + 8))]),
              "inodes": tar_of(work + "/inodes.tar", (("d%d/f%d" % (n // 500, n), b"") for n in range(mib * 400)))}
    out = {"small": "oci:%s:latest" % write_layout(work + "/small", [small], "gzip").dir}
    for name, layer in layers.items():
        out[name] = "oci:%s:latest" % write_layout(work + "/" + name, [small, layer], "zstd").dir
    # A compressed archive is decoded into a file beside DEST before anything else.
    archive(write_layout(work + "/plain", [small, work + "/one.tar"], "tar"), work + "/one.tar.zst", ".zst")
    out["archive"] = "oci-archive:%s:latest" % (work + "/one.tar.zst")
    run(["rm", "-r", work + "/plain", work + "/one.tar"])
    return out


def unpack(unlade, source, dest, engine, *more, prefix=()):
    return subprocess.run([*prefix, unlade, "unpack", "-q", "--io", engine, *more, source, dest], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, errors="replace", timeout=300)


def free(at):
    """Free bytes and inodes, once what was removed is given back."""
    run(["sync", "-f", at])
    s = os.statvfs(at)
    return s.f_bfree * s.f_frsize, s.f_ffree


class Check:
    bad = runs = 0

    def __call__(self, label, wrong):
        self.runs += 1
        if wrong:
            self.bad += 1
            print("FAIL %s: %s" % (label, "; ".join(wrong)))


def judge(p, words, place, hint):
    """What is wrong with how a run failed."""
    wrong = []
    if p.returncode != 1:
        wrong.append("status %s" % p.returncode)
    if words not in p.stderr or not re.search(place, p.stderr) or hint not in p.stderr:
        wrong.append("it says only: " + p.stderr.strip()[:300])
    return wrong


def full_disks(unlade, work, kind, ways, check):
    at, image, mib = work + "/" + kind, work + "/" + kind + ".img", MIB[kind]
    os.mkdir(at)
    run(["truncate", "-s", "%dM" % mib, image])
    # Few inodes, so that they run out before the bytes do.
    run(["mkfs." + kind, "-q"] + (["-N", "4096"] if kind == "ext4" else []) + [image])
    run(["mount", "-o", "loop", image, at])
    try:
        # On xfs a log and reserves are taken out of it: fill what is over, so that the images can be small.
        room = free(at)[0]
        sources = images(work + "/" + kind + ".images", room >> 20)
        dest = at + "/dest"
        for name in ("many", "one", "inodes", "archive"):
            if name == "inodes" and kind != "ext4":
                continue
            for engine, how in ways:
                before = free(at)
                p = unpack(unlade, sources[name], dest, engine, *how)
                place = "decode" if name == "archive" else "layer 2 of 2: .*entry [0-9]+ `(d[0-9]+(/f[0-9]+)?|big)`"
                wrong = judge(p, "No space left on device", place, "free space or inodes")
                left = [n for n in os.listdir(at) if n != "lost+found"]
                if left:
                    wrong.append("leftovers: %s" % left)
                # The kernel ends a ring, and closes its files, some time after the process is gone.
                for _ in range(100):
                    after = free(at)
                    # Some metadata of the file system itself may have grown.
                    back = after[0] >= before[0] - (room >> 4) and (kind != "ext4" or after[1] == before[1])
                    if back:
                        break
                    time.sleep(0.1)
                if not back:
                    wrong.append("free before %s, after %s" % (before, after))
                p = unpack(unlade, sources["small"], dest, engine)
                if p.returncode or sorted(treediff.facts(dest)) != [".", "a", "a/b", "c"]:
                    wrong.append("retry with a small image: status %d, %s" % (p.returncode, p.stderr[:200]))
                run(["rm", "-rf", dest])
                check("%s, %s, %s %s" % (kind, name, engine, " ".join(how)), wrong)
    finally:
        run(["umount", at])
        run(["rm", "-rf", image, work + "/" + kind + ".images"])


def tree(dest):
    """Facts but for the times of what no layer gives: the root, the list of overlay directories."""
    facts = treediff.facts(dest)
    for name in (".", "lowerdirs"):
        facts.get(name, {}).pop("mtime", None)
    return facts


def few_descriptors(unlade, work, ways, limits, check):
    """An image of many layers, many directories and a deep one, with a limit on open files."""
    os.mkdir(work + "/fds")
    layers = []
    for n in range(24):
        files = [("l%d/d%d/f%d" % (n, i // 10, i), b"x" * (i * 50)) for i in range(300)]
        layers.append(tar_of(work + "/fds/%d.tar" % n, files + [("/".join("p%d" % i for i in range(60)) + "/deep%d" % n, b"x")]))
    source = "oci:%s:latest" % write_layout(work + "/fds/image", layers, "gzip").dir
    dest = work + "/fds/out/dest"
    os.mkdir(os.path.dirname(dest))
    good = {}
    for how in (APPLY, OVERLAY):
        run([unlade, "unpack", "-q", *how, source, dest])
        good[len(how)] = tree(dest)
        run(["rm", "-rf", dest])
    worked = failed = 0
    for engine, how in ways:
        for limit in limits:
            p = unpack(unlade, source, dest, engine, *how, prefix=["prlimit", "--nofile=%d" % limit])
            wrong = []
            if p.returncode == 0:
                worked += 1
                if tree(dest) != good[len(how)]:
                    wrong.append("another tree")
                run(["rm", "-rf", dest])
            # The dynamic linker needs a few itself.
            elif "error while loading shared libraries" not in p.stderr:
                failed += 1
                wrong = judge(p, "Too many open files", "", "ulimit -n")
            if os.listdir(os.path.dirname(dest)):
                wrong.append("leftovers: %s" % os.listdir(os.path.dirname(dest)))
            check("descriptors, %s, %s, %d" % (engine, how, limit), wrong)
    print("descriptors: %d runs worked, %d failed as they should" % (worked, failed))
    if not worked or not failed:
        check("descriptors", ["both outcomes should occur"])
    run(["rm", "-rf", work + "/fds"])


def main(unlade, work, *kinds):
    unlade = os.path.abspath(unlade)
    run(["rm", "-rf", "--one-file-system", work])
    os.makedirs(work)
    check, short = Check(), "--short" in kinds
    kinds, ways = [k for k in kinds if k != "--short"], SHORT if short else WAYS
    for kind in kinds or [*MIB, "descriptors"]:
        started = time.time()
        if kind == "descriptors":
            few_descriptors(unlade, work, ways, LIMITS[1::2] if short else LIMITS, check)
        else:
            os.mkdir(work + "/" + kind + ".images")
            full_disks(unlade, work, kind, ways, check)
        print("full: %s took %d s" % (kind, time.time() - started), flush=True)
    run(["rm", "-rf", "--one-file-system", work])
    print("full: %d runs, %d failures" % (check.runs, check.bad))
    return 1 if check.bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
