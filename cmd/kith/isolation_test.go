package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/internal/config"
	"kith/proto"
)

// This file is G6: clients that do random things on one node, and what each of
// them can find out about another by every route of the service plane. What is
// a client's own has a mark: NAME-name-… are ids that another may guess,
// NAME-secret-… is what only it knows, and no answer to another may hold.

// strangers is a real node with four clients: alpha and beta alone, gamma and
// delta in one space.
type strangers struct {
	t       *testing.T
	node    node
	gateway *gateway.Gateway
	keys    map[string]string
	imports map[string]string // the newest one's id, by client
}

func newStrangers(t *testing.T, clients ...string) *strangers {
	t.Helper()
	c := config.Default()
	c.Data = t.TempDir() + "/data"
	c.UseDev()
	// One and the same: a user is held together by whose hash is the least.
	c.SecretFile = filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(c.SecretFile, []byte("000102030405060708090a0b0c0d0e0f"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range clients {
		c.Clients = append(c.Clients, config.Client{Name: name, Feed: true})
	}
	log := slog.New(slog.DiscardHandler)
	m, err := joinCluster(c, log)
	if err != nil {
		t.Fatal(err)
	}
	n, maintenance, err := openNode(t.Context(), c, m, false, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	g, err := newGateway(c, n, m, maintenance, log)
	if err != nil {
		t.Fatal(err)
	}
	x := &strangers{t: t, node: n, gateway: g, keys: map[string]string{"admin": config.DevAdminKey}, imports: map[string]string{}}
	for _, name := range clients {
		space := ""
		if name == "gamma" || name == "delta" {
			space = "shared"
		}
		status, body := x.ask("admin", "POST", "/v1/keys", obj{"client": name, "space": space})
		var k struct{ Key string }
		if x.decode(body, &k); status != http.StatusCreated {
			t.Fatalf("a key for %s: %d %s", name, status, body)
		}
		x.keys[name] = k.Key
	}
	return x
}

type obj = map[string]any

// ask makes a request with somebody's key. The answer is the body, with the
// headers behind it.
func (x *strangers) ask(who, method, path string, body any) (status int, answer string) {
	x.t.Helper()
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			x.t.Fatal(err)
		}
		in = bytes.NewReader(raw)
	}
	r := httptest.NewRequestWithContext(x.t.Context(), method, path, in)
	r.Header.Set("Content-Type", "application/json")
	if who != "" {
		r.Header.Set("Authorization", "Bearer "+x.keys[who])
	}
	w := httptest.NewRecorder()
	x.gateway.Service().ServeHTTP(w, r)
	var headers strings.Builder
	for name, values := range w.Header() {
		fmt.Fprintln(&headers, name, values)
	}
	return w.Code, w.Body.String() + headers.String()
}

// decode reads the body of an answer, which the headers follow.
func (x *strangers) decode(answer string, out any) {
	x.t.Helper()
	if err := json.NewDecoder(strings.NewReader(answer)).Decode(out); err != nil {
		x.t.Fatalf("%v: %s", err, answer)
	}
}

// act is one thing that a client does, the same on every node.
type act struct {
	client string
	all    bool // it concerns everybody: an opt-out or opt-in
	do     func(x *strangers)
}

const townSize = 8

func townsman(i int) string { return fmt.Sprint("browser:town", i) }

// acts are random ones. Each is made of chance now, not when it is done.
func acts(r *rand.Rand, clients []string, count int) (list []act) {
	for range count {
		c := clients[r.IntN(len(clients))]
		id, other, n := townsman(r.IntN(townSize)), townsman(r.IntN(townSize)), r.IntN(3)
		name := func(kind string) string { return fmt.Sprintf("%s-name-%s%d", c, kind, n) }
		secret := func(kind string) string { return fmt.Sprintf("%s-secret-%s%d", c, kind, n) }
		own := func(method, path string, body any) act {
			return act{client: c, do: func(x *strangers) { x.mustDo(c, method, path, body) }}
		}
		switch r.IntN(20) {
		case 0, 1:
			list = append(list, own("PUT", "/v1/segments/"+name("seg"), obj{"scope": []string{"identity", "user"}[r.IntN(2)], "when": fmt.Sprintf(`count(event.section == %q) >= %d`, secret("sec"), 1+r.IntN(2)), "backfill": true}))
		case 2:
			list = append(list, own("DELETE", "/v1/segments/"+name("seg"), nil))
		case 3:
			list = append(list, own("PATCH", "/v1/identities/"+id+"/traits", obj{"plan": secret("trait")}))
		case 4, 5:
			if id != other {
				list = append(list, own("POST", "/v1/links", obj{"a": id, "b": other, "method": "deterministic"}))
			}
		case 6:
			list = append(list, own("DELETE", "/v1/links", obj{"a": id, "b": other}))
		case 7:
			list = append(list, own("PUT", "/v1/audiences/"+name("aud"), obj{"expr": name("seg"), "description": secret("desc")}))
		case 8:
			mode := "replace"
			list = append(list, act{client: c, do: func(x *strangers) { x.importRows(c, name("list"), mode, []string{id, other}) }})
		case 9:
			if r.IntN(3) == 0 {
				list = append(list, act{client: c, all: true, do: func(x *strangers) { x.mustDo(c, "POST", "/v1/optouts", obj{"identity": id}) }})
			}
		case 10:
			list = append(list, act{client: c, all: true, do: func(x *strangers) { x.mustDo(c, "POST", "/v1/optins", obj{"identity": id}) }})
		case 11:
			list = append(list, own("DELETE", "/v1/identities/"+id, nil))
		default:
			list = append(list, own("POST", "/v1/events", obj{"events": []obj{{
				"event": []string{"page", "impression", secret("event")}[r.IntN(3)], "identities": []string{id},
				"props": obj{"section": secret("sec"), "campaign": secret("camp")}, "url": "https://site.example/" + secret("url"),
			}}}))
		}
	}
	return list
}

// mustDo does it; that something is not there, in use, or out, is no mistake.
func (x *strangers) mustDo(who, method, path string, body any) {
	x.t.Helper()
	status, answer := x.ask(who, method, path, body)
	if status == 401 || status >= 500 || status == 400 && !strings.Contains(answer, `"expr"`) && !strings.Contains(answer, `"identity"`) {
		x.t.Fatalf("%s: %s %s: %d %s", who, method, path, status, answer)
	}
}

func (x *strangers) importRows(who, segment, mode string, ids []string) {
	x.t.Helper()
	status, answer := x.ask(who, "POST", "/v1/imports", obj{"segment": segment, "mode": mode})
	var m struct{ ID string }
	if status != http.StatusCreated {
		return
	}
	x.decode(answer, &m)
	x.imports[who] = m.ID
	x.mustDo(who, "POST", "/v1/imports/"+m.ID+"/rows", obj{"identities": ids})
}

// isolationSeeds are the runs: two, one in short runs, and KITH_ISOLATION_SEEDS more.
func isolationSeeds(t *testing.T) (list []uint64) {
	more := 1
	if testing.Short() {
		more = 0
	}
	if s := os.Getenv("KITH_ISOLATION_SEEDS"); s != "" {
		var err error
		n := 0
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KITH_ISOLATION_SEEDS is %q, not a number", s)
		}
		more += n
	}
	for i := range 1 + more {
		list = append(list, uint64(i+1))
	}
	return list
}

