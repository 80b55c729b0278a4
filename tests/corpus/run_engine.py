#!/usr/bin/env python3
"""Run the corpus through an unpacker and compare with expect.json.

    run_engine.py CORPUS_DIR [--engine NAME] [--umoci PATH] [--work DIR] [--only GLOB]
                 [--json OUT] [--keep] [--strict] [-v]

Engines:
  umoci            packs each case as an OCI layout and runs `umoci unpack` (default)
  cmd:TEMPLATE     any unpacker: {layout} {ref} {root} are replaced, e.g.
                   "cmd:myunpack --layout {layout}:{ref} --out {root}"
  overlay:TEMPLATE as cmd:, for an unpacker that leaves one directory a layer under {root} and
                   their order, topmost first, in {root}/lowerdirs; mounted with overlayfs
  gnutar, bsdtar   plain sequential extraction (no whiteouts; information only)
  erofs:MKFS       MKFS --tar=f --aufs per uncompressed layer, images mounted and stacked with
                   overlayfs (what containerd's erofs differ and snapshotter do)
  oracle:BIN:naive / oracle:BIN:overlay
                   BIN MODE DIR MEDIATYPE=FILE@DIFFID ...; overlay mode leaves DIR/l0, l1...
                   which are then mounted read-only with overlayfs and compared

Needs root.  Cases marked "unsafe" are skipped except for cmd:.
"""
import sys, os, json, hashlib, shutil, subprocess, fnmatch, resource, signal, tempfile, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_tree as ct

MT_M = 'application/vnd.oci.image.manifest.v1+json'
MT_C = 'application/vnd.oci.image.config.v1+json'
MT_I = 'application/vnd.oci.image.index.v1+json'


def sha(x):
    return hashlib.sha256(x).hexdigest()


def write_layout(case_dir, x, out):
    o = x.get('oci', {})
    blobs = os.path.join(out, 'blobs', 'sha256')
    os.makedirs(blobs)

    def put(data):
        d = sha(data)
        with open(os.path.join(blobs, d), 'wb') as f:
            f.write(data)
        return {'digest': 'sha256:' + d, 'size': len(data)}
    layers, dids = [], []
    for i, l in enumerate(x['layers']):
        with open(os.path.join(case_dir, l['file']), 'rb') as f:
            data = f.read()
        d = put(data)
        d['mediaType'] = l['media_type']
        if o.get('corrupt_blob') == i:
            bad = data[:512] + bytes([data[512] ^ 1]) + data[513:]      # file content: still a valid tar
            with open(os.path.join(blobs, d['digest'][7:]), 'wb') as f:
                f.write(bad)
        if 'size_delta' in o:
            d['size'] += o['size_delta']
        if 'size_abs' in o:
            d['size'] = o['size_abs']
        if o.get('digest_upper'):
            d['digest'] = d['digest'][:7] + d['digest'][7:].upper()
        if 'digest_abs' in o:
            d['digest'] = o['digest_abs']
        layers.append(d)
        dids.append(l['diff_id'] or 'sha256:' + sha(b'unknown'))
    if 'diff_ids' in o:
        dids = o['diff_ids']
    if o.get('swap_diff_ids'):
        dids.reverse()
    if o.get('drop_diff_ids'):
        dids = dids[:-o['drop_diff_ids']]
    dids = dids + o.get('extra_diff_ids', [])
    cfg = put(json.dumps({'architecture': 'amd64', 'os': 'linux', 'config': {},
                          'rootfs': {'type': o.get('rootfs_type', 'layers'), 'diff_ids': dids}}).encode())
    cfg['mediaType'] = o.get('config_media_type', MT_C)
    man = {'schemaVersion': 2, 'mediaType': o.get('manifest_media_type', MT_M), 'config': cfg, 'layers': layers}
    man.update(o.get('manifest_extra', {}))
    if 'manifest_pad' in o:
        man['annotations'] = {'pad': 'x' * o['manifest_pad']}
    doc = json.dumps(man)
    if 'deep_json' in o:
        doc = doc[:-1] + ', "annotations": ' + '[' * o['deep_json'] + ']' * o['deep_json'] + '}'
    m = put(doc.encode())
    m['mediaType'] = MT_M
    for _ in range(o.get('nest_index', 0)):
        m = put(json.dumps({'schemaVersion': 2, 'mediaType': MT_I, 'manifests': [m]}).encode())
        m['mediaType'] = MT_I
    if 'wide_index' in o:
        m['platform'] = {'os': 'linux', 'architecture': 'amd64'}
        fake = [{'mediaType': MT_M, 'digest': 'sha256:' + sha(b'%d' % i), 'size': 400, 'platform': {'os': 'plan9', 'architecture': 'cpu%d' % i}}
                for i in range(o['wide_index'])]
        m = put(json.dumps({'schemaVersion': 2, 'mediaType': MT_I, 'manifests': fake + [m]}).encode())
        m['mediaType'] = MT_I
    m['annotations'] = {'org.opencontainers.image.ref.name': 'latest'}
    with open(os.path.join(out, 'index.json'), 'w') as f:
        json.dump({'schemaVersion': 2, 'mediaType': MT_I, 'manifests': [m]}, f)
    with open(os.path.join(out, 'oci-layout'), 'w') as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')


