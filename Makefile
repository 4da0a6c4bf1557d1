# Two commands do everything on a Debian-like system with Go and make:
#   make run    starts an OpenID provider and an application that signs its users in there
#   make test   runs all tests, after installing what they need

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules --warn-undefined-variables
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Tools are built here, at the versions of internal/tools/go.mod.
BIN := .bin

# The library, and what needs more than its users should have to load: RELEASE.md.
MODULES := . store/sqlitestore store/pgstore store/redisstore store/tracestore provider/metrics examples \
	internal/pgprimary internal/onengines internal/bench internal/soak internal/browser internal/ibmtest

MODULE := github.com/curfew-oidc/curfew
SPACE  := $() $()

# A check of the format, for recipes.
UNFORMATTED = echo 'gofmt -l .'; unformatted=$$(gofmt -l .); \
	if [[ -n $$unformatted ]]; then echo "not formatted: run gofmt -w on"; echo "$$unformatted"; exit 1; fi

# The race detector has nothing to find where code only computes, and makes the check
# of a password twenty times as long and a signature three times.
RACE := -race -gcflags=golang.org/x/crypto/blowfish=-race=false -gcflags=crypto/internal/fips140/bigmod=-race=false

# How long each fuzz target runs.
FUZZTIME ?= 30s

# Flags for examples/op, such as make run ARGS="-store memory"; those of the
# application are in the environment, such as CURFEW_RP_STORE=cookies.
ARGS ?=

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# Not by go run, which calls every end by Ctrl-C an error.
.PHONY: run
run: go ## Start an OpenID provider whose logins end when the policy says so, and an application
	@go -C examples build -o ../$(BIN)/demo ./demo
	@CURFEW_EXAMPLES=examples exec $(BIN)/demo $(ARGS)

# The results are never taken from the cache: many tests are about races,
# processes and files, which the cache does not know.
.PHONY: test
test: lint compiler engines chromium ## Check the code and run all tests, with the race detector
	@set -x; for module in $(MODULES); do CGO_ENABLED=1 go -C $$module test $(RACE) -count=1 -timeout 40m ./...; done

# What make quick leaves to make test: packages that start database servers,
# browsers or programs, or try the rules on many servers, and tests that take
# seconds each.
SLOW_PACKAGES := examples/cli examples/demo examples/op examples/op/internal/kv examples/rp \
	internal/bench internal/browser internal/engine internal/ibmtest internal/onengines \
	internal/onengines/kit internal/onengines/linear internal/onengines/sqlsessions internal/soak \
	provider/providertest store/pgstore store/redisstore store/sqlitestore
SLOW_TESTS := TestATokenOpensOnlyItsOwnDoor TestAReceiverThatHangsHoldsUpNobody \
	TestAThousandEndsAtOnce TestEachStoreCallOfEachFlowFails TestHundredThousandAccounts \
	TestTheRulesOfAdmission TestTheTableOfAdmission TestOwnTestsOfOp TestPeersBugsWithRealClients \
	TestPolicyVectorsOverHTTP TestUnchangedOtherwise

# Results of packages that have not changed come from the cache, but for those of
# deptest, which asks for the imports of all.
.PHONY: quick
quick: go ## Check the code and run the fast tests, to be run at each save
	@$(UNFORMATTED)
	@set -x; for module in $(MODULES); do go -C $$module vet ./...; done
	@for module in $(MODULES); do \
		packages=$$(go -C $$module list ./... | grep -vxF $(SLOW_PACKAGES:%=-e $(MODULE)/%) -e $(MODULE)/internal/deptest || true); \
		[[ -z $$packages ]] || (set -x; go -C $$module test -skip '^($(subst $(SPACE),|,$(SLOW_TESTS)))$$' $$packages); \
	done
	go test -count=1 ./internal/deptest
	@echo 'This was quick. Left to make test: the race detector, the linters, what $(words $(SLOW_PACKAGES)) packages'; \
	echo 'test ($(SLOW_PACKAGES)), and'; echo '$(SLOW_TESTS).'

.PHONY: lint
lint: go golangci-lint ## Check format, vet, the linters of .golangci.yml and go.mod
	@$(UNFORMATTED)
	cd internal/tools && go mod tidy -diff
	@set -x; for module in $(MODULES); do (cd $$module; go vet ./...; $(CURDIR)/$(BIN)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...; go mod tidy -diff); done

