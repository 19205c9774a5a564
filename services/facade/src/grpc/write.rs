//! The conversation in which content is written: one ref, message by message, until it is committed or left for later.
//!
//! What is left for later is a part of an upload, and so a blob of its own: its bytes are content under their own digest from then
//! on, as if somebody had committed them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use larder_blobs::{Part, Upload};
use larder_containerd_api::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use larder_oci::{Algorithm, Digest, Digester};
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

use super::fault::{self, blob_fault, commit_fault};
use super::info::Relabel;
use super::ingests::{Held, Note, Ref, signed};
use super::namespace::Namespace;
use super::service::Service;

/// How long a client may keep a ref to itself without a word.
const SILENCE_MAX: Duration = Duration::from_hours(1);
/// What is hashed without another thread, in bytes: about what a switch of threads takes.
const TINY_BYTES_MAX: usize = 64 << 10;
/// How often an upload is looked for when others begin and end it at the same time.
const TRIES_MAX: usize = 8;

pub(super) type Reply = Result<WriteContentResponse, Status>;

/// A ref while it is written.
struct Writer {
    service: Service,
    namespace: Namespace,
    held: Held,
    note: Note,
    /// What was written before, and is in the store.
    upload: Upload,
    /// What this conversation writes.
    part: Option<Part>,
    algorithm: Algorithm,
    /// Of all bytes so far.
    digester: Digester,
    /// What the upload was when it was found: that the store has these bytes does not say that anybody has committed them.
    found: Option<Digest>,
    started: SystemTime,
    updated: SystemTime,
    total: u64,
    expected: Option<Digest>,
}

/// Answers `requests` on `replies` until one of both sides has no more to say.
pub(super) async fn converse(
    service: Service,
    namespace: Namespace,
    mut requests: Streaming<WriteContentRequest>,
    replies: Sender<Reply>,
) {
    let opened = async {
        let Some(first) = requests.message().await? else { return Ok(None) };
        let writer = Writer::open(service, namespace, &first).await?;
        Ok::<_, Status>(Some((writer, first)))
    };
    let last = match opened.await {
        Ok(None) => return,
        Ok(Some((mut writer, first))) => {
            let last = writer.answer_all(first, &mut requests, &replies).await;
            // Before the last word: whoever hears it may begin anew at once.
            match (writer.leave().await, last) {
                (Err(error), Ok(_)) => Err(error),
                (_, last) => last,
            }
        }
        Err(refused) => Err(refused),
    };
    if let Some(last) = last.transpose() {
        // Who has gone hears nothing.
        let _ = replies.send(last).await;
    }
}

impl Writer {
    async fn open(
        service: Service,
        namespace: Namespace,
        first: &WriteContentRequest,
    ) -> Result<Self, Status> {
        if first.r#ref.is_empty() {
            return Err(Status::invalid_argument("first message must have a reference"));
        }
        let expected = digest_of(first)?;
        if !service.is_writable() {
            // That it is there already is all that most writers want to know.
            service.refuse_present(expected.as_ref()).await?;
            service.refuse_read_only("write")?;
        }
        let of = Ref::new(&namespace, &first.r#ref)?;
        let held = service.ingests.hold(&of)?;
        let note = Note { of, total: unsigned(first.total), expected: expected.clone() };
        let upload = match find_upload(&service, &held, &note).await? {
            Some(upload) => upload,
            None => {
                service.refuse_present(expected.as_ref()).await?;
                begin_upload(&service, &held, &note).await?
            }
        };
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let mut digester = Digester::new(algorithm);
        let mut bytes = service.ingests.uploads.read(&upload);
        while let Some(chunk) = bytes.try_next().await.map_err(|error| blob_fault(&error))? {
            digester = hashed(digester, chunk).await?;
        }
        let found = (upload.size > 0).then(|| digester.clone().finish());
        let (started, updated, total) = (upload.begun, upload.updated, note.total);
        held.report(upload.size, updated);
        let part = None;
        Ok(Self {
            service,
            namespace,
            held,
            note,
            upload,
            part,
            algorithm,
            digester,
            found,
            started,
            updated,
            total,
            expected,
        })
    }

