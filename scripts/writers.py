#!/usr/bin/env python3
"""Every gzip writer at hand against `unlade gunzip`: writers.py UNLADE WORK [FILE...]

Inputs: random, constant, text, what expands most, tiny and empty data, and the given files. Each is
compressed by gzip, pigz, zstd, igzip, libdeflate, bgzip, Java and Go where they are installed, and by
zlib in every strategy, and decoded on 1 thread, on 3, and from a pipe. The bytes must be the input's.
"""
import hashlib, io, os, random, shutil, struct, subprocess, sys, time, zlib

JAVA = """import java.io.*; import java.util.zip.*;
public class Writer { public static void main(String[] a) throws IOException {
  try (var out = new GZIPOutputStream(System.out, 65536, true)) {
    byte[] b = System.in.readAllBytes();
    for (int n = 0; n < b.length; n += 300000) { out.write(b, n, Math.min(300000, b.length - n)); out.flush(); }
  } } }"""
GO = """package main
import ("compress/gzip"; "io"; "os"; "strconv")
func main() { n, _ := strconv.Atoi(os.Args[1]); w, _ := gzip.NewWriterLevel(os.Stdout, n); io.Copy(w, os.Stdin); w.Close() }"""
CLI = {
    "gzip": [["-%d" % n, "-c"] for n in (1, 6, 9)],
    "pigz": [["-c"], ["-c", "-1"], ["-i", "-c"], ["-11", "-c"], ["-c", "-H"], ["-c", "-U"], ["-c", "-0"]],
    "zstd": [["--format=gzip", "-q", "-c", "-%d" % n] for n in (1, 6, 9)],
    "igzip": [["-%d" % n, "-c"] for n in range(4)],
    "libdeflate-gzip": [["-%d" % n, "-c"] for n in range(1, 13)],
    "bgzip": [["-c"], ["-c", "-l", "0"], ["-c", "-l", "9"]],
}
STRATEGIES = {"default": 0, "filtered": 1, "huffman": 2, "rle": 3, "fixed": 4}
SLOW = {"pigz -11"}


def inputs():
    r = random.Random(5)
    words = [r.randbytes(r.randint(2, 12)).hex() for _ in range(4000)]
    text = " ".join(r.choice(words) for _ in range(900_000)).encode()
    mixed = b"".join(r.choice((b"\0" * 40_000, r.randbytes(30_000), text[n * 5000:][:70_000])) for n in range(120))
    return {"empty": b"", "one byte": b"x", "tiny": b"tiny " * 5, "zeros": bytes(30 << 20), "random": r.randbytes(5 << 20),
            "text": text, "less text": text[:1_500_000], "mixed": mixed, "pairs": bytes(r.choice(b"ab") for _ in range(400_000))}


def by_zlib(data, level, strategy, window, mem, flushes):
    c = zlib.compressobj(level, zlib.DEFLATED, 16 + window, mem, strategy)
    if not flushes:
        return c.compress(data) + c.flush()
    out, step = [], max(1, len(data) // 50)
    for n, at in enumerate(range(0, len(data), step)):
        out += [c.compress(data[at:at + step]), c.flush(flushes[n % len(flushes)])]
    return b"".join(out) + c.flush()


def header(flags):
    """Every optional field of RFC 1952, as the flags say."""
    h = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, flags, 7, 2, 3)
    if flags & 4:
        h += struct.pack("<H", 300) + bytes(300)
    h += (b"a name\0" if flags & 8 else b"") + (b"a comment\0" if flags & 16 else b"")
    return h + (struct.pack("<H", zlib.crc32(h) & 0xFFFF) if flags & 2 else b"")


