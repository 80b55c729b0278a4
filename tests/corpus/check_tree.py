#!/usr/bin/env python3
"""Compare a flattened root filesystem with the expectation of a corpus case.

    check_tree.py [options] ROOT expect.json
    check_tree.py --canary-setup ROOT       create the sentinels outside ROOT
    check_tree.py --canary-clean ROOT       remove them

Options:
    --rc N       exit status of the unpacker (default 0).  With N != 0 the tree is
                 not looked at: verdict "ok" fails, "reject" and "contained" pass
                 when nothing outside ROOT changed.
    --strict     also check the "strict" attributes (what this project promises
                 beyond the common behaviour of the engines)
    --ignore A,B attribute names not to check (mtime, xattrs, uid, gid, mode, ...)
    --no-outside do not look at the sentinels
    --quiet      print nothing on success

Exit status: 0 conforms, 1 differs, 2 usage.
Run as root: it uses lstat, readlink, listxattr and reads file contents; it
never follows symlinks, never opens fifos or devices, and walks with
directory file descriptors so that trees deeper than PATH_MAX work.
"""
import sys, os, json, hashlib, stat, errno

CANARY = '/tmp/oci-corpus-canary'
SENTINEL = b'sentinel: must not change\n'
EVIL_UID = 54321
MT = 1000000000
# Attributes of the mount itself, or set by the host, that a layer cannot ask for.
HOST_XATTRS = {b'security.selinux', b'trusted.overlay.origin', b'trusted.overlay.impure', b'trusted.overlay.uuid',
               b'trusted.overlay.nlink', b'trusted.overlay.upper',
               b'trusted.SGI_ACL_FILE', b'trusted.SGI_ACL_DEFAULT'}      # how XFS stores access lists


def unesc(s):
    out, i = bytearray(), 0
    while i < len(s):
        if s[i] == '\\':
            if s[i + 1] == '\\':
                out += b'\\'; i += 2
            else:
                out.append(int(s[i + 2:i + 4], 16)); i += 4
        else:
            out += s[i].encode('utf-8', 'surrogateescape'); i += 1
    return bytes(out)


def esc(raw):
    out = []
    for ch in raw.decode('utf-8', 'surrogateescape'):
        o = ord(ch)
        if ch == '\\':
            out.append('\\\\')
        elif 0xDC80 <= o <= 0xDCFF:
            out.append('\\x%02x' % (o - 0xDC00))
        elif o < 0x20 or 0x7f <= o < 0xa0:
            out.append(''.join('\\x%02x' % c for c in ch.encode()))
        else:
            out.append(ch)
    return ''.join(out)


TYPES = {stat.S_IFREG: 'file', stat.S_IFDIR: 'dir', stat.S_IFLNK: 'symlink', stat.S_IFIFO: 'fifo',
         stat.S_IFCHR: 'char', stat.S_IFBLK: 'block', stat.S_IFSOCK: 'socket'}


def xattrs(path_in_proc):
    """xattrs without following symlinks; path is /proc/self/fd/N/NAME."""
    r = {}
    try:
        names = os.listxattr(path_in_proc, follow_symlinks=False)
    except OSError as e:
        if e.errno in (errno.ENOTSUP, errno.EOPNOTSUPP):
            return r
        return {b'(listxattr failed: %s)' % os.strerror(e.errno).encode(): b''}
    for n in names:
        nb = n if isinstance(n, bytes) else n.encode('utf-8', 'surrogateescape')
        try:
            r[nb] = os.getxattr(path_in_proc, n, follow_symlinks=False)
        except OSError as e:
            if e.errno == errno.ENODATA:
                continue
            r[nb] = b'(getxattr failed: %s)' % os.strerror(e.errno).encode()
    return r


def describe(dfd, name, st, want_hash=True):
    """name relative to dfd (b'.' allowed for the directory itself)."""
    p = b'/proc/self/fd/%d/%s' % (dfd, name)
    t = TYPES.get(stat.S_IFMT(st.st_mode), '?')
    d = {'type': t, 'mode': '%04o' % stat.S_IMODE(st.st_mode), 'uid': st.st_uid, 'gid': st.st_gid,
         'mtime': [st.st_mtime_ns // 10 ** 9, st.st_mtime_ns % 10 ** 9], 'xattrs': xattrs(p),
         'ino': (st.st_dev, st.st_ino), 'nlink': st.st_nlink}
    if t == 'symlink':
        d['target'] = esc(os.readlink(name, dir_fd=dfd))
    elif t == 'file':
        d['size'] = st.st_size
        if want_hash:
            h = hashlib.sha256()
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dfd)
                try:
                    while True:
                        x = os.read(fd, 1 << 20)
                        if not x:
                            break
                        h.update(x)
                finally:
                    os.close(fd)
                d['sha256'] = h.hexdigest()
            except OSError as e:
                d['sha256'] = '(unreadable: %s)' % os.strerror(e.errno)
    elif t in ('char', 'block'):
        d['rdev'] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
    return d


