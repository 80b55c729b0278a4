"""A layer with one of each thing that an image can hold, and whiteouts: for images.py."""
import io, tarfile

T = 1600000000
CAPS = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"     # cap_net_bind_service=ep


def odd_layers():
    """The tar bytes of two layers. The second hides and replaces names of the first."""
    return [_tar(_first), _tar(_second)]


def _tar(fill):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        count = [0]

        def add(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, xattrs=None, **more):
            m = tarfile.TarInfo(name)
            m.type, m.size, m.mode = kind, len(data), mode
            count[0] += 1
            # Seconds and nanoseconds, given as text: tarfile would round a float.
            m.mtime = T + count[0]
            pax = {"mtime": "%d.%09d" % (T + count[0], 123456789 + count[0])}
            for key, value in (xattrs or {}).items():
                pax["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
            m.pax_headers = pax
            for key, value in more.items():
                setattr(m, key, value)
            t.addfile(m, io.BytesIO(data))
        fill(add)
    return out.getvalue()


def _first(add):
    d, s, h = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    add("odd", d, mode=0o755)
    for name in ("mode", "owner", "group", "time", "content", "size", "joined", "twin", "gone"):
        add("odd/" + name, data=b"the same in all")
    add("odd/xattr", data=b"x", xattrs={"user.k": b"v", "user.empty": b""})
    add("odd/caps", data=b"#!/bin/sh\n", mode=0o755, xattrs={"security.capability": CAPS})
    add("odd/dir", d, mode=0o1777, xattrs={"user.dir": b"v"})
    add("odd/sym", s, linkname="../etc/none")
    add("odd/sym-owned", s, linkname="mode", uid=1000, gid=1000)
    add("odd/h1", data=b"three names")
    add("odd/h2", h, linkname="odd/h1")
    add("odd/h3", h, linkname="odd/h1")
    add("odd/sym-link", h, linkname="odd/sym")
    add("odd/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
    add("odd/disk", tarfile.BLKTYPE, mode=0o660, devmajor=8, devminor=300, gid=6)
    add("odd/fifo", tarfile.FIFOTYPE)
    add("odd/suid", data=b"s", mode=0o4755)
    add("odd/sgid", data=b"s", mode=0o2755, uid=12, gid=34)
    add("odd/closed", d, mode=0)
    add("odd/closed/in", data=b"in", mode=0)
    add("odd/owned", d, mode=0o2775, uid=70000, gid=4000000000)
    add("odd/" + "long-" * 40 + "/" + "name-" * 30, data=b"long")
    add("odd/\u00e4\u00f6\u00fc \u65e5\u672c", data=b"utf-8")
    add("odd/new\nline and 'quotes' \\", data=b"text")
    add("odd/empty")
    add("odd/big", data=bytes(range(256)) * 9000)
    add("odd/before-1970", data=b"old", mtime=-5.0, pax_headers={"mtime": "-5"})
    for name in ("hidden", "replaced", "opaque"):
        add("odd/low/" + name, d, mode=0o755)
        for n in range(3):
            add("odd/low/%s/%d" % (name, n), data=b"low")
    add("odd/low/file-for-dir", data=b"low")
    add("odd/low/kept", data=b"low")
    add("odd/low/linked", h, linkname="odd/low/kept")


def _second(add):
    d = tarfile.DIRTYPE
    add("odd/low", d, mode=0o700, uid=5)
    add("odd/low/.wh.hidden")
    add("odd/low/replaced", data=b"a file now")
    add("odd/low/opaque", d, mode=0o755)
    add("odd/low/opaque/.wh..wh..opq")
    add("odd/low/opaque/high", data=b"high")
    add("odd/low/file-for-dir", d, mode=0o755)
    add("odd/low/file-for-dir/in", data=b"high")
    add("odd/low/linked", data=b"its own now")
    add("odd/dir/below", data=b"its directory is not in this layer")
