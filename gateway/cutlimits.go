package gateway

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"kith/proto"
)

// This file bounds opt-outs, erasures and opt-ins. Each writes for ever, to the
// ledger and as a tombstone, also of an identity that never was; so they must not
// come at any rate that somebody likes. What is refused here is not done at all,
// and whoever asked is told.

// Bounds of what browsers ask of themselves.
const (
	networkCutEvery = time.Second // of a network of visitors
	networkCutBurst = 60
	proxyCutShares  = 10 // a network of requests that say they were passed on has so many times as much

	strangerCutsPerSecond = 100 // of identities that nothing is kept of, on a node
	strangerCutsBurst     = 1000
)

// Bounds of the identities that are being cut at once.
const (
	cutsOfClientMax = 4096
	cutsOfKeysMax   = 16384 // all clients'
	ownCutsMax      = 1024  // of the public plane
)

// lingeringMax bounds the refusals that wait to be answered; more are answered at
// once.
const lingeringMax = 20_000

// cutLimits are the allowances.
type cutLimits struct {
	clients   sync.Map // proto.ClientID -> *clientCuts
	keys      atomic.Int64
	own       atomic.Int64
	lingering atomic.Int64
	awaiting  atomic.Int64
	lookedUp  atomic.Int64 // when somebody looked up last; ns
	browsers  spread       // of the public plane
	madeUp    spread       // likewise, of identities that nothing is kept of
	networks  *networks
	proxies   *networks // by a connection's, where a request says that it was passed on
	strangers *rate.Limiter
	visitors  *rate.Limiter // nil: without limit
}

// clientCuts are what one client, or all admin keys, have cut.
type clientCuts struct {
	rate   *rate.Limiter // nil: without limit
	going  atomic.Int64
	spread spread
}

// Bounds of the cuts of one client, or of all browsers, while somebody looks
// identities up: many at once would take the processor from all of these at once.
const (
	besideLookups = 500 * time.Millisecond // after the last look-up nobody waits for one
	spreadBurst   = 16
	spreadMax     = time.Second // who would wait longer is refused
	spreadList    = 32          // of a list at once
	// spreadTogether is how often those go on that wait, all together: each by itself
	// has syncs of its own, and takes five times as much.
	spreadTogether = 40 * time.Millisecond
)

// spread spreads cuts over time.
type spread struct {
	mu   sync.Mutex
	next time.Time // guarded by mu: when one more is due
}

// take has n more be due, and gives how long they are to wait. Where that is over
// most they are not.
func (s *spread) take(n int, every, most time.Duration, now time.Time) (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.next
	if first := now.Add(-spreadBurst * every); due.Before(first) {
		due = first
	}
	if wait = max(0, due.Sub(now)); wait > most {
		return wait, false
	}
	s.next = due.Add(time.Duration(n) * every)
	return wait, true
}

// takeLookup is an empty look-up for who asks of an identity's segments; freeLookup
// gives it back. While there are any, cuts are spread.
func (g *Gateway) takeLookup() *lookup {
	if now := time.Now().UnixNano(); now-g.cuts.lookedUp.Load() > int64(besideLookups/4) {
		g.cuts.lookedUp.Store(now)
	}
	return g.lookups.Get().(*lookup)
}

// besideLookups reports whether cuts are spread, since somebody looks identities up.
func (g *Gateway) besideLookups() bool {
	since := time.Now().UnixNano() - g.cuts.lookedUp.Load()
	return g.c.OptOutsBesideLookups > 0 && since >= 0 && since <= int64(besideLookups)
}

// turn has n cuts be due, if somebody looks identities up, and gives how long they
// are to wait; who would wait for over most is refused.
func (g *Gateway) turn(s *spread, n int, most time.Duration) (wait time.Duration, err error) {
	if !g.besideLookups() {
		return 0, nil
	}
	now := time.Now() // not the node's clock, which may be set back
	wait, ok := s.take(n, time.Duration(float64(time.Second)/g.c.OptOutsBesideLookups), most, now)
	if !ok {
		return 0, g.limitedCut(wait, "over %g identities/s are opted out, erased or opted in while others are looked up: nothing of this request is done; ask again after Retry-After", g.c.OptOutsBesideLookups)
	}
	if due := now.Add(wait); wait > 0 && due.Truncate(spreadTogether) != due {
		wait = due.Truncate(spreadTogether).Add(spreadTogether).Sub(now)
	}
	return wait, nil
}

