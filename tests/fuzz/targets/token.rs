//! The line with which a node joins a network.
//!
//! Input: the bytes of a token without its checksum; and the same as the text of a token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::{Blake2s256, Digest};
use ipop_user::config::SECRET_LEN_MIN;
use ipop_user::token::{PREFIX, Token, TokenError};

pub(super) fn run(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        // Nobody finds a checksum by chance.
        assert!(Token::decode(text).is_err());
    }
    let sum = Blake2s256::new().chain_update(b"ipop token v1").chain_update(input).finalize();
    match Token::decode(&line(&[input, &sum[..8]].concat())) {
        Ok(token) => is_valid(&token),
        Err(error) => assert_eq!(error, TokenError::Nonsense),
    }
    let mut wrong = sum;
    wrong[input.len() % 8] ^= 1;
    assert_eq!(Token::decode(&line(&[input, &wrong[..8]].concat())), Err(TokenError::Damaged));
}

fn line(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What it says can be written into a configuration and onto a terminal, and is read back.
fn is_valid(token: &Token) {
    let inviter = &token.inviter;
    let is_plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(is_plain(&token.network) && is_plain(&inviter.name));
    assert!(token.secret.chars().count() >= SECRET_LEN_MIN);
    assert_eq!(Token::decode(&token.encode()).as_ref(), Ok(token));
}
