#!/usr/bin/env python3
"""Gives the requests of tests/specs to podman and compares the specs: podman-specs.py [--write] [--verbose]

Each request of crates/engine/tests/specs/requests.json that has `flags` is made into a container
by Debian's podman (as root, with runc), whose config.json is held against ours field by field.
Every difference must be explained by an entry of REASONS; one that is not is printed, and the
script fails. --write writes the table of docs/specs.md, --verbose prints every difference.
"""
import hashlib, io, json, os, re, shlex, shutil, subprocess, sys, tarfile, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SPECS = os.path.join(HERE, "../crates/engine/tests/specs")
DOC = os.path.join(HERE, "../docs/specs.md")
ID = "0123456789abcdef" * 4
MARK = "<!-- the table below is written by scripts/podman-specs.py --write -->\n"

# Where the two differ, and why. The first that matches counts; ours or theirs is None where one
# side does not have the field.
REASONS = json.load(open(os.path.join(HERE, "podman-specs.json")))


def layer():
    """A root in which podman finds what it looks for; nothing of it runs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name in ["bin", "etc", "srv", "opt", "data", "app", "srv/web", "home/me", "dev", "proc", "sys"]:
            m = tarfile.TarInfo(name)
            m.type, m.mode = tarfile.DIRTYPE, 0o755
            t.addfile(m)
        passwd = b"root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/sh\n"
        group = b"root:x:0:\nadm:x:4:\nsudo:x:27:\nme:x:1000:\nnogroup:x:65534:\n"
        files = {"etc/passwd": (passwd, 0o644), "etc/group": (group, 0o644)}
        for name in ["bin/sh", "bin/ls", "bin/x", "bin/b", "entry", "mine"]:
            files[name] = (b"#!/bin/sh\n", 0o755)
        for name, (data, mode) in files.items():
            m = tarfile.TarInfo(name)
            m.size, m.mode = len(data), mode
            t.addfile(m, io.BytesIO(data))
    return out.getvalue()


def layout(path, config):
    """An OCI layout with one image."""
    blobs = os.path.join(path, "blobs/sha256")
    os.makedirs(blobs)

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as f:
            f.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    oci = "application/vnd.oci.image."
    tar = blob(layer(), oci + "layer.v1.tar")
    document = {"architecture": "amd64", "os": "linux", "config": config,
                "rootfs": {"type": "layers", "diff_ids": [tar["digest"]]}}
    config = blob(json.dumps(document).encode(), oci + "config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": [tar]}
    manifest = blob(json.dumps(manifest).encode(), oci + "manifest.v1+json")
    for name, value in [("oci-layout", {"imageLayoutVersion": "1.0.0"}),
                        ("index.json", {"schemaVersion": 2, "manifests": [manifest]})]:
        with open(os.path.join(path, name), "w") as f:
            json.dump(value, f)


def of_podman(case, work):
    """The config.json that podman makes of a request."""
    podman = ["podman", "--root", work + "/root", "--runroot", work + "/run", "--storage-driver", "vfs",
              "--cgroup-manager", "cgroupfs", "--runtime", "runc"]

    def run(*args, must=True):
        p = subprocess.run([*podman, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if must and p.returncode:
            sys.exit(f"{case['name']}: podman {' '.join(args)}: {p.stderr}")
        return p

    config = {"Cmd": ["sh"], **case.get("image", {})}
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    source = f"{work}/image-{key}"
    if not os.path.exists(source):
        layout(source, config)
        image = run("pull", "-q", f"oci:{source}").stdout.strip()
        with open(source + ".id", "w") as f:
            f.write(image)
    image = open(source + ".id").read()
    flags = shlex.split(case["flags"])
    for option in case.get("host_config", {}).get("SecurityOpt", []):
        if option.startswith("seccomp={"):
            with open(work + "/profile.json", "w") as f:
                f.write(option.removeprefix("seccomp="))
            flags = [f.replace("PROFILE", work + "/profile.json") for f in flags]
    if "IMAGE" not in flags:
        flags.append("IMAGE")
    at = flags.index("IMAGE")
    network = [] if "--network" in flags else ["--network", "none"]
    made = run("create", *network, *flags[:at], image, *flags[at + 1:]).stdout.strip()
    start = run("container", "init", made, must=False)
    path = f"{work}/root/vfs-containers/{made}/userdata/config.json"
    try:
        spec = json.load(open(path))
    except OSError:
        sys.exit(f"{case['name']}: podman made no config.json: {start.stderr}")
    run("rm", "-f", made, must=False)
    text = json.dumps(spec).replace(made, "ID").replace(made[:12], "ID12").replace(work, "WORK")
    return json.loads(text)


def leaves(path, value, out):
    """As spec/explain.rs names fields."""
    sets = {"process.env": None, "process.rlimits": "type", "mounts": "destination", "linux.namespaces": "type",
            "linux.devices": "path", "linux.maskedPaths": None, "linux.readonlyPaths": None}
    if isinstance(value, dict) and value:
        for key, below in value.items():
            dotted = path in ("linux.sysctl", "annotations")
            leaves(f"{path}[{key}]" if dotted else f"{path}.{key}" if path else key, below, out)
    elif path == "linux.seccomp.syscalls":
        for name, rules in by_name(value).items():
            out[f"linux.seccomp[{name}]"] = rules
    elif path == "linux.resources.devices":
        for rule in value:
            numbers = f"{rule.get('type', 'a')} {rule.get('major', '*')}:{rule.get('minor', '*')}"
            out[f"{path}[{numbers}]"] = f"{'allow' if rule['allow'] else 'deny'} {rule['access']}"
    elif isinstance(value, list) and (path in sets or path.startswith("process.capabilities.")):
        for entry in value:
            if path == "process.env":
                name, _, text = entry.partition("=")
                out[f"{path}[{name}]"] = text
            elif isinstance(entry, str):
                out[f"{path}[{entry}]"] = True
            else:
                leaves(f"{path}[{entry[sets[path]]}]", entry, out)
    else:
        out[path] = sorted(value) if path.endswith((".options", ".additionalGids")) else value


def by_name(rules):
    """What happens to each call, in words."""
    out = {}
    for rule in rules or []:
        args = " and ".join(f"arg{a['index']} {a['op'].removeprefix('SCMP_CMP_')} {a['value']}"
                            + (f"/{a.get('valueTwo', 0)}" if "MASKED" in a["op"] else "")
                            for a in rule.get("args") or [])
        does = rule["action"].removeprefix("SCMP_ACT_") + (f" {rule['errnoRet']}" if rule.get("errnoRet") else "")
        for name in rule["names"]:
            out.setdefault(name, []).append(does + (f" if {args}" if args else ""))
    return {name: "; ".join(sorted(set(rules))) for name, rules in out.items()}


def ours(case, default):
    spec = json.load(open(f"{SPECS}/{case['name']}.json"))["spec"]
    if spec["linux"].get("seccomp") == "default":
        spec["linux"]["seccomp"] = default
    text = json.dumps(spec).replace(ID, "ID").replace(ID[:12], "ID12")
    return json.loads(text)


def why(case, path, mine, theirs):
    for n, reason in enumerate(REASONS):
        only = reason.get("only")
        if only and not re.fullmatch(only, case["name"]):
            continue
        if not re.fullmatch(reason["field"], path):
            continue
        if any(key in reason and not re.fullmatch(reason[key], json.dumps(value))
               for key, value in [("ours", mine), ("podman", theirs)]):
            continue
        return n
    return None


def main():
    cases = json.load(open(SPECS + "/requests.json"))
    cases = [c for c in cases if c.get("flags") is not None and "error" not in c]
    default = json.load(open(SPECS + "/default.json"))["spec"]["linux"]["seccomp"]
    found, unexplained, fields = {}, 0, 0
    # podman makes an image's name of the path: no underscores.
    work = os.path.join(tempfile.gettempdir(), f"podman-specs-{os.getpid()}")
    os.mkdir(work, 0o700)
    try:
        for case in cases:
            a, b = {}, {}
            leaves("", ours(case, default), a)
            leaves("", of_podman(case, work), b)
            fields += len(a.keys() | b.keys())
            for path in sorted(a.keys() | b.keys()):
                mine, theirs = a.get(path), b.get(path)
                if mine == theirs:
                    continue
                reason = why(case, path, mine, theirs)
                if "--verbose" in sys.argv:
                    print(f"{REASONS[reason]['what'] if reason is not None else '-'}\t{case['name']}\t{path}\t{json.dumps(mine)}\t{json.dumps(theirs)}")
                if reason is None:
                    unexplained += 1
                    print(f"{case['name']}\t{path}\t{json.dumps(mine)}\t{json.dumps(theirs)}", flush=True)
                else:
                    found.setdefault(reason, []).append((case["name"], path, mine, theirs))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    explained = sum(map(len, found.values()))
    print(f"{len(cases)} requests, {fields} fields, {explained} differences explained, {unexplained} not")
    for n, reason in enumerate(REASONS):
        if n not in found:
            print(f"nothing is explained by: {reason['field']}", file=sys.stderr)
    if "--write" in sys.argv and not unexplained:
        write(cases, found, fields)
    sys.exit(unexplained != 0)


def write(cases, found, fields):
    def cell(value):
        text = "-" if value is None else json.dumps(value)
        return "`" + (text[:60] + "…" if len(text) > 60 else text).replace("|", "\\|") + "`" if value is not None else "-"

    head = open(DOC).read().split(MARK)[0]
    with open(DOC, "w") as f:
        f.write(head + MARK)
        f.write(f"\n{len(cases)} requests, {fields} fields, {sum(map(len, found.values()))} of them differ.\n\n")
        f.write("| what differs | why | requests | for example | unlade | podman |\n|---|---|---|---|---|---|\n")
        for n in sorted(found):
            list_ = found[n]
            names = {name for name, *_ in list_}
            _, path, mine, theirs = list_[0]
            f.write(f"| {REASONS[n]['what']} | {REASONS[n]['why']} | {len(names)} | `{path}` | {cell(mine)} | {cell(theirs)} |\n")


main()
