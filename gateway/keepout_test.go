package gateway_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/proto"
)

// keys are the names of an event's properties.
func keys(e proto.Event) (list []string) {
	for _, p := range e.Props {
		list = append(list, p.Key)
	}
	return list
}

// keptOut is what the metrics count, by reason and what it was.
func (r *rig) keptOut(reason, what string) int {
	prefix := `kith_gateway_kept_out_total{reason="` + reason + `",what="` + what + `"} `
	for line := range strings.Lines(r.serve("GET", "/metrics", "").Body.String()) {
		if v, ok := strings.CutPrefix(line, prefix); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				r.t.Fatal(err)
			}
			return n
		}
	}
	r.t.Fatalf("the metrics have no %s", prefix)
	return 0
}

// TestSensitiveEvents: what names a sensitive category is left out of an event, the
// rest of which is kept, on both planes.
func TestSensitiveEvents(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Sensitive = map[proto.ClientName]gateway.Sensitive{"demo": {Allow: []string{"health"}}, "other": {Off: true}}
	})
	body := func(client string) string {
		return `{"client":"` + client + `","events":[
			{"event":"page","identities":["browser:b1"],"props":{"section":"Diabetes","religion":"x","price":3,"title":"Cancer research made easy","iab_cat":"2,386"}},
			{"event":"pregnancy_quiz","identities":["browser:b1"]}]}`
	}
	w := r.serve("POST", "/v1/events", body("acme"), auth, key("acme-key"))
	if want := `"accepted":1,"refused":[{"index":1,"code":"sensitive"`; w.Code != 200 || !strings.Contains(w.Body.String(), want) || !strings.Contains(w.Body.String(), `"dropped":3`) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if d := cmp.Diff([]string{"price", "title"}, keys(r.events[0])); d != "" {
		t.Error(d)
	}
	r.events = nil
	r.serve("POST", "/v1/events", body("demo"), auth, key("demo-key"))
	if len(r.events) != 2 {
		t.Fatalf("%d events of a client that may store health", len(r.events))
	}
	if d := cmp.Diff([]string{"section", "price", "title"}, keys(r.events[0])); d != "" {
		t.Error(d)
	}
	r.events = nil
	r.serve("POST", "/v1/events?client=other", body("other"), auth, key("admin-key"))
	if len(r.events) != 2 || len(r.events[0].Props) != 5 {
		t.Errorf("of a client without the list: %+v", r.events)
	}
	r.events = nil
	if w := r.visit("GET", "/v1/pixel.gif?p.section=Gay&p.x=1&client=acme", ""); w.Code != 200 || w.Header().Get("X-Kith-Error") != "" {
		t.Errorf("pixel: %d %v", w.Code, w.Header())
	}
	if len(r.events) != 1 || !slices.Equal(keys(r.events[0]), []string{"x"}) {
		t.Errorf("of the pixel: %+v", r.events)
	}
	for labels, want := range map[[2]string]int{
		{"health", "property"}: 1, {"religion", "property"}: 2, {"politics", "property"}: 2, {"sexuality", "property"}: 1, {"health", "event"}: 1, {"crime", "event"}: 0,
	} {
		if got := r.keptOut(labels[0], labels[1]); got != want {
			t.Errorf("%v was counted %d times, want %d", labels, got, want)
		}
	}
}

// TestPropertiesAllowed: properties that a client does not list are left out, before
// anything in them could refuse the event.
func TestPropertiesAllowed(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.PropertiesAllowed = map[proto.ClientName][]string{"acme": {"section", "price"}, "other": {}, "demo": nil}
	})
	send := func(client, props string) {
		r.events = nil
		body := `{"client":"` + client + `","events":[{"event":"page","identities":["browser:b1"],"props":` + props + `}]}`
		if w := r.serve("POST", "/v1/events?client="+client, body, auth, key("admin-key")); w.Code != 200 || len(r.events) != 1 {
			t.Fatalf("%s: %d %s", client, w.Code, w.Body)
		}
	}
	send("acme", `{"section":"auto","mail":"a@b.com","price":1,"Price":2,"sectio":3}`)
	if got := keys(r.events[0]); !slices.Equal(got, []string{"section", "price"}) {
		t.Errorf("acme keeps %v", got)
	}
	send("other", `{"section":"auto","x":1}`)
	if got := keys(r.events[0]); len(got) != 0 {
		t.Errorf("a client that lists none keeps %v", got)
	}
	send("demo", `{"section":"auto","x":1}`)
	if got := keys(r.events[0]); len(got) != 2 {
		t.Errorf("a client without a list keeps %v", got)
	}
	// What kith itself needs of its own events stays.
	body := `{"client":"acme","events":[{"event":"kith.hosts","identities":["browser:b1"],"props":{"hosts":"a.example b.example","left":2,"x":1}}]}`
	r.events = nil
	r.serve("POST", "/v1/events?client=acme", body, auth, key("admin-key"))
	if got := keys(r.events[0]); !slices.Equal(got, []string{"hosts", "left"}) {
		t.Errorf("kith.hosts keeps %v", got)
	}
	if got := r.keptOut("not_allowed", "property"); got != 6 {
		t.Errorf("%d properties are counted, want 6", got)
	}
}

