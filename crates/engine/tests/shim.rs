//! Containers through real runtimes and the real shim.
#![allow(missing_docs, clippy::unwrap_used)]

mod container;

use std::{fs, os::fd::AsFd};

use container::{Box, *};
use unlade_engine::shim::{self, *};

#[test]
fn output_exit_log_and_state() {
    for runtime in runtimes() {
        let b = Box::new(
            runtime,
            &["out", "hello", "err", "oops", "part", "x", "exit", "7"],
        );
        let mut started = b.start();
        assert!(started.pid > 1);
        let (out, err, exit) = all(&mut started.connection);
        assert_eq!((&*out, &*err), ("hello\nx", "oops\n"), "{runtime}");
        assert_eq!((exit.code, exit.oom, exit.again), (7, false, false));
        assert_eq!(started.connection.recv().unwrap(), Message::Closed);
        let state = b.state();
        assert_eq!(state.status, Status::Exited);
        assert_eq!(state.exit_code, Some(7));
        assert_eq!(state.init.unwrap().pid, started.pid);
        assert!(state.started.unwrap() <= state.finished.clone().unwrap());
        assert_eq!(state.finished.unwrap(), exit.finished);
        let mut log = b.log();
        log.sort();
        let line = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
        let want = [
            line("stderr", "oops\n"),
            line("stdout", "hello\n"),
            line("stdout", "x"),
        ];
        assert_eq!(log, want);
        assert_eq!(b.events(), ["start", "die"]);
        b.nothing_is_left();
        let seen = State::look(b.run()).unwrap().unwrap();
        assert!(seen.same_boot && !seen.shim && !seen.init && !seen.deserted());
    }
}

#[test]
fn signals_count_as_exits() {
    for runtime in runtimes() {
        let b = Box::new(runtime, &["trap", "15", "out", "ready", "sleep"]);
        let mut started = b.start();
        out_until(&mut started.connection, "ready\n");
        shim::signal(b.run(), 15).unwrap();
        let (out, _, exit) = all(&mut started.connection);
        assert_eq!((&*out, exit.code), ("signal 15\n", 55));
        b.nothing_is_left();
        let b = Box::new(runtime, &["sleep"]);
        let mut started = b.start();
        shim::signal(b.run(), 9).unwrap();
        assert_eq!(started.connection.exit().unwrap().code, 137);
        b.nothing_is_left();
        let e = shim::signal(b.run(), 9).unwrap_err();
        assert_eq!(e.kind(), unlade_engine::error::Kind::NotFound);
    }
}

#[test]
fn stop_asks_and_then_kills() {
    for runtime in runtimes() {
        let b = Box::new(runtime, &["ignore", "15", "out", "ready", "sleep"]);
        let mut started = b.start();
        out_until(&mut started.connection, "ready\n");
        let limit = std::time::Duration::from_millis(200);
        let began = std::time::Instant::now();
        shim::stop(b.run(), 15, Some(limit)).unwrap();
        assert_eq!(started.connection.exit().unwrap().code, 137);
        assert!(began.elapsed() >= limit);
        assert!(b.state().stopping);
        b.nothing_is_left();
    }
}

#[test]
fn input_goes_in_and_ends() {
    for runtime in runtimes() {
        let b = Box::new(runtime, &["cat"]).stdin(Stdin::Once);
        let mut started = b.start();
        let mut sender = started.connection.sender().unwrap();
        // More than every buffer on the way, both ways at once.
        let text = "0123456789abcde\n".repeat(100_000);
        let sent = text.clone();
        let thread = std::thread::spawn(move || {
            sender.input(sent.as_bytes()).unwrap();
            sender.end_of_input().unwrap();
        });
        let (out, _, exit) = all(&mut started.connection);
        thread.join().unwrap();
        assert_eq!(exit.code, 0);
        assert!(out == text + "end\n", "{} bytes", out.len());
        b.nothing_is_left();
    }
}

#[test]
fn without_input_it_is_at_its_end() {
    for runtime in runtimes() {
        let b = Box::new(runtime, &["cat"]);
        assert_eq!(all(&mut b.start().connection).0, "end\n");
    }
}

