//! The OCI Distribution API, `/v2/`: pull-through and push in one namespace.
//!
//! A request becomes a [`Route`] and a [`Place`]; access is judged before anything is looked up. What is here is answered straight
//! from catalog and store; what is not is wanted on the bus, and read while it comes in.

mod blob;
mod fill;
mod list;
mod manifest;
mod place;
mod proof;
mod range;
mod reply;
mod route;
mod tags;
mod upload;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{ALLOW, HeaderName, WARNING, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use larder_messages::{ContentDeleted, NameChanged, topic};
use larder_oci::{Descriptor, Digest};
use larder_provider::ProviderError;
use larder_runtime::{Runtime, metrics};

use crate::door::access::{Access, Action, Caller, Refused, Wanted};
use crate::door::{Body, BodyError};
use crate::{Config, Facade};

use manifest::Held;
use place::Place;
use reply::{Code, NAMESPACE, Refusal, empty, header};
use route::Route;
use tags::{Outcome, Tags};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Digests of which something is remembered: that upstream does not have them, what they refer to, that they are in use.
const REMEMBERED_MAX: u64 = 65_536;
/// Lists of upstream that are remembered.
const LISTS_MAX: u64 = 4_096;
/// How long it is remembered what a manifest refers to; that never changes.
const REFERRERS_FOR: Duration = Duration::from_hours(1);
/// A blob that is served is marked as used when the last mark of this process is older.
const MARKED_AGAIN_AFTER: Duration = Duration::from_mins(10);

/// Answers `/v2/`; clones share what they remember.
#[derive(Clone)]
pub struct Distribution {
    facade: Facade,
    runtime: Runtime,
    config: Config,
    access: Access,
    tags: Tags,
    held: moka::sync::Cache<Digest, Arc<Held>>,
    absent: moka::sync::Cache<(String, Digest), ()>,
    listings: moka::future::Cache<String, Option<Descriptor>>,
    referrers: moka::sync::Cache<Digest, Option<(Digest, Descriptor)>>,
    proofs: proof::Proofs,
    in_use: moka::sync::Cache<Digest, ()>,
    peers: fill::Peers,
}

impl Distribution {
    const MANIFEST: &str = "manifest";
    const BLOB: &str = "blob";

    /// What answers `/v2/` for `facade`, letting in whom `access` does.
    pub fn start(runtime: &Runtime, facade: &Facade, config: &Config, access: Access) -> Self {
        let (fresh, negative) = (Duration::from_secs(config.fresh_s), Duration::from_secs(config.negative_s));
        let listings = moka::future::Cache::builder().max_capacity(LISTS_MAX).time_to_live(fresh).build();
        let distribution = Self {
            facade: facade.clone(),
            runtime: runtime.clone(),
            config: config.clone(),
            access,
            tags: Tags::new(facade, config),
            held: manifest::held(),
            absent: remembered(negative),
            listings,
            referrers: remembered(REFERRERS_FOR),
            proofs: proof::proofs(),
            in_use: remembered(MARKED_AGAIN_AFTER),
            peers: fill::peers(),
        };
        runtime.spawn(distribution.clone().hear_of_changes());
        distribution
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let method = head.method.clone();
        let answered = match Route::parse(head.uri.path()) {
            Ok(route) => {
                let asked = Asked {
                    method: &head.method,
                    headers: &head.headers,
                    query: head.uri.query().unwrap_or_default(),
                    caller: &Caller::Anonymous,
                };
                self.judge(asked, route, body).await
            }
            Err(refusal) => Err(refusal),
        };
        let mut response = answered.unwrap_or_else(|refusal| refusal.answer(&method));
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        response
    }

