//! Where a group is: `https://HOST[:PORT]/g/NAME`, as its server's join page shows it.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;
use ipop_overlay::group::Label;

/// A group at its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    /// By HTTPS; without only to this host.
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The host, with its port if that is in the URL.
    pub(crate) authority: String,
    pub(crate) name: Label,
}

/// A text is not where a group is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("`{0}` is not where a group is")]
    Form(String),
    #[error("`{0}` is not HTTPS, by which alone a server elsewhere is known")]
    Open(String),
}

impl GroupPlace {
    /// As requests and the group's parameters name it.
    pub(crate) fn place(&self) -> String {
        format!("{}/g/{}", self.authority, self.name)
    }
}

impl FromStr for GroupPlace {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let malformed = || PlaceError::Form(text.to_owned());
        let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?.as_str().to_ascii_lowercase();
        let host = uri.host().ok_or_else(malformed)?.trim_matches(['[', ']']).to_ascii_lowercase();
        let name =
            uri.path().strip_prefix("/g/").and_then(|name| Label::new(name).ok()).ok_or_else(malformed)?;
        let port = uri.port_u16().filter(|port| *port != 0);
        let suffix = port.map_or_else(String::new, |port| format!(":{port}"));
        let is_plain =
            authority.strip_suffix(&suffix).map(|rest| rest.trim_matches(['[', ']'])) == Some(&host);
        if uri.query().is_some() || !is_plain || host.is_empty() {
            return Err(malformed());
        }
        let is_here =
            host.parse().map_or(host == "localhost", |address: std::net::IpAddr| address.is_loopback());
        let (is_tls, usual) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") if is_here => (false, 80),
            Some("http") => return Err(PlaceError::Open(text.to_owned())),
            _ => return Err(malformed()),
        };
        Ok(Self { is_tls, host, port: port.unwrap_or(usual), authority, name })
    }
}

impl fmt::Display for GroupPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}", if self.is_tls { "s" } else { "" }, self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in [
            "https://group.example.org/g/lab",
            "https://[2001:db8::1]:8443/g/a-1",
            "http://127.0.0.1:80/g/lab",
        ] {
            let place: GroupPlace = text.parse().unwrap();
            assert_eq!(place.to_string(), text);
            assert_eq!(format!("{text}/").parse(), Ok(place));
        }
        let place: GroupPlace = "https://Group.Example.org/g/lab".parse().unwrap();
        assert_eq!((place.place().as_str(), place.port), ("group.example.org/g/lab", 443));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "lab",
            "https://",
            "https://h",
            "https://h/lab",
            "https://h/g/",
            "https://h/g/Lab",
            "ftp://h/g/lab",
            "https://h/g/lab/x",
            "https://h/g/lab?x=1",
            "https://user@h/g/lab",
            "https://h:0/g/lab",
            "https://h:99999/g/lab",
        ] {
            assert_eq!(text.parse::<GroupPlace>(), Err(PlaceError::Form(text.to_owned())), "{text}");
        }
        let open = "http://group.example.org/g/lab";
        assert_eq!(open.parse::<GroupPlace>(), Err(PlaceError::Open(open.to_owned())));
    }
}
