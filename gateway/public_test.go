package gateway_test

import (
	"image/gif"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/proto"
)

func cookies(w *httptest.ResponseRecorder) map[string]*http.Cookie {
	out := map[string]*http.Cookie{}
	for _, c := range w.Result().Cookies() {
		out[c.Name] = c
	}
	return out
}

const page = `{"client":"demo","events":[{"event":"page","props":{"section":"auto"}}]}`

func TestFirstVisit(t *testing.T) {
	r := newRig(t)
	w := r.visit("POST", "/v1/events", page, "Content-Type", "text/plain;charset=UTF-8", "Origin", "https://news.example")
	c := cookies(w)["kith_id"]
	if w.Code != 200 || c == nil {
		t.Fatalf("%d %s %v", w.Code, w.Body, w.Header())
	}
	if len(c.Value) != 32 || !c.HttpOnly || !c.Secure || !c.Partitioned || c.SameSite != http.SameSiteNoneMode || c.Path != "/" || c.MaxAge < 180*86400 {
		t.Errorf("cookie %s", c.Raw)
	}
	if h := w.Header(); h.Get("Access-Control-Allow-Origin") != "https://news.example" || h.Get("Access-Control-Allow-Credentials") != "true" || h.Get("Vary") != "Origin" {
		t.Errorf("CORS: %v", h)
	}
	if d := cmp.Diff([]proto.Identity{proto.Identity("browser:" + c.Value)}, r.taken()[0].Identities); d != "" {
		t.Error(d)
	}
	// The second visit keeps the identity and slides the cookie.
	w = r.visit("POST", "/v1/events", page, "Cookie", "kith_id="+c.Value)
	if again := cookies(w)["kith_id"]; again == nil || again.Value != c.Value || again.MaxAge != c.MaxAge {
		t.Errorf("second visit: %v", w.Header())
	}
	w = r.visit("GET", "/v1/me/segments?client=demo", "", "Cookie", "kith_id="+c.Value)
	if got := strings.TrimSpace(w.Body.String()); got != `{"opted_out":false,"segments":["all","auto"]}` {
		t.Error(got)
	}
	w = r.visit("GET", "/v1/me/segments?client=acme", "", "Cookie", "kith_id="+c.Value)
	if got := strings.TrimSpace(w.Body.String()); got != `{"opted_out":false,"segments":[]}` {
		t.Error("another client sees:", got)
	}
	// As first-party data for Prebid; nothing where a signal is against it.
	for _, x := range []struct{ query, header, want string }{
		{"client=demo&format=ortb2", "", `{"ortb2":{"user":{"data":[{"id":"kith","name":"kith","segment":[{"id":"all"},{"id":"auto"}],"ext":{"segtax":7100}}]}}}`},
		{"client=demo&format=ortb2", "Sec-GPC", `{"ortb2":{}}`},
		{"client=demo&format=ortb2", "DNT", `{"ortb2":{}}`},
		{"client=acme&format=ortb2", "", `{"ortb2":{}}`},
	} {
		w = r.visit("GET", "/v1/me/segments?"+x.query, "", "Cookie", "kith_id="+c.Value, x.header, "1")
		if got := strings.TrimSpace(w.Body.String()); got != x.want {
			t.Errorf("%s %s: %s", x.query, x.header, got)
		}
	}
	if w = r.visit("GET", "/v1/me/segments?client=demo&format=xml", ""); w.Code != 400 || code(w) != "invalid" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w = r.visit("GET", "/v1/me/segments?client=nobody", ""); w.Code != 400 || code(w) != "client" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPublicIdentities(t *testing.T) {
	const own = "3f0c9a7b3f0c9a7b3f0c9a7b3f0c9a7b"
	const me = proto.Identity("browser:" + own)
	proof := gateway.Proof(secret, "account:a1", me, now.Unix()+60)
	tests := []struct {
		name, client, fields string
		cookie               bool
		want                 []proto.Identity // "*" for a new browser
		unproven             string
	}{
		{"a browser is the cookie's own", "acme", `"identities":["browser:victim1"]`, true, []proto.Identity{me}, ""},
		{"two browsers are one", "acme", `"identities":["browser:v1","browser:v2"]`, true, []proto.Identity{me}, ""},
		{"a browser that nobody filled in", "acme", `"identities":["browser:undefined"]`, true, []proto.Identity{me}, ""},
		{"a macro, without a cookie", "acme", `"identities":["browser:${UID}"]`, false, []proto.Identity{"*"}, ""},
		{"an empty one", "acme", `"identities":["browser:"]`, true, []proto.Identity{me}, ""},
		{"a long one", "acme", `"identities":["browser:` + strings.Repeat("x", 10_000) + `"]`, true, []proto.Identity{me}, ""},
		{"one that is not clean", "acme", `"identities":["browser:a \u0000\ud800` + "\xff" + `"]`, true, []proto.Identity{me}, ""},
		{"an address", "acme", `"identities":["browser:jo@example.com"]`, true, []proto.Identity{me}, ""},
		{"more than eight of one", "acme", `"identities":["browser:1","browser:2","browser:3","browser:4","browser:null","browser:","browser:7","browser:8","browser:9","idfa:AB-1"]`, true, []proto.Identity{me, "idfa:AB-1"}, ""},
		{"an account with its proof, and junk", "acme", `"identities":["account:a1","browser:null"],"proof":"` + proof + `"`, true, []proto.Identity{"account:a1", me}, ""},
		{"junk of a device that limits, without a cookie", "acme", `"identities":["browser:null","idfa:AB-1"],"lmt":true`, false, nil, ""},
		{"an account with its proof", "acme", `"identities":["account:a1"],"proof":"` + proof + `"`, true, []proto.Identity{me, "account:a1"}, ""},
		{"the account first, as sent", "acme", `"identities":["account:a1","browser:x1"],"proof":"` + proof + `"`, true, []proto.Identity{"account:a1", me}, ""},
		{"an account without", "acme", `"identities":["account:a1"]`, true, []proto.Identity{me}, `"unproven":1`},
		{"another account's proof", "acme", `"identities":["account:a2"],"proof":"` + proof + `"`, true, []proto.Identity{me}, `"unproven":1`},
		{"another browser's proof", "acme", `"identities":["account:a1"],"proof":"` + proof + `"`, false, []proto.Identity{"*"}, `"unproven":1`},
		{"an old proof", "acme", `"identities":["account:a1"],"proof":"` + gateway.Proof(secret, "account:a1", me, now.Unix()-1) + `"`, true, []proto.Identity{me}, `"unproven":1`},
		{"no proof at all", "acme", `"identities":["account:a1"],"proof":"x.y"`, true, []proto.Identity{me}, `"unproven":1`},
		{"a client without a secret", "other", `"identities":["account:a1"],"proof":"` + gateway.Proof(nil, "account:a1", me, now.Unix()+60) + `"`, true, []proto.Identity{me}, `"unproven":1`},
		{"a partner's id", "acme", `"identities":["partner.x:1"]`, true, []proto.Identity{me}, `"unproven":1`},
		{"the demo is exempt", "demo", `"identities":["account:a1"]`, true, []proto.Identity{me, "account:a1"}, ""},
		{"a device without a cookie", "acme", `"identities":["idfa:AB-1"]`, false, []proto.Identity{"idfa:AB-1"}, ""},
		{"a device with a cookie", "acme", `"identities":["idfa:AB-1"]`, true, []proto.Identity{me, "idfa:AB-1"}, ""},
		{"a device that limits, with a cookie", "acme", `"identities":["idfa:AB-1"],"lmt":true`, true, []proto.Identity{me}, ""},
		{"a device that limits", "acme", `"identities":["idfa:AB-1"],"lmt":1`, false, nil, ""},
		{"a device that limits, and a browser without a cookie", "acme", `"identities":["browser:x1","idfa:AB-1"],"lmt":true`, false, nil, ""},
		{"a browser without a cookie that limits", "acme", `"identities":["browser:x1"],"lmt":true`, false, nil, ""},
		{"an account of a device that limits", "demo", `"identities":["idfa:AB-1","account:a1"],"lmt":true`, false, []proto.Identity{"account:a1"}, ""},
		{"the same with a browser", "demo", `"identities":["browser:x1","account:a1"],"lmt":true`, false, []proto.Identity{"account:a1"}, ""},
		{"the same with a cookie", "demo", `"identities":["idfa:AB-1","account:a1"],"lmt":true`, true, []proto.Identity{me, "account:a1"}, ""},
		{"lmt off", "acme", `"identities":["idfa:AB-1"],"lmt":0`, false, []proto.Identity{"idfa:AB-1"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			var headers []string
			if tt.cookie {
				headers = []string{"Cookie", "kith_id=" + own}
			}
			w := r.visit("POST", "/v1/events", `{"client":"`+tt.client+`","events":[{"event":"e",`+tt.fields+`}]}`, headers...)
			var got []proto.Identity
			if events := r.taken(); len(events) > 0 {
				got = events[0].Identities
			} else if !strings.Contains(w.Body.String(), "opted_out") {
				t.Error(w.Body)
			}
			if c := cookies(w)["kith_id"]; c != nil && !tt.cookie {
				for i := range got {
					if got[i].Value() == c.Value {
						got[i] = "*"
					}
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d, w.Body)
			}
			if c := cookies(w)["kith_id"]; strings.Contains(w.Body.String(), `"new":true`) != (c != nil && !tt.cookie) {
				t.Errorf("whether the browser is new: %s", w.Body)
			}
			if tt.unproven != "" != strings.Contains(w.Body.String(), `"unproven"`) || !strings.Contains(w.Body.String(), tt.unproven) {
				t.Errorf("unproven: %s", w.Body)
			}
		})
	}
}

// TestPublicIdentitiesAreValid: of no other kind anything goes, nor of a browser on the
// service plane.
func TestPublicIdentitiesAreValid(t *testing.T) {
	for _, id := range []string{"account:null", "idfa:", "Browser:x", "browser", "", " browser:x", "aaid:${UID}", `idfa:\u0001a`} {
		r := newRig(t)
		w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"e","identities":["browser:x1","`+id+`"]}]}`)
		if len(r.taken()) > 0 || !strings.Contains(w.Body.String(), `"code":"identity"`) {
			t.Errorf("%s: %s", id, w.Body)
		}
	}
	for _, id := range []string{"browser:null", "browser:", `browser:\u0001a`} {
		r := newRig(t)
		w := r.serve("POST", "/v1/events", `{"events":[{"event":"e","identities":["`+id+`"]}]}`, auth, key("acme-key"))
		if len(r.taken()) > 0 || !strings.Contains(w.Body.String(), `"code":"identity"`) {
			t.Errorf("%s on the service plane: %s", id, w.Body)
		}
	}
}

// TestHeadStoresNothing: HEAD is safe, so the routes whose GET stores something refuse it.
func TestHeadStoresNothing(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Partners = map[proto.ClientName][]gateway.Partner{"demo": {{Name: "adx"}}} })
	for _, target := range []string{"/v1/pixel.gif?client=demo", "/v1/match?client=demo&partner=adx&uid=x1"} {
		w := r.visit("HEAD", target, "")
		if w.Code != 405 || w.Header().Get("Allow") != "GET" || len(cookies(w)) != 0 || len(r.taken()) != 0 {
			t.Errorf("HEAD %s: %d %v, %d events", target, w.Code, w.Header(), len(r.taken()))
		}
	}
	if w := r.visit("HEAD", "/v1/optout/status", ""); w.Code != 200 {
		t.Errorf("HEAD of a question: %d", w.Code)
	}
}

func TestDeviceSetsNoCookie(t *testing.T) {
	r := newRig(t)
	w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"e","identities":["aaid:AB-1"]}]}`)
	if len(cookies(w)) != 0 {
		t.Error(w.Header())
	}
}

