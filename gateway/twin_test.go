package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"kith/proto"
)

// twin is a node in memory: it keeps the events that it took, and puts an
// identity into a segment that has the name of the event's section.
type twin struct {
	previewing func(proto.ClientName)      // called by each preview
	explaining func(context.Context) error // by each explanation

	mu       sync.Mutex
	clients  map[proto.ClientName]proto.ClientInfo
	keys     map[string]proto.Principal
	events   []proto.Event
	traits   []proto.Traits
	held     map[member]map[string]any // traits that OpenRecord shows
	history  func() proto.NextEvents   // what it shows of everybody
	members  map[member][]proto.SegmentID
	specs    map[proto.SegmentID]proto.SegmentSpec
	offset   proto.Offset
	counts   map[string]uint64
	ready    error
	dead     error
	replayed []string
	ended    map[proto.ClientName]bool // clients; true: nothing of it is left

	graph   twinGraph
	exports twinExports
	saved   map[proto.AudienceID]proto.AudienceSpec
	imports map[uint64]*twinImport
	used    bool // what clients' own keys may define

	fail       func(i int, e *proto.Event) bool // which events are not made durable
	failErr    error
	failTraits func(i int) bool // which rows of traits are not
	seenErr    error
}

type member struct {
	client proto.ClientID
	id     proto.Identity
}

func newTwin() *twin {
	return &twin{
		clients: map[proto.ClientName]proto.ClientInfo{
			"demo":  {ID: 1, Name: "demo", Space: 1, Floor: 50},
			"acme":  {ID: 2, Name: "acme", Space: 2, Floor: 50},
			"other": {ID: 3, Name: "other", Space: 3, Floor: 50},
		},
		keys: map[string]proto.Principal{
			"demo-key": {Role: proto.RoleClient, Client: "demo"}, "acme-key": {Role: proto.RoleClient, Client: "acme"},
			"acme-report": {Role: proto.RoleReport, Client: "acme"}, "admin-key": {Role: proto.RoleAdmin},
		},
		members: map[member][]proto.SegmentID{}, specs: map[proto.SegmentID]proto.SegmentSpec{}, counts: map[string]uint64{},
		graph: newTwinGraph(), exports: newTwinExports(), ended: map[proto.ClientName]bool{}, saved: map[proto.AudienceID]proto.AudienceSpec{},
		imports: map[uint64]*twinImport{},
	}
}

func (t *twin) Hasher() proto.Hasher { return proto.NewHasher([16]byte{1}) }

func (t *twin) Submit(_ context.Context, b *proto.Batch) (r proto.Submitted) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range b.Len() {
		item, _ := b.Item(i)
		c, _, err := proto.NextCommand(bytes.Clone(item))
		if err != nil {
			panic(err)
		}
		if c.Kind == proto.CommandTraits {
			x, err := proto.DecodeTraits(c.Body)
			if err != nil {
				panic(err)
			}
			if t.failTraits != nil && t.failTraits(i) {
				r.Failed, r.Err = append(r.Failed, i), t.failErr
				continue
			}
			t.traits = append(t.traits, x)
			continue
		}
		var e proto.Event
		if err := proto.DecodeEvent(c.Body, &e); err != nil {
			panic(err)
		}
		if t.fail != nil && t.fail(i, &e) {
			r.Failed, r.Err = append(r.Failed, i), t.failErr
			continue
		}
		if t.graph.out[e.Identities[0]] != nil {
			continue // taken, and forgotten
		}
		t.events = append(t.events, e)
		for _, other := range e.Identities[1:] {
			t.join(e.Client, e.Space, proto.Link{A: e.Identities[0], B: other, Confidence: 1})
		}
		m := member{e.Client, e.Identities[0]}
		t.members[m] = append(t.members[m], "all")
		if v, ok := e.Prop("section"); ok {
			t.members[m] = append(t.members[m], proto.SegmentID(v.Text))
		}
		slices.Sort(t.members[m])
		t.members[m] = slices.Compact(t.members[m])
	}
	t.offset++
	r.Position = proto.Position{0: t.offset}
	return r
}