#[test]
fn a_terminal() {
    for runtime in runtimes() {
        let b = Box::new(runtime, &["tty", "size", "line", "line", "exit", "3"]).terminal(33, 77);
        let mut started = b.start();
        let mut sender = started.connection.sender().unwrap();
        let first = out_until(&mut started.connection, "7\r\n");
        // The size can come after the first look.
        assert!(first.starts_with("tty\r\n"), "{first}");
        assert!(first.ends_with("33x77\r\n"), "{runtime}: {first}");
        let size = |rows, columns| Size { rows, columns };
        sender.resize(size(40, 100)).unwrap();
        out_until(&mut started.connection, "40x100\r\n");
        shim::resize(b.run(), size(41, 101)).unwrap();
        out_until(&mut started.connection, "41x101\r\n");
        sender.input(b"abc\n").unwrap();
        out_until(&mut started.connection, "got abc\r\n");
        sender.input(b"def\n").unwrap();
        let (out, err, exit) = all(&mut started.connection);
        assert!(out.ends_with("got def\r\n"), "{out}");
        assert_eq!((&*err, exit.code), ("", 3));
        assert!(b.log().iter().all(|(stream, _)| stream == "stdout"));
        b.nothing_is_left();
        let b = Box::new(runtime, &["sleep"]);
        let _started = b.start();
        let e = shim::resize(b.run(), size(1, 1)).unwrap_err();
        assert_eq!(e.kind(), unlade_engine::error::Kind::Conflict);
    }
}

#[test]
fn the_streams_that_were_handed_over() {
    for runtime in runtimes() {
        let mut b = Box::new(runtime, &["cat", "err", "oops"]);
        b.launch.io = Io::Passed;
        b.launch.log = Log::None;
        let dir = b.dir.path();
        fs::write(dir.join("in"), "from a file\n").unwrap();
        let input = fs::File::open(dir.join("in")).unwrap();
        let out = fs::File::create(dir.join("out")).unwrap();
        let err = fs::File::create(dir.join("err")).unwrap();
        let fds = Fds {
            stdio: Some([input.as_fd(), out.as_fd(), err.as_fd()]),
            ..Fds::default()
        };
        let mut started = started(b.outcome(&fds));
        assert_eq!(started.connection.exit().unwrap().code, 0);
        let text = |name| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(text("out"), "from a file\nend\n");
        assert_eq!(text("err"), "oops\n");
        b.nothing_is_left();
    }
}

#[test]
fn clients_come_and_go() {
    for runtime in runtimes() {
        let mut b =
            Box::new(runtime, &["line", "line", "msleep", "50", "exit", "4"]).stdin(Stdin::Open);
        b.launch.foreground = None;
        drop(b.start());
        let both = Streams {
            stdin: true,
            ..OUTPUT
        };
        let mut first = shim::attach(b.run(), both).unwrap();
        let mut second = shim::attach(b.run(), OUTPUT).unwrap();
        let mut waits = shim::wait(b.run()).unwrap();
        first.sender().unwrap().input(b"a\n").unwrap();
        assert_eq!(out_until(&mut first, "\n"), "got a\n");
        assert_eq!(out_until(&mut second, "\n"), "got a\n");
        // Input does not end with its first client here.
        drop(first);
        let mut third = shim::attach(b.run(), both).unwrap();
        let mut sender = third.sender().unwrap();
        sender.input(b"b\n").unwrap();
        for connection in [&mut second, &mut third] {
            let (out, _, exit) = all(connection);
            assert_eq!((&*out, exit.code), ("got b\n", 4));
        }
        assert_eq!(waits.exit().unwrap().code, 4);
        b.nothing_is_left();
    }
}

#[test]
fn what_cannot_be_started() {
    for runtime in runtimes() {
        for (args, code) in [
            (["nothing-here"].as_slice(), 127),
            (&["/nothing-here"], 127),
            (&["/tmp/plain"], 126),
        ] {
            for terminal in [false, true] {
                let mut b = Box::new(runtime, &[]);
                if terminal {
                    b = b.terminal(24, 80);
                }
                b.spec["process"]["args"] = args.into();
                fs::write(b.launch.bundle.join("rootfs/tmp/plain"), "x").unwrap();
                let refused = b.refused();
                assert_eq!(refused.exit_code, code, "{runtime} {args:?}: {refused:?}");
                assert!(
                    refused.message.contains(args[0]) || code == 126,
                    "{refused:?}"
                );
                let state = b.state();
                assert_eq!(state.status, Status::Failed);
                assert_eq!(state.error, refused.message);
                b.nothing_is_left();
                assert_eq!(b.events(), [""; 0]);
            }
        }
        let mut b = Box::new(runtime, &[]);
        b.spec["root"]["path"] = "no-root".into();
        let refused = b.refused();
        assert!(!refused.message.is_empty());
        b.nothing_is_left();
    }
}

