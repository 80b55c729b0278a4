"""Processes that are killed, for load.py: a command at one step after the other, and every process
that takes part at random times. What follows is always the same: the next command takes up what is
left, and once the containers are removed there is no more than before.
"""
import os, random, signal, time

import boxes
from boxes import Boxes, until
from teststore import Wrong

# Calls of a command at which it is killed, in its first thread.
CALLS = ["?rename,?renameat,renameat2", "?open,openat,openat2", "?mkdir,mkdirat", "?unlink,unlinkat,?rmdir", "sendto,sendmsg,recvfrom,recvmsg", "?fork,?vfork,clone,clone3"]


def sound(u, what, ended=False):
    """After the next command each container runs or was only made, and each process, directory and
    so on is of one of these; -> the ids. Some may have `ended`: a shim was killed, say."""
    def gaps():
        ids, now = sorted(u.ids("-a")), u.census_of_containers()
        states = dict(l.split() for l in u.must("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}").splitlines())
        # Of one whose shim was killed all stays until it is removed.
        live = sorted(id for id, state in states.items() if state in ("running", "dead"))
        running, groups = [id for id in live if states[id] == "running"], {os.path.basename(g) for g in now["control groups"]}
        odd = {k: now[k] for k, of in [("run directories", live), ("snapshots", ids)] if now[k] != of}
        odd.update((k, now[k]) for k, of in [("network namespaces", live), ("logs", ids)] if set(now[k]) - set(of))
        allowed = {"running", "created", *(["exited", "dead"] if ended else [])}
        if groups - set(live) or len(boxes.shims()) != len(running) or set(states.values()) - allowed:
            odd["containers"] = [states, groups, boxes.shims()]
        return odd
    until(lambda: "%s: %s" % (what, gaps()), lambda: not gaps())
    # One without its shim is listed too.
    for id in u.ids("-f", "status=running"):
        status, _, err = u("exec", id, "true")
        if status:
            raise Wrong("%s: one that runs takes no command: %s; %s" % (what, err, u.must("ps", "-a")))
    return u.ids("-a")


def gone(u, ids):
    if ids:
        u.must("rm", "-f", "-v", *ids)


def steps(u: Boxes, n: int, r: random.Random, step: int):
    """Commands killed while as many containers start, and `run` killed at one step after the other."""
    commands = [u.start(*u.words("run", *(["--rm"] if i % 3 == 0 else ["-d"]), network="bridge" if not i % 4 else "none", command=boxes.SLEEPS)) for i in range(n)]
    for p in commands:
        time.sleep(r.uniform(0, 0.15))
        r.choice(commands).kill()
    for p in commands:
        p.kill()
    for p in commands:
        p.communicate()
    ids = sound(u, "%d killed" % n)
    print("  %d commands killed, %d containers run on" % (n, len(ids)))
    gone(u, ids)
    runs = 0
    for group in CALLS:
        at = 1 + r.randrange(step)
        while True:
            prefix = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=" + group, "-e", "inject=%s:signal=KILL:when=%d" % (group, at)]
            status, _, err = u(*u.words("run", "-d", "-v", "/data", network="bridge" if runs % 2 else "none", command=boxes.SLEEPS), prefix=prefix)
            runs += 1
            if status not in (0, 137):
                raise Wrong("%s %d: status %d: %s" % (group, at, status, err[-400:]))
            gone(u, sound(u, "killed at %s %d" % (group, at)))
            if u.must("volume", "ls", "-q"):
                raise Wrong("killed at %s %d: volumes are left" % (group, at))
            if status == 0:
                break
            at += step
    print("  `run` killed at %d of its steps" % runs)


