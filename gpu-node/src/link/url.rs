//! Where a meter is.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use tokio_tungstenite::tungstenite::http::Uri;
use wire::node::LINK_PATH;

use super::error::{LinkError, quote};

/// Where a meter is: `http://`, `https://`, `ws://` or `wss://`, host, optional port and path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct MeterUrl {
    secure: bool,
    /// Host, port and base path, without a slash at the end.
    rest: String,
}

impl MeterUrl {
    /// Address of the node link.
    pub fn link(&self) -> String {
        format!("{}://{}{LINK_PATH}", if self.secure { "wss" } else { "ws" }, self.rest)
    }

    /// Address of `path` on the meter's HTTP interface.
    pub fn http(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.secure { "https" } else { "http" }, self.rest)
    }

    /// Whether prompts would cross a network in the clear: no TLS, and not this machine.
    pub fn is_exposed(&self) -> bool {
        let host = self.rest.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())).map_or(host, |(host, _)| host);
        !self.secure && host != "localhost" && host != "[::1]" && !host.starts_with("127.")
    }
}

impl fmt::Display for MeterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.http(""))
    }
}

impl FromStr for MeterUrl {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = || LinkError::Url { url: quote(text) };
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let secure = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return Err(bad()),
        };
        let host = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?;
        if uri.query().is_some() {
            return Err(bad());
        }
        Ok(Self { secure, rest: format!("{host}{}", uri.path().trim_end_matches('/')) })
    }
}

impl TryFrom<String> for MeterUrl {
    type Error = LinkError;

    fn try_from(text: String) -> Result<Self, LinkError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_meter_url_gives_both_addresses() {
        let url: MeterUrl = "https://meter.example:8443/base/".parse().unwrap();
        assert_eq!(url.link(), "wss://meter.example:8443/base/v1/node/link");
        assert_eq!(url.http("/healthz"), "https://meter.example:8443/base/healthz");
        let url: MeterUrl = "ws://127.0.0.1:8080".parse().unwrap();
        assert_eq!(url.link(), "ws://127.0.0.1:8080/v1/node/link");
    }

    #[test]
    fn only_plain_links_to_other_machines_are_exposed() {
        for (url, exposed) in [
            ("http://127.0.0.1:8080", false),
            ("ws://localhost", false),
            ("http://[::1]:80", false),
            ("http://10.0.0.1:80", true),
            ("wss://x", false),
        ] {
            assert_eq!(url.parse::<MeterUrl>().unwrap().is_exposed(), exposed, "{url}");
        }
    }

    #[test]
    fn what_is_no_meter_url_is_refused() {
        for url in ["", "meter.example", "ftp://meter.example", "https://user:secret@meter.example", "http://x?y=1", "http://"] {
            assert!(url.parse::<MeterUrl>().is_err(), "{url}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_url_never_panics(text in ".{0,60}") {
            let _ = text.parse::<MeterUrl>().map(|url| url.is_exposed());
        }
    }
}
