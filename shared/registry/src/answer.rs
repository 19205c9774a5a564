//! What an answer says when it is no success.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::RETRY_AFTER;
use oci_distribution::errors::OciEnvelope;

use crate::config::Config;
use crate::egress::Reply;
use crate::error::{Reason, RegistryError};

const MESSAGE_CHARS_MAX: usize = 200;

/// Passes on a success; reads any other answer to a request for `what` as an error.
pub(crate) async fn accept(reply: Reply, what: &str, config: &Config) -> Result<Reply, RegistryError> {
    if reply.status().is_success() {
        return Ok(reply);
    }
    Err(refuse(reply, what, config).await)
}

/// Reads the answer to a request for `what` as an error.
pub(crate) async fn refuse(reply: Reply, what: &str, config: &Config) -> RegistryError {
    let (host, status) = (reply.authority(), reply.status());
    let retry_after = retry_after(&reply);
    // The status decides; a body that cannot be read adds nothing to it.
    let body = reply.body("an error", config.token_bytes_max, config.read_timeout());
    let reason = body.await.map(|body| parse_reason(&body)).unwrap_or_default();
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { what: what.to_owned() },
        StatusCode::UNAUTHORIZED => RegistryError::Unauthorized { host },
        StatusCode::FORBIDDEN => RegistryError::Denied { host, reason },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited { host, retry_after, reason },
        status => RegistryError::Status { host, status, retry_after, reason },
    }
}

/// How long `reply` asks to wait.
pub(crate) fn retry_after(reply: &Reply) -> Option<Duration> {
    parse_retry_after(reply.header(RETRY_AFTER)?, SystemTime::now())
}

fn parse_reason(body: &[u8]) -> Reason {
    let envelope: Option<OciEnvelope> = serde_json::from_slice(body).ok();
    let Some(first) = envelope.and_then(|envelope| envelope.errors.into_iter().next()) else {
        return Reason::default();
    };
    let code = serde_json::to_value(&first.code).ok();
    let code = code.as_ref().and_then(serde_json::Value::as_str);
    Reason { code: printable(code.unwrap_or_default()), message: printable(&first.message) }
}

/// At most 200 characters of `text`, without those that could fake a log line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

/// Reads a `Retry-After` header: seconds, or a date.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_retry_after_as_seconds_or_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let check = |text: &str, expected: Option<u64>| {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(parse_retry_after(text, now), expected, "{text}");
        };
        check("120", Some(120));
        check("Sun, 09 Sep 2001 01:47:40 GMT", Some(60));
        check("Sun, 09 Sep 2001 01:00:00 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }

    #[test]
    fn reasons_are_short_and_printable() {
        let body = format!(r#"{{"errors":[{{"code":"DENIED","message":"a\n{}"}}]}}"#, "x".repeat(900));
        let reason = parse_reason(body.as_bytes());
        assert_eq!(reason.code, "DENIED");
        assert_eq!(reason.message.len(), 200);
        assert!(reason.message.starts_with("ax"));
        assert_eq!(parse_reason(b"<html>"), Reason::default());
    }
}