// TestDevicesKeyed: where a client takes ids of devices with a key only, one in an event of
// a browser names nobody, and the event is that browser's; with a key it is taken.
func TestDevicesKeyed(t *testing.T) {
	for _, keyed := range []bool{true, false} {
		r := newRig(t, func(c *gateway.Config) {
			if keyed {
				c.DevicesKeyed = []proto.ClientName{"acme"}
			}
		})
		r.graph.out["idfa:OUT1"] = &proto.OptOutState{OptedOut: true}
		had := 0
		for _, tt := range []struct {
			client, event, cookie string
			kept, trusted         []proto.Identity // where keyed, and else
			says                  string
		}{
			{"acme", `"identities":["aaid:AB-1"]`, "kith_id=abc123", []proto.Identity{"browser:abc123"}, []proto.Identity{"browser:abc123", "aaid:AB-1"}, `"unproven":1`},
			{"acme", `"identities":["aaid:AB-1","browser:x1","idfa:CD-2"]`, "kith_id=abc123", []proto.Identity{"browser:abc123"}, []proto.Identity{"aaid:AB-1", "browser:abc123", "idfa:CD-2"}, `"unproven":2`},
			{"acme", `"identities":["aaid:AB-1"]`, "", []proto.Identity{"new"}, []proto.Identity{"aaid:AB-1"}, `"unproven":1`},
			{"acme", `"identities":["aaid:AB-1"],"lmt":true`, "", nil, nil, "opted_out"},
			{"acme", `"identities":["idfa:OUT1"]`, "kith_id=abc123", nil, nil, "opted_out"},
			{"demo", `"identities":["aaid:AB-1"]`, "kith_id=abc123", []proto.Identity{"browser:abc123", "aaid:AB-1"}, []proto.Identity{"browser:abc123", "aaid:AB-1"}, ""},
		} {
			w := r.visit("POST", "/v1/events", `{"client":"`+tt.client+`","events":[{"event":"e",`+tt.event+`}]}`, "Cookie", tt.cookie)
			var got []proto.Identity
			for _, e := range r.taken()[had:] {
				got = e.Identities
			}
			had = len(r.taken())
			want := tt.trusted
			if keyed {
				want = tt.kept
			}
			if len(want) == 1 && want[0] == "new" && len(got) == 1 && cookies(w)["kith_id"] != nil {
				want = []proto.Identity{proto.Identity("browser:" + cookies(w)["kith_id"].Value)}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("keyed %t, %s: %s", keyed, tt.event, d)
			}
			if says := strings.Contains(w.Body.String(), tt.says); says != (keyed || want == nil || tt.says == "") {
				t.Errorf("keyed %t, %s: %s", keyed, tt.event, w.Body)
			}
		}
		r.serve("POST", "/v1/events", `{"client":"acme","events":[{"event":"e","identities":["aaid:AB-1","browser:x1"]}]}`, auth, key("acme-key"))
		if got := r.taken()[had:]; len(got) != 1 || len(got[0].Identities) != 2 {
			t.Errorf("keyed %t, with a key: %v", keyed, got)
		}
	}
}

