use std::fs;
use std::path::Path;

use larder_oci::{Descriptor, Digest, media_type};

use super::*;
use crate::{Expected, Origin};

fn descriptor(what: &str) -> Descriptor {
    Descriptor::new(media_type::OCI_MANIFEST, Digest::of(what.as_bytes()), 7)
}

fn entry(name: Option<&str>, what: &str) -> String {
    let digest = Digest::of(what.as_bytes());
    let annotations = name.map_or(String::new(), |name| {
        format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}","kept":"yes"}}"#)
    });
    format!(r#"{{"mediaType":"{}","digest":"{digest}","size":7{annotations}}}"#, media_type::OCI_MANIFEST)
}

fn write_index(root: &Path, entries: &[String]) {
    let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    fs::write(root.join("index.json"), json).unwrap();
}

fn write_blob(root: &Path, what: &str) {
    let blobs = root.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(descriptor(what).digest.hex()), what).unwrap();
}

fn index(root: &Path) -> String {
    fs::read_to_string(root.join("index.json")).unwrap()
}

/// The names that other tools see.
fn shown(root: &Path) -> Vec<String> {
    let text = index(root);
    let foreign = Foreign::parse(text.as_bytes()).unwrap();
    foreign.named.into_keys().collect()
}

fn set(directory: &Directory, name: &str, what: &str) {
    let (name, descriptor) = (name.to_owned(), Some(descriptor(what)));
    let change = Change { name, descriptor, origin: Origin::Pulled, expected: Expected::Any };
    assert!(matches!(directory.change(&change).unwrap(), Step::Append(_)));
}

fn remove(directory: &Directory, name: &str) {
    let name = name.to_owned();
    let change = Change { name, descriptor: None, origin: Origin::Removed, expected: Expected::Any };
    assert!(matches!(directory.change(&change).unwrap(), Step::Append(_)));
}

#[track_caller]
fn assert_points(directory: &Directory, name: &str, what: Option<&str>) {
    let target = directory.resolve(name).unwrap().and_then(|record| record.descriptor);
    assert_eq!(target.map(|target| target.digest), what.map(|what| descriptor(what).digest), "{name}");
    let listed = directory.list().unwrap().into_iter().find(|record| record.name == name);
    assert_eq!(listed.is_some(), what.is_some(), "{name} is listed");
    assert!(listed.is_none_or(|record| record.points_to(&descriptor(what.unwrap()))), "{name} is listed");
}

#[test]
fn empty_directory_becomes_a_layout() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let marker = fs::read_to_string(root.path().join("oci-layout")).unwrap();
    assert_eq!(marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(shown(root.path()), Vec::<String>::new());
    assert_eq!(directory.list().unwrap(), []);
}

