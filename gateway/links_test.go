package gateway_test

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gproto "google.golang.org/protobuf/proto"

	"kith/gateway"
	"kith/proto"
	"kith/proto/pb"
)

// step is one request of a tale and the answer to it, or its error's code.
type step struct {
	name, key, method, target, body string
	status                          int
	want                            string
}

// tell sends the steps one after another to one gateway.
func (r *rig) tell(steps []step) {
	r.t.Helper()
	for _, s := range steps {
		var headers []string
		if s.key != "" {
			headers = []string{auth, key(s.key)}
		}
		w := r.serve(s.method, s.target, s.body, headers...)
		got := strings.TrimSpace(w.Body.String())
		if w.Code >= 400 {
			got = code(w)
		}
		if w.Code != s.status || got != s.want {
			r.t.Errorf("%s: %d %s\nwant %d %s\n%s", s.name, w.Code, got, s.status, s.want, w.Body)
		}
	}
}

// kiosk blocks an account and gives a client a threshold of its own.
func kiosk(c *gateway.Config) {
	c.Blocked = []proto.Identity{"account:kiosk-1", "browser:kiosk-1"}
	c.LinkConfidenceMin = map[proto.ClientName]float64{"demo": 0.25}
}

const linked = `{"linked":true}`

func notLinked(reason string) string { return `{"linked":false,"reason":"` + reason + `"}` }