// Clients do random things on one node. By no route does one see anything of
// another's, and what alpha sees is what it would see if there were nobody else:
// but for opt-outs, which are everybody's. Replay one: KITH_ISOLATION_SEEDS.
func TestClientsSeeNothingOfOneAnother(t *testing.T) {
	for _, seed := range isolationSeeds(t) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			clients := []string{"alpha", "beta", "gamma", "delta"}
			x, alone := newStrangers(t, clients...), newStrangers(t, "alpha")
			r := rand.New(rand.NewPCG(seed, 6))
			for _, a := range acts(r, clients, 400) {
				a.do(x)
				switch {
				case a.client == "alpha":
					a.do(alone)
				case a.all: // by the only one that there is
					other := a
					other.do = func(y *strangers) {
						y.keys[a.client] = y.keys["alpha"]
						a.do(y)
						delete(y.keys, a.client)
					}
					other.do(alone)
				}
			}
			x.everyHas(clients)
			alone.everyHas([]string{"alpha"})
			x.settled()
			alone.settled()
			if diff := cmp.Diff(alone.sights("alpha"), x.sights("alpha")); diff != "" {
				t.Errorf("what alpha sees (-alone +among others):\n%s", diff)
			}
			x.probeAll("alpha", "beta")
			x.probeAll("beta", "gamma")
			x.probeAll("gamma", "delta")
			x.links()
			x.optOutOfOne()
		})
	}
}