#[test]
fn directory_that_another_tool_filled_is_adopted_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write_index(root, &[entry(Some("12"), "a"), entry(None, "b"), entry(Some("h.io/r:1"), "c")]);
    let directory = Directory::open(root).unwrap();
    assert_points(&directory, "12", Some("a"));
    assert_points(&directory, descriptor("b").digest.as_str(), Some("b"));
    assert_eq!(directory.list().unwrap().len(), 3);
    set(&directory, "h.io/r:2", "d");
    directory.catch_up().unwrap();
    let text = index(root);
    assert_eq!(text.matches("image.ref.name").count(), 3, "{text}");
    assert_eq!(text.matches(r#""kept":"yes""#).count(), 2, "{text}");
    // A running catalog sees a later edit too.
    write_index(root, &[entry(Some("12"), "z")]);
    assert_points(&directory, "12", Some("z"));
    assert_eq!(directory.history("12").unwrap().len(), 2);
}

#[test]
fn view_in_many_lines_is_adopted_without_loss() {
    let root = tempfile::tempdir().unwrap();
    let twice = entry(Some("a:1"), "b").replace(',', ",\r\n  ");
    let pretty = entry(Some("a:1"), "a").replace(',', ",\n  ");
    let without = entry(None, "d").replace('}', ",\n\"annotations\":null}");
    write_index(root.path(), &[pretty, twice, without]);
    let directory = Directory::open(root.path()).unwrap();
    assert_points(&directory, "a:1", Some("a"));
    set(&directory, "b:1", "c");
    directory.catch_up().unwrap();
    assert_eq!(shown(root.path()), ["a:1", "b:1", descriptor("d").digest.as_str()]);
    set(&directory, "z:1", "c");
    directory.catch_up().unwrap();
    assert_eq!(directory.list().unwrap().len(), 4);
    assert!(index(root.path()).contains(&entry(Some("a:1"), "b")));
}

#[test]
fn entry_is_made_compact_outside_its_strings_alone() {
    let compact = super::foreign::compact("{ \"a, b\" :\t\"c \\\\\" ,\r\n \"d \\\" : e\" : [ 1 , 2 ] }");
    assert_eq!(compact, r#"{"a, b":"c \\","d \" : e":[1,2]}"#);
}

#[test]
fn entry_dropped_by_another_tool_goes_only_with_its_content() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write_index(root, &[entry(Some("h.io/adopted:1"), "lost")]);
    let directory = Directory::open(root).unwrap();
    set(&directory, "h.io/kept:1", "kept");
    set(&directory, "h.io/lost:1", "lost");
    directory.catch_up().unwrap();
    write_blob(root, "kept");
    write_index(root, &[]);
    assert_points(&directory, "h.io/kept:1", Some("kept"));
    assert_points(&directory, "h.io/lost:1", None);
    assert_points(&directory, "h.io/adopted:1", None);
    assert_eq!(shown(root), ["h.io/kept:1"]);
}

#[track_caller]
fn assert_plain(entry: &str, is_plain: bool) {
    let fast = super::view::plain(entry);
    assert_eq!(fast.is_some(), is_plain, "{entry}");
    assert!(fast.is_none() || fast == named(&entry.replacen('{', "{ ", 1)), "{entry}");
}

#[test]
fn short_way_to_read_an_entry_says_what_the_long_way_says() {
    let plain = entry(Some("h.io/r:1"), "a").replace(r#","kept":"yes""#, "");
    assert_plain(&plain, true);
    assert_plain(&plain.replace("h.io/r:1", "h.io/ r"), true);
    assert_plain(&entry(Some("h.io/r:1"), "a"), false);
    assert_plain(&entry(None, "a"), false);
    for (from, to) in [
        ("h.io/r", r"h.io\/r"),
        ("h.io/r:1", ""),
        (":7", ":-7"),
        (":7", ":9223372036854775808"),
        ("sha", "md"),
    ] {
        assert_plain(&plain.replace(from, to), false);
    }
}

#[test]
fn entries_that_are_no_names_here_are_carried_along() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let strange = entry(Some("three"), "c").replace("sha256:", "sha384:");
    let unreadable = entry(Some("new\\nline"), "d");
    write_index(root, &[entry(Some("x"), "a"), entry(Some("x"), "b"), strange, unreadable]);
    let directory = Directory::open(root).unwrap();
    assert_points(&directory, "x", Some("a"));
    for name in ["h.io/r:1", "z"] {
        set(&directory, name, "e");
        directory.catch_up().unwrap();
        for digest in ["a", "b", "c", "d", "e"].map(|what| Digest::of(what.as_bytes())) {
            assert!(index(root).contains(digest.hex()), "{digest} was dropped: {}", index(root));
        }
    }
    remove(&directory, "x");
    assert_points(&directory, "x", None);
    directory.catch_up().unwrap();
    assert_points(&directory, "x", None);
    let text = index(root);
    assert!(!text.contains(descriptor("b").digest.hex()), "another entry takes its place: {text}");
    assert!(text.contains(descriptor("c").digest.hex()) && text.contains(descriptor("d").digest.hex()));
}

#[test]
fn name_is_everywhere_before_it_is_in_the_view_and_comes_into_it_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    set(&directory, "b", "one");
    directory.catch_up().unwrap();
    for (name, what) in [("a", "new"), ("b", "two"), ("c", "new")] {
        set(&directory, name, what);
    }
    assert_eq!(shown(root.path()), ["b"], "nobody has brought the view up to date");
    let directory = Directory::open(root.path()).unwrap();
    assert!(directory.lags());
    for with_view in [false, true] {
        for (name, what) in [("a", "new"), ("b", "two"), ("c", "new")] {
            assert_points(&directory, name, Some(what));
        }
        if !with_view {
            directory.catch_up().unwrap();
        }
    }
    assert!(!directory.lags());
    assert_eq!(shown(root.path()), ["a", "b", "c"]);
    assert!(!index(root.path()).contains(descriptor("one").digest.hex()));
}

