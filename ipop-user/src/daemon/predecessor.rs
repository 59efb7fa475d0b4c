//! Waiting for what a killed daemon still holds.
//!
//! The kernel takes an io_uring apart after its process has ended, and releases the UDP sockets and
//! the TUN device that the ring refers to only then: a daemon that is started at once finds them in
//! use for some milliseconds.

use std::time::Duration;

use super::clock;

/// Longer than the kernel takes on a busy machine; a port that another program holds is reported
/// that much later.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(10);

/// Attempts until it succeeds, fails for another reason than `in_use`, or patience ends.
pub(super) async fn outlive<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = clock::now().after(PATIENCE);
    loop {
        match attempt() {
            Err(error) if in_use(&error) && clock::now() < deadline => tokio::time::sleep(RETRY).await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_released_in_time_is_taken() {
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            if attempts < 3 { Err("in use") } else { Ok(attempts) }
        };
        assert_eq!(outlive(attempt, |_| true).await, Ok(3));
    }

    #[tokio::test]
    async fn another_failure_is_reported_at_once() {
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            Err::<(), _>("not permitted")
        };
        assert_eq!(outlive(attempt, |error| *error == "in use").await, Err("not permitted"));
        assert_eq!(attempts, 1);
    }
}