func newCutLimits(c *Config) *cutLimits {
	x := &cutLimits{
		networks:  newNetworks(networkCutEvery, networkCutBurst),
		proxies:   newNetworks(networkCutEvery/proxyCutShares, networkCutBurst*proxyCutShares),
		strangers: rate.NewLimiter(strangerCutsPerSecond, strangerCutsBurst),
	}
	if n := c.OwnOptOutsPerSecond; n != 0 {
		x.visitors = rate.NewLimiter(rate.Limit(n), max(int(n), severalMax))
	}
	return x
}

// clientCuts is the account of a principal; admin keys have one in common.
func (g *Gateway) clientCuts(who proto.Principal) *clientCuts {
	id := proto.ClientID(0)
	most := g.c.OptOutsPerSecond
	if who.Role != proto.RoleAdmin {
		client, _ := g.deps.Accounts.Client(who.Client)
		id = client.ID
		if own := g.c.Quotas[who.Client].OptOutsPerSecond; own != 0 {
			most = own
		}
	}
	v, ok := g.cuts.clients.Load(id)
	if !ok {
		x := &clientCuts{}
		if most != 0 {
			x.rate = rate.NewLimiter(rate.Limit(most), max(int(most), optOutsMax))
		}
		v, _ = g.cuts.clients.LoadOrStore(id, x)
	}
	return v.(*clientCuts)
}

// reserve counts n more in work, unless that is over most.
func reserve(going *atomic.Int64, n, most int) bool {
	if going.Add(int64(n)) <= int64(most) {
		return true
	}
	going.Add(int64(-n))
	return false
}

// admitCuts lets a key cut n identities. done must be called when that is over.
func (g *Gateway) admitCuts(who proto.Principal, n int) (done func(), err error) {
	return g.admitCutsOf(g.clientCuts(who), n)
}

// admitCutsOf is admitCuts of an account.
func (g *Gateway) admitCutsOf(x *clientCuts, n int) (done func(), err error) {
	if !reserve(&x.going, n, cutsOfClientMax) {
		return nil, overloadedCut(cutsOfClientMax, "of this client")
	}
	done = func() { x.going.Add(int64(-n)) }
	if !reserve(&g.cuts.keys, n, cutsOfKeysMax) {
		done()
		return nil, overloadedCut(cutsOfKeysMax, "on this node")
	}
	done = func() {
		x.going.Add(int64(-n))
		g.cuts.keys.Add(int64(-n))
	}
	if x.rate != nil && !x.rate.AllowN(g.c.Now(), n) {
		done()
		return nil, g.limitedCut(time.Second, "over %g identities/s are opted out, erased or opted in by this client: nothing of this request is done; send it again, and more slowly", float64(x.rate.Limit()))
	}
	return done, nil
}

func overloadedCut(most int, whose string) error {
	return proto.Errorf(proto.CodeOverloaded, "%d opt-outs %s are under way: nothing of this request is done; send it again when one of yours is answered", most, whose)
}

// limitedCut is a refusal by rate.
func (g *Gateway) limitedCut(wait time.Duration, format string, args ...any) error {
	g.metrics.cutsLimited.Inc()
	e := proto.Errorf(proto.CodeRateLimited, format, args...)
	e.RetryAfter = wait
	return e
}

// ownCut has cut take an identity of a browser's own out. One whose opt-out is
// final already is told how it stands: each cut writes for ever.
func (g *Gateway) ownCut(r *http.Request, v *visit, id proto.Identity, cut func() (proto.OptOutState, error)) (proto.OptOutState, error) {
	if err := g.admitNetwork(r); err != nil {
		g.linger(r.Context(), g.c.RefusalPause)
		return proto.OptOutState{}, err
	}
	if s, err := g.deps.OptOuts.OptOutStateFor(r.Context(), g.toldOf(v, id), id); err == nil && s.OptedOut && s.Final {
		return stateOf(s, id), nil
	}
	done, err := g.admitVisitor(id)
	if err != nil {
		g.linger(r.Context(), g.c.RefusalPause)
		return proto.OptOutState{}, err
	}
	defer done()
	return cut()
}

// ownCuts is ownCut of all that a browser carries, at once: one after another many would
// take longer than who asked waits. An error means that some may be cut and some not.
func (g *Gateway) ownCuts(r *http.Request, v *visit, ids []proto.Identity, cut func(proto.Identity) (proto.OptOutState, error)) ([]proto.OptOutState, error) {
	states, errs := make([]proto.OptOutState, len(ids)), make([]error, len(ids))
	var going sync.WaitGroup
	for i, id := range ids {
		going.Go(func() {
			states[i], errs[i] = g.ownCut(r, v, id, func() (proto.OptOutState, error) { return cut(id) })
		})
	}
	going.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return states, nil
}

