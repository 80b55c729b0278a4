#!/usr/bin/env python3
"""Makes OUT/image, an OCI layout of three real layers from Debian packages: demo-image.py OUT

The layers: a base (busybox-static, base-files), which can be run, tools on top of it, and a last layer that removes
a file by a whiteout. Where no package can be fetched, files of this machine stand in.
"""
import gzip, hashlib, io, json, os, subprocess, sys, tarfile

OUT = sys.argv[1]


def packages(names):
    """The data.tar of each Debian package, as tarfile objects."""
    for name in names:
        d = os.path.join(OUT, "debs", name)
        os.makedirs(d)
        r = subprocess.run(["apt-get", "download", "-q", name], cwd=d, capture_output=True)
        debs = os.listdir(d)
        if r.returncode or not debs:
            return
        p = subprocess.run(["dpkg-deb", "--fsys-tarfile", os.path.join(d, debs[0])], capture_output=True, check=True)
        yield tarfile.open(fileobj=io.BytesIO(p.stdout))


def layer(names, stand_in=(), extra=()):
    out, n, dirs = io.BytesIO(), 0, set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for source in packages(names):
            for m in source:
                # Packages share directories; podman refuses a layer that names one twice.
                if m.isdir() and m.name in dirs:
                    continue
                dirs.add(m.name)
                t.addfile(m, source.extractfile(m) if m.isreg() else None)
                n += 1
        if n == 0:
            for path in stand_in:
                if os.path.exists(path):
                    t.add(path, arcname=path.lstrip("/"), recursive=True)
        for name, data in extra:
            m = tarfile.TarInfo(name)
            m.size = len(data)
            t.addfile(m, io.BytesIO(data))
    return out.getvalue()


def put(data, media):
    d = hashlib.sha256(data).hexdigest()
    with open(os.path.join(OUT, "image/blobs/sha256", d), "wb") as f:
        f.write(data)
    return {"mediaType": media, "digest": "sha256:" + d, "size": len(data)}


os.makedirs(os.path.join(OUT, "image/blobs/sha256"))
OCI = "application/vnd.oci.image."
tars = [
    layer(["base-files", "busybox-static"], ["/etc/os-release", "/usr/share/common-licenses", "/bin/busybox"]),
    layer(["tzdata", "libc-bin"], ["/usr/share/zoneinfo", "/usr/bin/tar"]),
    layer([], [], [("usr/share/.wh.doc", b""), ("hello", b"unpacked by unlade\n")]),
]
blobs = [put(gzip.compress(t, 6, mtime=0), OCI + "layer.v1.tar+gzip") for t in tars]
arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
config = {"os": "linux", "architecture": arch, "config": {"Cmd": ["/bin/busybox", "cat", "/hello"]},
          "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(t).hexdigest() for t in tars]}}
manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
            "config": put(json.dumps(config).encode(), OCI + "config.v1+json"), "layers": blobs}
d = put(json.dumps(manifest).encode(), OCI + "manifest.v1+json")
d["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
with open(os.path.join(OUT, "image/index.json"), "w") as f:
    json.dump({"schemaVersion": 2, "manifests": [d]}, f)
with open(os.path.join(OUT, "image/oci-layout"), "w") as f:
    f.write('{"imageLayoutVersion":"1.0.0"}')
print("made an image of %d layers, %d bytes of tar" % (len(tars), sum(map(len, tars))))
