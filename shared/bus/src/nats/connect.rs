//! The way to a server that can carry the bus.

use std::time::Duration;

use async_nats::jetstream::{self, ErrorCode, context::AccountErrorKind};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::address::{Address, Login};
use super::link::Link;
use super::pull::INBOX_MESSAGES_MIN;
use crate::config::Config;
use crate::error::BusError;

/// How long one server may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to pause between two tries, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Doubles from try to try up to the longest pause.
pub(super) fn pause_before(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX)
}

/// Repeats `attempt` until it succeeds, fails for good, or `deadline` is near.
pub(super) async fn persist<T>(
    deadline: Instant,
    mut attempt: impl AsyncFnMut() -> Result<T, BusError>,
) -> Result<T, BusError> {
    for tried in 1.. {
        match attempt().await {
            Err(error) if error.heals() && Instant::now() + pause_before(tried) < deadline => {
                tracing::debug!(%error, tried, "trying again");
                sleep(pause_before(tried)).await;
            }
            outcome => return outcome,
        }
    }
    unreachable!("the deadline comes before the attempts run out")
}

/// Connects, and makes sure that the server is one that can carry the bus.
pub(super) async fn connect(
    address: &Address,
    config: &Config,
    link: &watch::Sender<Link>,
    deadline: Instant,
) -> Result<Client, BusError> {
    let client = persist(deadline, async || {
        let options = options(address, config, link.clone()).await?;
        let attempt = timeout_at(deadline, options.connect(&address.servers[..])).await;
        match attempt {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) if error.kind() == ConnectErrorKind::AuthorizationViolation => {
                Err(BusError::Unauthorized { url: address.shown.clone() })
            }
            Ok(Err(error)) => Err(BusError::Connect { url: address.shown.clone(), source: error.into() }),
            Err(elapsed) => Err(BusError::Connect { url: address.shown.clone(), source: elapsed.into() }),
        }
    })
    .await?;
    if !client.is_server_compatible(2, 10, 0) {
        let version = client.server_info().version;
        return Err(BusError::ServerTooOld { url: address.shown.clone(), version });
    }
    let jetstream = jetstream::new(client.clone());
    persist(deadline, async || check_jetstream(&jetstream, address).await).await?;
    Ok(client)
}

async fn check_jetstream(jetstream: &jetstream::Context, address: &Address) -> Result<(), BusError> {
    let Err(error) = jetstream.query_account().await else {
        return Ok(());
    };
    let told = match error.kind() {
        AccountErrorKind::JetStream(error) => {
            [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT]
                .contains(&error.error_code())
        }
        AccountErrorKind::JetStreamUnavailable => !jetstream.client().server_info().jetstream,
        _ => false,
    };
    if told {
        return Err(BusError::JetStreamMissing { url: address.shown.clone() });
    }
    Err(BusError::nats("reach jetstream", error))
}

async fn options(
    address: &Address,
    config: &Config,
    link: watch::Sender<Link>,
) -> Result<ConnectOptions, BusError> {
    let shown = address.shown.clone();
    let mut options = ConnectOptions::new()
        .name("larder")
        .connection_timeout(GREETING_TIMEOUT)
        .request_timeout(Some(config.request_timeout()))
        .subscription_capacity(config.news_buffer_max.max(INBOX_MESSAGES_MIN))
        .max_reconnects(None)
        .reconnect_delay_callback(pause_before)
        .require_tls(address.tls)
        .event_callback(move |event| {
            hear(&shown, &link, &event);
            std::future::ready(())
        });
    options = match &address.login {
        Some(Login::Password { user, password }) => options.user_and_password(user.clone(), password.clone()),
        Some(Login::Token(token)) => options.token(token.clone()),
        None => options,
    };
    if let Some(path) = &config.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let Some(path) = &config.credentials_file {
        let unreadable = |source| BusError::File { path: path.clone(), source };
        options = options.credentials_file(path).await.map_err(unreadable)?;
    }
    Ok(options)
}

fn hear(url: &str, link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => Link::set_up(link, true),
        Event::Disconnected => {
            tracing::warn!(url, "bus disconnected, reconnecting");
            Link::set_up(link, false);
        }
        Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
            link.send_if_modified(|link| {
                link.news_missed += 1;
                false
            });
            tracing::debug!(url, "listener lags, news lost");
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::debug!(url, %event, "bus connection");
        }
        Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(url, %event, "bus connection");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause_before(0), PAUSE_MIN);
        assert_eq!(pause_before(2), PAUSE_MIN * 2);
        assert_eq!(pause_before(usize::MAX), PAUSE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_the_deadline_and_at_once_on_what_never_heals() {
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(10);
        let refused: Result<(), _> = persist(deadline, async || Err(BusError::nats("try", "no"))).await;
        assert!(refused.is_err());
        assert!(begun.elapsed() > Duration::from_secs(8) && begun.elapsed() < Duration::from_secs(10));

        let begun = Instant::now();
        let refused: Result<(), _> =
            persist(begun + Duration::from_secs(10), async || Err(BusError::Closed)).await;
        assert!(refused.is_err() && begun.elapsed().is_zero());
    }
}
