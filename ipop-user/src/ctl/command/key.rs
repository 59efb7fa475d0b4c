//! `ipopctl key gen FILE`, `ipopctl key pub FILE` and `ipopctl key psk [CONFIGURATION]`.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipop_overlay::session::network_psk;
use serde_json::json;
use zeroize::Zeroizing;

use super::config_check;
use crate::config;
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

/// The pre-shared key of the network that a configuration is for, as `wg genpsk` prints one.
pub(in crate::ctl) fn pre_shared(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let loaded = config::load(file).map_err(|errors| {
        config_check::report(errors.problems(), &[]);
        Failure::Silent
    })?;
    let Some(secret) = loaded.config.network.secret else {
        let advice = "it has no `network.secret`; take that of another node of the network";
        return Err(Failure::Refused(format!("{}: {advice}", file.display())));
    };
    let psk = Zeroizing::new(STANDARD.encode(*network_psk(secret.expose())));
    if output.json {
        let value = json!({ "file": file.display().to_string(), "preshared_key": *psk });
        return Ok(output.json(&value)?);
    }
    Ok(output.line(&psk)?)
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