// everyHas makes sure that there is something to be found of each.
func (x *strangers) everyHas(clients []string) {
	x.t.Helper()
	for _, c := range clients {
		x.mustDo(c, "PUT", "/v1/segments/"+c+"-name-last", obj{"scope": "identity", "when": fmt.Sprintf(`count(event.section == %q) >= 1`, c+"-secret-last"), "backfill": true})
		x.mustDo(c, "PUT", "/v1/audiences/"+c+"-name-saved", obj{"expr": c + "-name-last", "description": c + "-secret-desc"})
		x.importRows(c, c+"-name-imported", "create", []string{"browser:only-" + c})
		x.mustDo(c, "PATCH", "/v1/identities/browser:known/traits", obj{"plan": c + "-secret-plan"})
		x.mustDo(c, "POST", "/v1/events", obj{"events": []obj{
			{"event": c + "-secret-event", "identities": []string{"browser:known"}, "props": obj{"section": c + "-secret-last", "campaign": c + "-secret-camp"}, "url": "https://s.example/" + c + "-secret-url"},
			{"event": "page", "identities": []string{"browser:only-" + c}, "props": obj{"section": c + "-secret-last"}},
		}})
	}
}

// settled returns when all that was sent is applied, and told to feeds.
func (x *strangers) settled() {
	x.t.Helper()
	for who := range x.keys {
		if who == "admin" {
			continue
		}
		_, answer := x.ask(who, "POST", "/v1/events", obj{"events": []obj{{"event": "end", "identities": []string{"browser:end"}}}})
		var p struct{ Position string }
		x.decode(answer, &p)
		x.mustDo(who, "GET", "/v1/identities/browser:end/segments?after="+p.Position, nil)
		for deadline := time.Now().Add(time.Minute); ; {
			_, list := x.ask(who, "GET", "/v1/segments", nil)
			if !strings.Contains(list, `"filled":false`) {
				break
			}
			if time.Now().After(deadline) {
				x.t.Fatalf("segments are not filled: %s", list)
			}
			time.Sleep(10 * time.Millisecond) // nothing tells that history is gone through
		}
	}
}

// sights is what a client sees of the town, with an admin's counts, which have no
// floor.
func (x *strangers) sights(who string) map[string]string {
	x.t.Helper()
	out := map[string]string{}
	note := func(key, method, path, path2 string, body any) {
		status, answer := x.ask(key, method, path+path2, body)
		raw, _, _ := strings.Cut(answer, "\n")
		out[method+" "+path] = fmt.Sprint(status, " ", raw)
	}
	ids := []string{"browser:known", "browser:only-alpha", "browser:only-beta"}
	for i := range townSize {
		ids = append(ids, townsman(i))
	}
	note(who, "POST", "/v1/lookup", "", obj{"identities": ids})
	for _, id := range ids {
		_, answer := x.ask(who, "GET", "/v1/users/"+id, nil)
		var u struct{ Members []string }
		x.decode(answer, &u)
		slices.Sort(u.Members)
		out["user "+id] = fmt.Sprint(u.Members)
		out["receipt "+id] = x.receiptOf(who, id)
	}
	for _, s := range x.segments(who) {
		for _, unit := range []string{"identities", "users"} {
			_, answer := x.ask("admin", "POST", "/v1/audiences/count?client="+who, obj{"expr": s, "unit": unit})
			var c struct{ Count *uint64 }
			if x.decode(answer, &c); c.Count == nil {
				x.t.Fatalf("no count: %s", answer)
			}
			out["count "+s+" "+unit] = fmt.Sprint(*c.Count)
		}
	}
	return out
}

// receiptOf is what the newest receipt that a client is told says of what was there.
func (x *strangers) receiptOf(who, id string) string {
	x.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		_, answer := x.ask(who, "GET", "/v1/optouts/"+id, nil)
		var s proto.OptOutState
		x.decode(answer, &s)
		switch r := s.Receipt; {
		case r != nil:
			return fmt.Sprintf("%s %t %s, %d also, %d copies, %d members, generation %d", r.Action, r.Everywhere, r.Client, r.Also, r.CopiesRetracted, r.MembersRefreshed, r.Generation)
		case s.Since == nil:
			return "none"
		case time.Now().After(deadline):
			x.t.Fatalf("%s has no receipt: %s", id, answer)
		}
		time.Sleep(10 * time.Millisecond) // nothing tells that a cut is final
	}
}

func (x *strangers) segments(who string) (ids []string) {
	_, answer := x.ask(who, "GET", "/v1/segments", nil)
	var s struct{ Segments []struct{ ID string } }
	x.decode(answer, &s)
	for _, i := range s.Segments {
		ids = append(ids, i.ID)
	}
	return ids
}

