package gateway

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"kith/proto"
)

// This file is the audit log. A call about one person is a line of its own, which is
// durable before the answer begins: if it cannot be, the call is refused, but for
// those that only take away, which are never held up. Calls that come by the
// thousand are counted, for each key, route and minute. Whoever has no key that
// opens is not in it: nothing was touched.

// auditKind is how a route's calls are kept.
type auditKind int

const (
	auditNone    auditKind = iota // nobody's data are touched
	auditCounted                  // by key and minute
	auditListed                   // each, before its answer
	auditTaking                   // each, and the answer does not wait for it
)

// auditKinds are all routes of the service plane; a test fails where one is missing.
var auditKinds = map[string]auditKind{
	"POST /v1/events":                        auditCounted,
	"POST /v1/lookup":                        auditCounted,
	"POST /v1/openrtb":                       auditCounted,
	"GET /v1/identities/{identity}/segments": auditCounted,
	"POST /v1/links":                         auditCounted,
	"POST /v1/traits":                        auditCounted,
	"POST /v1/imports/{id}/rows":             auditCounted,
	"POST /v1/imports/check":                 auditCounted,
	"GET /v1/feed":                           auditCounted,
	"GET /v1/live":                           auditListed,
	"GET /v1/leakage":                        auditNone,
	"GET /v1/key":                            auditNone,
	"GET /console":                           auditNone,
	"GET /console/{file}":                    auditNone,
	"POST /v1/feed/identities":               auditCounted,

	"GET /v1/identities/{identity}":          auditListed,
	"PATCH /v1/identities/{identity}/traits": auditListed,
	"GET /v1/identities/{identity}/explain":  auditListed,
	"GET /v1/users/{identity}":               auditListed,
	"GET /v1/optouts/{identity}":             auditListed,
	"GET /v1/optouts":                        auditListed,
	"POST /v1/optins":                        auditListed,
	"POST /v1/receipts/verify":               auditListed,
	"POST /v1/audiences/export":              auditListed,
	"GET /v1/clients/{name}/export":          auditListed,
	"GET /v1/deadletters":                    auditListed,
	"POST /v1/deadletters/{id}/replay":       auditListed,
	"POST /v1/backup":                        auditListed,
	"POST /v1/keys":                          auditListed,
	"GET /v1/audit":                          auditListed,

	"POST /v1/optouts":                 auditTaking,
	"DELETE /v1/identities/{identity}": auditTaking,
	"DELETE /v1/links":                 auditTaking,
	"DELETE /v1/clients/{name}":        auditTaking,
	"POST /v1/erase":                   auditTaking,

	"GET /v1/receipts/key": auditNone, "GET /v1/segments": auditNone, "GET /v1/segments/{id}": auditNone, "PUT /v1/segments/{id}": auditNone,
	"DELETE /v1/segments/{id}": auditNone, "GET /v1/segments/{id}/sizes": auditNone, "POST /v1/audiences/count": auditNone,
	"POST /v1/audiences/overlap": auditNone, "GET /v1/audiences": auditNone, "GET /v1/audiences/{id}": auditNone, "PUT /v1/audiences/{id}": auditNone,
	"DELETE /v1/audiences/{id}": auditNone, "POST /v1/campaigns/report": auditNone, "GET /v1/aggregates": auditNone, "GET /v1/imports": auditNone,
	"POST /v1/imports": auditNone, "GET /v1/imports/{id}": auditNone, "DELETE /v1/imports/{id}": auditNone, "POST /v1/imports/{id}/commit": auditNone,
	"GET /v1/clients": auditNone, "GET /v1/clients/{name}/erasure": auditNone, "GET /v1/partitions": auditNone, "GET /v1/cluster": auditNone,
	"DELETE /v1/cluster/nodes/{name}": auditNone, "POST /v1/cluster/nodes/{name}/drain": auditNone, "DELETE /v1/cluster/nodes/{name}/drain": auditNone,
	"PUT /v1/cluster/lanes/{lane}/owner": auditNone, "DELETE /v1/cluster/lanes/{lane}/owner": auditNone, "GET /debug/pprof/{profile}": auditNone,
	"GET /v1/verify": auditNone, "GET /healthz": auditNone, "GET /readyz": auditNone, "GET /metrics": auditNone,
}

// Audits reports whether the audit log knows a route of the service plane, if only
// to keep nothing of it.
func Audits(route string) bool {
	_, ok := auditKinds[route]
	return ok
}

// Bounds of the audit log's way.
const (
	auditPendingMax = 4096 // lines that wait to be written; beyond, calls are refused
	auditWriteMax   = 5 * time.Second
	auditPageMax    = 1000
)