    /// Gives the last answer, if that is one that was not sent.
    async fn answer_all(
        &mut self,
        first: WriteContentRequest,
        requests: &mut Streaming<WriteContentRequest>,
        replies: &Sender<Reply>,
    ) -> Result<Option<WriteContentResponse>, Status> {
        let (aborted, stopping) = (self.held.aborted(), self.service.runtime.stopping());
        let mut next = first;
        loop {
            let is_last = next.action() == WriteAction::Commit;
            let reply = self.answer(next).await?;
            if is_last {
                return Ok(Some(reply));
            }
            if replies.send(Ok(reply)).await.is_err() {
                return Ok(None);
            }
            next = tokio::select! {
                message = requests.message() => match message? {
                    Some(message) => message,
                    None => return Ok(None),
                },
                () = aborted.cancelled() => {
                    self.part = None;
                    return Err(Status::aborted("the write was aborted"));
                }
                () = stopping.cancelled() => return Err(Status::unavailable("stopping: write on later")),
                () = tokio::time::sleep(SILENCE_MAX) => {
                    return Err(Status::deadline_exceeded("nothing was written for too long: write on later"));
                }
            };
        }
    }

    async fn answer(&mut self, request: WriteContentRequest) -> Reply {
        if let Some(expected) = digest_of(&request)? {
            if self.found.as_ref() != Some(&expected)
                && let Err(there) = self.service.refuse_present(Some(&expected)).await
            {
                self.discard().await?;
                return Err(there);
            }
            self.expected = Some(expected);
        }
        if request.total > 0 {
            self.total = unsigned(request.total);
        }
        let action = request.action();
        let mut digest = self.digest();
        if action != WriteAction::Stat {
            self.move_to(unsigned(request.offset)).await?;
            self.take(request.data).await?;
            digest = self.digest();
        }
        let offset = self.offset();
        if action == WriteAction::Commit {
            digest = self.commit(digest, request.labels).await?;
        }
        Ok(WriteContentResponse {
            action: action.into(),
            started_at: Some(self.started.into()),
            updated_at: Some(self.updated.into()),
            offset: signed(offset),
            total: signed(self.total),
            digest: digest.to_string(),
        })
    }

    fn offset(&self) -> u64 {
        self.upload.size + self.part.as_ref().map_or(0, Part::written)
    }

    fn digest(&self) -> Digest {
        self.digester.clone().finish()
    }

    /// Sees to it that the next bytes are those at `offset`: where the last ones ended, or the first ones once more.
    async fn move_to(&mut self, offset: u64) -> Result<(), Status> {
        let current = self.offset();
        if offset > 0 && offset != current {
            let message = format!("write @{offset} must occur at current offset {current}");
            return Err(Status::out_of_range(message));
        }
        if offset == current {
            return Ok(());
        }
        self.part = None;
        if self.upload.size > 0 {
            self.discard().await?;
            self.upload = begin_upload(&self.service, &self.held, &self.note).await?;
        }
        self.digester = Digester::new(self.algorithm);
        self.moved();
        Ok(())
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), Status> {
        if bytes.is_empty() {
            return Ok(());
        }
        let part = match &mut self.part {
            Some(part) => part,
            none => {
                let part = self.service.ingests.uploads.append(&self.upload, self.algorithm).await;
                none.insert(part.map_err(|error| blob_fault(&error))?)
            }
        };
        let hash = hashed(self.digester.clone(), bytes.clone());
        let (written, hash) = tokio::join!(part.write(bytes), hash);
        written.map_err(|error| blob_fault(&error))?;
        self.digester = hash?;
        self.moved();
        Ok(())
    }

    fn moved(&mut self) {
        self.updated = SystemTime::now();
        self.held.report(self.offset(), self.updated);
    }

