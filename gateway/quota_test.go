package gateway_test

import "testing"

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
