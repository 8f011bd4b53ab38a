# `make run` and `make test` need Go and git, nothing else.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL := go tool -modfile=tools.mod
PKGS := ./...
T ?= 30s
SEEDS ?= 1000
KILLS ?= 50
ROUNDS ?=
CHECKS ?= 20000
IDENTITIES ?= 650000
DATA ?= ./kith-data
RUN ?=
ONCE ?=

# One kind of build for the program, its tests and the linters, so that what is
# imported is compiled once; the race detector needs cgo.
export CGO_ENABLED := 0
export GOFLAGS := $(shell go env GOFLAGS) -trimpath

# What targets below run more often, longer, or with a browser. With ONCE=1, as in
# .ci/run, which runs these too, `make test` leaves them out.
KILLED := TestKilledNodeLosesNothing|TestGraphKills|TestFeedOverKills
ELSEWHERE := ^($(KILLED)|TestSimulation|TestClusterAnswersAsOne|TestClusterNodeStopsWhileItWaits|TestClusterSecrets|TestClusterByCertificates)$$|InABrowser

.PHONY: help run demo test build lint test-race test-kill test-graph test-sim test-mistakes test-cluster test-browser test-rules test-readers cluster tag fuzz bench proto fmt deadcode clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

run: build ## one node with everything embedded, a demo site and live traffic
	@exec bin/kith serve --dev --demo --data $(DATA) $(RUN)

build: ## static binary bin/kith
	go build -ldflags '$(LDFLAGS)' -o bin/kith ./cmd/kith

test: ## all tests that need no network namespace, browser or hour
	go test -timeout 30m $(if $(ONCE),-vet=off -skip '$(ELSEWHERE)') $(PKGS)

test-race: export CGO_ENABLED := 1
test-race: ## the short tests under the race detector
	go test -vet=off -race -short -timeout 40m $(PKGS)

test-kill: ## kill -9 a node under load, KILLS times (50); a few minutes
	KITH_KILLS=$(KILLS) go test -count=1 -timeout 30m -v -run '$(KILLED)' ./cmd/kith

test-graph: ## 650,000 identities, hubs and kiosks, 1 and 4 lanes, through the real binary
	KITH_GRAPH=$(IDENTITIES) go test -count=1 -timeout 90m -v -run TestGraphAtScale ./cmd/kith

lint: ## vet, formatting, staticcheck, import direction
	go vet $(PKGS)
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not formatted (gofmt -w):"; echo "$$out"; exit 1; }
	$(TOOL) staticcheck $(PKGS)
	go test ./internal/importtest

fmt: ## format as lint wants it
	gofmt -w $$(git ls-files '*.go')

deadcode: ## functions that nothing reaches
	$(TOOL) deadcode -test $(PKGS)

fuzz: ## every fuzz target for T, a time or a number of inputs (30s, 20000x)
	@.ci/fuzz $(T)

bench: build ## the comparisons of the design on this machine
	bin/kith bench

proto: ## generate proto/pb from proto/kith.proto
	@mkdir -p bin
	go build -o bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
	PATH="$(CURDIR)/bin:$$PATH" $(TOOL) buf generate --path proto \
	  --template '{"version":"v2","plugins":[{"local":"protoc-gen-go","out":".","opt":["module=kith"]}]}'

clean: ## remove what was built; data stay
	rm -rf bin

test-sim: ## the simulations of the graph and of the engine, SEEDS seeds (1000) with 1, 2 and 3 lanes, the engine's a tenth
	go test -count=1 -timeout 60m ./graph -run TestSimulation -seeds $(SEEDS) -lanes 0
	go test -count=1 -timeout 60m ./engine/sim -run TestSimulation -seeds $$((($(SEEDS) + 9) / 10)) -lanes 0

test-mistakes: ## plant known mistakes in the graph and the engine and see that each is noticed; some minutes
	go test -count=1 -timeout 60m ./graph -run TestMistakes -mistakes all -mistake-seeds 3000
	go test -count=1 -timeout 60m ./engine/sim -run TestMistakes -mistakes all

tag: ## build gateway/kith.min.js, the tag that is served, from gateway/kith.js
	go generate ./gateway

test-browser: ## the tag, the pages for people, the console and the tour in Debian's chromium; KITH_SCREENSHOTS=DIR keeps pictures
	go test -count=1 -v -run InABrowser ./gateway ./cmd/kith

test-rules: ## CHECKS (20000) random sets of rules and histories, each compared at every step, some ten, with a plain reading
	go test -count=1 -timeout 60m ./segments -run 'AgreesWithPlainReading|UpdateEqualsFromTheStart|TicksDoNotMatter' -rapid.checks=$(CHECKS)

test-readers: ## exports read by CRoaring and DuckDB, which it builds: it needs g++ and CRoaring (Debian: libroaring-dev)
	KITH_READERS=1 CGO_ENABLED=1 go test -count=1 -v ./internal/exports -run 'CRoaringReads|DuckDBReads'

test-cluster: ## three nodes as processes: killed, paused, parted, on a full disk, with stepped clocks; some minutes, with ROUNDS=15 most of an hour
	KITH_CLUSTER=1 KITH_ROUNDS=$(ROUNDS) go test -count=1 -v -timeout 90m -run 'TestCluster|TestPaused' ./cmd/kith

cluster: build ## three nodes on loopback, until interrupted
	deploy/three-nodes.sh
