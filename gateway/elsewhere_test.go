package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// others are the nodes beside one, in one process: Ask goes to whoever has
// called AnswerOthers.
type others struct {
	behind atomic.Bool
	asked  atomic.Int32
	begun  chan struct{}
	do     func(context.Context, *proto.Question) *proto.Reply
}

func (o *others) Behind() bool { return o.behind.Load() }

func (*others) CatchUp(context.Context) error { return nil }

func (o *others) Ask(ctx context.Context, q *proto.Question) (*proto.Reply, error) {
	o.asked.Add(1)
	if o.do == nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "no node answers")
	}
	return o.do(ctx, q), nil
}

func (o *others) AnswerOthers(ctx context.Context, do func(context.Context, *proto.Question) *proto.Reply) error {
	o.do = do
	close(o.begun)
	<-ctx.Done()
	return ctx.Err()
}

// clustered is a gateway of a cluster.
func clustered(t *testing.T, tw *twin) (*gateway.Gateway, *others) {
	t.Helper()
	o := &others{begun: make(chan struct{})}
	d := tw.behind()
	d.Others = o
	g, err := gateway.New(gateway.Config{WaitMax: 1e7}, d)
	if err != nil {
		t.Fatal(err)
	}
	return g, o
}

// TestElsewhere: what a node may not answer another one does, word for word; it
// is passed on once, and only what is a question.
func TestElsewhere(t *testing.T) {
	tw := newTwin()
	far, ear := clustered(t, tw)
	go func() { _ = far.ServeOthers(t.Context()) }()
	<-ear.begun
	ear.behind.Store(true) // two hops would never end
	near, mouth := clustered(t, tw)
	mouth.do = ear.do
	questions := []struct{ key, method, target, body string }{
		{"acme-key", "GET", "/v1/identities/browser:seen1/segments", ""},
		{"acme-key", "GET", "/v1/identities/account:a%2Fb%22/segments?after=x", ""},
		{"admin-key", "GET", "/v1/identities/browser:seen1/segments?client=acme", ""},
		{"acme-report", "GET", "/v1/identities/browser:seen1/segments", ""},
		{"acme-key", "GET", "/v1/identities/browser%3Aseen1", ""},
		{"acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=auto", ""},
		{"acme-key", "GET", "/v1/users/browser:seen1", ""},
		{"acme-key", "GET", "/v1/optouts/browser:seen1", ""},
		{"acme-key", "GET", "/v1/segments", ""},
		{"acme-key", "GET", "/v1/segments/auto", ""},
		{"acme-key", "GET", "/v1/segments/auto/sizes", ""},
		{"acme-key", "GET", "/v1/aggregates?from=2026-11-01&to=2026-11-02", ""},
		{"acme-key", "POST", "/v1/lookup", `{"identities":["browser:seen1","browser:new1"]}`},
		{"acme-key", "POST", "/v1/lookup", `{"identities":`},
		{"acme-key", "POST", "/v1/audiences/count", `{"expr":"auto"}`},
		{"acme-report", "POST", "/v1/audiences/count", `{"expr":"auto"}`},
		{"acme-key", "POST", "/v1/audiences/overlap", `{"segments":["auto","owners"]}`},
		{"acme-key", "POST", "/v1/openrtb", `{"id":"1","user":{"id":"u"}}`},
		{"acme-key", "POST", "/v1/receipts/verify", `{}`},
	}
	for i, q := range questions {
		head := []string{auth, key(q.key), "Content-Type", "application/json"}
		mouth.behind.Store(false)
		want := send(near.Service(), q.method, q.target, q.body, head...)
		mouth.behind.Store(true)
		got := send(near.Service(), q.method, q.target, q.body, head...)
		if got.Code != want.Code || got.Body.String() != want.Body.String() || fmt.Sprint(got.Header()) != fmt.Sprint(want.Header()) {
			t.Errorf("%s %s: %d %v %q, not passed on %d %v %q", q.method, q.target, got.Code, got.Header(), got.Body, want.Code, want.Header(), want.Body)
		}
		if n := mouth.asked.Load(); n != int32(i+1) {
			t.Fatalf("%s %s was passed on %d times", q.method, q.target, n-int32(i))
		}
	}
	if n := ear.asked.Load(); n != 0 {
		t.Errorf("%d questions made two hops", n)
	}

	// A signal against it goes along.
	mouth.behind.Store(true)
	if w := send(near.Service(), "GET", "/v1/identities/browser:seen1/segments", "", auth, key("acme-key"), "Sec-GPC", "1"); strings.Contains(w.Body.String(), "auto") {
		t.Errorf("with Sec-GPC: %d %s", w.Code, w.Body)
	}

	// What is no question stays, and so does whoever has no key.
	asked := mouth.asked.Load()
	for _, x := range []struct{ key, method, target string }{
		{"acme-key", "DELETE", "/v1/identities/browser:seen1"},
		{"acme-key", "POST", "/v1/optouts"},
		{"acme-key", "PUT", "/v1/segments/auto"},
		{"admin-key", "GET", "/v1/partitions"},
		{"guess", "GET", "/v1/identities/browser:seen1/segments"},
	} {
		send(near.Service(), x.method, x.target, "{}", auth, key(x.key))
		if mouth.asked.Load() != asked {
			t.Errorf("%s %s was passed on", x.method, x.target)
		}
	}
	mouth.do = nil
	if w := send(near.Service(), "GET", "/v1/identities/browser:seen1/segments", "", auth, key("acme-key")); w.Code != http.StatusServiceUnavailable {
		t.Errorf("nobody answers: %d %s", w.Code, w.Body)
	}
}

