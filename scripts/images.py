#!/usr/bin/env python3
"""Unpacks real images in every form and compares with umoci and GNU tar.

    images.py UNLADE WORK                  a small Debian image, and a proof that differences are seen
    images.py UNLADE WORK --full [NAME...] images of `perf workloads`; default: nodeapp pyds three big
                                           node-many python-many, in gzip, zstd and tar

Needs root, umoci, skopeo, podman, zstd. Each image is unpacked once by umoci and once by GNU tar;
then unlade unpacks it out of each form (imageforms.py), and each tree must be equal to both but
for KNOWN (imageknown.py). Anything else is printed, and the exit status is 1.
"""
import gzip, os, shutil, subprocess, sys, time

import imageforms, oddlayer, treediff
from imageforms import Layout, run
from imageknown import KNOWN, Scan, compare

PERF = os.environ.get("UNLADE_PERF_DIR", "/var/tmp/unlade-perf")


def remove(path):
    run(["rm", "-rf", "--one-file-system", path])


def umoci_tree(layout, work):
    bundle = os.path.join(work, "umoci")
    run(["umoci", "unpack", "--image", layout.dir + ":" + layout.ref, bundle])
    tree = treediff.facts(os.path.join(bundle, "rootfs"))
    remove(bundle)
    return tree


def tar_tree(layout, scan, work):
    """The layers in order. Whiteouts, and files in place of directories, which GNU tar does not
    do, are done here before each layer."""
    root = os.path.join(work, "tar")
    os.mkdir(root, 0o755)
    for path, members in zip(layout.blobs, scan.layers):
        for name, is_dir in members:
            above, base = os.path.split(name)
            at = os.path.join(root, name)
            if base == ".wh..wh..opq":
                above = os.path.join(root, above)
                for old in os.listdir(above) if os.path.isdir(above) else []:
                    remove(os.path.join(above, old))
            elif base.startswith(".wh."):
                remove(os.path.join(root, above, base[4:]))
            elif not is_dir and os.path.isdir(at) and not os.path.islink(at):
                remove(at)
        run(["tar", "-xpf", path, "-C", root, "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*",
             "--exclude=.wh.*", "--delay-directory-restore"])
    tree = treediff.facts(root)
    remove(root)
    return tree


def unpacked(unlade, source, dest, more=()):
    run([unlade, "unpack", "-q", *more, source, dest])
    return dest


def mounted_tree(unlade, source, work):
    """The overlay directories of `source`, mounted."""
    dest, merged, empty = (os.path.join(work, n) for n in ("layers", "merged", "empty"))
    unpacked(unlade, source, dest, ["--whiteouts", "overlay"])
    os.mkdir(merged)
    os.mkdir(empty)
    with open(os.path.join(dest, "lowerdirs")) as f:
        lowers = f.read().split() + [empty]
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", "lowerdir=" + ":".join(lowers), merged], cwd=dest, check=True)
    try:
        return treediff.facts(merged)
    finally:
        run(["umount", merged])
        for path in (dest, merged, empty):
            remove(path)


def one_image(unlade, layouts, work, kinds, extra=()):
    """Compares all forms of one image. -> (differences, forms, the tree's facts)"""
    plain = next(l for l in layouts if l.compression == "tar")
    assert all(l.diff_ids == plain.diff_ids for l in layouts), "layouts of different layers"
    scan = Scan(plain.blobs)
    references = [("umoci", umoci_tree(layouts[0], work)), ("tar", tar_tree(plain, scan, work))]
    references += extra
    tree, bad, forms, known = {}, 0, 0, {}
    for label, source in imageforms.forms(layouts, work, kinds):
        dest = os.path.join(work, "dest")
        # Both I/O engines, in turn.
        io = ["threads", "ring"][forms % 2]
        tree = treediff.facts(unpacked(unlade, source, dest, ["--io", io]))
        b, k = compare(label, tree, references, scan)
        remove(dest)
        bad, forms = bad + b, forms + 1
        for i, n in k.items():
            known[i] = max(known.get(i, 0), n)
        print("  %-34s %s" % (label, "as expected" if not b else "%d DIFFERENCES" % b), flush=True)
    label = "oci, overlay directories mounted"
    b, _ = compare(label, mounted_tree(unlade, "oci:%s:%s" % (layouts[0].dir, layouts[0].ref), work), references, scan, links=False)
    print("  %-34s %s" % (label, "as expected" if not b else "%d DIFFERENCES" % b), flush=True)
    for i, n in sorted(known.items()):
        print("  known, %d paths, %s: %s" % (n, KNOWN[i][0], KNOWN[i][3]))
    return bad + b, forms + 1, tree


def small_image(work):
    """The layouts of demo-image.py's layers with the odd layers on top."""
    run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo-image.py"), work])
    demo = Layout(os.path.join(work, "image"))
    tars = []
    for i, data in enumerate([gzip.open(b).read() for b in demo.blobs] + oddlayer.odd_layers()):
        tars.append(os.path.join(work, "layer%d.tar" % i))
        with open(tars[-1], "wb") as f:
            f.write(data)
    return [imageforms.write_layout(os.path.join(work, "in-" + c), tars, c) for c in ("gzip", "zstd", "tar")]