func (t *twin) Lookup(client proto.ClientInfo, id proto.Identity, _ proto.Millis, dst []proto.SegmentID) (proto.Seen, []proto.SegmentID, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.graph.out[id] != nil {
		// A segment that must not be told: the gateway does not rely on us.
		return proto.Seen{Known: true, OptedOut: true}, append(dst, "leak"), nil
	}
	segments, ok := t.members[member{client.ID, id}]
	return proto.Seen{Known: ok}, append(dst, segments...), nil
}

func (t *twin) Seen(client proto.ClientInfo, id proto.Identity) (proto.Seen, error) {
	seen, _, err := t.Lookup(client, id, 0, nil)
	return seen, errors.Join(err, t.seenErr)
}

func (t *twin) Wait(ctx context.Context, p proto.Position) error {
	t.mu.Lock()
	at := t.offset
	t.mu.Unlock()
	if p[0] <= at {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (t *twin) Count(_ context.Context, _ proto.ClientInfo, expr, _ string) (proto.Count, error) {
	n, ok := t.counts[expr]
	if !ok {
		return proto.Count{}, proto.Errorf(proto.CodeExpr, "no such expression")
	}
	return proto.Count{Count: &n, Exact: true, Partitions: proto.Answered{Answered: 64, Of: 64}}, nil
}

func (t *twin) Explain(ctx context.Context, _ proto.ClientInfo, id proto.Identity, s proto.SegmentID, at time.Time) (proto.Explanation, error) {
	if t.explaining != nil {
		if err := t.explaining(ctx); err != nil {
			return proto.Explanation{}, err
		}
	}
	if s != "all" {
		return proto.Explanation{}, proto.Errorf(proto.CodeNotFound, "no such segment")
	}
	return proto.Explanation{Identity: id, Segment: s, At: at, In: true}, nil
}

func (t *twin) OpenRecord(_ context.Context, c proto.ClientInfo, id proto.Identity) (proto.IdentityRecord, proto.NextEvents, error) {
	seen, segments, _ := t.Lookup(c, id, 0, nil)
	if seen.OptedOut {
		return proto.IdentityRecord{Identity: id, OptedOut: true}, nil, nil
	}
	var next proto.NextEvents
	if t.history != nil {
		next = t.history()
	}
	return proto.IdentityRecord{Identity: id, Known: segments != nil, Segments: segments, Traits: t.held[member{c.ID, id}]}, next, nil
}

// pay is an error if a client's own key asks and may define no more.
func (t *twin) pay(ctx context.Context) error {
	if !t.used || !proto.AsksForItself(ctx) {
		return nil
	}
	e := proto.Errorf(proto.CodeRateLimited, "slow down")
	e.RetryAfter = 3 * time.Second
	return e
}

func (t *twin) Define(ctx context.Context, _ proto.ClientInfo, s proto.SegmentSpec) (proto.SegmentSpec, error) {
	if err := t.pay(ctx); err != nil {
		return s, err
	}
	if strings.Contains(s.When, "BROKEN") {
		e := proto.Errorf(proto.CodeRule, "does not parse")
		e.Line, e.Column = 1, 9
		return s, e
	}
	size := uint64(7)
	s.Version, s.Size = 12, &size
	t.specs[s.ID] = s
	return s, nil
}

func (t *twin) Preview(_ context.Context, c proto.ClientInfo, s proto.SegmentSpec) (proto.SegmentPreview, error) {
	if t.previewing != nil {
		t.previewing(c.Name)
	}
	if strings.Contains(s.When, "BROKEN") {
		return proto.SegmentPreview{}, proto.Errorf(proto.CodeRule, "does not parse")
	}
	all, before, after, entering, leaving := uint64(900), uint64(100), uint64(120), uint64(50), uint64(30)
	return proto.SegmentPreview{ID: s.ID, Identities: &all, Before: &before, After: &after, Entering: &entering, Leaving: &leaving, Judged: 900, Exact: true, Cost: 4}, nil
}

// RuleMentions finds one thing in a rule that says so.
func (t *twin) RuleMentions(when string) ([]proto.RuleMention, error) {
	switch {
	case strings.Contains(when, "BROKEN"):
		return nil, proto.Errorf(proto.CodeRule, "does not parse")
	case strings.Contains(when, "SENSITIVE"):
		return []proto.RuleMention{{Text: "event.name", Values: []proto.Value{proto.TextOf("page")}}, {Text: "event.url", Values: []proto.Value{proto.TextOf("/islam/")}}}, nil
	}
	return nil, nil
}

func (t *twin) Undefine(_ context.Context, _ proto.ClientInfo, id proto.SegmentID) error {
	if _, ok := t.specs[id]; !ok {
		return proto.Errorf(proto.CodeNotFound, "there is no segment %q", id)
	}
	delete(t.specs, id)
	return nil
}

func (t *twin) Segment(_ proto.ClientInfo, id proto.SegmentID) (proto.SegmentSpec, bool) {
	s, ok := t.specs[id]
	return s, ok
}

func (t *twin) Segments(proto.ClientInfo) (out []proto.SegmentSpec) {
	for _, s := range t.specs {
		out = append(out, s)
	}
	return out
}

func (t *twin) Authenticate(key string) (proto.Principal, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.keys[key]
	return p, ok
}

func (t *twin) Client(name proto.ClientName) (proto.ClientInfo, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.clients[name]
	return c, ok
}

func (t *twin) Clients() (out []proto.ClientInfo) {
	for _, c := range t.clients {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b proto.ClientInfo) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}

func (t *twin) CreateKey(_ context.Context, name proto.ClientName, role proto.Role, _ string) (string, error) {
	key := "new-" + string(name)
	t.keys[key] = proto.Principal{Role: role, Client: name}
	t.clients[name] = proto.ClientInfo{ID: 99, Name: name, Space: 99}
	return key, nil
}

// ExportClient tells whom the client knows, and breaks off for a client named so.
func (t *twin) ExportClient(_ context.Context, c proto.ClientInfo, w io.Writer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for m := range t.members {
		if m.client == c.ID && t.graph.out[m.id] == nil {
			n++
			fmt.Fprintf(w, `{"kind":"identity","identity":%q}`+"\n", m.id)
		}
	}
	if c.Name == "other" {
		return proto.Errorf(proto.CodeUnavailable, "the disk went away")
	}
	_, err := fmt.Fprintf(w, `{"kind":"end","identities":%d}`+"\n", n)
	return err
}

// EraseClient has something left to do until it is asked again.
func (t *twin) EraseClient(_ context.Context, name proto.ClientName) (proto.ClientErasure, error) {
	if c, ok := t.clients[name]; ok {
		delete(t.clients, name)
		for m := range t.members {
			if m.client == c.ID {
				delete(t.members, m)
			}
		}
		for k, p := range t.keys {
			if p.Client == name {
				delete(t.keys, k)
			}
		}
		t.ended[name] = false
	} else if _, ok := t.ended[name]; ok {
		t.ended[name] = true
	}
	x, ok := t.ClientErasure(name)
	if !ok {
		return x, proto.Errorf(proto.CodeNotFound, "there is no client %q", name)
	}
	return x, nil
}

func (t *twin) ClientErasure(name proto.ClientName) (proto.ClientErasure, bool) {
	done, ok := t.ended[name]
	x := proto.ClientErasure{Client: name, Erased: done, Lanes: proto.Answered{Of: 1}}
	if done {
		x.Lanes.Answered = 1
	} else {
		x.Left = 3
	}
	return x, ok
}

func (t *twin) Ready() error { return t.ready }
func (t *twin) Live() error  { return t.dead }
func (t *twin) Lanes() []proto.LaneStatus {
	return []proto.LaneStatus{{Lane: 0, Owner: "n1", Partitions: []int{0, 1, 2}}}
}

func (t *twin) DeadLetters(_ context.Context, limit int) ([]proto.DeadLetter, error) {
	return []proto.DeadLetter{{ID: "0:1:2", Reason: "boom"}}[:min(limit, 1)], nil
}

func (t *twin) Replay(_ context.Context, id string) error {
	if id != "0:1:2" {
		return proto.Errorf(proto.CodeNotFound, "there is no dead letter %q", id)
	}
	t.replayed = append(t.replayed, id)
	return nil
}

func (t *twin) Backup(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "backup")
	return err
}

func (t *twin) Verify(context.Context) (any, error) { return map[string]bool{"clean": true}, nil }

// taken are the events so far.
func (t *twin) taken() []proto.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.events)
}

// swallow is an intake that keeps nothing, for benchmarks.
type swallow struct{ *twin }

func (swallow) Submit(context.Context, *proto.Batch) proto.Submitted {
	return proto.Submitted{Position: proto.Position{0: 1}}
}