# Parts of make test, for CI with other servers.
.PHONY: postgres
postgres: compiler ## Test what keeps things in PostgreSQL, with the one that is installed
	CGO_ENABLED=1 go -C store/pgstore test $(RACE) -count=1 -timeout 20m ./...
	CGO_ENABLED=1 go -C internal/onengines test $(RACE) -count=1 -timeout 20m ./sqlsessions

.PHONY: redis
redis: compiler ## Test what keeps things in Redis, with the redis-server that is installed
	CGO_ENABLED=1 go -C store/redisstore test $(RACE) -count=1 -timeout 20m ./...

.PHONY: vuln
vuln: go ## Look for known vulnerabilities in what is used
	@cd internal/tools && go build -o ../../$(BIN)/govulncheck golang.org/x/vuln/cmd/govulncheck
	@set -x; for module in $(MODULES); do (cd $$module; $(CURDIR)/$(BIN)/govulncheck ./...); done

.PHONY: bench
bench: go engines ## Measure what the hook costs, and fail if it is more than promised
	go -C internal/bench run . -write ../../docs/benchmarks.md

# How many rounds make soak does.
SOAK_ROUNDS ?= 20

.PHONY: soak
soak: go engines ## Race for the cap SOAK_ROUNDS times (20), and write the figures down
	go -C internal/soak run . -rounds $(SOAK_ROUNDS) -write ../../docs/benchmarks.md

.PHONY: fuzz
fuzz: go ## Run each fuzz target for FUZZTIME (30s)
	@found=0; \
	for module in $(MODULES); do \
		packages=$$(go -C $$module list ./...); \
		for package in $$packages; do \
			targets=$$(go -C $$module test -list '^Fuzz' "$$package"); \
			for target in $$(grep '^Fuzz' <<<"$$targets" || true); do \
				found=$$((found + 1)); echo "fuzz $$package $$target"; \
				go -C $$module test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$package"; \
			done; \
		done; \
	done; \
	if [[ $$found == 0 ]]; then echo "no fuzz target found"; exit 1; fi; \
	echo "$$found fuzz targets ran for $(FUZZTIME) each"

.PHONY: clean
clean: ## Remove what make built
	rm -rf $(BIN)

.PHONY: go
go:
	@command -v go >/dev/null || { echo "Go is missing: install the version that go.mod names, or a newer one"; exit 1; }

# The race detector needs a C compiler and the headers of libc.
.PHONY: compiler
compiler: go
	@compiles() { echo '#include <stdlib.h>' | $$(go env CC) -x c -fsyntax-only - 2>/dev/null; }; \
	if compiles; then exit 0; fi; \
	if [[ $$(id -u) == 0 ]] && command -v apt-get >/dev/null; then \
		echo "installing gcc, which the race detector needs"; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev </dev/null; \
	fi; \
	compiles || { echo "a C compiler is missing, which the race detector needs: as root, run apt-get install gcc libc6-dev"; exit 1; }

# Tests and benchmarks start database servers of their own from these packages.
# The packages' own servers are not wanted: RUNLEVEL=1 keeps them from starting.
.PHONY: engines
engines:
	@missing() { \
		command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || printf ' postgresql'; \
		command -v redis-server >/dev/null || printf ' redis-server'; \
	}; \
	packages=$$(missing); \
	if [[ -n $$packages && $$(id -u) == 0 ]] && command -v apt-get >/dev/null; then \
		echo "installing$$packages, which tests start servers from"; \
		apt-get update -qq; \
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages </dev/null; \
		packages=$$(missing); \
	fi; \
	[[ -z $$packages ]] || { echo "missing, and needed by tests: as root, run apt-get install$$packages"; exit 1; }

# Tests of what people see drive a browser, in one of them behind nginx. The server
# of nginx's own package is not wanted: see engines.
.PHONY: chromium
chromium:
	@missing() { \
		command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || printf ' chromium'; \
		command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] || printf ' nginx-light'; \
	}; \
	packages=$$(missing); \
	if [[ -n $$packages && $$(id -u) == 0 ]] && command -v apt-get >/dev/null; then \
		echo "installing$$packages, which tests of pages drive"; \
		apt-get update -qq; \
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages fonts-dejavu-core </dev/null; \
		packages=$$(missing); \
	fi; \
	[[ -z $$packages ]] || { echo "missing, and needed by tests: as root, run apt-get install$$packages"; exit 1; }

# Built at each use, which takes no time if nothing changed, and some minutes at the
# first: one that an older Go built cannot read the code of a newer one.
.PHONY: golangci-lint
golangci-lint: go
	@cd internal/tools && go build -o ../../$(BIN)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