// auditor writes the audit log. Lines that come while others are written are
// written together; one of those who wait writes them.
type auditor struct {
	to  Audit
	now func() time.Time

	mu      sync.Mutex
	pending []proto.AuditRecord
	round   *auditRound
	writing bool

	tallies sync.Map       // tallyKey -> *tally
	later   sync.WaitGroup // lines that nobody waits for

	flushed sync.Mutex
	unsure  *counts // guarded by flushed: perhaps they are written
}

// auditRound is lines that are written together.
type auditRound struct {
	done chan struct{}
	lead chan struct{} // one slot: whoever takes it writes them

	// Set before done is closed.
	stored int // of the lines, from the first
	err    error
}

func newAuditRound() *auditRound {
	return &auditRound{done: make(chan struct{}), lead: make(chan struct{}, 1)}
}

// write returns once the line is durable, or cannot be, or nobody knows whether it is.
func (a *auditor) write(rec proto.AuditRecord) error {
	a.mu.Lock()
	if len(a.pending) >= auditPendingMax {
		a.mu.Unlock()
		return proto.Errorf(proto.CodeOverloaded, "%d calls wait for the audit log: try again", auditPendingMax)
	}
	at := len(a.pending)
	a.pending = append(a.pending, rec)
	if a.round == nil {
		a.round = newAuditRound()
	}
	mine := a.round
	if !a.writing {
		a.writing = true
		mine.lead <- struct{}{}
	}
	a.mu.Unlock()
	select {
	case <-mine.done:
	case <-mine.lead:
		a.writeRound()
	}
	if at < mine.stored {
		return nil
	}
	return mine.err
}

// writeRound writes what waits, and has one of the next round go on.
func (a *auditor) writeRound() {
	a.mu.Lock()
	list, round := a.pending, a.round
	a.pending, a.round = nil, nil
	a.mu.Unlock()
	round.err = errNotKept // unless it is
	defer func() {
		close(round.done)
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.writing = a.round != nil; a.writing {
			a.round.lead <- struct{}{}
		}
	}()
	b := &proto.AuditBatch{Records: list}
	round.err = a.append(b)
	round.stored = b.Stored
}

func (a *auditor) append(b *proto.AuditBatch) error {
	ctx, cancel := context.WithTimeout(context.Background(), auditWriteMax)
	defer cancel()
	if err := a.to.AppendAudit(ctx, b); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "the call cannot be written to the audit log: try again: %w", err)
	}
	return nil
}

// tallyKey is whose calls are counted together.
type tallyKey struct{ key, route string }

// tally is the calls of one minute.
type tally struct {
	who               proto.Principal
	requests, refused atomic.Uint64
}

func (t *tally) add(err error) {
	t.requests.Add(1)
	if err != nil {
		t.refused.Add(1)
	}
}

// counts are lines of what was counted, and where each comes from.
type counts struct {
	batch proto.AuditBatch
	from  []*tally
}

// flush writes what was counted; what cannot be written is counted on, and that of
// which nobody knows whether it is written is given again, before anything else.
func (a *auditor) flush(minute time.Time) error {
	a.flushed.Lock()
	defer a.flushed.Unlock()
	if a.unsure != nil {
		if err := a.writeCounts(a.unsure); err != nil {
			return err
		}
	}
	c := &counts{}
	a.tallies.Range(func(k, v any) bool {
		t := v.(*tally)
		if n := t.requests.Swap(0); n > 0 {
			c.batch.Records = append(c.batch.Records, proto.AuditRecord{Time: minute.UTC(), Key: t.who.Key, Role: t.who.Role, Client: t.who.Client, Route: k.(tallyKey).route, Requests: n, Refused: t.refused.Swap(0)})
			c.from = append(c.from, t)
		}
		return true
	})
	if len(c.from) == 0 {
		return nil
	}
	return a.writeCounts(c)
}

// writeCounts writes lines of flush, or has their calls counted on.
func (a *auditor) writeCounts(c *counts) error {
	err := a.append(&c.batch)
	if a.unsure = nil; c.batch.Unsure {
		a.unsure = c
		return err
	}
	for i := c.batch.Stored; i < len(c.from); i++ {
		c.from[i].requests.Add(c.batch.Records[i].Requests)
		c.from[i].refused.Add(c.batch.Records[i].Refused)
	}
	return err
}

