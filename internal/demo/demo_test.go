package demo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"kith/internal/demo"
	"kith/proto"
)

// recorder is what a node's two planes see of the demo. The node itself is
// tested with the demo in cmd/kith.
type recorder struct {
	enough chan struct{} // closed when want events came
	want   int

	mu       sync.Mutex
	segments []string
	cookies  map[string]int // kith_id -> events
	fresh    int            // events without a cookie
	kinds    map[string]int
	accounts map[string]map[string]bool // account -> browsers it logged in on
	optOuts  int
	bad      []string
}

func (n *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/v1/segments/"):
		n.define(w, r)
	case r.URL.Path == "/v1/segments":
		_ = json.NewEncoder(w).Encode(map[string]any{"segments": demo.Segments()[:1]})
	case r.URL.Path == "/v1/optout":
		n.optOuts++
		http.SetCookie(w, &http.Cookie{Name: "kith_optout", Value: "1", MaxAge: 60, Secure: true})
		http.SetCookie(w, &http.Cookie{Name: "kith_id", MaxAge: -1, Secure: true})
		_, _ = io.WriteString(w, `{"opted_out":true}`)
	default:
		n.events(w, r)
	}
}

func (n *recorder) define(w http.ResponseWriter, r *http.Request) {
	var s proto.SegmentSpec
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil || s.When == "" || r.Header.Get("Authorization") != "Bearer demo-key" || r.URL.Query().Get("client") != "demo" {
		n.bad = append(n.bad, "a definition that a node would refuse: "+r.URL.String())
	}
	n.segments = append(n.segments, string(s.ID))
	_, _ = io.WriteString(w, `{}`)
}

