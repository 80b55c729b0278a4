//! Typing without showing it.

use std::io;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Shows what is typed again when dropped.
pub(super) struct Hidden(Option<Termios>);

/// Hides what is typed into the terminal on standard input.
pub(super) fn hide() -> Hidden {
    let stdin = io::stdin();
    let Ok(before) = tcgetattr(&stdin) else {
        return Hidden(None);
    };
    let mut without = before.clone();
    without.local_modes.remove(LocalModes::ECHO);
    match tcsetattr(&stdin, OptionalActions::Flush, &without) {
        Ok(()) => Hidden(Some(before)),
        Err(_) => Hidden(None),
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone shows nothing.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
