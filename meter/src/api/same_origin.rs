//! Changes that a cookie stands for come from this site's own page, as JSON: another site's form, link or script changes nothing.

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method, header};

use super::ApiState;
use super::error::ApiError;
use crate::identity::{self, AuthError};

/// Refuses what a cookie may not do. A bearer credential is nothing that a browser sends by itself.
pub(super) async fn check(State(state): State<ApiState>, request: Request, next: Next) -> Result<Response, ApiError> {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && state.identity.comes_by_cookie(request.headers()) {
        if !identity::is_of_own_page(request.headers()) {
            return Err(AuthError::CrossSite.into());
        }
        if !request.body().is_end_stream() && !is_json(request.headers()) {
            return Err(ApiError::forbidden("cross_site", "with a session cookie, send the body as application/json"));
        }
    }
    Ok(next.run(request).await)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
