package gateway_test

import (
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/proto"
)

const mine = "kith_id=3f0c9a7b3f0c9a7b3f0c9a7b3f0c9a7b"

const me = proto.Identity("browser:3f0c9a7b3f0c9a7b3f0c9a7b3f0c9a7b")

// matches are the events "match" that were stored.
func (r *rig) matches() (out []proto.Event) {
	for _, e := range r.taken() {
		if e.Name == "match" {
			out = append(out, e)
		}
	}
	return out
}

// call asks for a match with a redirect.
func (r *rig) call(redirect, more string, headers ...string) *httptest.ResponseRecorder {
	return r.visit("GET", "/v1/match?client=acme&partner=adx&uid=4711a&redirect="+url.QueryEscape(redirect)+more, "", headers...)
}

func TestMatch(t *testing.T) {
	r := exchange(t)
	w := r.visit("GET", "/v1/match?client=acme&partner=adx&uid=4711a", "", "Cookie", mine)
	if w.Code != 200 || w.Body.Len() != 43 || w.Header().Get("Content-Type") != "image/gif" || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Kith-Position") == "" {
		t.Fatalf("%d %v %q", w.Code, w.Header(), w.Body)
	}
	if c := cookies(w)["kith_id"]; c == nil || "kith_id="+c.Value != mine || c.MaxAge < 180*86400 {
		t.Errorf("the cookie is not renewed: %v", c)
	}
	want := []proto.Event{{
		Client: 2, Space: 2, Time: proto.MillisOf(now), Received: proto.MillisOf(now), ID: "match partner.adx:4711a", Identities: []proto.Identity{me, "partner.adx:4711a"},
		EventBody: proto.EventBody{Name: "match", Props: []proto.Prop{{Key: "partner", Value: proto.TextOf("adx")}}},
	}}
	if d := cmp.Diff(want, r.matches()); d != "" {
		t.Error(d)
	}
	if u := r.user(2, "partner.adx:4711a"); !slices.Contains(u, me) {
		t.Errorf("not linked: %v", u)
	}
	// One that is too long for an event's id has one of its own too, by which the same two
	// count once.
	for i, uid := range []string{strings.Repeat("x1", 100), strings.Repeat("x1", 100), strings.Repeat("x1", 100) + "x"} {
		if w := r.visit("GET", "/v1/match?client=acme&partner=adx&uid="+uid, "", "Cookie", mine); w.Code != 200 || len(r.matches()) != i+2 {
			t.Errorf("%d %v %+v", w.Code, w.Header(), r.matches())
		}
	}
	first, again, other := r.matches()[1].ID, r.matches()[2].ID, r.matches()[3].ID
	if first == "" || first != again || first == other || strings.Contains(first, "x1x1") {
		t.Errorf("ids of events: %q, %q, and of another uid %q", first, again, other)
	}
}

