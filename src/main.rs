//! The program `keyguard`: manages a data file, also while a server holds it.

fn main() -> std::process::ExitCode {
    keyguard::cli::main()
}