// TestPassedOnIsNoDoor: another node's question opens no more than the key in it
// does, and nothing that changes anything.
func TestPassedOnIsNoDoor(t *testing.T) {
	tw := newTwin()
	g, o := clustered(t, tw)
	go func() { _ = g.ServeOthers(t.Context()) }()
	<-o.begun
	admin := http.Header{"Authorization": {key("admin-key")}}
	for _, x := range []struct {
		name string
		q    proto.Question
		want int
	}{
		{"no key", proto.Question{Method: "GET", Target: "/v1/identities/browser:seen1/segments"}, http.StatusUnauthorized},
		{"an opt-out", proto.Question{Method: "POST", Target: "/v1/optouts", Header: admin, Body: []byte(`{"identity":"browser:seen1"}`)}, http.StatusForbidden},
		{"an erasure", proto.Question{Method: "DELETE", Target: "/v1/identities/browser:seen1?client=acme", Header: admin}, http.StatusForbidden},
		{"a key", proto.Question{Method: "POST", Target: "/v1/keys", Header: admin, Body: []byte(`{"role":"admin"}`)}, http.StatusForbidden},
		{"a profile", proto.Question{Method: "GET", Target: "/debug/pprof/heap", Header: admin}, http.StatusForbidden},
		{"metrics", proto.Question{Method: "GET", Target: "/metrics", Header: admin}, http.StatusForbidden},
		{"no method", proto.Question{Target: "/v1/lookup", Header: admin}, http.StatusForbidden},
		{"a method of two lines", proto.Question{Method: "GET\r\nX: y", Target: "/v1/lookup", Header: admin}, http.StatusBadRequest},
		{"no target", proto.Question{Method: "GET", Header: admin}, http.StatusBadRequest},
		{"another server", proto.Question{Method: "GET", Target: "http://192.0.2.1/v1/identities/browser:seen1/segments", Header: admin}, http.StatusBadRequest},
		{"an opaque target", proto.Question{Method: "GET", Target: "mailto:a", Header: admin}, http.StatusBadRequest},
		{"a path out of the routes", proto.Question{Method: "GET", Target: "/v1/identities/../../metrics", Header: admin}, http.StatusForbidden},
		{"a target that is not escaped", proto.Question{Method: "GET", Target: "/v1/identities/%zz/segments", Header: admin}, http.StatusBadRequest},
		{"a long path", proto.Question{Method: "GET", Target: "/v1/identities/browser:" + strings.Repeat("x", 1<<20) + "/segments", Header: admin}, http.StatusBadRequest},
	} {
		if r := o.do(t.Context(), &x.q); r.Status != x.want {
			t.Errorf("%s: %d %s", x.name, r.Status, r.Body)
		}
	}
}