#[test]
fn the_mount_that_was_handed_over() {
    use rustix::mount::{OpenTreeFlags, open_tree};
    for runtime in runtimes() {
        for mounts in [Mounts::Own, Mounts::Host] {
            let mut b = Box::new(runtime, &["out", "in it", "exists", "/marked"]);
            b.launch.mounts = mounts;
            let tree = b.dir.path().join("tree");
            fs::rename(b.launch.bundle.join("rootfs"), &tree).unwrap();
            fs::create_dir(b.launch.bundle.join("rootfs")).unwrap();
            fs::write(tree.join("marked"), "").unwrap();
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = open_tree(rustix::fs::CWD, &tree, flags).unwrap();
            let fds = Fds {
                rootfs: Some(mount.as_fd()),
                ..Fds::default()
            };
            let mut started = started(b.outcome(&fds));
            drop(mount);
            let (out, _, exit) = all(&mut started.connection);
            assert_eq!((&*out, exit.code), ("in it\n", 0), "{runtime} {mounts:?}");
            b.nothing_is_left();
        }
    }
}

/// Whatever is open, blocked or ignored where a container is started stays there.
#[test]
fn nothing_of_the_host_gets_in() {
    use std::os::fd::AsRawFd;
    for runtime in runtimes() {
        for terminal in [false, true] {
            let mut b = Box::new(runtime, &["fds", "signals", "umask"]);
            if terminal {
                b = b.terminal(24, 80);
            }
            let secret = fs::File::create(b.dir.path().join("secret")).unwrap();
            // Without close-on-exec, as a careless parent leaves them.
            let leaks: Vec<_> = (0..3)
                .map(|_| {
                    let fd = rustix::io::fcntl_dupfd_cloexec(&secret, 20).unwrap();
                    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
                    fd
                })
                .collect();
            assert!(leaks[0].as_raw_fd() >= 20);
            let mut started = b.start();
            let (out, ..) = all(&mut started.connection);
            let fds: Vec<&str> = out.lines().filter(|l| l.starts_with("fd ")).collect();
            assert_eq!(fds.len(), 3, "{runtime}: {out}");
            assert!(!out.contains("secret"), "{out}");
            let none = |name: &str| {
                let line = out.lines().find(|l| l.starts_with(name)).unwrap();
                let mask = line.trim_end().rsplit('\t').next().unwrap();
                // The C library ignores 32 and 33, its own, in whatever it starts.
                let mask = u64::from_str_radix(mask, 16).unwrap() & !(3 << 31);
                assert_eq!(mask, 0, "{line}");
            };
            none("SigBlk");
            none("SigIgn");
            assert!(out.contains("umask 022"), "{out}");
        }
    }
}

/// What is to be held is, from the start to the last end, and never gets inside.
#[test]
fn sockets_are_held_as_long_as_it_runs() {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    for runtime in runtimes() {
        let sockets: Vec<TcpListener> = (0..150)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let ports: Vec<SocketAddr> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let held: Vec<_> = sockets.into_iter().map(Into::into).collect();
        let free = || {
            ports
                .iter()
                .filter(|p| TcpListener::bind(p).is_ok())
                .count()
        };
        let mut b = Box::new(runtime, &["fds", "sleep"]);
        b.launch.restart = Restart::Always;
        let fds = Fds {
            held: &held,
            ..Fds::default()
        };
        let mut started = started(b.outcome(&fds));
        drop(held);
        let inside = |log: &[(String, String)]| {
            let lines = log.iter().map(|(_, line)| line);
            assert!(!lines.clone().any(|l| l.contains("socket")), "{log:?}");
            lines.filter(|l| l.contains("fd ")).count()
        };
        until("it says what it has", || inside(&b.log()) == 3);
        assert_eq!(free(), 0, "{runtime}");
        // Its policy starts it again: they are the same container's.
        shim::signal(b.run(), 9).unwrap();
        assert!(started.connection.exit().unwrap().again);
        assert_eq!(free(), 0, "{runtime}");
        until("it runs again", || inside(&b.log()) == 6);
        assert_eq!(free(), 0, "{runtime}");
        shim::stop(b.run(), 9, None).unwrap();
        while started.connection.exit().unwrap().again {}
        assert_eq!(free(), ports.len(), "{runtime}");
        b.nothing_is_left();

        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap();
        let b = Box::new(runtime, &["sleep"]);
        let held = [socket.into()];
        let fds = Fds {
            held: &held,
            ..Fds::default()
        };
        let mut started = self::started(b.outcome(&fds));
        drop(held);
        assert!(TcpListener::bind(port).is_err());
        shim::release(b.run()).unwrap();
        assert!(TcpListener::bind(port).is_ok());
        shim::stop(b.run(), 9, None).unwrap();
        assert!(!started.connection.exit().unwrap().again);
        b.nothing_is_left();
    }
}

