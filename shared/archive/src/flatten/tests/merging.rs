//! What survives, and in which order.

use super::{Tar, check};

#[test]
fn an_upper_file_replaces_a_lower_directory_and_its_children() {
    check(
        [Tar::new().directory("d/").file("d/x", "1").file("d-e", "2"), Tar::new().file("d", "3")],
        &["d-e: 2", "d: 3"],
    );
}

#[test]
fn an_upper_directory_replaces_a_lower_file_and_merges_with_a_lower_directory() {
    check(
        [
            Tar::new().file("f", "1").directory("d").file("d/a", "2"),
            Tar::new().directory("f").directory("d").file("d/b", "3"),
        ],
        &["d/", "d/a: 2", "f/", "d/b: 3"],
    );
}

#[test]
fn a_whiteout_hides_only_what_it_names() {
    check(
        [
            Tar::new().file("f", "1").file("ff", "2").directory("d").file("d/f", "3"),
            Tar::new().file(".wh.f", ""),
        ],
        &["ff: 2", "d/", "d/f: 3"],
    );
    check(
        [Tar::new().directory("d").file("d/f", "3").file("d0", "4"), Tar::new().file("./.wh.d", "")],
        &["d0: 4"],
    );
}

#[test]
fn a_whiteout_and_an_opaque_directory_leave_their_own_layer_alone_in_any_order() {
    let lower = || Tar::new().directory("d").file("d/old", "1").directory("d/s").file("d/s/old", "2");
    for hider in ["d/.wh..wh..opq", ".wh.d"] {
        let expected: &[&str] = &["d/", "d/new: 3"];
        check([lower(), Tar::new().directory("d").file(hider, "").file("d/new", "3")], expected);
        check([lower(), Tar::new().directory("d").file("d/new", "3").file(hider, "")], expected);
        check([lower(), Tar::new().file(hider, "").file("d/new", "3").directory("d")], expected);
    }
    check([lower(), Tar::new().file(".wh.d", "").file("d/new", "3")], &["d/", "d/new: 3"]);
    check([lower(), Tar::new().file(".wh..wh..opq", "").file("n", "3")], &["n: 3"]);
}

#[test]
fn what_a_layer_hides_a_later_layer_may_bring_back() {
    check([Tar::new().file("f", "1"), Tar::new().file(".wh.f", ""), Tar::new().file("f", "2")], &["f: 2"]);
}

#[test]
fn the_last_of_duplicates_in_a_layer_counts() {
    check(
        [Tar::new()
            .file("f", "1")
            .directory("d")
            .symlink("s", "x")
            .file("./f", "2")
            .directory("d/")
            .file("s", "3")],
        &["f: 2", "d/", "s: 3"],
    );
}

#[test]
fn a_hard_link_keeps_the_content_its_target_had_in_its_layer() {
    let lower = || Tar::new().file("f", "old").link("g", "f").link("h", "./g");
    check([lower()], &["f: old", "g = f", "h = f"]);
    check([lower(), Tar::new().file("f", "new")], &["g: old", "h = g", "f: new"]);
    check([lower(), Tar::new().file(".wh.f", "")], &["g: old", "h = g"]);
    check([lower(), Tar::new().file(".wh.f", "").file(".wh.g", "")], &["h: old"]);
    check([lower(), Tar::new().file("g", "new")], &["f: old", "h = f", "g: new"]);
    check([Tar::new().file("f", "1").link("g", "f").file("f", "2")], &["g: 1", "f: 2"]);
}

#[test]
fn a_hard_link_reaches_into_lower_layers() {
    check([Tar::new().file("f", "1"), Tar::new().link("g", "f")], &["f: 1", "g = f"]);
    check([Tar::new().file("f", "1"), Tar::new().link("g", "/f").file(".wh.f", "")], &["g: 1"]);
    check([Tar::new().file("f", "1"), Tar::new().link("g", "f").file("f", "2")], &["g: 1", "f: 2"]);
}

#[test]
fn a_hard_link_comes_behind_its_target_whatever_the_layer_does() {
    check([Tar::new().link("i", "h").link("h", "f").file("f", "1")], &["f: 1", "i = f", "h = f"]);
    check([Tar::new().file("f", "1").file("n", "2").link("d/i", "f")], &["f: 1", "n: 2", "d/", "d/i = f"]);
    check([Tar::new().link("d/i", "f").file("f", "1").directory("d")], &["f: 1", "d/", "d/i = f"]);
    check([Tar::new().symlink("s", "../x").link("t", "s")], &["s -> ../x", "t = s"]);
}

#[test]
fn parents_come_first_and_are_made_up_where_absent() {
    check(
        [Tar::new().file("a/b/f", "1").file("z/y", "2").directory("z"), Tar::new().directory("a/b")],
        &["a/", "a/b/", "a/b/f: 1", "z/", "z/y: 2"],
    );
}

#[test]
fn a_directory_that_replaces_a_symbolic_link_may_be_opaque() {
    check(
        [
            Tar::new().symlink("d", "etc").directory("etc").file("etc/f", "1"),
            Tar::new().directory("d").file("d/.wh..wh..opq", "").file("d/f", "2"),
        ],
        &["etc/", "etc/f: 1", "d/", "d/f: 2"],
    );
}

#[test]
fn metadata_of_other_tools_is_dropped() {
    check(
        [Tar::new()
            .file(".wh..wh.aufs", "")
            .directory(".wh..wh.plnk")
            .file(".wh..wh.plnk/1.2", "linked")
            .link("f", ".wh..wh.plnk/1.2")
            .file("stargz.index.json", "{}")
            .file(".no.prefetch.landmark", "x")
            .file("d/.prefetch.landmark", "kept")],
        &["f: linked", "d/", "d/.prefetch.landmark: kept"],
    );
}

#[test]
fn the_root_directory_and_special_files_are_kept() {
    check(
        [Tar::new()
            .directory("./")
            .entry(b'3', "tty", "", "")
            .entry(b'4', "sda", "", "")
            .entry(b'6', "pipe", "", "")],
        &["./", "tty Char", "sda Block", "pipe Fifo"],
    );
}

#[test]
fn no_layers_make_an_empty_archive() {
    check([], &[]);
    check([Tar::new()], &[]);
}