func (n *recorder) events(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Client string
		Events []struct {
			Event      string
			Identities []string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Client != "demo" || len(body.Events) == 0 {
		n.bad = append(n.bad, "a body that a node would refuse")
	}
	_, err := r.Cookie("kith_optout")
	optedOut := err == nil
	if optedOut {
		if _, err := r.Cookie("kith_id"); err == nil {
			n.bad = append(n.bad, "a browser that opted out still sends its id")
		}
	}
	id := ""
	if c, err := r.Cookie("kith_id"); err == nil {
		id = c.Value
		n.cookies[id]++
	} else if !optedOut {
		n.fresh++
		id = "id" + string(rune('a'+n.fresh%26)) + strings.Repeat("x", n.fresh)
		http.SetCookie(w, &http.Cookie{Name: "kith_id", Value: id, Secure: true})
	}
	for _, e := range body.Events {
		n.kinds[e.Event]++
		for _, a := range e.Identities {
			if n.accounts[a] == nil {
				n.accounts[a] = map[string]bool{}
			}
			if !optedOut {
				n.accounts[a][id] = true
			}
		}
	}
	if n.want--; n.want == 0 {
		close(n.enough)
	}
	_, _ = io.WriteString(w, `{"accepted":1,"refused":[]}`)
}

func TestVisitorsBehaveLikeBrowsers(t *testing.T) {
	node := &recorder{enough: make(chan struct{}), want: 1200, cookies: map[string]int{}, kinds: map[string]int{}, accounts: map[string]map[string]bool{}}
	server := httptest.NewServer(node)
	defer server.Close()
	d, err := demo.Start(t.Context(), demo.Config{Public: server.URL, Service: server.URL, Key: "demo-key", Listen: "127.0.0.1:0", EventsPerSecond: 5000, PeopleMax: 40})
	if err != nil {
		t.Fatal(err)
	}
	regular := strings.TrimPrefix(d.Regular(), "browser:")
	runUntil(t, d, node.enough, func() { checkSite(t, d.URL(), server.URL) })
	node.mu.Lock()
	defer node.mu.Unlock()
	for _, problem := range node.bad {
		t.Error(problem)
	}
	if len(node.segments) != len(demo.Segments())-1 || slices.Contains(node.segments, string(demo.Segments()[0].ID)) {
		t.Errorf("defined %q, want all but the one that was there", node.segments)
	}
	if node.cookies[regular] < 3 {
		t.Errorf("the regular visitor came %d times with its cookie, want 3 or more", node.cookies[regular])
	}
	for _, kind := range []string{"page", "login", "purchase"} {
		if node.kinds[kind] == 0 {
			t.Errorf("nobody did %q in 1200 events: %v", kind, node.kinds)
		}
	}
	users, ours := 0, false
	for _, browsers := range node.accounts {
		if len(browsers) >= 2 {
			users++
			ours = ours || browsers[regular]
		}
	}
	if users < 5 || !ours {
		t.Errorf("%d people logged in on several devices, the regular visitor among them: %t", users, ours)
	}
	if node.optOuts == 0 {
		t.Error("nobody opted out in 1200 events")
	}
	if len(node.cookies) < 20 || node.fresh > 400 {
		t.Errorf("%d browsers came back, %d events came without a cookie", len(node.cookies), node.fresh)
	}
}

// Runs on the same node do not gather more and more browsers at the same accounts, but
// a seed that is asked for makes the same people.
func TestRunsHaveAccountsOfTheirOwn(t *testing.T) {
	accounts := func(seed uint64) string {
		node := &recorder{cookies: map[string]int{}, kinds: map[string]int{}, accounts: map[string]map[string]bool{}}
		server := httptest.NewServer(node)
		defer server.Close()
		d, err := demo.Start(t.Context(), demo.Config{Public: server.URL, Service: server.URL, Key: "demo-key", Listen: "127.0.0.1:0", Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		close(ended)
		runUntil(t, d, ended, func() {})
		node.mu.Lock()
		defer node.mu.Unlock()
		return fmt.Sprint(slices.Sorted(maps.Keys(node.accounts)))
	}
	if a, b := accounts(0), accounts(0); a == b || len(a) < 40 {
		t.Errorf("two runs log in with %s and %s", a, b)
	}
	if a, b := accounts(7), accounts(7); a != b {
		t.Errorf("two runs of one seed log in with %s and %s", a, b)
	}
}

// leaver is a node that refuses what comes of opted-out browsers and accounts.
type leaver struct {
	enough chan struct{}

	mu       sync.Mutex
	out      map[string]bool   // kith_id
	accounts map[string]string // kith_id -> account
	events   int
	late     int // of the last events, those that were taken
}

const leaverEvents, leaverLate = 12_000, 2000

func (n *leaver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := ""
	if c, err := r.Cookie("kith_id"); err == nil {
		id = c.Value
	}
	switch r.URL.Path {
	case "/v1/events":
		n.event(w, r, id)
	case "/v1/optout":
		var x struct{ Everywhere bool }
		_ = json.NewDecoder(r.Body).Decode(&x)
		n.out[id] = true
		for other, account := range n.accounts {
			if x.Everywhere && account == n.accounts[id] {
				n.out[other] = true
			}
		}
		http.SetCookie(w, &http.Cookie{Name: "kith_optout", Value: "1", MaxAge: 60})
		http.SetCookie(w, &http.Cookie{Name: "kith_id", MaxAge: -1})
		_, _ = io.WriteString(w, `{"opted_out":true}`)
	default: // the demo's segments
		_, _ = io.WriteString(w, `{}`)
	}
}

func (n *leaver) event(w http.ResponseWriter, r *http.Request, id string) {
	if n.events++; n.events == leaverEvents {
		close(n.enough)
	}
	if _, err := r.Cookie("kith_optout"); err == nil || n.out[id] {
		_, _ = io.WriteString(w, `{"accepted":0,"refused":[{"index":0,"code":"opted_out"}]}`)
		return
	}
	if n.events > leaverEvents-leaverLate && n.events <= leaverEvents {
		n.late++
	}
	if id == "" {
		id = fmt.Sprint("id", n.events)
		http.SetCookie(w, &http.Cookie{Name: "kith_id", Value: id})
	}
	var body struct {
		Events []struct{ Identities []string }
	}
	if json.NewDecoder(r.Body).Decode(&body); len(body.Events) == 1 && len(body.Events[0].Identities) == 1 {
		n.accounts[id] = body.Events[0].Identities[0]
	}
	_, _ = io.WriteString(w, `{"accepted":1,"refused":[]}`)
}

// Those who opted out are followed by others: a demo of a day is as lively as one
// of a minute.
func TestVisitorsDoNotRunOut(t *testing.T) {
	node := &leaver{enough: make(chan struct{}), out: map[string]bool{}, accounts: map[string]string{}}
	server := httptest.NewServer(node)
	defer server.Close()
	d, err := demo.Start(t.Context(), demo.Config{Public: server.URL, Service: server.URL, Key: "demo-key", Listen: "127.0.0.1:0", EventsPerSecond: 10_000, PeopleMax: 10})
	if err != nil {
		t.Fatal(err)
	}
	runUntil(t, d, node.enough, func() {})
	node.mu.Lock()
	defer node.mu.Unlock()
	if len(node.out) < 10 {
		t.Errorf("%d browsers were opted out: this tests nothing", len(node.out))
	}
	t.Logf("%d of the last %d events taken, %d browsers out", node.late, leaverLate, len(node.out))
	if node.late < leaverLate*9/10 {
		t.Errorf("of the last %d events %d were taken", leaverLate, node.late)
	}
}

// runUntil runs the demo, with look meanwhile, until it has done enough.
func runUntil(t *testing.T, d *demo.Demo, enough <-chan struct{}, look func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	look()
	<-enough
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func checkSite(t *testing.T, site, public string) {
	t.Helper()
	get := func(path string) (int, string) {
		resp, err := http.Get(site + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if status, body := get("auto/3"); status != 200 || !strings.Contains(body, `src="`+public+`/kith.js" data-client="demo" data-section="auto"`) {
		t.Errorf("the auto section: %d, without the tag:\n%s", status, body)
	}
	if status, _ := get("no-such-section"); status != 404 {
		t.Errorf("an unknown page: %d", status)
	}
}

func TestStartSaysThatThereIsNoNode(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	_, err := demo.Start(t.Context(), demo.Config{Public: server.URL, Service: server.URL, Key: "k", Listen: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "kith serve --dev") {
		t.Errorf("got %v", err)
	}
}
