#!/usr/bin/env python3
"""Other engines' images pulled, and ours read by them: peers.py UNLADE WORK [DRIVER...]

Needs root, docker-registry, skopeo, podman, containerd. Images are put into a registry by skopeo in
all forms it knows; unlade pulls each, pushes it under another name, and skopeo, podman and
containerd read that back: to the same manifest digest, and the same tree as unlade mounts. Then what
podman built is pulled; and archives: saved by unlade and read by skopeo and podman, written by them
and loaded by unlade; and on erofs, images without their blobs pushed. DRIVER: all of them on the first image, default overlay and erofs.
"""
import copy, hashlib, json, os, subprocess, sys, time

import lab, teststore, treediff
from imageforms import MACHINE, Podman, run, skopeo
from lab import Disk, Registry
from teststore import Unlade, Wrong, plain, same

SETS = {"one": [0], "three": [0, 1, 2], "ten": list(range(10))}
# (compression of the layout, how skopeo puts it); what is not compressed skopeo compresses.
FORMS = {"oci-gzip": ("gzip", "oci"), "docker-gzip": ("gzip", "v2s2"), "oci-zstd": ("zstd", "oci"), "skopeo-gzip": ("tar", "oci")}


class Containerd:
    """containerd with a root of its own."""

    def __init__(self, work):
        self.at, self.base = work + "/containerd", ["ctr", "--address", work + "/containerd/sock"]
        os.mkdir(self.at)
        with open(self.at + "/config.toml", "w") as f:
            f.write('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                    '[plugins."io.containerd.internal.v1.opt"]\npath = "%s/opt"\n' % self.at)
        with open(self.at + "/log", "wb") as log:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "containerd", "--config", self.at + "/config.toml", "--root",
                                             self.at + "/root", "--state", self.at + "/state", "--address", self.at + "/sock"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(1200):
            if subprocess.run([*self.base, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.05)
        with open(self.at + "/log") as f:
            sys.exit("FAIL: containerd is not ready: " + f.read()[-1000:])

    def __call__(self, *args):
        return run([*self.base, *args])

    def pull(self, name):
        """-> {digest}, facts of the tree"""
        self("images", "pull", "--plain-http", name)
        digest = next(l.split()[2] for l in self("images", "ls", "name==" + name).splitlines() if l.startswith(name))
        at = self.at + "/tree"
        os.makedirs(at, exist_ok=True)
        self("images", "mount", name, at)
        tree = plain(treediff.facts(at))
        self("images", "unmount", "--rm", at)
        self("images", "rm", "--sync", name)
        return {digest}, tree


def as_theirs(got, want, who):
    """A whiteout changes the time of its directory for them."""
    for tree in (got, want):
        tree["l0"].pop("mtime", None)
    same(got, want, who)


def raw(reference):
    """The manifest as the registry has it."""
    p = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", "docker://" + reference], stdout=subprocess.PIPE, check=True)
    return p.stdout


def digest_of(reference):
    return "sha256:" + hashlib.sha256(raw(reference)).hexdigest()


def by_podman(podman, name):
    podman("pull", "-q", "--tls-verify=false", name)
    # It knows one image by all digests it was ever pulled by.
    digests = podman("image", "inspect", "--format", "{{range .RepoDigests}}{{.}} {{end}}", name).split()
    digests = {d.split("@")[1] for d in digests if d.startswith(name.rpartition(":")[0] + "@")}
    tree = plain(treediff.facts(podman("image", "mount", name)))
    podman("image", "unmount", name)
    podman("rmi", "-f", name)
    return digests, tree


def expect(what, got, want):
    if got != want:
        raise Wrong("%s: %s, not %s" % (what, got, want))


def there_and_back(unlade, name, other, want, podman, containerd, work):
    """One image pulled, pushed, and read by everybody."""
    unlade.must("pull", "-q", name)
    tree = unlade.tree(name, work + "/tree")
    same(tree, want, "unlade's tree")
    unlade.must("tag", name, other)
    unlade.must("push", other)
    digest = digest_of(name)
    expect("digest of what was pushed", digest_of(other), digest)
    # All blobs are there, and are what they are called.
    skopeo("docker://" + other, "dir:" + work + "/dir", "--src-tls-verify=false")
    run(["rm", "-r", work + "/dir"])
    for who, (digests, seen) in (("podman", by_podman(podman, other)), ("containerd", containerd.pull(other))):
        if digest not in digests:
            raise Wrong("%s has %s, not %s" % (who, digests, digest))
        as_theirs(seen, tree, who + "'s tree")
    if name + "@" + digest in unlade.images():
        raise Wrong("a digest among the tags")
    by_digest = name.rpartition(":")[0] + "@" + digest
    unlade.must("rmi", name, other)
    unlade.must("pull", "-q", by_digest)
    same(unlade.tree(by_digest, work + "/tree"), want, "by digest")
    unlade.must("image", "prune", "-a", "-f")


def without_blobs(unlade, name, other, want, work):
    """Pulled without keeping blobs, pushed to a registry that has none of them: compressed again."""
    unlade.must("pull", "-q", name)
    unlade.must("tag", name, other)
    said = unlade.must("push", other)
    # Python may happen to compress as we do.
    again = digest_of(other) != digest_of(name)
    if ("compressed for the registry" in said) != again or digest_of(other) not in said or ("zstd" in name and not again):
        raise Wrong("push said: " + said)
    for at in (work + "/again", work + "/again.tree"):
        run(["rm", "-rf", at])
    # skopeo verifies each blob, and `unpack` the diffIDs.
    skopeo("docker://" + other, "oci:%s/again:x" % work, "--src-tls-verify=false")
    run([unlade.base[0], "unpack", "-q", "oci:%s/again:x" % work, work + "/again.tree"])
    same(plain(treediff.facts(work + "/again.tree")), want, "as skopeo reads it")
    ids = [json.loads(run(["skopeo", "inspect", "--config", "--tls-verify=false", "docker://" + n])) for n in (name, other)]
    expect("the config", ids[1], ids[0])
    unlade.must("rmi", name, other)
    unlade.must("pull", "-q", other)
    same(unlade.tree(other, work + "/tree"), want, "pulled again")
    unlade.must("image", "prune", "-a", "-f")


def index_of(registry, layouts, work):
    """An index of two platforms, written by hand as no tool here makes one of OCI layouts."""
    import urllib.request
    entries = []
    foreign = teststore.make_images(lab.workdir(work + "/foreign"), {"one": [0]}, files=12, arch="s390x")["one"]
    for layout, arch in ((foreign, "s390x"), (layouts["three"], MACHINE)):
        registry.put(layout, "multi:" + arch)
        manifest = raw("%s/multi:%s" % (registry.host, arch))
        entries.append({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": len(manifest),
                        "digest": "sha256:" + hashlib.sha256(manifest).hexdigest(), "platform": {"os": "linux", "architecture": arch}})
    media = "application/vnd.oci.image.index.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": entries}).encode()
    ask = urllib.request.Request("http://%s/v2/multi/manifests/latest" % registry.host, body, {"Content-Type": media}, method="PUT")
    urllib.request.urlopen(ask, timeout=30).close()
    return "%s/multi:latest" % registry.host


