package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"kith/gateway"
	"kith/proto"
)

// A call about one person is in the audit log once it is answered, by the key and a
// keyed hash; what came by the thousand is counted, and written when the node stops.
func TestAudit(t *testing.T) {
	data := t.TempDir() + "/data"
	n := startNode(t, data)
	get := func(method, path, body string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, n.service+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer demo-key")
		r.Header.Set("Content-Type", "application/json")
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		return a.StatusCode
	}
	records := func(n *liveNode, query string) []proto.AuditRecord {
		c := &connection{service: n.service, key: "dev-admin-key", getenv: func(string) string { return "" }}
		var page proto.AuditPage
		if err := c.call(t.Context(), http.MethodGet, "/v1/audit?since="+time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)+query, nil, nil, &page); err != nil {
			t.Fatal(err)
		}
		return page.Records
	}
	for range 3 {
		get("POST", "/v1/lookup", `{"identities":["browser:x","browser:y"]}`)
	}
	get("POST", "/v1/lookup", `{`)
	get("GET", "/v1/identities/browser:x", "")
	get("GET", "/v1/users/browser:y", "")
	get("GET", "/v1/identities/browser:x/explain?segment=nothing", "")
	get("POST", "/v1/optouts", `{"identity":"browser:x"}`)
	get("POST", "/v1/optins", `{"identity":"browser:x"}`)
	get("DELETE", "/v1/links", `{"a":"browser:x","b":"browser:y"}`)
	if code := get("GET", "/v1/audit", ""); code != http.StatusForbidden {
		t.Errorf("a client's key reads the audit log: %d", code)
	}
	last := func(r proto.AuditRecord) bool { return r.Route == "DELETE /v1/links" }
	for deadline := time.Now().Add(10 * time.Second); !slices.ContainsFunc(records(n, ""), last) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // its answer did not wait for its line
	}
	of := records(n, "&identity=browser:x")
	var routes []string
	for _, r := range of {
		routes = append(routes, r.Route)
		if r.Client != "demo" || len(r.Key) != 8 || r.Status == 0 || strings.Contains(r.Identity, "browser") || len(r.Identity) != 32 {
			t.Errorf("a line: %+v", r)
		}
	}
	want := "GET /v1/identities/{identity}, GET /v1/identities/{identity}/explain, POST /v1/optouts, POST /v1/optins, DELETE /v1/links"
	if got := strings.Join(routes, ", "); got != want {
		t.Errorf("of browser:x: %s\nwant %s", got, want)
	}
	if all := records(n, "&client=demo"); len(all) != 6 {
		t.Errorf("of the client: %+v", all)
	}
	out := n.kith(t, "audit", "--identity", "browser:x")
	if strings.Count(out, "\n") != 5 || strings.Contains(out, "browser:x") {
		t.Errorf("kith audit says:\n%s", out)
	}
	if code := n.stop(); code != 0 {
		t.Fatalf("the node stopped with %d", code)
	}
	n = startNode(t, data)
	var counted []proto.AuditRecord
	for _, r := range records(n, "&client=demo") {
		if r.Requests > 0 {
			counted = append(counted, r)
		}
	}
	if len(counted) != 1 || counted[0].Route != "POST /v1/lookup" || counted[0].Requests != 4 || counted[0].Refused != 1 {
		t.Errorf("counted: %+v", counted)
	}
}

// Every route of the service plane has a way to be kept.
func TestAuditKnowsAllRoutes(t *testing.T) {
	x := newStrangers(t, "alpha")
	for _, r := range x.gateway.Routes() {
		if route := r.Method + " " + r.Path; r.Plane == "service" && !gateway.Audits(route) {
			t.Errorf("route %s is new: say in gateway/audit.go how its calls are kept", route)
		}
	}
}
