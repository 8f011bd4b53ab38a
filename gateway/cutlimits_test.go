package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"kith/gateway"
	"kith/proto"
)

// from asks the public plane from an address.
func (r *rig) from(addr, method, target string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, nil)
	req.RemoteAddr = addr
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	r.g.Public().ServeHTTP(w, req)
	return w
}

// cookieOf is the cookie of a browser by number.
func cookieOf(n int) string { return fmt.Sprintf("kith_id=abc%d", n) }

// limited checks that an opt-out was refused by its rate, and that it holds in
// the browser all the same: the tag and the page ask again.
func limited(t *testing.T, w *httptest.ResponseRecorder, what string) {
	t.Helper()
	after, err := strconv.Atoi(w.Header().Get("Retry-After"))
	if w.Code != 429 || code(w) != "rate_limited" || err != nil || after < 1 {
		t.Errorf("%s: %d %s, Retry-After %q", what, w.Code, w.Body, w.Header().Get("Retry-After"))
	}
	if c := cookies(w); c["kith_optout"] == nil || c["kith_optout"].Value != "1" || c["kith_id"] != nil {
		t.Errorf("%s: cookies %v", what, c)
	}
}

// TestOptOutsOfANetwork: of one network 60 are taken at once, whatever they
// name, and those of others all the same.
func TestOptOutsOfANetwork(t *testing.T) {
	clock := now
	r := newRig(t, func(c *gateway.Config) { c.Now = func() time.Time { return clock } })
	for i := range 60 {
		if w := r.from(fmt.Sprintf("203.0.113.%d:1000", i), "POST", "/v1/optout", "Cookie", cookieOf(i)); w.Code != 200 {
			t.Fatalf("number %d: %d %s", i, w.Code, w.Body)
		}
	}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"another identity": r.from("203.0.113.99:1", "POST", "/v1/optout", "Cookie", cookieOf(99)),
		"one that is out":  r.from("203.0.113.99:1", "POST", "/v1/optout", "Cookie", cookieOf(1)),
		"mapped into IPv6": r.from("[::ffff:203.0.113.7]:1", "POST", "/v1/optout", "Cookie", cookieOf(99)),
	} {
		limited(t, w, name)
	}
	if w := r.from("203.0.113.99:1", "DELETE", "/v1/me", "Cookie", cookieOf(99)); w.Code != 429 || len(w.Result().Cookies()) != 0 {
		t.Errorf("an erasure: %d %v", w.Code, w.Header())
	}
	if len(r.graph.cuts) != 60 {
		t.Errorf("%d cuts", len(r.graph.cuts))
	}
	// Nothing is asked of whoever has nothing to cut.
	if w := r.from("203.0.113.99:1", "POST", "/v1/optout"); w.Code != 200 || cookies(w)["kith_optout"].Value != "1" {
		t.Errorf("without an identity: %d %s", w.Code, w.Body)
	}
	if w := r.from("203.0.114.1:1", "POST", "/v1/optout", "Cookie", cookieOf(98)); w.Code != 200 {
		t.Errorf("another network: %d %s", w.Code, w.Body)
	}
	clock = clock.Add(time.Second)
	if w := r.from("203.0.113.99:1", "POST", "/v1/optout", "Cookie", cookieOf(99)); w.Code != 200 {
		t.Errorf("a second later: %d %s", w.Code, w.Body)
	}
	limited(t, r.from("203.0.113.99:1", "POST", "/v1/optout", "Cookie", cookieOf(100)), "a second one in it")
}

// TestClockSetBack: a network that was within its allowance, or over it, is not refused
// until the clock is there again, and its allowance is no larger than before.
func TestClockSetBack(t *testing.T) {
	clock := now
	r := newRig(t, func(c *gateway.Config) { c.Now = func() time.Time { return clock } })
	n := 0
	taken := func() (k int) {
		for r.from("203.0.113.7:1000", "POST", "/v1/optout", "Cookie", cookieOf(n)).Code == 200 {
			n, k = n+1, k+1
		}
		return k
	}
	for _, tt := range []struct {
		step time.Duration
		want int
	}{{0, 60}, {-time.Hour, 60}, {time.Second, 1}, {-500 * time.Millisecond, 0}, {2500 * time.Millisecond, 2}} {
		clock = clock.Add(tt.step)
		if got := taken(); got != tt.want {
			t.Errorf("after a step of %v: %d are taken, want %d", tt.step, got, tt.want)
		}
	}
}