// request is one that tries to find something out.
type request struct {
	path string
	body any
}

// What a client's key may find on a route.
const (
	forAdmins = "an admin's" // 403
	forAll    = "no key's"   // the same for everybody
)

// probes are what is tried on each route, by whoever guesses the victim's ids;
// forAdmins and forAll where nothing is to be tried. A route that is not here fails the
// test: say what another client could ask of it.
func (x *strangers) probes(victim string) map[string]any {
	segment, audience, imported := victim+"-name-last", victim+"-name-saved", victim+"-name-imported"
	each := func(path string) (list []request) {
		for _, id := range []string{"browser:known", "browser:only-" + victim, townsman(0), townsman(3)} {
			list = append(list, request{strings.ReplaceAll(path, "{}", id), nil})
		}
		return list
	}
	import1 := "/v1/imports/" + x.imports[victim]
	exprs := []string{segment, "@" + audience, "!" + segment, imported}
	var counts, exports []request
	for _, e := range exprs {
		counts = append(counts, request{"/v1/audiences/count", obj{"expr": e}}, request{"/v1/audiences/count?client=" + victim, obj{"expr": e}}, request{"/v1/audiences/count", obj{"exprs": []string{e}}})
		exports = append(exports, request{"/v1/audiences/export", obj{"expr": e, "format": "ndjson"}}, request{"/v1/audiences/export?client=" + victim, obj{"expr": e, "format": "csv"}})
	}
	week := "from=" + time.Now().AddDate(0, 0, -6).UTC().Format(time.DateOnly) + "&to=" + time.Now().UTC().Format(time.DateOnly)
	town := []string{"browser:known", "browser:only-" + victim, townsman(0), townsman(1)}
	return map[string]any{
		"POST /v1/events":                        []request{{"/v1/events?client=" + victim, obj{"client": victim, "events": []obj{{"event": "page", "identities": []string{"browser:probe"}}}}}},
		"POST /v1/lookup":                        []request{{"/v1/lookup", obj{"identities": town}}, {"/v1/lookup", obj{"identities": town, "client": victim}}},
		"POST /v1/openrtb":                       []request{{"/v1/openrtb", obj{"id": "1", "user": obj{"id": "known", "eids": []obj{{"source": "kith", "uids": []obj{{"id": "browser:known"}}}}}}}},
		"GET /v1/identities/{identity}/segments": each("/v1/identities/{}/segments"),
		"GET /v1/identities/{identity}":          each("/v1/identities/{}"),
		"DELETE /v1/identities/{identity}":       []request{{"/v1/identities/browser:nobody?client=" + victim, nil}},
		"PATCH /v1/identities/{identity}/traits": []request{{"/v1/identities/browser:known/traits?client=" + victim, obj{"plan": "x"}}},
		"GET /v1/identities/{identity}/explain":  each("/v1/identities/{}/explain?segment=" + segment),
		"GET /v1/segments":                       []request{{"/v1/segments", nil}, {"/v1/segments?client=" + victim, nil}},
		"GET /v1/segments/{id}":                  []request{{"/v1/segments/" + segment, nil}, {"/v1/segments/" + segment + "?client=" + victim, nil}},
		"PUT /v1/segments/{id}":                  []request{{"/v1/segments/probe?dry_run=true", obj{"scope": "identity", "when": fmt.Sprintf("member(%q)", segment)}}},
		"DELETE /v1/segments/{id}":               []request{{"/v1/segments/" + segment, nil}},
		"GET /v1/segments/{id}/sizes":            []request{{"/v1/segments/" + segment + "/sizes", nil}},
		"POST /v1/links":                         []request{{"/v1/links?client=" + victim, obj{"a": "browser:known", "b": "browser:probe"}}},
		"DELETE /v1/links":                       []request{{"/v1/links?client=" + victim, obj{"a": "browser:known"}}},
		"GET /v1/users/{identity}":               each("/v1/users/{}"),
		"POST /v1/optouts":                       []request{{"/v1/optouts", obj{"identity": "browser:probe-out"}}},
		"GET /v1/optouts":                        forAdmins,
		"GET /v1/optouts/{identity}":             each("/v1/optouts/{}"),
		"POST /v1/optins":                        []request{{"/v1/optins", obj{"identity": "browser:probe-in"}}},
		"GET /v1/receipts/key":                   forAll,
		"POST /v1/receipts/verify":               []request{{"/v1/receipts/verify", obj{"receipt": obj{"id": "1"}}}},
		"POST /v1/erase":                         forAdmins,
		"POST /v1/audiences/count":               counts,
		"POST /v1/audiences/export":              exports,
		"POST /v1/audiences/overlap":             []request{{"/v1/audiences/overlap", obj{"segments": []string{segment}}}, {"/v1/audiences/overlap", obj{"segments": []string{segment}, "against": "all"}}},
		"GET /v1/audiences":                      []request{{"/v1/audiences", nil}, {"/v1/audiences?client=" + victim, nil}},
		"GET /v1/audiences/{id}":                 []request{{"/v1/audiences/" + audience, nil}},
		"PUT /v1/audiences/{id}":                 []request{{"/v1/audiences/probe", obj{"expr": "@" + audience}}},
		"DELETE /v1/audiences/{id}":              []request{{"/v1/audiences/" + audience, nil}},
		"POST /v1/campaigns/report":              []request{{"/v1/campaigns/report", obj{"campaign": "spring", "from": "2026-01-01", "to": "2026-01-02"}}, {"/v1/campaigns/report?client=" + victim, obj{"campaign": "spring"}}},
		"GET /v1/aggregates":                     []request{{"/v1/aggregates?by=event&" + week, nil}, {"/v1/aggregates?by=campaign&" + week, nil}, {"/v1/aggregates?by=event&client=" + victim + "&" + week, nil}},
		"POST /v1/traits":                        []request{{"/v1/traits?client=" + victim, obj{"rows": []obj{{"identity": "browser:known", "traits": obj{"plan": "x"}}}}}},
		"GET /v1/imports":                        []request{{"/v1/imports", nil}, {"/v1/imports?client=" + victim, nil}},
		"POST /v1/imports":                       []request{{"/v1/imports?client=" + victim, obj{"segment": imported, "mode": "add"}}},
		"POST /v1/imports/check":                 []request{{"/v1/imports/check", obj{"identities": town}}},
		"GET /v1/imports/{id}":                   []request{{import1, nil}},
		"DELETE /v1/imports/{id}":                []request{{import1, nil}},
		"POST /v1/imports/{id}/rows":             []request{{import1 + "/rows", obj{"identities": town}}},
		"POST /v1/imports/{id}/commit":           []request{{import1 + "/commit", nil}},
		"GET /v1/feed":                           []request{{"/v1/feed", nil}, {"/v1/feed?client=" + victim, nil}},
		"POST /v1/feed/identities":               []request{{"/v1/feed/identities", obj{"identities": town}}, {"/v1/feed/identities?client=" + victim, obj{"identities": town}}},
		"GET /v1/live":                           []request{{"/v1/live?client=" + victim, nil}},
		"GET /v1/leakage":                        []request{{"/v1/leakage", nil}, {"/v1/leakage?client=" + victim, nil}},
		"GET /v1/key":                            []request{{"/v1/key", nil}, {"/v1/key?client=" + victim, nil}},
		"GET /console":                           forAll,
		"GET /console/{file}":                    forAll,
		"GET /v1/audit":                          forAdmins,
		"POST /v1/keys":                          forAdmins,
		"GET /v1/clients":                        forAdmins,
		"DELETE /v1/clients/{name}":              forAdmins,
		"GET /v1/clients/{name}/erasure":         forAdmins,
		"GET /v1/clients/{name}/export":          forAdmins,
		"GET /v1/deadletters":                    forAdmins,
		"POST /v1/deadletters/{id}/replay":       forAdmins,
		"GET /v1/partitions":                     forAdmins,
		"GET /v1/cluster":                        forAdmins,
		"DELETE /v1/cluster/nodes/{name}":        forAdmins,
		"POST /v1/cluster/nodes/{name}/drain":    forAdmins,
		"DELETE /v1/cluster/nodes/{name}/drain":  forAdmins,
		"PUT /v1/cluster/lanes/{lane}/owner":     forAdmins,
		"DELETE /v1/cluster/lanes/{lane}/owner":  forAdmins,
		"GET /debug/pprof/{profile}":             forAdmins,
		"POST /v1/backup":                        forAdmins,
		"GET /v1/verify":                         forAdmins,
		"GET /healthz":                           forAll,
		"GET /readyz":                            forAll,
		"GET /metrics":                           forAll,
	}
}

