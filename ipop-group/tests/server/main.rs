//! The program as it is: started on loopback, asked over HTTP, by people and by machines.

mod client;
mod world;

mod crashes;
mod forms;
mod hostile;
mod load;
mod machines;
mod people;
mod tls;
