#!/usr/bin/env python3
"""Gzip decoders as whole processes, interleaved: perf/decode.py [--runs N] [--out DIR] FILE.gz...

Output goes to /dev/null, the input is in the page cache. Medians of wall and CPU seconds, peak RSS,
and ratios to `unlade gunzip -t 1` of paired rounds. In-process figures (libdeflate into re-used and
fresh memory, zlib-ng, zlib-rs) come from benches/examples/decoders, which is run first if built.
"""
import argparse, datetime, json, os, platform, shutil, statistics, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))


def contestants(unlade):
    ours = {f"unlade -t {n}": [unlade, "gunzip", "-t", str(n)] for n in (1, 2, 4, 8)}
    peers = {
        "igzip": ["igzip", "-d", "-c"],
        "libdeflate-gunzip": ["libdeflate-gunzip", "-c"],
        "pigz": ["pigz", "-d", "-c"],
        "gzip": ["gzip", "-d", "-c"],
        "rapidgzip -P 1": ["rapidgzip", "-d", "-c", "-P", "1"],
        "rapidgzip -P 2": ["rapidgzip", "-d", "-c", "-P", "2"],
    }
    found = {name: argv for name, argv in peers.items() if shutil.which(argv[0])}
    for name in sorted(set(peers) - set(found)):
        print(f"left out: {name} is not installed", file=sys.stderr)
    return ours | found


def run(argv, file):
    before = time.monotonic()
    null = os.open(os.devnull, os.O_WRONLY)
    pid = os.posix_spawnp(argv[0], [*argv, file], os.environ,
                          file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    os.close(null)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - before
    if status:
        sys.exit(f"{' '.join(argv)} {file}: status {status}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss_kib": usage.ru_maxrss}


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("files", nargs="+")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--unlade", default=os.path.join(TARGET, "release/unlade"))
    p.add_argument("--out")
    args = p.parse_args()
    who = contestants(args.unlade)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    date = datetime.date.today().isoformat()
    text = [f"# perf decode, {date}", "",
            f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.2f} at the "
            f"start. Whole processes, output to /dev/null, {args.runs} interleaved rounds; medians, in brackets "
            "the least and the most of paired ratios to `unlade gunzip -t 1`.", ""]
    data = {"date": date, "cpu": cpu, "cores": os.cpu_count(), "runs": args.runs, "files": {}}
    inside = os.path.join(TARGET, "release/examples/decoders")
    for file in args.files:
        name = os.path.basename(file)
        with open(file, "rb") as f:  # into the page cache
            while f.read(1 << 20):
                pass
        rows = {c: [] for c in who}
        for _ in range(args.runs):
            for c, argv in who.items():
                rows[c].append(run(argv, file))
        data["files"][name] = rows
        base = rows["unlade -t 1"]
        text += [f"## {name}", "",
                 "| decoder | wall s | CPU s | peak RSS MiB | wall / unlade -t 1 | CPU / unlade -t 1 |",
                 "|---|---|---|---|---|---|"]
        for c, r in rows.items():
            ratio = lambda key: spread([x[key] / b[key] for x, b in zip(r, base)])
            text.append(f"| {c} | {median(r, 'wall'):.3f} | {median(r, 'cpu'):.3f} | "
                        f"{median(r, 'rss_kib') / 1024:.0f} | {ratio('wall')} | {ratio('cpu')} |")
        if os.path.exists(inside):
            out = subprocess.run([inside, file, str(args.runs)], check=True, capture_output=True, text=True)
            data["files"][name + " inside"] = out.stdout
            text += ["", "In one process, CPU seconds:", "", "```", out.stdout.rstrip(), "```"]
        text.append("")
    text = "\n".join(text)
    print(text)
    if args.out:
        for ext, body in (("md", text), ("json", json.dumps(data, indent=1) + "\n")):
            with open(os.path.join(args.out, f"{date}-decode.{ext}"), "w") as f:
                f.write(body)


if __name__ == "__main__":
    main()