    /// Finds out who asks and whether that may be; then does it.
    async fn judge(&self, asked: Asked<'_>, route: Route, body: Body) -> Result<Response<Body>, Refusal> {
        if !route.allows(asked.method) {
            let refusal = Refusal::new(Code::Unsupported, format!("{} cannot be done to this", asked.method));
            return Err(refusal.with(ALLOW, HeaderValue::from_static(route.methods())));
        }
        let caller = match self.access.identify(asked.headers).await {
            Ok(caller) => caller,
            Err(Refused::Credentials) => {
                return Err(self.unauthorized(&Caller::Anonymous, None, "these credentials do not hold"));
            }
            Err(Refused::Busy) => {
                let refusal = Refusal::new(Code::TooManyRequests, "too many credentials are being checked");
                return Err(refusal.retry_after(Duration::from_secs(1)));
            }
        };
        let ns = asked.query("ns");
        let place = match route.name() {
            Some(name) => Some(Place::find(&self.config, name, ns.as_deref())?),
            None => None,
        };
        self.refuse_forbidden(&asked, &route, &caller, place.as_ref())?;
        let asked = Asked { caller: &caller, ..asked };
        let acted = self.act(asked, route, place.as_ref(), body).await;
        let mut response = acted.map_err(|refusal| self.spare_pushers(asked, place.as_ref(), refusal))?;
        if let Some(ns) = ns {
            response.headers_mut().insert(NAMESPACE, header(&ns));
        }
        Ok(response)
    }

    fn refuse_forbidden(
        &self,
        asked: &Asked<'_>,
        route: &Route,
        caller: &Caller,
        place: Option<&Place>,
    ) -> Result<(), Refusal> {
        let Some(place) = place else {
            return if self.access.may_come_in(caller) {
                Ok(())
            } else {
                Err(self.unauthorized(caller, None, "there is nothing that these credentials allow"))
            };
        };
        let is_upload = matches!(route, Route::Upload { .. });
        let action = match *asked.method {
            Method::GET | Method::HEAD if !is_upload => Action::Pull,
            Method::DELETE if !is_upload => Action::Delete,
            _ => Action::Push,
        };
        if self.access.allows(caller, action, &place.repository) {
            return Ok(());
        }
        // Who pushes reads as well, to see what is there already.
        let actions: &[Action] = match action {
            Action::Pull => &[Action::Pull],
            Action::Push => &[Action::Pull, Action::Push],
            Action::Delete => &[Action::Delete],
        };
        let wanted = Wanted { repository: &place.repository, actions };
        Err(self.unauthorized(
            caller,
            Some(wanted),
            "this takes other credentials (access.anonymous, access.rules)",
        ))
    }

    /// Who pushes asks by `HEAD` what is there already. That upstream cannot be asked must not keep him from pushing what is not here.
    fn spare_pushers(&self, asked: Asked<'_>, place: Option<&Place>, refusal: Refusal) -> Refusal {
        let may_push = |place: &Place| self.access.allows(asked.caller, Action::Push, &place.repository);
        if asked.method == Method::HEAD && refusal.is_upstreams() && place.is_some_and(may_push) {
            return Refusal::new(Code::ManifestUnknown, refusal.message).with(WARNING, reply::away());
        }
        refusal
    }

    /// 401 where credentials would help, else 403.
    fn unauthorized(&self, caller: &Caller, wanted: Option<Wanted<'_>>, message: &'static str) -> Refusal {
        let challenges = self.access.challenges(caller, wanted);
        if challenges.is_empty() {
            return Refusal::new(Code::Denied, message);
        }
        let refusal = Refusal::new(Code::Unauthorized, message);
        challenges.into_iter().fold(refusal, |refusal, challenge| refusal.with(WWW_AUTHENTICATE, challenge))
    }

