//! The profile of containers that are given no other.
//!
//! Written for unlade from the manual pages and the kernel's table of system calls. A call that
//! is not listed does not exist in a container (ENOSYS): so does a C library that is newer than
//! this list find its way around it. A call that exists but that a container must not make is
//! refused by name (EPERM), since programs that know it expect that.

use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator as Op};

use super::profile::{ArchMap, Filter, Profile, Rule};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Allowed to all, by what they are for.
const ALLOWED: [&str; 12] = [
    // Files by descriptor.
    "_llseek close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate \
     fchmod fchown fchown32 fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr \
     fsetxattr fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 getdents getdents64 \
     ioctl lseek pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile \
     sendfile64 splice sync_file_range tee vmsplice write writev",
    // Files by name.
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmodat fchmodat2 \
     fchownat file_getattr file_setattr fstatat64 futimesat getcwd getxattr getxattrat lchown \
     lchown32 lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lsetxattr lstat \
     lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 readlink \
     readlinkat removexattr removexattrat rename renameat renameat2 rmdir setxattr setxattrat stat \
     stat64 statfs statfs64 statx symlink symlinkat sync syncfs truncate truncate64 umask unlink \
     unlinkat utime utimensat utimensat_time64 utimes",
    // Mounts can be looked at.
    "listmount statmount",
    // Waiting for descriptors, and notices from files.
    "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
     epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init \
     inotify_init1 inotify_rm_watch pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 \
     select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
     timerfd_settime64",
    // Asynchronous I/O of the old kind. io_uring is left out: too much of the kernel for all.
    "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit",
    // Memory.
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock \
     mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc \
     pkey_free pkey_mprotect process_mrelease remap_file_pages",
    // Processes and threads.
    "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv \
     futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getpriority \
     getrlimit getrusage getsid gettid ioprio_get ioprio_set kill nanosleep pause pidfd_open \
     pidfd_send_signal prctl prlimit64 restart_syscall rseq sched_get_priority_max \
     sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
     sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
     sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address \
     setpgid setpriority setrlimit setsid tgkill tkill ugetrlimit vfork wait4 waitid waitpid",
    // Who a process is, and what it binds itself to.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 \
     getresgid getresgid32 getresuid getresuid32 getuid getuid32 landlock_add_rule \
     landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules \
     lsm_set_self_attr seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
     setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
     setreuid32 setuid setuid32",
    // Signals.
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal \
     sigpending sigprocmask sigreturn sigsuspend",
    // Clocks, and what the machine says of itself.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
     clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer getrandom gettimeofday \
     setitimer sysinfo time timer_create timer_delete timer_getoverrun timer_gettime \
     timer_gettime64 timer_settime timer_settime64 times uname",
    // Sockets, once they are there.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
     recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // System V and POSIX queues, semaphores and shared memory: of its own namespace.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
     mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
     semtimedop_time64 shmat shmctl shmdt shmget",
];

