"""The forms that an image comes in: OCI layouts and archives, and what skopeo and podman write."""
import gzip, hashlib, json, os, shutil, subprocess, sys

OCI = "application/vnd.oci.image."


def run(cmd, **more):
    """Runs a program; where it fails, ends this one with all that it said."""
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **more)
    if p.returncode:
        sys.exit("FAIL: %s: status %d\n%s" % (" ".join(map(str, cmd)), p.returncode, p.stdout))
    return p.stdout.strip()


class Layout:
    """An OCI image layout with one image, as far as comparing needs it."""

    def __init__(self, path):
        self.dir = path
        blob = lambda d: os.path.join(path, "blobs", *d["digest"].split(":"))
        with open(os.path.join(path, "index.json")) as f:
            d, = json.load(f)["manifests"]
        self.ref, self.manifest = d.get("annotations", {}).get("org.opencontainers.image.ref.name", ""), d["digest"]
        with open(blob(d)) as f:
            manifest = json.load(f)
        self.config = blob(manifest["config"])
        self.blobs = [blob(l) for l in manifest["layers"]]
        ends = {l["mediaType"].rpartition(".v1.")[2] for l in manifest["layers"]}
        self.compression = {"tar": "tar", "tar+gzip": "gzip", "tar+zstd": "zstd"}[ends.pop()] if len(ends) == 1 else "mixed"
        with open(self.config) as f:
            self.diff_ids = json.load(f)["rootfs"]["diff_ids"]


MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def write_layout(out, tars, compression, arch=MACHINE):
    """A layout of the tar files, tagged `latest`."""
    blobs = os.path.join(out, "blobs/sha256")
    os.makedirs(blobs)

    def put(data, media):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as f:
            f.write(data)
        return {"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}

    layers, diff_ids = [], []
    for path in tars:
        with open(path, "rb") as f:
            data = f.read()
        diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        if compression == "gzip":
            data = gzip.compress(data, 6, mtime=0)
        elif compression == "zstd":
            data = subprocess.run(["zstd", "-qc3"], input=data, stdout=subprocess.PIPE, check=True).stdout
        layers.append(put(data, OCI + "layer.v1.tar" + ("" if compression == "tar" else "+" + compression)))
    config = {"os": "linux", "architecture": arch, "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "layers": layers,
                "config": put(json.dumps(config).encode(), OCI + "config.v1+json")}
    d = put(json.dumps(manifest).encode(), OCI + "manifest.v1+json")
    d["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    with open(os.path.join(out, "index.json"), "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [d]}, f)
    with open(os.path.join(out, "oci-layout"), "w") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')
    return Layout(out)


class Podman:
    """podman with storage of its own, below `work`."""

    def __init__(self, work):
        self.at = os.path.join(work, "podman")
        self.base = ["podman", "--root", self.at + "/root", "--runroot", self.at + "/run", "--tmpdir", self.at + "/tmp",
                     "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]

    def __call__(self, *args):
        return run([*self.base, *args])

    def remove(self):
        run(["rm", "-rf", "--one-file-system", self.at])


def skopeo(source, dest, *more):
    run(["skopeo", "copy", "-q", "--insecure-policy", *more, source, dest])


def archive(layout, out, end=""):
    """The layout as a tar file, as a whole compressed for `end` .gz or .zst."""
    flag = {"": "-c", ".gz": "-cz", ".zst": "-c --zstd"}[end].split()
    run(["tar", *flag, "-f", out, "-C", layout.dir, *sorted(os.listdir(layout.dir))])


def docker25(layout, out):
    """What `docker save` writes since version 25: a layout that has a manifest.json too."""
    doc = [{"Config": os.path.relpath(layout.config, layout.dir), "RepoTags": ["x:latest"],
            "Layers": [os.path.relpath(b, layout.dir) for b in layout.blobs]}]
    at = out + ".d"
    os.mkdir(at)
    with open(os.path.join(at, "manifest.json"), "w") as f:
        json.dump(doc, f)
    run(["tar", "-cf", out, "-C", layout.dir, "blobs", "index.json", "oci-layout", "-C", at, "manifest.json"])
    shutil.rmtree(at)


def same(layout, path):
    """Holds that a layout that another program wrote has the same layers, and says how compressed."""
    new = Layout(path)
    assert new.diff_ids == layout.diff_ids, "%s: other layers: %s" % (path, new.diff_ids)
    return new.compression


KINDS = {"oci", "archive", "outer", "docker25", "layer", "skopeo", "podman"}


def forms(layouts, work, kinds):
    """Yields (label, source for unlade) of each form; what was made for it is removed after."""
    at = os.path.join(work, "form")
    first = "oci:%s:%s" % (layouts[0].dir, layouts[0].ref)
    plain = next(l for l in layouts if l.compression == "tar")

    def made(label, scheme, path=at):
        yield label, scheme + path
        run(["rm", "-rf", at])

    for l in layouts if "oci" in kinds else []:
        yield "oci, " + l.compression, "oci:%s:%s" % (l.dir, l.ref)
    for l in layouts if "archive" in kinds else []:
        archive(l, at)
        yield from made("oci-archive, " + l.compression, "oci-archive:")
    for end in [".gz", ".zst"] if "outer" in kinds else []:
        archive(plain, at, end)
        yield from made("oci-archive%s, tar" % end, "oci-archive:")
    for l in layouts if "docker25" in kinds else []:
        docker25(l, at)
        yield from made("docker-archive as of 25, " + l.compression, "docker-archive:")
    for l in layouts if "layer" in kinds and len(plain.blobs) == 1 else []:
        yield "layer, " + l.compression, "layer:" + l.blobs[0]
    # skopeo compresses with encoders of its own: a gzip and a zstd that are not the programs'.
    for how, more in [("gzip", ["--dest-compress-format", "gzip"]), ("zstd", ["--dest-compress-format", "zstd"]),
                      ("tar", ["--dest-oci-accept-uncompressed-layers"])] if "skopeo" in kinds else []:
        skopeo("oci:%s:%s" % (plain.dir, plain.ref), "oci:%s:x" % at, *more)
        assert same(plain, at) == how, "skopeo wrote %s" % Layout(at).compression
        yield from made("skopeo oci, " + how, "oci:")
    if "skopeo" in kinds:
        skopeo(first, "oci-archive:%s:x" % at)
        yield from made("skopeo oci-archive, gzip", "oci-archive:")
    skopeo(first, "docker-archive:%s:x:latest" % at)
    if "podman" in kinds:
        podman = Podman(work)
        podman("load", "-q", "-i", at)
    yield from made("skopeo docker-archive", "docker-archive:")
    for how in ("docker-archive", "oci-archive", "oci-dir") if "podman" in kinds else []:
        podman("save", "-q", "--format", how, "-o", at, "x:latest")
        if how == "oci-dir":
            same(plain, at)
        yield from made("podman save " + how, how.replace("-dir", "") + ":")
    if "podman" in kinds:
        podman.remove()
