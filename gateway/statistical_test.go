package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"kith/gateway"
	"kith/proto"
)

const (
	chromeOnWindows = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.6478.61 Safari/537.36"
	chromeLater     = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/127.0.0.0 Safari/537.36"
	chromeMuchLater = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/134.0.0.0 Safari/537.36"
	firefoxOnLinux  = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
	safariOnIPhone  = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)

// guessing is a gateway that infers for demo and other, and not for acme, on a clock
// that a test may move.
func guessing(t *testing.T, edit ...func(*gateway.Config)) (*rig, *time.Time) {
	clock := now
	edit = append([]func(*gateway.Config){func(c *gateway.Config) {
		c.CountryHeader, c.Inference = "CF-IPCountry", gateway.Inference{Never: []string{"BR", "FR"}}
		c.AddressHeader = "x-real-ip"
		c.Consent = gateway.ConsentPolicy{OptIn: []string{"DE"}}
		c.Statistical = []proto.ClientName{"other", "demo"}
		c.Households = map[proto.ClientName]proto.HouseholdRule{"demo": {DaysMin: 2, IdentitiesMax: 3}}
		c.Now = func() time.Time { return clock }
	}}, edit...)
	return newRig(t, edit...), &clock
}

// caller are headers of a request: pairs, of which later ones replace earlier ones.
type caller []string

var someone = caller{"CF-IPCountry", "US", "X-Real-IP", "203.0.113.77", "User-Agent", chromeOnWindows, "Accept-Language", "en-US,en;q=0.9"}

func (c caller) with(pairs ...string) caller { return append(slices.Clone(c), pairs...) }

// event sends an event of a client without naming anybody, and gives whose it was;
// "" if it was nobody's.
func (r *rig) event(client string, c caller) proto.Identity {
	r.t.Helper()
	before := len(r.taken())
	w := r.visit("POST", "/v1/events", `{"client":"`+client+`","events":[{"event":"page"}]}`, c...)
	if w.Code != 200 {
		r.t.Fatalf("%d %s", w.Code, w.Body)
	}
	list := r.taken()[before:]
	if len(list) == 0 {
		return ""
	}
	e := list[0]
	if len(list) != 1 || len(e.Identities) != 1 {
		r.t.Fatalf("an event became %+v", list)
	}
	if proto.Made(e.Identities[0]) && e.Network != 0 {
		r.t.Error("a network is remembered of a statistical id")
	}
	return e.Identities[0]
}

func kind(id proto.Identity) string { return id.Kind() }

// TestStatisticalIDs: what an id depends on, and what not.
func TestStatisticalIDs(t *testing.T) {
	r, _ := guessing(t)
	id := r.event("demo", someone)
	if end, ok := proto.Rotates(id); !ok || end != proto.MillisOf(now.Truncate(24*time.Hour).Add(24*time.Hour)) {
		t.Fatalf("%q ends %v", id, end)
	}
	for what, c := range map[string]caller{
		"again": someone, "another address of the network": someone.with("X-Real-IP", "203.0.113.1"), "with a port": someone.with("X-Real-IP", "203.0.113.9:4711"),
		"of several addresses the last": someone.with("X-Real-IP", "198.51.100.7, 203.0.113.9"), "another minor version": someone.with("User-Agent", chromeLater),
		"another country's language": someone.with("Accept-Language", "en-GB"), "mapped into IPv6": someone.with("X-Real-IP", "::ffff:203.0.113.9"),
	} {
		if got := r.event("demo", c); got != id {
			t.Errorf("%s: %q, want %q", what, got, id)
		}
	}
	seen := map[proto.Identity]string{id: "the first"}
	for what, c := range map[string]caller{
		"another network": someone.with("X-Real-IP", "203.0.114.77"), "IPv6": someone.with("X-Real-IP", "2001:db8:1:2::3"), "another family": someone.with("User-Agent", firefoxOnLinux),
		"a phone": someone.with("User-Agent", safariOnIPhone), "much later": someone.with("User-Agent", chromeMuchLater), "another language": someone.with("Accept-Language", "es"),
		"no language": someone.with("Accept-Language", ""), "another network of IPv6": someone.with("X-Real-IP", "2001:db8:2:2::3"),
	} {
		got := r.event("demo", c)
		if before, ok := seen[got]; ok || kind(got) != "stat" {
			t.Errorf("%s has %q, as %s", what, got, before)
		}
		seen[got] = what
	}
	if a, b := r.event("demo", someone.with("X-Real-IP", "2001:db8:1:2::3")), r.event("demo", someone.with("X-Real-IP", "2001:db8:1:ffff::1")); a != b {
		t.Errorf("two of a /48 have %q and %q", a, b)
	}
	if got := r.event("other", someone); kind(got) != "stat" || strings.HasSuffix(string(got), string(id)[len(id)-32:]) {
		t.Errorf("another client's id is %q, this one's %q", got, id)
	}
	keyed, _ := guessing(t, func(c *gateway.Config) { c.PseudonymKey = []byte("another key of sixteen or more") })
	if got := keyed.event("demo", someone); got == id || kind(got) != "stat" {
		t.Errorf("with another key: %q", got)
	}
	for _, e := range r.taken() {
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, "203.0.") || strings.Contains(text, "2001:db8") || strings.Contains(text, "Mozilla") {
			t.Errorf("what it was made of went on: %s", text)
		}
	}
}