def prove(unlade, layout, scan, work):
    """Changes a tree in many small ways: each must be seen, and nothing else."""
    dest = unpacked(unlade, "oci:" + layout.dir, os.path.join(work, "dest"))
    before = treediff.facts(dest)
    wanted = treediff.disturb(dest)
    after = treediff.facts(dest)
    remove(dest)
    seen = {(path, field) for path, field, _, _ in treediff.diff(after, before)}
    for what, missing in (("not seen", wanted - seen), ("seen without cause", seen - wanted)):
        for path, field in sorted(missing):
            print("PROOF FAILS: %s %s %s" % (path, field, what))
    # The table of known differences must excuse none of them.
    sys.stdout.flush()
    with open(os.devnull, "w") as quiet:
        out, sys.stdout = sys.stdout, quiet
        excused = [n for n in ("umoci", "tar") if compare("proof", after, [(n, before)], scan)[0] != len(wanted)]
        sys.stdout = out
    print("proof: %d of %d changes seen%s" % (len(wanted & seen), len(wanted), ", excused by KNOWN" if excused else ""))
    return bool(wanted ^ seen or excused)


def committed(unlade, layout, work):
    """The same for an image whose last layer podman makes: a container's changes, committed. What
    podman itself had in the container is a third tree to compare with."""
    at, form = os.path.join(work, "committed"), os.path.join(work, "form")
    podman = imageforms.Podman(work)
    imageforms.skopeo("oci:" + layout.dir, "docker-archive:%s:x:latest" % form)
    podman("load", "-q", "-i", form)
    remove(form)
    box = podman("create", "x:latest", "/bin/true")
    root = podman("mount", box)
    in_box = lambda name: os.path.join(root, name)
    remove(in_box("usr/share/common-licenses"))
    os.unlink(in_box("hello"))
    shutil.copytree("/etc", in_box("srv/etc"), symlinks=True, ignore=lambda d, names: [n for n in names if n == "ssl"])
    os.link(in_box("srv/etc/passwd"), in_box("srv/linked"))
    os.setxattr(in_box("srv/etc/passwd"), "user.k", b"v")
    os.mknod(in_box("srv/zero"), 0o20666, os.makedev(1, 5))
    os.chmod(in_box("odd/mode"), 0o4711)
    want = treediff.facts(root)
    podman("commit", "-q", "--format", "oci", box, "y:latest")
    podman("save", "-q", "--uncompressed", "--format", "oci-dir", "-o", at, "y:latest")
    plain = Layout(at)
    podman.remove()
    print("committed by podman: %d layers" % len(plain.blobs))
    bad, forms, tree = one_image(unlade, [plain], work, {"oci", "podman"}, [("podman", want)])
    # Nothing of it is left that was removed, and there is what was added.
    for name, there in (("usr/share/common-licenses", False), ("hello", False), ("srv/linked", True)):
        if (name in tree) != there:
            bad += 1
            print("FAIL: %s is %sthere" % (name, "" if name in tree else "not "))
    return bad, forms


def main(unlade, work, *names):
    unlade = os.path.abspath(unlade)
    remove(work)
    os.makedirs(work)
    started, bad = time.time(), 0
    if "--full" not in names:
        layouts = small_image(work)
        print("small: %d layers" % len(layouts[0].blobs))
        bad, forms, tree = one_image(unlade, layouts, work, imageforms.KINDS)
        n = treediff.features(tree)
        print("  compared: " + ", ".join("%d %s" % (c, w) for w, c in sorted(n.items())))
        lacking = {"file", "dir", "symlink", "char", "block", "fifo", "xattrs", "nanoseconds", "hard links", "set-id", "owners"} - n.keys()
        if lacking:
            print("FAIL: nothing to compare of %s" % sorted(lacking))
        bad += len(lacking) + prove(unlade, layouts[0], Scan(layouts[2].blobs), work)
        b, f = committed(unlade, layouts[0], work)
        bad, forms = bad + b, forms + f
    else:
        forms = 0
        for name in [n for n in names if n != "--full"] or ["nodeapp", "pyds", "three", "big", "node-many", "python-many"]:
            layouts = [Layout(os.path.join(PERF, "images", name + end)) for end in ("", "-zstd", "-tar")]
            print("%s: %d layers, manifest %s" % (name, len(layouts[0].blobs), layouts[0].manifest))
            b, f, tree = one_image(unlade, layouts, work, imageforms.KINDS - {"outer"})
            print("  compared: " + ", ".join("%d %s" % (c, w) for w, c in sorted(treediff.features(tree).items())))
            bad, forms = bad + b, forms + f
    shutil.rmtree(work)
    print("images: %d trees compared in %d s, %d differences" % (forms, time.time() - started, bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