// TestNetworksOfVisitors: which addresses are one network, and where it is not
// known.
func TestNetworksOfVisitors(t *testing.T) {
	const header = "X-Forwarded-For"
	for _, tt := range []struct {
		name, addressHeader, a, b string
		headers                   []string
		one                       bool // b is limited by a's
	}{
		{"IPv6 of one /48", "", "[2001:db8:1:2::3]:1", "[2001:db8:1:ffff::4]:2", nil, true},
		{"IPv6 of two", "", "[2001:db8:1::1]:1", "[2001:db8:2::1]:1", nil, false},
		{"a proxy on loopback", "", "127.0.0.1:1", "127.0.0.1:1", nil, false},
		{"a proxy on a private address", "", "10.0.0.7:1", "10.0.0.7:1", nil, false},
		{"a proxy that says one address", "x-forwarded-for", "10.0.0.7:1", "10.0.0.8:1", []string{header, "203.0.113.5"}, true},
		{"what a visitor put before it does not count", "x-forwarded-for", "10.0.0.7:1", "10.0.0.8:1", []string{header, "198.51.100.%d, 203.0.113.5:99"}, true},
		{"nor in a line before", "x-forwarded-for", "10.0.0.7:1", "10.0.0.8:1", []string{header, "198.51.100.%d", header, "203.0.113.5"}, true},
		{"what stands last counts", "x-forwarded-for", "10.0.0.7:1", "10.0.0.8:1", []string{header, "203.0.113.5, 198.51.%d.1"}, false},
		{"a proxy that says nothing", "x-forwarded-for", "203.0.113.5:1", "203.0.113.5:1", nil, false},
		{"a proxy whose header nobody named", "", "203.0.113.5:1", "203.0.113.6:1", []string{header, "198.51.%d.1"}, false},
		{"the same, of another kind", "", "203.0.113.5:1", "203.0.113.6:1", []string{"Via", "1.1 cdn"}, false},
		{"no proxy", "", "203.0.113.5:1", "203.0.113.6:1", nil, true},
	} {
		r := newRig(t, func(c *gateway.Config) { c.AddressHeader = tt.addressHeader })
		at := func(i int) (list []string) {
			for _, h := range tt.headers {
				list = append(list, strings.ReplaceAll(h, "%d", strconv.Itoa(i)))
			}
			return append(list, "Cookie", cookieOf(i))
		}
		for i := range 60 {
			if w := r.from(tt.a, "POST", "/v1/optout", at(i)...); w.Code != 200 {
				t.Fatalf("%s: number %d: %d %s", tt.name, i, w.Code, w.Body)
			}
		}
		if w := r.from(tt.b, "POST", "/v1/optout", at(60)...); (w.Code == 429) != tt.one {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
	if _, err := gateway.New(gateway.Config{AddressHeader: "X Real IP"}, newTwin().behind()); err == nil {
		t.Error("a header with blanks in its name is taken")
	}
}

// TestPassedOnByNobody: a header that anybody can send lifts no bound.
func TestPassedOnByNobody(t *testing.T) {
	for _, header := range []string{"Via", "Forwarded", "X-Forwarded-For"} {
		r := newRig(t)
		for i := range 600 {
			if w := r.from("203.0.113.5:1", "POST", "/v1/optout", header, "x", "Cookie", cookieOf(i)); w.Code != 200 {
				t.Fatalf("%s: number %d: %d %s", header, i, w.Code, w.Body)
			}
		}
		limited(t, r.from("203.0.113.9:1", "POST", "/v1/optout", header, "x", "Cookie", cookieOf(600)), header)
		if w := r.from("203.0.114.9:1", "POST", "/v1/optout", header, "x", "Cookie", cookieOf(601)); w.Code != 200 {
			t.Errorf("%s, another network: %d %s", header, w.Code, w.Body)
		}
	}
}

// TestForgedOptOuts: opt-outs of identities that nobody ever had are bounded for
// the whole node, and keep no person waiting.
func TestForgedOptOuts(t *testing.T) {
	r := newRig(t)
	r.members[member{1, "browser:person1"}] = []proto.SegmentID{"auto"}
	refused := 0
	for i := range 2000 { // each from a network of its own
		w := r.from(fmt.Sprintf("198.%d.%d.1:1", 20+i/250, i%250), "POST", "/v1/optout", "Cookie", cookieOf(i))
		switch w.Code {
		case 200:
		case 429:
			limited(t, w, "forged")
			refused++
		default:
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if refused != 1000 || len(r.graph.cuts) != 1000 {
		t.Errorf("%d refused, %d cuts", refused, len(r.graph.cuts))
	}
	w := r.from("198.51.100.1:1", "POST", "/v1/optout", "Cookie", "kith_id=person1")
	if x := cutOf(t, w.Body.Bytes()); w.Code != 200 || !x.Final || x.Receipt == nil {
		t.Errorf("a person among them: %d %s", w.Code, w.Body)
	}
	// Whoever opts in and out again and again gains nothing by that.
	for range 200 {
		r.from("192.0.2.1:1", "POST", "/v1/optin", "Cookie", "kith_id=person1; kith_optout=1")
		r.from("192.0.2.1:1", "POST", "/v1/optout", "Cookie", "kith_id=person1")
	}
	if n := len(r.graph.cuts) - 1001; n > 60 {
		t.Errorf("one browser made %d entries", n)
	}
	// An opt-out that is final writes nothing more, from whatever network.
	r.from("198.51.100.1:1", "POST", "/v1/optout", "Cookie", "kith_id=person1")
	before := len(r.graph.cuts)
	for i := range 200 {
		if w := r.from(fmt.Sprintf("198.51.%d.1:1", i), "POST", "/v1/optout", "Cookie", "kith_id=person1"); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if n := len(r.graph.cuts) - before; n != 0 {
		t.Errorf("%d further cuts", n)
	}
}

// TestOwnOptOutsAtOnce: browsers that the node knows have an allowance together.
func TestOwnOptOutsAtOnce(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.OwnOptOutsPerSecond = 10 })
	for i := range 11 {
		r.members[member{1, proto.Identity("browser:" + strings.TrimPrefix(cookieOf(i), "kith_id="))}] = nil
		w := r.from(fmt.Sprintf("198.51.%d.1:1", i), "POST", "/v1/optout", "Cookie", cookieOf(i))
		if i < 10 {
			if w.Code != 200 {
				t.Errorf("number %d: %d %s", i, w.Code, w.Body)
			}
			continue
		}
		limited(t, w, "one more")
	}
}

// TestImagesOptNobodyOut: what a page of any site can have a browser get changes
// nothing of an opt-out.
func TestImagesOptNobodyOut(t *testing.T) {
	r := newRig(t)
	for _, method := range []string{"GET", "HEAD"} {
		for _, target := range []string{
			"/v1/optout", "/v1/optout?everywhere=true", "/v1/optin", "/optout?do=out", "/optout?do=in", "/v1/choices?age_band=under-13", "/choices?do=erase",
			"/v1/pixel.gif?client=demo&event=optout&optout=1", "/v1/me?client=demo", "/v1/optouts", "/v1/optouts/browser:abc1",
		} {
			w := r.visit(method, target, "", "Cookie", cookieOf(1), "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "image", "Origin", "https://evil.example")
			if c := cookies(w)["kith_optout"]; c != nil {
				t.Errorf("%s %s sets %v", method, target, c)
			}
		}
	}
	if len(r.graph.cuts) != 0 {
		t.Errorf("cuts: %v", r.graph.cuts)
	}
}

// TestOptOutsOfAKey: a client's stream of opt-outs has a rate of its own; a
// request over it is refused as a whole, with nothing of it done.
func TestOptOutsOfAKey(t *testing.T) {
	clock := now
	r := newRig(t, func(c *gateway.Config) {
		c.OptOutsPerSecond, c.Now = 1000, func() time.Time { return clock }
		c.Quotas = map[proto.ClientName]gateway.Quota{"other": {OptOutsPerSecond: 2000}}
	})
	list := func(from, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"browser:k%d"`, from+i)
		}
		return `{"identities":[` + b.String()[1:] + `]}`
	}
	post := func(k, body string) *httptest.ResponseRecorder {
		return r.serve("POST", "/v1/optouts", body, auth, key(k))
	}
	if w := post("acme-key", list(0, 999)); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"a list":   post("acme-key", list(2000, 2)),
		"a second": post("acme-key", list(3000, 1000)),
	} {
		if w.Code != 429 || code(w) != "rate_limited" || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if w := post("acme-key", `{"identity":"browser:one"}`); w.Code != 200 {
		t.Errorf("the last of the second: %d %s", w.Code, w.Body)
	}
	for _, tt := range []struct{ method, target, body string }{
		{"POST", "/v1/optouts", `{"identity":"browser:two"}`}, {"POST", "/v1/optins", `{"identity":"browser:one"}`}, {"DELETE", "/v1/identities/browser:one", ""},
	} {
		if w := r.serve(tt.method, tt.target, tt.body, auth, key("acme-key")); w.Code != 429 {
			t.Errorf("%s %s: %d %s", tt.method, tt.target, w.Code, w.Body)
		}
	}
	if len(r.graph.cuts) != 1000 {
		t.Errorf("%d cuts", len(r.graph.cuts))
	}
	for _, c := range r.graph.cuts {
		if strings.Contains(c, "browser:k2") && len(c) > len("optout browser:k999 false") {
			t.Errorf("a refused request did %s", c)
		}
	}
	for _, k := range []string{"demo-key", "admin-key"} { // others have their own
		if w := post(k, list(0, 1000)); w.Code != 200 {
			t.Errorf("%s: %d %s", k, w.Code, w.Body)
		}
	}
	clock = clock.Add(time.Second)
	if w := post("acme-key", list(4000, 1000)); w.Code != 200 {
		t.Errorf("a second later: %d %s", w.Code, w.Body)
	}
	free := newRig(t)
	for range 5 {
		if w := free.serve("POST", "/v1/optouts", list(0, 1000), auth, key("acme-key")); w.Code != 200 {
			t.Errorf("without a limit: %d %s", w.Code, w.Body)
		}
	}
}

// TestOptOutsBesideLookups: while somebody looks up, a client's opt-outs are spread
// over time, lists some at a time; who would wait for over a second is refused.
func TestOptOutsBesideLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *gateway.Config) { c.OptOutsBesideLookups, c.Now = 100, time.Now })
		made := 0
		list := func(n int) string {
			var b strings.Builder
			for range n {
				made++
				fmt.Fprintf(&b, `,"browser:s%d"`, made)
			}
			return `{"identities":[` + b.String()[1:] + `]}`
		}
		post := func(k, body string) (int, time.Duration) {
			began := time.Now()
			w := r.serve("POST", "/v1/optouts", body, auth, key(k))
			if w.Code != 200 && (w.Code != 429 || code(w) != "rate_limited" || w.Header().Get("Retry-After") == "") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			return w.Code, time.Since(began)
		}
		want := func(what, k, body string, took time.Duration) {
			t.Helper()
			if status, d := post(k, body); status != 200 || d != took {
				t.Errorf("%s: %d after %v, not %v", what, status, d, took)
			}
		}
		look := func() {
			if w := r.serve("GET", "/v1/identities/browser:x/segments", "", auth, key("acme-key")); w.Code != 200 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
		want("nobody looks up", "acme-key", list(500), 0)
		look()
		want("32, then 32 more", "acme-key", list(64), 160*time.Millisecond)
		want("one more", "acme-key", `{"identity":"browser:t"}`, 320*time.Millisecond)
		want("another client", "demo-key", `{"identity":"browser:t"}`, 0)
		time.Sleep(time.Minute)
		want("nobody looks up any more", "acme-key", list(500), 0)
		look()
		var wait sync.WaitGroup
		var done atomic.Int64
		before := len(r.graph.cuts)
		for i := range 300 {
			wait.Go(func() {
				if status, d := post("acme-key", fmt.Sprintf(`{"identity":"browser:u%d"}`, i)); status == 200 {
					done.Add(1)
				} else if d != 0 {
					t.Errorf("refused after %v", d)
				}
			})
		}
		wait.Wait()
		if n := done.Load(); n != 117 || len(r.graph.cuts)-before != int(n) {
			t.Errorf("%d of 300 are done, %d cuts", n, len(r.graph.cuts)-before)
		}
		look()
		if w := r.from("203.0.113.1:1", "POST", "/v1/optout", "Cookie", cookieOf(1)); w.Code != 200 {
			t.Errorf("a browser: %d %s", w.Code, w.Body)
		}
	})
}

// TestOptOutsOfOneTwice: who is in a list twice is opted out once, also where others
// are looked up and it is done some at a time.
func TestOptOutsOfOneTwice(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.OptOutsBesideLookups = 10000 })
	list := []string{"browser:x"}
	for i := range 39 {
		list = append(list, fmt.Sprintf("browser:s%d", i))
	}
	list[35] = "browser:x"
	body, _ := json.Marshal(map[string]any{"identities": list})
	nc := natsRig(t, r)
	for _, by := range []struct {
		name string
		post func() []byte
	}{
		{"HTTP", func() []byte {
			return r.serve("POST", "/v1/optouts", string(body), auth, key("acme-key")).Body.Bytes()
		}},
		{"NATS", func() []byte { return ask(t, nc, "kith.optout", string(body), auth, key("acme-key")).Data }},
	} {
		r.graph.cuts = nil
		r.serve("GET", "/v1/identities/browser:y/segments", "", auth, key("acme-key"))
		var answer struct{ Results []cut }
		if err := json.Unmarshal(by.post(), &answer); err != nil || len(answer.Results) != len(list) {
			t.Fatalf("%s: %v, %d results", by.name, err, len(answer.Results))
		}
		for i, c := range answer.Results {
			if string(c.Identity) != list[i] || c.Receipt == nil {
				t.Errorf("%s: result %d is %+v, not of %s", by.name, i, c, list[i])
			}
		}
		if n := r.cutsOf(""); n != len(list)-1 {
			t.Errorf("%s: %d cuts of %d identities", by.name, n, len(list)-1)
		}
	}
}

// held is opt-outs that take as long as they are let.
type held struct {
	*twin
	begun chan struct{}
	let   chan struct{}
}

func (h held) OptOutAll(ctx context.Context, by proto.ClientInfo, ids []proto.Identity, everywhere bool) ([]proto.OptOutState, error) {
	h.begun <- struct{}{}
	<-h.let
	return h.twin.OptOutAll(ctx, by, ids, everywhere)
}

// TestOptOutsUnderWay: what is under way is bounded, for a client and for the
// node; one client's does not keep another's from being done.
func TestOptOutsUnderWay(t *testing.T) {
	tw := newTwin()
	h := held{tw, make(chan struct{}), make(chan struct{})}
	d := tw.behind()
	d.OptOuts = h
	g, err := gateway.New(gateway.Config{RefusalPause: -1}, d)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `,"browser:w%d"`, i)
	}
	body := `{"identities":[` + b.String()[1:] + `]}`
	post := func(k, body string) *httptest.ResponseRecorder {
		return send(g.Service(), "POST", "/v1/optouts", body, auth, key(k))
	}
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			if w := post("acme-key", body); w.Code != 200 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
		<-h.begun
	}
	if w := post("acme-key", body); w.Code != 503 || code(w) != "overloaded" || w.Header().Get("Retry-After") == "" {
		t.Errorf("a fifth: %d %s", w.Code, w.Body)
	}
	if w := post("acme-key", `{"identity":"browser:x"}`); w.Code != 200 {
		t.Errorf("one more: %d %s", w.Code, w.Body)
	}
	busy.Go(func() {
		if w := post("demo-key", body); w.Code != 200 {
			t.Errorf("another client: %d %s", w.Code, w.Body)
		}
	})
	<-h.begun
	close(h.let)
	busy.Wait()
	again := make(chan struct{})
	go func() {
		defer close(again)
		if w := post("acme-key", body); w.Code != 200 {
			t.Errorf("afterwards: %d %s", w.Code, w.Body)
		}
	}()
	<-h.begun
	<-again
}

// TestOptOutsOverNATSAreNotLost: one that is over the rate is refused where
// somebody waits for the reply, and waits where nobody does.
func TestOptOutsOverNATSAreNotLost(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Now, c.NATSConcurrency = time.Now, 4
		c.Quotas = map[proto.ClientName]gateway.Quota{"acme": {OptOutsPerSecond: 1000}}
	})
	for range 5 { // spends what there is at once
		var b strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&b, `,"browser:n%d"`, i)
		}
		r.serve("POST", "/v1/optouts", `{"identities":[`+b.String()[1:]+`]}`, auth, key("acme-key"))
	}
	nc := natsRig(t, r)
	const silent = 200
	before := r.cutsOf("browser:s")
	for i := range silent {
		m := nats.NewMsg("kith.optout")
		m.Header.Set(auth, key("acme-key"))
		m.Data = []byte(fmt.Sprintf(`{"identity":"browser:s%d"}`, i))
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Minute); r.cutsOf("browser:s")-before < silent; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d are done", r.cutsOf("browser:s")-before, silent)
		}
	}
}

// cutsOf counts cuts of identities with a prefix.
func (t *twin) cutsOf(prefix string) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.graph.cuts {
		if strings.HasPrefix(c, "optout "+prefix) {
			n++
		}
	}
	return n
}

// TestRefusedOptOutsFillNoAuditLog: calls that did nothing are counted, not listed,
// so that a flood pushes no line out.
func TestRefusedOptOutsFillNoAuditLog(t *testing.T) {
	a := &auditTwin{}
	d := newTwin().behind()
	d.Audit = a
	g, err := gateway.New(gateway.Config{OptOutsPerSecond: 0.001, RefusalPause: -1}, d)
	if err != nil {
		t.Fatal(err)
	}
	post := func(body string) int {
		return send(g.Service(), "POST", "/v1/optouts", body, auth, key("acme-key")).Code
	}
	if status := post(`{"identities":["browser:x1"` + strings.Repeat(`,"browser:x1"`, 999) + `]}`); status != 200 {
		t.Fatal(status)
	}
	for range 50 {
		if status := post(`{"identity":"browser:x2"}`); status != 429 {
			t.Fatal(status)
		}
	}
	if err := g.FlushAudit(); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	counted, listed := 0, 0
	for _, x := range a.lines {
		switch {
		case x.Requests == 50 && x.Refused == 50 && x.Route == "POST /v1/optouts" && x.Client == "acme":
			counted++
		case x.Count == 1000 && x.Status == 200:
			listed++
		}
	}
	if counted != 1 || listed != 1 || len(a.lines) != 2 {
		t.Errorf("lines: %+v", a.lines)
	}
}

// Those that are refused together are answered one by one.
func TestRefusalsComeApart(t *testing.T) {
	const pause, quarters = 4 * time.Second, 4
	var seen [quarters]int
	for range 4000 {
		d := gateway.About(pause)
		if d < pause/2 || d >= pause/2+pause {
			t.Fatalf("a refusal is held for %v", d)
		}
		seen[(d-pause/2)*quarters/pause]++
	}
	for i, n := range seen {
		if n < 800 || n > 1200 {
			t.Errorf("%d of 4000 are answered in the %d. quarter", n, i+1)
		}
	}
}

// TestRefusedOptOutsLinger: who is refused is kept waiting, and nobody else; a
// connection that goes away waits no longer.
func TestRefusedOptOutsLinger(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.RefusalPause, c.OptOutsPerSecond = time.Hour, 0.001 })
	list := `{"identities":["browser:x1"` + strings.Repeat(`,"browser:x1"`, 999) + `]}`
	if w := r.serve("POST", "/v1/optouts", list, auth, key("acme-key")); w.Code != 200 {
		t.Fatal(w.Code)
	}
	for i := range 60 {
		r.from("203.0.113.1:1", "POST", "/v1/optout", "Cookie", cookieOf(i))
	}
	ctx, leave := context.WithCancel(t.Context())
	answered := make(chan *httptest.ResponseRecorder)
	ask := func(h http.Handler, req *http.Request) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req.WithContext(ctx))
		answered <- w
	}
	key1 := httptest.NewRequest("POST", "/v1/optouts", strings.NewReader(`{"identity":"browser:x2"}`))
	key1.Header.Set(auth, key("acme-key"))
	go ask(r.g.Service(), key1)
	own := httptest.NewRequest("POST", "/v1/optout", nil)
	own.RemoteAddr = "203.0.113.1:1"
	own.Header.Set("Cookie", cookieOf(99))
	go ask(r.g.Public(), own)
	if w := r.from("203.0.114.1:1", "POST", "/v1/optout", "Cookie", cookieOf(100)); w.Code != 200 {
		t.Errorf("another network's: %d %s", w.Code, w.Body)
	}
	if w := r.serve("POST", "/v1/optouts", list, auth, key("demo-key")); w.Code != 200 {
		t.Errorf("another client's: %d %s", w.Code, w.Body)
	}
	select {
	case w := <-answered:
		t.Errorf("a refusal is answered at once: %d %s", w.Code, w.Body)
	case <-time.After(100 * time.Millisecond): // as long as it takes to be sure, were it answered
	}
	leave()
	for range 2 {
		if w := <-answered; w.Code != 429 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
}