// TestPassedOnBreaksOff: what breaks off, or is too large to be passed on, is no answer,
// and no failure of this node: the one that asked asks the next.
func TestPassedOnBreaksOff(t *testing.T) {
	tw := newTwin()
	g, o := clustered(t, tw)
	go func() { _ = g.ServeOthers(t.Context()) }()
	<-o.begun
	ask := func(name, target, want string) {
		t.Helper()
		q := &proto.Question{Method: "GET", Target: target, Header: http.Header{"Authorization": {key("acme-key")}}}
		if r := o.do(t.Context(), q); r.Status != http.StatusServiceUnavailable || !strings.Contains(string(r.Body), want) {
			t.Errorf("%s: %d %.200s", name, r.Status, r.Body)
		}
	}
	tw.history = func() proto.NextEvents {
		next := eventsOf(3000, nil)()
		return func(tell func(proto.Millis, *proto.EventBody) bool) (bool, error) {
			more, err := next(tell)
			if !more {
				err = proto.Errorf(proto.CodeUnavailable, "it was cut: ask again")
			}
			return more, err
		}
	}
	ask("a record that is cut", "/v1/identities/browser:seen1", "broke off")
	tw.history = eventsOf(10_000, nil)
	ask("a long record", "/v1/identities/browser:seen1", "too large")
	for i := range 200 {
		id := proto.SegmentID(fmt.Sprint("s", i))
		tw.specs[id] = proto.SegmentSpec{ID: id, When: strings.Repeat("x", 9000)}
	}
	ask("many segments", "/v1/segments", "too large")

	tw.history = func() proto.NextEvents { panic("a bug") }
	defer func() {
		if p := recover(); p != "a bug" {
			t.Errorf("a bug is %v", p)
		}
	}()
	ask("a bug", "/v1/identities/browser:seen1", "")
}

// fallen is a graph whose node falls behind while it is asked.
type fallen struct {
	gateway.Graph
	node *others
}

func (f fallen) User(context.Context, proto.ClientInfo, proto.Identity) (proto.User, error) {
	f.node.behind.Store(true)
	return proto.User{}, proto.Errorf(proto.CodeUnavailable, "the lane's lease is over")
}