def walk(root):
    """{relative bytes path: description}, iterative, fd based."""
    out = {}
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    out[b'.'] = describe(fd, b'.', os.fstat(fd))
    stack = [(fd, b'', sorted(os.fsencode(x) for x in os.listdir(fd)))]
    try:
        while stack:
            dfd, prefix, names = stack[-1]
            if not names:
                os.close(dfd)
                stack.pop()
                continue
            n = names.pop()
            rel = prefix + b'/' + n if prefix else n
            try:
                st = os.stat(n, dir_fd=dfd, follow_symlinks=False)
            except FileNotFoundError:
                # overlayfs lists some whiteouts that cannot be looked up
                out[rel] = {'type': 'listed-but-missing', 'ino': (0, rel), 'nlink': 0, 'xattrs': {}}
                continue
            out[rel] = describe(dfd, n, st)
            if stat.S_ISDIR(st.st_mode):
                c = os.open(n, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dfd)
                stack.append((c, rel, sorted(os.fsencode(x) for x in os.listdir(c))))
    finally:
        for s in stack:
            os.close(s[0])
    return out


def compare(tree, got, partial, absent, strict, ignore, count_links=True):
    errs = []
    want = {unesc(k): v for k, v in tree.items()}
    for a in absent:
        a = unesc(a)
        if a in got:
            errs.append('%s: must be absent' % esc(a))
    if not partial:
        for p in sorted(got):
            if p != b'.' and p not in want:
                errs.append('%s: unexpected %s' % (esc(p), got[p]['type']))
    groups = {}
    for p in sorted(want):
        w = dict(want[p])
        if p not in got:
            errs.append('%s: missing (%s)' % (esc(p), w.get('type')))
            continue
        g = got[p]
        if strict:
            w.update(w.get('strict', {}))
        if w.get('type') != g['type']:
            errs.append('%s: type %s, expected %s' % (esc(p), g['type'], w.get('type')))
            continue
        for k in ('mode', 'uid', 'gid', 'size', 'sha256', 'target', 'mtime', 'rdev'):
            if k in ignore:
                continue
            if k in w:
                if g.get(k) != w[k]:
                    errs.append('%s: %s %s, expected %s' % (esc(p), k, g.get(k), w[k]))
            elif k + '_any' in w:
                if g.get(k) not in w[k + '_any']:
                    errs.append('%s: %s %s, expected one of %s' % (esc(p), k, g.get(k), w[k + '_any']))
        if 'xattrs' in w and 'xattrs' not in ignore:
            need = {k.encode(): bytes.fromhex(v) for k, v in w['xattrs'].items()}
            opt = {k.encode(): bytes.fromhex(v) for k, v in w.get('xattrs_optional', {}).items()}
            have = g['xattrs']
            for k, v in sorted(need.items()):
                if have.get(k) != v:
                    errs.append('%s: xattr %s is %s, expected %s' % (
                        esc(p), esc(k), have[k][:40].hex() if k in have else 'absent', v[:40].hex()))
            for k in sorted(have):
                if k in need or (k in opt and opt[k] == have[k]) or (k in HOST_XATTRS and k not in opt):
                    continue
                errs.append('%s: unexpected xattr %s=%s' % (esc(p), esc(k), have[k][:40].hex()))
        if g['type'] != 'dir' and 'nlink_group' not in ignore:
            groups.setdefault(w.get('nlink_group') or ('single', p), []).append(p)
    inode = {}
    for label, paths in sorted(groups.items(), key=str):
        inos = {got[p]['ino'] for p in paths}
        if len(inos) != 1:
            errs.append('%s: not one inode' % ', '.join(esc(p) for p in paths[:4]))
        for p in paths:
            if inode.setdefault(got[p]['ino'], label) != label:
                errs.append('%s: shares an inode with %s' % (esc(p), inode[got[p]['ino']]))
        if count_links and not partial and isinstance(label, str) and len(inos) == 1:
            n = got[paths[0]]['nlink']
            if n != len(paths):
                errs.append('%s: link count %d, expected %d' % (esc(paths[0]), n, len(paths)))
    return errs


# ---- sentinels
def layout(root):
    o = os.path.join(os.path.dirname(os.path.realpath(root).rstrip('/')), 'outside')
    return [(CANARY, 'dir'), (CANARY + '/sentinel', 'file'), (CANARY + '/dir', 'dir'), (CANARY + '/dir/inner', 'file'),
            (o, 'dir'), (o + '/sentinel', 'file')]


