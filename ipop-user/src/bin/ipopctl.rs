//! The control tool. What it does is in `ipop_user::ctl`.

fn main() -> std::process::ExitCode {
    ipop_user::ctl::run(std::env::args_os())
}