// TestNoStatisticalID: where none is made the visitor is as everywhere, or nobody.
func TestNoStatisticalID(t *testing.T) {
	r, _ := guessing(t)
	for _, tt := range []struct {
		what, client string
		c            caller
		want         string
	}{
		{"switched off", "acme", someone, "browser"},
		{"with a cookie", "demo", someone.with("Cookie", mineToo), "browser"},
		{"with two cookies", "demo", someone.with("Cookie", "kith_id=abc123; kith_id=abc124"), "browser"},
		{"consent first there", "demo", someone.with("CF-IPCountry", "DE"), ""},
		{"never there", "demo", someone.with("CF-IPCountry", "BR"), "browser"},
		{"never in one of them", "demo", someone.with("CF-IPCountry", "US, BR"), "browser"},
		{"country not known", "demo", someone.with("CF-IPCountry", "XX"), "browser"},
		{"a code of no country", "demo", someone.with("CF-IPCountry", "EU"), "browser"},
		{"one country not known", "demo", someone.with("CF-IPCountry", "US, XX"), "browser"},
		{"no country", "demo", someone.with("CF-IPCountry", ""), "browser"},
		{"no header", "demo", caller(slices.Clone(someone[2:])), "browser"},
		{"GPC", "demo", someone.with("Sec-GPC", "1"), ""},
		{"DNT", "demo", someone.with("DNT", "1"), ""},
		{"opted out", "demo", someone.with("Cookie", "kith_optout=1"), ""},
		{"no address", "demo", someone.with("X-Real-IP", ""), "browser"},
		{"a private address", "demo", someone.with("X-Real-IP", "10.1.2.3"), "browser"},
		{"a shared address", "demo", someone.with("X-Real-IP", "100.64.3.4"), "browser"},
		{"this machine", "demo", someone.with("X-Real-IP", "127.0.0.1"), "browser"},
		{"no address but a word", "demo", someone.with("X-Real-IP", "unknown"), "browser"},
		{"no browser", "demo", someone.with("User-Agent", "curl/8.5.0"), "browser"},
		{"a browser of no family", "demo", someone.with("User-Agent", "Mozilla/5.0 (Windows NT 10.0) Something/1.0"), "browser"},
		{"a system of no kind", "demo", someone.with("User-Agent", "Mozilla/5.0 (Plan9) Firefox/128.0"), "browser"},
	} {
		if got := r.event(tt.client, tt.c); kind(got) != tt.want && !(tt.want == "" && got == "") {
			t.Errorf("%s: %q", tt.what, got)
		}
	}
	for _, query := range []string{"gdpr=1&gdpr_consent=" + consented, "gdpr_consent=" + consented, "gdpr=1", "us_privacy=1YYN", "gpc=1", "lmt=1", "coppa=1", "gpp=x"} {
		before := len(r.taken())
		r.visit("GET", "/v1/pixel.gif?client=demo&"+query, "", someone...)
		for _, e := range r.taken()[before:] {
			if kind(e.Identities[0]) == "stat" {
				t.Errorf("%s: %q", query, e.Identities[0])
			}
		}
	}
	post := func(events string) []proto.Event {
		before := len(r.taken())
		if w := r.visit("POST", "/v1/events", `{"client":"demo","events":[`+events+`]}`, someone...); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return r.taken()[before:]
	}
	// Whoever is known by something else needs none.
	if got := post(`{"event":"page","identities":["aaid:a1b2c3"]}`); len(got) != 1 || got[0].Identities[0] != "aaid:a1b2c3" {
		t.Errorf("a device: %+v", got)
	}
	if got := post(`{"event":"login","identities":["account:a1b2c3"]}`); len(got) != 1 || kind(got[0].Identities[0]) != "browser" || len(got[0].Identities) != 2 {
		t.Errorf("a log-in: %+v", got)
	}
	if got := post(`{"event":"page","lmt":true}`); len(got) != 0 {
		t.Errorf("with a limit on tracking: %+v", got)
	}
	if got := post(`{"event":"page","identities":["browser:whatever1"]}`); len(got) != 1 || kind(got[0].Identities[0]) != "stat" || len(got[0].Identities) != 1 {
		t.Errorf("a page that names a browser, which is the cookie's to say: %+v", got)
	}
	// A page cannot name one.
	own := post(`{"event":"page"}`)[0].Identities[0]
	if got := post(`{"event":"page","identities":["account:a1b2c3","` + string(own) + `"]}`); len(got) != 1 || slices.Contains(got[0].Identities, own) {
		t.Errorf("a page named an id: %+v", got)
	}
}