# What a file system cannot hold, and the words of the error that must say so.
FS_LIMITS = {('xfs', 'device-numbers'): 'device number'}
MOST_LOWERS = 130           # what fits the page that mount(2) takes its options in


def fs_type(path):
    best = ('', '')
    with open('/proc/self/mounts') as f:
        for line in f:
            _, at, kind = line.split()[:3]
            if (path + '/').startswith(at.rstrip('/') + '/') and len(at) >= len(best[0]):
                best = (at, kind)
    return best[1]


BIGFILES = False            # mkfs.erofs keeps a huge sparse scratch file


def limits():
    os.setpgid(0, 0)
    if not BIGFILES:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 30, 2 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o022)


def run(cmd, timeout):
    """-> (status or 'timeout', output, seconds, peak RSS in MiB of the process tree it waited for)"""
    t = time.time()
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, preexec_fn=limits)
        hang = False
        while True:
            pid, status, ru = os.wait4(p.pid, os.WNOHANG)
            if pid:
                break
            if not hang and time.time() - t > timeout:
                os.killpg(p.pid, signal.SIGKILL)
                hang = True
            time.sleep(0.005)
        p.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        out.seek(0)
        log = out.read(1 << 20)
    return 'timeout' if hang else p.returncode, log.decode('utf-8', 'replace'), time.time() - t, ru.ru_maxrss // 1024


def disk_mib(root):
    n, stack = 0, [root]
    while stack:
        for d in os.scandir(stack.pop()):
            n += d.stat(follow_symlinks=False).st_blocks
            if d.is_dir(follow_symlinks=False):
                stack.append(d.path)
    return n * 512 >> 20


def rmtree(p):
    subprocess.run(['rm', '-rf', '--one-file-system', p], stderr=subprocess.DEVNULL)