func TestLinks(t *testing.T) {
	newRig(t, kiosk).tell([]step{
		{"a link", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"account:b1"}`, 200, linked},
		{"with all said", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"account:b1","method":"deterministic","confidence":1}`, 200, linked},
		{"by an admin", "admin-key", "POST", "/v1/links?client=acme", `{"a":"account:b1","b":"browser:c1"}`, 200, linked},
		{"inferred", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:d1","method":"inferred","confidence":0.8}`, 200, linked},
		{"the user", "acme-key", "GET", "/v1/users/account%3Ab1", "", 200, `{"root":"account:b1","members":["account:b1","browser:a1","browser:c1","browser:d1"],"edges":[` +
			`{"a":"account:b1","b":"browser:a1","method":"deterministic","confidence":1,"client":"acme","time":"2026-11-22T12:00:00Z"},` +
			`{"a":"account:b1","b":"browser:c1","method":"deterministic","confidence":1,"client":"acme","time":"2026-11-22T12:00:00Z"},` +
			`{"a":"browser:c1","b":"browser:d1","method":"inferred","confidence":0.8,"client":"acme","time":"2026-11-22T12:00:00Z"}]}`},
		{"another client's space", "demo-key", "GET", "/v1/users/account:b1", "", 200, `{"root":"account:b1","members":["account:b1"],"edges":[]}`},
		{"the user, later", "acme-key", "GET", "/v1/users/account:b1?after=0:99", "", 504, "timeout"},
		{"the user, of nobody", "acme-key", "GET", "/v1/users/browser:null", "", 400, "identity"},
		{"the user, report key", "acme-report", "GET", "/v1/users/account:b1", "", 403, "forbidden"},

		{"inferred, too weak", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","method":"inferred","confidence":0.79}`, 200, notLinked("confidence")},
		{"inferred, strong enough for another client", "demo-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","method":"inferred","confidence":0.25}`, 200, linked},
		{"inferred, too weak for it too", "demo-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e2","method":"inferred","confidence":0.2}`, 200, notLinked("confidence")},
		{"inferred, unsaid", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","method":"inferred"}`, 400, "invalid"},
		{"inferred, none", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","method":"inferred","confidence":0}`, 400, "invalid"},
		{"inferred, too sure", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","method":"inferred","confidence":1.01}`, 400, "invalid"},
		{"inferred, a number that is none", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","method":"inferred","confidence":1e999}`, 400, "json"},
		{"deterministic, unsure", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","confidence":0.9}`, 400, "invalid"},
		{"another method", "acme-key", "POST", "/v1/links", `{"a":"browser:c1","b":"browser:e1","method":"guess"}`, 400, "invalid"},

		{"no UTF-8", "acme-key", "POST", "/v1/links", "{\"a\":\"browser:\xff\",\"b\":\"account:b1\"}", 400, "json"},
		{"half a surrogate pair", "acme-key", "POST", "/v1/links", `{"a":"browser:\ud800","b":"account:b1"}`, 400, "json"},
		{"a whole one", "acme-key", "POST", "/v1/links", `{"a":"browser:\ud83d\ude00","b":"account:b9"}`, 200, linked},
		{"an end twice", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","a":"browser:a2","b":"account:b1"}`, 400, "json"},

		{"zeros", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"idfa:00000000-0000-0000-0000-000000000000"}`, 200, notLinked("blocked")},
		{"null", "acme-key", "POST", "/v1/links", `{"a":"account:null","b":"browser:a1"}`, 200, notLinked("blocked")},
		{"-1", "acme-key", "POST", "/v1/links", `{"a":"account:-1","b":"browser:a1"}`, 200, notLinked("blocked")},
		{"anonymous", "acme-key", "POST", "/v1/links", `{"a":"account:Anonymous","b":"browser:a1"}`, 200, notLinked("blocked")},
		{"a macro", "acme-key", "POST", "/v1/links", `{"a":"partner.adx:{{uid}}","b":"browser:a1"}`, 200, notLinked("blocked")},
		{"an empty value", "acme-key", "POST", "/v1/links", `{"a":"account:","b":"browser:a1"}`, 200, notLinked("blocked")},
		{"both nobody", "acme-key", "POST", "/v1/links", `{"a":"account:0","b":"account:0"}`, 200, notLinked("blocked")},
		{"the operator's list", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"account:kiosk-1"}`, 200, notLinked("blocked")},
		{"oneself", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"browser:a1"}`, 200, notLinked("self")},
		{"over the cap", "acme-key", "POST", "/v1/links", `{"a":"account:b1","b":"browser:f1"}`, 200, linked},
		{"over the cap", "acme-key", "POST", "/v1/links", `{"a":"account:b1","b":"browser:g1"}`, 200, notLinked("cap")},

		{"no kind", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"b1"}`, 400, "identity"},
		{"no kind, beside nobody", "acme-key", "POST", "/v1/links", `{"a":"browser:0","b":"b1"}`, 400, "identity"},
		{"unknown kind", "acme-key", "POST", "/v1/links", `{"a":"fax:null","b":"browser:a1"}`, 400, "identity"},
		{"white space", "acme-key", "POST", "/v1/links", `{"a":"browser:a 1","b":"browser:a1"}`, 400, "identity"},
		{"a control character", "acme-key", "POST", "/v1/links", `{"a":"browser:a\u0000","b":"browser:a1"}`, 400, "identity"},
		{"too long", "acme-key", "POST", "/v1/links", `{"a":"browser:` + strings.Repeat("a", 257) + `","b":"browser:a1"}`, 400, "identity"},
		{"no b", "acme-key", "POST", "/v1/links", `{"a":"browser:a1"}`, 400, "identity"},
		{"an e-mail address", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"account:jo@example.com"}`, 400, "pii"},
		{"an escaped e-mail address", "acme-key", "POST", "/v1/links", `{"a":"account:jo%40example.com","b":"browser:a1"}`, 400, "pii"},
		{"not JSON", "acme-key", "POST", "/v1/links", `a=b`, 400, "json"},
		{"an unknown field", "acme-key", "POST", "/v1/links", `{"a":"browser:a1","b":"browser:b1","confidance":1}`, 400, "json"},
		{"report key", "acme-report", "POST", "/v1/links", `{"a":"browser:a1","b":"browser:b1"}`, 403, "forbidden"},
		{"no key", "", "POST", "/v1/links", `{"a":"browser:a1","b":"browser:b1"}`, 401, "unauthorized"},
		{"another client", "acme-key", "POST", "/v1/links?client=demo", `{"a":"browser:a1","b":"browser:b1"}`, 403, "forbidden"},
		{"an admin, no client", "admin-key", "POST", "/v1/links", `{"a":"browser:a1","b":"browser:b1"}`, 400, "client"},
		{"wrong method", "acme-key", "PUT", "/v1/links", `{}`, 405, "method"},
	})
}

func TestUnlink(t *testing.T) {
	r := newRig(t)
	link := func(a, b string) step {
		return step{"link", "acme-key", "POST", "/v1/links", `{"a":"` + a + `","b":"` + b + `"}`, 200, linked}
	}
	alone := func(id string) step {
		return step{id + " alone", "acme-key", "GET", "/v1/users/" + id, "", 200, `{"root":"` + id + `","members":["` + id + `"],"edges":[]}`}
	}
	r.tell([]step{
		link("browser:a1", "account:b1"),
		{"by its body", "acme-key", "DELETE", "/v1/links", `{"a":"account:b1","b":"browser:a1"}`, 200, `{"removed":true,"position":"0:1"}`},
		alone("browser:a1"),
		link("browser:a1", "account:b1"),
		{"by the query", "acme-key", "DELETE", "/v1/links?a=browser%3Aa1&b=account:b1", "", 200, `{"removed":true,"position":"0:2"}`},
		alone("browser:a1"),
		link("browser:a1", "account:b1"), link("browser:c1", "browser:a1"), link("browser:c1", "browser:d1"),
		{"by another client", "demo-key", "DELETE", "/v1/links?a=browser:a1", "", 200, `{"removed":true,"position":"0:3"}`},
		{"a mistake", "acme-key", "DELETE", "/v1/links", `{"a":"browser:a1","b":""}`, 400, "identity"},
		{"a mistake in the query", "acme-key", "DELETE", "/v1/links?a=browser:a1&b=", "", 400, "identity"},
		{"a broken query", "acme-key", "DELETE", "/v1/links?a=browser:a1&b=%zz", "", 400, "invalid"},
		{"two ends in the query", "acme-key", "DELETE", "/v1/links?a=browser:a1&a=browser:a2", "", 400, "invalid"},
		{"two others in the query", "acme-key", "DELETE", "/v1/links?a=browser:a1&b=account:b1&b=account:b2", "", 400, "invalid"},
		{"another's name in capitals", "acme-key", "DELETE", "/v1/links?a=browser:a1&B=account:b1", "", 400, "invalid"},
		{"a name in capitals", "acme-key", "DELETE", "/v1/links?A=browser:a1", `{"a":"browser:a1"}`, 400, "invalid"},
		{"b in the body only", "acme-key", "DELETE", "/v1/links?a=browser:a1", `{"b":"account:b1"}`, 400, "identity"},
		{"less in the body", "acme-key", "DELETE", "/v1/links?a=browser:a1", `{"a":"browser:a1","b":"account:b1"}`, 400, "invalid"},
		{"another in the body", "acme-key", "DELETE", "/v1/links?a=browser:a1", `{"a":"browser:a2"}`, 400, "invalid"},
		{"not JSON beside the query", "acme-key", "DELETE", "/v1/links?a=browser:a1", "{", 400, "json"},
		{"b alone", "acme-key", "DELETE", "/v1/links?b=browser:a1", "", 400, "identity"},
		{"nobody", "acme-key", "DELETE", "/v1/links", "", 400, "identity"},
		{"not JSON", "acme-key", "DELETE", "/v1/links", "{", 400, "json"},
		{"all are still there", "acme-key", "DELETE", "/v1/links?a=browser:d1&b=browser:x1", "", 200, `{"removed":true,"position":"0:4"}`},
		{"the same twice", "acme-key", "DELETE", "/v1/links?a=browser:d1&b=browser:x1", `{"a":"browser:d1","b":"browser:\u00781"}`, 200, `{"removed":true,"position":"0:5"}`},
		{"all of one", "acme-key", "DELETE", "/v1/links", `{"a":"browser:a1"}`, 200, `{"removed":true,"position":"0:6"}`},
		alone("browser:a1"),
		{"the others", "acme-key", "GET", "/v1/users/browser:d1", "", 200, `{"root":"browser:c1","members":["browser:c1","browser:d1"],"edges":[{"a":"browser:c1","b":"browser:d1","method":"deterministic","confidence":1,"client":"acme","time":"2026-11-22T12:00:00Z"}]}`},
		{"report key", "acme-report", "DELETE", "/v1/links?a=browser:a1", "", 403, "forbidden"},
	})
}

// TestUnlinkWithoutABody: a proxy that drops bodies may leave an empty one whose length
// is not said.
func TestUnlinkWithoutABody(t *testing.T) {
	r := newRig(t)
	for target, want := range map[string]int{"/v1/links?a=browser:a1&b=browser:b1": 200, "/v1/links": 400} {
		req := httptest.NewRequest("DELETE", target, io.MultiReader())
		req.Header.Set(auth, key("acme-key"))
		w := httptest.NewRecorder()
		if r.g.Service().ServeHTTP(w, req); w.Code != want || req.ContentLength >= 0 {
			t.Errorf("%s: %d %s, want %d", target, w.Code, w.Body, want)
		}
	}
}

// TestBlockedInEvents: a shared identity is left out of an event, and is no
// event's own, on every way in.
func TestBlockedInEvents(t *testing.T) {
	r := newRig(t, kiosk)
	body := `{"events":[{"event":"a","identities":["browser:a1","account:kiosk-1","browser:kiosk-1","account:b1"]},` +
		`{"event":"b","identities":["account:kiosk-1","browser:a1"]},{"event":"c","identities":["browser:a1"]}]}`
	w := r.serve("POST", "/v1/events", body, auth, key("acme-key"))
	want := `{"accepted":2,"refused":[{"index":1,"code":"identity","message":"the event's first identity is on the block list: many people share it; name another first"}],"position":"0:1","blocked":2}` + "\n"
	if w.Code != 200 || w.Body.String() != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = r.visit("POST", "/v1/events", `{"client":"demo","events":[{"event":"d","identities":["account:kiosk-1"]}]}`, "Cookie", "kith_id=abc123")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"accepted":1,`) || !strings.Contains(w.Body.String(), `"blocked":1`) {
		t.Errorf("public: %d %s", w.Code, w.Body)
	}
	w = r.visit("POST", "/v1/events", `{"client":"demo","events":[{"event":"e"}]}`, "Cookie", "kith_id=kiosk-1")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"code":"identity"`) {
		t.Errorf("a kiosk's browser: %d %s", w.Code, w.Body)
	}
	var got [][]proto.Identity
	for _, e := range r.taken() {
		got = append(got, e.Identities)
	}
	if d := cmp.Diff([][]proto.Identity{{"browser:a1", "account:b1"}, {"browser:a1"}, {"browser:abc123"}}, got); d != "" {
		t.Error(d)
	}
	if s := r.serve("GET", "/metrics", "").Body.String(); !strings.Contains(s, "kith_gateway_identities_blocked_total 3\n") {
		t.Error("what was left out is not counted")
	}
	packed, err := gproto.Marshal(&pb.EventsRequest{Events: []*pb.Event{{
		Event: "f", Identities: []string{"browser:a1", "account:kiosk-1"}, Props: map[string]*pb.Value{"religion": {Kind: &pb.Value_Text{Text: "x"}}, "sexuality": {Kind: &pb.Value_Text{Text: "x"}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	w = r.serve("POST", "/v1/events", string(packed), auth, key("acme-key"), "Content-Type", "application/x-protobuf")
	var answer pb.EventsResponse
	if err := gproto.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Accepted != 1 || answer.Blocked != 1 || answer.Dropped != 2 {
		t.Errorf("in protobuf: %v, %v", &answer, err)
	}
}

func TestGraphMetrics(t *testing.T) {
	r := newRig(t, kiosk)
	for _, b := range []string{"account:b1", "browser:a1", "account:null", "account:kiosk-1"} {
		r.serve("POST", "/v1/links", `{"a":"browser:a1","b":"`+b+`"}`, auth, key("acme-key"))
	}
	r.serve("DELETE", "/v1/links?a=browser:a1", "", auth, key("acme-key"))
	r.serve("POST", "/v1/optouts", `{"identity":"browser:a1"}`, auth, key("acme-key"))
	r.serve("POST", "/v1/optins", `{"identity":"browser:a1"}`, auth, key("acme-key"))
	r.serve("DELETE", "/v1/identities/browser:a1", "", auth, key("acme-key"))
	body := r.serve("GET", "/metrics", "").Body.String()
	for _, line := range []string{
		`kith_gateway_links_total{answer="linked"} 1`, `kith_gateway_links_total{answer="self"} 1`, `kith_gateway_links_total{answer="blocked"} 2`,
		`kith_gateway_links_total{answer="cap"} 0`, "kith_gateway_unlinks_total 1", "kith_gateway_optouts_total 1", "kith_gateway_optins_total 1", "kith_gateway_erasures_total 1",
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}