// TestStatisticalCookie: a browser that takes cookies is known by its own from its
// second event on, and nothing is kept of that id before.
func TestStatisticalCookie(t *testing.T) {
	r, _ := guessing(t)
	w := r.visit("POST", "/v1/events", `{"client":"demo","events":[{"event":"page"}]}`, someone...)
	set := ""
	for _, c := range w.Result().Cookies() {
		if c.Name == "kith_id" {
			set = c.Value
		}
	}
	if set == "" || kind(r.taken()[0].Identities[0]) != "stat" {
		t.Fatalf("cookies %v, events %+v", w.Result().Cookies(), r.taken())
	}
	if got := r.event("demo", someone.with("Cookie", "kith_id="+set)); got != proto.Identity("browser:"+set) {
		t.Errorf("with its cookie it is %q", got)
	}
	if got := r.visit("GET", "/v1/me/segments?client=demo", "", someone.with("Sec-Fetch-Site", "same-origin")...).Body.String(); !strings.Contains(got, `"all"`) {
		t.Errorf("without one it has %s", got)
	}
	if got := r.visit("GET", "/v1/me?client=demo", "", someone.with("Sec-Fetch-Site", "same-origin")...).Body.String(); !strings.Contains(got, `"known":false`) {
		t.Errorf("what many may have done is shown to one: %s", got)
	}
}

// TestRotation: when the period is over the id is another, and the name says when
// that is.
func TestRotation(t *testing.T) {
	for _, days := range []int{1, 7} {
		r, clock := guessing(t, func(c *gateway.Config) { c.Inference.RotateDays = days })
		ids := map[proto.Identity]int{}
		for range 4 * days {
			id := r.event("demo", someone)
			end, ok := proto.Rotates(id)
			if left := end - proto.MillisOf(*clock); !ok || left <= 0 || left > proto.Millis(days)*24*60*60*1000 {
				t.Errorf("%d days: at %v %q ends %v", days, clock, id, end)
			}
			ids[id]++
			*clock = clock.Add(24 * time.Hour)
		}
		if days == 1 && len(ids) != 4 || days == 7 && (len(ids) < 4 || len(ids) > 5) {
			t.Errorf("%d days: in %d periods there were ids %v", days, 4, ids)
		}
	}
}