    async fn act(
        &self,
        asked: Asked<'_>,
        route: Route,
        place: Option<&Place>,
        body: Body,
    ) -> Result<Response<Body>, Refusal> {
        let Some(place) = place else {
            return match route {
                Route::Catalog => self.list_repositories(&asked).await,
                _ => Ok(reply::json(asked.method, "application/json", "{}".to_owned())),
            };
        };
        match (route, asked.method.as_str()) {
            (Route::Manifest { reference, .. }, "PUT") => {
                self.put_manifest(asked, place, &reference, body).await
            }
            (Route::Manifest { reference, .. }, "DELETE") => {
                self.delete_manifest(&asked, place, &reference).await
            }
            (Route::Manifest { reference, .. }, _) => self.get_manifest(&asked, place, &reference).await,
            (Route::Blob { digest, .. }, "DELETE") => self.delete_blob(&asked, place, &digest).await,
            (Route::Blob { digest, .. }, _) => self.get_blob(&asked, place, &digest).await,
            (Route::Uploads { .. }, _) => self.begin_upload(asked, place, body).await,
            (Route::Upload { id, .. }, "PATCH") => self.append_upload(asked, place, &id, body).await,
            (Route::Upload { id, .. }, "PUT") => self.finish_upload(asked, place, &id, body).await,
            (Route::Upload { id, .. }, "DELETE") => self.abort_upload(place, &id).await,
            (Route::Upload { id, .. }, _) => self.show_upload(place, &id).await,
            (Route::Tags { .. }, _) => self.list_tags(&asked, place).await,
            (Route::Referrers { subject, .. }, _) => self.list_referrers(&asked, place, &subject).await,
            (Route::Base | Route::Catalog, _) => Ok(empty(StatusCode::OK)),
        }
    }

    /// Forgets what others have changed.
    async fn hear_of_changes(self) {
        let topics = [topic::<NameChanged>(None), topic::<ContentDeleted>(None)];
        let stopping = self.runtime.stopping();
        let mut ear = match self.facade.voice.listen(&topics).await {
            Ok(ear) => ear,
            Err(error) => {
                tracing::error!(%error, "changes of names are not heard of; they show with a delay");
                return;
            }
        };
        loop {
            let heard = tokio::select! {
                heard = ear.next() => heard,
                () = stopping.cancelled() => return,
            };
            let Some(heard) = heard else { return };
            if let Some(changed) = heard.of::<NameChanged>() {
                self.tags.forget(&changed.name).await;
            } else if let Some(deleted) = heard.of::<ContentDeleted>() {
                self.held.invalidate(&deleted.digest);
            }
        }
    }

    /// Marks a blob that is served as used, now and then: what is used is not collected.
    fn keep_in_use(&self, digest: &Digest) {
        if self.in_use.contains_key(digest) {
            return;
        }
        self.in_use.insert(digest.clone(), ());
        let (blobs, digest) = (self.facade.blobs.clone(), digest.clone());
        self.runtime.spawn(async move {
            // What is read-only is not collected either, and what is on its way is marked when it is there.
            let _ = blobs.touch(&digest).await;
        });
    }

    fn count(kind: &str, outcome: Outcome) {
        metrics::REQUESTS.with_label_values(&[kind, outcome.name()]).inc();
    }
}

fn remembered<K, V>(lifetime: Duration) -> moka::sync::Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    moka::sync::Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(lifetime).build()
}

/// A request without its body, as those who answer it see it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    query: &'a str,
    caller: &'a Caller,
}

impl Asked<'_> {
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The first value of a query parameter.
    fn query(&self, name: &str) -> Option<String> {
        self.queries(name).next()
    }

    /// All values of a query parameter.
    fn queries(&self, name: &str) -> impl Iterator<Item = String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(move |(key, _)| key == name).map(|(_, value)| Cow::into_owned(value))
    }
}

async fn next_bytes(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    body.next().await.transpose().map_err(|error| broken(&error))
}

fn broken(error: &BodyError) -> Refusal {
    match error {
        BodyError::TooLarge { .. } => Refusal::new(Code::ManifestTooLarge, error.to_string()),
        BodyError::Content(ProviderError::Storage(_)) => Refusal::new(Code::Internal, error.to_string()),
        _ => Refusal::new(Code::UploadInvalid, error.to_string()),
    }
}
