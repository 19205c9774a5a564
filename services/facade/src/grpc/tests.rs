use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use larder_blobs::Blobs;
use larder_catalog::Catalog;
use larder_containerd_api::content::content_client::ContentClient;
use larder_containerd_api::content::{
    InfoRequest, ReadContentRequest, StatusRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use larder_oci::Digest;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::*;

/// A directory, and the processes that share it.
struct World {
    folder: TempDir,
}

/// One of these processes, as a client sees it.
struct Process {
    runtime: Runtime,
    client: ContentClient<Channel>,
    blobs: Blobs,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn start(&self, listen: &str) -> Process {
        let store = self.path("store");
        let (blobs, catalog) = (Blobs::on_disk(&store).unwrap(), Catalog::on_disk(&store).await.unwrap());
        let bus = larder_bus::open("mem:", &larder_bus::Config::default()).await.unwrap();
        let runtime = Runtime::new(bus);
        let service = Service::new(runtime.clone(), blobs.clone(), catalog, true);
        let address = start(&listen.parse().unwrap(), service).await.unwrap();
        let address = if address.starts_with("unix:") { address } else { format!("http://{address}") };
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let client = ContentClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Process { runtime, client, blobs }
    }

    async fn start_on_socket(&self, name: &str) -> Process {
        self.start(&format!("unix://{}", self.path(name).display())).await
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "test".parse().unwrap());
    request
}

/// A conversation about a ref.
struct Talk {
    requests: mpsc::Sender<WriteContentRequest>,
    replies: Streaming<WriteContentResponse>,
}

impl Talk {
    async fn say(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        self.requests.send(request).await.unwrap();
        self.hear().await
    }

    async fn hear(&mut self) -> Result<WriteContentResponse, Status> {
        Ok(self.replies.message().await?.expect("an answer"))
    }

    /// Says no more, and waits until the other side has none to say either.
    async fn end(self) {
        drop(self.requests);
        assert_eq!(self.replies.count().await, 0);
    }
}

impl Process {
    async fn talk(&self, name: &str) -> Talk {
        let (requests, receiver) = mpsc::channel(1);
        requests.send(message(WriteAction::Stat, name, 0, b"")).await.unwrap();
        let said = futures::stream::unfold(receiver, async |mut said| Some((said.recv().await?, said)));
        let replies = self.client.clone().write(request(said)).await.unwrap().into_inner();
        Talk { requests, replies }
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>, Status> {
        let wanted = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let stream = self.client.clone().read(request(wanted)).await?.into_inner();
        let chunks: Vec<Bytes> = stream.map_ok(|message| message.data).try_collect().await?;
        Ok(chunks.concat())
    }

    async fn offset_of(&self, name: &str) -> Result<i64, Code> {
        let status = self.client.clone().status(request(StatusRequest { r#ref: name.to_owned() })).await;
        status.map(|status| status.into_inner().status.unwrap().offset).map_err(|status| status.code())
    }
}

fn message(action: WriteAction, name: &str, offset: i64, data: &'static [u8]) -> WriteContentRequest {
    let (r#ref, data) = (name.to_owned(), Bytes::from_static(data));
    WriteContentRequest { action: action.into(), r#ref, offset, data, ..WriteContentRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_written_and_read_over_loopback_and_over_a_socket() {
    let world = World::new();
    for (listen, text) in
        [("127.0.0.1:0".to_owned(), &b"tcp"[..]), (format!("unix://{}", world.path("s").display()), b"unix")]
    {
        let process = world.start(&listen).await;
        let mut talk = process.talk("a").await;
        assert_eq!(talk.hear().await.unwrap().offset, 0);
        let committed = talk.say(message(WriteAction::Commit, "", 0, text)).await.unwrap();
        assert_eq!((committed.offset, committed.digest), (signed(text), Digest::of(text).to_string()));
        assert_eq!(process.read(&Digest::of(text)).await.unwrap(), text);
        assert_eq!(process.offset_of("a").await, Err(Code::NotFound));
    }
}

fn signed(text: &[u8]) -> i64 {
    i64::try_from(text.len()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_goes_on_with_what_one_has_begun() {
    let world = World::new();
    let (one, two) = (world.start_on_socket("1").await, world.start_on_socket("2").await);
    let mut talk = one.talk("a").await;
    talk.hear().await.unwrap();
    talk.say(message(WriteAction::Write, "", 0, b"first ")).await.unwrap();
    talk.end().await;
    assert_eq!(two.offset_of("a").await, Ok(6));
    let mut talk = two.talk("a").await;
    let there = talk.hear().await.unwrap();
    assert_eq!((there.offset, there.digest), (6, Digest::of(b"first ").to_string()));
    let committed = talk.say(message(WriteAction::Commit, "", 6, b"second")).await.unwrap();
    assert_eq!(committed.digest, Digest::of(b"first second").to_string());
    assert_eq!(one.read(&Digest::of(b"first second")).await.unwrap(), b"first second");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_that_write_one_ref_the_first_to_end_wins() {
    let world = World::new();
    let (one, two) = (world.start_on_socket("1").await, world.start_on_socket("2").await);
    let (mut first, mut second) = (one.talk("a").await, two.talk("a").await);
    for talk in [&mut first, &mut second] {
        talk.hear().await.unwrap();
    }
    second.say(message(WriteAction::Write, "", 0, b"too late")).await.unwrap();
    first.say(message(WriteAction::Write, "", 0, b"in time")).await.unwrap();
    first.end().await;
    let overtaken = second.say(message(WriteAction::Commit, "", 8, b"")).await.unwrap_err();
    assert_eq!(overtaken.code(), Code::Unavailable, "{overtaken}");
    assert_eq!(two.offset_of("a").await, Ok(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_stops_keeps_what_was_written_for_the_next_one() {
    let world = World::new();
    let process = world.start_on_socket("1").await;
    let mut talk = process.talk("a").await;
    talk.hear().await.unwrap();
    talk.say(message(WriteAction::Write, "", 0, b"kept")).await.unwrap();
    let stopped = process.runtime.clone();
    let (told, ()) = tokio::join!(talk.hear(), stopped.stop(Duration::from_mins(1)));
    assert_eq!(told.unwrap_err().code(), Code::Unavailable);
    let next = world.start_on_socket("1").await;
    assert_eq!(next.offset_of("a").await, Ok(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_goes_away_in_the_middle_leaves_what_it_wrote() {
    let world = World::new();
    let process = world.start_on_socket("1").await;
    let mut talk = process.talk("a").await;
    talk.hear().await.unwrap();
    talk.say(message(WriteAction::Write, "", 0, b"kept")).await.unwrap();
    drop(talk);
    // Until the ref is free again.
    let there = loop {
        match process.talk("a").await.hear().await {
            Ok(there) => break there,
            Err(held) => assert_eq!(held.code(), Code::Unavailable),
        }
    };
    assert_eq!(there.offset, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_content_is_never_read_to_its_end() {
    let world = World::new();
    let process = world.start_on_socket("1").await;
    let digest = Digest::of(b"intact");
    process.blobs.put(&digest, Bytes::from_static(b"intact")).await.unwrap();
    overwrite(&world.path("store").join("blobs/sha256").join(digest.hex()), b"broken");
    assert_eq!(process.read(&digest).await.unwrap_err().code(), Code::DataLoss);
    let wanted = InfoRequest { digest: digest.to_string() };
    assert_eq!(
        process.client.clone().info(request(wanted)).await.unwrap().into_inner().info.unwrap().size,
        6
    );
}

/// As a failing disk would, and a while after the file was written.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "the file goes away with the test")]
    permissions.set_readonly(false);
    std::fs::set_permissions(path, permissions).unwrap();
    std::fs::write(path, bytes).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(1);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
}
