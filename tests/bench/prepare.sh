# shellcheck shell=bash
# What the benches have in common before they begin. Sourced, from the root of the workspace.

target=${CARGO_TARGET_DIR:-$PWD/target}

# wants WORDS WORD: whether WORD is one of them.
wants() {
    case " $1 " in
        *" $2 "*) ;;
        *) return 1 ;;
    esac
}

build_larder() {
    cargo build --release --locked --package larder-cli --bin larder
}

# Prints the directory of a Debian image, larger than what the tests use, so that there is something to measure.
make_debian() {
    tests/make-debian-image.sh "$target/tools/fixtures/debian-12-bench" git perl python3
}
