//! Owns the process: everything else is in the library.

fn main() -> std::process::ExitCode {
    hairpin::cli::main().into()
}