var pathVariable = regexp.MustCompile(`\{[a-z]+\}`)

// probeAll tries all routes of the gateway's own table with the spy's key.
func (x *strangers) probeAll(spy, victim string) {
	x.t.Helper()
	own := regexp.MustCompile(victim + `-(secret|name)-[a-z0-9]+`)
	before := x.sights(victim)
	known := x.probes(victim)
	routes := 0
	for _, r := range x.gateway.Routes() {
		if r.Plane != "service" || r.Method == http.MethodHead {
			continue
		}
		routes++
		route := r.Method + " " + r.Path
		p, ok := known[route]
		if !ok {
			x.t.Errorf("route %s is new: say in probes what another client could ask of it", route)
			continue
		}
		delete(known, route)
		method, path, _ := strings.Cut(route, " ")
		plain := pathVariable.ReplaceAllString(path, "1")
		switch p {
		case forAdmins:
			for _, at := range []string{plain, plain + "?client=" + victim} {
				if status, answer := x.ask(spy, method, at, nil); status != http.StatusForbidden {
					x.t.Errorf("%s %s with %s's key: %d %s", method, at, spy, status, answer)
				}
			}
			continue
		case forAll:
			p = []request{{plain, nil}}
		}
		for _, q := range p.([]request) {
			_, answer := x.ask(spy, method, q.path, q.body)
			raw, _ := json.Marshal(q.body)
			asked := q.path + string(raw)
			for _, found := range own.FindAllString(answer, -1) {
				if strings.Contains(found, "-secret-") || !strings.Contains(asked, found) {
					x.t.Errorf("%s tells %s of %s's %s: %s", route, spy, victim, found, answer)
				}
			}
		}
	}
	for route := range known {
		x.t.Errorf("route %s is gone: take it out of probes", route)
	}
	if diff := cmp.Diff(before, x.sights(victim)); diff != "" {
		x.t.Errorf("what %s sees changed by what %s tried (-before +after):\n%s", victim, spy, diff)
	}
	x.feedApart(spy, victim)
}