// TestRefusedEventsSetNoCookie: nothing is stored, so nobody is known by it.
func TestRefusedEventsSetNoCookie(t *testing.T) {
	r := newRig(t)
	r.graph.out["aaid:out1"] = &proto.OptOutState{OptedOut: true}
	r.graph.out["aaid:cdda802e-fb9c-47ad-9866-0794d394c912"] = &proto.OptOutState{OptedOut: true}
	for _, fields := range []string{`"url":"https://a.example/?m=jane%40gmx.de"`, `"time":"2001-01-01T00:00:00Z"`, `"identities":["aaid:out1"]`, `"identities":["browser:x1","aaid:out1"]`, `"identities":["aaid:CDDA802E-FB9C-47AD-9866-0794D394C912"]`} {
		w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"e",`+fields+`}]}`)
		if !strings.HasPrefix(w.Body.String(), `{"accepted":0,`) || len(cookies(w)) != 0 || strings.Contains(fields, "aaid") != strings.Contains(w.Body.String(), "opted_out") {
			t.Errorf("%s: %s %v", fields, w.Body, cookies(w))
		}
	}
	w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"e"},{"event":""}]}`)
	if cookies(w)["kith_id"] == nil {
		t.Errorf("one of two is kept, without a cookie: %s", w.Body)
	}
}

