//! Where the service is reached: on loopback or on a unix socket, and nowhere else.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::either::Either;
use tonic::transport::server::Connected;

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// How long to wait when a connection cannot be accepted, for want of file descriptors mostly.
const BREATHER: Duration = Duration::from_millis(100);
/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Where the content service listens: `127.0.0.1:5051` or another loopback address, or `unix:///run/larder/content.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ContentListen(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Loopback(SocketAddr),
    Socket(PathBuf),
}

/// Why the content service cannot listen at an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Others than this machine would reach it.
    #[error(
        "{0} is not loopback: the content service asks nobody who he is, so it listens on loopback \
         (127.0.0.1:5051) or on a unix socket (unix:///run/larder/content.sock) only"
    )]
    Public(SocketAddr),
    /// It is no address.
    #[error("{0:?} is neither an address with a port (127.0.0.1:5051) nor unix:// with an absolute path")]
    Malformed(String),
}

impl Default for ContentListen {
    fn default() -> Self {
        Self(Place::Loopback(SocketAddr::from(([127, 0, 0, 1], 5051))))
    }
}

impl FromStr for ContentListen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let malformed = || ListenError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path.strip_prefix("//").unwrap_or(path));
            let is_file = path.is_absolute() && path.file_name().is_some();
            return if is_file { Ok(Self(Place::Socket(path.to_owned()))) } else { Err(malformed()) };
        }
        let address: SocketAddr = text.parse().map_err(|_| malformed())?;
        if address.ip().is_loopback() {
            Ok(Self(Place::Loopback(address)))
        } else {
            Err(ListenError::Public(address))
        }
    }
}

impl TryFrom<String> for ContentListen {
    type Error = ListenError;

    fn try_from(text: String) -> Result<Self, ListenError> {
        text.parse()
    }
}

impl fmt::Display for ContentListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Loopback(address) => address.fmt(f),
            Place::Socket(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl ContentListen {
    /// The address in use, and who connects to it.
    pub(super) async fn open(&self) -> io::Result<(String, BoxStream<'static, io::Result<Connection>>)> {
        let (address, listener) = match &self.0 {
            Place::Loopback(address) => {
                let listener = TcpListener::bind(address).await?;
                (listener.local_addr()?.to_string(), Listener::Tcp(listener))
            }
            Place::Socket(path) => (self.to_string(), Listener::Unix(bind(path).await?)),
        };
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = stream::unfold((listener, places), async |(listener, places)| {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            let io = listener.accept().await;
            Some((Ok(Connection { io, _place: place }), (listener, places)))
        });
        Ok((address, connections.boxed()))
    }
}

/// Binds a unix socket that only owner and group reach from its first moment on. One that nobody listens to any more is replaced.
async fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket has this name"));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(io::Error::new(ErrorKind::AddrInUse, "another process listens to this socket"));
        }
        Ok(_) => {}
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    // One of this very name was left by a process that is gone.
    let _ = fs::remove_file(&aside);
    let listener = UnixListener::bind(&aside)?;
    let published = fs::set_permissions(&aside, Permissions::from_mode(SOCKET_MODE));
    if let Err(error) = published.and_then(|()| fs::rename(&aside, path)) {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    Ok(listener)
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> Either<TcpStream, UnixStream> {
        loop {
            let accepted = match self {
                Self::Tcp(listener) => listener.accept().await.and_then(|(stream, _)| {
                    stream.set_nodelay(true)?;
                    Ok(Either::Left(stream))
                }),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Either::Right(stream)),
            };
            match accepted {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the content service");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }
}

/// One of the connections there is place for.
pub(super) struct Connection {
    io: Either<TcpStream, UnixStream>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, ListenError> {
        text.parse().map(|listen: ContentListen| listen.to_string())
    }

    #[test]
    fn only_this_machine_can_reach_it() {
        for address in ["127.0.0.1:5051", "127.0.0.2:0", "[::1]:5051", "unix:///run/larder.sock"] {
            assert_eq!(parse(address), Ok(address.to_owned()));
        }
        assert_eq!(parse("unix:/run/larder.sock"), Ok("unix:///run/larder.sock".to_owned()));
        for address in ["0.0.0.0:5051", "192.0.2.1:5051", "[::]:5051"] {
            assert!(matches!(parse(address), Err(ListenError::Public(_))), "{address}");
        }
        for address in ["", "5051", "localhost:5051", "unix:", "unix://run.sock", "unix:///"] {
            assert!(matches!(parse(address), Err(ListenError::Malformed(_))), "{address}");
        }
    }

    #[tokio::test]
    async fn socket_is_for_owner_and_group_and_replaces_only_one_that_nobody_listens_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("content.sock");
        let listener = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert_eq!(bind(&path).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(listener);
        bind(&path).await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(bind(&file).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }
}
