//! Request bodies, bounded in bytes and in time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;
use crate::config::Limits;

/// Headers and whole body. Errors with 413 above `bytes_max`, 408 after the time of `limits`, 400 when it breaks off.
pub(super) async fn read(request: Request, bytes_max: usize, limits: &Limits) -> Result<(HeaderMap, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(ApiError::too_large(bytes_max));
    }
    let read = tokio::time::timeout(Duration::from_millis(limits.body_timeout_ms), collect(body, bytes_max)).await;
    Ok((parts.headers, read.map_err(|_| ApiError::body_timeout())??))
}

/// As [`read`], parsed. Errors with 400 that says where the JSON is wrong.
pub(super) async fn json<T: DeserializeOwned>(request: Request, bytes_max: usize, limits: &Limits) -> Result<(HeaderMap, T), ApiError> {
    let (headers, bytes) = read(request, bytes_max, limits).await?;
    Ok((headers, parse(&bytes)?))
}

/// As [`json`], and a JSON object.
pub(super) async fn object(request: Request, limits: &Limits) -> Result<(HeaderMap, serde_json::Map<String, Value>), ApiError> {
    let (headers, bytes) = read(request, limits.body_bytes_max, limits).await?;
    match parse(&bytes)? {
        Value::Object(fields) => Ok((headers, fields)),
        _ => Err(ApiError::bad_request("invalid_json", "the body must be a JSON object")),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad_request("invalid_json", format!("the body can't be read as JSON: {error}")))
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let (mut stream, mut bytes) = (body.into_data_stream(), BytesMut::new());
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ApiError::bad_request("incomplete_body", "the body broke off; send it again"))?;
        if bytes.len() + chunk.len() > bytes_max {
            return Err(ApiError::too_large(bytes_max));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}
