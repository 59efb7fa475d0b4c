//! The line with which a node joins a network: `ipopctl init` prints it on one node and takes it on
//! another. Its bytes are in `docs/wire-format.md`. Who has it has the network's secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::{Blake2s256, Digest};
use zeroize::Zeroizing;

use crate::config::{Endpoint, Prefix, SECRET_LEN_MIN, is_name};
use crate::key::{KEY_LEN, PublicKey};

/// What every token begins with, up to its version.
const SCHEME: &str = "ipop";
/// What every token of this version begins with.
pub const PREFIX: &str = "ipop1:";
/// More than any token has: with more than a dozen addresses, or no token.
pub const TOKEN_LEN_MAX: usize = 4096;
const CHECKSUM_LEN: usize = 8;
const CHECKSUM_DOMAIN: &[u8] = b"ipop token v1";

/// What a node needs to join a network.
#[derive(PartialEq, Eq)]
pub struct Token {
    pub network: String,
    pub secret: Zeroizing<String>,
    /// The node that has made the token.
    pub inviter: Member,
}

/// What one node's configuration says of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub public_key: PublicKey,
    /// Its own virtual addresses with their network's length: `10.128.0.1/24`. None, where the network leases them.
    pub addresses: Vec<Prefix>,
    /// `None`: it comes to the others.
    pub endpoint: Option<Endpoint>,
}

/// Why a text is no token. None of them repeats the text, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "not a token; paste the whole line that `ipopctl init` prints on a node of the network, `ipop1:` included"
    )]
    NotAToken,
    #[error(
        "a token of version {0}, and this ipopctl reads version 1; use one version of IPOP on both nodes"
    )]
    OtherVersion(u32),
    #[error(
        "the token is damaged: its checksum is wrong; copy it again, from its first character to its last"
    )]
    Damaged,
    #[error("the token is whole and makes no sense; let `ipopctl init` of this version make one")]
    Nonsense,
}

impl Token {
    /// The token as one line, without its end.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(TOKEN_LEN_MAX));
        put_text(&mut bytes, &self.network);
        put_text(&mut bytes, &self.secret);
        put_text(&mut bytes, &self.inviter.name);
        bytes.extend_from_slice(self.inviter.public_key.as_bytes());
        let endpoint = self.inviter.endpoint.as_ref().map(Endpoint::to_string);
        put_text(&mut bytes, &endpoint.unwrap_or_default());
        for address in &self.inviter.addresses {
            put_text(&mut bytes, &address.to_string());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let mut line = Zeroizing::new(String::with_capacity(TOKEN_LEN_MAX));
        line.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut line);
        line
    }

    /// Reads what [`Token::encode`] has written; space around it is no part of it.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or_else(|| refusal(text))?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?);
        let (fields, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(TokenError::Damaged)?;
        if checksum(fields) != *sum {
            return Err(TokenError::Damaged);
        }
        parse(fields).ok_or(TokenError::Nonsense)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("network", &self.network).finish_non_exhaustive()
    }
}

/// Of what does not begin as a token of this version does.
fn refusal(text: &str) -> TokenError {
    let version = text.strip_prefix(SCHEME).and_then(|rest| rest.split_once(':')?.0.parse().ok());
    version.map_or(TokenError::NotAToken, TokenError::OtherVersion)
}

fn checksum(fields: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Blake2s256::new().chain_update(CHECKSUM_DOMAIN).chain_update(fields).finalize();
    let mut first = [0; CHECKSUM_LEN];
    first.copy_from_slice(&digest[..CHECKSUM_LEN]);
    first
}

/// A text behind its length.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names, addresses and secrets of ours are short");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// `None` unless every value is valid and nothing is left over.
fn parse(fields: &[u8]) -> Option<Token> {
    let mut rest = fields;
    let network = take_name(&mut rest)?;
    let secret = Zeroizing::new(take_text(&mut rest)?.to_owned());
    let name = take_name(&mut rest)?;
    let (key, after_key) = rest.split_first_chunk::<KEY_LEN>()?;
    rest = after_key;
    let endpoint = match take_text(&mut rest)? {
        "" => None,
        text => Some(text.parse().ok()?),
    };
    let mut addresses = Vec::new();
    while !rest.is_empty() {
        addresses.push(take_text(&mut rest)?.parse().ok()?);
    }
    let is_long_enough = secret.chars().count() >= SECRET_LEN_MIN;
    let inviter = Member { name, public_key: PublicKey::from_bytes(*key), addresses, endpoint };
    is_long_enough.then_some(Token { network, secret, inviter })
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (len, after_len) = rest.split_first_chunk()?;
    let (text, after_text) = after_len.split_at_checked(u16::from_be_bytes(*len).into())?;
    *rest = after_text;
    std::str::from_utf8(text).ok()
}

