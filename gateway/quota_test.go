package gateway_test

import (
	"strings"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// What was not stored leaves the day's allowance as it was, and a body that no day has
// room for is not told to come again tomorrow.
func TestDayOfWhatIsNotStored(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Quotas = map[proto.ClientName]gateway.Quota{"acme": {EventsPerDay: 3}}
	})
	r.failErr = proto.Errorf(proto.CodeOverloaded, "the log's queue is full: try again later")
	fail := func(from int) { r.fail = func(i int, _ *proto.Event) bool { return i >= from } }
	event := `{"event":"page","identities":["browser:b1"]}`
	events := func(n int) string { return `{"events":[` + strings.Repeat(event+",", n-1) + event + `]}` }
	for _, x := range []struct {
		what   string
		stored int // of the events, those before this one
		path   string
		body   string
		want   int
	}{
		{"none is stored", 0, "/v1/events", events(3), 503},
		{"one is stored", 1, "/v1/events", events(3), 200},
		{"rows of no import", 9, "/v1/imports/77/rows", rows(account(0), account(1)), 404},
		{"rows that are checked", 9, "/v1/imports/check", rows(account(0), account(1)), 200},
		{"more than a day's", 9, "/v1/events", events(4), 413},
		{"what is left", 9, "/v1/events", events(2), 200},
		{"one more", 9, "/v1/events", events(1), 429},
	} {
		fail(x.stored)
		if w := r.serve("POST", x.path, x.body, auth, key("acme-key")); w.Code != x.want {
			t.Errorf("%s: %d, want %d: %s", x.what, w.Code, x.want, w.Body)
		}
	}
}

// What a client's own key defines is counted, and what an admin does for it is not.
func TestDefinitionsAreBounded(t *testing.T) {
	r := newRig(t)
	r.twin.used = true
	for _, x := range []struct{ method, target, body string }{
		{"PUT", "/v1/segments/auto", `{"when":"x"}`},
		{"PUT", "/v1/audiences/kept", `{"expr":"auto"}`},
		{"POST", "/v1/imports", `{"segment":"crm","mode":"replace","scope":"identity"}`},
	} {
		w := r.serve(x.method, x.target, x.body, auth, key("acme-key"))
		if w.Code != 429 || code(w) != "rate_limited" || w.Header().Get("Retry-After") != "3" {
			t.Errorf("%s: %d %s, Retry-After %q", x.target, w.Code, w.Body, w.Header().Get("Retry-After"))
		}
		if w := r.serve(x.method, x.target+"?client=acme", x.body, auth, key("admin-key")); w.Code/100 != 2 {
			t.Errorf("%s by an admin: %d %s", x.target, w.Code, w.Body)
		}
	}
}

// Rows that only take traits back count for nothing, whatever is left, and of a body of
// both the others count once.
func TestTakingBackIsFree(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Quotas = map[proto.ClientName]gateway.Quota{"acme": {EventsPerDay: 2, EventsPerSecond: 1000}}
	})
	row := func(traits string) string { return `{"identity":"` + account(0) + `","traits":` + traits + `}` }
	body := func(rows ...string) string { return `{"rows":[` + strings.Join(rows, ",") + `]}` }
	set, back := row(`{"city":"Bern"}`), row(`{"city":null,"old":""}`)
	r.failErr = proto.Errorf(proto.CodeOverloaded, "the log's queue is full: try again later")
	for _, x := range []struct {
		what  string
		fails int // of the rows, 9 none
		query string
		body  string
		want  int
	}{
		{"one that sets, of four", 9, "", body(back, set, back, back), 200},
		{"both, and what is taken back is not stored", 0, "", body(back, set), 200},
		{"only taken back", 9, "", body(back, back, back), 200},
		{"only taken back, of which nothing is stored", 0, "", body(back), 503},
		{"would be taken back", 9, "?dry_run=true", body(back, back, back), 200},
		{"would be set", 9, "?dry_run=true", body(set), 429},
		{"both again", 9, "", body(back, set), 429},
		{"a row that is refused", 9, "", body(back, row(`[1]`)), 200},
		{"still taken back", 9, "", body(back), 200},
	} {
		r.failTraits = func(i int) bool { return i == x.fails }
		if w := r.serve("POST", "/v1/traits"+x.query, x.body, auth, key("acme-key")); w.Code != x.want {
			t.Errorf("%s: %d, want %d: %s", x.what, w.Code, x.want, w.Body)
		}
	}
}