func TestOptOutSignals(t *testing.T) {
	for name, header := range map[string][]string{
		"gpc": {"Sec-GPC", "1"}, "dnt": {"DNT", "1"}, "cookie": {"Cookie", "kith_optout=1; kith_id=3f0c9a7b"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			w := r.visit("POST", "/v1/events", page, header...)
			if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"accepted":0,"refused":[{"index":0,"code":"opted_out"`) {
				t.Errorf("events: %d %s", w.Code, w.Body)
			}
			if c := cookies(w); c["kith_id"] != nil || (c["kith_optout"] != nil) != (name == "cookie") {
				t.Errorf("cookies %v", c)
			}
			w = r.visit("GET", "/v1/pixel.gif?client=demo", "", header...)
			if w.Code != 200 || !strings.HasPrefix(w.Header().Get("X-Kith-Error"), "opted_out") || cookies(w)["kith_id"] != nil {
				t.Errorf("pixel: %v", w.Header())
			}
			if len(r.taken()) != 0 {
				t.Error("something was stored")
			}
			w = r.visit("GET", "/v1/optout/status", "", header...)
			if got := w.Body.String(); !strings.HasPrefix(got, `{"opted_out":true,"by":"`+name+`"`) || !strings.Contains(got, `"`+name+`":"refuses"`) {
				t.Error(got)
			}
			w = r.visit("GET", "/v1/me/segments?client=demo", "", header...)
			if got := strings.TrimSpace(w.Body.String()); got != `{"opted_out":true,"segments":[],"by":"`+name+`"}` {
				t.Error(got)
			}
		})
	}
}

func TestOptOutAndIn(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Origins = map[proto.ClientName][]string{"acme": {"https://acme.example"}}
	})
	for _, tt := range []struct {
		name, path string
		status     int
		headers    []string
	}{
		{"same origin", "/v1/optout", 200, []string{"Sec-Fetch-Site", "same-origin"}},
		{"cross site", "/v1/optout", 403, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}},
		{"cross site, a client's page", "/v1/optout", 200, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://acme.example"}},
		{"old browser, same site", "/v1/optout", 200, []string{"Origin", "http://www.example.com"}},
		{"old browser, another site", "/v1/optout", 403, []string{"Origin", "https://evil.example"}},
		{"old browser, no origin to tell", "/v1/optout", 403, []string{"Origin", "null"}},
		{"no browser", "/v1/optout", 200, nil},
		{"in, same origin", "/v1/optin", 200, []string{"Sec-Fetch-Site", "same-site"}},
		{"in, cross site", "/v1/optin", 403, []string{"Sec-Fetch-Site", "cross-site"}},
		{"in, a client's page", "/v1/optin", 403, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://acme.example"}},
	} {
		w := r.visit("POST", tt.path, "", tt.headers...)
		if w.Code != tt.status {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		if w.Code != 200 && len(cookies(w)) != 0 {
			t.Errorf("%s: cookies were set", tt.name)
		}
	}
	c := cookies(r.visit("POST", "/v1/optout", ""))
	if c["kith_optout"] == nil || c["kith_optout"].Value != "1" || c["kith_optout"].Partitioned || c["kith_optout"].MaxAge < 5*365*86400 || c["kith_id"].MaxAge >= 0 {
		t.Errorf("opt-out: %v", c)
	}
	w := r.visit("POST", "/v1/optin", "", "Cookie", "kith_optout=1")
	if c := cookies(w); c["kith_optout"].MaxAge >= 0 || !strings.HasPrefix(w.Body.String(), `{"opted_out":false,`) {
		t.Errorf("opt-in: %v %s", c, w.Body)
	}
	w = r.visit("POST", "/v1/optin", "", "Cookie", "kith_optout=1", "Sec-GPC", "1")
	if !strings.HasPrefix(w.Body.String(), `{"opted_out":true,"by":"gpc",`) {
		t.Errorf("opt-in under GPC: %s", w.Body)
	}
	if w := r.visit("GET", "/v1/optout", ""); w.Code != 405 || w.Header().Get("Allow") != "OPTIONS, POST" {
		t.Errorf("GET: %d %v", w.Code, w.Header())
	}
}

func TestOrigins(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Origins = map[proto.ClientName][]string{"demo": {"https://ours.example"}}
	})
	for origin, ok := range map[string]bool{"https://ours.example": true, "https://theirs.example": false} {
		w := r.visit("GET", "/v1/me/segments?client=demo", "", "Origin", origin)
		if (w.Code == 200) != ok || (w.Header().Get("Access-Control-Allow-Origin") == origin) != ok {
			t.Errorf("%s: %d %v", origin, w.Code, w.Header())
		}
		for _, target := range []string{"/v1/optout/status?client=demo", "/v1/optout/status"} {
			if w = r.visit("GET", target, "", "Origin", origin, "Sec-Fetch-Site", "cross-site"); (w.Header().Get("Access-Control-Allow-Origin") != "") != ok {
				t.Errorf("%s from %s: %v", target, origin, w.Header())
			}
		}
		w = r.visit("OPTIONS", "/v1/me/segments?client=demo", "", "Origin", origin, "Access-Control-Request-Method", "GET")
		if w.Code != 204 || (w.Header().Get("Access-Control-Allow-Methods") != "") != ok {
			t.Errorf("preflight of %s: %d %v", origin, w.Code, w.Header())
		}
		w = r.visit("POST", "/v1/events", page, "Origin", origin)
		if w.Code != 200 || (w.Header().Get("Access-Control-Allow-Origin") != "") != ok {
			t.Errorf("post from %s: %d %v", origin, w.Code, w.Header())
		}
	}
}

// TestListedOriginsDoNotOpenTheRest: that a client lists some lets nobody else in who
// does not say where it is from.
func TestListedOriginsDoNotOpenTheRest(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Origins = map[proto.ClientName][]string{"demo": {"https://ours.example"}}
	})
	for _, target := range []string{"/v1/me?client=demo", "/v1/me/segments?client=demo"} {
		if w := r.visit("GET", target, "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"); w.Code != 403 {
			t.Errorf("%s without an origin: %d", target, w.Code)
		}
		w := r.visit("GET", target, "", "Sec-Fetch-Site", "cross-site", "Origin", "https://ours.example")
		if h := w.Header(); w.Code != 200 || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cross-Origin-Resource-Policy") != "same-site" {
			t.Errorf("%s from a listed one: %d %v", target, w.Code, h)
		}
	}
}

// TestOriginsNotListed: without a list every page may report, but only this
// site's pages may read what their visitors are.
func TestOriginsNotListed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		dev     bool
		status  int
		headers []string
	}{
		{"another site", false, 403, []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}},
		{"another site, no cors", false, 403, []string{"Sec-Fetch-Site", "cross-site"}},
		{"another site, old browser", false, 403, []string{"Origin", "https://evil.example"}},
		{"sandboxed frame", false, 403, []string{"Origin", "null"}},
		{"this site", false, 200, []string{"Origin", "https://www.example.com", "Sec-Fetch-Site", "same-site"}},
		{"this site, old browser", false, 200, []string{"Origin", "https://www.example.com"}},
		{"no page", false, 200, nil},
		{"another site, dev", true, 200, []string{"Origin", "https://shop.example", "Sec-Fetch-Site", "cross-site"}},
	} {
		r := newRig(t, func(c *gateway.Config) {
			c.Dev, c.Origins = tt.dev, map[proto.ClientName][]string{"acme": {"https://acme.example"}}
		})
		w := r.visit("GET", "/v1/me/segments?client=demo", "", tt.headers...)
		if w.Code != tt.status || (tt.status == 403) != (code(w) == "forbidden") {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		if h := w.Header(); tt.status == 403 && (h.Get("Access-Control-Allow-Origin") != "" || h.Get("Access-Control-Allow-Credentials") != "") {
			t.Errorf("%s: the page may read the refusal: %v", tt.name, h)
		}
		if w := r.visit("POST", "/v1/events", page, tt.headers...); w.Code != 200 {
			t.Errorf("%s: events: %d %s", tt.name, w.Code, w.Body)
		}
	}
}

func TestPixel(t *testing.T) {
	r := newRig(t)
	w := r.visit("GET", "/v1/pixel.gif?client=demo&event=click&url=https%3A%2F%2Fx.de%2F&ref=r&id=7&p.section=auto+moto&p.n=1&other=x", "", "Cookie", "kith_id=abc123")
	if w.Code != 200 || w.Header().Get("X-Kith-Error") != "" || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "image/gif" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if b := w.Body.Bytes(); len(b) != 43 {
		t.Errorf("%d bytes % x", len(b), b)
	}
	if img, err := gif.Decode(w.Body); err != nil || img.Bounds().Dx() != 1 || img.Bounds().Dy() != 1 {
		t.Errorf("the picture: %v", err)
	} else if _, _, _, a := img.At(0, 0).RGBA(); a != 0 {
		t.Error("the picture can be seen")
	}
	want := []proto.Event{{
		Client: 1, Space: 1, Time: proto.MillisOf(now), Received: proto.MillisOf(now), ID: "7", Identities: []proto.Identity{"browser:abc123"},
		EventBody: proto.EventBody{Name: "click", URL: "https://x.de/", Ref: "r", Props: []proto.Prop{{Key: "section", Value: proto.TextOf("auto moto")}, {Key: "n", Value: proto.TextOf("1")}}},
	}}
	if d := cmp.Diff(want, r.taken()); d != "" {
		t.Error(d)
	}
	for query, code := range map[string]string{
		"": "client", "client=nobody": "client", "client=demo&event=": "event", "client=demo&p.a=%00": "event", "client=demo&p.a=%ff": "event",
		"client=demo&url=a%40b.com": "pii", "client=%zz": "invalid", "client=demo&p.a=1&p.a=2": "event", "client=demo&client=acme": "client",
		"client=demo&p.x=" + strings.Repeat("x", 17<<10): "too_large", "client=demo&url=" + strings.Repeat("x", 2049): "event", "client=a%0d%0aSet-Cookie:x": "client",
	} {
		w := r.visit("GET", "/v1/pixel.gif?"+query, "")
		if got := w.Header().Get("X-Kith-Error"); w.Code != 200 || w.Body.Len() != 43 || !strings.HasPrefix(got, code+": ") {
			t.Errorf("%.40s: %d %q, want %s", query, w.Code, got, code)
		}
	}
	if len(r.taken()) != 1 {
		t.Error("a refused pixel was stored")
	}
	r.fail, r.failErr = func(int, *proto.Event) bool { return true }, proto.Errorf(proto.CodeDiskFull, "the disk is nearly full")
	if w := r.visit("GET", "/v1/pixel.gif?client=demo", ""); w.Code != 200 || !strings.HasPrefix(w.Header().Get("X-Kith-Error"), "disk_full: ") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestStrangeCookies(t *testing.T) {
	r := newRig(t)
	for _, c := range []string{"null", strings.Repeat("a", 65), "a b", "a%00", "é", "undefined", `"x`, "../x", "4111111111111111", "0171-1234567", "__UID__", "d41d8cd98f00b204e9800998ecf8427e", strings.Repeat("0", 64)} {
		w := r.visit("POST", "/v1/events", page, "Cookie", "kith_id="+c)
		if set := cookies(w)["kith_id"]; w.Code != 200 || set == nil || len(set.Value) != 32 {
			t.Errorf("%q: %d %v", c, w.Code, w.Header())
		}
	}
}

// TestOptOutBehindManyCookies: net/http reads none where there are thousands.
func TestOptOutBehindManyCookies(t *testing.T) {
	r := newRig(t)
	q := httptest.NewRequest("POST", "/v1/events", strings.NewReader(page))
	for range 9 {
		q.Header.Add("Cookie", strings.Repeat("a=1; ", 400))
	}
	q.Header.Add("Cookie", "kith_optout=1")
	w := httptest.NewRecorder()
	r.g.Public().ServeHTTP(w, q)
	if len(r.taken()) != 0 || cookies(w)["kith_id"] != nil {
		t.Errorf("%s %v", w.Body, cookies(w))
	}
}

func TestInsecureCookies(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.CookieInsecure, c.CookieDomain = true, "example.com" })
	c := cookies(r.visit("POST", "/v1/events", page))["kith_id"]
	if c == nil || c.Secure || c.Partitioned || c.SameSite != http.SameSiteLaxMode || c.Domain != "example.com" {
		t.Errorf("%+v", c)
	}
}

func TestTag(t *testing.T) {
	r := newRig(t)
	w := r.visit("GET", "/kith.js", "", "Accept-Encoding", "gzip")
	if w.Code != 200 || w.Header().Get("Content-Encoding") != "gzip" || w.Body.Len() > 3<<10 {
		t.Errorf("%d, %d bytes, %v", w.Code, w.Body.Len(), w.Header())
	}
	w = r.visit("GET", "/kith.js", "")
	if !strings.Contains(w.Body.String(), "sendBeacon") || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/javascript") {
		t.Errorf("%v", w.Header())
	}
	if w := r.visit("GET", "/kith.js", "", "If-None-Match", w.Header().Get("ETag")); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("%d", w.Code)
	}
}

// What is said of encodings and of what is there already is read as HTTP has it.
func TestTagIsNegotiated(t *testing.T) {
	r := newRig(t)
	for accept, zipped := range map[string]bool{
		"gzip, deflate, br": true, "br;q=1, GZIP;q=0.5": true, "gzip;q=0": false, "gzip; q=0.000, br": false, "identity;q=1, *;q=0": false, "gzip;q=x": false, "xgzip": false, "": false,
	} {
		h := r.visit("GET", "/kith.js", "", "Accept-Encoding", accept).Header()
		if (h.Get("Content-Encoding") == "gzip") != zipped {
			t.Errorf("%q: %v", accept, h)
		}
	}
	etag := r.visit("GET", "/kith.js", "").Header().Get("ETag")
	strong, weak := strings.CutPrefix(etag, "W/")
	if !weak {
		t.Errorf("%s is of two encodings and strong", etag)
	}
	for had, status := range map[string]int{
		etag: 304, strong: 304, `"other", ` + etag: 304, strong + `,W/"a,b"`: 304, "*": 304, `"other"`: 200, `W/"other"`: 200, strings.Trim(strong, `"`): 200, "": 200,
	} {
		if w := r.visit("GET", "/kith.js", "", "If-None-Match", had); w.Code != status {
			t.Errorf("who has %s: %d, want %d", had, w.Code, status)
		}
	}
}

func TestPublicErrors(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		method, target, body string
		status               int
		code                 string
		headers              []string
	}{
		{"POST", "/v1/lookup", `{}`, 404, "not_found", nil},
		{"GET", "/v1/identities/browser:a1/segments", "", 404, "not_found", nil},
		{"GET", "/metrics", "", 404, "not_found", nil},
		{"GET", "/choices/x", "", 404, "not_found", nil},
		{"GET", "/v1/events", "", 405, "method", nil},
		{"POST", "/v1/pixel.gif", "", 405, "method", nil},
		{"POST", "/v1/events", `{"client":"nobody","events":[]}`, 400, "client", nil},
		{"POST", "/v1/events", `{"client":"a.*","events":[]}`, 400, "client", nil},
		{"POST", "/v1/events", `{"client":"demo","events":[],"client":"acme"}`, 400, "json", nil},
		{"POST", "/v1/events", ``, 400, "json", nil},
		{"POST", "/v1/events", `x`, 415, "media_type", []string{"Content-Type", "application/x-protobuf"}},
		{"POST", "/v1/events", `{"client":"demo","events":[` + strings.Repeat("1,", 1000) + `1]}`, 413, "too_large", nil},
	} {
		w := r.visit(tt.method, tt.target, tt.body, append(tt.headers, "Origin", "https://x.example")...)
		if w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s %s %.50s: %d %s", tt.method, tt.target, tt.body, w.Code, w.Body)
		}
		if tt.target == "/v1/events" && tt.method == "POST" && w.Header().Get("Access-Control-Allow-Origin") == "" {
			t.Errorf("%.50s: the tag may not read the error", tt.body)
		}
	}
	if w := r.visit("GET", "/healthz", ""); w.Code != 200 {
		t.Error(w.Code)
	}
}

func TestWaitIsBounded(t *testing.T) {
	r := newRig(t)
	start := time.Now()
	w := r.serve("POST", "/v1/lookup?after=0:5", `{"identities":[]}`, auth, key("acme-key"))
	if w.Code != 504 || time.Since(start) > 5*time.Second {
		t.Errorf("%d after %s", w.Code, time.Since(start))
	}
}
