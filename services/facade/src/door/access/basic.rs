//! Passwords, of which an htpasswd file holds the bcrypt hashes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bcrypt::HashParts;
use tokio::sync::Semaphore;

use super::super::DoorError;
use super::super::watched::{Watched, lines};
use super::remembered::Remembered;
use super::{Refused, VERIFIED_FOR};

/// How many passwords are hashed at a time: it costs a processor a quarter of a second, on purpose.
const HASHED_MAX: usize = 2;

/// How many wait for that; more are refused.
const WAITING_MAX: usize = 64;

/// How often the time that a wrong password took is waited before the next is tried in its place: guessing takes at most a fifth of
/// the processors that passwords may take.
const REST_FACTOR: u32 = 4;

/// The longest wait after a wrong password.
const REST_MAX: Duration = Duration::from_secs(2);

/// How long a password that was wrong is refused without another look.
const WRONG_FOR: Duration = Duration::from_secs(10);

/// The highest cost of a hash; each step doubles what an attempt costs, and this one takes about two seconds.
const COST_MAX: u32 = 15;

/// A name and a password.
pub(super) struct Attempt {
    decoded: String,
    colon: usize,
}

/// The users of an htpasswd file.
pub(super) struct Passwords {
    pub(super) users: Watched<Users>,
    verified: Remembered<Arc<str>>,
    wrong: Remembered<()>,
    hashing: Arc<Semaphore>,
    waiting: Semaphore,
}

pub(super) struct Users(HashMap<String, String>);

impl Attempt {
    /// What follows `Basic` in an `Authorization` header.
    pub(super) fn parse(encoded: &str) -> Option<Self> {
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let colon = decoded.find(':')?;
        Some(Self { decoded, colon })
    }

    pub(super) fn name(&self) -> &str {
        &self.decoded[..self.colon]
    }

    pub(super) fn password(&self) -> &str {
        &self.decoded[self.colon + 1..]
    }
}

impl Passwords {
    pub(super) fn open(path: &Path) -> Result<Self, DoorError> {
        Ok(Self {
            users: Watched::open(vec![path.to_owned()], |paths| Users::read(&paths[0]))?,
            verified: Remembered::new(),
            wrong: Remembered::new(),
            hashing: Arc::new(Semaphore::new(HASHED_MAX)),
            waiting: Semaphore::new(WAITING_MAX),
        })
    }

    /// The name of the user whose password it is.
    pub(super) async fn check(&self, attempt: Attempt) -> Result<Arc<str>, Refused> {
        let (users, edition) = self.users.fresh().await;
        let verified = self.verified.mark(edition, attempt.decoded.as_bytes());
        let wrong = self.wrong.mark(edition, attempt.decoded.as_bytes());
        let known = || {
            if let Some(name) = self.verified.find(&verified) {
                return Some(Ok(name));
            }
            self.wrong.find(&wrong).map(|()| Err(Refused::Credentials))
        };
        if let Some(known) = known() {
            return known;
        }
        let place = self.waiting.try_acquire().map_err(|_| Refused::Busy)?;
        let turn = Arc::clone(&self.hashing).acquire_owned().await.map_err(|_| Refused::Busy)?;
        drop(place);
        // Many clients begin at once with the same password; one of them may have had its turn.
        if let Some(known) = known() {
            return known;
        }
        let name: Arc<str> = attempt.name().into();
        // It ends even when the client is gone, so that nobody gets more turns by leaving.
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            users.check(&attempt)
        });
        if checked.await.map_err(|_| Refused::Busy)? {
            self.verified.keep(verified, Arc::clone(&name), VERIFIED_FOR);
            return Ok(name);
        }
        self.wrong.keep(wrong, (), WRONG_FOR);
        Err(Refused::Credentials)
    }
}

impl Users {
    fn read(path: &Path) -> Result<Self, DoorError> {
        let mut users = Self(HashMap::new());
        lines(path, |line| users.take(line))?;
        Ok(users)
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let (name, hash) = line.split_once(':').ok_or("is not NAME:HASH")?;
        if name.is_empty() {
            return Err("has no name".to_owned());
        }
        if !["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)) {
            return Err("is no bcrypt hash, as htpasswd -B makes it".to_owned());
        }
        let parts: HashParts = hash.parse().map_err(|_| "is a bcrypt hash that is damaged")?;
        if !(4..=COST_MAX).contains(&parts.get_cost()) {
            return Err(format!("has a cost that is not between 4 and {COST_MAX}"));
        }
        if self.0.insert(name.to_owned(), hash.to_owned()).is_some() {
            return Err("has a name that stands further up, too".to_owned());
        }
        Ok(())
    }

    /// Whether the password is right; takes its time when it is not.
    fn check(&self, attempt: &Attempt) -> bool {
        let begun = Instant::now();
        let known = self.0.get(attempt.name());
        // An unknown name takes as long as a wrong password.
        let hash = known.or_else(|| self.0.values().next());
        let is_right = hash.is_some_and(|hash| bcrypt::verify(attempt.password(), hash).unwrap_or(false));
        if known.is_some() && is_right {
            return true;
        }
        std::thread::sleep((begun.elapsed() * REST_FACTOR).min(REST_MAX));
        false
    }
}
