//! Layers that docker saved must be what the configuration says.

use super::*;

/// An image of one layer, stored as `stored`, that is to inflate to `want`; the configuration comes behind or before the layer.
fn saved(stored: &[u8], want: &[u8], config_last: bool) -> Vec<u8> {
    let json = config(&[want]);
    let list = listed("c.json", &["link/layer.tar"]);
    let tar = Tar::new().symlink("link/layer.tar", "../one/layer.tar");
    let tar = if config_last {
        tar.file("manifest.json", list).file("one/layer.tar", stored).file("c.json", json)
    } else {
        tar.file("c.json", json).file("one/layer.tar", stored).file("manifest.json", list)
    };
    tar.done()
}

#[test]
fn layer_must_inflate_to_its_diff_id() {
    let content = "layer ".repeat(100_000).into_bytes();
    let members = [gzip(&content[..1000]), gzip(b""), gzip(&content[1000..])].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7][..], &zstd(&content)].concat();
    for stored in [content.clone(), gzip(&content), zstd(&content), members, skippable] {
        for config_last in [false, true] {
            assert_eq!(read(&saved(&stored, &content, config_last)).unwrap().0.len(), 1);
            let error = refused(&saved(&stored, b"other", config_last));
            assert!(error.is_integrity());
            let ArchiveError::LayerContent { name, want, got } = error else { panic!("{error:?}") };
            assert_eq!(
                (name.as_str(), want, got),
                ("one/layer.tar", Digest::of(b"other"), Digest::of(&content))
            );
        }
    }
}

#[test]
fn layer_named_by_its_own_digest_must_inflate_to_its_diff_id_too() {
    let stored = gzip(b"layer");
    let path = format!("blobs/sha256/{}", Digest::of(&stored).hex());
    let archive = |want: &[u8]| {
        let tar = Tar::new().blob(&stored).file("c.json", config(&[want]));
        tar.file("manifest.json", listed("c.json", &[&path])).done()
    };
    assert!(read(&archive(b"layer")).is_ok());
    let error = refused(&archive(b"other"));
    assert!(matches!(&error, ArchiveError::LayerContent { name, .. } if *name == path), "{error:?}");
}

#[test]
fn layers_are_compared_at_their_places() {
    let archive = |layers: &[&str]| {
        let tar =
            Tar::new().file("a.tar", gzip(b"a")).file("b.tar", "b").file("c.json", config(&[b"a", b"b"]));
        read(&tar.file("manifest.json", listed("c.json", layers)).done()).err()
    };
    assert!(archive(&["a.tar", "b.tar"]).is_none());
    let swapped = archive(&["b.tar", "a.tar"]);
    assert!(
        matches!(&swapped, Some(ArchiveError::LayerContent { name, .. }) if name == "b.tar"),
        "{swapped:?}"
    );
    for layers in [&["a.tar"][..], &["a.tar", "b.tar", "b.tar"]] {
        let error = archive(layers);
        assert!(matches!(error, Some(ArchiveError::LayerCount { configured: 2, .. })), "{error:?}");
    }
}

#[test]
fn configuration_must_be_one() {
    for (json, is_one) in [("[]", false), ("{", false), (r#"{"rootfs":{"diff_ids":["x"]}}"#, true)] {
        let tar = Tar::new().file("l.tar", "l").file("c.json", json);
        let error = refused(&tar.file("manifest.json", listed("c.json", &["l.tar"])).done());
        assert!(error.is_integrity());
        match error {
            ArchiveError::NotAConfig { name } => assert!(!is_one && name == "c.json"),
            ArchiveError::Document { name: "configuration", .. } => assert!(is_one),
            error => panic!("{json}: {error:?}"),
        }
    }
}

#[test]
fn damaged_layer_is_refused_where_it_counts() {
    let content = b"layer ".repeat(1000);
    for packed in [gzip(&content), zstd(&content)] {
        let mut flipped = packed.clone();
        let end = flipped.len() - 6;
        flipped[end] ^= 1;
        for stored in [&packed[..packed.len() - 1], &packed[..5], &flipped] {
            let error = refused(&saved(stored, &content, true));
            let is_told = matches!(&error, ArchiveError::Inflate { name, .. } if name == "one/layer.tar");
            assert!(is_told && error.is_integrity(), "{error:?}");
        }
        let unlisted = Tar::new().file("x.tar.gz", &packed[..20]).file("oci-layout", "{}").done();
        assert!(read(&unlisted).is_ok());
    }
}

#[test]
fn layers_inflate_within_the_ratio_all_together() {
    let limits = UnpackLimits { ratio_floor_bytes: 3 << 20, ..UnpackLimits::default() };
    let zeros = vec![0; 2 << 20];
    for packed in [gzip(&zeros), zstd(&zeros)] {
        assert!(read_with(&saved(&packed, &zeros, false), &limits).is_ok());
        let twice = Tar::new().file("a.tar", &packed).file("b.tar", &packed);
        let twice = twice.file("c.json", config(&[&zeros, &zeros]));
        let twice = twice.file("manifest.json", listed("c.json", &["a.tar", "b.tar"])).done();
        assert!(read(&twice).is_ok());
        let error = read_with(&twice, &limits).err().expect("it is refused");
        assert!(matches!(&error, ArchiveError::Within { name, .. } if name == "b.tar"), "{error:?}");
        assert!(matches!(bare(error), ArchiveError::Bomb { ratio_max: 100 }));
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&zeros).unwrap();
    let wide = saved(&encoder.finish().unwrap(), &zeros, false);
    assert!(matches!(refused(&wide), ArchiveError::Inflate { .. }));
}

#[test]
fn layer_that_is_compressed_otherwise_is_refused_by_name() {
    let error = refused(&saved(b"\xfd7zXZ\0 and more", b"layer", false));
    assert!(error.is_unsupported());
    assert!(matches!(&error, ArchiveError::Within { name, .. } if name == "one/layer.tar"), "{error:?}");
    assert_eq!(bare(error).to_string(), "xz is not supported; use gzip, zstd or plain");
}
