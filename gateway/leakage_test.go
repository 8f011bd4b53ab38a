package gateway_test

import (
	"encoding/json"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// TestLeakage: the client's list says who is expected on its pages; other
// clients' keys, and those of reports, see nothing.
func TestLeakage(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.HostsAllowed = map[proto.ClientName][]string{"acme": {"ads.example", "*.cdn.example"}, "demo": {"evil.example"}}
	})
	w := r.serve("GET", "/v1/leakage", "", auth, key("acme-key"))
	var x proto.Leakage
	if err := json.Unmarshal(w.Body.Bytes(), &x); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	allowed := map[string]bool{}
	for _, h := range x.Hosts {
		allowed[h.Host] = h.Allowed
	}
	for host, want := range map[string]bool{
		"ads.example": true, "a.cdn.example": true, "b.a.cdn.example": true, "cdn.example": false, "notcdn.example": false, "evil.example": false, "x.ads.example": false,
	} {
		if got, ok := allowed[host]; !ok || got != want {
			t.Errorf("%s is allowed: %t, told: %t", host, got, ok)
		}
	}
	if x.Withheld != 50 { // the twin tells the floor there
		t.Errorf("the floor of a client's key is %d", x.Withheld)
	}
	for _, c := range []struct {
		key, target string
		status      int
		code        string
	}{
		{"admin-key", "/v1/leakage?client=acme&days=366", 200, ""},
		{"admin-key", "/v1/leakage", 400, "client"},
		{"acme-report", "/v1/leakage", 403, "forbidden"},
		{"acme-key", "/v1/leakage?client=demo", 403, "forbidden"},
		{"acme-key", "/v1/leakage?days=0", 400, "invalid"},
		{"acme-key", "/v1/leakage?days=367", 400, "invalid"},
		{"acme-key", "/v1/leakage?days=x", 400, "invalid"},
		{"acme-key", "/v1/leakage?after=0:99", 504, "timeout"},
	} {
		if w := r.serve("GET", c.target, "", auth, key(c.key)); w.Code != c.status || code(w) != c.code {
			t.Errorf("%s %s: %d %s", c.key, c.target, w.Code, w.Body)
		}
	}
}