def platforms(unlade, name, trees, work):
    unlade.must("pull", "-q", name)
    same(unlade.tree(name, work + "/tree"), trees["three"], "of this platform")
    unlade.must("pull", "-q", "--platform", "linux/s390x", name)
    same(unlade.tree(name, work + "/tree"), trees["one"], "of s390x")
    unlade.must("image", "prune", "-a", "-f")


def archives(unlade, layout, want, podman, work):
    """save and load, both ways."""
    ours, name = work + "/ours.tar", "localhost/x:latest"
    for path in (ours, work + "/theirs.tar", work + "/podman.tar"):
        if os.path.exists(path):
            os.unlink(path)
    skopeo("oci:%s:latest" % layout.dir, "docker-archive:%s/theirs.tar:%s" % (work, name))
    unlade.must("load", "-i", work + "/theirs.tar")
    same(unlade.tree(name, work + "/tree"), want, "loaded from skopeo")
    unlade.must("save", "-o", ours, name)
    unlade.must("image", "prune", "-a", "-f")
    run(["skopeo", "inspect", "docker-archive:" + ours])
    podman("load", "-q", "-i", ours)
    as_theirs(plain(treediff.facts(podman("image", "mount", name))), copy.deepcopy(want), "saved, in podman")
    podman("image", "unmount", name)
    for form in ("docker-archive", "oci-archive"):
        podman("save", "-q", "--format", form, "-o", work + "/podman.tar", name)
        unlade.must("load", "-i", work + "/podman.tar")
        same(unlade.tree(name, work + "/tree"), want, "loaded from podman, " + form)
        unlade.must("image", "prune", "-a", "-f")
        os.unlink(work + "/podman.tar")
    podman("rmi", "-f", name)


def main(binary, work, *drivers):
    lab.private()
    work, began, runs, bad = lab.workdir(work), time.time(), 0, 0
    registry, containerd, podman = Registry(work), Containerd(work), Podman(work)
    forms = {c: teststore.make_images(work, SETS, files=12, compression=c) for c in ("gzip", "zstd", "tar")}
    layouts = forms["gzip"]
    trees = teststore.trees(binary, layouts, work)
    multi = index_of(registry, layouts, work)
    empty = Registry(lab.workdir(work + "/empty"))
    with open(work + "/never.toml", "w") as f:
        f.write('keep-blobs = "never"\n')
    for driver in drivers or ("overlay", "erofs"):
        kind, mib = lab.HOMES[driver]
        disk = Disk(kind, work + "/disk.img", work + "/disk", mib).make()
        unlade = Unlade(binary, disk.at + "/root", work + "/run." + driver, driver)
        tests = [("archives", archives, unlade, layouts["three"], trees["three"], podman, work), ("platforms", platforms, unlade, multi, trees, work)]
        for name in SETS if driver == (drivers or ("overlay",))[0] else ["three"]:
            for form, (compression, kind) in FORMS.items():
                reference = registry.put(forms[compression][name], "%s:%s" % (name, form), "--format", kind)
                other = "%s/copy/%s-%s:latest" % (registry.host, name, driver)
                tests.append(("%s, %s" % (name, form), there_and_back, unlade, reference, other, trees[name], podman, containerd, work))
        if driver == "erofs":
            never = Unlade(binary, disk.at + "/never", work + "/run.never", driver, work + "/never.toml")
            tests += [("without blobs, " + form, without_blobs, never, "%s/three:%s" % (registry.host, form), "%s/%s:1" % (empty.host, form),
                       trees["three"], work) for form in FORMS]
        for label, test, *args in tests:
            runs += 1
            try:
                test(*args)
            except Wrong as e:
                bad += 1
                print("FAIL %s, %s: %s" % (driver, label, e), flush=True)
        disk.umount()
    podman.remove()
    for process in (containerd.process, registry.process, empty.process):
        process.terminate()
        process.wait()
    run(["rm", "-rf", "--one-file-system", work])
    print("peers: %d tests in %d s, %d failures" % (runs, time.time() - began, bad))
    return 1 if bad or not runs else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
