#!/usr/bin/env python3
"""Random layers, applied and as mounted overlay directories: overlay.py UNLADE WORK CASES [SEED]

Both must refuse, or both give the same tree but for what docs/decisions/0005-overlay-link-counts.md
says: link counts, and lower names of a file that a higher layer links to. Case N is made from seed SEED+N alone: `CASES 1`
with the seed of a failure repeats it. Needs root.
"""
import io, os, random, subprocess, sys, tarfile, time

import treediff
from imageforms import run, write_layout

NAMES = ["a", "b", "c", "d"]


def some_path(r, depth=3):
    return "/".join(r.choice(NAMES) for _ in range(r.randint(1, depth)))


def some_ops(r, files):
    """One layer: (name, kind, link or data, mode, xattrs); `files` are names that hard links may
    mean: a guess, as symlinks are not followed here."""
    out, own = [], set()
    for _ in range(r.randint(1, 10)):
        path, mode = some_path(r), r.choice([0o644, 0o755, 0o700, 0o4755, 0o1777, 0])
        above, _, base = path.rpartition("/")
        beside = lambda name: above + "/" + name if above else name
        kind = r.choices(["file", "big", "dir", "symlink", "link", "fifo", "char", "white", "opaque"],
                         [6, 1, 5, 2, 4, 1, 1, 4, 3])[0]
        if kind != "white" and kind != "opaque":
            # What this entry replaces, or has to be a directory for it.
            files[:] = [f for f in files if not (f + "/").startswith(path + "/") and not path.startswith(f + "/")]
        xattrs = {"user." + r.choice("kl"): r.choice("vw")} if r.random() < .2 and kind in ("file", "dir") else {}
        if kind in ("file", "big"):
            files.append(path)
            own.add(path)
            data = bytes([r.randrange(256), r.randrange(256)]) * (600000 if kind == "big" else r.randint(0, 900))
            out.append((path, tarfile.REGTYPE, data, mode, xattrs))
        elif kind == "dir":
            out.append((path, tarfile.DIRTYPE, b"", mode, xattrs))
        elif kind == "symlink":
            to = r.choice([some_path(r), "/" + some_path(r), "../" + some_path(r), ".", ".."])
            files.append(path)
            out.append((path, tarfile.SYMTYPE, to, 0o777, {}))
        elif kind == "link":
            # Mostly to a name that a layer gave to a file, so that not all is refused.
            to = r.choice(files) if files and r.random() < .95 else some_path(r)
            files.append(path)
            own.add(path)
            out.append((path, tarfile.LNKTYPE, to, mode, {}))
        elif kind == "white":
            files[:] = [f for f in files if f in own or not (f + "/").startswith(path + "/")]
            out.append((beside(".wh." + base), tarfile.REGTYPE, b"", mode, {}))
        elif kind == "opaque":
            files[:] = [f for f in files if f in own or not f.startswith(beside(""))]
            out.append((beside(".wh..wh..opq"), tarfile.REGTYPE, b"", mode, {}))
        else:
            files.append(path)
            out.append((path, tarfile.FIFOTYPE if kind == "fifo" else tarfile.CHRTYPE, b"", mode, {}))
    return out


def write_layer(path, ops, start):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as t:
        for i, (name, kind, what, mode, xattrs) in enumerate(ops):
            m = tarfile.TarInfo(name)
            m.type, m.mode, m.mtime, m.uid, m.gid = kind, mode, 1600000000 + start + i, i % 3, 7
            m.pax_headers = {"SCHILY.xattr." + k: v for k, v in xattrs.items()}
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                m.linkname, what = what, b""
            elif kind == tarfile.CHRTYPE:
                m.devmajor, m.devminor = 1, 3 + i
            m.size = len(what)
            t.addfile(m, io.BytesIO(what))


def split_group(got, names):
    """Whether the names of one applied file are, mounted, the names of several and of no other: a
    hard link to a lower file takes that one name of it along. All else of them is compared too."""
    return all(n in got and set(got[n]["links"]) <= set(names) for n in names)


def remove(*paths):
    run(["rm", "-rf", "--one-file-system", *paths])


def one(unlade, work, seed):
    """-> (what the case shows: "same" or "refused", or what is wrong; the layers)."""
    r, files = random.Random(seed), []
    layers = [some_ops(r, files) for _ in range(r.randint(1, 5))]
    tars = []
    for n, ops in enumerate(layers):
        tars.append("%s/%d.tar" % (work, n))
        write_layer(tars[-1], ops, 100 * n)
    at = lambda name: os.path.join(work, name)
    source = "oci:" + write_layout(at("image"), tars, "tar").dir
    runs = {}
    for how in ("apply", "overlay"):
        runs[how] = subprocess.run([unlade, "unpack", "-q", "--io", r.choice(["threads", "ring"]), "--whiteouts", how, source, at(how)],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    codes = [p.returncode for p in runs.values()]
    try:
        if codes == [1, 1]:
            return "refused", layers
        if codes != [0, 0]:
            return ["%s: status %d: %s" % (how, p.returncode, p.stdout.strip()) for how, p in runs.items()], layers
        want = treediff.facts(at("apply"))
        with open(at("overlay") + "/lowerdirs") as f:
            lowers = f.read().split()
        os.mkdir(at("empty"))
        os.mkdir(at("merged"))
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", "lowerdir=" + ":".join(lowers + [at("empty")]), at("merged")],
                       cwd=at("overlay"), check=True)
        try:
            got = treediff.facts(at("merged"))
        finally:
            run(["umount", at("merged")])
        linked = any(kind == tarfile.LNKTYPE for ops in layers[1:] for _, kind, *_ in ops)
        wrong = ["%r %s: mounted %s, applied %s" % d for d in treediff.diff(got, want, links=False)
                 if not (linked and d[1] == "links" and split_group(got, d[3]))]
        return wrong or "same", layers
    finally:
        remove(*(at(n) for n in ("image", "apply", "overlay", "empty", "merged")), *tars)


def main(unlade, work, cases, seed=None):
    unlade, cases = os.path.abspath(unlade), int(cases)
    seed = int(seed) if seed is not None else int(time.time()) % 1000000 * 1000
    remove(work)
    os.makedirs(work)
    print("overlay: %d cases from seed %d" % (cases, seed), flush=True)
    count = {"same": 0, "refused": 0}
    bad = 0
    for n in range(seed, seed + cases):
        result, layers = one(unlade, work, n)
        if isinstance(result, str):
            count[result] += 1
            continue
        bad += 1
        if bad <= 10:
            print("FAIL seed %d: %s" % (n, "\n  ".join([""] + result[:12])))
            for i, ops in enumerate(layers):
                print("  layer %d: %s" % (i, "; ".join("%s%s %s %o%s" % (
                    {b"0": "", b"5": "dir ", b"2": "sym ", b"1": "link ", b"6": "fifo ", b"3": "char "}[k], p,
                    w if isinstance(w, str) else len(w), m, " " + str(x) if x else "") for p, k, w, m, x in ops)))
    remove(work)
    print("overlay: %d the same, %d refused by both, %d failures" % (count["same"], count["refused"], bad))
    # Were nearly all refused, nothing would have been compared.
    return 1 if bad or (cases >= 50 and count["same"] < cases // 3) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