#[test]
fn crash_while_the_view_is_brought_up_to_date_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let ledger = root.path().join("ledger");
    let directory = Directory::open(root.path()).unwrap();
    set(&directory, "first", "1");
    fs::rename(ledger.join("journal"), ledger.join("journal.applied")).unwrap();
    set(&directory, "second", "2");
    // The power went: of one record the file is gone, of another its content, and the last one is not whole even here.
    set(&directory, "lost", "3");
    fs::remove_dir_all(ledger.join("names/lost")).unwrap();
    set(&directory, "empty", "4");
    fs::write(ledger.join("names/empty/0000000001.json"), "").unwrap();
    let mut journal = fs::read(ledger.join("journal")).unwrap();
    journal.extend(b"\n{\"name\":\"third\",\"se\xc3");
    fs::write(ledger.join("journal"), journal).unwrap();
    fs::write(ledger.join("record.new"), "{").unwrap();
    fs::write(ledger.join("index.json.new"), "{").unwrap();
    let directory = Directory::open(root.path()).unwrap();
    set(&directory, "fourth", "4");
    let names = [("empty", "4"), ("first", "1"), ("fourth", "4"), ("lost", "3"), ("second", "2")];
    for (name, what) in names {
        assert_points(&directory, name, Some(what));
    }
    assert_points(&directory, "third", None);
    directory.catch_up().unwrap();
    assert!(!directory.lags());
    assert_eq!(shown(root.path()), names.map(|(name, _)| name));
}

#[test]
fn of_two_records_that_want_one_place_the_finished_one_has_it() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let unfinished = Record::next("a", None, Origin::Pulled, Some(descriptor("unfinished")));
    directory.journal.append(&directory.journal.lock().unwrap(), &unfinished).unwrap();
    set(&directory, "a", "finished");
    for _ in 0..2 {
        let directory = Directory::open(root.path()).unwrap();
        assert_points(&directory, "a", Some("finished"));
        // With the file gone the journal has to tell.
        fs::remove_dir_all(root.path().join("ledger/names/a")).unwrap();
    }
}

#[test]
fn record_that_a_crash_left_linked_twice_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    set(&directory, "a", "1");
    let ledger = root.path().join("ledger");
    fs::hard_link(ledger.join("names/a/0000000001.json"), ledger.join("record.new")).unwrap();
    set(&directory, "a", "2");
    let history = directory.history("a").unwrap();
    assert!(history[0].points_to(&descriptor("1")) && history[1].points_to(&descriptor("2")));
}

#[test]
fn foreign_edit_wins_over_what_was_known_but_not_over_a_pending_change() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    for name in ["known", "moved", "removed"] {
        set(&directory, name, "old");
    }
    directory.catch_up().unwrap();
    set(&directory, "moved", "new");
    set(&directory, "added", "new");
    remove(&directory, "removed");
    let edit = ["known", "moved", "removed"].map(|name| entry(Some(name), "foreign"));
    write_index(root.path(), &edit);
    for _ in 0..2 {
        assert_points(&directory, "known", Some("foreign"));
        assert_points(&directory, "moved", Some("new"));
        assert_points(&directory, "added", Some("new"));
        assert_points(&directory, "removed", None);
        directory.catch_up().unwrap();
    }
    assert_eq!(shown(root.path()), ["added", "known", "moved"]);
}

#[test]
fn view_that_nobody_has_stamped_is_adopted_without_a_change() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    write_blob(root.path(), "1");
    set(&directory, "a", "1");
    directory.catch_up().unwrap();
    let before = index(root.path());
    fs::remove_file(root.path().join("ledger/stamp")).unwrap();
    assert_points(&directory, "a", Some("1"));
    assert_eq!(directory.history("a").unwrap().len(), 1);
    assert_eq!(index(root.path()), before);
    assert!(directory.view.is_ours().unwrap());
}

#[test]
fn damaged_index_is_refused_or_rebuilt_from_the_ledger() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("index.json"), "{\"sch").unwrap();
    let refused = Directory::open(root.path());
    assert!(matches!(refused, Err(CatalogError::Layout { .. })));
    fs::remove_file(root.path().join("index.json")).unwrap();
    let directory = Directory::open(root.path()).unwrap();
    set(&directory, "h.io/r:1", "x");
    directory.catch_up().unwrap();
    fs::write(root.path().join("index.json"), "{\"sch").unwrap();
    assert_points(&directory, "h.io/r:1", Some("x"));
    assert_eq!(shown(root.path()), ["h.io/r:1"]);
    assert!(root.path().join("index.json.damaged").exists());
}

