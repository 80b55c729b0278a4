#!/usr/bin/env python3
"""Many containers, floods, storms and kills: load.py UNLADE WORK [--percent N] [--seed S] [SCENE...]

Needs root, busybox-static, runc, catatonit, netavark, iptables, strace. Scenes, by default all:
  serial   containers run, and created, started, stopped and removed, one after the other
  many     as many started, running, stopped and removed at a time; `ps` answers all the while
  deaf     as many that ignore SIGTERM are stopped at a time
  idle     containers that do nothing: their shims are small and sleep
  flood    output at full speed, with and without rotation; readers that stall
  odd      output that is no text for people: one long line, NULs, single bytes
  exec     processes in a running container, one by one, at a time, that cannot start, detached
  storm    clients that attach, resize, signal, read and are killed
  killed   commands killed while as many containers start, and `run` killed at one step after the other
  anytime  every process that takes part in a command, from `run` to `commit`, killed at random times
--percent 100, the default, is what reliability.md asks for; a test says 1 to 5.

After each scene there are no more processes, mounts, control groups, network namespaces, interfaces,
rules, directories and records than before; during exec and storm no shim gets larger.
"""
import fcntl, json, os, pty, random, signal, struct, subprocess, sys, termios, threading, time

import boxes, kills, lab
from boxes import DEAF, Boxes, Size, Watch, until
from imageforms import run
from teststore import Wrong

# KiB of its own that a shim has at most, with every buffer in use.
MOST = 8192
# And one whose container does nothing.
IDLE = 2048


