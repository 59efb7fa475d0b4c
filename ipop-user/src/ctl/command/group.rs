//! `ipopctl group`.

use std::path::{Path, PathBuf};

use ipop_overlay::dht::SigningKey;
use serde_json::json;
use zeroize::Zeroizing;

use super::init::files::{Files, KEY_NAME};
use super::init::{host_name, line_of_input, node_name, quoted, usage};
use super::key::refused;
use crate::api::{Membership as Shown, MembershipState, RefusedNode};
use crate::config;
use crate::ctl::args;
use crate::ctl::client::Client;
use crate::ctl::failure::Failure;
use crate::ctl::format::{duration, fields};
use crate::ctl::output::Output;
use crate::group::{self, Membership};
use crate::key::PrivateKey;

/// Writes a configuration and a key; the daemon joins with them.
pub(in crate::ctl) fn join(join: &args::GroupJoin, output: &mut Output<'_>) -> Result<(), Failure> {
    let files = Files::in_dir(&join.dir);
    if !join.force {
        files.must_not_exist(None)?;
    }
    let key_exists = files.key.symlink_metadata().is_ok();
    let key = if key_exists { PrivateKey::read(&files.key) } else { PrivateKey::generate() };
    let key = key.map_err(refused)?;
    let token = join.token.as_ref().map(read_token).transpose()?;
    let name = join.name.clone().unwrap_or_else(|| node_name(&host_name()).to_ascii_lowercase());
    let ca = join.ca.as_deref().map(absolute).transpose()?;
    let text = config_text(&name, &join.url, ca.as_deref(), token.as_ref().map(|token| token.as_str()));
    let config = config::parse(&text, &files.config).map_err(|errors| usage(&errors))?.config;
    files.write(&text, (!key_exists).then_some(&key), join.force)?;
    let address = key.public_key().node_address();
    let (config_path, group) = (files.config.display().to_string(), config.group.map(|group| group.place));
    let group = group.map(|place| place.to_string()).unwrap_or_default();
    if output.json {
        return Ok(output.json(&json!({
            "config": config_path,
            "key_file": files.key.display().to_string(),
            "name": name,
            "group": group,
            "address": address,
        }))?);
    }
    let next = match token {
        Some(_) => "The token approves it. `ipopctl group status` says whether it is a member.".to_owned(),
        None => format!(
            "A manager of the group approves it, and compares its address:\n\n{address}\n\n\
             `ipopctl group status` shows it too, and says whether this machine is a member."
        ),
    };
    Ok(output.text(&format!(
        "wrote {config_path} and {}\n\nStart ipopd: it asks {group} to join as {name}.\n{next}\n",
        files.key.display()
    ))?)
}

fn read_token(text: &args::TokenText) -> Result<Zeroizing<String>, Failure> {
    if text.0.as_str() != "-" {
        return Ok(text.0.clone());
    }
    line_of_input()
        .map_err(|error| Failure::Refused(format!("cannot read the token: {error}; check what is piped in")))
}

/// The configuration may be elsewhere than the shell is.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::Usage(format!("--ca {}: {error}; name a file", path.display())))
}

fn config_text(name: &str, url: &str, ca: Option<&Path>, token: Option<&str>) -> Zeroizing<String> {
    let ca = ca.map_or_else(
        || "#group_ca = \"/etc/ipop/ca.pem\"     # certificates of the group's server; default: those of this host".to_owned(),
        |ca| format!("group_ca = {}", quoted(&ca.display().to_string())),
    );
    let token =
        token.map(|token| format!("group_token = {}  # of use once\n", quoted(token))).unwrap_or_default();
    Zeroizing::new(format!(
        r#"# IPOP node of a group. `ipopctl config check` says what is wrong with this file, by line and reason.
# Name, secret and addresses of the network are the group's. `ipopctl init` writes all other keys with their defaults.

[node]
name = {name}
key_file = "{KEY_NAME}"           # beside this file; mode 0600

[network]
group = {url}
{ca}
{token}"#,
        name = quoted(name),
        url = quoted(url),
    ))
}

/// Ends the membership, at the server and here; the key and the configuration stay.
pub(in crate::ctl) async fn leave(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let config = config::load(file).map_err(|errors| Failure::Refused(errors.to_string()))?.config;
    let Some(group) = config.group else {
        return Err(Failure::Refused(format!(
            "{} has no `network.group`: there is nothing to leave",
            file.display()
        )));
    };
    let key = PrivateKey::read(&config.node.key_file).map_err(refused)?;
    let key = SigningKey::new(&(*key.expose()).into());
    let place = group.place.to_string();
    let told = group::leave(group.place, group.ca.as_deref(), key).await;
    let folder = &config.node.state_dir;
    let had_one = Membership::forget(folder).map_err(|error| {
        Failure::Refused(format!("cannot forget what is in {}: {error}", folder.display()))
    })?;
    if output.json {
        let (status, trouble) = match &told {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error.to_string())),
        };
        return Ok(output
            .json(&json!({ "group": place, "forgotten": had_one, "status": status, "trouble": trouble }))?);
    }
    let what = match (told, had_one) {
        (Ok(_), _) => "left: every member refuses this machine's certificate from now on".to_owned(),
        (Err(error), had_one) => format!(
            "{}, here alone: {error}. The group still counts this machine as a member, until a manager or its owner \
             removes it there",
            if had_one { "forgotten" } else { "there was nothing to forget" }
        ),
    };
    Ok(output.text(&format!(
        "{place}: {what}. Take `network.group` out of {}, or stop ipopd.\n",
        file.display()
    ))?)
}

