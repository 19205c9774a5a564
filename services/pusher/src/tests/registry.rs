//! A registry in memory, in which somebody else can be busy too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use larder_oci::{Digest, Reference};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What somebody else does once a request begins with these words, before it is answered or after.
struct Interference {
    request: String,
    before: bool,
    act: Box<dyn FnMut(&mut Content) + Send>,
    times: usize,
}

/// What is in it, by repository and name or digest.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) blobs: HashMap<(String, String), Vec<u8>>,
    pub(crate) manifests: HashMap<(String, String), (String, Vec<u8>)>,
    pub(crate) heard: Vec<String>,
    /// Takes any bytes for a blob, and does not say what it has got.
    pub(crate) is_gullible: bool,
    interferences: Vec<Interference>,
}

impl Content {
    /// Holds `bytes` under `name` and under their digest.
    pub(crate) fn put(&mut self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) {
        for name in [name, Digest::of(bytes).as_str()] {
            let held = (media_type.to_owned(), bytes.to_vec());
            self.manifests.insert((repository.to_owned(), name.to_owned()), held);
        }
    }

    fn interfere(&mut self, request: &str, before: bool) {
        let mut all = std::mem::take(&mut self.interferences);
        for one in &mut all {
            if one.before == before && one.times > 0 && request.starts_with(&one.request) {
                one.times -= 1;
                (one.act)(self);
            }
        }
        self.interferences = all;
    }

    /// The status, a header and the body.
    fn answer(
        &mut self,
        method: &str,
        target: &str,
        media_type: &str,
        body: &[u8],
    ) -> (u16, String, Vec<u8>) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.trim_start_matches("/v2/");
        let value = |key: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{key}=")));
            value.map(|value| value.replace("%3A", ":").replace("%2F", "/"))
        };
        let none = (404, String::new(), Vec::new());
        if let Some((repository, name)) = path.split_once("/manifests/") {
            if method == "PUT" {
                self.put(repository, name, media_type, body);
                return (201, String::new(), Vec::new());
            }
            let held = self.manifests.get(&(repository.to_owned(), name.to_owned()));
            return held.map_or(none, |(media_type, bytes)| {
                let digest = Digest::of(bytes);
                let headers = format!("content-type: {media_type}\r\ndocker-content-digest: {digest}\r\n");
                (200, headers, bytes.clone())
            });
        }
        if let Some((repository, _)) = path.split_once("/blobs/uploads/") {
            let mounted = value("mount").zip(value("from")).and_then(|(digest, from)| {
                let bytes = self.blobs.get(&(from, digest.clone()))?.clone();
                self.blobs.insert((repository.to_owned(), digest), bytes).map_or(Some(()), |_| Some(()))
            });
            return match (method, mounted) {
                ("POST", Some(())) => (201, String::new(), Vec::new()),
                ("POST", None) => {
                    (202, format!("location: /v2/{repository}/blobs/uploads/1\r\n"), Vec::new())
                }
                ("DELETE", _) => (204, String::new(), Vec::new()),
                _ => {
                    let digest = value("digest").unwrap();
                    if Digest::of(body).as_str() != digest && !self.is_gullible {
                        return (400, String::new(), br#"{"errors":[{"code":"DIGEST_INVALID"}]}"#.to_vec());
                    }
                    let said = format!("docker-content-digest: {digest}\r\n");
                    self.blobs.insert((repository.to_owned(), digest), body.to_vec());
                    (201, if self.is_gullible { String::new() } else { said }, Vec::new())
                }
            };
        }
        let (repository, digest) = path.split_once("/blobs/").unwrap();
        let held = self.blobs.get(&(repository.to_owned(), digest.to_owned()));
        held.map_or(none, |bytes| (200, String::new(), bytes.clone()))
    }
}

pub(crate) struct Registry {
    host: String,
    content: Arc<Mutex<Content>>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Mutex::new(Content::default()));
        let served = Arc::clone(&content);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let content = Arc::clone(&served);
                tokio::spawn(async move { while_open(stream, &content).await });
            }
        });
        Self { host, content }
    }

    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    /// Has somebody else `act` before the next requests that begin with `request` are answered, or after, so many times.
    pub(crate) fn interfere(
        &self,
        request: &str,
        before: bool,
        times: usize,
        act: impl FnMut(&mut Content) + Send + 'static,
    ) {
        let request = request.to_owned();
        self.content().interferences.push(Interference { request, before, times, act: Box::new(act) });
    }

    /// The manifest under `name` as it is.
    pub(crate) fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let content = self.content();
        let held = content.manifests.get(&(repository.to_owned(), name.to_owned()));
        held.map(|(_, bytes)| bytes.clone())
    }

    /// The requests so far that begin with one of `methods`; forgets all.
    pub(crate) fn heard(&self, methods: &[&str]) -> Vec<String> {
        let mut heard = std::mem::take(&mut self.content().heard);
        heard.retain(|line| methods.iter().any(|method| line.starts_with(method)));
        heard
    }
}

async fn while_open(stream: TcpStream, content: &Mutex<Content>) {
    let mut stream = BufReader::new(stream);
    while exchange(&mut stream, content).await.is_some() {}
}

async fn exchange(stream: &mut BufReader<TcpStream>, content: &Mutex<Content>) -> Option<()> {
    let (mut request, mut length, mut media_type) = (String::new(), 0, String::new());
    stream.read_line(&mut request).await.ok().filter(|bytes| *bytes > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap();
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-type") => {
                value.clone_into(&mut media_type);
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let line = format!("{method} {target}");
    let (status, headers, body) = {
        let mut content = content.lock().unwrap();
        content.heard.push(line.clone());
        content.interfere(&line, true);
        let answer = content.answer(method, target, &media_type, &body);
        content.interfere(&line, false);
        answer
    };
    let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    if method != "HEAD" {
        stream.write_all(&body).await.ok()?;
    }
    Some(())
}