func TestMatchFirstVisit(t *testing.T) {
	r := exchange(t)
	w := r.call("https://sync.adx.example/match/back?kith={id}&again={id}", "")
	c := cookies(w)["kith_id"]
	if w.Code != 302 || c == nil || len(c.Value) != 32 || !c.Partitioned {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	id := "browser:" + c.Value
	p := pseudonym(2, id)
	if got, want := w.Header().Get("Location"), "https://sync.adx.example/match/back?kith="+p+"&again="+p; got != want {
		t.Errorf("sent to %s, not %s", got, want)
	}
	if strings.Contains(w.Header().Get("Location"), c.Value) {
		t.Error("the cookie is told")
	}
	if m := r.matches(); len(m) != 1 || string(m[0].Identities[0]) != id {
		t.Errorf("%+v", m)
	}
	// What the partner was given names nobody when it comes back, but who it is
	// at the partner does.
	if w := r.serve("POST", "/v1/openrtb", `{"user":{"buyeruid":"`+p+`"}}`, auth, key("acme-key")); w.Header().Get("X-Kith-Withheld") == "" {
		t.Error(w.Body)
	}
}

// TestRedirects: a browser is sent to what the partner's prefixes allow, as it
// stands there, and nowhere else; then nothing is stored either.
func TestRedirects(t *testing.T) {
	r := exchange(t)
	for _, tt := range []struct {
		redirect string
		ok       bool
	}{
		{"https://sync.adx.example/match", true},
		{"https://sync.adx.example/match?a=b&c=%2Fd%40e&u=https%3A%2F%2Fevil.example%2F", true},
		{"https://sync.adx.example/match/", true},
		{"https://sync.adx.example/match/deeper/still", true},
		{"https://sync.adx.example/match?", true},
		{"https://sync.adx.example/match?x=//evil.example/:443", true},
		{"https://other.adx.example", true},
		{"https://other.adx.example/", true},
		{"https://other.adx.example?x", true},
		{"https://other.adx.example/anything", true},

		{"https://sync.adx.example/matches", false},
		{"https://sync.adx.example/", false},
		{"https://sync.adx.example", false},
		{"https://sync.adx.example/Match", false},
		{"https://sync.adx.example/other", false},
		{"https://sync.adx.example/match/../other", false},
		{"https://sync.adx.example/match/..", false},
		{"https://sync.adx.example/match/./x", false},
		{"https://sync.adx.example/match/%2e%2e/other", false},
		{"https://sync.adx.example/match/%2E./other", false},
		{"https://sync.adx.example/match%2f..%2fother", false},
		{"https://sync.adx.example/match/..;/other", false},
		{"https://sync.adx.example//match", false},
		{"https://sync.adx.example/match//x", false},
		{`https://sync.adx.example/match/..\other`, false},
		{"https://sync.adx.example/match/%5c..%5cother", false},
		{"https://sync.adx.example/match/%252e%252e/other", false},
		{"https://sync.adx.example/{id}", false},
		{"https://sync.adx.example/match/{id}", false},
		{"https://{id}.adx.example/match", false},
		{"https://evil.example/match", false},
		{"https://evil.example/https://sync.adx.example/match", false},
		{"https://evil.example?https://sync.adx.example/match", false},
		{"https://evil.example#https://sync.adx.example/match", false},
		{"https://sync.adx.example.evil.example/match", false},
		{"https://sync.adx.examplex/match", false},
		{"https://sync.adx.example./match", false},
		{"https://evil.sync.adx.example/match", false},
		{"https://sync.adx.example@evil.example/match", false},
		{"https://sync.adx.example:x@evil.example/match", false},
		{"https://user@sync.adx.example/match", false},
		{"https://@sync.adx.example/match", false},
		{"https://sync.adx.example/match@evil.example", false},
		{"https://sync.adx.example/match?@evil.example", false},
		{"https://sync.adx.example:443/match", false},
		{"https://sync.adx.example:8443/match", false},
		{"https://sync.adx.example:/match", false},
		{"https://SYNC.adx.example/match", false},
		{"HTTPS://sync.adx.example/match", false},
		{"http://sync.adx.example/match", false},
		{"//sync.adx.example/match", false},
		{"//evil.example", false},
		{`\\evil.example`, false},
		{`/\evil.example`, false},
		{`https:\\sync.adx.example/match`, false},
		{`https://sync.adx.example\@evil.example/match`, false},
		{`https://evil.example\@sync.adx.example/match`, false},
		{`https://sync.adx.example\.evil.example/match`, false},
		{"https:evil.example", false},
		{"https:/sync.adx.example/match", false},
		{"https:///sync.adx.example/match", false},
		{"https:sync.adx.example/match", false},
		{"/match", false},
		{"match", false},
		{"?", false},
		{"javascript:alert(1)//https://sync.adx.example/match", false},
		{"data:text/html,https://sync.adx.example/match", false},
		{"https://sync.adx.example/match#fragment", false},
		{"https://sync.adx.example/match?a#b", false},
		{"https://sync.adx.example/match\r\nSet-Cookie: a=b", false},
		{"https://sync.adx.example/match?a\r\nLocation: https://evil.example", false},
		{"https://sync.adx.example/match?a=%0d%0aSet-Cookie:%20a=b", false},
		{"https://sync.adx.example/match?a=%0A", false},
		{"https://sync.adx.example/match?a=%00", false},
		{"https://sync.adx.example/match?a=%7f", false},
		{"https://sync.adx.example/match?a=%", false},
		{"https://sync.adx.example/match?a=%4", false},
		{"https://sync.adx.example/match?a=%zz", false},
		{"https://sync.adx.example/match?a=%4{id}1", false},
		{"https://sync.adx.example/match?a={other}", false},
		{"https://sync.adx.example/match?a={i{id}d}", false},
		{"https://sync.adx.example/match?a=\x00", false},
		{"https://sync.adx.example/match?a=\x7f", false},
		{"https://sync.adx.example/match?a=\tb", false},
		{"https://sync.adx.example/match?a= b", false},
		{" https://sync.adx.example/match", false},
		{"\thttps://sync.adx.example/match", false},
		{"ht\ntps://sync.adx.example/match", false},
		{"https://sync.adx.exаmple/match", false}, // a Cyrillic letter
		{"https://ѕync.adx.example/match", false},
		{"https://xn--ync-oic.adx.example/match", false},
		{"https://sync。adx.example/match", false},
		{"https://sync%2eadx.example/match", false},
		{"https://sync.adx.example%2f@evil.example/match", false},
		{"https://sync.adx.example/mätch", false},
		{"https://sync.adx.example/match?ä", false},
		{"https://[::1]/match", false},
		{"https://sync.adx.example/match?" + strings.Repeat("x", 2048), false},
		{"https://sure.example/", false}, // another partner's
	} {
		before := len(r.matches())
		w := r.call(tt.redirect, "", "Cookie", mine)
		switch location, there := w.Header()["Location"]; {
		case tt.ok && (w.Code != 302 || !there || location[0] != tt.redirect):
			t.Errorf("%q: %d %v %s", tt.redirect, w.Code, location, w.Body)
		case !tt.ok && (w.Code != 403 || code(w) != "forbidden" || there || len(cookies(w)) != 0 || len(r.matches()) != before):
			t.Errorf("%q: %d %v %s", tt.redirect, w.Code, w.Header(), w.Body)
		}
		// A browser that may not be known is sent no other way.
		w = r.call(tt.redirect, "", "Sec-GPC", "1")
		if location, there := w.Header()["Location"]; there != tt.ok || there && location[0] != tt.redirect {
			t.Errorf("%q under GPC: %d %v", tt.redirect, w.Code, location)
		}
	}
}

func TestMatchErrors(t *testing.T) {
	r := exchange(t)
	proof := gateway.PartnerProof(secret, "partner.sure:4711a", now.Unix()+60)
	for _, tt := range []struct {
		name, query string
		status      int
		code        string
	}{
		{"no query", "", 400, "client"},
		{"no client", "partner=adx&uid=a1", 400, "client"},
		{"an unknown client", "client=nobody&partner=adx&uid=a1", 400, "client"},
		{"no partner", "client=acme&uid=a1", 404, "not_found"},
		{"an unknown partner", "client=acme&partner=evil&uid=a1", 404, "not_found"},
		{"another client's partner", "client=demo&partner=adx&uid=a1", 404, "not_found"},
		{"a partner in another case", "client=acme&partner=ADX&uid=a1", 404, "not_found"},
		{"no uid", "client=acme&partner=adx", 400, "identity"},
		{"an empty uid", "client=acme&partner=adx&uid=", 400, "identity"},
		{"a uid of zeros", "client=acme&partner=adx&uid=00000000-0000-0000-0000-000000000000", 400, "identity"},
		{"a uid that names nobody", "client=acme&partner=adx&uid=null", 400, "identity"},
		{"a macro that the partner did not fill in", "client=acme&partner=adx&uid=%24%7BUID%7D", 400, "identity"},
		{"one in brackets", "client=acme&partner=adx&uid=[UID]", 400, "identity"},
		{"a uid with a blank", "client=acme&partner=adx&uid=a+b", 400, "identity"},
		{"a uid with CRLF", "client=acme&partner=adx&uid=a%0d%0ab", 400, "identity"},
		{"a uid with NUL", "client=acme&partner=adx&uid=a%00", 400, "identity"},
		{"a uid of no UTF-8", "client=acme&partner=adx&uid=a%ff", 400, "identity"},
		{"a long uid", "client=acme&partner=adx&uid=" + strings.Repeat("x", 257), 400, "identity"},
		{"a uid on the block list", "client=acme&partner=adx&uid=kiosk1", 400, "identity"},
		{"a mail address", "client=acme&partner=adx&uid=jane%40example.com", 400, "pii"},
		{"a mail address, escaped twice", "client=acme&partner=adx&uid=jane%2540example.com", 400, "pii"},
		{"a telephone number", "client=acme&partner=adx&uid=%2B49301234567", 400, "pii"},
		{"a bank account", "client=acme&partner=adx&uid=DE89370400440532013000", 400, "pii"},
		{"an IP address", "client=acme&partner=adx&uid=192.0.2.17", 400, "pii"},
		{"uid twice", "client=acme&partner=adx&uid=a1&uid=a2", 400, "invalid"},
		{"redirect twice", "client=acme&partner=adx&uid=a1&redirect=https://sync.adx.example/match&redirect=https://evil.example", 400, "invalid"},
		{"redirect twice, once escaped", "client=acme&partner=adx&uid=a1&redirect=https://sync.adx.example/match&%72edirect=https://evil.example", 400, "invalid"},
		{"gdpr twice", "client=acme&partner=adx&uid=a1&gdpr=1&gdpr=0", 400, "invalid"},
		{"a broken escape", "client=acme&partner=adx&uid=a1&x=%zz", 400, "invalid"},
		{"too long", "client=acme&partner=adx&uid=a1&x=" + strings.Repeat("x", 9<<10), 413, "too_large"},
		{"a redirect where none is allowed", "client=acme&partner=quiet&uid=a1&redirect=https://sync.adx.example/match", 403, "forbidden"},
		{"no proof", "client=acme&partner=sure&uid=4711a", 400, "unproven"},
		{"another's proof", "client=acme&partner=sure&uid=4712a&proof=" + proof, 400, "unproven"},
		{"a proof for too long", "client=acme&partner=sure&uid=4711a&proof=" + gateway.PartnerProof(secret, "partner.sure:4711a", now.Unix()+3600), 400, "unproven"},
		{"an old proof", "client=acme&partner=sure&uid=4711a&proof=" + gateway.PartnerProof(secret, "partner.sure:4711a", now.Unix()-1), 400, "unproven"},
		{"a proof by another key", "client=acme&partner=sure&uid=4711a&proof=" + gateway.PartnerProof([]byte("another key, 16."), "partner.sure:4711a", now.Unix()+60), 400, "unproven"},
		{"proven", "client=acme&partner=sure&uid=4711a&proof=" + proof, 200, ""},
		{"proven, none needed", "client=acme&partner=quiet&uid=4711a&proof=x", 200, ""},
		{"what is not known is skipped", "client=acme&partner=adx&uid=a1&cb=1&cb=2&&=", 200, ""},
	} {
		before := len(r.matches())
		w := r.visit("GET", "/v1/match?"+tt.query, "", "Cookie", mine)
		if w.Code != tt.status || tt.code != "" && code(w) != tt.code {
			t.Errorf("%s: %d %.200s", tt.name, w.Code, w.Body)
		}
		if h := w.Header(); tt.status != 200 && (h.Get("Location") != "" || len(cookies(w)) != 0 || len(r.matches()) != before) {
			t.Errorf("%s: something happened: %v", tt.name, h)
		}
	}
	if w := r.call("https://sync.adx.example/match", "", "Cookie", "kith_id=kiosk1"); w.Code != 400 || code(w) != "identity" || w.Header().Get("Location") != "" || len(cookies(w)) != 0 {
		t.Errorf("a browser on the block list: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := r.visit("POST", "/v1/match?client=acme&partner=adx&uid=a1", ""); w.Code != 405 {
		t.Error(w.Code)
	}
}

// TestMatchNotDurable: what could not be stored is not answered as if it were.
func TestMatchNotDurable(t *testing.T) {
	r := exchange(t)
	r.fail, r.failErr = func(int, *proto.Event) bool { return true }, proto.Errorf(proto.CodeDiskFull, "the disk is nearly full")
	w := r.call("https://sync.adx.example/match?id={id}", "")
	if w.Code != 503 || code(w) != "disk_full" || w.Header().Get("Location") != "" || len(cookies(w)) != 0 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestSignalsOfMatches(t *testing.T) {
	signals := append(slices.Clone(everySignal),
		signal{name: "the opt-out cookie", withheld: "cookie", headers: []string{"Cookie", "kith_optout=1; " + mine}},
		signal{name: "an opted-out browser", withheld: "opted_out", headers: []string{"Cookie", "kith_id=gone1"}},
		signal{name: "too many browsers, of which one might be", withheld: "opted_out", headers: []string{"Cookie", "kith_id=a1; kith_id=a2; kith_id=a3; kith_id=a4; kith_id=gone1"}},
		signal{name: "an opted-out partner's id", withheld: "opted_out", query: "uid=out1"},
	)
	for _, s := range signals {
		if s.query == "" && s.headers == nil && !s.open {
			continue // of bid requests only
		}
		t.Run(s.name, func(t *testing.T) {
			r := exchange(t)
			headers := s.headers
			if !slices.Contains(headers, "Cookie") {
				headers = append(slices.Clone(headers), "Cookie", mine)
			}
			if !strings.Contains(s.query, "uid=") {
				s.query += "&uid=4711a"
			}
			for _, to := range []string{"", "https://sync.adx.example/match?id={id}"} {
				w := r.visit("GET", "/v1/match?client=acme&partner=adx&redirect="+url.QueryEscape(to)+"&"+s.query, "", headers...)
				if got := w.Header().Get("X-Kith-Withheld"); got != s.withheld {
					t.Fatalf("withheld %q, want %q: %d %s", got, s.withheld, w.Code, w.Body)
				}
				want := ""
				if to != "" {
					want = "https://sync.adx.example/match?id="
					if s.open {
						want += pseudonym(2, string(me))
					}
				}
				if got := w.Header().Get("Location"); got != want || (w.Code == 302) != (to != "") {
					t.Errorf("%d, sent to %q, not %q", w.Code, got, want)
				}
				if c := cookies(w); (c["kith_id"] != nil) != s.open || (c["kith_optout"] != nil) != (s.withheld == "cookie") {
					t.Errorf("cookies %v", c)
				}
				if (w.Header().Get("X-Kith-Position") != "") != s.open {
					t.Errorf("%v", w.Header())
				}
			}
			if stored := len(r.matches()) > 0; stored != s.open {
				t.Errorf("stored: %+v", r.matches())
			}
		})
	}
}

func TestMatchMetrics(t *testing.T) {
	r := exchange(t)
	r.call("", "")
	r.call("", "", "DNT", "1")
	text := r.serve("GET", "/metrics", "").Body.String()
	for _, want := range []string{`kith_gateway_matches_total{withheld="none"} 1`, `kith_gateway_matches_total{withheld="dnt"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestOutsideConfig(t *testing.T) {
	partner := func(p gateway.Partner) gateway.Config {
		return gateway.Config{Partners: map[proto.ClientName][]gateway.Partner{"a": {p}}}
	}
	for name, c := range map[string]gateway.Config{
		"a vendor beyond":            {TCFVendor: 1 << 16},
		"a negative vendor":          {TCFVendor: -1},
		"a short key":                {PseudonymKey: []byte("short")},
		"no domain":                  {EIDSource: "a b"},
		"a standard taxonomy":        {OpenRTB: map[proto.ClientName]gateway.OpenRTB{"a": {Segtax: 4}}},
		"no kind":                    {OpenRTB: map[proto.ClientName]gateway.OpenRTB{"a": {UserID: "device"}}},
		"no partner's name":          partner(gateway.Partner{Name: "a b"}),
		"a short secret":             partner(gateway.Partner{Name: "a", Secret: []byte("short")}),
		"no https":                   partner(gateway.Partner{Name: "a", Redirects: []string{"http://a.example/"}}),
		"a partner that comes twice": {Partners: map[proto.ClientName][]gateway.Partner{"a": {{Name: "x"}, {Name: "x"}}}},
	} {
		if err := c.Validate(); proto.CodeOf(err) != proto.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for domain, want := range map[string]string{"": "kith", ".example.com": "example.com"} {
		if got := gateway.DefaultConfigOf(gateway.Config{CookieDomain: domain}).EIDSource; got != want {
			t.Errorf("%q: source %q", domain, got)
		}
	}
}

// FuzzMatchRedirect: where a browser is sent is an allowed host, to net/url and
// to a reader that does what browsers do.
func FuzzMatchRedirect(f *testing.F) {
	for _, s := range []string{
		"https://sync.adx.example/match?id={id}", "https://other.adx.example", `https:\\sync.adx.example\match`, "https://sync.adx.example:443/match", "https://sync.adx.example@evil.example/match",
		"https://sync.adx.example/match/../x", "//evil.example", "https://other.adx.example?x=%41", "\x00https://other.adx.example/", "https://other.adx.example/a=b,c+d~",
	} {
		f.Add(s, true)
	}
	r := exchange(f)
	hosts := map[string]string{"sync.adx.example": "/match", "other.adx.example": ""}
	f.Fuzz(func(t *testing.T, s string, known bool) {
		headers := []string{"Sec-GPC", "1"}
		if known {
			headers = []string{"Cookie", mine}
		}
		w := r.call(s, "", headers...)
		location, there := w.Header()["Location"]
		if !there {
			if w.Code == 302 || w.Code == 200 && s != "" {
				t.Fatalf("%q: %d %v", s, w.Code, w.Header())
			}
			return
		}
		to := location[0]
		if w.Code != 302 || len(location) != 1 || strings.ContainsFunc(to, func(c rune) bool { return c <= ' ' || c > '~' }) {
			t.Fatalf("%q: %d %q", s, w.Code, location)
		}
		u, err := url.Parse(to)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
			t.Fatalf("%q: sent to %q: %v %v", s, to, u, err)
		}
		path, ok := hosts[u.Host]
		if below, under := strings.CutPrefix(u.JoinPath().Path, path); !ok || !under || below != "" && below[0] != '/' {
			t.Fatalf("%q: sent to %q", s, to)
		}
		if host := browserHost(to); host != u.Host {
			t.Fatalf("%q: a browser goes to %q by %q", s, host, to)
		}
	})
}

// browserHost is where a browser goes: it strips what is no sign, takes a
// backslash for a slash and any number of slashes for two, lets a user stand
// before the host, and folds case (WHATWG, URL).
func browserHost(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r <= ' ' || r == 0x7f:
			return -1
		case r == '\\':
			return '/'
		}
		return r
	}, s)
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !strings.EqualFold(scheme, "https") {
		return "no https: " + s
	}
	rest = strings.TrimLeft(rest, "/")
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	rest, _ = url.PathUnescape(rest)
	return strings.ToLower(strings.TrimSuffix(rest, ":443"))
}
