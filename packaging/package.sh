#!/usr/bin/env bash
# Puts the release build into packages, in dist/:
#   packaging/package.sh tarball        liblitestream-vVERSION-OS-ARCH.tar.gz
#   packaging/package.sh all            that, a wheel for Python, and a package for npm
#   packaging/package.sh try            each of all these, installed where nothing else is, and used
# LIBRARY in the environment names another build.
# The same sources give the same names, and the same bytes but for what the compiler makes of them.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=${CARGO_TARGET_DIR:-target}
os=$(uname -s | tr '[:upper:]' '[:lower:]')
arch=$(uname -m)
suffix=$([ "$os" = darwin ] && echo dylib || echo so)
library=${LIBRARY:-$target/release/liblitestream.$suffix}
stage=$target/packaging
dist=$PWD/dist
tarball=liblitestream-v$version-$os-$arch.tar.gz
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}
export SOURCE_DATE_EPOCH

main() {
    [ -f "$library" ] || fail "$library is not there: make build"
    mkdir -p "$dist" "$stage"
    case ${1-} in
    tarball) tarball ;;
    all) all ;;
    try)
        all
        try_tarball
        try_wheel
        try_npm
        try_spec
        echo "4 passed, 0 failed"
        ;;
    *) fail "usage: packaging/package.sh tarball|all|try" ;;
    esac
}

all() {
    tarball
    wheel
    npm_package
    (cd "$dist" && checksums ./*"$version"*) >"$dist/SHA256SUMS"
    ls -l "$dist"
}

# Without a folder in it: sqlpkg unpacks files only.
tarball() {
    local folder=$stage/tarball
    fresh "$folder"
    install -m 755 "$library" "$folder/"
    install -m 644 LICENSE-MIT LICENSE-APACHE README.md CHANGELOG.md "$folder/"
    (cd "$folder" && checksums -- *) >"$stage/SHA256SUMS"
    mv "$stage/SHA256SUMS" "$folder/"
    (cd "$folder" && tar --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - -- *) |
        gzip -n >"$dist/$tarball"
    echo "dist/$tarball"
}

wheel() {
    local folder=$stage/python
    fresh "$folder"
    cp -R packaging/python/. "$folder/"
    echo "$version" >"$folder/VERSION"
    install -m 755 "$library" "$folder/litestream_sqlite/"
    cp LICENSE-MIT LICENSE-APACHE "$folder/"
    venv "$stage/venv"
    "$stage/venv/bin/python" -c 'import setuptools, wheel' 2>/dev/null || "$stage/venv/bin/pip" install -q setuptools wheel
    WHEEL_PLATFORM=$(wheel_platform) "$stage/venv/bin/pip" wheel -q --no-deps --no-build-isolation -w "$dist" "$folder"
}

# The oldest C library that has all that the library takes, which is what a manylinux tag says.
wheel_platform() {
    [ "$os" = linux ] && have objdump || return 0
    objdump -T "$library" | sed -n 's/.*(*GLIBC_\([0-9]*\)\.\([0-9]*\)[.) ].*/\1_\2/p' | sort -t_ -k1,1n -k2,2n |
        tail -n 1 | sed "s/.*/manylinux_&_$arch/"
}

npm_package() {
    local folder=$stage/npm platform
    have npm || fail "there is no npm: install Node"
    platform=$(node -p 'process.platform + "-" + process.arch')
    fresh "$folder"
    cp -R packaging/npm/. "$folder/"
    mkdir -p "$folder/lib/$platform"
    install -m 755 "$library" "$folder/lib/$platform/"
    cp LICENSE-MIT LICENSE-APACHE "$folder/"
    (cd "$folder" && npm pkg set "version=$version" && npm pack --silent --pack-destination "$dist")
}

# --- where nothing else is -------------------------------------------------------------------------------------------

try_tarball() {
    local folder=$stage/try-tarball
    fresh "$folder"
    tar -xzf "$dist/$tarball" -C "$folder"
    (cd "$folder" && sha256sum --quiet -c SHA256SUMS)
    expect_version "the tarball" "$(cd "$folder" && sqlite3 :memory: '.load ./liblitestream' 'SELECT litestream_version()')"
}

try_wheel() {
    local folder=$stage/try-python
    fresh "$folder"
    venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-index --no-deps "$dist"/litestream_sqlite-"$version"-*.whl
    expect_version "the wheel" "$(cd "$folder" && venv/bin/python - <<'PYTHON'
import sqlite3, litestream_sqlite
db = sqlite3.connect(":memory:")
litestream_sqlite.load(db)
try:
    db.load_extension(litestream_sqlite.loadable_path())
except sqlite3.OperationalError:  # not allowed any more
    print(*db.execute("SELECT litestream_version()").fetchone())
PYTHON
    )"
}

try_npm() {
    local folder=$stage/try-npm path
    fresh "$folder"
    (cd "$folder" && npm init -y >/dev/null 2>&1 && npm install --silent --no-audit --no-fund --offline "$dist/litestream-sqlite-$version.tgz")
    path=$(cd "$folder" && node -p 'require("litestream-sqlite").getLoadablePath()')
    expect_version "the npm package" "$(sqlite3 :memory: ".load $path" 'SELECT litestream_version()')"
}

# What sqlpkg would download for this machine is what was packed, and what it says is registered is.
try_spec() {
    local symbols
    python3 - "$version" "$tarball" <<'PYTHON'
import json, platform, sys
version, tarball = sys.argv[1:]
spec = json.load(open("sqlpkg.json"))
assert spec["version"] == "v" + version, f"sqlpkg.json is of {spec['version']}, Cargo.toml of {version}"
arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
file = spec["assets"]["files"][f"{platform.system().lower()}-{arch}"].replace("{version}", spec["version"])
assert file == tarball, f"sqlpkg.json names {file}, packed is {tarball}"
PYTHON
    symbols=$(sqlite3 :memory: ".load ${library%.*}" "SELECT name FROM pragma_function_list WHERE name LIKE 'litestream%'
        UNION SELECT name FROM pragma_module_list WHERE name LIKE 'litestream%' ORDER BY 1")
    diff <(python3 -c 'import json; print(*json.load(open("sqlpkg.json"))["symbols"], sep="\n")') <(echo "$symbols") ||
        fail "sqlpkg.json: its symbols are not those that the library registers"
    echo "sqlpkg.json: ok"
}

expect_version() {
    [ "$2" = "$version" ] || fail "$1: litestream_version() is '$2', expected $version"
    echo "$1: ok"
}

# Debian's Python: others may be without extensions.
venv() {
    local python=python3
    [ ! -x /usr/bin/python3 ] || python=/usr/bin/python3
    [ -d "$1" ] || "$python" -m venv "$1"
}

fresh() {
    rm -rf "$1"
    mkdir -p "$1"
}

checksums() { if have sha256sum; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

have() { command -v "$1" >/dev/null; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

main "$@"