def one(case_dir, x, engine, umoci, work, timeout, strict):
    """-> dict(rc, conforms, errors, log)"""
    rmtree(work)
    os.makedirs(work, 0o755)
    mounted, lmounts = None, []
    args = ['%s=%s@%s' % (l['media_type'], os.path.join(case_dir, l['file']), l['diff_id'] or '') for l in x['layers']]
    try:
        if engine == 'umoci' or engine.startswith(('cmd:', 'overlay:')):
            layout = os.path.join(work, 'oci')
            write_layout(case_dir, x, layout)
            if engine == 'umoci':
                root = os.path.join(work, 'b', 'rootfs')
                os.makedirs(os.path.dirname(root))
                cmd = [umoci, '--log=error', 'unpack', '--image', layout + ':latest', os.path.join(work, 'b')]
            else:
                root = os.path.join(work, 'r', 'rootfs')
                os.makedirs(os.path.dirname(root))
                template = engine.split(':', 1)[1]
                cmd = ['/bin/sh', '-c', template.format(layout=layout, ref='latest', root=root)]
        else:
            root = os.path.join(work, 'r', 'rootfs')
            os.makedirs(os.path.dirname(root))
            if engine.startswith('oracle:'):
                _, binary, mode = engine.split(':')
                if mode == 'overlay':
                    root = os.path.join(work, 'r', 'merged')
                    os.makedirs(root)
                    cmd = [binary, mode, os.path.join(work, 'r')] + args
                else:
                    os.mkdir(root, 0o755)
                    cmd = [binary, mode, root] + args
            elif engine.startswith('erofs:'):
                root = os.path.join(work, 'r', 'merged')
                os.makedirs(root)
                cmd = ['/bin/sh', '-ec', 'cd %s; ' % os.path.join(work, 'r') + '; '.join(
                    'mkdir l%d; %s --tar=f --aufs --quiet -Enoinline_data l%d.img %s' % (i, engine[6:], i, os.path.join(case_dir, l['file']))
                    for i, l in enumerate(x['layers']))]
            else:
                os.mkdir(root, 0o755)
                prog = {'gnutar': 'tar --numeric-owner --xattrs --xattrs-include=* -xpf',
                        'bsdtar': 'bsdtar --numeric-owner -xpf'}[engine]
                cmd = ['/bin/sh', '-ec', 'set -f; ' + '; '.join('%s %s -C %s' % (prog, os.path.join(case_dir, l['file']), root)
                                                        for l in x['layers'])]
        ct.canary_setup(root)
        rc, log, dt, rss = run(cmd, timeout)
        errs = ct.canary_check(root, x.get('outside', []))
        hang = rc == 'timeout'
        if rc == 0 and engine.startswith('erofs:'):
            for i in range(len(x['layers'])):
                m = os.path.join(work, 'r', 'l%d' % i)
                p = subprocess.run(['mount', '-t', 'erofs', '-o', 'ro,loop', m + '.img', m], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if p.returncode:
                    rc, log = 'mount', p.stdout.decode()
                    break
                lmounts.append(m)
        if rc == 0 and (engine.endswith(':overlay') or engine.startswith('erofs:')):
            dirs = ['l%d' % i for i in range(len(x['layers']))]
            os.makedirs(os.path.join(work, 'r', 'e'))
            o = 'lowerdir=' + ':'.join(list(reversed(dirs)) + ['e'])
            p = subprocess.run('cd %s && mount -t overlay overlay -o %s merged' % (os.path.join(work, 'r'), o), shell=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if p.returncode:
                rc, log = 'mount', p.stdout.decode()
            else:
                mounted = root
        if rc == 0 and engine.startswith('overlay:'):
            with open(os.path.join(root, 'lowerdirs')) as f:
                dirs = f.read().split()
            if len(dirs) > MOST_LOWERS:
                return {'rc': rc, 'conforms': not errs, 'errors': errs, 'log': 'not mounted', 'seconds': round(dt, 2), 'rss_mib': rss}
            merged, empty = os.path.join(work, 'r', 'merged'), os.path.join(work, 'r', 'e')
            os.makedirs(merged)
            os.makedirs(empty)
            p = subprocess.run(['mount', '-t', 'overlay', 'overlay', '-o', 'lowerdir=' + ':'.join(dirs + [empty]), merged],
                               cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if p.returncode:
                rc, log = 'mount', p.stdout.decode()
            else:
                mounted = root = merged
        if hang:
            okay, e = False, ['timed out after %ds' % timeout]
        elif rc != 0:
            okay, e = ct.check(root, x, rc=1, outside=False)
        else:
            try:
                # overlayfs shows the link count of a lower inode: nothing a layer can change
                okay, e = ct.check(root, x, strict=strict, outside=False,
                                   count_links=not (engine.startswith('overlay:') and len(x['layers']) > 1))
            except OSError as ex:
                okay, e = False, ['checker: %s' % ex]
        why = FS_LIMITS.get((fs_type(work), x['name']))
        if rc == 1 and why and why in log:
            okay, e = True, []
        lim = x.get('limits', {})
        if rss > lim.get('max_rss_mib', 1 << 30):
            okay, e = False, e + ['peak RSS %d MiB, limit %d' % (rss, lim['max_rss_mib'])]
        if rc == 0 and 'max_disk_mib' in lim and disk_mib(root) > lim['max_disk_mib']:
            okay, e = False, e + ['tree uses %d MiB, limit %d' % (disk_mib(root), lim['max_disk_mib'])]
        if 'panic:' in log or 'SIGSEGV' in log:
            e = e + ['unpacker crashed: ' + log[log.find('panic:'):][:120].replace('\n', ' ')]
            okay = False
        return {'rc': rc, 'conforms': okay and not errs, 'errors': errs + e, 'log': log[-600:], 'seconds': round(dt, 2), 'rss_mib': rss}
    finally:
        if mounted:
            subprocess.run(['umount', '-l', mounted])
        for m in lmounts:
            subprocess.run(['umount', '-l', m])
        ct.canary_clean(os.path.join(work, 'x', 'y'))
        rmtree(work)


def main(argv):
    global BIGFILES
    BIGFILES = any(a.startswith('erofs:') for a in argv)
    os.environ.update(CONTAINERD_DISABLE_PIGZ='1', MOBY_DISABLE_PIGZ='1')     # decode in process
    engine, umoci, work, only, out = 'umoci', None, '/tmp/oci-corpus-work', '*', None
    keep = strict = verbose = False
    pos = []
    it = iter(argv)
    for a in it:
        if a == '--engine':
            engine = next(it)
        elif a == '--umoci':
            umoci = next(it)
        elif a == '--work':
            work = next(it)
        elif a == '--only':
            only = next(it)
        elif a == '--json':
            out = next(it)
        elif a == '--strict':
            strict = True
        elif a == '-v':
            verbose = True
        elif a.startswith('-'):
            print(__doc__)
            return 2
        else:
            pos.append(a)
    if len(pos) != 1 or os.geteuid() != 0:
        print(__doc__)
        return 2
    if umoci is None:
        umoci = 'umoci'
    corpus = os.path.abspath(pos[0])
    res, bad, skip = {}, 0, 0
    for name in sorted(os.listdir(corpus)):
        ej = os.path.join(corpus, name, 'expect.json')
        if not fnmatch.fnmatch(name, only) or not os.path.exists(ej):
            continue
        x = json.load(open(ej))
        skipit = None
        if x.get('unsafe') and not engine.startswith(('cmd:', 'overlay:')):
            skipit = x['unsafe']
        elif x.get('oci') and not (engine == 'umoci' or engine.startswith(('cmd:', 'overlay:'))):
            skipit = 'manifest level'
        elif engine.startswith('oracle:') and 'containerd' not in engine and name == 'label-unknown':
            skipit = 'library call without media types'
        elif engine.startswith('erofs:') and (set(x['tags']) & {'compression'} or len(x['layers']) > 60 or
                                              any(not l['file'].endswith('.tar') for l in x['layers'])):
            skipit = 'compressed, or too many loop mounts'
        elif engine in ('gnutar', 'bsdtar') and (set(x['tags']) & {'whiteout', 'opaque', 'integrity', 'mediatype', 'aufs'} or len(x['layers']) != 1):
            skipit = 'not a plain archive'
        if skipit:
            skip += 1
            continue
        r = one(os.path.join(corpus, name), x, engine, umoci, work, int(x.get('limits', {}).get('max_seconds', 60)), strict)
        r['verdict'] = x['verdict']
        res[name] = r
        if not r['conforms']:
            bad += 1
            print('DIFF %-40s %-9s rc=%s' % (name, x['verdict'], r['rc']))
            for e in r['errors'][:6]:
                print('     ' + e)
            if r['rc'] not in (0,) and (verbose or x['verdict'] == 'ok'):
                print('     log: ' + r['log'].strip().replace('\n', ' | ')[-300:])
        elif verbose:
            print('same %-40s %-9s rc=%s' % (name, x['verdict'], r['rc']))
    print('%s: %d cases run, %d conform, %d differ, %d skipped' % (engine, len(res), len(res) - bad, bad, skip))
    if out:
        json.dump(res, open(out, 'w'), indent=1, sort_keys=True)
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
