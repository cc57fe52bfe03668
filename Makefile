# The only entry: every target does its own set-up (tests/setup.sh) on a bare Debian 12 with a Rust toolchain.
#
#   make            the programs, in target/release
#   make demo       two hosts replicate a real tree, with faults; as root
#   make test       everything that must hold; as root
#   make lint       rustfmt, clippy, tidy, licences
#   make bench      the filter and the replication against native ext4 and rsync; as root
#   make fuzz       the decoders, FUZZ_SECONDS (60) each
#   make docs       API documentation and man pages, in target/doc and target/man
#   make install    programs, mount helper, man pages, completions, systemd unit; PREFIX (/usr/local), SBINDIR (/usr/sbin), DESTDIR
#   make clean

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
RELEASE := $(TARGET)/release
PREFIX ?= /usr/local
UNITDIR ?= /usr/lib/systemd/system
# Not below PREFIX: mount(8) looks for its helpers in /sbin, which this is.
SBINDIR ?= /usr/sbin
FUZZ_SECONDS ?= 60
FUZZ_TARGETS = $(basename $(notdir $(wildcard protocol/fuzz/fuzz_targets/*.rs)))

# The programs under test, and the tools from crates.io that the tests run.
export INTERMEZZO_BIN := $(RELEASE)
export PATH := $(TARGET)/tools/bin:$(PATH)
# Where disks of test hosts lie: in memory if there is plenty.
export INTERMEZZO_TMP ?= $(shell [ "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -1)" -ge 8388608 ] 2>/dev/null \
    && echo /dev/shm || echo /var/tmp)

.PHONY: all demo test unit mounted lint bench fuzz docs install clean programs
all: programs

programs:
	@tests/setup.sh build
	$(CARGO) build --release --locked -p lento -p presto

demo:
	@tests/setup.sh demo
	$(CARGO) build --release --locked -p lento -p presto -p intermezzo-tests --bin lento --bin presto --bin demo
	$(RELEASE)/demo

# In the order of what is found out soonest.
test:
	@tests/setup.sh test
	time $(MAKE) --no-print-directory lint
	time $(MAKE) --no-print-directory unit
	time $(MAKE) --no-print-directory docs
	time $(MAKE) --no-print-directory mounted

lint:
	@tests/setup.sh build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --quiet --locked -p intermezzo-tests --test tidy

unit:
	@tests/setup.sh test
	$(CARGO) test --workspace --exclude intermezzo-tests --locked --no-fail-fast

# On the release programs, one after the other: they use the whole machine.
mounted: programs
	@tests/setup.sh test
	$(CARGO) test -p intermezzo-tests --locked --no-fail-fast -- --test-threads=1

bench: programs
	@tests/setup.sh bench
	$(CARGO) run --release --locked -p intermezzo-tests --bin bench

# cargo-fuzz needs nightly's flags; RUSTC_BOOTSTRAP lets the stable compiler take them.
fuzz:
	@tests/setup.sh fuzz
	@set -e; for target in $(FUZZ_TARGETS); do \
	    echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	    RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir protocol/fuzz $$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1; \
	done

docs: programs
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	rm -rf $(TARGET)/man
	$(RELEASE)/lento generate man $(TARGET)/man

install: programs
	install -D -t $(DESTDIR)$(PREFIX)/bin $(RELEASE)/lento $(RELEASE)/presto
	install -d $(DESTDIR)$(SBINDIR)
	ln -sfn $(PREFIX)/bin/lento $(DESTDIR)$(SBINDIR)/mount.presto
	rm -rf $(TARGET)/man $(TARGET)/completions
	$(RELEASE)/lento generate man $(TARGET)/man
	$(RELEASE)/lento generate completions $(TARGET)/completions
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(TARGET)/man/*.1
	install -D -m 644 $(TARGET)/completions/lento.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/lento
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(TARGET)/completions/_lento
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(TARGET)/completions/lento.fish
	sed 's|@PREFIX@|$(PREFIX)|' dist/lento.service | \
	    install -D -m 644 /dev/stdin $(DESTDIR)$(UNITDIR)/lento.service

clean:
	$(CARGO) clean
	rm -rf protocol/fuzz/target