// finalPoll is the time between looks at cuts that are not final, awaitingMax how many
// requests look at once; more are answered without.
const (
	finalPoll   = 100 * time.Millisecond
	awaitingMax = 512
)

// awaitFinal looks at cuts of a browser's own until all are final, or the time since the
// request began is over: who asked is a person, who will not ask once more for the receipt.
func (g *Gateway) awaitFinal(ctx context.Context, v *visit, list []proto.OptOutState, began time.Time) {
	going := func(s proto.OptOutState) bool { return !s.Final }
	if !slices.ContainsFunc(list, going) || !reserve(&g.cuts.awaiting, 1, awaitingMax) {
		return
	}
	defer g.cuts.awaiting.Add(-1)
	ctx, cancel := context.WithDeadline(ctx, began.Add(g.c.FinalWait))
	defer cancel()
	for i := range list {
		for s := &list[i]; !s.Final; {
			select {
			case <-time.After(finalPoll):
			case <-ctx.Done():
				return
			}
			if now, err := g.deps.OptOuts.OptOutStateFor(ctx, g.toldOf(v, s.Identity), s.Identity); err == nil && now.OptedOut == s.OptedOut {
				now.Identity = s.Identity
				*s = now
			}
		}
	}
}

// admitRequest is admitCuts for a request, and waits for the turn of the first
// spreadList of them, also if the caller goes away; who is refused lingers.
func (g *Gateway) admitRequest(r *http.Request, who proto.Principal, n int) (done func(), err error) {
	wait, err := g.turn(&g.clientCuts(who).spread, min(n, spreadList), spreadMax)
	if err == nil {
		done, err = g.admitCuts(who, n)
	}
	if err != nil {
		g.linger(r.Context(), g.c.RefusalPause/keysLingerLess)
		return nil, err
	}
	time.Sleep(wait)
	return done, nil
}

// keysLingerLess is how much shorter refusals of keys are held back than those of
// browsers: a client that sends many in a row has its next allowance in a second.
const keysLingerLess = 4

// linger holds a refusal back, for half of the pause to one and a half times as long: a
// connection that takes no notice of Retry-After brings the next one later, and costs
// others less. By chance, since all that were refused in one moment would else come again
// in one.
func (g *Gateway) linger(ctx context.Context, pause time.Duration) {
	if pause <= 0 || !reserve(&g.cuts.lingering, 1, lingeringMax) {
		return
	}
	defer g.cuts.lingering.Add(-1)
	t := time.NewTimer(about(pause))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// about is half of d to one and a half times as much, by chance.
func about(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// admitNetwork takes one from the allowance of the visitor's network.
func (g *Gateway) admitNetwork(r *http.Request) error {
	limit := g.cuts.networks
	p, proxy, known := g.networkOrProxy(r)
	if !known {
		return nil
	}
	if proxy {
		limit = g.cuts.proxies
	}
	wait := limit.take(p, g.c.Now())
	if wait <= 0 {
		return nil
	}
	return g.limitedCut(wait, "too many opt-outs come from your network: nothing is cut out yet; ask again after Retry-After")
}

// admitOwn is admitNetwork and admitVisitor.
func (g *Gateway) admitOwn(r *http.Request, id proto.Identity) (done func(), err error) {
	if err := g.admitNetwork(r); err != nil {
		return nil, err
	}
	return g.admitVisitor(id)
}

// admitVisitor lets a browser have an identity cut or opted in. done must be called
// when that is over. Identities that nothing is kept of are made up by whoever
// floods; people are not kept waiting by them.
func (g *Gateway) admitVisitor(id proto.Identity) (done func(), err error) {
	limit, spread := g.cuts.visitors, &g.cuts.browsers
	if kept, err := g.deps.OptOuts.Keeps(id); err == nil && !kept {
		limit, spread = g.cuts.strangers, &g.cuts.madeUp
	}
	wait, err := g.turn(spread, 1, spreadMax)
	if err != nil {
		return nil, err
	}
	if limit != nil && !limit.AllowN(g.c.Now(), 1) {
		return nil, g.limitedCut(10*time.Second, "too many opt-outs come at once: nothing is cut out yet; ask again after Retry-After")
	}
	if !reserve(&g.cuts.own, 1, ownCutsMax) {
		return nil, overloadedCut(ownCutsMax, "of browsers")
	}
	time.Sleep(wait)
	return func() { g.cuts.own.Add(-1) }, nil
}
