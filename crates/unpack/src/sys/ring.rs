//! A small safe face on io_uring: chains and writes whose buffers live as long as the kernel
//! reads them.

use std::{
    os::fd::RawFd,
    sync::atomic::{Ordering, fence},
};

use io_uring::{IoUring, Probe, opcode, register::Restriction, squeue::Flags, types};

/// A small file as one chain: create, write, close.
#[derive(Debug)]
pub(crate) struct Chain {
    pub dir: RawFd,
    pub name: *const libc::c_char,
    pub flags: i32,
    pub mode: u32,
    pub writes: Vec<(u64, *const u8, usize)>,
}

/// A chain or write that the kernel is done with.
#[derive(Debug)]
pub(crate) struct Done<T> {
    pub owned: T,
    /// Every operation did all that it was asked.
    pub ok: bool,
}

#[derive(Debug)]
struct Slot<T> {
    owned: Option<T>,
    /// Completions still to come.
    left: usize,
    /// Results that count as success, by position in the chain.
    want: Vec<i32>,
    ok: bool,
}

/// A ring that owns, in `T`, everything that its operations point to.
pub(crate) struct Ring<T> {
    // Declared first, dropped first: the kernel lets go before the slots' buffers are freed.
    ring: IoUring,
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
}

const OPS: [u8; 3] = [
    opcode::OpenAt::CODE,
    opcode::Write::CODE,
    opcode::Close::CODE,
];

impl<T> Ring<T> {
    /// A ring for `depth` chains of at most `chain` operations, restricted to what they use. The
    /// error says why there can be none.
    pub(crate) fn new(depth: usize, chain: usize) -> Result<Self, String> {
        let entries = u32::try_from(depth * chain)
            .unwrap_or(256)
            .next_power_of_two();
        let ring = IoUring::builder()
            .setup_r_disabled()
            .build(entries)
            .map_err(|e| format!("io_uring_setup: {e}"))?;
        let submitter = ring.submitter();
        let mut probe = Probe::new();
        submitter
            .register_probe(&mut probe)
            .map_err(|e| format!("probe: {e}"))?;
        if let Some(op) = OPS.iter().find(|op| !probe.is_supported(**op)) {
            return Err(format!("the kernel lacks operation {op}"));
        }
        let slots = u32::try_from(depth).unwrap_or(32);
        submitter
            .register_files_sparse(slots)
            .map_err(|e| format!("direct descriptors: {e}"))?;
        let flags = Flags::IO_LINK | Flags::FIXED_FILE;
        let mut rules: Vec<Restriction> = OPS.iter().map(|op| Restriction::sqe_op(*op)).collect();
        rules.push(Restriction::sqe_flags_allowed(flags.bits()));
        submitter
            .register_restrictions(&mut rules)
            .map_err(|e| format!("restrictions: {e}"))?;
        submitter
            .register_enable_rings()
            .map_err(|e| format!("enable: {e}"))?;
        let new = |_| Slot {
            owned: None,
            left: 0,
            want: Vec::new(),
            ok: true,
        };
        Ok(Self {
            ring,
            slots: (0..depth).map(new).collect(),
            free: (0..depth).rev().collect(),
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Queues a chain whose name and buffers `owned` owns. Gives it back if there is no room.
    pub(crate) fn push_chain(&mut self, chain: &Chain, owned: T) -> Result<(), T> {
        let Some(&slot) = self.free.last() else {
            return Err(owned);
        };
        let index = u32::try_from(slot).unwrap_or_default();
        let Ok(direct) = types::DestinationSlot::try_from_slot_target(index) else {
            return Err(owned);
        };
        let data = |step: usize| (slot as u64) << 32 | step as u64;
        let mut want = vec![0];
        let mut ops = vec![
            // O_CLOEXEC means nothing for a direct descriptor, and is refused.
            opcode::OpenAt::new(types::Fd(chain.dir), chain.name)
                .flags(chain.flags & !libc::O_CLOEXEC)
                .mode(chain.mode)
                .file_index(Some(direct))
                .build()
                .flags(Flags::IO_LINK)
                .user_data(data(0)),
        ];
        for &(at, ptr, len) in &chain.writes {
            let Ok(size) = u32::try_from(len) else {
                return Err(owned);
            };
            let op = opcode::Write::new(types::Fixed(index), ptr, size)
                .offset(at)
                .build()
                .flags(Flags::IO_LINK)
                .user_data(data(want.len()));
            want.push(i32::try_from(len).unwrap_or(i32::MAX));
            ops.push(op);
        }
        ops.push(
            opcode::Close::new(types::Fixed(index))
                .build()
                .user_data(data(want.len())),
        );
        want.push(0);
        // SAFETY: the chain's name and buffers belong to `owned`, which stays in its slot until
        // every operation of the chain has completed; the directory stays open likewise.
        if unsafe { self.ring.submission().push_multiple(&ops) }.is_err() {
            return Err(owned);
        }
        self.occupy(slot, owned, want);
        Ok(())
    }

    /// Queues one write to `fd`, which like the buffer belongs to `owned`.
    pub(crate) fn push_write(
        &mut self,
        fd: RawFd,
        (at, ptr, len): (u64, *const u8, usize),
        owned: T,
    ) -> Result<(), T> {
        let Some(&slot) = self.free.last() else {
            return Err(owned);
        };
        let Ok(size) = u32::try_from(len) else {
            return Err(owned);
        };
        let op = opcode::Write::new(types::Fd(fd), ptr, size)
            .offset(at)
            .build()
            .user_data((slot as u64) << 32);
        // SAFETY: as for a chain: `owned` keeps descriptor and buffer until the completion.
        if unsafe { self.ring.submission().push(&op) }.is_err() {
            return Err(owned);
        }
        self.occupy(slot, owned, vec![i32::try_from(len).unwrap_or(i32::MAX)]);
        Ok(())
    }

    fn occupy(&mut self, slot: usize, owned: T, want: Vec<i32>) {
        self.free.pop();
        self.slots[slot] = Slot {
            owned: Some(owned),
            left: want.len(),
            want,
            ok: true,
        };
    }

    /// Submits what is queued, waits for at least one completion, and returns what is done.
    pub(crate) fn wait(&mut self) -> Vec<Done<T>> {
        // A signal or a full completion queue: the completions below make room.
        let _ = self.ring.submit_and_wait(1);
        fence(Ordering::Acquire);
        let mut done = Vec::new();
        let completed: Vec<(u64, i32)> = self
            .ring
            .completion()
            .map(|c| (c.user_data(), c.result()))
            .collect();
        for (data, result) in completed {
            let slot_index = usize::try_from(data >> 32).unwrap_or(usize::MAX);
            let step = usize::try_from(data & 0xffff_ffff).unwrap_or(usize::MAX);
            let Some(slot) = self.slots.get_mut(slot_index) else {
                continue;
            };
            slot.ok &= slot.want.get(step) == Some(&result);
            slot.left -= 1;
            if slot.left == 0
                && let Some(owned) = slot.owned.take()
            {
                done.push(Done { owned, ok: slot.ok });
                self.free.push(slot_index);
            }
        }
        done
    }
}
