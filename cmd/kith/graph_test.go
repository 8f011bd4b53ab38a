package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"kith/engine"
	"kith/internal/config"
	"kith/proto"
)

// What the tests of the graph through the real program share: a node in a
// process of its own, what it says of users, and a dumb twin of what it
// decides. graphscale_test.go, graphunmerge_test.go and graphkill_test.go
// have the tests.

// The bounds that docs and design give for links of one identity and
// identities of one user.
const (
	graphEdgesMax   = 32
	graphMembersMax = 64
)

// linked is the answer to a link that is made; others are reasons against it.
const linked = "linked"

// graphLanes are the numbers of lanes that tests run with: one, and four, which relay
// messages to each other. Short runs, for the race detector, have four alone.
func graphLanes() []string {
	if testing.Short() {
		return []string{"4"}
	}
	return []string{"1", "4"}
}

// graphNode is a node in a process of its own, spoken to over many connections.
type graphNode struct {
	*process
	client, admin *connection
	again         atomic.Int64 // requests that were sent again
}

// startGraphNode is startProcess with connections that are kept.
func startGraphNode(t *testing.T, data string, args ...string) *graphNode {
	t.Helper()
	return speakTo(t, startProcess(t, data, args...))
}

func speakTo(t *testing.T, p *process) *graphNode {
	n := &graphNode{process: p}
	transport := &http.Transport{MaxIdleConnsPerHost: 1024}
	t.Cleanup(transport.CloseIdleConnections)
	none := func(string) string { return "" }
	n.client = &connection{service: n.service, key: config.DevKey, getenv: none, http: http.Client{Transport: transport}}
	n.admin = &connection{service: n.service, key: config.DevAdminKey, client: config.DevClient, getenv: none, http: http.Client{Transport: transport}}
	return n
}

func tail(s string, most int) string { return s[max(0, len(s)-most):] }

const patience = 3 * time.Minute