// TestElsewhereIsAuditedOnce: a call is one line, or counted once, at the node that is
// asked, however many others it asks; and without a line nothing of what they answer
// is told.
func TestElsewhereIsAuditedOnce(t *testing.T) {
	lines := &auditTwin{}
	node := func() (*gateway.Gateway, *others) {
		tw, o := newTwin(), &others{begun: make(chan struct{})}
		d := tw.behind()
		d.Others, d.Audit, d.Graph = o, lines, fallen{tw, o}
		g, err := gateway.New(gateway.Config{WaitMax: 1e7}, d)
		if err != nil {
			t.Fatal(err)
		}
		return g, o
	}
	tw := newTwin()
	d := tw.behind()
	ear := &others{begun: make(chan struct{})}
	d.Others, d.Audit = ear, lines
	far, err := gateway.New(gateway.Config{WaitMax: 1e7}, d)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = far.ServeOthers(t.Context()) }()
	<-ear.begun
	near, mouth := node()
	twice := func(ctx context.Context, q *proto.Question) *proto.Reply {
		ear.do(ctx, q) // the first was slow to answer
		return ear.do(ctx, q)
	}
	take := func() []proto.AuditRecord {
		for _, g := range []*gateway.Gateway{near, far} {
			if err := g.FlushAudit(); err != nil {
				t.Fatal(err)
			}
		}
		lines.mu.Lock()
		defer lines.mu.Unlock()
		list := lines.lines
		lines.lines = nil
		return list
	}
	hash := tw.Hasher().Hash("browser:seen1").String()
	for _, x := range []struct {
		what, key, method, target, body string
		status                          int
		want                            proto.AuditRecord
	}{
		{"a record", "acme-key", "GET", "/v1/identities/browser:seen1", "", 200, proto.AuditRecord{Client: "acme", Route: "GET /v1/identities/{identity}", Identity: hash, Status: 200}},
		{"its head", "acme-key", "HEAD", "/v1/identities/browser:seen1", "", 200, proto.AuditRecord{Client: "acme", Route: "GET /v1/identities/{identity}", Identity: hash, Status: 200}},
		{"an admin's", "admin-key", "GET", "/v1/identities/browser:seen1?client=acme", "", 200, proto.AuditRecord{Client: "acme", Route: "GET /v1/identities/{identity}", Identity: hash, Status: 200}},
		{"a refusal", "acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=nothing", "", 404, proto.AuditRecord{Client: "acme", Route: "GET /v1/identities/{identity}/explain", Identity: hash, Status: 404}},
		{"a look-up", "acme-key", "POST", "/v1/lookup", `{"identities":["browser:seen1"]}`, 200, proto.AuditRecord{Client: "acme", Route: "POST /v1/lookup", Requests: 1}},
		{"a look-up that is refused", "acme-key", "POST", "/v1/lookup", `{"identities":`, 400, proto.AuditRecord{Client: "acme", Route: "POST /v1/lookup", Requests: 1, Refused: 1}},
		{"segments", "acme-key", "GET", "/v1/identities/browser:seen1/segments", "", 200, proto.AuditRecord{Client: "acme", Route: "GET /v1/identities/{identity}/segments", Requests: 1}},
		{"definitions, which touch nobody", "acme-key", "GET", "/v1/segments", "", 200, proto.AuditRecord{}},
	} {
		for _, old := range []bool{false, true} {
			mouth.behind.Store(true)
			if mouth.do = twice; old { // the asker is of an earlier version: who answers writes the line
				mouth.do = ear.do
			}
			var w *httptest.ResponseRecorder
			if head := []string{auth, key(x.key), "Content-Type", "application/json"}; !old {
				w = send(near.Service(), x.method, x.target, x.body, head...)
			} else {
				r := ear.do(t.Context(), &proto.Question{Method: x.method, Target: x.target, Body: []byte(x.body), Header: http.Header{"Authorization": {key(x.key)}, "Content-Type": {"application/json"}}})
				w = &httptest.ResponseRecorder{Code: r.Status, Body: bytes.NewBuffer(r.Body)}
			}
			if w.Code != x.status {
				t.Errorf("%s: %d %s", x.what, w.Code, w.Body)
			}
			list := take()
			if x.want.Route == "" {
				if len(list) != 0 {
					t.Errorf("%s: %+v", x.what, list)
				}
				continue
			}
			if len(list) != 1 {
				t.Errorf("%s, from an old node: %t: %d lines: %+v", x.what, old, len(list), list)
				continue
			}
			got := list[0]
			if got.Requests > 0 && x.key == "acme-key" {
				got.Client = x.want.Client
			}
			got.Time, got.Key, got.Role = x.want.Time, "", ""
			if got != x.want {
				t.Errorf("%s, from an old node: %t: %+v, want %+v", x.what, old, got, x.want)
			}
		}
	}

	// A node that falls behind as it is asked has no line of its own.
	mouth.behind.Store(false)
	mouth.do = twice
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/v1/users/browser:seen1", http.NoBody)
	r.Header.Set(auth, key("acme-key"))
	near.Service().ServeHTTP(w, r)
	if list := take(); w.Code != http.StatusOK || len(list) != 1 || list[0].Status != http.StatusOK {
		t.Errorf("a node that falls behind: %d %s, lines %+v", w.Code, w.Body, list)
	}

	// Nobody answers: the call is counted.
	mouth.do = nil
	w = send(near.Service(), "GET", "/v1/identities/browser:seen1", "", auth, key("acme-key"))
	if list := take(); w.Code != http.StatusServiceUnavailable || len(list) != 1 || list[0].Requests != 1 || list[0].Refused != 1 || list[0].Status != 0 {
		t.Errorf("nobody answers: %d %s, lines %+v", w.Code, w.Body, list)
	}

	// No line, no answer.
	mouth.do = twice
	lines.full = true
	w = send(near.Service(), "GET", "/v1/identities/browser:seen1", "", auth, key("acme-key"))
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "seen1") {
		t.Errorf("without a line: %d %s", w.Code, w.Body)
	}
}
