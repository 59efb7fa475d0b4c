//! The user's wish to stop: Ctrl-C, or a request to terminate.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// Takes the signals from here on, so that none is missed between two waits.
#[derive(Debug)]
pub(super) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::Refused(format!("cannot take signals: {error}; try again")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
