//! What clients ask of a container that is there.

use std::time::{Duration, Instant};

use rustix::termios::{Winsize, tcsetwinsize};

use super::{Phase, Server, clients::Client, job::What};
use crate::{
    shim::{
        Size,
        wire::{self, Reply, Request},
    },
    sys,
};

/// Most connections at once.
const MAX_CLIENTS: usize = 512;

impl Server {
    /// Takes those who want to connect.
    pub(super) fn accept(&mut self) {
        while let Some(listener) = &self.listener
            && let Ok((socket, _)) = listener.accept()
        {
            if self.clients.len() < MAX_CLIENTS {
                self.clients.extend(Client::accepted(socket));
            }
        }
    }

    /// Reads from a client, and does what it asks.
    pub(super) fn hear(&mut self, index: usize) {
        let room = wire::CHUNK;
        self.scratch.resize(room, 0);
        let mut scratch = std::mem::take(&mut self.scratch);
        let more = self.clients[index].receive(&mut scratch);
        self.scratch = scratch;
        self.obey(index);
        if !more {
            let client = &mut self.clients[index];
            client.gone = true;
            if client.sends_input() {
                self.input.client_ended(self.terminal.is_some());
            }
        }
    }

    /// Does what a client has asked, up to input that the container does not take yet.
    pub(super) fn obey(&mut self, index: usize) {
        loop {
            let client = &mut self.clients[index];
            let Ok(next) = client.frames.peek() else {
                client.gone = true;
                return;
            };
            let Some((kind, payload)) = next else {
                return;
            };
            if kind == wire::INPUT {
                if self.input.blocked() {
                    return;
                }
                if client.streams.is_some_and(|s| s.stdin) {
                    self.input.push(payload);
                }
                client.frames.take();
                continue;
            }
            let request = serde_json::from_slice::<Request>(payload);
            client.frames.take();
            let reply = match request {
                Ok(Request::Attach(streams)) => {
                    client.streams = Some(streams);
                    client.tell(&Reply::Done);
                    // The others were told already.
                    self.exit.clone().map(Reply::Exited)
                }
                Ok(request) => self.request(index, request),
                Err(e) => Some(Reply::Failed(format!("not understood: {e}"))),
            };
            if let Some(reply) = reply {
                self.clients[index].tell(&reply);
            }
        }
    }

    fn request(&mut self, index: usize, request: Request) -> Option<Reply> {
        let done = match request {
            Request::EndOfInput => {
                if self.clients[index].sends_input() {
                    self.input.client_ended(self.terminal.is_some());
                }
                return None;
            }
            Request::Cleaned => {
                if self.clients[index].starter && self.exit.is_some() {
                    self.cleaned = true;
                    self.clients[index].gone = true;
                }
                return None;
            }
            Request::Resize(size) => self.resize(size),
            Request::Signal(signal) => self.signal(signal),
            Request::Stop { signal, timeout_ms } => {
                self.stop(signal, timeout_ms);
                Ok(())
            }
            Request::Restart(restart) => {
                if let What::Container(container) = &mut self.job.what {
                    container.restart = restart;
                }
                Ok(())
            }
            Request::Paused(paused) => {
                self.state.paused = paused;
                self.save();
                Ok(())
            }
            Request::Release => {
                self.held = Vec::new();
                Ok(())
            }
            Request::Attach(_) | Request::Launch { .. } | Request::Exec { .. } => {
                Err("not now".to_owned())
            }
        };
        Some(done.map_or_else(Reply::Failed, |()| Reply::Done))
    }

    /// Sets the size of the terminal.
    pub(super) fn resize(&self, size: Size) -> Result<(), String> {
        let Some(terminal) = &self.terminal else {
            return Err("there is no terminal".into());
        };
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(terminal, size).map_err(|e| format!("set the terminal's size: {e}"))
    }

    pub(super) fn signal(&self, signal: i32) -> Result<(), String> {
        use std::os::fd::AsFd;
        match (&self.phase, &self.init) {
            (Phase::Running { .. }, Some(init)) => {
                sys::signal_process(init.as_fd(), signal).map_err(|e| format!("send signal: {e}"))
            }
            _ => Err("it does not run".into()),
        }
    }

    fn stop(&mut self, signal: i32, timeout_ms: Option<u64>) {
        self.state.stopping = true;
        self.save();
        self.stop_with = Some(signal);
        self.kill_at = timeout_ms.and_then(|ms| {
            // Further than a clock counts is never.
            Instant::now().checked_add(Duration::from_millis(ms))
        });
        // Before it runs there is nobody to tell: it is told when it does.
        let _ = self.signal(signal);
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.last();
        }
    }
}
