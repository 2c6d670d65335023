//! The session cookie: `HttpOnly; SameSite=Strict; Path=/`, and `Secure` with the `__Host-` prefix behind https.

use http::{HeaderMap, HeaderValue, header};

use super::Secret;

const NAME: &str = "prlx_session";
const HOST_NAME: &str = "__Host-prlx_session"; // browsers take this name only Secure, Path=/ and without Domain

/// Name and flags of the session cookie.
#[derive(Clone, Copy, Debug)]
pub struct SessionCookie {
    pub(super) https: bool,
    pub(super) lifetime_s: u64,
}

impl SessionCookie {
    /// The `Set-Cookie` value that opens a session in a browser.
    pub fn set(self, secret: &Secret) -> HeaderValue {
        let mut value = self.value(secret.reveal(), self.lifetime_s);
        value.set_sensitive(true);
        value
    }

    /// The `Set-Cookie` value that ends it.
    pub fn clear(self) -> HeaderValue {
        self.value("", 0)
    }

    /// The session secret that the browser sent, when it sent one.
    pub(super) fn read(self, headers: &HeaderMap) -> Option<&str> {
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.name()).map(|(_, value)| value)
    }

    fn name(self) -> &'static str {
        if self.https { HOST_NAME } else { NAME }
    }

    fn value(self, secret: &str, max_age_s: u64) -> HeaderValue {
        let secure = if self.https { "; Secure" } else { "" };
        let text = format!("{}={secret}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}", self.name());
        // Letters, digits and punctuation always make a header value.
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}
