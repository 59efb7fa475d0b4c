//! `ipopctl group create|members|token|approve|deny|revoke`: what a person has the group's server do.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ipop_group_api::{Decide, Decided, Lease, MadeGroup, MadeToken, Members, NewGroup, NewToken, Security};
use zeroize::Zeroizing;

use super::init::line_of_input;
use crate::config::{self, Secret};
use crate::ctl::args::{Group, GroupAt, GroupCreate, GroupWho};
use crate::ctl::failure::Failure;
use crate::ctl::format::{Align, NOTHING, table};
use crate::ctl::output::Output;
use crate::group::{AskError, GroupPlace, Manager};
use crate::secret_file;

/// Below the folder of a user's configurations.
const ACCESS_FILE: &str = "ipop/access";
/// An access token is 48 signs long.
const ACCESS_LEN_MAX: u64 = 256;

/// What of a group's members is decided, or read.
pub(in crate::ctl) async fn run(order: Group, output: &mut Output<'_>) -> Result<(), Failure> {
    match order {
        Group::Create(create) => make(create, output).await,
        Group::Members { at } => {
            let members: Members = manager(&at)?.read("members").await?;
            Ok(output.show(&members, render_members)?)
        }
        Group::Token { tags, hours, at } => {
            let made: MadeToken = manager(&at)?.order("tokens", &NewToken { tags, hours }).await?;
            Ok(output.show(&made, |made, _| {
                format!("It lets one machine in, within {hours} h. Run there, as root:\n\n{}\n", made.command)
            })?)
        }
        Group::Approve(who) => decide(who, "approved", output).await,
        Group::Deny(who) => decide(who, "denied", output).await,
        Group::Revoke(who) => decide(who, "removed", output).await,
        // These need no server.
        Group::Join(_) | Group::Status | Group::Leave { .. } => Ok(()),
    }
}

async fn make(create: GroupCreate, output: &mut Output<'_>) -> Result<(), Failure> {
    let place: GroupPlace = create.url.parse().map_err(usage)?;
    let new = NewGroup {
        name: place.name.to_string(),
        prefix: create.prefix,
        lease: Lease { policy: create.lease, seconds: create.lease_s },
        certificate_hours: create.certificate_hours,
        bootstrap: create.bootstrap,
        security: Security { sealed_only: !create.allow_clear },
    };
    let access = read_access(create.access.access.as_deref())?;
    let server =
        Manager::new(place, create.access.ca.as_deref(), &access).map_err(|error| refused(&error))?;
    let made: MadeGroup = server.create(&new).await?;
    Ok(output.show(&made, |made, _| {
        format!("made {0}\n\nMachines ask to join it by: ipopctl group join {0}\n", made.url)
    })?)
}

async fn decide(
    GroupWho { who, at }: GroupWho,
    status: &str,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let order = Decide { who, status: status.to_owned() };
    let decided: Decided = manager(&at)?.order("members", &order).await?;
    Ok(output.show(&decided, |decided, _| match &decided.address {
        Some(address) => format!("{} is {}: {address}\n", decided.name, decided.status),
        None => format!("{} is {}\n", decided.name, decided.status),
    })?)
}

/// The server of the group that is meant.
fn manager(at: &GroupAt) -> Result<Manager, Failure> {
    let (place, ca) = match &at.url {
        Some(url) => (url.parse().map_err(usage)?, None),
        None => configured(&at.config)?,
    };
    let access = read_access(at.access.access.as_deref())?;
    let ca = at.access.ca.clone().or(ca);
    Manager::new(place, ca.as_deref(), &access).map_err(|error| refused(&error))
}

/// The group that a configuration names, and by what its server is known.
fn configured(file: &Path) -> Result<(GroupPlace, Option<PathBuf>), Failure> {
    let config = config::load(file)
        .map_err(|errors| Failure::Usage(format!("{errors}\nname the group with --group URL")))?
        .config;
    let group = config.group.ok_or_else(|| {
        Failure::Usage(format!("{} has no `network.group`: name the group with --group URL", file.display()))
    })?;
    Ok((group.place, group.ca))
}

fn read_access(file: Option<&Path>) -> Result<Secret, Failure> {
    let text = match file {
        Some(file) if file == Path::new("-") => line_of_input().map_err(|error| error.to_string()),
        Some(file) => read_file(file),
        None => match default_file() {
            Some(file) => read_file(&file),
            None => Err("there is no home to look for it in".to_owned()),
        },
    };
    let text = text.map_err(|why| {
        Failure::Refused(format!(
            "no access token: {why}; make one on the page of your account and name its file with --access"
        ))
    })?;
    Ok(Secret::new(text.trim().to_owned()))
}

fn default_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")))?;
    Some(folder.join(ACCESS_FILE))
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let wrong = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let metadata = file.metadata().map_err(|error| wrong(&error))?;
    secret_file::check_mode(path, &metadata).map_err(|unfit| wrong(&unfit))?;
    let mut text = Zeroizing::new(String::new());
    file.take(ACCESS_LEN_MAX).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    Ok(text)
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Refused(error.to_string())
    }
}

fn usage(error: impl fmt::Display) -> Failure {
    Failure::Usage(format!("{error}: name it like https://group.example.org/g/lab"))
}

fn refused(error: &anyhow::Error) -> Failure {
    Failure::Refused(format!("{error:#}"))
}

fn render_members(of: &Members, width: u16) -> String {
    let left = |names: [&'static str; 6]| names.map(|name| (name, Align::Left));
    let nodes = of.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.status.clone(),
            node.user.clone().unwrap_or_else(|| NOTHING.to_owned()),
            or_nothing(&node.tags),
            or_nothing(&node.virtual_addresses),
            node.address.clone(),
        ]
    });
    let people = of.people.iter().map(|person| {
        vec![
            format!("user:{}", person.name),
            person.status.clone(),
            person.role.clone(),
            person.display.clone(),
        ]
    });
    let mut text = table(&left(["machine", "status", "of", "tags", "virtual", "address"]), nodes, width);
    text.push('\n');
    text.push_str(&table(&left(["person", "status", "role", "shown as", "", ""])[..4], people, width));
    if of.is_cut {
        text.push_str("\nthere are more: the pages of the group show them all\n");
    }
    text
}

fn or_nothing(names: &[String]) -> String {
    if names.is_empty() { NOTHING.to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use ipop_group_api::{NodeMember, PersonMember};

    use super::*;

    #[test]
    fn machines_and_people_are_shown() {
        let node = |name: &str, status: &str, tags: &[&str]| NodeMember {
            name: name.to_owned(),
            address: format!("ipop:{name}"),
            status: status.to_owned(),
            user: (status == "approved").then(|| "alice".to_owned()),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            virtual_addresses: Vec::new(),
            seen: 0,
        };
        let members = Members {
            api: 1,
            nodes: vec![node("alpha", "approved", &["db", "web"]), node("beta", "pending", &[])],
            people: vec![PersonMember {
                name: "alice".to_owned(),
                display: "Alice".to_owned(),
                role: "owner".to_owned(),
                status: "approved".to_owned(),
            }],
            is_cut: true,
        };
        let expected = "\
MACHINE  STATUS    OF     TAGS     VIRTUAL  ADDRESS
alpha    approved  alice  db, web  -        ipop:alpha
beta     pending   -      -        -        ipop:beta

PERSON      STATUS    ROLE   SHOWN AS
user:alice  approved  owner  Alice

there are more: the pages of the group show them all
";
        assert_eq!(render_members(&members, 100), expected);
    }
}