/// Allowed on some architectures only.
const BY_ARCH: [(&str, &str); 6] = [
    ("amd64", "arch_prctl modify_ldt uretprobe"),
    ("386", "modify_ldt"),
    (
        "arm arm64",
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    ("ppc64le", "swapcontext sync_file_range2"),
    ("riscv64", "riscv_flush_icache riscv_hwprobe"),
    (
        "s390x",
        "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ),
];

/// Allowed with one of these capabilities, refused without.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("BPF SYS_ADMIN", "bpf"),
    ("PERFMON SYS_ADMIN", "perf_event_open"),
    ("SYSLOG SYS_ADMIN", "syslog"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
         move_mount open_tree open_tree_attr pivot_root quotactl quotactl_fd setdomainname \
         sethostname setns umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    (
        "SYS_MODULE",
        "delete_module finit_module init_module query_module",
    ),
    (
        "SYS_NICE",
        "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    ),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "ioperm iopl"),
    (
        "SYS_TIME",
        "clock_settime clock_settime64 settimeofday stime",
    ),
    ("SYS_TTY_CONFIG", "vhangup"),
];

/// Tracing of one's own processes: before Linux 4.8 it got around the filter.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// Refused to all: keys are not of a namespace, the others change the whole machine or are holes
/// that nothing needs.
const REFUSED: &str = "add_key kexec_file_load kexec_load keyctl nfsservctl request_key swapoff \
                       swapon sysfs uselib userfaultfd ustat vm86 vm86old";

/// Families of sockets that others than the kernel's network stack answer: encryption by the
/// kernel, and the host of a virtual machine.
const NO_FAMILIES: [u64; 2] = [38, 40];
/// The last family that there is.
const LAST_FAMILY: u64 = 45;

/// Flags of `clone` that make a namespace.
const NEW_NAMESPACES: [u64; 7] = [
    0x0002_0000, // mount
    0x0200_0000, // cgroup
    0x0400_0000, // uts
    0x0800_0000, // ipc
    0x1000_0000, // user
    0x2000_0000, // pid
    0x4000_0000, // network
];

/// Personalities that change nothing of weight: none, old `uname`, 32 bits, both, a question.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn caps(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|c| format!("CAP_{c}"))
        .collect()
}

fn allow(names: &str) -> Rule {
    Rule {
        names: words(names),
        action: Some(LinuxSeccompAction::ScmpActAllow),
        ..Rule::default()
    }
}

fn refuse(names: &str, errno: u32) -> Rule {
    Rule {
        names: words(names),
        action: Some(LinuxSeccompAction::ScmpActErrno),
        errno_ret: Some(errno),
        ..Rule::default()
    }
}

/// A condition; all fields are plain numbers, so a default with them set cannot fail.
fn arg(index: usize, op: Op, value: u64, two: Option<u64>) -> LinuxSeccompArg {
    let built = oci_spec::runtime::LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value);
    let built = match two {
        Some(two) => built.value_two(two),
        None => built,
    }
    .build();
    built.unwrap_or_default()
}

/// The profile, before it is resolved for a container.
pub(super) fn profile() -> Profile {
    let mut rules = vec![allow(&ALLOWED.join(" ")), refuse(REFUSED, EPERM)];
    for (arches, names) in BY_ARCH {
        rules.push(Rule {
            includes: Filter {
                arches: words(arches),
                ..Filter::default()
            },
            ..allow(names)
        });
    }
    for (any, names) in BY_CAPABILITY {
        by_capability(&caps(any), names, &mut rules);
    }
    tracing(&mut rules);
    clone(&mut rules);
    for value in PERSONALITIES {
        rules.push(Rule {
            args: vec![arg(0, Op::ScmpCmpEq, value, None)],
            ..allow("personality")
        });
    }
    sockets(&mut rules);
    let map = |architecture, sub: &[Arch]| ArchMap {
        architecture,
        sub_architectures: sub.to_vec(),
    };
    use Arch as A;
    Profile {
        default_action: Some(LinuxSeccompAction::ScmpActErrno),
        default_errno_ret: Some(ENOSYS),
        arch_map: vec![
            map(A::ScmpArchX86_64, &[A::ScmpArchX86, A::ScmpArchX32]),
            map(A::ScmpArchX86, &[]),
            map(A::ScmpArchAarch64, &[A::ScmpArchArm]),
            map(A::ScmpArchArm, &[]),
            map(A::ScmpArchMips64, &[A::ScmpArchMips, A::ScmpArchMips64n32]),
            map(
                A::ScmpArchMipsel64,
                &[A::ScmpArchMipsel, A::ScmpArchMipsel64n32],
            ),
            map(A::ScmpArchS390x, &[A::ScmpArchS390]),
            map(A::ScmpArchPpc64le, &[]),
            map(A::ScmpArchRiscv64, &[]),
            map(A::ScmpArchLoongarch64, &[]),
        ],
        syscalls: rules,
        ..Profile::default()
    }
}

/// Each of `any` allows; a rule that allows twice would be an error to some runtimes.
fn by_capability(any: &[String], names: &str, rules: &mut Vec<Rule>) {
    for (n, cap) in any.iter().enumerate() {
        rules.push(Rule {
            includes: Filter {
                caps: vec![cap.clone()],
                ..Filter::default()
            },
            excludes: Filter {
                caps: any[..n].to_vec(),
                ..Filter::default()
            },
            ..allow(names)
        });
    }
    rules.push(Rule {
        excludes: Filter {
            caps: any.to_vec(),
            ..Filter::default()
        },
        ..refuse(names, EPERM)
    });
}

fn tracing(rules: &mut Vec<Rule>) {
    let since = |version: &str| Filter {
        min_kernel: version.to_owned(),
        ..Filter::default()
    };
    let with = |cap: &str, version: &str| Filter {
        caps: caps(cap),
        min_kernel: version.to_owned(),
        ..Filter::default()
    };
    rules.push(Rule {
        includes: since("4.8"),
        ..allow(TRACING)
    });
    rules.push(Rule {
        includes: with("SYS_PTRACE", ""),
        excludes: since("4.8"),
        ..allow(TRACING)
    });
    rules.push(Rule {
        excludes: with("SYS_PTRACE", "4.8"),
        ..refuse(TRACING, EPERM)
    });
}

/// New namespaces are for those who may administer. The flags of `clone3` are in memory, where a
/// filter cannot look: without that right it does not exist, and C libraries use `clone`.
fn clone(rules: &mut Vec<Rule>) {
    let admin = Filter {
        caps: caps("SYS_ADMIN"),
        ..Filter::default()
    };
    rules.push(Rule {
        includes: admin.clone(),
        ..allow("clone clone3")
    });
    let all = NEW_NAMESPACES.iter().sum();
    for (on_s390, index) in [(false, 0), (true, 1)] {
        let s390 = Filter {
            arches: words("s390x"),
            ..Filter::default()
        };
        let (includes, mut excludes) = if on_s390 {
            (s390, Filter::default())
        } else {
            (Filter::default(), s390)
        };
        excludes.caps.clone_from(&admin.caps);
        rules.push(Rule {
            args: vec![arg(index, Op::ScmpCmpMaskedEq, all, Some(0))],
            includes: includes.clone(),
            excludes: excludes.clone(),
            ..allow("clone")
        });
        for flag in NEW_NAMESPACES {
            rules.push(Rule {
                args: vec![arg(index, Op::ScmpCmpMaskedEq, flag, Some(flag))],
                includes: includes.clone(),
                excludes: excludes.clone(),
                ..refuse("clone", EPERM)
            });
        }
    }
}

/// Families by equality and a bound, not by "all but": the kernel takes 32 bits of the argument,
/// the filter compares 64.
fn sockets(rules: &mut Vec<Rule>) {
    let first = NO_FAMILIES[0];
    rules.push(Rule {
        args: vec![arg(0, Op::ScmpCmpLt, first, None)],
        ..allow("socket")
    });
    for family in (first..=LAST_FAMILY).filter(|f| !NO_FAMILIES.contains(f)) {
        rules.push(Rule {
            args: vec![arg(0, Op::ScmpCmpEq, family, None)],
            ..allow("socket")
        });
    }
    for family in NO_FAMILIES {
        rules.push(Rule {
            args: vec![arg(0, Op::ScmpCmpEq, family, None)],
            ..refuse("socket", EAFNOSUPPORT)
        });
    }
}