// run writes what was counted at the turn of each minute, and at the end.
func (a *auditor) run(ctx context.Context, failed func(error)) {
	began := a.now().Truncate(time.Minute)
	for {
		wait := time.NewTimer(max(began.Add(time.Minute).Sub(a.now()), time.Second))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
		if err := a.flush(began); err != nil {
			failed(err)
		}
		if ctx.Err() != nil {
			a.later.Wait()
			return
		}
		began = a.now().Truncate(time.Minute)
	}
}

// audited has a route's calls kept as auditKinds says.
func (g *Gateway) audited(route string, h handler) handler {
	if g.audit == nil {
		return h
	}
	switch kind := auditKinds[route]; kind {
	case auditCounted:
		return g.countedCalls(route, h)
	case auditListed, auditTaking:
		return func(w http.ResponseWriter, r *http.Request) error {
			a := &auditWriter{ResponseWriter: w, g: g, taking: kind == auditTaking, request: r, route: route}
			err := h(a, r)
			if a.refused {
				return nil // that is the answer
			}
			if err != nil && !a.kept {
				if code := asError(err).Code; kind == auditTaking && (code == proto.CodeRateLimited || code == proto.CodeOverloaded) && a.who.Role != "" {
					g.audit.tallyFor(a.who, route).add(err) // nothing was done, and it may come by the thousand
					return err
				}
				if e := a.keep(statusOf(asError(err).Code)); e != nil {
					return e
				}
			}
			return err
		}
	}
	return h
}

// countedCalls counts a route's calls by key. A key is asked about when it is first
// seen.
func (g *Gateway) countedCalls(route string, h handler) handler {
	var known sync.RWMutex
	tallies := map[string]*tally{} // by key
	return func(w http.ResponseWriter, r *http.Request) error {
		err := h(w, r)
		key := keyOf(r.Header["Authorization"])
		known.RLock()
		t := tallies[key]
		known.RUnlock()
		if t == nil {
			if t = g.tallyOf(key, route); t == nil {
				return err
			}
			known.Lock()
			tallies[key] = t
			known.Unlock()
		}
		t.add(err)
		return err
	}
}

// tallyOf is the counter of a key's calls, nil if the key does not open.
func (g *Gateway) tallyOf(key, route string) *tally {
	who, ok := g.deps.Accounts.Authenticate(key)
	if !ok {
		return nil
	}
	return g.audit.tallyFor(who, route)
}

// countRefused counts that another node refused a call, where this one counts it.
func (g *Gateway) countRefused(who proto.Principal, route string) {
	if g.audit != nil && auditKinds[route] == auditCounted {
		g.audit.tallyFor(who, route).refused.Add(1)
	}
}

// countInstead has a call counted that no node answered, not listed: nobody was told
// anything, and the log may be as far away as the other nodes.
func countInstead(w http.ResponseWriter, err error) {
	if a, ok := w.(*auditWriter); ok && !a.kept {
		a.kept = true
		a.g.audit.tallyFor(a.who, a.route).add(err)
	}
}

func (a *auditor) tallyFor(who proto.Principal, route string) *tally {
	v, _ := a.tallies.LoadOrStore(tallyKey{who.Key, route}, &tally{who: who})
	return v.(*tally)
}

// countCall counts a call over NATS; err is why it was refused, nil if it was not.
func (g *Gateway) countCall(who proto.Principal, route string, err error) {
	if g.audit != nil {
		g.audit.tallyFor(who, route).add(err)
	}
}

// listOptOut keeps opt-outs over NATS, which are done: they are not held up.
func (g *Gateway) listOptOut(who proto.Principal, ids []proto.Identity, err error) {
	if g.audit == nil {
		return
	}
	status := http.StatusOK
	if err != nil {
		status = statusOf(asError(err).Code)
	}
	rec := proto.AuditRecord{Time: g.c.Now().UTC(), Key: who.Key, Role: who.Role, Client: who.Client, Route: natsOptOutRoute, Status: status}
	if len(ids) == 1 {
		rec.Identity = g.identityHash(ids[0])
	} else {
		rec.Count = len(ids)
	}
	g.keepLater(rec)
}

// auditWriter keeps a call's line before the first byte of its answer.
type auditWriter struct {
	http.ResponseWriter
	g       *Gateway
	request *http.Request
	route   string
	taking  bool

	who      proto.Principal
	identity proto.Identity
	count    int
	kept     bool
	refused  bool // the answer is that it could not be kept
}

