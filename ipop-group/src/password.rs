//! Passwords: argon2id (RFC 9106), one at a time, in memory that is kept.

use std::sync::Arc;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::{Mutex, Semaphore};

use crate::error::Error;

/// OWASP's recommendation of least memory (Password Storage Cheat Sheet): 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Of characters: guessing is limited by rate, so length counts more than kinds of signs.
const LEN_MIN: usize = 10;
const LEN_MAX: usize = 200;
const SALT_LEN: usize = 16;
/// Hashes that wait for their turn; more are refused.
const WAITING_MAX: usize = 16;

/// Computes and checks hashes, one at a time.
#[derive(Clone, Debug)]
pub struct Passwords {
    /// Who has it computes. It is kept: blocks of this size that come and go leave an allocator with ten of them.
    memory: Arc<Mutex<Memory>>,
    waiting: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { memory: Arc::default(), waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }
}

/// What a hash is computed in: none before the first.
#[derive(Default)]
struct Memory(Vec<Block>);

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} KiB)", self.0.len())
    }
}

impl Passwords {
    /// # Errors
    /// A password that is too short or too long; or too many wait.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        self.in_turn(move |memory| memory.hash(&password)).await?
    }

    /// Whether the password is that of the hash. Without a hash it takes as long, so that nobody learns who has an account.
    ///
    /// # Errors
    /// If too many wait.
    pub async fn is_right(&self, password: String, stored: Option<String>) -> Result<bool, Error> {
        self.in_turn(move |memory| match stored {
            Some(stored) => memory.verifies(&password, &stored),
            None => memory.compute(&argon2()?, &password, &[0; SALT_LEN]).map(|_| false),
        })
        .await?
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let _place = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
        let mut memory = Arc::clone(&self.memory).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || work(&mut memory));
        done.await.map_err(|error| Error::Internal(error.to_string()))
    }
}

/// The hash of a new password, as it is stored.
///
/// # Errors
/// A password that is too short or too long.
pub fn hash(password: &str) -> Result<String, Error> {
    Memory::default().hash(password)
}

impl Memory {
    fn hash(&mut self, password: &str) -> Result<String, Error> {
        if !(LEN_MIN..=LEN_MAX).contains(&password.chars().count()) {
            return Err(Error::Invalid(format!("a password has {LEN_MIN} to {LEN_MAX} signs")));
        }
        let (salt, argon2): ([u8; SALT_LEN], _) = (crate::secrets::random()?, argon2()?);
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(argon2.params()).map_err(internal)?,
            salt: Some(Salt::new(&salt).map_err(internal)?),
            hash: Some(self.compute(&argon2, password, &salt)?),
        };
        Ok(hash.to_string())
    }

    /// Whether the password is that of a hash, whatever it was made with.
    fn verifies(&mut self, password: &str, stored: &str) -> Result<bool, Error> {
        let stored = PasswordHash::new(stored).map_err(internal)?;
        let algorithm = Algorithm::try_from(stored.algorithm.as_str()).map_err(internal)?;
        let version = stored.version.map_or(Ok(Version::V0x13), Version::try_from).map_err(internal)?;
        let argon2 = Argon2::new(algorithm, version, Params::try_from(&stored).map_err(internal)?);
        let (Some(salt), Some(hash)) = (&stored.salt, &stored.hash) else {
            return Err(internal("a stored hash has no salt, or no end"));
        };
        // In constant time.
        Ok(self.compute(&argon2, password, salt)? == *hash)
    }

    fn compute(&mut self, argon2: &Argon2<'_>, password: &str, salt: &[u8]) -> Result<Output, Error> {
        let params = argon2.params();
        let mut bytes = [0; Output::MAX_LENGTH];
        let len = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        let out = bytes.get_mut(..len).ok_or_else(|| internal("a hash is too long"))?;
        if self.0.len() < params.block_count() {
            self.0.resize(params.block_count(), Block::default());
        }
        argon2
            .hash_password_into_with_memory(password.as_bytes(), salt, out, &mut self.0)
            .map_err(internal)?;
        Output::new(out).map_err(internal)
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("argon2: {error}"))
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(internal)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHasher, PasswordVerifier};

    use super::*;

    const PASSWORD: &str = "correct horse battery";

    #[test]
    fn a_hash_is_what_the_library_makes_and_reads() {
        let mut memory = Memory::default();
        let hash = memory.hash(PASSWORD).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(argon2().unwrap().verify_password(PASSWORD.as_bytes(), hash.as_str()), Ok(()));
        assert_eq!(memory.verifies(PASSWORD, &hash), Ok(true));
        assert_eq!(memory.verifies("correct horse batterz", &hash), Ok(false));
        assert_ne!(memory.hash(PASSWORD).unwrap(), hash, "each has a salt of its own");
        assert!(matches!(memory.verifies(PASSWORD, "$argon2id$v=19"), Err(Error::Internal(_))));
        // Of another time, with less memory.
        let params = Params::new(64, 3, 1, Some(16)).unwrap();
        let other = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let older = other.hash_password_with_salt(PASSWORD.as_bytes(), &[7; 16]).unwrap().to_string();
        assert_eq!(memory.verifies(PASSWORD, &older), Ok(true));
        assert_eq!(memory.verifies("another horse battery", &older), Ok(false));
    }
}
