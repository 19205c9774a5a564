//! From a request to an answer, good or scripted.

use bytes::Bytes;
use serde_json::json;

use super::behaviour::{Behaviour, Gate};
use super::exchange::Request;
use super::{Script, Shared};
use crate::image::gzip;

/// An answer before it goes to the wire.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// Chunked where there is none.
    pub(super) announced_bytes: Option<u64>,
    pub(super) delivery: Delivery,
}

/// How the body leaves.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Close without a word.
    pub(super) silent: bool,
    /// Close after so many bytes.
    pub(super) cut_after_bytes: Option<u64>,
    /// Wait at the gate after so many bytes.
    pub(super) hold: Option<(u64, Gate)>,
    /// Bytes a second.
    pub(super) rate: Option<u64>,
    /// Zeros without end after the body.
    pub(super) endless: bool,
}

impl Reply {
    fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let body = body.into();
        Self {
            status,
            headers: headers.iter().map(own).collect(),
            announced_bytes: Some(body.len() as u64),
            body,
            delivery: Delivery::default(),
        }
    }

    fn error(status: u16, code: &str) -> Self {
        let body = json!({ "errors": [{ "code": code, "message": code.to_lowercase() }] }).to_string();
        Self::new(status, &[("Content-Type", "application/json")], body)
    }

    fn unauthorized(challenge: &str) -> Self {
        let mut reply = Self::error(401, "UNAUTHORIZED");
        reply.set("WWW-Authenticate", challenge);
        reply
    }

    fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn unset(&mut self, name: &str) {
        self.headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
    }

    fn replace_body(&mut self, body: impl Into<Bytes>) {
        self.body = body.into();
        self.announced_bytes = Some(self.body.len() as u64);
    }
}

/// Returns the answer to `request`.
pub(super) fn answer(shared: &Shared, request: &Request) -> Reply {
    let script = shared.script_for(request);
    if let Some(reply) = script.iter().find_map(|behaviour| instead(shared, request, behaviour)) {
        return reply;
    }
    if request.path != "/token"
        && let Some(challenge) = shared.challenge(request)
    {
        return Reply::unauthorized(&challenge);
    }
    let mut reply = content(shared, request);
    for behaviour in &script {
        alter_content(&mut reply, behaviour);
    }
    apply_range(&mut reply, request, &script);
    for behaviour in script {
        alter_delivery(&mut reply, behaviour);
    }
    reply
}

/// Returns what `behaviour` puts in place of the good answer.
fn instead(shared: &Shared, request: &Request, behaviour: &Behaviour) -> Option<Reply> {
    match behaviour {
        Behaviour::Status { code, headers, body } => {
            let mut reply = Reply::new(*code, &[], body.clone());
            for (name, value) in headers {
                reply.set(name, value);
            }
            Some(reply)
        }
        Behaviour::Redirect { to } => Some(Reply::new(307, &[("Location", to)], "")),
        Behaviour::Unauthorized => Some(Reply::unauthorized(&shared.demand(request))),
        Behaviour::Close => {
            let mut reply = Reply::new(200, &[], "");
            reply.delivery.silent = true;
            Some(reply)
        }
        _ => None,
    }
}

/// Returns the good answer.
fn content(shared: &Shared, request: &Request) -> Reply {
    if request.path == "/token" {
        return match shared.issue_token(request) {
            Some(token) => {
                let body = json!({ "token": token, "expires_in": 300 }).to_string();
                Reply::new(200, &[("Content-Type", "application/json")], body)
            }
            None => Reply::error(401, "UNAUTHORIZED"),
        };
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Reply::error(405, "UNSUPPORTED");
    }
    let rest = request.path.strip_prefix("/v2/").unwrap_or("?");
    if rest.is_empty() {
        return Reply::new(200, &[("Content-Type", "application/json")], "{}");
    }
    let split = |part: &str| rest.rfind(part).map(|at| (&rest[..at], &rest[at + part.len()..]));
    if let Some((repository, name)) = split("/manifests/") {
        manifest(shared, repository, name)
    } else if let Some((repository, digest)) = split("/blobs/") {
        blob(shared, repository, digest)
    } else if let Some((repository, "list")) = split("/tags/") {
        tags(shared, repository)
    } else if let Some((repository, digest)) = split("/referrers/") {
        referrers(shared, repository, digest)
    } else {
        Reply::error(404, "NAME_UNKNOWN")
    }
}

fn manifest(shared: &Shared, repository: &str, name: &str) -> Reply {
    let key = (repository.to_owned(), name.to_owned());
    let content = shared.content();
    let Some(manifest) = content.manifests.get(&key) else {
        return Reply::error(404, "MANIFEST_UNKNOWN");
    };
    let headers =
        [("Content-Type", manifest.media_type.as_str()), ("Docker-Content-Digest", &manifest.digest)];
    Reply::new(200, &headers, manifest.bytes.clone())
}