/// Shows the membership.
pub(in crate::ctl) async fn status(client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
    match client.status().await?.membership {
        Some(membership) => Ok(output.show(&membership, render)?),
        None => Err(Failure::Refused(
            "this node is of no group; `ipopctl group join` writes a configuration for one".to_owned(),
        )),
    }
}

fn render(of: &Shown, width: u16) -> String {
    let mut rows = rows(of);
    rows.extend(of.refused.iter().map(|node| ("no link".to_owned(), refusal(node))));
    fields(rows, width)
}

/// The lines about a membership, but for the nodes that were refused.
pub(super) fn rows(of: &Shown) -> Vec<(String, String)> {
    let mut rows = vec![("group".to_owned(), format!("{}: {}, {}", of.group, of.state.name(), of.reason))];
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if of.state == MembershipState::Member {
        let mut says: Vec<String> = of.serial.iter().map(|serial| format!("number {serial}")).collect();
        says.extend(of.expires_at.map(|at| format!("until {at} (seconds since 1970)")));
        says.extend(of.user.iter().map(|user| format!("of {user}")));
        says.extend((!of.tags.is_empty()).then(|| format!("tags {}", of.tags.join(", "))));
        row("certificate", says.join(", "));
        row(
            "signed",
            format!("parameters {}, list of revoked certificates {}", of.document_number, of.list_number),
        );
    }
    for (index, rule) in of.rules.iter().enumerate() {
        row(if index == 0 { "rules" } else { "" }, rule.clone());
    }
    if let Some(trouble) = &of.rules_trouble {
        row("rules", format!("nothing may begin: {trouble}"));
    } else if of.state == MembershipState::Member && of.rules.is_empty() {
        row("rules", "none: everybody may begin everything".to_owned());
    }
    if let Some(trouble) = &of.trouble {
        row("server", trouble.clone());
    }
    if !of.refused.is_empty() {
        row("refused", format!("{} nodes: see `ipopctl group status`", of.refused.len()));
    }
    rows
}

/// `gamma (ipop:..), 12 s ago: the certificate is revoked`
fn refusal(node: &RefusedNode) -> String {
    format!("{} ({}), {} ago: {}", node.name, node.address, duration(node.since_s), node.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn what_is_written_is_a_configuration() {
        let text = config_text(
            "alpha",
            "https://group.example.org/g/lab",
            Some(Path::new("/ca.pem")),
            Some("ipgt_x"),
        );
        let config = config::parse(&text, Path::new("/etc/ipop/ipop.toml")).unwrap().config;
        let group = config.group.unwrap();
        assert_eq!(group.place.to_string(), "https://group.example.org/g/lab");
        assert_eq!(group.ca.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!(group.token.unwrap().expose_text(), "ipgt_x");
        assert!(config::parse(&config_text("alpha", "https://h/g/lab", None, None), Path::new("t")).is_ok());
    }

    #[test]
    fn a_member_and_who_was_refused() {
        let address = fake::key(3).node_address();
        let shown = Shown {
            group: "https://group.example.org/g/lab".to_owned(),
            state: MembershipState::Member,
            reason: "a member as alpha".to_owned(),
            expires_at: Some(1_790_000_000),
            serial: Some("4a4a".to_owned()),
            user: Some("alice".to_owned()),
            tags: vec!["db".to_owned(), "web".to_owned()],
            document_number: 7,
            list_number: 3,
            rules: vec!["tag:web to tag:db: tcp 5432".to_owned(), "* to *: icmp".to_owned()],
            rules_trouble: None,
            trouble: Some("no answer".to_owned()),
            refused: vec![RefusedNode {
                address,
                name: "gamma".to_owned(),
                by_other: false,
                reason: "the certificate is revoked".to_owned(),
                since_s: 12,
            }],
        };
        let text = render(&shown, 200);
        let expected = format!(
            "group        https://group.example.org/g/lab: member, a member as alpha\n\
             certificate  number 4a4a, until 1790000000 (seconds since 1970), of alice, tags db, web\n\
             signed       parameters 7, list of revoked certificates 3\n\
             rules        tag:web to tag:db: tcp 5432\n\
             \x20            * to *: icmp\n\
             server       no answer\n\
             refused      1 nodes: see `ipopctl group status`\n\
             no link      gamma ({address}), 12 s ago: the certificate is revoked\n"
        );
        assert_eq!(text, expected);
    }
}