def member(data, flags, level=6):
    c = zlib.compressobj(level, zlib.DEFLATED, -15)
    return header(flags) + c.compress(data) + c.flush() + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def in_python(data):
    yield from (("zlib, strategy %s" % s, by_zlib(data, 6, n, 15, 8, ())) for s, n in STRATEGIES.items())
    yield from (("zlib, window of 2^%d" % w, by_zlib(data, 6, 0, w, 8, ())) for w in (9, 12))
    yield "zlib, stored", by_zlib(data, 0, 0, 15, 8, ())
    yield "zlib, small blocks", by_zlib(data, 6, 0, 15, 1, ())
    kinds = {"sync": [zlib.Z_SYNC_FLUSH], "full": [zlib.Z_FULL_FLUSH], "partial": [zlib.Z_PARTIAL_FLUSH],
             "mixed": [zlib.Z_BLOCK, zlib.Z_FULL_FLUSH, zlib.Z_NO_FLUSH]}
    yield from (("zlib, %s flushes" % k, by_zlib(data, 6, 0, 15, 8, f)) for k, f in kinds.items())
    yield "32 members of all header flags", b"".join(
        member(data[len(data) * n // 32:len(data) * (n + 1) // 32], n, n % 10) for n in range(32))
    yield "a member, many empty ones, a member", member(data[:99], 0) + member(b"", 0) * 999 + member(data[99:], 8)


def programs(work):
    """Writers that are installed: (name, argv)."""
    for program, ways in CLI.items():
        if shutil.which(program):
            yield from ((" ".join([program, *(w for w in way if w not in ("-c", "-q"))]), [program, *way]) for way in ways)
        else:
            print("left out: %s is not installed" % program)
    if shutil.which("javac"):
        with open(work + "/Writer.java", "w") as f:
            f.write(JAVA)
        subprocess.run(["javac", "-d", work, work + "/Writer.java"], check=True)
        yield "java", ["java", "-Xmx1g", "-cp", work, "Writer"]
    else:
        print("left out: java is not installed")
    if shutil.which("go"):
        with open(work + "/writer.go", "w") as f:
            f.write(GO)
        subprocess.run(["go", "build", "-o", work + "/writer", work + "/writer.go"], check=True)
        yield from (("go %d" % n, [work + "/writer", str(n)]) for n in (-2, 1, 6, 9))
    else:
        print("left out: go is not installed")


def decoded(argv, stdin=None):
    """SHA-256 and length of what a decoder writes, or what it says."""
    p = subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    h, n = hashlib.sha256(), 0
    while data := p.stdout.read(1 << 20):
        h.update(data)
        n += len(data)
    said = p.stderr.read().decode(errors="replace")
    return (h.digest(), n) if p.wait() == 0 else said.strip()


def main(unlade, work, *files):
    unlade = os.path.abspath(unlade)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    blob, plain = work + "/blob.gz", work + "/plain"
    bad = runs = 0
    started = time.time()

    def judge(label, want):
        nonlocal bad, runs
        for how, argv in (("1 thread", ["-t", "1", blob]), ("3 threads", ["-t", "3", blob]), ("a pipe", ["-t", "2"])):
            with open(blob, "rb") as f:
                got = decoded([unlade, "gunzip", *argv], f if how == "a pipe" else subprocess.DEVNULL)
            runs += 1
            if got != want:
                bad += 1
                print("FAIL %s, %s: %s" % (label, how, got if isinstance(got, str) else "other bytes"))

    writers = list(programs(work))
    sources = list(inputs().items()) + [(os.path.basename(f), f) for f in files]
    for name, source in sources:
        if isinstance(source, bytes):
            with open(plain, "wb") as f:
                f.write(source)
            at = plain
        else:
            at = source
        with open(at, "rb") as f:
            data = f.read()
        want = hashlib.sha256(data).digest(), len(data)
        for label, argv in writers:
            if label in SLOW and len(data) > 2 << 20:
                continue
            with open(at, "rb") as f, open(blob, "wb") as out:
                subprocess.run(argv, stdin=f, stdout=out, check=True)
            judge("%s, %s" % (name, label), want)
        if len(data) <= 64 << 20:
            for label, data in in_python(data):
                with open(blob, "wb") as f:
                    f.write(data)
                judge("%s, %s" % (name, label), want)
        print("writers: %s done after %d s" % (name, time.time() - started), flush=True)
    shutil.rmtree(work)
    print("writers: %d runs, %d failures" % (runs, bad))
    return 1 if bad or not runs else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