// optOutOf opts a caller out on the public plane.
func (r *rig) optOutOf(c caller) cut {
	r.t.Helper()
	w := r.visit("POST", "/v1/optout", "", c.with("Sec-Fetch-Site", "same-origin")...)
	if w.Code != 200 {
		r.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return cutOf(r.t.(*testing.T), w.Body.Bytes())
}

// TestStatisticalOptOut: an opt-out without a cookie cuts what statistical ids know,
// for all clients, and none is made any more: not by another client, not the next day,
// not after an update.
func TestStatisticalOptOut(t *testing.T) {
	r, clock := guessing(t)
	yesterday := r.event("demo", someone)
	*clock = clock.Add(24 * time.Hour)
	today, others := r.event("demo", someone), r.event("other", someone)
	neighbour := r.event("demo", someone.with("User-Agent", firefoxOnLinux))
	x := r.optOutOf(someone.with("Sec-GPC", "1", "CF-IPCountry", "DE")) // what keeps ids from being made does not keep them from being cut
	if !x.OptedOut || !x.Final || x.Receipt == nil {
		t.Errorf("answered %+v", x)
	}
	for _, id := range []proto.Identity{yesterday, today, others} {
		if r.graph.out[id] == nil {
			t.Errorf("%q was not cut: %v", id, r.graph.cuts)
		}
	}
	cuts := len(r.graph.cuts)
	if again := r.optOutOf(someone); !again.OptedOut || !again.Final || again.Receipt == nil || len(r.graph.cuts) != cuts {
		t.Errorf("asked for again: %+v, cut %v", again, r.graph.cuts[cuts:])
	}
	if r.graph.out[neighbour] != nil {
		t.Error("a neighbour's browser of another family was cut too")
	}
	for what, c := range map[string]caller{"at once": someone, "after an update": someone.with("User-Agent", chromeMuchLater), "in another language": someone.with("Accept-Language", "es")} {
		for _, client := range []string{"demo", "other"} {
			if got := r.event(client, c); kind(got) == "stat" {
				t.Errorf("%s, for %s: %q", what, client, got)
			}
		}
	}
	status := r.visit("GET", "/v1/optout/status?client=demo", "", someone...).Body.String()
	if !strings.Contains(status, `"statistical_id":"suppressed"`) {
		t.Errorf("status: %s", status)
	}
	*clock = clock.Add(30 * 24 * time.Hour)
	if got := r.event("demo", someone); kind(got) == "stat" {
		t.Errorf("a month later: %q", got)
	}
	if got := r.event("demo", someone.with("User-Agent", firefoxOnLinux)); kind(got) != "stat" {
		t.Errorf("the neighbour: %q", got)
	}
	status = r.visit("GET", "/v1/optout/status?client=demo", "", someone.with("User-Agent", firefoxOnLinux)...).Body.String()
	if !strings.Contains(status, `"statistical_id":"made"`) {
		t.Errorf("the neighbour's status: %s", status)
	}
	// Whoever opts in has the cookie's opt-out lifted. What others may share stays.
	if w := r.visit("POST", "/v1/optin?client=demo", "", someone.with("Sec-Fetch-Site", "same-origin")...); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got := r.event("demo", someone); kind(got) == "stat" {
		t.Errorf("after somebody's opt-in: %q", got)
	}
	// With a cookie an opt-out reaches what it was known by without.
	mixed := someone.with("User-Agent", safariOnIPhone)
	before := r.event("demo", mixed)
	r.optOutOf(mixed.with("Cookie", mineToo))
	if r.graph.out[before] == nil || r.graph.out["browser:abc123"] == nil {
		t.Errorf("with a cookie: %v", r.graph.cuts)
	}
	r.graph.cutErr = proto.Errorf(proto.CodeUnavailable, "the log is away")
	if w := r.visit("POST", "/v1/optout", "", someone.with("Sec-Fetch-Site", "same-origin")...); w.Code != 503 {
		t.Errorf("where it cannot be cut: %d %s", w.Code, w.Body)
	}
}

// An opt-out also reaches what was known under ids that lasted otherwise: how long
// they do may have been changed since. Where nothing is kept nothing is written.
func TestStatisticalOptOutAfterChange(t *testing.T) {
	lasting := func(days int) func(*gateway.Config) {
		return func(c *gateway.Config) { c.Inference.RotateDays, c.PseudonymKey = days, secret }
	}
	for _, days := range [][2]int{{7, 1}, {1, 7}, {7, 3}, {2, 5}} {
		before, clock := guessing(t, lasting(days[0]))
		for range 9 { // at each place within a period
			*clock = clock.Add(24 * time.Hour)
			made := []proto.Identity{before.event("demo", someone), before.event("other", someone)}
			r, later := guessing(t, lasting(days[1]))
			*later = *clock
			r.graph.kept = made
			r.optOutOf(someone)
			for _, id := range made {
				if r.graph.out[id] == nil {
					t.Errorf("%v days, %v: %q was not cut: %v", days, *clock, id, r.graph.cuts)
				}
			}
			if n := len(r.graph.cuts); n > 7 { // two periods of two clients, what is kept, and what stands for the opt-out
				t.Errorf("%v days, %v: %d were cut", days, *clock, n)
			}
		}
	}
}

// TestStatisticalErasure: erasing takes what is known away without an opt-out, and
// nothing of clients that know nothing.
func TestStatisticalErasure(t *testing.T) {
	r, _ := guessing(t)
	id := r.event("demo", someone)
	w := r.visit("DELETE", "/v1/me", "", someone.with("Sec-Fetch-Site", "same-origin")...)
	if x := cutOf(t, w.Body.Bytes()); w.Code != 200 || !x.Erased || !x.Final || x.Receipt == nil {
		t.Errorf("%d %+v", w.Code, x)
	}
	if d := cmp.Diff([]string{"erase " + string(id) + " all"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
	if got := r.event("demo", someone); got != id {
		t.Errorf("after an erasure: %q", got)
	}
}

// TestErasureThatFailsHalf: the cookie stays until all is erased, so that who asks again
// has it done and gets the receipt.
func TestErasureThatFailsHalf(t *testing.T) {
	for _, x := range [][3]string{{"DELETE", "/v1/me", ""}, {"POST", "/choices", "do=erase"}} {
		r, _ := guessing(t)
		r.event("demo", someone)
		headers := someone.with(ownPage...).with("Cookie", mineToo)
		r.seenErr = proto.Errorf(proto.CodeUnavailable, "no owner")
		if w := r.visit(x[0], x[1], x[2], headers...); w.Code != 503 || cookies(w)["kith_id"] != nil {
			t.Errorf("%v fails: %d %v", x, w.Code, w.Header())
		}
		r.seenErr = nil
		w := r.visit(x[0], x[1], x[2], headers...)
		if c := cookies(w)["kith_id"]; w.Code != 200 || c == nil || c.MaxAge >= 0 || !strings.Contains(html.UnescapeString(w.Body.String()), `"signature":`) {
			t.Errorf("%v again: %d %v %s", x, w.Code, w.Header(), w.Body)
		}
	}
}

// TestStatisticalErasuresOfANetwork: they are bounded as those with a cookie are, and
// what is unknown costs nothing.
func TestStatisticalErasuresOfANetwork(t *testing.T) {
	r, clock := guessing(t)
	speaking := func(i int) caller {
		return someone.with("Accept-Language", fmt.Sprintf("%c%c", 'a'+i/26, 'a'+i%26), "Sec-Fetch-Site", "same-origin")
	}
	forget := func(i int) *httptest.ResponseRecorder {
		if id := r.event("demo", speaking(i)); kind(id) != "stat" {
			t.Fatalf("number %d: %q", i, id)
		}
		return r.visit("DELETE", "/v1/me", "", speaking(i)...)
	}
	for i := range 60 {
		if w := forget(i); w.Code != 200 || len(r.graph.cuts) != i+1 {
			t.Fatalf("number %d: %d %s", i, w.Code, w.Body)
		}
	}
	if w := forget(60); w.Code != 429 || w.Header().Get("Retry-After") == "" || len(r.graph.cuts) != 60 {
		t.Errorf("%d %s, %d cuts", w.Code, w.Body, len(r.graph.cuts))
	}
	if w := r.visit("DELETE", "/v1/me", "", speaking(61)...); w.Code != 200 {
		t.Errorf("of whom nothing is known: %d %s", w.Code, w.Body)
	}
	*clock = clock.Add(time.Second)
	if w := forget(60); w.Code != 200 || len(r.graph.cuts) != 61 {
		t.Errorf("a second later: %d %s", w.Code, w.Body)
	}
}

// TestStatisticalNobodys: an id is never joined with anybody, on any way, nor is
// anything stored of one that stands for an opt-out.
func TestStatisticalNobodys(t *testing.T) {
	r, _ := guessing(t)
	id, never := string(r.event("demo", someone)), string(proto.SuppressionID("abcdefghijklmnop"))
	for _, tt := range []struct{ identities, refused string }{
		{`"` + id + `"`, ""}, {`"` + id + `","account:a1"`, "identity"}, {`"account:a1","` + id + `"`, "identity"}, {`"` + never + `"`, "identity"}, {`"stat:own1","account:a1"`, ""},
	} {
		before := len(r.taken())
		w := r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":[`+tt.identities+`]}]}`, auth, key("demo-key"))
		if got := len(r.taken()) - before; w.Code != 200 || got == 1 != (tt.refused == "") || tt.refused != "" && !strings.Contains(w.Body.String(), `"`+tt.refused+`"`) {
			t.Errorf("%s: %d %s", tt.identities, w.Code, w.Body)
		}
	}
	for _, method := range []string{`"deterministic"`, `"inferred","confidence":0.9`} {
		w := r.serve("POST", "/v1/links", `{"a":"`+id+`","b":"account:a1","method":`+method+`}`, auth, key("demo-key"))
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != notLinked("blocked") {
			t.Errorf("a link by %s: %d %s", method, w.Code, w.Body)
		}
	}
}

// home posts an event of a browser with a cookie and gives the network that went on.
func (r *rig) home(client, cookie string, c caller) proto.NetworkKey {
	r.t.Helper()
	before := len(r.taken())
	r.visit("POST", "/v1/events", `{"client":"`+client+`","events":[{"event":"page"}]}`, c.with("Cookie", "kith_id="+cookie)...)
	list := r.taken()[before:]
	if len(list) == 0 {
		return 0
	}
	return list[0].Network
}

// TestNetworksToldOn: a network goes on as a keyed hash, for clients that infer
// households, and of nobody of whom nothing may be inferred.
func TestNetworksToldOn(t *testing.T) {
	r, _ := guessing(t, func(c *gateway.Config) { c.Households["other"] = proto.HouseholdRule{DaysMin: 2, IdentitiesMax: 3} })
	k := r.home("demo", "abc123", someone)
	if k == 0 || r.home("demo", "abc124", someone.with("X-Real-IP", "203.0.113.1", "User-Agent", firefoxOnLinux)) != k {
		t.Fatalf("two of a network are on %v and another", k)
	}
	for what, got := range map[string]proto.NetworkKey{
		"another network": r.home("demo", "abc123", someone.with("X-Real-IP", "203.0.114.1")), "another client": r.home("other", "abc123", someone),
	} {
		if got == 0 || got == k {
			t.Errorf("%s: %v", what, got)
		}
	}
	for what, got := range map[string]proto.NetworkKey{
		"switched off": r.home("acme", "abc123", someone), "GPC": r.home("demo", "abc123", someone.with("Sec-GPC", "1")), "never there": r.home("demo", "abc123", someone.with("CF-IPCountry", "FR")),
		"country not known": r.home("demo", "abc123", someone.with("CF-IPCountry", "T1")), "a private address": r.home("demo", "abc123", someone.with("X-Real-IP", "192.168.1.1")),
	} {
		if got != 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
	// Only of a browser or device that is known by that: not of one that is offered a
	// cookie, not of an account.
	before := len(r.taken())
	r.visit("POST", "/v1/events", `{"client":"demo","events":[{"event":"login","identities":["account:a1b2c3"]}]}`, someone...)
	r.visit("POST", "/v1/events", `{"client":"demo","events":[{"event":"login","identities":["account:a1b2c3","browser:x1"]}]}`, someone.with("Cookie", mineToo)...)
	r.visit("POST", "/v1/events", `{"client":"demo","events":[{"event":"open","identities":["aaid:a1b2c3"]},{"event":"open","identities":["aaid:a1b2c3"],"lmt":true}]}`, someone...)
	var got []string
	for _, e := range r.taken()[before:] {
		got = append(got, fmt.Sprint(kind(e.Identities[0]), " ", e.Network != 0))
	}
	if d := cmp.Diff([]string{"browser false", "account false", "aaid true"}, got); d != "" {
		t.Error(d)
	}
}

// TestHouseholdTold: a user's answer has the household's edges apart from the user's
// own, where the client has switched that on.
func TestHouseholdTold(t *testing.T) {
	r, clock := guessing(t)
	ask := func(k string, id string) (u proto.User, w *httptest.ResponseRecorder) {
		w = r.serve("GET", "/v1/users/"+id, "", auth, key(k))
		if err := json.Unmarshal(w.Body.Bytes(), &u); err != nil || w.Code != 200 {
			t.Fatal(w.Code, err)
		}
		return u, w
	}
	for range 2 {
		r.home("demo", "aaa111", someone)
		r.home("demo", "bbb222", someone.with("User-Agent", firefoxOnLinux))
		*clock = clock.Add(24 * time.Hour)
	}
	u, _ := ask("demo-key", "browser:aaa111")
	if len(u.Members) != 1 || len(u.Edges) != 0 || len(u.Household) != 1 || u.Household[0].B != "browser:bbb222" || u.Household[0].Kind != "household" {
		t.Errorf("%+v", u)
	}
	if _, w := ask("acme-key", "browser:aaa111"); strings.Contains(w.Body.String(), "household") {
		t.Errorf("a client without is told %s", w.Body)
	}
	r.serve("POST", "/v1/optouts", `{"identity":"browser:bbb222"}`, auth, key("demo-key"))
	if _, w := ask("demo-key", "browser:aaa111"); strings.Contains(w.Body.String(), "bbb222") {
		t.Errorf("after an opt-out: %s", w.Body)
	}
}

func TestInferenceConfig(t *testing.T) {
	tw := newTwin()
	for _, tt := range []struct {
		name string
		edit func(*gateway.Config)
		want string
	}{
		{"no country", func(c *gateway.Config) { c.Statistical = []proto.ClientName{"demo"} }, "country"},
		{"households, no country", func(c *gateway.Config) {
			c.Households = map[proto.ClientName]proto.HouseholdRule{"demo": {DaysMin: 5, IdentitiesMax: 16}}
		}, "country"},
		{"a day in common", func(c *gateway.Config) {
			c.CountryHeader, c.Households = "X", map[proto.ClientName]proto.HouseholdRule{"demo": {DaysMin: 1, IdentitiesMax: 16}}
		}, "2 to 30"},
		{"a crowd", func(c *gateway.Config) {
			c.CountryHeader, c.Households = "X", map[proto.ClientName]proto.HouseholdRule{"demo": {DaysMin: 5, IdentitiesMax: 65}}
		}, "2 to 64"},
		{"a long life", func(c *gateway.Config) { c.Inference.RotateDays = 8 }, "1 to 7"},
		{"a country", func(c *gateway.Config) { c.Inference.Never = []string{"Brazil"} }, "two capital letters"},
		{"too many", func(c *gateway.Config) {
			c.CountryHeader, c.Statistical = "X", make([]proto.ClientName, 257)
		}, "at most 256"},
	} {
		var c gateway.Config
		tt.edit(&c)
		if _, err := gateway.New(c, tw.behind()); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestBrowserClass(t *testing.T) {
	for _, tt := range []struct{ agent, want string }{
		{chromeOnWindows, "chrome 12x windows"}, {chromeMuchLater, "chrome 13x windows"}, {firefoxOnLinux, "firefox 12x linux"}, {safariOnIPhone, "safari 1x ios"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36 Edg/125.0.0.0", "edge 12x windows"},
		{"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4.1 Safari/605.1.15", "safari 1x mac"},
		{"Mozilla/5.0 (Linux; Android 14; SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36", "samsung 2x android"},
		{"Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1", "chrome 12x ios"},
		{"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/9 Safari/537.36", "chrome x chromeos"},
		{"Mozilla/5.0 (Linux; U; Android 4.0) AppleWebKit/534.30 (KHTML, like Gecko) Version/4.0 Mobile", "  android"},
		{"curl/8.5.0", "  "}, {"", "  "}, {"Mozilla/5.0 (Windows NT 10.0)" + strings.Repeat(" Chrome/1", 200), "  "},
	} {
		family, version, system := gateway.BrowserClass(tt.agent)
		if got := family + " " + version + " " + system; got != tt.want {
			t.Errorf("%q: %q, want %q", tt.agent, got, tt.want)
		}
	}
}
