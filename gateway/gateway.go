// Package gateway is the outside of kith: the public plane for browsers and
// apps, the service plane for those with a key, and the same over NATS.
//
// It checks every request (client, consent, form, limits, personal data) and
// turns events into packed commands for the Intake; an event is acknowledged
// only when the Intake said that it is durable. Look-ups go to the
// Memberships' read views. docs/api.md is its contract.
//
// It holds no state beside limiters and metrics, stores nothing, and never
// passes an IP address on: where a client infers something of networks, what goes on is
// a keyed hash of one that was cut. It decides nothing about membership, links or
// opt-outs: those are the log's. NATS subjects that it answers:
//
//	kith.in.<client>   events
//	kith.query.lookup  look-ups
//	kith.query.count   counts
//	kith.optout        opt-outs
package gateway

import (
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"kith/internal/fair"
	"kith/proto"
)

// Gateway answers on both planes and over NATS. It is safe for concurrent use.
type Gateway struct {
	c       Config
	deps    Dependencies
	log     *slog.Logger
	metrics *metrics
	public  *plane
	service *plane
	tag     asset
	blocked map[proto.Identity]struct{} // read only after New

	sessions  *sessions
	partners  map[partnerKey]partner // read only after New
	policies  policies
	rules     keepOuts // read only after New
	inferring inferring
	pages     pages
	audit     *auditor // nil: no call is kept

	exporting exporting
	records   *records
	previews  *fair.Queue
	live      *live
	console   map[string]asset // read only after New

	posts   sync.Pool // *post
	lookups sync.Pool // *lookup
	gzips   sync.Pool // *gzip.Reader
	zstds   sync.Pool // *zstd.Decoder

	// Bytes of bodies under way on each plane, but for the first of each: strangers
	// leave those who have keys their room.
	bodies       atomic.Int64
	publicBodies atomic.Int64

	unpacking chan struct{} // a slot for each body that is being decompressed

	bids sync.Pool // *bid
	macs sync.Pool // hash.Hash, of pseudonyms

	proofKey []byte // of browsers' proofs

	cookies map[cookieKind]string // attributes of those that are set for each event; read only after New

	limiters sync.Map // limiterKey -> *rate.Limiter, at most two a client

	days           sync.Map // proto.ClientID -> *dayCount
	lookupLimiters sync.Map // proto.ClientID -> *rate.Limiter
	limitsLookups  bool

	cuts          *cutLimits
	addressHeader string // in canonical form; empty: none
}

type limiterKey struct {
	public bool
	client proto.ClientID
}

// New makes a gateway in front of deps. It starts nothing.
func New(c Config, deps Dependencies) (*Gateway, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if deps.Intake == nil || deps.Memberships == nil || deps.Definitions == nil || deps.Accounts == nil || deps.Operations == nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the gateway needs an intake, memberships, definitions, accounts and operations")
	}
	if deps.Graph == nil || deps.OptOuts == nil || deps.Holdings == nil || deps.Audiences == nil || deps.Saved == nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the gateway needs a graph, opt-outs, holdings, audiences and saved audiences")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry == nil {
		deps.Registry = prometheus.NewRegistry()
	}
	g := &Gateway{c: c.withDefaults(), deps: deps, log: deps.Log, blocked: map[proto.Identity]struct{}{}, live: newLive()}
	for _, id := range c.Blocked {
		g.blocked[id] = struct{}{}
	}
	var err error
	if g.partners, err = partnersOf(g.c.Partners); err != nil {
		return nil, err
	}
	if g.sessions, err = newSessions(g.c.BotsDropped); err != nil {
		return nil, err
	}
	g.policies, g.inferring = newPolicies(g.c), newInferring(g.c)
	if g.rules, err = newKeepOuts(g.c); err != nil {
		return nil, err
	}
	if g.pages, err = newPages(g.c.PseudonymKey); err != nil {
		return nil, err
	}
	if g.metrics, err = newMetrics(deps.Registry); err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "register the gateway's metrics: %w", err)
	}
	if g.tag, err = tagAsset(); err != nil {
		return nil, err
	}
	if g.console, err = consoleAssets(); err != nil {
		return nil, err
	}
	g.unpacking = make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	g.previews = fair.New(previewsMax)
	g.records = newRecords()
	g.posts.New = func() any { return new(post) }
	g.lookups.New = func() any { return new(lookup) }
	g.bids.New = func() any { return new(bid) }
	g.macs.New = newMAC(g.c.PseudonymKey)
	g.proofKey = derivedKey(g.c.PseudonymKey, "proofs of browsers")
	g.limitsLookups = g.c.limitsSomeLookups()
	g.cuts = newCutLimits(&g.c)
	g.addressHeader = http.CanonicalHeaderKey(g.c.AddressHeader)
	kept := cookieKind{browserCookieAge, true}
	g.cookies = map[cookieKind]string{kept: g.cookieAttributes(kept)}
	if deps.Audit != nil {
		g.audit = &auditor{to: deps.Audit, now: g.c.Now}
	}
	g.public = g.publicRoutes()
	g.service = g.serviceRoutes()
	return g, nil
}

