//! Passwords: argon2id (RFC 9106), one at a time.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::error::Error;

/// OWASP's recommendation of least memory (Password Storage Cheat Sheet): 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Of characters: guessing is limited by rate, so length counts more than kinds of signs.
const LEN_MIN: usize = 10;
const LEN_MAX: usize = 200;
/// Hashes that are computed at a time: each takes [`MEMORY_KIB`].
const AT_A_TIME: usize = 1;
/// Hashes that wait for their turn; more are refused.
const WAITING_MAX: usize = 16;

/// Computes and checks hashes, a bounded number at a time.
#[derive(Clone, Debug)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_A_TIME)), waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }
}

impl Passwords {
    /// # Errors
    /// A password that is too short or too long; or too many wait.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        self.in_turn(move || hash(&password)).await?
    }

    /// Whether the password is that of the hash. Without a hash it takes as long, so that nobody learns who has an account.
    ///
    /// # Errors
    /// If too many wait.
    pub async fn is_right(&self, password: String, stored: Option<String>) -> Result<bool, Error> {
        self.in_turn(move || match stored {
            Some(stored) => verifies(&password, &stored),
            None => {
                let dummy = argon2()?.hash_password_with_salt(password.as_bytes(), &[0; 16]);
                dummy.map(|_| false).map_err(|error| Error::Internal(format!("argon2: {error}")))
            }
        })
        .await?
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let _place = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
        let _turn = self.turns.acquire().await.map_err(|_| Error::Busy)?;
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))
    }
}

/// The hash of a new password, as it is stored.
///
/// # Errors
/// A password that is too short or too long.
pub fn hash(password: &str) -> Result<String, Error> {
    if !(LEN_MIN..=LEN_MAX).contains(&password.chars().count()) {
        return Err(Error::Invalid(format!("a password has {LEN_MIN} to {LEN_MAX} signs")));
    }
    let salt: [u8; 16] = crate::secrets::random()?;
    let hash = argon2()?.hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| Error::Internal(format!("argon2: {error}")))
}

fn verifies(password: &str, stored: &str) -> Result<bool, Error> {
    let stored =
        PasswordHash::new(stored).map_err(|error| Error::Internal(format!("a stored hash: {error}")))?;
    Ok(argon2()?.verify_password(password.as_bytes(), &stored).is_ok())
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params =
        Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}