def canary_setup(root):
    canary_clean(root)
    for p, t in layout(root):
        if t == 'dir':
            os.makedirs(p, 0o751, exist_ok=True)
            os.chmod(p, 0o751)
        else:
            with open(p, 'wb') as f:
                f.write(SENTINEL)
            os.chmod(p, 0o640)
    for p, t in reversed(layout(root)):
        os.utime(p, (MT, MT))
    par = os.path.dirname(os.path.realpath(root).rstrip('/'))
    try:
        os.lchown(par, 0, 0)
    except OSError:
        pass


def canary_clean(root):
    import shutil
    for p in (CANARY, layout(root)[4][0]):
        if os.path.islink(p) or os.path.isfile(p):
            os.unlink(p)
        elif os.path.isdir(p):
            shutil.rmtree(p)


def canary_check(root, outside):
    errs = []
    known = {}
    for p, t in layout(root):
        known[p] = t
        try:
            st = os.lstat(p)
        except OSError:
            errs.append('outside: %s vanished' % p)
            continue
        if TYPES.get(stat.S_IFMT(st.st_mode)) != t:
            errs.append('outside: %s changed type' % p)
            continue
        if t == 'file':
            if st.st_nlink != 1:
                errs.append('outside: %s has link count %d' % (p, st.st_nlink))
            if open(p, 'rb').read() != SENTINEL:
                errs.append('outside: %s changed content' % p)
        if (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) != (0o751 if t == 'dir' else 0o640, 0, 0):
            errs.append('outside: %s mode %o uid %d gid %d' % (p, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid))
        if st.st_mtime_ns != MT * 10 ** 9:
            errs.append('outside: %s mtime changed' % p)
        x = [n for n in os.listxattr(p, follow_symlinks=False) if n != 'security.selinux']
        if x:
            errs.append('outside: %s has xattrs %s' % (p, x))
        if t == 'dir':
            for n in os.listdir(p):
                if os.path.join(p, n) not in [q for q, _ in layout(root)]:
                    errs.append('outside: %s/%s was created' % (p, n))
    par = os.path.dirname(os.path.realpath(root).rstrip('/'))
    try:
        if os.lstat(par).st_uid == EVIL_UID:
            errs.append('outside: parent of the root changed owner')
    except OSError:
        errs.append('outside: the parent directory of the root was removed')
    for o in outside:
        p = o if o.startswith('/') else os.path.normpath(os.path.join(os.path.realpath(root), o))
        if p in known or o == '..':
            continue
        if os.path.lexists(p):
            errs.append('outside: %s exists' % p)
    return errs


def check(root, x, rc=0, strict=False, ignore=(), outside=True, count_links=True):
    """-> (conforms, [messages])"""
    errs = []
    if outside and os.path.isdir(CANARY):
        errs += canary_check(root, x.get('outside', []))
    v = x['verdict']
    if rc != 0:
        if v == 'ok':
            errs.append('unpacker failed (status %s) but the case is valid' % rc)
        return (not errs, errs)
    if v == 'reject':
        errs.append('unpacker succeeded but must reject: %s' % x['why'])
        return (False, errs)
    if x.get('tree') is None:
        return (not errs, errs)
    if not os.path.isdir(root) or os.path.islink(root):
        return (False, errs + ['root is not a directory'])
    got = walk(root)
    best = None
    for i, t in enumerate([x['tree']] + x.get('alt_trees', [])):
        # overlayfs shows the link count of the lower inode, so across layers only under --strict
        e = compare(t, got, x.get('partial', False), x.get('absent', []), strict, ignore,
                    count_links and (strict or len(x['layers']) == 1))
        if best is None or len(e) < len(best):
            best = e
        if not e:
            break
    return (not errs and not best, errs + best)


def main(argv):
    opts, args = {'rc': 0, 'strict': False, 'ignore': (), 'outside': True}, []
    quiet, mode = False, None
    it = iter(argv)
    for a in it:
        if a == '--rc':
            opts['rc'] = int(next(it))
        elif a == '--strict':
            opts['strict'] = True
        elif a == '--ignore':
            opts['ignore'] = tuple(next(it).split(','))
        elif a == '--no-outside':
            opts['outside'] = False
        elif a == '--quiet':
            quiet = True
        elif a in ('--canary-setup', '--canary-clean'):
            mode = a
        elif a.startswith('--'):
            print(__doc__)
            return 2
        else:
            args.append(a)
    if mode:
        (canary_setup if mode == '--canary-setup' else canary_clean)(args[0])
        return 0
    if len(args) != 2:
        print(__doc__)
        return 2
    with open(args[1]) as f:
        x = json.load(f)
    okay, errs = check(args[0], x, **opts)
    if okay:
        if not quiet:
            print('ok %s' % x['name'])
        return 0
    print('FAIL %s (%s): %s' % (x['name'], x['verdict'], x['why']))
    for e in errs[:40]:
        print('  ' + e)
    if len(errs) > 40:
        print('  ... and %d more' % (len(errs) - 40))
    return 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
