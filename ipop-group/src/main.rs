//! `ipop-group`: see `ipop_group::cli`.

fn main() -> std::process::ExitCode {
    ipop_group::cli::run()
}
