//! Uploads: `POST`, `PATCH`, `PUT`, `GET` and `DELETE` below `/v2/<name>/blobs/uploads/`.
//!
//! What comes in pieces is kept as parts in the store, so that any facade can go on with an upload that another one began.

use http::header::{CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use http::{HeaderValue, Response, StatusCode};
use larder_blobs::{BlobError, Upload};
use larder_oci::{Algorithm, Digest};
use uuid::Uuid;

use super::place::Place;
use super::reply::{CONTENT_DIGEST, Code, Refusal, empty, header};
use super::route::parse_digest;
use super::{Asked, Distribution, next_bytes};
use crate::door::Body;
use crate::error::{blob_error, chain};

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Distribution {
    /// `POST`: mounts a blob, takes a whole one, or begins an upload.
    pub(super) async fn begin_upload(
        &self,
        asked: Asked<'_>,
        place: &Place,
        body: Body,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(digest) = asked.query("mount") {
            let digest = parse_digest(&digest)?;
            if self.mount(&asked, place, &digest).await? {
                return Ok(created(place, &digest));
            }
        } else if let Some(digest) = asked.query("digest") {
            let digest = parse_digest(&digest)?;
            self.take_whole(body, place, &digest).await?;
            return Ok(created(place, &digest));
        }
        let id = Uuid::now_v7().simple().to_string();
        let begun = self.facade.blobs.uploads().begin(&id, &place.repository).await;
        let upload = begun.map_err(|error| refused(&error))?;
        let upload = upload.ok_or_else(|| Refusal::new(Code::Internal, "two uploads have one id"))?;
        Ok(progress(place, &upload, StatusCode::ACCEPTED))
    }

    /// Makes a blob of another repository one of this, if it is here; without one, whichever repository it is of.
    async fn mount(&self, asked: &Asked<'_>, place: &Place, digest: &Digest) -> Result<bool, Refusal> {
        let may = match asked.query("from") {
            Some(from) => {
                let from = Place::find(&self.config, &from, place.ns.as_deref())?;
                self.access.allows(asked.caller, crate::door::access::Action::Pull, &from.repository)
                    && self.prove(asked.caller, &from, digest, Code::BlobUnknown).await.is_ok()
            }
            None => self.access.may_pull_everything(asked.caller),
        };
        if !may {
            return Ok(false);
        }
        // As if it had been written again: whoever mounts it relies on it.
        match self.facade.blobs.touch(digest).await {
            Ok(()) => {
                self.link(place, digest).await?;
                Ok(true)
            }
            Err(BlobError::NotFound(_)) => Ok(false),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Takes a blob that comes in one piece, under a digest that is known before.
    async fn take_whole(&self, mut body: Body, place: &Place, digest: &Digest) -> Result<(), Refusal> {
        let drafted = self.facade.blobs.draft_for(digest.algorithm()).await;
        let mut draft = drafted.map_err(|error| refused(&error))?;
        while let Some(bytes) = next_bytes(&mut body).await? {
            draft.write(bytes).await.map_err(|error| refused(&error))?;
        }
        draft.commit(Some(digest)).await.map_err(|error| refused(&error))?;
        self.link(place, digest).await
    }

    /// `PATCH`: takes a piece. What came of one that breaks off is kept.
    pub(super) async fn append_upload(
        &self,
        asked: Asked<'_>,
        place: &Place,
        id: &str,
        body: Body,
    ) -> Result<Response<Body>, Refusal> {
        let upload = self.upload(place, id).await?;
        let upload = self.append(asked, place, upload, body, Algorithm::Sha256).await?;
        Ok(progress(place, &upload, StatusCode::ACCEPTED))
    }

    async fn append(
        &self,
        asked: Asked<'_>,
        place: &Place,
        upload: Upload,
        mut body: Body,
        algorithm: Algorithm,
    ) -> Result<Upload, Refusal> {
        let length = refuse_gap(&asked, place, &upload)?;
        let part = self.facade.blobs.uploads().append(&upload, algorithm).await;
        let mut part = part.map_err(|error| refused(&error))?;
        let broke = loop {
            match next_bytes(&mut body).await {
                Ok(Some(bytes)) => part.write(bytes).await.map_err(|error| refused(&error))?,
                Ok(None) => break None,
                Err(refusal) => break Some(refusal),
            }
        };
        let written = part.written();
        if broke.is_some() && written == 0 {
            return broke.map_or(Ok(upload), Err);
        }
        let upload = match part.finish().await {
            Ok(upload) => upload,
            Err(BlobError::Overtaken { .. }) => {
                let upload = self.upload(place, &upload.id).await?;
                return Err(out_of_order(place, &upload));
            }
            Err(error) => return Err(refused(&error)),
        };
        if let Some(refusal) = broke {
            return Err(refusal);
        }
        if length.is_some_and(|length| length != written) {
            let message = format!(
                "{written} bytes came, Content-Range says otherwise; the upload is at {}",
                upload.size
            );
            return Err(Refusal::new(Code::SizeInvalid, message));
        }
        Ok(upload)
    }

    /// `PUT`: takes the last piece, if there is one, and makes the upload a blob.
    pub(super) async fn finish_upload(
        &self,
        asked: Asked<'_>,
        place: &Place,
        id: &str,
        body: Body,
    ) -> Result<Response<Body>, Refusal> {
        let Some(digest) = asked.query("digest") else {
            return Err(Refusal::new(Code::DigestInvalid, "?digest= is missing"));
        };
        let digest = parse_digest(&digest)?;
        let mut upload = self.upload(place, id).await?;
        let uploads = self.facade.blobs.uploads();
        if upload.size == 0 && !asked.headers.contains_key(CONTENT_RANGE) {
            self.take_whole(body, place, &digest).await?;
            uploads.abort(id).await.map_err(|error| refused(&error))?;
            return Ok(created(place, &digest));
        }
        if body.size() != Some(0) {
            upload = self.append(asked, place, upload, body, digest.algorithm()).await?;
        }
        uploads.commit(upload, &digest, None).await.map_err(|error| refused(&error))?;
        self.link(place, &digest).await?;
        Ok(created(place, &digest))
    }

    pub(super) async fn show_upload(&self, place: &Place, id: &str) -> Result<Response<Body>, Refusal> {
        let upload = self.upload(place, id).await?;
        Ok(progress(place, &upload, StatusCode::NO_CONTENT))
    }

    pub(super) async fn abort_upload(&self, place: &Place, id: &str) -> Result<Response<Body>, Refusal> {
        self.upload(place, id).await?;
        self.facade.blobs.uploads().abort(id).await.map_err(|error| refused(&error))?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn upload(&self, place: &Place, id: &str) -> Result<Upload, Refusal> {
        let unknown = || Refusal::new(Code::UploadUnknown, "there is no such upload (any more)");
        if Uuid::try_parse(id).is_err() {
            return Err(unknown());
        }
        let found = self.facade.blobs.uploads().find(id).await.map_err(|error| refused(&error))?;
        found.filter(|upload| upload.note == place.repository).ok_or_else(unknown)
    }
}

/// Refuses a piece that does not begin where the upload ends, and says how long one of known ends is.
fn refuse_gap(asked: &Asked<'_>, place: &Place, upload: &Upload) -> Result<Option<u64>, Refusal> {
    let Some(range) = asked.header(&CONTENT_RANGE) else {
        return Ok(None);
    };
    let ends = range.trim_start_matches("bytes ").trim_start_matches("bytes=");
    let ends = ends.split('/').next().unwrap_or(ends).split_once('-');
    let ends = ends.and_then(|(first, last)| {
        Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?))
    });
    let Some((first, last)) = ends.filter(|(first, last)| first <= last) else {
        return Err(Refusal::new(Code::UploadInvalid, "Content-Range is not <first>-<last>"));
    };
    if first != upload.size {
        return Err(out_of_order(place, upload));
    }
    Ok(Some(last - first + 1))
}

fn out_of_order(place: &Place, upload: &Upload) -> Refusal {
    let message = format!("the upload goes on at byte {}", upload.size);
    let refusal = Refusal::new(Code::RangeInvalid, message);
    headers(place, upload).into_iter().fold(refusal, |refusal, (name, value)| refusal.with(name, value))
}

fn headers(place: &Place, upload: &Upload) -> [(HeaderName, HeaderValue); 3] {
    let location = header(&place.path_of(&format!("blobs/uploads/{}", upload.id)));
    let range = header(&format!("0-{}", upload.size.saturating_sub(1)));
    [(LOCATION, location), (RANGE, range), (UPLOAD_UUID, header(&upload.id))]
}

fn progress(place: &Place, upload: &Upload, status: StatusCode) -> Response<Body> {
    let mut response = empty(status);
    response.headers_mut().extend(headers(place, upload));
    response
}

fn created(place: &Place, digest: &Digest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(&place.path_of(&format!("blobs/{digest}"))));
    headers.insert(CONTENT_DIGEST, header(digest.as_str()));
    response
}

fn refused(error: &BlobError) -> Refusal {
    match error {
        BlobError::Corrupt { .. } => Refusal::new(Code::DigestInvalid, chain(error)),
        BlobError::WrongSize { .. } => Refusal::new(Code::SizeInvalid, chain(error)),
        // The parts of an upload that nobody went on with for long are collected.
        BlobError::NotFound(_) | BlobError::UploadNotFound(_) => {
            Refusal::new(Code::UploadUnknown, "parts of the upload were collected; begin anew")
        }
        BlobError::UploadRefused { .. } => Refusal::new(Code::UploadInvalid, chain(error)),
        error => Refusal::of(&blob_error(error), Code::UploadUnknown),
    }
}
