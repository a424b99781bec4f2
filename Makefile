# make help lists what there is. Every target sets up what it needs by itself.

.DEFAULT_GOAL := help
# LIMITS=tiny: a build in a folder of its own whose bounds are so small that every commit crosses some.
TINY := $(if $(filter tiny,$(LIMITS)),--features tiny-limits --target-dir $(or $(CARGO_TARGET_DIR),target)/tiny)

.PHONY: help demo test model mutants seams counts bare torture files suites faults fuzz corpus miri asan drivers build install dist packages bench profile report goldens clean

PREFIX ?= /usr/local
LIBRARY := $(or $(CARGO_TARGET_DIR),target)/release/liblitestream.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
RESULTS := $(or $(CARGO_TARGET_DIR),target)/bench

# Kills processes at their system calls, where there is such a thing.
STRACE := $(if $(filter Linux,$(shell uname -s)),strace)

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: build ## See a replica follow a database, in some 20 seconds after the build
	@.ci/setup sqlite3
	@bash sql/demo/demo.sh target/release/liblitestream

test: ## Run every check and every test; LIMITS=tiny with tiny bounds; TESTS="lib apply" for some tests
	@.ci/setup sqlite3 curl openssl python3 $(STRACE)
	$(if $(TINY),,cargo fmt --check)
	$(if $(TINY),,cargo clippy --locked --all-targets -- -D warnings)
	cargo test --locked --no-fail-fast $(TINY) $(foreach test,$(TESTS),$(if $(filter lib,$(test)),--lib,--test $(test)))

model: ## Commit, send, apply and compare in one process with tiny bounds, for SECONDS=60, from SEED=n on
	@.ci/setup
	MODEL_SECONDS="$(SECONDS)" MODEL_SEED="$(SEED)" cargo test --locked --lib model:: -- --ignored --nocapture

mutants: ## Show that the model finds faults: put each of a list of them into a copy of the sources
	@.ci/setup python3
	tests/model/mutants

seams: ## Cross every bound at its real value with every page size; some minutes
	@.ci/setup sqlite3
	cargo test --locked --test seams -- --include-ignored --nocapture

bare: ## Run the README's commands in fresh roots of Debian; ROOTS="bookworm trixie", FRESH=1, JOBS=1
	@.ci/setup debootstrap
	@FRESH="$(FRESH)" JOBS="$(JOBS)" .ci/bare $(ROOTS)

counts: ## Count the instructions of the hot paths, and fail where they are far more than before; UPDATE=1 keeps them
	@.ci/setup valgrind
	cargo bench --locked --bench counts -- $(if $(UPDATE),--update)

torture: ## Kill, stop, damage and cut everything for SECONDS=60, with SEED=n to do the same again; LIMITS=tiny as in test
	@.ci/setup sqlite3
	TORTURE_SECONDS="$(SECONDS)" TORTURE_SEED="$(SEED)" cargo test --locked $(TINY) --test torture -- --ignored --nocapture

files: build ## Replicate databases that packages hold, under a workload; FILES="proj rpm" for some
	@.ci/setup sqlite3 python3 python3-venv npm
	@python3 tests/outside/files.py $(FILES)

suites: build ## Run SQLite's speedtest1 and mptest on a served database; SUITES="mptest" for some
	@.ci/setup sqlite3 python3
	@python3 tests/outside/suites.py $(SUITES)

faults: ## Fail every call to the storage, cut the power and kill the process at every moment; some minutes
	@.ci/setup sqlite3 $(STRACE)
	FAULTS=all cargo test --locked --test storage_faults --test crashes --test interrupted -- --nocapture

fuzz: ## Feed every decoder, or TARGET=name, with what it was not made for, SECONDS=60 each
	@.ci/setup c++
	fuzz/run "$(SECONDS)" $(TARGET)

corpus: ## Keep of what fuzzing found what reaches something new: rewrites fuzz/corpus
	@.ci/setup c++
	fuzz/run minimise

miri: ## Run the tests of the pure layers under Miri; takes a nightly toolchain with it
	@.ci/setup
	.ci/sanitize miri

asan: ## Run the tests under AddressSanitizer, or those of TESTS="lib apply ..."; takes a nightly toolchain
	@.ci/setup sqlite3
	.ci/sanitize address $(TESTS)

drivers: build ## Serve and follow with every driver there is; DRIVERS="python php" for some
	@.ci/setup sqlite3 python3 python3-venv
	@drivers/run.py $(DRIVERS)

# `cargo build` makes what Rust programs link along with it, and then leaves out the optimisation at link time.
build: ## Build the library: target/release/liblitestream.so (.dylib on macOS)
	@.ci/setup
	cargo rustc --locked --release --lib --crate-type cdylib

install: build ## Install the library under PREFIX=/usr/local, below DESTDIR if that is set
	install -d $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/share/doc/liblitestream
	install -m 755 $(LIBRARY) $(DESTDIR)$(PREFIX)/lib/
	install -m 644 README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE $(DESTDIR)$(PREFIX)/share/doc/liblitestream/

dist: build ## Pack the library for this machine: dist/liblitestream-vVERSION-OS-ARCH.tar.gz
	@packaging/package.sh tarball

packages: build ## Pack it for Python and npm, too, and try each package where nothing else is
	@.ci/setup sqlite3 python3 python3-venv npm
	@packaging/package.sh try

bench: build ## Measure beside plain SQLite and peers, and print a table; BENCH="..." passes options
	$(if $(findstring --no-peers,$(BENCH)),,@.ci/setup python3 python3-venv && benches/peers/setup)
	cargo bench --locked --bench replication -- $(BENCH)

profile: build ## Show where the time of a measurement goes, and the memory: ONLY=apply; BENCH="..." passes options
	@.ci/setup perf strace valgrind
	@benches/profile $(or $(ONLY),apply) $(BENCH)

report: ## Write what the last run of make bench measured into docs/benchmarks.md, and draw its plots
	@.ci/setup python3 python3-venv && benches/peers/setup
	@python3 benches/report.py $(RESULTS)/results.json docs/benchmarks.md
	@$(RESULTS)/venv/bin/python benches/plot.py $(RESULTS)/results.json docs/benchmarks

goldens: ## Write anew what the SQL goldens expect, and the programs that docs/drivers.md shows
	@.ci/setup sqlite3
	UPDATE_GOLDENS=1 cargo test --locked --test goldens --test documents

clean: ## Remove what was built
	cargo clean