# What is done to the container `busy`, and who is killed meanwhile: the command itself, or a process by
# the beginning of its name. `unlade` is what a shim becomes when all is over: it cleans up.
NEW = ["run", "-d", "--name", "new", "-v", "/data", "-p", "80"]
COMMANDS = {
    "run": (NEW, ["itself", "unlade-shim", "runc", "netavark", "iptables", "aardvark-dns"]),
    "run --rm": (["run", "--rm", "--name", "new", "-v", "/data", "-p", "80"], ["itself", "unlade-shim", "runc", "netavark", "unlade"]),
    "start": (["start", "idle"], ["itself", "unlade-shim", "runc", "netavark"]),
    "stop": (["stop", "busy"], ["itself", "unlade-shim", "netavark", "iptables", "unlade"]),
    "restart": (["restart", "busy"], ["itself", "unlade-shim", "runc", "netavark"]),
    "kill": (["kill", "busy"], ["itself", "unlade-shim", "netavark", "unlade"]),
    "rm -f": (["rm", "-f", "-v", "busy"], ["itself", "unlade-shim", "netavark", "unlade"]),
    "rm": (["rm", "-v", "idle"], ["itself"]),
    "exec": (["exec", "busy", "true"], ["itself", "unlade-shim", "runc"]),
    "exec -d": (["exec", "-d", "busy", "sleep", "1"], ["itself", "runc"]),
    "cp out": (["cp", "busy:/bin", "-"], ["itself"]),
    "cp in": (["cp", "TREE", "busy:/tmp"], ["itself"]),
    "cp idle": (["cp", "TREE", "idle:/tmp"], ["itself"]),
    "commit": (["commit", "busy", "made"], ["itself", "unlade-shim"]),
    "export": (["export", "-o", "OUT", "idle"], ["itself"]),
}


def words(u, name):
    verb, *args = COMMANDS[name][0]
    args = [{"TREE": u.work + "/tree", "OUT": u.work + "/out.tar"}.get(a, a) for a in args]
    if verb != "run":
        return [verb, *args]
    return u.words(verb, *args, network="bridge", command=["true"] if "--rm" in args else boxes.SLEEPS)


def ready(u):
    """The containers that commands are about: one that runs, and one that does not."""
    u.up("busy", "-v", "/data", "-p", "80", network="bridge")
    u.must(*u.words("create", "--name", "idle", "-v", "/data", "-p", "80", network="bridge", command=boxes.SLEEPS))
    until("it is ready", lambda: "ready" in u.must("logs", "busy"))


def strike(p, who, among, deadline):
    """Kills one process of that name which is not of `among`; whether there was one in time."""
    while time.monotonic() < deadline:
        if who == "itself":
            p.kill()
            return True
        for pid, name in boxes.processes().items():
            if pid not in among and pid != p.pid and (name == who if who == "unlade" else name.startswith(who)):
                try:
                    os.kill(pid, signal.SIGKILL)
                    return True
                except ProcessLookupError:
                    pass
    return False


def once(u, name, who, after, took):
    """-> whether somebody was killed."""
    what = "%s, %s killed after %.0f ms" % (name, who, 1000 * after)
    ready(u)
    # The shim of what the command is about is one that may be struck; aardvark-dns serves all.
    among = set() if who in ("unlade-shim", "aardvark-dns") else set(boxes.processes())
    began = time.monotonic()
    p = u.start(*words(u, name))
    time.sleep(after)
    struck = strike(p, who, among, began + 2 * took + 0.2)
    _, err = p.communicate(timeout=120)
    if "panicked" in err or p.returncode == 101:
        raise Wrong("%s: status %d: %s" % (what, p.returncode, err[-400:]))
    gone(u, sound(u, what, ended=True))
    if u.must("volume", "ls", "-q"):
        raise Wrong("%s: volumes are left: %s" % (what, err[-400:]))
    if name == "commit" and "made" in u.must("images", "--format", "{{.Repository}}"):
        u.must("rmi", "made")
    return struck


def anytime(u: Boxes, n: int, r: random.Random):
    """Everybody who takes part killed, `n` times for each command and process; with 0 one of them
    for each command."""
    before, struck, tried = u.census_of_containers(), 0, 0
    for name, (_, victims) in COMMANDS.items():
        ready(u)
        began = time.monotonic()
        u.must(*words(u, name))
        took = time.monotonic() - began
        gone(u, u.ids("-a"))
        if name == "commit":
            u.must("rmi", "made")
        u.unchanged(before)
        for who in victims if n else [r.choice(victims)]:
            hits, rounds = 0, max(n, 1)
            for i in range(rounds):
                after = took * (i + r.random()) / rounds
                hits += once(u, name, who, after, took)
                try:
                    u.unchanged(before)
                except Wrong as e:
                    raise Wrong("%s, %s killed after %.0f ms: %s" % (name, who, 1000 * after, e)) from e
            if n > 4 and not hits:
                raise Wrong("%s: %s was never there to be killed" % (name, who))
            struck, tried = struck + hits, tried + rounds
    print("  %d processes killed in %d commands" % (struck, tried))
