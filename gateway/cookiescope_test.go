package gateway_test

import (
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/publicsuffix"

	"kith/gateway"
	"kith/proto"
)

// browsing is a browser's cookies, by the rules of RFC 6265, and where it goes.
type browsing struct {
	rig *rig
	jar *cookiejar.Jar
	at  *url.URL
}

func newBrowsing(t *testing.T, r *rig, at string) *browsing {
	jar, err := cookiejar.New(&cookiejar.Options{PublicSuffixList: publicsuffix.List})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	return &browsing{r, jar, u}
}

// has gives the browser a cookie.
func (b *browsing) has(domain, name, value string) {
	b.jar.SetCookies(b.at, []*http.Cookie{{Name: name, Value: value, Path: "/", Domain: domain, Secure: true, MaxAge: 1000}})
}

// known is what it is known by.
func (b *browsing) known() (list []string) {
	for _, c := range b.jar.Cookies(b.at) {
		if c.Name == "kith_id" {
			list = append(list, c.Value)
		}
	}
	return list
}

func (b *browsing) ask(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, b.at.String()+path, strings.NewReader(body))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for _, c := range b.jar.Cookies(b.at) {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	b.rig.g.Public().ServeHTTP(w, r)
	b.jar.SetCookies(b.at, w.Result().Cookies())
	return w
}

// TestSeveralCookies: whatever scopes a browser's cookies have, it is known by one
// new identity from its next event on, for good.
func TestSeveralCookies(t *testing.T) {
	for _, tt := range []struct{ name, at, configured string }{
		{"host only", "https://kith.news.example.co.uk", ""},
		{"a domain above", "https://kith.news.example.co.uk", "example.co.uk"},
		{"the host as domain", "https://kith.news.example.co.uk", "kith.news.example.co.uk"},
		{"with a port", "https://kith.news.example.co.uk:8443", "news.example.co.uk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(c *gateway.Config) { c.CookieDomain = tt.configured })
			b := newBrowsing(t, r, tt.at)
			b.has("", "kith_id", "aaaa1111")
			b.has("kith.news.example.co.uk", "kith_id", "bbbb1111")
			b.has("news.example.co.uk", "kith_id", "cccc1111")
			b.has("example.co.uk", "kith_id", "dddd1111")
			if n := len(b.known()); n < 3 { // the jar has one place for host and the host as domain
				t.Fatalf("%d cookies at first", n)
			}
			w := b.ask("POST", "/v1/events", page)
			first := b.known()
			if len(first) != 1 || slices.Contains([]string{"aaaa1111", "bbbb1111", "cccc1111", "dddd1111"}, first[0]) {
				t.Fatalf("known by %v after %v", first, w.Header()["Set-Cookie"])
			}
			size := 0
			for _, line := range w.Header()["Set-Cookie"] {
				size += len(line)
			}
			if size > 2048 { // proxies bound headers
				t.Errorf("%d bytes of cookies", size)
			}
			for range 3 {
				w = b.ask("POST", "/v1/events", page)
				b.ask("GET", "/v1/pixel.gif?client=demo", "")
			}
			if again := b.known(); !slices.Equal(again, first) || len(w.Header()["Set-Cookie"]) != 1 {
				t.Errorf("known by %v, then by %v: %v", first, again, w.Header()["Set-Cookie"])
			}
			for _, e := range r.taken() {
				if e.Identities[0].Value() != first[0] {
					t.Errorf("an event of %s, the browser is %v", e.Identities[0], first)
				}
			}
		})
	}
}