// feedApart compares two clients' feeds and their names.
func (x *strangers) feedApart(spy, victim string) {
	x.t.Helper()
	names := map[string]bool{}
	for i, who := range []string{victim, spy} {
		for after := uint64(0); ; {
			_, answer := x.ask(who, "GET", fmt.Sprint("/v1/feed?after=", after), nil)
			var p proto.FeedPage
			x.decode(answer, &p)
			for _, m := range p.Messages {
				for _, c := range m.Changes {
					if c.Segment != "" && !strings.HasPrefix(string(c.Segment), who+"-") {
						x.t.Errorf("the feed of %s tells of %s", who, c.Segment)
					}
					if i == 0 && c.Identity != "" {
						names[c.Identity] = true
					} else if names[c.Identity] {
						x.t.Errorf("%s and %s have a name in common: %s", spy, victim, c.Identity)
					}
				}
			}
			if after == p.Next {
				break
			}
			after = p.Next
		}
	}
}

// links: who shares a space sees a link that another one made, and nothing else of
// it; who does not sees neither.
func (x *strangers) links() {
	x.t.Helper()
	x.mustDo("gamma", "POST", "/v1/events", obj{"events": []obj{{"event": "page", "identities": []string{"browser:l1"}}, {"event": "page", "identities": []string{"browser:l2"}}}})
	x.mustDo("gamma", "POST", "/v1/links", obj{"a": "browser:l1", "b": "browser:l2", "method": "deterministic"})
	for who, want := range map[string]bool{"gamma": true, "delta": true, "alpha": false, "beta": false} {
		if _, answer := x.ask(who, "GET", "/v1/users/browser:l1", nil); strings.Contains(answer, "browser:l2") != want {
			x.t.Errorf("%s sees the link of gamma: %v, want %v: %s", who, !want, want, answer)
		}
	}
}

// optOutOfOne: an opt-out through one client is everybody's.
func (x *strangers) optOutOfOne() {
	x.t.Helper()
	x.mustDo("beta", "POST", "/v1/optouts", obj{"identity": "browser:known"})
	for _, who := range []string{"alpha", "beta", "gamma", "delta"} {
		_, answer := x.ask(who, "GET", "/v1/identities/browser:known/segments", nil)
		if !strings.Contains(answer, `"known":false,"opted_out":true,"segments":[]`) {
			x.t.Errorf("%s still sees who opted out through beta: %s", who, answer)
		}
		if _, answer := x.ask(who, "GET", "/v1/identities/browser:known", nil); strings.Contains(answer, "-secret-") {
			x.t.Errorf("%s is told what it knew of who opted out: %s", who, answer)
		}
	}
}
