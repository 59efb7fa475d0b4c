//! The program as it is: started on loopback, asked over HTTP, by people and by machines.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test tells what it has seen")]

mod client;
mod world;

mod chromium;
mod crashes;
mod forms;
mod hostile;
mod load;

mod machines;
mod people;
mod programs;
mod tls;
