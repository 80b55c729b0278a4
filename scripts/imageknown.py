"""What umoci, GNU tar and podman do otherwise than unlade, each with its reason; all else is a defect."""
import os, tarfile, time

import treediff

NOW = time.time()


def recent(want):
    """A time that the other program took from the clock."""
    return want[0] > NOW - 5


# What the others do otherwise: reference, field, where, reason. `where` gets the path, what unlade
# made, what the reference made, and the image's Scan.
KNOWN = [
    ("umoci", "mtime", lambda path, got, want, scan: path in scan.implied and got == (0, 0) and recent(want),
     "a directory that no layer names gets the time of unpacking; unlade's is 1970, always the same"),
    ("tar", "mtime", lambda path, got, want, scan: path in scan.implied and got == (0, 0) and recent(want),
     "a directory that no layer names gets the time of unpacking; unlade's is 1970, always the same"),
    ("tar", "mtime", lambda path, got, want, scan: path in scan.changed and got[0] < NOW - 5 and recent(want),
     "a directory that a later layer adds to or removes from, without naming it, gets the time of unpacking"),
    ("umoci", "mtime", lambda path, got, want, scan: path in scan.above_implied and recent(want),
     "a directory gets the time of unpacking when umoci makes another in it that the layer only implies"),
    ("umoci", "xattrs", lambda path, got, want, scan: {k: v for k, v in got.items() if v} == want,
     "Go's tar reader takes an attribute with an empty value for none; GNU tar and unlade do not"),
    ("podman", "mtime", lambda path, got, want, scan: True,
     "podman commits whole seconds and its storage has rules of its own; umoci and tar, which unpack what it wrote, hold these"),
    ("podman", "links", lambda path, got, want, scan: path in ("odd/sym", "odd/sym-link") and want == (path,),
     "podman's vfs driver copies a symbolic link of two names as two"),
    ("podman", "nlink", lambda path, got, want, scan: path in ("odd/sym", "odd/sym-link") and (got, want) == (2, 1),
     "podman's vfs driver copies a symbolic link of two names as two"),
    ("podman", "xattrs", lambda path, got, want, scan: {k: v for k, v in got.items() if v} == want,
     "Go's tar reader takes an attribute with an empty value for none; GNU tar and unlade do not"),
]


class Scan:
    """What the layers say of directories. `implied`: no layer names them. `changed`: a layer that
    does not name them added or removed a name, after all that do. `above_implied`: one that its
    layer only implies was made in them, and they are not named after. `layers`: all names."""

    def __init__(self, tars):
        named, there, self.changed, self.above_implied, self.layers = set(), {"."}, set(), set(), []
        for path in tars:
            with tarfile.open(path, "r:", errors="surrogateescape") as t:
                members = [(os.path.normpath(m.name.lstrip("/")), m.isdir()) for m in t]
            own, touched = set(), set()
            for name, is_dir in members:
                above = os.path.dirname(name) or "."
                touched.add(above)
                while above not in there:
                    there.add(above)
                    above = os.path.dirname(above) or "."
                    touched.add(above)
                    self.above_implied.add(above)
                if is_dir:
                    own.add(name)
                    there.add(name)
                    self.above_implied.discard(name)
            named |= own
            self.changed = (self.changed | touched) - own
            self.layers.append(members)
        self.implied = there - named
        self.changed -= self.implied
        self.above_implied -= self.implied


def compare(label, got, references, scan, links=True):
    """Prints what is not KNOWN; -> how many such, and how often each of KNOWN applied."""
    bad, known = 0, {}
    for name, want in references:
        for path, field, g, w in treediff.diff(got, want, links):
            for i, (whose, what, where, _) in enumerate(KNOWN):
                if (whose, what) == (name, field) and where(path, g, w, scan):
                    known[i] = known.get(i, 0) + 1
                    break
            else:
                bad += 1
                if bad <= 8:
                    print("DIFFERS %s, from %s: %r %s: unlade %s, %s %s" % (label, name, path, field, g, name, w))
    return bad, known
