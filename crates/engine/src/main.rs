//! The command `unlade`.

use std::process::ExitCode;

fn main() -> ExitCode {
    unlade_engine::cli::main()
}