def times(label, took):
    took, tenth = list(took), max(1, len(took) // 10)
    first, last, order = sum(took[:tenth]) / tenth, sum(took[-tenth:]) / tenth, sorted(took)
    at = lambda share: 1000 * order[min(len(order) - 1, int(len(order) * share))]
    print("  %-12s %5d  p50 %6.1f  p99 %6.1f  most %6.1f ms; the last tenth against the first: %+.0f %%"
          % (label, len(took), at(0.5), at(0.99), at(1), 100 * (last / first - 1)), flush=True)


def timed(call, *args, **more):
    began = time.time()
    call(*args, **more)
    return time.time() - began


def serial(u, n, r):
    times("run --rm", [timed(u.must, *u.words("run", "--rm")) for _ in range(n)])
    steps = {"create": u.words("create", "--name", "one", command=boxes.SLEEPS), "start": ["start", "one"], "stop": ["stop", "one"], "rm": ["rm", "one"]}
    took = []
    for _ in range(n):
        took.append({step: timed(u.must, *steps[step]) for step in ("create", "start")})
        # What is signalled before it has said how it takes that would be killed ten seconds later.
        until("it is ready", lambda: "ready" in u.must("logs", "one"))
        took[-1].update((step, timed(u.must, *steps[step])) for step in ("stop", "rm"))
    for step in steps:
        times(step, [t[step] for t in took])


class Asking(threading.Thread):
    """Lists containers until it is told to stop."""

    def __init__(self, u):
        super().__init__()
        self.u, self.took, self.error, self.over = u, [], None, threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            try:
                self.took.append(timed(self.u.ids, "-a"))
            except Wrong as e:
                self.error = e
                return


def many(u, n, r):
    names = ["m%d" % i for i in range(n)]
    asking = Asking(u)
    asking.start()
    try:
        # Every fifth has a network of its own.
        began = time.time()
        u.all_well(u.words("run", "-d", "--name", m, network="bridge" if not i % 5 else "none", command=boxes.SLEEPS) for i, m in enumerate(names))
        started = time.time()
        if len(u.ids()) != n:
            raise Wrong("%d of %d run" % (len(u.ids()), n))
        running = time.time()
        u.all_well(["stop", m] for m in names)
        stopped = time.time()
        if u.ids():
            raise Wrong("run, though stopped: %s" % u.ids())
        codes = {u.must("inspect", "-f", "{{.State.ExitCode}}", m).strip() for m in names[:5]}
        if codes != {"0"}:
            raise Wrong("stopped, they ended with %s" % codes)
        u.all_well(["rm", m] for m in names)
    finally:
        asking.over.set()
        asking.join()
    if asking.error:
        raise asking.error
    print("  %d started in %.1f s, stopped in %.1f s" % (n, started - began, stopped - running))
    times("ps meanwhile", asking.took)


def deaf(u, n, r):
    names = ["d%d" % i for i in range(n)]
    u.all_well(u.words("run", "-d", "--name", m, command=DEAF) for m in names)
    for m in names:
        until("%s is ready" % m, lambda: "ready" in u.must("logs", m))
    began = time.time()
    u.must("stop", "-t", "2", *names)
    took = time.time() - began
    codes = {u.must("inspect", "-f", "{{.State.ExitCode}}", m).strip() for m in names}
    if codes != {"137"} or took < 2:
        raise Wrong("after %.1f s they ended with %s" % (took, codes))
    # One after the other they take two seconds each.
    if took > 12 + 0.2 * n:
        raise Wrong("%d took %.1f s" % (n, took))
    print("  %d stopped in %.1f s" % (n, took))
    u.must("rm", *names)


def numbers(text, what, last, first=None):
    """Every number up to the last is there, once and in order; from `first`, or any."""
    got = [int(l) for l in text.splitlines()]
    want = list(range(got[0] if first is None and got else first or 1, last + 1))
    if got != want:
        raise Wrong("%s: %d lines, %s to %s, not %d" % (what, len(got), got[:1], got[-1:], len(want)))


def log_files(u, id):
    at = "%s/containers/%s" % (u.root, id)
    return ["%s/%s" % (at, f) for f in boxes.listed(at) if ".log" in f]


def switches(pid):
    """How often a process went to sleep, or was made to wait."""
    return sum(int(l.split()[1]) for l in boxes.lines("/proc/%d/status" % pid) if "ctxt_switches" in l)


def idle(u, n, r, seconds):
    names = ["i%d" % i for i in range(n)]
    flags = lambda i: ["--restart", "always"] if not i % 10 else []
    for at in range(0, n, 20):
        u.all_well(u.words("run", "-d", "--name", m, *flags(at + i), command=boxes.SLEEPS) for i, m in enumerate(names[at:at + 20]))
    # Looked at each second, it may wake up as often as that takes.
    felt = u.size(u.up("felt", "--health-cmd", "true", "--health-interval", "1s")).pid
    until("it is healthy", lambda: "healthy" in u.must("inspect", "-f", "{{.State.Health.Status}}", "felt").split())
    quiet = [pid for pid in boxes.shims() if pid != felt]
    sizes = [Size(pid) for pid in [*quiet, felt]]
    until("all shims sleep", lambda: [switches(pid) for pid in quiet] == (time.sleep(1) or [switches(pid) for pid in quiet]))
    before, felt_before = [switches(pid) for pid in quiet], switches(felt)
    time.sleep(seconds)
    woke = sum(a != b for a, b in zip(before, [switches(pid) for pid in quiet]))
    most = Size.most(sizes)
    print("  %d shims have at most %s; in %d s %d woke up, and the one of health checks %d times"
          % (len(sizes), most, seconds, woke, switches(felt) - felt_before))
    if len(quiet) != n or woke or most.kib > IDLE or most.threads > 1:
        raise Wrong("%d shims, not quiet and small" % len(quiet))
    u.must("rm", "-f", "felt", *names)


def flood(u, n, r, containers, lines):
    command, kept = ["seq", "1", str(lines)], ["--log-opt", "max-size=1m", "--log-opt"]
    with Watch() as watch:
        ids = {"f%d" % i: u.up("f%d" % i, *kept, "max-file=%d" % (2 if i % 2 else 1000), command=command) for i in range(containers)}
        follows = u.start("logs", "-f", "f0")
        # Nobody reads what this one says, for now: it waits for its reader.
        stalled = u.start(*u.words("run", "--rm", "--name", "stalled", *kept, "max-file=1000", command=command))
        for name in ids:
            u.must("wait", name)
        if "stalled" not in u.must("ps", "--format", "{{.Names}}"):
            raise Wrong("it ended, though nobody reads what it says: %s" % stalled.communicate()[1])
        numbers(stalled.communicate(timeout=300)[0], "a reader that stalled", lines)
        numbers(follows.communicate(timeout=300)[0], "a follower that stalled", lines)
    for i, (name, id) in enumerate(ids.items()):
        numbers(u.must("logs", name), "the log of " + name, lines, None if i % 2 else 1)
        sizes = [os.path.getsize(f) for f in log_files(u, id)]
        if max(sizes) > 1.01 * (1 << 20) or i % 2 and len(sizes) > 2:
            raise Wrong("sizes of logs: %s" % sizes)
    u.must("rm", *ids)
    if watch.most > MOST:
        raise Wrong("a shim had %d KiB" % watch.most)
    print("  %d containers wrote %d lines each; a shim had %d KiB at most" % (containers, lines, watch.most))


def odd(u, n, r, length, writes):
    size = ["--log-opt", "max-size=200m", "--log-opt", "max-file=100"]
    with Watch() as watch:
        for name, script, want in [("long", "head -c %d /dev/zero | tr '\\0' x" % length, None),
                                   ("nul", "head -c 40000 /dev/zero; printf 'a\\0b\\n'", "\0" * 40000 + "a\0b\n"),
                                   ("single", "i=0; while [ $i -lt %d ]; do printf .; i=$((i+1)); done; echo end" % writes, "." * writes + "end\n")]:
            id = u.up(name, *size, command=["sh", "-c", script])
            u.must("wait", name)
            got = u.must("logs", name)
            if want is not None and got != want or want is None and (len(got), got.strip("x")) != (length, ""):
                raise Wrong("%s: %d characters are not what was written" % (name, len(got)))
            for f in log_files(u, id):
                with open(f) as log:
                    most = max((len(json.loads(l)["log"]) for l in log), default=0)
                if most > 16384:
                    raise Wrong("%s: %d characters in one record" % (name, most))
            u.must("rm", name)
    if watch.most > MOST:
        raise Wrong("a shim had %d KiB" % watch.most)
    print("  a line of %d and %d writes; a shim had %d KiB at most" % (length, writes, watch.most))


def there():
    """Names of the processes, but for those that a shell of ours makes all the time."""
    return sorted(n for n in boxes.processes().values() if n not in ("sh", "usleep"))


def level(u, id, label, before):
    """What runs in it has gone, and its shim has not grown."""
    def places():
        # Of one that is detached, or whose command was killed, the next takes it away.
        u.must("exec", id, "true")
        return boxes.listed("%s/containers/%s/exec" % (u.run_root, id))
    until(lambda: "records of what ran: %s" % places(), lambda: not places())
    now = lambda: (there(), u.size(id))

    def same():
        names, size = now()
        return names == before[0] and size.fds <= before[1].fds and size.threads <= before[1].threads
    until(lambda: "%s: grown from %s to %s" % (label, before, now()), same)
    size = now()[1]
    if size.kib > before[1].kib + 1024:
        raise Wrong("%s: a shim grew from %d to %d KiB" % (label, before[1].kib, size.kib))
    return size


def execs(u, n, r):
    id = u.up("ex")
    until("it is ready", lambda: "ready" in u.must("logs", "ex"))
    u.must("exec", "ex", "true")
    before = there(), u.size(id)
    times("exec", [timed(u.must, "exec", "ex", "true") for _ in range(n)])
    ends = u.all([["exec", "ex", "echo", str(i)] for i in range(max(10, n // 50))])
    if [e[1] for e in ends] != ["%d\n" % i for i in range(len(ends))]:
        raise Wrong("at a time: %s" % [e for e in ends if e[0]][:1])
    level(u, id, "execs", before)
    missing = [u("exec", "ex", "missing") for _ in range(max(5, n // 10))]
    if {m[0] for m in missing} != {127}:
        raise Wrong("of what is not there: %s" % [m for m in missing if m[0] != 127][0:1])
    u.all_well([["exec", "-d", "ex", "sleep", "0.2"]] * max(5, n // 100))
    # Those that get the end of their input late.
    late = [subprocess.Popen([*u.base, "exec", "-i", "ex", "cat"], env=u.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(max(3, n // 100))]
    time.sleep(0.5)
    for i, p in enumerate(late):
        if p.communicate("late %d" % i, timeout=60)[0] != "late %d" % i:
            raise Wrong("what was said late did not come back")
    size = level(u, id, "all execs", before)
    print("  the shim had %s, then %s" % (before[1], size))
    # What still runs ends with it.
    long = [u.start("exec", "ex", "sleep", "1000") for _ in range(max(3, n // 100))]
    until("they run", lambda: list(boxes.processes().values()).count("sleep") >= len(long) + 1)
    u.must("rm", "-f", "ex")
    for p in long:
        if p.wait(60) != 137:
            raise Wrong("one ended with %d" % p.returncode)
        p.communicate()


def attached(u, name, r):
    """A client on a terminal that is resized and killed."""
    pid, tty = pty.fork()
    if not pid:
        os.execve(u.base[0], [*u.base, "attach", name], u.env)
    try:
        for _ in range(r.randrange(6)):
            fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", r.randrange(1, 200), r.randrange(1, 200), 0, 0))
            time.sleep(r.uniform(0, 0.02))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(tty)


def storm(u, n, r):
    talks = ["sh", "-c", "trap : WINCH USR1; echo ready; while :; do echo line; usleep 1000; done"]
    ids = {"tty": u.up("tty", "-t", command=talks), "pipe": u.up("pipe", command=talks)}
    for name in ids:
        until("it is ready", lambda: "ready" in u.must("logs", name))
        u.must("exec", name, "true")
    before = {name: u.size(id) for name, id in ids.items()}
    names = there()
    steps = [["attach", "pipe"], ["logs", "-f", "pipe"], ["stats", "pipe"], ["events"], ["wait", "tty"], ["exec", "tty", "sleep", "0.3"],
             ["kill", "-s", "USR1", "tty"], ["kill", "-s", "WINCH", "pipe"], ["top", "tty"]]
    for _ in range(n):
        some = [u.start(*r.choice(steps)) for _ in range(4)]
        attached(u, "tty", r)
        time.sleep(r.uniform(0, 0.1))
        for p in some:
            p.kill()
            p.communicate()
    for name, id in ids.items():
        # Of both, for what runs in one is seen at the other.
        size = level(u, id, "storm on " + name, (names, before[name]))
        print("  %d rounds; the shim of %s had %s, then %s" % (n, name, before[name], size))
    ends = u.all([["kill", "-s", "KILL", name] for name in ids for _ in range(5)])
    bad = [e for e in ends if e[0] and "not running" not in e[2]]
    if bad or len([e for e in ends if not e[0]]) < 2:
        raise Wrong("killed at a time: %s" % (bad or ends))
    u.must("rm", "-f", *ids)


def main(binary, work, *args):
    boxes.private()
    args, options = lab.options(args, percent=100, seed=1)
    share, work, began, bad, runs = options["percent"] / 100, lab.workdir(work), time.time(), 0, 0
    count = lambda n, least: max(least, int(n * share))
    scenes = {"serial": (serial, count(1000, 8)), "many": (many, count(200, 6)), "deaf": (deaf, count(200, 5)),
              "idle": (idle, count(1000, 5), count(60, 3)),
              "flood": (flood, 0, count(50, 3), count(1000000, 300000)), "odd": (odd, 0, count(1 << 30, 3000000), count(1000000, 3000)),
              "exec": (execs, count(10000, 8)), "storm": (storm, count(2500, 4)), "killed": (kills.steps, count(50, 8), 1 if share == 1 else 40), "anytime": (kills.anytime, count(20, 0))}
    u = Boxes(binary, work)
    # What the first of its kind makes, and leaves for the others.
    u.must(*u.words("run", "--rm", network="bridge"))
    until(lambda: "shims are left: %s" % boxes.shims(), lambda: not boxes.shims())
    before = u.census_of_containers()
    for name in args or scenes:
        scene, n, *more = scenes[name]
        runs += 1
        start = time.time()
        try:
            scene(u, n, random.Random(options["seed"]), *more)
            u.unchanged(before)
            print("load: %s in %.1f s" % (name, time.time() - start), flush=True)
        except Wrong as e:
            bad += 1
            print("FAIL %s: %s" % (name, e), flush=True)
            left = u("ps", "-aq")[1].split()
            if left:
                u("rm", "-f", "-v", *left)
            before = u.census_of_containers()
    u.must("system", "check")
    u.leave()
    run(["rm", "-rf", "--one-file-system", work])
    print("load: %d scenes in %d s, %d failures" % (runs, time.time() - began, bad))
    return 1 if bad or not runs else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