fn take_name(rest: &mut &[u8]) -> Option<String> {
    take_text(rest).filter(|name| is_name(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "+correct/horse/battery/staple=";

    fn token() -> Token {
        Token {
            network: "lab".to_owned(),
            secret: Zeroizing::new(SECRET.to_owned()),
            inviter: Member {
                name: "alpha".to_owned(),
                public_key: PublicKey::from_bytes([7; KEY_LEN]),
                addresses: vec!["10.128.0.1/24".parse().unwrap(), "fd00:128::1/64".parse().unwrap()],
                endpoint: Some("192.0.2.7:15000".parse().unwrap()),
            },
        }
    }

    /// A token with a right checksum over these bytes.
    fn of(fields: &[u8]) -> String {
        format!("ipop1:{}", URL_SAFE_NO_PAD.encode([fields, &checksum(fields)].concat()))
    }

    #[test]
    fn a_token_is_read_back() {
        let token = token();
        let line = token.encode();
        assert!(line.starts_with("ipop1:") && line.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(Token::decode(&line).unwrap(), token);
        assert_eq!(Token::decode(&format!(" {}\r\n", *line)).unwrap(), token);
    }

    #[test]
    fn no_single_wrong_character_and_no_cut_goes_unnoticed() {
        let line = token().encode();
        for at in 0..line.len() {
            assert!(Token::decode(&line[..at]).is_err(), "cut at {at}");
            for other in (b' '..=b'~').map(char::from).filter(|c| !line[at..].starts_with(*c)) {
                let changed = format!("{}{other}{}", &line[..at], &line[at + 1..]);
                assert!(Token::decode(&changed).is_err(), "{other} at {at}");
                if at > "ipop1:".len() {
                    assert_eq!(Token::decode(&changed), Err(TokenError::Damaged), "{other} at {at}");
                }
            }
        }
        assert_eq!(Token::decode(&(line.to_string() + "A")), Err(TokenError::Damaged));
    }

    #[test]
    fn other_texts_say_what_they_are_and_nothing_of_themselves() {
        let decode = |text: &str| Token::decode(text).unwrap_err();
        let line = token().encode();
        assert_eq!(decode(&line.replacen('1', "2", 1)), TokenError::OtherVersion(2));
        assert_eq!(
            decode(&line.replacen('1', "2", 1)).to_string(),
            "a token of version 2, and this ipopctl reads version 1; use one version of IPOP on both nodes"
        );
        for text in ["", "ipop1", "ipop:cvwdfhe4vhpkpvon2lcolq5sl5w63yns", "IPOP1:AAAA", SECRET, &line[6..]] {
            assert_eq!(decode(text), TokenError::NotAToken, "{text}");
        }
        for error in [TokenError::NotAToken, TokenError::Damaged, TokenError::Nonsense] {
            assert!(error.to_string().contains("; "), "{error}");
        }
        assert!(!format!("{:?}", token()).contains(SECRET));
    }

    #[test]
    fn a_right_checksum_makes_nothing_valid() {
        let good = token();
        let refused = |change: fn(&mut Token)| {
            let mut token = Token { secret: good.secret.clone(), ..Token::decode(&good.encode()).unwrap() };
            change(&mut token);
            assert_eq!(Token::decode(&token.encode()), Err(TokenError::Nonsense));
        };
        refused(|token| token.network = "a b".to_owned());
        refused(|token| token.inviter.name = "\u{1b}[2J".to_owned());
        refused(|token| *token.secret = "short".to_owned());
        assert_eq!(Token::decode(&of(b"")), Err(TokenError::Nonsense));
        assert_eq!(Token::decode(&of(&[0xff; 40])), Err(TokenError::Nonsense));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(ipop1:)?[A-Za-z0-9_:-]{0,80}") {
            prop_assert!(Token::decode(&text).is_err());
        }

        #[test]
        fn no_fields_panic(fields in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Token::decode(&of(&fields)).is_err());
        }
    }
}