// TestSensitiveRefusals: traits, segments, audiences and imports that name a
// sensitive category are refused, and a trait can always be taken away.
func TestSensitiveRefusals(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Sensitive = map[proto.ClientName]gateway.Sensitive{"demo": {Off: true}}
	})
	for _, c := range []struct {
		name, key, method, target, body string
		status                          int
		holds                           string
	}{
		{"a trait's name", "acme-key", "PATCH", "/v1/identities/browser:b1/traits", `{"religion":"x"}`, 400, `trait \"religion\" names a sensitive category (religion)`},
		{"its text", "acme-key", "PATCH", "/v1/identities/browser:b1/traits", `{"hobby":"gay bars"}`, 400, `(sexuality)`},
		{"taken away", "acme-key", "PATCH", "/v1/identities/browser:b1/traits", `{"religion":null,"plan":"gold"}`, 200, ``},
		{"of a client without the list", "demo-key", "PATCH", "/v1/identities/browser:b1/traits", `{"religion":"x"}`, 200, ``},
		{"rows", "acme-key", "POST", "/v1/traits", `{"rows":[{"identity":"account:0a1b2c3d","traits":{"city":"Bern"}},{"identity":"account:0a1b2c3e","traits":{"diagnosis":"x"}}]}`, 200, `"accepted":1,"refused":[{"index":1,"code":"sensitive"`},
		{"a segment's id", "acme-key", "PUT", "/v1/segments/pregnant-women", `{"when":"count(true) >= 1"}`, 400, `the segment's id \"pregnant-women\" names a sensitive category (health)`},
		{"its rule", "acme-key", "PUT", "/v1/segments/a", `{"when":"SENSITIVE"}`, 400, `looks at event.url with \"/islam/\", which names a sensitive category (religion)`},
		{"tried only", "acme-key", "PUT", "/v1/segments/a?dry_run=true", `{"when":"SENSITIVE"}`, 400, `sensitive`},
		{"a broken rule", "acme-key", "PUT", "/v1/segments/a", `{"when":"BROKEN"}`, 400, `"code":"rule"`},
		{"a rule of a client without the list", "demo-key", "PUT", "/v1/segments/a", `{"when":"SENSITIVE"}`, 200, ``},
		{"any other", "acme-key", "PUT", "/v1/segments/essex", `{"when":"count(true) >= 1"}`, 200, ``},
		{"deleted", "acme-key", "DELETE", "/v1/segments/essex", ``, 200, ``},
		{"an audience", "acme-key", "PUT", "/v1/audiences/lgbt-travel", `{"expr":"a"}`, 400, `the audience's id`},
		{"an import", "acme-key", "POST", "/v1/imports", `{"segment":"union-members","mode":"create"}`, 400, `(union)`},
	} {
		w := r.serve(c.method, c.target, c.body, auth, key(c.key))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.holds) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
		if w.Code == http.StatusBadRequest && code(w) != "sensitive" && code(w) != "rule" {
			t.Errorf("%s: code %s", c.name, code(w))
		}
	}
	for labels, want := range map[[2]string]int{
		{"religion", "trait"}: 1, {"sexuality", "trait"}: 1, {"health", "trait"}: 1, {"health", "segment"}: 1, {"religion", "segment"}: 2, {"sexuality", "audience"}: 1, {"union", "segment"}: 1,
	} {
		if got := r.keptOut(labels[0], labels[1]); got != want {
			t.Errorf("%v was counted %d times, want %d", labels, got, want)
		}
	}
}
