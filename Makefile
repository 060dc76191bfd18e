# `make` alone lists the targets. Every target that tests ends with a line
# "N passed, N failed", and fails when a test fails or none ran.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.SUFFIXES:

# The PATH of root under sudo may lack Go.
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin

# Git refuses a tree of another owner, and Go then refuses to build in it.
export GIT_CONFIG_COUNT := 1
export GIT_CONFIG_KEY_0 := safe.directory
export GIT_CONFIG_VALUE_0 := *

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 20s

VERSION_FLAG := -X github.com/postern/postern/internal/version.Number=$(VERSION)
GENERATED := bpf/postern_bpfel.go bpf/postern_bpfel.o bpf/unix_bpfel.go bpf/unix_bpfel.o
# Heavy tests are modules of their own; test/tools has no code, and
# test/vaultserver no tests: what it does, those of the source vault check.
MODULES := $(filter-out test/tools test/vaultserver,$(patsubst %/go.mod,%,$(wildcard test/*/go.mod)))
REPORT = go run ./test/report

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## install the packages that building and testing use (Debian 12, as root)
	@test/tools/setup

.PHONY: build
build: ## build/posternd, postern, postern-guard and postern-sqlparse, all static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(VERSION_FLAG)' -o build/ ./cmd/posternd ./cmd/postern ./cmd/postern-guard
	@echo 'postern-sqlparse: the first build compiles the grammar of PostgreSQL and takes minutes'
	CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo -ldflags '$(VERSION_FLAG) -extldflags -static' -o build/ ./cmd/postern-sqlparse
	@! readelf -l build/posternd build/postern build/postern-guard build/postern-sqlparse | grep 'program interpreter'

# What packages are for. The grammar of arm64 takes a compiler of its own.
MACHINES ?= amd64 arm64

.PHONY: package
package: build/tools/golangci-lint ## build/packages: deb and rpm for MACHINES, made twice and compared, lintian and rpmlint clean
	@test/tools/setup git gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross lintian rpmlint
	packaging/build build/packages $(MACHINES)
	packaging/build build/packages-again $(MACHINES)
	diff build/packages/SHA256SUMS build/packages-again/SHA256SUMS
	rm -r build/packages-again
	lintian --allow-root --fail-on error,warning --suppress-tags binary-from-other-architecture build/packages/*.deb
	rpmlint -c packaging/lint/rpmlint.toml build/packages/*.rpm

.PHONY: generate
generate: setup ## regenerate the kernel objects (clang-14), the lists of dependencies, the list of attempts, and the manual
	go generate ./bpf
	go test -count=1 -run '^TestDependencies$$' ./internal/archtest -update
	go test -count=1 -run '^TestListIsInTheDocumentation$$' ./internal/bypass -update
	go test -count=1 -run '^TestManual$$' ./cmd/postern -update

.PHONY: setup-demo
setup-demo:
	@test/tools/setup gcc libc6-dev postgresql-15 postgresql-client-15 bubblewrap

.PHONY: demo
demo: setup-demo build ## a database, a gateway and an agent on this machine, explained as they run
	@go run ./test/demo

# Steps of check and test; a failed one does not hide the others.
.PHONY: generated
generated:
	@before=$$(sha256sum $(GENERATED)); go generate ./bpf; \
	if [ "$$before" != "$$(sha256sum $(GENERATED))" ]; then \
		echo 'the generated files in bpf/ were not those of the sources; they are now: commit them' >&2; exit 1; fi

.PHONY: vet
vet:
	go vet -tags qemu ./...
	@for m in $(MODULES); do echo "vet $$m"; (cd $$m && go vet ./...); done

.PHONY: lint
lint: build/tools/golangci-lint
	build/tools/golangci-lint run ./...
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && ../../build/tools/golangci-lint run ./...); done

STATIC = -step 'make generated' -step 'make vet' -step 'make lint'

.PHONY: check
check: setup ## what every commit passes: generated files, vet, linters, unit tests with -race
	@$(REPORT) -step 'make build' -step 'make vault-server' $(STATIC) '. -race ./...'

# The npm clients, by their lock file. Tests run without a network.
.PHONY: clients
clients:
	cd test/e2e/clients/node && npm ci --omit=optional --no-audit --no-fund --silent

# The SSH client of a newer Debian.
.PHONY: newer-ssh
newer-ssh:
	@test/e2e/fetch-openssh

# HashiCorp Vault, for the tests of the source vault.
.PHONY: vault-server
vault-server: build/vaultserver
build/vaultserver: test/vaultserver/main.go test/vaultserver/go.mod test/vaultserver/go.sum test/vaultserver/build.sh
	test/vaultserver/build.sh $@
	@touch $@

.PHONY: kernels
kernels:
	@test/kernel/fetch 5.10
	@for k in 6.1 6.12 sid; do test/kernel/fetch $$k || echo "not tested: kernel $$k, which cannot be fetched"; done

.PHONY: dashboard-modules
dashboard-modules:
	cd test/dashboards/node && npm ci --no-audit --no-fund --silent

.PHONY: oidc-modules
oidc-modules:
	cd test/oidc/node && npm ci --no-audit --no-fund --silent

.PHONY: dashboards
dashboards: ## packaging/grafana/*.json, by source.yaml beside them
	cd test/dashboards && go run ./generate ../../packaging/grafana

.PHONY: pictures
pictures: setup build dashboard-modules ## docs/pictures/dashboard-*.png, from a real daemon at work (as root, three minutes)
	mkdir -p docs/pictures
	cd test/dashboards && POSTERN_PICTURES=$(CURDIR)/docs/pictures go test -count=1 -run '^TestPictures$$' ./live

# The whole system that test/boot boots; takes root the first time.
.PHONY: rootfs
rootfs:
	@test/boot/rootfs

KERNELS = -step 'make kernels' -step 'make rootfs' '. -count=1 -tags=qemu -p=1 ./test/kernel ./test/boot'

.PHONY: test
test: setup ## everything: check, the kernel programs here and in QEMU, real servers and clients (as root)
	@$(REPORT) -step 'make build' -step 'make clients' -step 'make newer-ssh' -step 'make vault-server' -step 'make dashboard-modules' -step 'make oidc-modules' $(STATIC) $(KERNELS) '. -race ./...' $(foreach m,$(MODULES),'$m -p=1 -timeout=20m ./...')

.PHONY: test-bypass
test-bypass: setup ## the ways out that must stay closed, against a sniffer (as root)
	@$(REPORT) -step 'make build' '. -count=1 ./internal/redirect ./internal/bypass/... ./test/bypass/...'

.PHONY: test-containers
test-containers: setup ## docker, podman and runc containers, and devcontainers, as agents (as root)
	@$(REPORT) -step 'make build' -step 'make clients' 'test/e2e -count=1 ./containers'

.PHONY: test-dashboards
test-dashboards: setup ## dashboards, rules and alerts, against a real Prometheus that reads a real daemon (as root)
	@$(REPORT) -step 'make build' -step 'make dashboard-modules' 'test/dashboards -count=1 ./...'

.PHONY: test-kernels
test-kernels: setup ## the kernel programs, and the ways around them, on Linux 5.10, 6.1, 6.12 and the newest, and a reboot, in QEMU (as root)
	@$(REPORT) $(KERNELS)

.PHONY: test-package
test-package: setup ## the packages in whole machines in QEMU, on each kernel: install, upgrade under load, remove, purge; and by rpm (as root, 30 minutes)
	@$(REPORT) -step 'make package' -step 'make kernels' -step 'make rootfs' '. -count=1 -tags=qemu -timeout=90m ./test/package'

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME (20s) each
	@$(REPORT) -fuzz $(FUZZTIME) '. ./...' $(foreach m,$(MODULES),'$m ./...')

.PHONY: setup-bench
setup-bench:
	@test/tools/setup postgresql-15 postgresql-client-15 pgbouncer

.PHONY: bench
bench: bench-postgres bench-connect bench-ssh bench-mask bench-sql ## every benchmark, side by side with what one would have instead

.PHONY: bench-postgres
bench-postgres: setup-bench build ## pgbench: direct, through pgbouncer, through the gateway (as root, ten minutes)
	@go run ./test/bench

.PHONY: bench-connect
bench-connect: ## connections: direct, through a proxy, by iptables, by the kernel programs (as root, a minute)
	@test/tools/setup iptables
	@go run ./test/bench -connections -rounds 9

.PHONY: bench-ssh
bench-ssh: build ## SSH: direct, by ProxyJump, through the gateway: commands, set-up, 1 GiB, idle sessions (as root, ten minutes)
	@test/tools/setup openssh-server openssh-client openssh-sftp-server
	@go run ./test/bench -ssh -rounds 3

.PHONY: bench-sql
bench-sql: build ## statements and rules: from memory, by the worker, 50 rules, beside parsers, OPA and Cedar (two minutes)
	cd test/sqlbench && go run .

.PHONY: bench-mask
bench-mask: ## detectors: texts and rows, beside gitleaks and RE2 (a minute)
	cd test/maskbench && go run .

.PHONY: clean
clean: ## remove build/, kernels and tools included
	rm -rf build

# The tools take minutes to build, so they are kept.
build/tools/golangci-lint: test/tools/go.mod test/tools/go.sum
	cd test/tools && go build -o ../../build/tools/ tool
	@touch build/tools/*