#[test]
fn cleanup_is_run_once_by_whom_it_should() {
    for runtime in runtimes() {
        for (client_cleans, leaves, runs) in [
            (false, false, true),
            (false, true, true),
            (true, false, false),
            (true, true, true),
        ] {
            let mut b = Box::new(runtime, &["line"]).stdin(Stdin::Open);
            let mark = b.dir.path().join("cleaned");
            let script = format!("echo x >> {}", mark.display());
            b.launch.cleanup = vec!["/bin/sh".into(), "-c".into(), script];
            b.launch.client_cleans = client_cleans;
            let started = b.start();
            let mut connection = started.connection;
            let mut waits = shim::wait(b.run()).unwrap();
            let mut sender = connection.sender().unwrap();
            sender.input(b"\n").unwrap();
            if leaves {
                drop((connection, sender));
            } else {
                connection.exit().unwrap();
                if client_cleans {
                    sender.cleaned().unwrap();
                }
            }
            waits.exit().unwrap();
            b.nothing_is_left();
            let ran = fs::read_to_string(&mark).unwrap_or_default();
            let want = if runs { "x\n" } else { "" };
            assert_eq!(ran, want, "{client_cleans} {leaves}");
        }
    }
}

/// What keeps the namespaces is there from the start until somebody has cleaned up, and nobody else
/// has it.
#[test]
fn namespaces_are_kept_until_it_is_cleaned_up() {
    use rustix::fs::{FlockOperation, flock};
    for runtime in runtimes() {
        let mut b = Box::new(runtime, &["fds", "line"]).stdin(Stdin::Open);
        let at = |name: &str| b.dir.path().join(name);
        let (users, go, mark) = (at("users.lock"), at("go"), at("cleaned"));
        let file = fs::File::create(&users).unwrap();
        flock(&file, FlockOperation::LockShared).unwrap();
        let free = || {
            let file = fs::File::open(&users).unwrap();
            flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        let made = std::process::Command::new("mkfifo").arg(&go).status();
        assert!(made.unwrap().success());
        let script = format!("cat {} > {}", go.display(), mark.display());
        b.launch.cleanup = vec!["/bin/sh".into(), "-c".into(), script];
        let fds = Fds {
            users: Some(file.as_fd()),
            ..Fds::default()
        };
        let mut started = started(b.outcome(&fds));
        drop(file);
        assert!(!free());
        // Letting go of ports is not letting go of it.
        shim::release(b.run()).unwrap();
        let mut sender = started.connection.sender().unwrap();
        sender.input(b"\n").unwrap();
        let (out, ..) = all(&mut started.connection);
        assert!(!out.contains("users.lock"), "{out}");
        // The command that cleans up has begun, and waits.
        until("it begins to clean up", || mark.exists());
        assert!(!free(), "{runtime}");
        fs::write(&go, "x").unwrap();
        until("it is let go", free);
        assert_eq!(fs::read_to_string(&mark).unwrap(), "x");
        b.nothing_is_left();
    }
}

#[test]
fn processes_in_a_container() {
    for runtime in runtimes() {
        let b = Box::new(runtime, &["sleep"]);
        let _started = b.start();
        let pipes = Io::Pipes { stdin: Stdin::Once };
        let exec = |words: &[&str], io| {
            let exec = b.exec(words, io);
            let mut started = started(shim::exec(&b.config, &exec, &Fds::default()).unwrap());
            let got = all(&mut started.connection);
            let state = State::read(&exec.run).unwrap().unwrap();
            assert_eq!(state.exit_code, Some(got.2.code));
            until("the shim goes", || !state.shim.lives());
            got
        };
        let (out, err, exit) = exec(&["out", "a", "err", "b", "exit", "5"], pipes);
        assert_eq!((&*out, &*err, exit.code), ("a\n", "b\n", 5), "{runtime}");
        let size = Size {
            rows: 20,
            columns: 60,
        };
        let stdin = Stdin::Open;
        let tty = Io::Terminal { size, stdin };
        let (out, _, exit) = exec(&["tty", "exit", "6"], tty);
        assert_eq!((&*out, exit.code), ("tty\r\n", 6), "{runtime}");
        let mut wrong = b.exec(&["wrong"], pipes);
        wrong.process["args"] = vec!["/nothing-here"].into();
        let Outcome::Refused(refused) = shim::exec(&b.config, &wrong, &Fds::default()).unwrap()
        else {
            panic!("started");
        };
        assert_eq!(refused.exit_code, 127, "{refused:?}");
        assert!(State::look(b.run()).unwrap().unwrap().init);
        shim::stop(b.run(), 9, None).unwrap();
        b.nothing_is_left();
    }
}
