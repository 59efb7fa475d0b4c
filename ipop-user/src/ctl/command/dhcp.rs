//! `ipopctl dhcp leases`.

use crate::api::{Dhcp, DhcpMode, Lease};
use crate::ctl::args;
use crate::ctl::client::Client;
use crate::ctl::failure::Failure;
use crate::ctl::format::{Align, duration, table};
use crate::ctl::output::Output;

pub(in crate::ctl) async fn run(
    client: &Client,
    command: &args::Dhcp,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let args::Dhcp::Leases = command;
    Ok(output.show(&client.dhcp().await?, render)?)
}

fn render(dhcp: &Dhcp, width: u16) -> String {
    let mut text = match dhcp.mode {
        DhcpMode::Off => return "no overlay: the addresses are those of the configuration\n".to_owned(),
        DhcpMode::Listed => "the addresses are those of the configuration, and registered\n".to_owned(),
        DhcpMode::Dhcp => String::new(),
    };
    if let Some(pool) = &dhcp.pool {
        let beside = pool.ipv6.as_ref().map(|ipv6| format!(", and {ipv6} by key")).unwrap_or_default();
        text += &format!(
            "pool      {}{beside}: {} addresses, leased for {}\n",
            pool.network,
            pool.size,
            duration(u64::from(pool.lease_s))
        );
        for (address, owner) in &pool.reserved {
            text += &format!("reserved  {address} for {owner}\n");
        }
    }
    text += &dhcp.trouble.iter().map(|trouble| format!("no address: {trouble}\n")).collect::<String>();
    let headings =
        [("address", Align::Left), ("owner", Align::Left), ("host", Align::Left), ("left", Align::Right)];
    text + &table(&headings, dhcp.leases.iter().map(row), width)
}

fn row(lease: &Lease) -> Vec<String> {
    // What others have registered is not to reach a terminal as it is.
    let is_text = |host: &&String| !host.chars().any(char::is_control);
    let host = lease.host.as_ref().filter(is_text).cloned().unwrap_or_else(|| "-".to_owned());
    vec![
        lease.address.to_string(),
        if lease.is_own { "this node".to_owned() } else { lease.owner.short() },
        host,
        lease.expires_s.map_or_else(|| "renewed".to_owned(), duration),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn leases_show_whose_they_are_and_nothing_that_moves_a_terminal() {
        let mut dhcp = fake::dhcp();
        let text = render(&dhcp, 100);
        assert_eq!(
            text,
            "pool      10.128.0.0/16, and fd00:128::/64 by key: 65534 addresses, leased for 1 h 0 min\n\
             ADDRESS     OWNER      HOST      LEFT\n\
             10.128.0.1  this node  alpha  renewed\n"
        );
        dhcp.leases[0].host = Some("\u{1b}[2j".to_owned());
        dhcp.trouble = Some("the pool is exhausted".to_owned());
        let text = render(&dhcp, 100);
        assert!(text.contains("no address: the pool is exhausted") && !text.contains('\u{1b}'), "{text}");
        dhcp.mode = DhcpMode::Off;
        assert!(render(&dhcp, 100).starts_with("no overlay"));
    }
}
