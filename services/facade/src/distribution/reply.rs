//! Answers and refusals (OCI distribution-spec, "Error Codes").

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};
use larder_provider::ProviderError;

use crate::door::Body;

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
pub(super) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(super) const TAG: HeaderName = HeaderName::from_static("oci-tag");
pub(super) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(super) const OUTCOME: HeaderName = HeaderName::from_static("larder-outcome");

/// What clients tell apart. The first ones are those of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    UploadInvalid,
    UploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    /// A range that cannot be had; the specification names no code for it.
    RangeInvalid,
    /// A question whose parameters make no sense.
    PaginationInvalid,
    ManifestTooLarge,
    TooManyTags,
    /// The blob is in use.
    InUse,
    /// Upstream does not answer as it should.
    Upstream,
    UpstreamTimeout,
    Unavailable,
    Internal,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::UploadInvalid | Self::RangeInvalid => "BLOB_UPLOAD_INVALID",
            Self::UploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid | Self::ManifestTooLarge => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid | Self::TooManyTags => "TAG_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported | Self::InUse => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::PaginationInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Upstream | Self::UpstreamTimeout | Self::Unavailable | Self::Internal => "UNKNOWN",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::UploadUnknown | Self::ManifestUnknown | Self::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Self::UploadInvalid
            | Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid
            | Self::TagInvalid
            | Self::PaginationInvalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported | Self::InUse => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::ManifestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyTags => StatusCode::URI_TOO_LONG,
            Self::Upstream => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Why a request is not answered as its client wishes.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: Cow<'static, str>,
    /// Further headers: where an upload stands, what the caller may do about it.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), headers: Vec::new() }
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Whether it is upstream that could not be asked.
    pub(super) fn is_upstreams(&self) -> bool {
        matches!(self.code, Code::Upstream | Code::UpstreamTimeout | Code::TooManyRequests)
    }

    /// What `error` means for who asked for something that is `unknown` when it is not there.
    pub(super) fn of(error: &ProviderError, unknown: Code) -> Self {
        let code = match error {
            ProviderError::NotFound(_) | ProviderError::PlatformNotFound { .. } => unknown,
            ProviderError::InvalidReference(_) => Code::NameInvalid,
            ProviderError::Partial { .. } => Code::ManifestBlobUnknown,
            ProviderError::WrongKind(_) | ProviderError::Unsupported(_) => Code::ManifestInvalid,
            ProviderError::OutOfRange(_) => Code::RangeInvalid,
            ProviderError::PermissionDenied(_) | ProviderError::Denied(_) => Code::Denied,
            ProviderError::Remote { status: Some(429), .. } => Code::TooManyRequests,
            ProviderError::Corrupt(_) | ProviderError::Remote { .. } => Code::Upstream,
            ProviderError::TimedOut(_) => Code::UpstreamTimeout,
            ProviderError::Unavailable(_) => Code::Unavailable,
            _ => Code::Internal,
        };
        if code == Code::Internal {
            // It tells of paths and keys, which are nobody's business.
            tracing::error!(%error, "a request failed for what is stored, or cannot be");
            return Self::new(code, "the store cannot be read or written; the log says more");
        }
        let refusal = Self::new(code, error.to_string());
        match code {
            Code::TooManyRequests | Code::Unavailable => refusal.retry_after(Duration::from_secs(10)),
            _ => refusal,
        }
    }

    pub(super) fn retry_after(self, wait: Duration) -> Self {
        self.with(RETRY_AFTER, HeaderValue::from(wait.as_secs()))
    }

    /// The answer; without its body to who asked by `HEAD`.
    pub(super) fn answer(self, method: &Method) -> Response<Body> {
        let body = serde_json::json!({
            "errors": [{ "code": self.code.name(), "message": self.message, "detail": {} }]
        });
        let body = body.to_string();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if method != Method::HEAD {
            *response.body_mut() = Body::full(body);
        }
        response
    }
}

/// An answer without content.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    response
}

/// A JSON answer of a type of its own.
pub(super) fn json(method: &Method, media_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if method != Method::HEAD {
        *response.body_mut() = Body::full(body);
    }
    response
}

/// Says that upstream could not be asked, so that this is what is here.
pub(super) fn away() -> HeaderValue {
    HeaderValue::from_static("111 larder \"upstream could not be asked; this is what is here\"")
}

/// A header from what was checked to be plain text before.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
