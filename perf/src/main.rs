//! `perf`: measures the unlade binary as a whole process, against its peers, against another build
//! of itself and against the speed of light of the machine it runs on.
//!
//! It links nothing of unlade: it makes workloads, mounts freshly made file systems, runs programs
//! and does arithmetic on what they took. `perf/README.md` says what each figure means.
#![allow(clippy::print_stdout)]

mod asked;
mod busybox;
mod child;
mod cli;
mod compare;
mod contestants;
mod extract;
mod fs;
mod layers;
mod light;
mod machine;
mod markdown;
mod measure;
mod oci;
mod pull;
mod report;
mod run;
mod split;
mod start;
mod stats;
mod suite;
mod sys;
mod tarhop;
mod tiny;
mod trees;
mod workloads;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("perf: {error:#}");
            ExitCode::from(2)
        }
    }
}