#[test]
fn many_adopted_names_are_found_in_one_file() {
    let root = tempfile::tempdir().unwrap();
    // Long and short lines, and names that begin alike.
    let name = |number: usize| format!("h.io/{}{number}", "x/".repeat(number % 200));
    let entries = |what: &str| (0..500).map(|number| entry(Some(&name(number)), what)).collect::<Vec<_>>();
    write_index(root.path(), &entries("one"));
    let directory = Directory::open(root.path()).unwrap();
    set(&directory, &name(7), "set");
    directory.catch_up().unwrap();
    write_index(root.path(), &entries("two"));
    for number in 0..500 {
        let history = directory.history(&name(number)).unwrap();
        let sequence = history.iter().map(|record| record.seq).collect::<Vec<_>>();
        let expected = if number == 7 { vec![1, 2, 3] } else { vec![1, 2] };
        assert_eq!(sequence, expected, "{number}");
        let newest = directory.resolve(&name(number)).unwrap().unwrap();
        assert!(newest.points_to(&descriptor("two")), "{number}");
    }
    for absent in ["", "h.io/", "h.io/x/", "a", "z", "h.io/0/"] {
        assert_eq!(directory.records.pack.find(absent).unwrap(), []);
    }
    let files = fs::read_dir(root.path().join("ledger/names")).unwrap().count();
    assert_eq!(files, 1, "only what was set has a file");
    assert_eq!(directory.list().unwrap().len(), 500);
}

#[test]
fn read_only_layout_can_be_read_whoever_wrote_it() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write_index(root, &[entry(Some("foreign"), "a")]);
    fs::create_dir_all(root.join("ledger")).unwrap();
    let reader = Directory::at(root, true);
    assert_points(&reader, "foreign", Some("a"));
    assert_points(&reader, "absent", None);
    assert_eq!(reader.history("foreign").unwrap().len(), 1);

    let writer = Directory::open(root).unwrap();
    set(&writer, "own", "b");
    // With what is pending, in the place where it was written and in a copy that was made of it.
    for step in 0..3 {
        assert_points(&reader, "foreign", Some("a"));
        assert_points(&reader, "own", Some("b"));
        assert_eq!(reader.history("own").unwrap().len(), 1);
        assert_eq!(reader.list().unwrap().len(), 2);
        match step {
            0 => fs::remove_file(root.join("ledger/stamp")).unwrap(),
            _ => writer.catch_up().unwrap(),
        }
    }
    fs::write(root.join("index.json"), "{").unwrap();
    assert!(matches!(reader.resolve("own"), Err(CatalogError::Layout { .. })));
}

#[test]
fn mixed_writes_of_four_writers_with_two_handles_lose_no_name() {
    const WRITERS: usize = 4;
    const WRITES: usize = 500;
    let root = tempfile::tempdir().unwrap();
    let directories = [Directory::open(root.path()).unwrap(), Directory::open(root.path()).unwrap()];
    let write = |writer: usize| {
        let directory = &directories[writer % 2];
        for number in 0..WRITES {
            // Each writer has names of its own, and all write one of ten.
            let own = format!("own/{writer}:{}", number % 50);
            let name = if number % 10 == 0 { format!("shared:{}", number % 100) } else { own };
            let descriptor = (number % 7 != 3).then(|| descriptor(&format!("{number}")));
            let origin = if descriptor.is_some() { Origin::Written } else { Origin::Removed };
            let change = Change { name, descriptor, origin, expected: Expected::Any };
            directory.change(&change).unwrap();
            if number % 100 == 0 {
                directory.catch_up().unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        let write = &write;
        for writer in 0..WRITERS {
            scope.spawn(move || write(writer));
        }
    });
    let fresh = Directory::open(root.path()).unwrap();
    fresh.catch_up().unwrap();
    for writer in 0..WRITERS {
        for last in (WRITES - 50..WRITES).filter(|number| number % 10 != 0) {
            let target = (last % 7 != 3).then(|| format!("{last}"));
            let name = format!("own/{writer}:{}", last % 50);
            let found = fresh.resolve(&name).unwrap().and_then(|record| record.descriptor);
            assert_eq!(
                found.map(|found| found.digest),
                target.map(|what| descriptor(&what).digest),
                "{name}"
            );
        }
    }
    for number in 0..10 {
        let history = fresh.history(&format!("shared:{}", number * 10)).unwrap();
        assert!(history.iter().zip(1..).all(|(record, seq)| record.seq == seq), "a gap");
    }
    let listed: Vec<String> = fresh.list().unwrap().into_iter().map(|record| record.name).collect();
    assert_eq!(listed, shown(root.path()));
}
