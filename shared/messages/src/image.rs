//! Facts about images, from wish to name.

use larder_oci::{Descriptor, Digest, Expected, OnLocal, Platform, PlatformSet, Reference};
use serde::{Deserialize, Serialize};

use crate::name::token;
use crate::{Announcement, Fact, News, Reason, WishRejected, Work};

/// Names a wish for an image: equal wishes have equal ids, so that a thousand clients' wish is one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WantedId(String);

impl WantedId {
    fn of(wish: &str) -> Self {
        Self(Digest::of(wish.as_bytes()).hex()[..32].to_owned())
    }

    /// The id as a bus token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Somebody wants an image in the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageWanted {
    /// Which.
    pub reference: Reference,
    /// For which platforms.
    pub platforms: PlatformSet,
    /// What the cache has under this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Descriptor>,
    /// Whether upstream is to be asked if that is still so.
    #[serde(default)]
    pub revalidate: bool,
    /// Whether the manifest that the reference points to is enough; what hangs on it comes when it is asked for.
    #[serde(default)]
    pub shallow: bool,
    /// What happens to a name that was written here.
    #[serde(default)]
    pub local: OnLocal,
}

/// How much of an image must be stored before it gets a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Everything that belongs to the wanted platforms.
    #[default]
    Whole,
    /// Children of indexes may be missing, as long as one image is whole.
    Sparse,
    /// The manifest that the name points to; the rest can be had from upstream, or is not expected to be here.
    Root,
}

/// How a name comes to point to an image once that is verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Naming {
    /// It is what upstream has.
    Pulled {
        /// What happens to a name that was written here.
        local: OnLocal,
    },
    /// It was written here, and replaces what the name pointed to.
    Written {
        /// What the name must point to before.
        expected: Expected,
    },
    /// It is an index that was written here; its children go into the index that the name points to.
    Merged {
        /// What the name must point to before.
        expected: Expected,
    },
}

impl Default for Naming {
    fn default() -> Self {
        Self::Pulled { local: OnLocal::default() }
    }
}

impl ImageWanted {
    /// The id of this wish.
    pub fn wanted_id(&self) -> WantedId {
        let known = self.known.as_ref().map(|known| &known.digest);
        let Self { reference, platforms, revalidate, shallow, local, .. } = self;
        WantedId::of(&format!("{reference}\n{platforms}\n{known:?}\n{revalidate}\n{shallow}\n{local:?}"))
    }
}

impl Fact for ImageWanted {
    const NAME: &'static str = "ImageWanted";
}

impl Work for ImageWanted {
    fn id(&self) -> String {
        self.wanted_id().0
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        ImageRejected::announce(&self.wanted_id(), &self.reference, reason)
    }
}

/// What bringing an image in has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Blobs and manifests of the image.
    pub blobs: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// How many of them came from upstream for this wish.
    pub fetched_blobs: u64,
    /// Bytes received from upstream for them.
    pub fetched_bytes: u64,
}

macro_rules! image_work {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub struct $name {
            /// The wish this answers.
            pub wanted: WantedId,
            /// The image.
            pub reference: Reference,
            /// What the reference points to.
            pub root: Descriptor,
            /// The platforms that are there.
            pub platforms: PlatformSet,
            /// How much of it must be there.
            #[serde(default)]
            pub reach: Reach,
            /// How it gets its name.
            #[serde(default)]
            pub naming: Naming,
            /// What it took.
            pub fetched: Fetched,
        }

        impl Fact for $name {
            const NAME: &'static str = stringify!($name);
        }
    };
}

image_work! {
    /// All blobs of an image are stored; it has no name yet.
    ImageStored
}
image_work! {
    /// An image was judged and found whole.
    ImageVerified
}
image_work! {
    /// An image has its name in the catalog.
    ImageIndexed
}

impl ImageStored {
    /// What was written here, to be judged and then named.
    pub fn written(reference: Reference, root: Descriptor, reach: Reach, naming: Naming) -> Self {
        let wanted = WantedId::of(&format!("{reference}\n{}\n{reach:?}\n{naming:?}", root.digest));
        let (platforms, fetched) = (PlatformSet::All, Fetched::default());
        Self { wanted, reference, root, platforms, reach, naming, fetched }
    }
}

impl Work for ImageStored {
    fn id(&self) -> String {
        self.wanted.0.clone()
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        ImageRejected::announce(&self.wanted, &self.reference, reason)
    }
}

impl Work for ImageVerified {
    fn id(&self) -> String {
        self.wanted.0.clone()
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        ImageRejected::announce(&self.wanted, &self.reference, reason)
    }
}

impl From<ImageStored> for ImageVerified {
    fn from(stored: ImageStored) -> Self {
        let ImageStored { wanted, reference, root, platforms, reach, naming, fetched } = stored;
        Self { wanted, reference, root, platforms, reach, naming, fetched }
    }
}

impl From<ImageVerified> for ImageIndexed {
    fn from(verified: ImageVerified) -> Self {
        let ImageVerified { wanted, reference, root, platforms, reach, naming, fetched } = verified;
        Self { wanted, reference, root, platforms, reach, naming, fetched }
    }
}

impl News for ImageIndexed {
    fn key(&self) -> Option<String> {
        Some(self.wanted.0.clone())
    }
}

/// A wish for an image cannot be granted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRejected {
    /// The wish this answers.
    pub wanted: WantedId,
    /// The image.
    pub reference: Reference,
    /// Why.
    pub reason: Reason,
}

impl ImageRejected {
    fn announce(wanted: &WantedId, reference: &Reference, reason: Reason) -> Announcement {
        Announcement::of(&Self { wanted: wanted.clone(), reference: reference.clone(), reason })
    }
}

impl Fact for ImageRejected {
    const NAME: &'static str = "ImageRejected";
}

impl News for ImageRejected {
    fn key(&self) -> Option<String> {
        Some(self.wanted.0.clone())
    }
}

/// Somebody wants to know what upstream has under a name, without its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageSought {
    /// Which.
    pub reference: Reference,
    /// Whether its platforms are of interest, which costs more than a `HEAD` when the cache does not know the manifest.
    pub platforms: bool,
}

impl Fact for ImageSought {
    const NAME: &'static str = "ImageSought";
}

impl Work for ImageSought {
    fn id(&self) -> String {
        token(&["seek", &self.reference.to_string(), if self.platforms { "platforms" } else { "digest" }])
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&WishRejected { id: self.id(), reason })
    }
}

/// What upstream has under a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageSeen {
    /// The id of the work.
    pub id: String,
    /// The image.
    pub reference: Reference,
    /// What it points to; nothing when upstream has no such image.
    pub root: Option<Digest>,
    /// What its images run on, if that was asked.
    pub platforms: Vec<Platform>,
}

impl Fact for ImageSeen {
    const NAME: &'static str = "ImageSeen";
}

impl News for ImageSeen {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}

/// How far one blob of a wanted image is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageProgress {
    /// The wish.
    pub wanted: WantedId,
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes received so far.
    pub received_bytes: u64,
    /// Whether it is stored.
    pub stored: bool,
}

impl Fact for ImageProgress {
    const NAME: &'static str = "ImageProgress";
}

impl News for ImageProgress {
    fn key(&self) -> Option<String> {
        Some(self.wanted.0.clone())
    }
}
