//! Dead letters on the server.

use async_nats::HeaderMap;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures::{StreamExt, TryStreamExt};

use super::hub::Hub;
use crate::bus::Letter;
use crate::error::BusError;

const ATTEMPTS: &str = "Larder-Attempts";
const REASON: &str = "Larder-Reason";
/// How many characters of a reason are kept.
const REASON_CHARS_MAX: usize = 500;
/// How many letters are read at once.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Writes the letter of the message that was `sequence` in its stream. A second try within the two minutes in which the server drops doubles
/// leaves one letter.
pub(super) async fn write(hub: &Hub, letter: &Letter, sequence: u64) -> Result<(), BusError> {
    let subject = hub.layout.dead_subject(&letter.queue, &letter.id);
    let message = PublishMessage::build()
        .message_id(format!("{}.{}.{sequence}", letter.queue, letter.id))
        .header(ATTEMPTS, letter.attempts.to_string())
        .header(REASON, one_line(&letter.reason).as_str())
        .payload(letter.payload.clone());
    let written =
        hub.publish(|| hub.layout.dead_stream(), &hub.layout.dead_stream_name(), &subject, message).await;
    written.map_err(|refusal| refusal.into_error("write a dead letter"))
}

/// Reads the newest letters, newest first.
pub(super) async fn read(hub: &Hub, limit: usize) -> Result<Vec<Letter>, BusError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| BusError::nats("read dead letters", error);
    hub.ensure_stream(hub.layout.dead_stream()).await?;
    let stream = hub
        .jetstream
        .get_stream(hub.layout.dead_stream_name())
        .await
        .map_err(|error| failed(error.into()))?;
    let state = &stream.cached_info().state;
    // A stream that never held a message begins at 0, which no message has.
    let sequences = (state.first_sequence.max(1)..=state.last_sequence).rev().take(limit);
    let read = futures::stream::iter(sequences).map(|sequence| stream.get_raw_message(sequence));
    let letters = read.buffered(READS_IN_FLIGHT_MAX).map(|read| match read {
        Ok(message) => Ok(letter(message)),
        // It made room for newer ones meanwhile.
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed(error.into())),
    });
    letters.try_filter_map(async |letter| Ok(letter)).try_collect().await
}

/// Reads a letter back; `None` for what no bus wrote.
fn letter(message: StreamMessage) -> Option<Letter> {
    let mut tokens = message.subject.rsplit('.');
    let (id, queue) = (tokens.next()?.parse().ok()?, tokens.next()?.to_owned());
    Some(Letter {
        queue,
        id,
        attempts: header(&message.headers, ATTEMPTS).parse().ok()?,
        reason: header(&message.headers, REASON).to_owned(),
        payload: message.payload,
        time: message.time.into(),
    })
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.as_str())
}

/// A header is one line; a reason is whatever went wrong.
fn one_line(reason: &str) -> String {
    let visible = |character: char| {
        if character.is_control() { ' ' } else { character }
    };
    reason.chars().take(REASON_CHARS_MAX).map(visible).collect()
}
