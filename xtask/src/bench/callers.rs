//! The program `ipop-callers`, which calls and floods a node from the near host: started, told what to do
//! line by line, ended. Knows its words and nothing of what follows from them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::plan::FloodKind;
use crate::netns::{NetNs, Pair};
use crate::sh;

/// The networks that it sends from.
const NETWORKS: [&str; 2] = ["10.201.0.0/16", "10.202.0.0/16"];

/// What became of calls. `completed` are handshakes with answer and confirmation.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Called {
    pub(crate) completed: u64,
    pub(crate) cookies: u64,
    pub(crate) lost: u64,
}

/// What was sent of a flood.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Flooded {
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
}

/// The public keys of so many callers.
pub(crate) fn keys(program: &Path, count: usize) -> Result<Vec<String>> {
    let text = sh::capture(Command::new(program).arg("keys").arg(count.to_string()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The running program; ended when dropped.
#[derive(Debug)]
pub(crate) struct Callers {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Callers {
    /// So many callers of the far host's node, which has `key`, on the near host of `pair`.
    pub(crate) fn start(
        program: &Path,
        pair: &Pair,
        port: u16,
        key: &str,
        secret: &str,
        count: usize,
    ) -> Result<Self> {
        for network in NETWORKS {
            pair.near.ip(&format!("route add local {network} dev lo"))?;
            pair.far.ip(&format!("route add {network} via {}", Pair::NEAR_ADDRESS))?;
        }
        let mut command = Command::new(program);
        command.args(["at", &format!("{}:{port}", Pair::FAR_ADDRESS), key, secret, &count.to_string()]);
        Self::spawn(&pair.near, command)
    }

    fn spawn(namespace: &NetNs, mut command: Command) -> Result<Self> {
        let shown = sh::shown(&command);
        namespace.enter(&mut command)?;
        sh::ends_with_us(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(orders), Some(answers)) = (orders, answers) else { bail!("`{shown}` has no pipes") };
        Ok(Self { child, orders, answers: BufReader::new(answers) })
    }

    /// All callers call for so long.
    pub(crate) fn call(&mut self, window: Duration) -> Result<Called> {
        self.tell(&format!("call {}", window.as_millis()))
    }

    /// Begins a flood of `port`.
    pub(crate) fn flood(&mut self, kind: FloodKind, port: u16, per_second: u32) -> Result<()> {
        let _: serde_json::Value = self.tell(&format!("flood {} {port} {per_second}", kind.name()))?;
        Ok(())
    }

    /// Ends the flood.
    pub(crate) fn stop(&mut self) -> Result<Flooded> {
        self.tell("stop")
    }

    fn tell<T: DeserializeOwned>(&mut self, order: &str) -> Result<T> {
        let mut answer = String::new();
        writeln!(self.orders, "{order}")
            .and_then(|()| self.answers.read_line(&mut answer))
            .with_context(|| format!("ipop-callers does not take `{order}`"))?;
        serde_json::from_str(&answer)
            .with_context(|| format!("ipop-callers answers `{order}` with {answer:?}"))
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
