//! `ipop-callers keys COUNT` prints the public keys of so many callers, a line each.
//!
//! `ipop-callers at ADDRESS:PORT KEY SECRET COUNT` calls the node there, and floods it, as it is told on
//! standard input; it answers each line with a line of JSON.
//!
//! | line | what it does |
//! |---|---|
//! | `call MS` | all callers call for so long |
//! | `flood KIND PORT RATE` | a flood begins: KIND is `garbage`, `mac1` or `replay`, RATE per second |
//! | `stop` | it ends |

use std::io::{BufRead, Write};
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipop_callers::{Callers, Flood, Kind, Outcome, public_key};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["keys", count] => {
            let mut out = std::io::stdout().lock();
            let count: usize = count.parse().context("COUNT is a number")?;
            (0..count).try_for_each(|number| writeln!(out, "{}", STANDARD.encode(public_key(number))))?;
            Ok(())
        }
        ["at", node, key, secret, count] => {
            let key: [u8; 32] =
                STANDARD.decode(key)?.try_into().map_err(|_| anyhow::anyhow!("KEY has 32 bytes"))?;
            let node = node.parse().context("ADDRESS:PORT of the node")?;
            let count = count.parse().context("COUNT is a number")?;
            Told { node, key, callers: Callers::new(node, key, secret, count)?, flood: None }.obey()
        }
        _ => bail!("ipop-callers keys COUNT, or ipop-callers at ADDRESS:PORT KEY SECRET COUNT"),
    }
}

struct Told {
    node: SocketAddrV4,
    key: [u8; 32],
    callers: Callers,
    flood: Option<Flood>,
}

impl Told {
    fn obey(mut self) -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = self.command(&words).with_context(|| format!("`{line}`"))?;
            writeln!(std::io::stdout().lock(), "{answer}")?;
        }
        Ok(())
    }

    fn command(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["call", ms] => {
                let Outcome { called, completed, cookies, lost } =
                    self.callers.call(Duration::from_millis(ms.parse()?))?;
                Ok(format!(
                    "{{\"called\":{called},\"completed\":{completed},\"cookies\":{cookies},\"lost\":{lost}}}"
                ))
            }
            ["flood", kind, port, rate] if self.flood.is_none() => {
                let kind = match *kind {
                    "garbage" => Kind::Garbage,
                    "mac1" => Kind::Mac1(self.key),
                    "replay" => {
                        let (source, datagram) = self.callers.record(0)?;
                        Kind::Replay(source, datagram)
                    }
                    other => bail!("{other} is no kind of flood"),
                };
                let to = SocketAddrV4::new(*self.node.ip(), port.parse()?);
                self.flood = Some(Flood::start(&kind, to, rate.parse()?)?);
                Ok("{}".to_owned())
            }
            ["stop"] => {
                let sent = self.flood.take().context("there is no flood")?.stop()?;
                Ok(format!("{{\"sent\":{},\"seconds\":{}}}", sent.datagrams, sent.seconds))
            }
            _ => bail!("not understood"),
        }
    }
}