    /// Makes what was written content, and returns what it is called.
    async fn commit(&mut self, digest: Digest, labels: HashMap<String, String>) -> Result<Digest, Status> {
        let size = self.offset();
        if self.total > 0 && self.total != size {
            let message = format!("unexpected commit size {size}, expected {}", self.total);
            return Err(Status::failed_precondition(message));
        }
        let wanted = self.expected.clone().unwrap_or_else(|| digest.clone());
        // Of another algorithm the store finds out.
        if wanted.algorithm() == digest.algorithm() && wanted != digest {
            let message = format!("unexpected commit digest {digest}, expected {wanted}");
            return Err(Status::failed_precondition(message));
        }
        let relabel = if labels.is_empty() { None } else { Some(Relabel::masked(labels, &[])?) };
        if self.found.as_ref() != Some(&wanted)
            && let Err(there) = self.service.refuse_present(Some(&wanted)).await
        {
            self.discard().await?;
            return Err(there);
        }
        self.leave_part().await?;
        let uploads = &self.service.ingests.uploads;
        let committed = uploads.commit(self.upload.clone(), &wanted, Some(size)).await;
        committed.map_err(|error| commit_fault(&error))?;
        // Nothing is committed before somebody says so, however long its bytes have been there.
        self.service.blobs.touch(&wanted).await.map_err(|error| blob_fault(&error))?;
        if let Some(relabel) = relabel {
            relabel.apply(&self.service.catalog, &self.namespace, &wanted).await?;
        }
        Ok(wanted)
    }

    /// Forgets all that was written under the ref.
    async fn discard(&mut self) -> Result<(), Status> {
        self.part = None;
        let aborted = self.service.ingests.uploads.abort(&self.held.id).await;
        aborted.map(drop).map_err(|error| blob_fault(&error))
    }

    /// Ends the conversation; what was written stays for the next one.
    async fn leave(mut self) -> Result<(), Status> {
        self.leave_part().await
    }

    async fn leave_part(&mut self) -> Result<(), Status> {
        if let Some(part) = self.part.take() {
            self.upload = part.finish().await.map_err(|error| blob_fault(&error))?;
        }
        Ok(())
    }
}

/// The upload of a ref, unless there is none or it was to have another size.
async fn find_upload(service: &Service, held: &Held, note: &Note) -> Result<Option<Upload>, Status> {
    let uploads = &service.ingests.uploads;
    let found = uploads.find(&held.id).await.map_err(|error| blob_fault(&error))?;
    let Some(upload) = found else { return Ok(None) };
    let total = Note::of(&upload).map_or(0, |found| found.total);
    if total == 0 || note.total == 0 || total == note.total {
        return Ok(Some(upload));
    }
    uploads.abort(&held.id).await.map_err(|error| blob_fault(&error))?;
    Ok(None)
}

/// A new upload for a ref, or that of another process which was faster.
async fn begin_upload(service: &Service, held: &Held, note: &Note) -> Result<Upload, Status> {
    let note_json = note.to_json();
    for _ in 0..TRIES_MAX {
        let begun = service.ingests.uploads.begin(&held.id, &note_json).await;
        if let Some(upload) = begun.map_err(|error| blob_fault(&error))? {
            return Ok(upload);
        }
        if let Some(upload) = find_upload(service, held, note).await? {
            return Ok(upload);
        }
    }
    Err(Status::unavailable("others keep beginning and ending this write"))
}

fn digest_of(request: &WriteContentRequest) -> Result<Option<Digest>, Status> {
    if request.expected.is_empty() { Ok(None) } else { fault::digest(&request.expected).map(Some) }
}

/// Takes the next bytes into a hash.
async fn hashed(mut digester: Digester, bytes: Bytes) -> Result<Digester, Status> {
    if bytes.len() <= TINY_BYTES_MAX {
        digester.update(&bytes);
        return Ok(digester);
    }
    let hash = tokio::task::spawn_blocking(move || {
        digester.update(&bytes);
        digester
    });
    hash.await.map_err(|_| Status::unavailable("interrupted"))
}

/// What is negative says nothing.
fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}
