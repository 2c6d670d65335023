//! The page: the files of `web/dist`, put into the binary by `build.rs`, under a policy that lets them talk to this meter alone.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use sha2::{Digest, Sha256};

use embedded::{ASSETS, Asset};

/// Nothing inline, nothing from elsewhere, no frames, no forms that leave, no string that becomes code.
///
/// Two makers of trusted markup: Svelte's, for the templates that it was compiled from, and DOMPurify's, for answers.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; object-src 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types svelte-trusted-html dompurify";

/// A name that changes with the content is never asked for twice.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// Asked for each time, so that a new meter never meets an old page.
const REVALIDATED: &str = "no-cache";

mod embedded {
    /// One file of the page.
    pub(super) struct Asset {
        /// Where it is served.
        pub(super) path: &'static str,
        /// Its `Content-Type`.
        pub(super) media_type: &'static str,
        /// Whether its name changes with its content.
        pub(super) is_immutable: bool,
        /// The file.
        pub(super) bytes: &'static [u8],
        /// The file packed, where that is smaller.
        pub(super) gzip: Option<&'static [u8]>,
    }

    include!(concat!(env!("OUT_DIR"), "/page.rs"));
}

/// Entity tags by position in [`ASSETS`].
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| format!("\"{}\"", hex::encode(&Sha256::digest(asset.bytes)[..16]));
    ASSETS.iter().map(tag).collect()
});

/// Routes of this file: one for each file of the page, so that nothing else on disk can be reached.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    if !embedded::IS_BUILT {
        tracing::warn!("compiled without the page; `cargo xtask web` builds it");
    }
    let mut router = Router::new();
    for (asset, tag) in ASSETS.iter().zip(TAGS.iter()) {
        router = router.route(asset.path, get(move |headers: HeaderMap| async move { reply(asset, tag, &headers) }));
    }
    router
}

/// The file, packed when the browser can read that, or 304 when it has it.
fn reply(asset: &'static Asset, tag: &'static str, headers: &HeaderMap) -> Response<Body> {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let packed = asset.gzip.filter(|_| accepts_gzip(headers));
    let mut response = Response::new(if unchanged { Body::empty() } else { Body::from(packed.unwrap_or(asset.bytes)) });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if packed.is_some() {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let fields: [(HeaderName, &'static str); 10] = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::VARY, "accept-encoding"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, if asset.is_immutable { IMMUTABLE } else { REVALIDATED }),
        (header::ETAG, tag),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
    ];
    response.headers_mut().extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// Whether `Accept-Encoding` names gzip, or everything, with a weight above nothing.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut accepted = false;
    for one in values.flat_map(|value| value.split(',')) {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0));
        match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => return !refused,
            "*" => accepted = !refused,
            _ => {}
        }
    }
    accepted
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use tower::ServiceExt;

    use super::*;

    async fn get_path(path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = http::Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        routes::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn body(response: Response<Body>) -> Vec<u8> {
        axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn every_file_is_served_under_the_policy_and_known_again_by_its_tag() {
        for asset in &ASSETS {
            let first = get_path(asset.path, &[]).await;
            assert_eq!(first.status(), StatusCode::OK, "{}", asset.path);
            assert_eq!(first.headers()[header::CONTENT_TYPE], asset.media_type);
            assert_eq!(first.headers()[header::CONTENT_SECURITY_POLICY], CONTENT_SECURITY_POLICY);
            assert_eq!(first.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(first.headers()[header::REFERRER_POLICY], "no-referrer");
            assert!(!first.headers().contains_key(header::CONTENT_ENCODING));

            let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
            assert_eq!(body(first).await, asset.bytes, "{}", asset.path);
            assert_eq!(get_path(asset.path, &[("if-none-match", &tag)]).await.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(get_path(asset.path, &[("if-none-match", &format!("\"x\", W/{tag}"))]).await.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(get_path(asset.path, &[("if-none-match", "\"x\"")]).await.status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn a_packed_file_is_the_file() {
        assert!(ASSETS.iter().any(|asset| asset.gzip.is_some()), "nothing is packed");
        for asset in ASSETS.iter().filter(|asset| asset.gzip.is_some()) {
            let packed = get_path(asset.path, &[("accept-encoding", "br, gzip;q=0.8")]).await;
            assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip", "{}", asset.path);
            assert_eq!(packed.headers()[header::VARY], "accept-encoding");
            let packed = body(packed).await;
            let mut plain = Vec::new();
            GzDecoder::new(packed.as_slice()).read_to_end(&mut plain).unwrap();
            assert!(plain == asset.bytes && packed.len() < plain.len(), "{}", asset.path);
        }
    }

    #[tokio::test]
    async fn only_a_file_that_is_named_after_its_content_is_kept_for_ever() {
        assert_eq!(get_path("/", &[]).await.headers()[header::CACHE_CONTROL], REVALIDATED);
        for asset in &ASSETS {
            let kept = get_path(asset.path, &[]).await.headers()[header::CACHE_CONTROL] == IMMUTABLE;
            assert_eq!(kept, asset.is_immutable, "{}", asset.path);
            assert!(!kept || asset.path.starts_with("/assets/"), "{}", asset.path);
        }
    }

    #[test]
    fn packing_is_for_those_who_ask_for_it() {
        let cases = [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("*", true),
            ("*, gzip;q=0", false),
            ("gzip;q=0.0, *", false),
            ("br", false),
            ("identity", false),
            ("", false),
        ];
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), expected, "{value:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn nothing_else_on_disk_is_served() {
        for path in
            ["/../Cargo.toml", "/%2e%2e/Cargo.toml", "/index.html/x", "/assets", "/assets/", "/assets/../index.html", "/package.json"]
        {
            assert_eq!(get_path(path, &[]).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn the_document_holds_nothing_inline() {
        let document = ASSETS.iter().find(|asset| asset.path == "/").unwrap();
        let text = std::str::from_utf8(document.bytes).unwrap();
        for forbidden in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!text.contains(forbidden), "the document holds {forbidden}");
        }
        for script in text.split("<script").skip(1) {
            let (attributes, content) = script.split_once('>').unwrap();
            assert!(attributes.contains(" src=") && content.starts_with("</script>"), "a script that is not a file of its own: {script}");
        }
    }
}
