//! From the store's URL to blobs and catalog.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use larder_blobs::Blobs;
use larder_catalog::Catalog;
use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;
use url::Url;

use crate::Failure;

/// How to reach an S3 service. What is not set comes from the usual `AWS_*` variables or the instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// The service's URL, when it is not AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Whose key.
    pub access_key_id: Option<String>,
    /// The key.
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is part of the host name.
    pub virtual_hosted: bool,
    /// How long connecting may take, in milliseconds.
    pub connect_timeout_ms: Option<u64>,
    /// How long a transfer may stand still, in milliseconds.
    pub read_timeout_ms: Option<u64>,
}

/// A string that is never printed.
#[derive(Clone, Deserialize)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

pub(crate) async fn open(url: &str, s3: &S3) -> Result<(Blobs, Catalog), Failure> {
    let path = (!url.contains("://")).then(|| std::path::absolute(url).ok()).flatten();
    let of_path = path.and_then(|path| Url::from_file_path(path).ok()).map(String::from);
    let url = of_path.as_deref().unwrap_or(url);
    let parsed = Url::parse(url).map_err(|error| {
        Failure::usage(format!("store {url:?} is no URL ({error}); try file:///DIR or s3://BUCKET"))
    })?;
    match parsed.scheme() {
        "file" if parsed.query().is_some() || parsed.fragment().is_some() => {
            Err(Failure::usage(format!("store {url:?} has a ? or # in it; write them as %3F and %23")))
        }
        "file" => {
            let root: PathBuf = parsed.to_file_path().map_err(|()| {
                Failure::usage(format!("store {url:?} has no absolute path; try file:///DIR"))
            })?;
            let blobs = Blobs::on_disk(&root).map_err(|error| store_failure(url, &error))?;
            let catalog = Catalog::on_disk(&root).await.map_err(|error| store_failure(url, &error))?;
            Ok((blobs, catalog))
        }
        "s3" => {
            let objects = s3_store(&parsed, s3)?;
            Ok((Blobs::on_objects(Arc::clone(&objects)), Catalog::on_objects(objects)))
        }
        other => Err(Failure::usage(format!(
            "store {url:?} has the unknown scheme {other}; known are file and s3"
        ))),
    }
}

fn store_failure(url: &str, error: &dyn std::error::Error) -> Failure {
    Failure::failed(&format!("cannot open the store {url}"), crate::wiring::chain(error))
}

fn s3_store(url: &Url, s3: &S3) -> Result<Arc<dyn ObjectStore>, Failure> {
    let bucket = url.host_str().unwrap_or_default();
    if bucket.is_empty() {
        return Err(Failure::usage(format!("store {url} names no bucket; try s3://BUCKET[/PREFIX]")));
    }
    // The default timeout would cover the whole body and cut large blobs; one for standing still does not.
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_millis(s3.connect_timeout_ms.unwrap_or(5_000)))
        .with_read_timeout(Duration::from_millis(s3.read_timeout_ms.unwrap_or(30_000)));
    let plain = s3.endpoint.as_deref().map(is_plain).transpose()?.unwrap_or(false);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        // A server that restarts is away for some seconds, and answers with errors for some more.
        .with_retry(RetryConfig {
            max_retries: 16,
            retry_timeout: Duration::from_mins(1),
            ..RetryConfig::default()
        })
        .with_client_options(client.with_allow_http(plain || allows_http()))
        .with_virtual_hosted_style_request(s3.virtual_hosted);
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(key) = &s3.access_key_id {
        builder = builder.with_access_key_id(key);
    }
    if let Some(Secret(secret)) = &s3.secret_access_key {
        builder = builder.with_secret_access_key(secret);
    }
    let store = builder.build().map_err(|error| store_failure(url.as_str(), &error))?;
    let prefix = url.path().trim_matches('/');
    Ok(if prefix.is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) })
}

/// Whether an endpoint is reached in clear text.
fn is_plain(endpoint: &str) -> Result<bool, Failure> {
    let parsed = Url::parse(endpoint).ok().filter(Url::has_host);
    match parsed.as_ref().map(Url::scheme) {
        Some("http") => Ok(true),
        Some("https") => Ok(false),
        _ => Err(Failure::usage(format!(
            "s3.endpoint {endpoint:?} is no URL; try http://HOST:PORT or https://HOST"
        ))),
    }
}

fn allows_http() -> bool {
    let plain = |variable| std::env::var(variable).is_ok_and(|endpoint| endpoint.starts_with("http://"));
    ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"].into_iter().any(plain)
        || std::env::var("AWS_ALLOW_HTTP").is_ok_and(|allow| allow == "true")
}
