//! Judges one image: all blobs there, everything agrees, the wanted platforms covered.
//! Hears [`ImageStored`]; says [`ImageVerified`]; touches `blobs`.
//! Invariant: says nothing of an image that is not whole.

use actix::{Context, Handler};
use larder_blobs::Blobs;
use larder_blobs::closure::{Scope, walk};
use larder_messages::{ImageStored, ImageVerified, Reach};
use larder_oci::OciError;
use larder_runtime::{Outcome, Says, on_pool};

use crate::{Verifier, VerifyError};

/// Judge the image that was stored.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Verify {
    /// Which.
    pub stored: ImageStored,
}

impl Handler<Verify> for Verifier {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Verify { stored }: Verify, _: &mut Context<Self>) -> Self::Result {
        let blobs = self.blobs.clone();
        on_pool(async move {
            judge(&blobs, &stored).await?;
            Ok(Says::default().work(&ImageVerified::from(stored)))
        })
    }
}

async fn judge(blobs: &Blobs, stored: &ImageStored) -> Result<(), VerifyError> {
    let reference = || stored.reference.clone();
    let scope = match stored.reach {
        Reach::Root => return judge_root(blobs, stored).await,
        Reach::Sparse => Scope::Present,
        Reach::Whole => Scope::Wanted(&stored.platforms),
    };
    let closure = walk(blobs, &stored.root, &scope).await;
    let closure = closure.map_err(|source| VerifyError::Store { reference: reference(), source })?;
    if let Some((digest, what)) = closure.invalid.first() {
        let source = OciError::Ambiguous(format!("{digest}: {what}"));
        return Err(VerifyError::Image { reference: reference(), source });
    }
    if !closure.missing.is_empty() {
        return Err(VerifyError::Incomplete { reference: reference(), missing: closure.missing });
    }
    if stored.reach == Reach::Sparse && closure.is_hollow() {
        return Err(VerifyError::Hollow { reference: reference() });
    }
    match closure.uncovered(&stored.platforms) {
        Some(source) => Err(VerifyError::Image { reference: reference(), source }),
        None => Ok(()),
    }
}

/// Judges the manifest alone: it is there, and it is one.
async fn judge_root(blobs: &Blobs, stored: &ImageStored) -> Result<(), VerifyError> {
    let reference = stored.reference.clone();
    match blobs.document(&stored.root).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(VerifyError::Incomplete { reference, missing: vec![stored.root.digest.clone()] }),
        Err(source) => Err(VerifyError::Store { reference, source }),
    }
}