// Public is the plane of tags, apps and people.
func (g *Gateway) Public() http.Handler { return g.public }

// Service is the plane of those with a key.
func (g *Gateway) Service() http.Handler { return g.service }

// Listening is Service for who comes over a network: with --dev keys are taken at home
// only.
func (g *Gateway) Listening() http.Handler {
	if g.c.Dev {
		return atHome(g.service)
	}
	return g.service
}

// admitRate takes n events from the client's allowance on a plane, and of the day
// that it gives.
func (g *Gateway) admitRate(public bool, client proto.ClientInfo, n int) (proto.Day, error) {
	most, burst := g.c.EventsPerSecond, g.c.EventsBurst
	if own := g.c.Quotas[client.Name].EventsPerSecond; own != 0 {
		most, burst = own, max(int(own), g.c.EventsMax)
	}
	if most == 0 {
		return g.admitDay(client, n)
	}
	key := limiterKey{public, client.ID}
	v, ok := g.limiters.Load(key)
	if !ok {
		v, _ = g.limiters.LoadOrStore(key, rate.NewLimiter(rate.Limit(most), burst))
	}
	if v.(*rate.Limiter).AllowN(g.c.Now(), n) {
		return g.admitDay(client, n)
	}
	g.metrics.limited.Inc()
	return 0, proto.Errorf(proto.CodeRateLimited, "this client sends over %g events/s: slow down and send again", most)
}

func (g *Gateway) millis() proto.Millis { return proto.MillisOf(g.c.Now()) }

// clientNamed finds a client for a caller who may know of it.
func (g *Gateway) clientNamed(name string) (proto.ClientInfo, error) {
	if name == "" {
		return proto.ClientInfo{}, proto.Errorf(proto.CodeClient, "name the client")
	}
	n, err := proto.ParseClientName(name)
	if err != nil {
		return proto.ClientInfo{}, err
	}
	client, ok := g.deps.Accounts.Client(n)
	if !ok {
		return proto.ClientInfo{}, proto.Errorf(proto.CodeClient, "client %q is unknown: check the name, or make it with kith key create", name)
	}
	return client, nil
}

// floor is the least count that keys of the client may see.
func (g *Gateway) floor(client proto.ClientInfo) int {
	if client.Floor > 0 {
		return client.Floor
	}
	return g.c.FloorDefault
}

// floorFor is the least that the principal may see a number of.
func (g *Gateway) floorFor(who proto.Principal, client proto.ClientInfo) int {
	if who.Role == proto.RoleAdmin {
		return 0
	}
	return g.floor(client)
}

// exempt reports whether the client's accounts need no proof.
func (g *Gateway) exempt(client proto.ClientInfo) bool {
	return slices.Contains(g.c.Unproven, client.Name) || g.c.Dev && client.Name == "demo"
}