// patiently does what a client does that is told to try again.
func (n *graphNode) patiently(ctx context.Context, do func() error) error {
	for deadline := time.Now().Add(patience); ; n.again.Add(1) {
		err := do()
		switch proto.CodeOf(err) {
		case proto.CodeTimeout, proto.CodeOverloaded, proto.CodeRateLimited, proto.CodeUnavailable:
		default:
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("for %v: %w", patience, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// graphEvent is an event as it is sent; it belongs to the first identity.
type graphEvent struct {
	Event      string         `json:"event"`
	ID         string         `json:"id,omitempty"`
	Time       *time.Time     `json:"time,omitempty"`
	Identities []string       `json:"identities"`
	Props      map[string]any `json:"props,omitempty"`
}

// post sends events and gives which of them were refused, by index.
func (n *graphNode) post(ctx context.Context, events []graphEvent) (refused map[int]string, position string, err error) {
	var a struct {
		Accepted int
		Refused  []struct {
			Index int
			Code  string
		}
		Position string
	}
	if err := n.client.call(ctx, http.MethodPost, "/v1/events", nil, map[string]any{"events": events}, &a); err != nil {
		return nil, "", err
	}
	refused = map[int]string{}
	for _, r := range a.Refused {
		refused[r.Index] = r.Code
	}
	if a.Accepted+len(refused) != len(events) {
		err = fmt.Errorf("of %d events %d were accepted and %d refused", len(events), a.Accepted, len(refused))
	}
	return refused, a.Position, err
}

// take is post of events of which all must be accepted: a lane without a leader refuses
// its own and not the others'.
func (n *graphNode) take(ctx context.Context, events []graphEvent) (position string, err error) {
	refused, position, err := n.post(ctx, events)
	for i, code := range refused {
		return "", proto.Errorf(proto.Code(code), "event %d of %d was refused", i, len(events))
	}
	return position, err
}

// link gives the answer in one word.
func (n *graphNode) link(ctx context.Context, a, b string) (string, error) {
	var x proto.Linked
	err := n.client.call(ctx, http.MethodPost, "/v1/links", nil, map[string]string{"a": a, "b": b}, &x)
	switch {
	case err != nil:
		return "", err
	case x.Linked:
		return linked, nil
	case x.Reason == "":
		return "", fmt.Errorf("the link of %s and %s was refused without a reason", a, b)
	}
	return x.Reason, nil
}

func (n *graphNode) optOut(ctx context.Context, id string, everywhere bool) (s proto.OptOutState, err error) {
	err = n.client.call(ctx, http.MethodPost, "/v1/optouts", nil, map[string]any{"identity": id, "everywhere": everywhere}, &s)
	return s, err
}

func (n *graphNode) optOutState(ctx context.Context, id string) (s proto.OptOutState, err error) {
	err = n.client.call(ctx, http.MethodGet, "/v1/optouts/"+url.PathEscape(id), nil, nil, &s)
	return s, err
}

const finalMax = time.Minute

// finalOptOut waits for the receipt of an opt-out.
func (n *graphNode) finalOptOut(ctx context.Context, id string) (proto.OptOutState, error) {
	ctx, cancel := context.WithTimeout(ctx, finalMax)
	defer cancel()
	for {
		s, err := n.optOutState(ctx, id)
		if err != nil || s.Final {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("the opt-out of %s is not final after %v: %+v", id, finalMax, s)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (n *graphNode) user(ctx context.Context, id string) (raw json.RawMessage, err error) {
	err = n.client.call(ctx, http.MethodGet, "/v1/users/"+url.PathEscape(id), nil, nil, &raw)
	return raw, err
}

// lookup looks up any number of identities, in order.
func (n *graphNode) lookup(ctx context.Context, ids []string) ([]lookupResult, error) {
	results := make([]lookupResult, 0, len(ids))
	for part := range slices.Chunk(ids, lookupMax) {
		var out struct{ Results []lookupResult }
		if err := n.client.call(ctx, http.MethodPost, "/v1/lookup", nil, map[string]any{"identities": part}, &out); err != nil {
			return nil, err
		}
		if len(out.Results) != len(part) {
			return nil, fmt.Errorf("%d results for %d identities", len(out.Results), len(part))
		}
		results = append(results, out.Results...)
	}
	return results, nil
}

// reach waits until what a position names is visible.
func (n *graphNode) reach(ctx context.Context, position string) error {
	return n.patiently(ctx, func() error {
		after := url.Values{"after": {position}}
		return n.client.call(ctx, http.MethodPost, "/v1/lookup", after, map[string][]string{"identities": {"browser:x"}}, nil)
	})
}

// count is without the privacy floor.
func (n *graphNode) count(ctx context.Context, expr, unit string) (uint64, error) {
	var c struct{ Count *uint64 }
	err := n.admin.call(ctx, http.MethodPost, "/v1/audiences/count", nil, map[string]string{"expr": expr, "unit": unit}, &c)
	if err == nil && c.Count == nil {
		err = errors.New("no count was given")
	}
	if err != nil {
		return 0, err
	}
	return *c.Count, nil
}

func (n *graphNode) define(t *testing.T, segments []graphSegment) {
	t.Helper()
	for _, s := range segments {
		if err := n.client.call(t.Context(), http.MethodPut, "/v1/segments/"+s.id, nil, map[string]any{"scope": s.scope, "when": s.when}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// graphSegment is a segment with the same question put to what an identity or
// its user did, by other means.
type graphSegment struct {
	id, scope, when string
	holds           func(d deeds) bool
}

// deeds are what identities did: how often in which section, and how many of
// them are devices.
type deeds struct{ auto, sport, news, devices int }

func (d *deeds) did(section string) {
	switch section {
	case "auto":
		d.auto++
	case "sport":
		d.sport++
	default:
		d.news++
	}
}

func (d *deeds) events() int { return d.auto + d.sport + d.news }

func (d *deeds) add(o deeds) {
	d.auto, d.sport, d.news, d.devices = d.auto+o.auto, d.sport+o.sport, d.news+o.news, d.devices+o.devices
}

// settleMax is how long messages of the graph may be under way.
const settleMax = time.Minute

// settled waits until no message of the graph is under way and what is derived
// was compared, and fails if it differs.
func (n *graphNode) settled(t *testing.T) engine.VerifyReport {
	t.Helper()
	for deadline := time.Now().Add(settleMax); ; {
		var r engine.VerifyReport
		if err := n.admin.call(t.Context(), http.MethodGet, "/v1/verify", nil, nil, &r); err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Problems {
			t.Errorf("verify: %s", p)
		}
		if !r.Unsettled || t.Failed() {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("messages of the graph are still under way after %v", settleMax)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// metrics reads a counter of the node by one of its labels, summed over the others.
func (n *graphNode) metrics(t *testing.T, name, label string) map[string]int {
	t.Helper()
	sums := map[string]int{}
	for _, line := range metricLines(t, n.service) {
		labels, ok := strings.CutPrefix(line, name+"{")
		labels, value, _ := strings.Cut(labels, "} ")
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		_, key, _ := strings.Cut(labels, label+`="`)
		key, _, _ = strings.Cut(key, `"`)
		sums[key] += int(v)
	}
	return sums
}

// metricLines are what the metrics at a service plane's URL say.
func metricLines(t *testing.T, service string) []string {
	t.Helper()
	resp, err := http.Get(service + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// inParallel calls do for all of list from some goroutines, until one fails.
func inParallel[T any](t *testing.T, workers int, list []T, do func(ctx context.Context, i int, x T) error) {
	t.Helper()
	if err := parallel(t.Context(), workers, list, do); err != nil {
		t.Fatal(err)
	}
}

func parallel[T any](ctx context.Context, workers int, list []T, do func(ctx context.Context, i int, x T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(workers, len(list)) {
		wait.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				if err := do(ctx, i, list[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

// few is an error's list of examples: the first ones.
type few struct {
	text []string
	n    int
}

func (f *few) add(format string, args ...any) {
	if f.n++; f.n <= 5 {
		f.text = append(f.text, fmt.Sprintf(format, args...))
	}
}

// report fails the test if there are any.
func (f *few) report(t *testing.T, what string) {
	t.Helper()
	if f.n > 0 {
		t.Errorf("%d %s, such as:\n\t%s", f.n, what, strings.Join(f.text, "\n\t"))
	}
}

// parts is a union-find, to compare users with.
type parts struct{ up, size []int32 }

func newParts(n int) *parts {
	p := &parts{up: make([]int32, n), size: make([]int32, n)}
	for i := range p.up {
		p.up[i], p.size[i] = int32(i), 1
	}
	return p
}

func (p *parts) find(i int32) int32 {
	for p.up[i] != i {
		p.up[i] = p.up[p.up[i]]
		i = p.up[i]
	}
	return i
}

func (p *parts) join(a, b int32) {
	if a, b = p.find(a), p.find(b); a != b {
		p.up[b], p.size[a] = a, p.size[a]+p.size[b]
	}
}

func (p *parts) sizeOf(i int32) int { return int(p.size[p.find(i)]) }

// pair is an edge between two numbers, the lesser first.
type pair [2]int32

func pairOf(a, b int32) pair { return pair{min(a, b), max(a, b)} }

// graphView is who is one person with whom, as the node tells each of them.
type graphView struct {
	number map[string]int32 // of all identities that were asked for
	users  []proto.User
	of     []int32 // index of the user, by number
	edges  map[pair]bool
	degree []int
}

// view asks for the user of each of the identities, number i being ids[i].
func (n *graphNode) view(t *testing.T, ids []string) *graphView {
	t.Helper()
	v := &graphView{number: make(map[string]int32, len(ids)), of: make([]int32, len(ids)), edges: map[pair]bool{}, degree: make([]int, len(ids))}
	for i, id := range ids {
		v.number[id] = int32(i)
	}
	var mu sync.Mutex
	known := map[uint64]int32{} // by the answer's bytes, which all of a user must get
	inParallel(t, 16, ids, func(ctx context.Context, i int, id string) error {
		raw, err := n.user(ctx, id)
		if err != nil {
			return fmt.Errorf("user of %s: %w", id, err)
		}
		mu.Lock()
		defer mu.Unlock()
		k, ok := known[xxhash.Sum64(raw)]
		if !ok {
			var u proto.User
			if err := json.Unmarshal(raw, &u); err != nil {
				return err
			}
			k = int32(len(v.users))
			known[xxhash.Sum64(raw)] = k
			v.users = append(v.users, u)
		}
		v.of[i] = k
		return nil
	})
	v.check(t)
	return v
}

// check sees that all of a user were told the same, that users are what the
// edges join, and that caps hold.
func (v *graphView) check(t *testing.T) {
	t.Helper()
	var wrong few
	p := newParts(len(v.of))
	for k := range v.users {
		u := &v.users[k]
		if len(u.Members) > graphMembersMax {
			wrong.add("the user of %s has %d identities", u.Root, len(u.Members))
		}
		if !slices.Contains(u.Members, u.Root) {
			wrong.add("the root %s is no member: %v", u.Root, u.Members)
		}
		for _, m := range u.Members {
			if i, ok := v.number[string(m)]; !ok || v.of[i] != int32(k) {
				wrong.add("%s is of the user of %s, but is told otherwise", m, u.Root)
			}
		}
		for _, e := range u.Edges {
			v.edge(e, int32(k), p, &wrong)
		}
	}
	for i := range v.of {
		u := &v.users[v.of[i]]
		if p.sizeOf(int32(i)) != len(u.Members) {
			wrong.add("the user of %s has %d identities, edges join %d", u.Root, len(u.Members), p.sizeOf(int32(i)))
		}
		if v.degree[i] > graphEdgesMax {
			wrong.add("an identity of the user of %s has %d edges", u.Root, v.degree[i])
		}
	}
	wrong.report(t, "users are not what they should be")
}

func (v *graphView) edge(e proto.UserEdge, user int32, p *parts, wrong *few) {
	a, oka := v.number[string(e.A)]
	b, okb := v.number[string(e.B)]
	if !oka || !okb || v.of[a] != user || v.of[b] != user || v.edges[pairOf(a, b)] {
		wrong.add("the edge of %s and %s is not within one user, or is told twice", e.A, e.B)
		return
	}
	v.edges[pairOf(a, b)] = true
	v.degree[a]++
	v.degree[b]++
	p.join(a, b)
}

// alone reports whether an identity is shown with nobody and without edges.
func (v *graphView) alone(i int32) bool {
	u := &v.users[v.of[i]]
	return len(u.Members) == 1 && len(u.Edges) == 0
}

// checkReceipt sees that an opt-out is final and signed by the node's key.
func checkReceipt(s proto.OptOutState, key string) error {
	switch r := s.Receipt; {
	case !s.OptedOut || !s.Final || r == nil:
		return fmt.Errorf("the opt-out of %s is not final: %+v", s.Identity, s)
	case !engine.ValidReceipt(r):
		return fmt.Errorf("the signature of the receipt of %s is not valid", s.Identity)
	case r.PublicKey != key:
		return fmt.Errorf("the receipt of %s is signed by another key", s.Identity)
	case r.Action != "optout":
		return fmt.Errorf("the receipt of %s is of %q", s.Identity, r.Action)
	}
	return nil
}

func (n *graphNode) receiptKey(t *testing.T) string {
	t.Helper()
	var k receiptKey
	if err := n.client.call(t.Context(), http.MethodGet, "/v1/receipts/key", nil, nil, &k); err != nil {
		t.Fatal(err)
	}
	return k.PublicKey
}
