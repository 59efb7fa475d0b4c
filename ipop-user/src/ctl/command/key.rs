//! `ipopctl key gen FILE` and `ipopctl key pub FILE`.

use std::path::Path;

use serde_json::json;

use crate::ctl::failure::Failure;
use crate::ctl::output::Output;
use crate::key::{KeyError, PrivateKey, PublicKey};

pub(in crate::ctl) fn generate(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let key = PrivateKey::generate().map_err(refused)?;
    key.write_new(file).map_err(refused)?;
    print(file, &key.public_key(), output)
}

pub(in crate::ctl) fn public(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let key = PrivateKey::read(file).map_err(refused)?;
    print(file, &key.public_key(), output)
}

fn print(file: &Path, key: &PublicKey, output: &mut Output<'_>) -> Result<(), Failure> {
    if output.json {
        let value = json!({
            "file": file.display().to_string(),
            "public_key": key.to_string(),
            "address": key.node_address(),
        });
        return Ok(output.json(&value)?);
    }
    Ok(output.line(&key.to_string())?)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(in crate::ctl) fn refused(error: KeyError) -> Failure {
    Failure::Refused(error.to_string())
}
