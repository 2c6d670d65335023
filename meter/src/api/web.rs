//! The page: a handful of files compiled into the binary, under a policy that lets them talk to this meter alone.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// Nothing inline, nothing from elsewhere, no frames, no forms that leave, no string that becomes code.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// One file of the page.
struct Asset {
    path: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! asset {
    ($path:literal, $file:literal, $media_type:expr) => {
        Asset { path: $path, media_type: $media_type, bytes: include_bytes!(concat!("../../../web/", $file)) }
    };
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// Everything that the page is made of; nothing else on disk can be reached.
static ASSETS: [Asset; 16] = [
    asset!("/", "index.html", HTML),
    asset!("/style.css", "style.css", STYLE),
    asset!("/icon.svg", "icon.svg", IMAGE),
    asset!("/app.js", "app.js", SCRIPT),
    asset!("/access.js", "access.js", SCRIPT),
    asset!("/amounts.js", "amounts.js", SCRIPT),
    asset!("/api.js", "api.js", SCRIPT),
    asset!("/chat.js", "chat.js", SCRIPT),
    asset!("/credits.js", "credits.js", SCRIPT),
    asset!("/dom.js", "dom.js", SCRIPT),
    asset!("/keys.js", "keys.js", SCRIPT),
    asset!("/pool.js", "pool.js", SCRIPT),
    asset!("/receipt.js", "receipt.js", SCRIPT),
    asset!("/sse.js", "sse.js", SCRIPT),
    asset!("/vault.js", "vault.js", SCRIPT),
    asset!("/wallet.js", "wallet.js", SCRIPT),
];

/// Entity tags by position in [`ASSETS`].
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| format!("\"{}\"", hex::encode(&Sha256::digest(asset.bytes)[..16]));
    ASSETS.iter().map(tag).collect()
});

/// Routes of this file.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let mut router = Router::new();
    for (asset, tag) in ASSETS.iter().zip(TAGS.iter()) {
        router = router.route(asset.path, get(move |headers: HeaderMap| async move { reply(asset, tag, &headers) }));
    }
    router
}

/// The file, or 304 when the browser has it. Its tag is asked for each time, so a new meter never meets an old page.
fn reply(asset: &'static Asset, tag: &'static str, headers: &HeaderMap) -> Response<Body> {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let mut response = Response::new(if unchanged { Body::empty() } else { Body::from(asset.bytes) });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let fields: [(HeaderName, &'static str); 8] = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, tag),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
    ];
    response.headers_mut().extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    async fn get_path(path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = http::Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        routes::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
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

            let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
            assert_eq!(get_path(asset.path, &[("if-none-match", &tag)]).await.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(get_path(asset.path, &[("if-none-match", &format!("\"x\", W/{tag}"))]).await.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(get_path(asset.path, &[("if-none-match", "\"x\"")]).await.status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn nothing_else_on_disk_is_served() {
        for path in ["/../Cargo.toml", "/%2e%2e/Cargo.toml", "/test/sse.test.js", "/index.html/x"] {
            assert_eq!(get_path(path, &[]).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn the_page_holds_nothing_inline_and_no_way_from_text_to_code() {
        for asset in &ASSETS {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "<style",
                "style=\"",
                "onclick=",
            ] {
                assert!(!text.contains(forbidden), "{} holds {forbidden}", asset.path);
            }
        }
        let page = std::str::from_utf8(ASSETS[0].bytes).unwrap();
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=\"/").count());
    }
}
