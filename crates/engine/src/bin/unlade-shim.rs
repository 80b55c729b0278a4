//! The program that stays with one container.

use std::process::ExitCode;

fn main() -> ExitCode {
    unlade_engine::shim::main()
}
