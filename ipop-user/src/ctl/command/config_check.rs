//! `ipopctl config check FILE`.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::config::{self, Config, ConfigErrors, Loaded, Problem};
use crate::ctl::failure::Failure;
use crate::ctl::output::Output;
use crate::key::{KeyError, PrivateKey};

/// Mistakes and warnings go to standard error, a line each; the verdict is the exit status.
pub(in crate::ctl) fn run(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let checked = config::load(file).and_then(|loaded| check_key(file, loaded));
    let (errors, warnings) = match &checked {
        Ok(loaded) => (&[][..], &loaded.warnings[..]),
        Err(errors) => (errors.problems(), &[][..]),
    };
    if output.json {
        let list = |problems: &[Problem]| problems.iter().map(to_json).collect::<Vec<_>>();
        output.json(&json!({
            "file": file.display().to_string(),
            "valid": checked.is_ok(),
            "errors": list(errors),
            "warnings": list(warnings),
        }))?;
    } else {
        report(errors, warnings);
        if let Ok(Loaded { config, .. }) = &checked {
            output.line(&summary(file, config))?;
        }
    }
    checked.map(|_| ()).map_err(|_| Failure::Silent)
}

/// The key belongs to the configuration, but a file may be checked on a machine that lacks it.
fn check_key(file: &Path, mut loaded: Loaded) -> Result<Loaded, ConfigErrors> {
    match PrivateKey::read(&loaded.config.node.key_file) {
        Ok(key) => loaded.config.check_own_key(file, &key.public_key())?,
        Err(KeyError::Missing { path }) => {
            let path = path.display();
            let advice = format!("write one with `ipopctl key gen {path}`");
            loaded.warnings.push(Problem::new(file, format!("there is no key file {path}"), advice));
        }
        Err(KeyError::NotAPrivateKey { path }) => {
            let advice = "name another `node.key_file`, or write one with `ipopctl key gen FILE`";
            return Err(Problem::new(&path, "not a private key", advice).into());
        }
        Err(KeyError::Unfit { path, unfit }) => {
            return Err(Problem::new(&path, unfit.reason, unfit.advice).into());
        }
        Err(error) => return Err(Problem::new(file, error.to_string(), "mend the key file").into()),
    }
    Ok(loaded)
}

/// There is nowhere left to complain if standard error is closed.
pub(in crate::ctl) fn report(errors: &[Problem], warnings: &[Problem]) {
    let mut stderr = std::io::stderr().lock();
    for error in errors {
        let _ = writeln!(stderr, "{error}");
    }
    for warning in warnings {
        let _ = writeln!(stderr, "warning: {warning}");
    }
}

fn summary(file: &Path, config: &Config) -> String {
    let peers = match config.peers.len() {
        1 => "1 peer".to_owned(),
        n => format!("{n} peers"),
    };
    format!(
        "{}: valid, node {} of network {} with {peers}",
        file.display(),
        config.node.name,
        config.network.name
    )
}

fn to_json(problem: &Problem) -> Value {
    json!({
        "file": problem.file.display().to_string(),
        "line": problem.line,
        "column": problem.column,
        "reason": problem.reason,
        "advice": problem.advice,
    })
}
