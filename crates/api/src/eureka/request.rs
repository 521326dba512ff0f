//! What requests carry beside their paths.

use std::io::Read;

use axum::{
    body::Body,
    extract::Query,
    http::{HeaderMap, Uri, header, request::Parts},
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sinew_core::{Error, Kind, Result};

use super::announced;

/// The longest body, compressed or not.
pub(super) const BODY_BYTES: usize = 256 * 1024;

pub(super) fn query(uri: &Uri) -> Result<Vec<(String, String)>> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let pairs = pairs.map_err(|error| {
        let message = format!("the query cannot be read: {}", error.body_text());
        Error::new(Kind::InvalidArgument, "api.query_invalid", message)
    })?;
    Ok(pairs.0)
}

pub(super) fn value_in(uri: &Uri) -> Result<Option<String>> {
    let pairs = query(uri)?.into_iter();
    Ok(pairs
        .filter(|(key, _)| key == "value")
        .map(|(_, value)| value)
        .next())
}

pub(super) fn dirty_in(uri: &Uri) -> Result<Option<u64>> {
    let pairs = query(uri)?;
    let said = pairs
        .into_iter()
        .find(|(key, _)| key == "lastDirtyTimestamp");
    let Some((_, text)) = said.filter(|(_, text)| !text.is_empty() && text != "null") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let message = format!(
            "lastDirtyTimestamp {} is not a number",
            announced::short(&text)
        );
        Error::new(Kind::InvalidArgument, "api.query_invalid", message)
    })
}

pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    let mut codings = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let gzip = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        gzip && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// The body, decompressed if it is compressed.
pub(super) async fn read(parts: &Parts, body: Body) -> Result<Bytes> {
    let too_large = || {
        Error::new(
            Kind::InvalidArgument,
            "api.body_too_large",
            format!("the body is longer than {BODY_BYTES} bytes"),
        )
    };
    let broken = |error: String| {
        Error::new(
            Kind::InvalidArgument,
            "api.body_invalid",
            "the body broke off",
        )
        .with_context(error)
    };
    let bytes = match Limited::new(body, BODY_BYTES).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
        Err(error) => return Err(broken(error.to_string())),
    };
    let coding = parts
        .headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes());
    if !coding.is_some_and(|coding| coding.eq_ignore_ascii_case(b"gzip")) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    let limited = GzDecoder::new(&*bytes)
        .take(BODY_BYTES as u64 + 1)
        .read_to_end(&mut plain);
    limited.map_err(|error| broken(error.to_string()))?;
    if plain.len() > BODY_BYTES {
        return Err(too_large());
    }
    Ok(plain.into())
}