// keep writes the line.
func (a *auditWriter) keep(status int) error {
	a.kept = true
	if a.who.Role == "" {
		return nil // no key that opens
	}
	rec := proto.AuditRecord{Time: a.g.c.Now().UTC(), Key: a.who.Key, Role: a.who.Role, Client: a.who.Client, Route: a.route, Status: status, Count: a.count}
	if rec.Client == "" {
		rec.Client = clientOrNone(queryValue(a.request.URL.RawQuery, "client"))
	}
	if a.identity == "" {
		a.identity, _ = parseIdentity(a.request.PathValue("identity"))
	}
	if a.identity != "" {
		rec.Identity = a.g.identityHash(a.identity)
	}
	if a.taking {
		a.g.keepLater(rec)
		return nil
	}
	err := a.g.audit.write(rec)
	if err != nil {
		a.g.metrics.auditFailed.Inc()
	}
	return err
}

// keepLater writes the line of a call that is not held up.
func (g *Gateway) keepLater(rec proto.AuditRecord) {
	g.audit.later.Go(func() {
		if err := g.audit.write(rec); err != nil {
			g.metrics.auditFailed.Inc()
			g.log.Error("a call that was answered is not in the audit log", "route", rec.Route, "key", rec.Key, "error", err)
		}
	})
}

func clientOrNone(s string) proto.ClientName {
	name, err := proto.ParseClientName(s)
	if err != nil {
		return ""
	}
	return name
}

// identityHash is how an identity is told in the audit log.
func (g *Gateway) identityHash(id proto.Identity) string {
	h := g.deps.Intake.Hasher().Hash(id)
	return h.String()
}

// WriteHeader implements http.ResponseWriter.
func (a *auditWriter) WriteHeader(status int) {
	if !a.kept {
		if err := a.keep(status); err != nil {
			a.refused = true
			fail(a.ResponseWriter, a.unkept(err, status))
			return
		}
	}
	if !a.refused {
		a.ResponseWriter.WriteHeader(status)
	}
}

// unkept is the answer to a call that could not be kept: one that changes something
// has done so.
func (a *auditWriter) unkept(err error, status int) error {
	if status >= http.StatusBadRequest || !auditChanges[a.route] {
		return err
	}
	e := asError(err)
	return &proto.Error{Code: e.Code, Message: "the call is done, but its line cannot be written to the audit log, so its answer is withheld: call again for it once the log takes lines", Err: e}
}

// auditChanges are the calls that are kept before their answer and change
// something.
var auditChanges = map[string]bool{
	"PATCH /v1/identities/{identity}/traits": true, "POST /v1/optins": true, "POST /v1/deadletters/{id}/replay": true, "POST /v1/keys": true,
}

var errNotKept = proto.Errorf(proto.CodeUnavailable, "the call cannot be written to the audit log")

// Write implements io.Writer.
func (a *auditWriter) Write(p []byte) (int, error) {
	if !a.kept {
		a.WriteHeader(http.StatusOK)
	}
	if a.refused {
		return 0, errNotKept // nothing of it is told
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap lets deadlines through.
func (a *auditWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// noteWho and noteIdentities say what a call's line is to hold.
func noteWho(w http.ResponseWriter, who proto.Principal) {
	if a, ok := w.(*auditWriter); ok {
		a.who = who
	}
}

func noteIdentities(w http.ResponseWriter, ids ...proto.Identity) {
	if a, ok := w.(*auditWriter); ok && len(ids) > 0 {
		if len(ids) == 1 {
			a.identity = ids[0]
		} else {
			a.count = len(ids)
		}
	}
}

// getAudit gives lines of the audit log.
func (g *Gateway) getAudit(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	q := proto.AuditQuery{Limit: 100}
	v, err := parseQuery(r.URL.RawQuery, "client", "identity", "since", "until", "after", "limit")
	if err != nil {
		return err
	}
	if s := v.Get("client"); s != "" {
		if q.Client, err = proto.ParseClientName(s); err != nil {
			return err
		}
	}
	if s := v.Get("identity"); s != "" {
		id, err := parseIdentity(s)
		if err != nil {
			return err
		}
		noteIdentities(w, id)
		q.Identity = g.identityHash(id)
	}
	for _, f := range []struct {
		name string
		to   *time.Time
	}{{"since", &q.Since}, {"until", &q.Until}} {
		if s := v.Get(f.name); s != "" {
			if *f.to, err = queryTime(f.name, s); err != nil {
				return err
			}
		}
	}
	if s := v.Get("after"); s != "" {
		if q.After, err = strconv.ParseUint(s, 10, 63); err != nil {
			return proto.Errorf(proto.CodeInvalid, "after is %q: send next of an answer", clip(s))
		}
	}
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 1 || q.Limit > auditPageMax {
			return proto.Errorf(proto.CodeInvalid, "limit is %q: use 1 to %d", clip(s), auditPageMax)
		}
	}
	page, err := g.deps.Audit.AuditPage(r.Context(), q)
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, page)
}
