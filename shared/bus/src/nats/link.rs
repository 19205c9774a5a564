//! The state of the connection, as those who wait on it see it.

use tokio::sync::watch;

/// Tells whether the server can be heard, and whether we still want to hear it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) up: bool,
    pub(super) closed: bool,
    /// Rises without waking anybody.
    pub(super) news_missed: u64,
}

impl Link {
    /// A link that is up: nobody sees it before the first connection stands.
    pub(super) fn new() -> watch::Sender<Self> {
        watch::Sender::new(Self { up: true, closed: false, news_missed: 0 })
    }

    /// Wakes waiters only when something changed, so that the greeting of the first connection disturbs nobody.
    pub(super) fn set_up(link: &watch::Sender<Self>, up: bool) {
        link.send_if_modified(|link| std::mem::replace(&mut link.up, up) != up);
    }

    pub(super) fn close(link: &watch::Sender<Self>) {
        link.send_if_modified(|link| !std::mem::replace(&mut link.closed, true));
    }
}
