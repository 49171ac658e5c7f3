# kiloport: `make help` lists what can be made.

PREFIX ?= /usr/local
DESTDIR ?=
FLOWS ?= 500
SECONDS ?= 5
# What make bench measures. On two processors these take four minutes, after the
# lab kernel, which is built once in seven.
SCENARIOS ?= rrul_be upload
TUNNELS ?= none,kiloport,kiloport-1port,kernel-wireguard,wireguard-go,tinc

VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),unknown)

# Looked up when a recipe runs, because `make deps` may have fetched it.
GO_BUILD = CGO_ENABLED=0 "$$(.ci/go)" build -buildvcs=false -trimpath
SUDO = $(if $(filter-out 0,$(shell id -u)),sudo,)

.PHONY: help
help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install what is missing to build (apt; Go as a module if apt's is old)
	@.ci/deps build

.PHONY: deps-test
deps-test: ## install what is missing to test, too
	@.ci/deps build
	@.ci/deps test

.PHONY: build
build: ## build the static binary bin/kiloport
	@.ci/go >/dev/null
	$(GO_BUILD) -ldflags '-s -w -X main.version=$(VERSION)' -o bin/kiloport ./cmd/kiloport

.PHONY: bin/bench
bin/bench:
	@.ci/go >/dev/null
	$(GO_BUILD) -o bin/bench ./bench

.PHONY: bin/wireguard-go
bin/wireguard-go:
	@.ci/go >/dev/null
	$(GO_BUILD) -o bin/wireguard-go golang.zx2c4.com/wireguard

.PHONY: bench
bench: deps-bench ## measure against other tunnels behind real gateways, in virtual time
	@$(MAKE) --no-print-directory build bin/bench bin/wireguard-go
	$(SUDO) bin/bench run $(SCENARIOS) --tunnels $(TUNNELS)

.PHONY: deps-bench
deps-bench:
	@.ci/deps build
	@.ci/deps bench

.PHONY: demo
demo: deps ## two sites, a router, hundreds of flows: see what the wire sees
	@$(MAKE) --no-print-directory build bin/bench
	$(SUDO) bin/bench demo --kiloport bin/kiloport --flows $(FLOWS) --seconds $(SECONDS)

.PHONY: test
test: deps-test ## every check and every test; as root
	@.ci/test

.PHONY: pgo
pgo: ## profile the packet path anew, for the compiler (cmd/kiloport/default.pgo)
	"$$(.ci/go)" test ./tunnel -run '^$$' -bench 'Path|Flows/100$$' -benchtime 2s -o /dev/null -cpuprofile cmd/kiloport/default.pgo

# What packages are made for, as Go has it; rpm and deb have their own names.
ARCHITECTURES ?= amd64 arm64

.PHONY: packages
packages: ## make .deb and .rpm in bin, for ARCHITECTURES
	@deploy/package/make "$(VERSION)" $(ARCHITECTURES)

.PHONY: static
static: ## build static binaries for routers, too, and tell their sizes
	@deploy/package/static "$(VERSION)"

.PHONY: install
install: build ## install under DESTDIR and PREFIX (/usr/local)
	install -D -m 755 bin/kiloport $(DESTDIR)$(PREFIX)/bin/kiloport
	install -d -m 700 $(DESTDIR)/etc/kiloport
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's,/usr/bin/kiloport,$(PREFIX)/bin/kiloport,' deploy/systemd/kiloport@.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/kiloport@.service
	sed 's,/usr/local/bin/kiloport,$(PREFIX)/bin/kiloport,' deploy/attach/kiloport-attach@.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/kiloport-attach@.service
	install -d $(DESTDIR)$(PREFIX)/share/man/man8
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -d $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/kiloport man >$(DESTDIR)$(PREFIX)/share/man/man8/kiloport.8
	bin/kiloport completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/kiloport
	bin/kiloport completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_kiloport
	bin/kiloport completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/kiloport.fish

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
