#!/usr/bin/env bash
# Installs what the tests need, builds larder once and runs every test of the workspace against it.
#
#   tests/run.sh           all tests
#   tests/run.sh NAME      those whose path contains NAME, such as hostile or f07
#
# The last line is `N passed, N failed`; the exit code is 0 only when none failed and some ran.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=tests/tools.sh
. tests/tools.sh

# Features that make a port's suite and are off in a build for use.
features=()
for manifest in shared/*/Cargo.toml; do
    ! grep -q '^suite *=' "$manifest" || features+=("larder-$(basename "$(dirname "$manifest")")/suite")
done
selection=(--workspace --locked)
[ ${#features[@]} = 0 ] || selection+=(--features "$(IFS=,; printf '%s' "${features[*]}")")

target=${CARGO_TARGET_DIR:-$PWD/target}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# With the tests' own features, so that nothing is built twice.
cargo build "${selection[@]}" --bins
cargo test "${selection[@]}" --no-run
export LARDER_BIN=$target/debug/larder LARDER_TOOLS

status=0
cargo test "${selection[@]}" --no-fail-fast -- "$@" 2>&1 | tee "$log" || status=$?
count() { awk -v word="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i ~ "^" word) sum += $(i - 1) } END { print sum + 0 }' "$log"; }
passed=$(count passed)
failed=$(count failed)
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
    failed=1 # a test binary that died says nothing of its tests
fi
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$status" = 0 ] && [ "$failed" = 0 ] && [ "$passed" != 0 ]
