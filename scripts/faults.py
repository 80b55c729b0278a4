#!/usr/bin/env python3
"""Kills and errors at every failpoint of an unpack: faults.py UNLADE WORKDIR [--step N]

UNLADE is built with the feature `failpoints`. For every point, action and I/O engine the Nth
passing fails, N = 1, 1+step, ... until the unpack passes it no more. After each: DEST is absent,
the error names a cause, and the next run succeeds and leaves nothing but the tree. At the rename
into place DEST is, besides, as it was before or whole, also where --force replaces an old tree.
"""
import io, os, shutil, subprocess, sys, tarfile

import treediff

unlade, work = os.path.abspath(sys.argv[1]), sys.argv[2]
step = int(sys.argv[4]) if len(sys.argv) > 4 else 1
POINTS = ["open", "mkdir", "create", "write", "utimens", "chmod", "link", "unlink", "setxattr", "dirattr", "rename"]
ACTIONS = {"kill": None, "EIO": "Input/output error", "ENOSPC": "No space left", "EMFILE": "Too many open files"}


def layer(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as t:
        def add(name, kind=tarfile.REGTYPE, data=b"", **more):
            m = tarfile.TarInfo(name)
            m.type, m.size, m.mtime = kind, len(data), 1600000000
            for k, v in more.items():
                setattr(m, k, v)
            t.addfile(m, io.BytesIO(data))
        for d in range(6):
            add("d%d" % d, tarfile.DIRTYPE, mode=0o755)
            for f in range(8):
                add("d%d/f%d" % (d, f), data=b"x" * (700 * f), mode=0o4755 if f == 3 else 0o644,
                    pax_headers={"SCHILY.xattr.user.k": "v"} if f == 5 else {})
            add("d%d/s" % d, tarfile.SYMTYPE, linkname="f1")
            add("d%d/h" % d, tarfile.LNKTYPE, linkname="d%d/f2" % d)
        add("d0/f1", data=b"again")
        add("big", data=os.urandom(1 << 20) * 3)


def run(dest, fail=None, io_engine="threads", more=()):
    env = dict(os.environ)
    if fail:
        env["UNLADE_FAILPOINT"] = fail
    return subprocess.run([unlade, "unpack", "-q", "--io", io_engine, *more, "layer:" + blob, dest], env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")


shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)
blob = os.path.join(work, "..", os.path.basename(work) + ".tar")
layer(blob)
runs = bad = 0
for engine in ("threads", "ring"):
    for point in POINTS:
        for action, words in ACTIONS.items():
            n = 1
            while True:
                dest = os.path.join(work, "r")
                p = run(dest, "%s:%d:%s" % (point, n, action), engine)
                runs += 1
                if p.returncode == 0:
                    # Past the last passing, or an error that the plain path made good.
                    shutil.rmtree(dest)
                    if n > 1 or point in ("setxattr", "write", "create"):
                        break
                    print("note: %s %s:%d:%s was survived" % (engine, point, n, action))
                    break
                wrong = []
                if os.path.lexists(dest):
                    wrong.append("DEST exists")
                if words and words not in p.stderr:
                    wrong.append("no cause in: " + p.stderr.strip()[:200])
                if action != "kill" and (p.returncode != 1 or os.listdir(work)):
                    wrong.append("status %d, leftovers %s" % (p.returncode, os.listdir(work)))
                again = run(dest)
                if again.returncode or os.listdir(work) != ["r"]:
                    wrong.append("retry: status %d, %s %s" % (again.returncode, os.listdir(work), again.stderr[:200]))
                shutil.rmtree(dest, ignore_errors=True)
                if wrong:
                    bad += 1
                    print("FAIL %s %s:%d:%s: %s" % (engine, point, n, action, "; ".join(wrong)))
                n += step

# The rename into place: (point, action, what DEST is then); "old" is a tree that --force replaces.
RENAMES = [("rename", "kill", "old"), ("rename", "EIO", "old"), ("renamed", "kill", "new"), ("renamed", "EIO", "new")]


def look(dest):
    """A tree but for the time of its root, which no entry of the layer gives."""
    if not os.path.lexists(dest):
        return None
    tree = treediff.facts(dest)
    del tree["."]["mtime"]
    return tree


dest = os.path.join(work, "r")
run(dest)
whole = look(dest)
shutil.rmtree(dest)
for before in (None, "tree"):
    for point, action, after in RENAMES:
        if before:
            os.makedirs(os.path.join(dest, "before", "it"))
        old, more = look(dest), ["--force"] if before else []
        p = run(dest, "%s:1:%s" % (point, action), more=more)
        runs += 1
        wrong = []
        # An error after the rename is about the old tree only: the new one is in place.
        status = -9 if action == "kill" else 1 if point == "rename" else 0
        if p.returncode != status or (action == "EIO" and "Input/output error" not in p.stderr):
            wrong.append("status %d, %s" % (p.returncode, p.stderr.strip()[:200]))
        if look(dest) != (whole if after == "new" else old):
            wrong.append("DEST is not the %s tree" % after)
        left = [n for n in os.listdir(work) if n != "r"]
        if len(left) != (action == "kill"):
            wrong.append("leftovers %s" % left)
        again = run(dest, more=["--force"])
        if again.returncode or os.listdir(work) != ["r"] or look(dest) != whole:
            wrong.append("retry: status %d, %s %s" % (again.returncode, os.listdir(work), again.stderr[:200]))
        shutil.rmtree(dest, ignore_errors=True)
        if wrong:
            bad += 1
            print("FAIL %s:%s over %s: %s" % (point, action, before, "; ".join(wrong)))
os.unlink(blob)
print("faults: %d runs, %d failures" % (runs, bad))
sys.exit(1 if bad or runs < 50 else 0)
