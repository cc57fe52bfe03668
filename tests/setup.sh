#!/bin/bash
# Installs what a bare Debian 12 with a Rust toolchain lacks. Run by make before each target; does nothing, and needs
# no network, when all is there.
#
#   tests/setup.sh build    compiler and rustfmt, clippy
#   tests/setup.sh demo     build, and what the demonstration uses
#   tests/setup.sh test     demo, and what the tests use: suites, file systems, programs to run on a mount
#   tests/setup.sh fuzz     build, and cargo-fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=(build-essential ca-certificates)
DEMO=(iproute2 nftables util-linux e2fsprogs procps tar)
TEST=(acl attr xfsprogs openssl sqlite3 git rsync psmisc)
BENCH=(bindfs rsync)
TOOLS=${CARGO_TARGET_DIR:-$PWD/target}/tools

say() { printf '%s\n' "setup: $*" >&2; }
die() { say "$*"; exit 1; }

need_root() {
    [ "$(id -u)" = 0 ] || die "make $1 must be run as root: it mounts file systems and makes network namespaces
       (try: sudo -E env \"PATH=\$PATH\" make $1)"
}

packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = 'install ok installed' ] || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    [ "$(id -u)" = 0 ] || die "packages are missing; as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update </dev/null
    apt-get -qq install --yes --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

toolchain() {
    command -v cargo >/dev/null || die "no Rust toolchain: see https://rustup.rs"
    local component
    for component in rustfmt clippy; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
    done
}

# cargo_tool NAME VERSION: a program from crates.io, at this version, in target/tools/bin.
cargo_tool() {
    [ -x "$TOOLS/bin/$1" ] && [ "$(cat "$TOOLS/$1.version" 2>/dev/null)" = "$2" ] && return
    say "building $1 $2"
    # Quickly built rather than fast: it is the file system under test that takes the time.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=false \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --quiet --locked --root "$TOOLS" --target-dir "$TOOLS/build" "$1@$2" </dev/null
    echo "$2" >"$TOOLS/$1.version"
    rm -rf "$TOOLS/build"
}

kernel() {
    [ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || die "this kernel has no FUSE (/dev/fuse): InterMezzo cannot mount anything here"
    [ -e /dev/loop-control ] || modprobe loop 2>/dev/null || true
}

case "${1:-}" in
build)
    packages "${BUILD[@]}"
    toolchain
    ;;
demo)
    need_root demo
    packages "${BUILD[@]}" "${DEMO[@]}"
    toolchain
    kernel
    ;;
test | bench)
    need_root "$1"
    packages "${BUILD[@]}" "${DEMO[@]}" "${TEST[@]}" $([ "$1" = test ] || echo "${BENCH[@]}")
    toolchain
    kernel
    id tests >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin tests
    if [ "$1" = test ]; then
        cargo_tool pjdfstest 0.2.2
        cargo_tool fsx 0.3.2
    fi
    ;;
fuzz)
    packages "${BUILD[@]}"
    toolchain
    cargo_tool cargo-fuzz 0.13.1
    ;;
*)
    die "usage: tests/setup.sh build|demo|test|bench|fuzz"
    ;;
esac