// TestSeveralCookiesOneOut: an opt-out of any of them is the browser's, and stays.
func TestSeveralCookiesOneOut(t *testing.T) {
	b := newBrowsing(t, newRig(t), "https://kith.example.com")
	b.rig.graph.out["browser:bbbb1111"] = &proto.OptOutState{OptedOut: true}
	b.has("", "kith_id", "aaaa1111")
	b.has("example.com", "kith_id", "bbbb1111")
	for range 3 {
		if w := b.ask("POST", "/v1/events", page); !strings.Contains(w.Body.String(), `"by":"opted_out"`) {
			t.Errorf("%s", w.Body)
		}
		if got := b.known(); !slices.Equal(got, []string{"bbbb1111"}) {
			t.Errorf("known by %v", got)
		}
	}
	if n := len(b.rig.taken()); n != 0 {
		t.Errorf("%d events are stored", n)
	}

	// The mark of an opt-out, in whatever scope, leaves nothing stored either; an
	// opt-in begins with a new identity.
	b = newBrowsing(t, newRig(t), "https://kith.example.com")
	b.has("", "kith_id", "aaaa1111")
	b.has("example.com", "kith_id", "cccc1111")
	b.has("", "kith_optout", "1")
	if w := b.ask("POST", "/v1/events", page); !strings.Contains(w.Body.String(), `"by":"cookie"`) || len(b.rig.taken()) != 0 {
		t.Errorf("%s", w.Body)
	}
	b.ask("POST", "/v1/optin", "")
	if got := b.known(); len(got) != 0 {
		t.Errorf("after the opt-in known by %v", got)
	}
	b.ask("POST", "/v1/events", page)
	if got := b.known(); len(got) != 1 || len(b.rig.taken()) != 1 {
		t.Errorf("known by %v, %d events", got, len(b.rig.taken()))
	}

	// What is erased is known by none of them, nor by a second copy of the same.
	for _, other := range []string{"cccc1111", "aaaa1111"} {
		b = newBrowsing(t, newRig(t), "https://kith.example.com")
		b.has("", "kith_id", "aaaa1111")
		b.has("example.com", "kith_id", other)
		if w := b.ask("DELETE", "/v1/me", ""); w.Code != 200 || len(b.known()) != 0 {
			t.Errorf("%s: %d %s: known by %v", other, w.Code, w.Body, b.known())
		}
	}
}

// TestCookiesOfAnotherScope: what was set before a domain was configured, or after one
// no longer was, goes with an opt-in, an opt-out and an erasure all the same.
func TestCookiesOfAnotherScope(t *testing.T) {
	for _, tt := range []struct{ name, was, configured string }{
		{"host only, then a domain", "", "example.com"}, {"a domain, then host only", "example.com", ""}, {"a domain, then the host's", "example.com", "kith.example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			open := func(names ...string) *browsing {
				b := newBrowsing(t, newRig(t, func(c *gateway.Config) { c.CookieDomain = tt.configured }), "https://kith.example.com")
				for _, name := range names {
					value := "1"
					if name == "kith_id" {
						value = "aaaa1111"
					}
					b.has(tt.was, name, value)
				}
				return b
			}
			has := func(b *browsing, want ...string) {
				t.Helper()
				var got []string
				for _, c := range b.jar.Cookies(b.at) {
					got = append(got, c.Name+"="+c.Value)
				}
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("the browser has %v, want %v", got, want)
				}
			}
			b := open("kith_optout")
			if w := b.ask("POST", "/v1/optin", ""); !strings.Contains(w.Body.String(), `"opted_out":false`) {
				t.Errorf("%s", w.Body)
			}
			has(b, "kith_optin=1")
			if w := b.ask("GET", "/v1/optout/status", ""); !strings.Contains(w.Body.String(), `"opted_out":false`) {
				t.Errorf("after the opt-in: %s", w.Body)
			}

			b = open("kith_optin", "kith_id")
			b.ask("POST", "/v1/optout", "")
			has(b, "kith_optout=1")

			b = open("kith_id")
			b.ask("DELETE", "/v1/me", "")
			has(b)
			if n := len(b.ask("POST", "/v1/events", page).Header()["Set-Cookie"]); n != 1 {
				t.Errorf("%d cookies are set by an event", n)
			}
		})
	}
}

// TestPartitionedCookies: of a cookie that is kept apart and one that is not, both
// are cleared.
func TestPartitionedCookies(t *testing.T) {
	r := newRig(t)
	w := r.visit("POST", "/v1/events", page, "Cookie", "kith_id=abc123; kith_id=abc124")
	var cleared [2]int
	last := w.Result().Cookies()[len(w.Result().Cookies())-1]
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 && c.Partitioned {
			cleared[1]++
		} else if c.MaxAge < 0 {
			cleared[0]++
		}
	}
	if cleared[0] == 0 || cleared[0] != cleared[1] || last.MaxAge <= 0 || !last.Partitioned || proto.Identity("browser:"+last.Value) != r.taken()[0].Identities[0] {
		t.Errorf("%v", w.Header()["Set-Cookie"])
	}
}
