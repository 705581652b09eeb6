#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bursar::cli::main()
}