fn blob(shared: &Shared, repository: &str, digest: &str) -> Reply {
    let key = (repository.to_owned(), digest.to_owned());
    let content = shared.content();
    let Some(blob) = content.blobs.get(&key) else {
        return Reply::error(404, "BLOB_UNKNOWN");
    };
    let etag = format!("\"{digest}\"");
    let headers = [
        ("Content-Type", "application/octet-stream"),
        ("Docker-Content-Digest", digest),
        ("Accept-Ranges", "bytes"),
        ("ETag", &etag),
    ];
    Reply::new(200, &headers, blob.bytes.clone())
}

fn tags(shared: &Shared, repository: &str) -> Reply {
    let content = shared.content();
    let here = content.manifests.keys().filter(|(name, _)| name == repository);
    let mut tags: Vec<&str> = here.map(|(_, tag)| tag.as_str()).filter(|tag| !tag.contains(':')).collect();
    tags.sort_unstable();
    let body = json!({ "name": repository, "tags": tags }).to_string();
    Reply::new(200, &[("Content-Type", "application/json")], body)
}

fn referrers(shared: &Shared, repository: &str, subject: &str) -> Reply {
    let content = shared.content();
    let mut entries = Vec::new();
    for ((name, digest), manifest) in &content.manifests {
        let parsed: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        if name == repository && *digest == manifest.digest && parsed["subject"]["digest"] == subject {
            let mut entry = manifest.descriptor();
            entry["artifactType"] = parsed["artifactType"].clone();
            entries.push(entry);
        }
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let body = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries }).to_string();
    Reply::new(200, &[("Content-Type", media_type)], body)
}

/// Changes what the whole content is, before any range is cut from it.
fn alter_content(reply: &mut Reply, behaviour: &Behaviour) {
    match behaviour {
        Behaviour::Body(body) => reply.replace_body(body.clone()),
        Behaviour::FlipByte { at } => {
            let mut body = reply.body.to_vec();
            if let Some(byte) = body.get_mut(*at) {
                *byte = !*byte;
            }
            reply.replace_body(body);
        }
        Behaviour::ContentEncoding => {
            reply.replace_body(gzip(&reply.body));
            reply.set("Content-Encoding", "gzip");
        }
        Behaviour::GzipBomb { inflated_bytes } => {
            reply.replace_body(gzip(&vec![0; *inflated_bytes]));
            reply.set("Content-Encoding", "gzip");
        }
        _ => {}
    }
}

fn apply_range(reply: &mut Reply, request: &Request, script: &Script) {
    let ignored = script.iter().any(|behaviour| matches!(behaviour, Behaviour::IgnoreRange));
    let Some(range) = request.header("range").and_then(|value| value.strip_prefix("bytes=")) else {
        return;
    };
    let etag = reply.headers.iter().find(|(name, _)| name == "ETag").map(|(_, value)| value.as_str());
    let changed = request.header("if-range").is_some_and(|wanted| Some(wanted) != etag);
    if ignored || changed || reply.status != 200 {
        return;
    }
    let total = reply.body.len();
    let (first, last) = range.split_once('-').unwrap_or((range, ""));
    let first: usize = first.parse().unwrap_or(0);
    let last = last.parse().unwrap_or(usize::MAX).min(total.saturating_sub(1));
    if first > last || first >= total {
        *reply = Reply::error(416, "RANGE_INVALID");
        return;
    }
    reply.status = 206;
    reply.set("Content-Range", &format!("bytes {first}-{last}/{total}"));
    reply.replace_body(reply.body.slice(first..=last));
}

/// Changes what is said of the content and how it is sent.
fn alter_delivery(reply: &mut Reply, behaviour: Behaviour) {
    match behaviour {
        Behaviour::LieDigestHeader(digest) => reply.set("Docker-Content-Digest", &digest),
        Behaviour::NoDigestHeader => reply.unset("Docker-Content-Digest"),
        Behaviour::Header(name, value) => reply.set(name, &value),
        Behaviour::NoHeader(name) => reply.unset(name),
        Behaviour::WrongContentRange(value) if reply.status == 206 => {
            reply.set("Content-Range", &value);
        }
        Behaviour::Short => {
            let short = reply.body.slice(..reply.body.len().saturating_sub(1));
            reply.replace_body(short);
        }
        Behaviour::Long { extra_bytes } => {
            let mut body = reply.body.to_vec();
            body.resize(body.len() + extra_bytes, b'x');
            reply.replace_body(body);
        }
        Behaviour::Cut { after_bytes } => reply.delivery.cut_after_bytes = Some(after_bytes),
        Behaviour::Drip { bytes_per_s } => reply.delivery.rate = Some(bytes_per_s.max(1)),
        Behaviour::Stall { after_bytes } => reply.delivery.hold = Some((after_bytes, Gate::new())),
        Behaviour::Hold { after_bytes, gate } => reply.delivery.hold = Some((after_bytes, gate)),
        Behaviour::Chunked => reply.announced_bytes = None,
        Behaviour::Endless => {
            reply.announced_bytes = None;
            reply.delivery.endless = true;
        }
        _ => {}
    }
}
