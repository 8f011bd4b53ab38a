package gateway_test

import (
	"net/http"
	"strings"
	"testing"
)

// A client's account is told and ended by an admin only; whoever was ended is
// as if never there, but for the state of the erasure.
func TestClientAccount(t *testing.T) {
	r := newRig(t)
	r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:b1"]}]}`, auth, key("acme-key"))
	r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:gone"]}]}`, auth, key("acme-key"))
	r.serve("POST", "/v1/optouts", `{"identity":"browser:gone"}`, auth, key("acme-key"))
	const whole = `{"kind":"identity","identity":"browser:b1"}` + "\n" + `{"kind":"end","identities":1}`
	r.tell([]step{
		{"export", "admin-key", "GET", "/v1/clients/acme/export", "", 200, whole},
		{"export, by itself", "acme-key", "GET", "/v1/clients/acme/export", "", 403, "forbidden"},
		{"export, nobody", "admin-key", "GET", "/v1/clients/nobody/export", "", 404, "not_found"},
		{"export, no name", "admin-key", "GET", "/v1/clients/a%20b/export", "", 400, "client"},
		{"erase, by itself", "acme-key", "DELETE", "/v1/clients/acme", "", 403, "forbidden"},
		{"erase, without a key", "", "DELETE", "/v1/clients/acme", "", 401, "unauthorized"},
		{"erase, nobody", "admin-key", "DELETE", "/v1/clients/nobody", "", 404, "not_found"},
		{"state before", "admin-key", "GET", "/v1/clients/acme/erasure", "", 404, "not_found"},
		{"erase", "admin-key", "DELETE", "/v1/clients/acme", "", 202, `{"client":"acme","erased":false,"left":3,"lanes":{"answered":0,"of":1}}`},
		{"state", "admin-key", "GET", "/v1/clients/acme/erasure", "", 202, `{"client":"acme","erased":false,"left":3,"lanes":{"answered":0,"of":1}}`},
		{"its key", "acme-key", "GET", "/v1/segments", "", 401, "unauthorized"},
		{"export after", "admin-key", "GET", "/v1/clients/acme/export", "", 404, "not_found"},
		{"erase again", "admin-key", "DELETE", "/v1/clients/acme", "", 200, `{"client":"acme","erased":true,"left":0,"lanes":{"answered":1,"of":1}}`},
		{"state, for a client", "demo-key", "GET", "/v1/clients/acme/erasure", "", 403, "forbidden"},
	})
	w := r.serve("GET", "/v1/clients/demo/export", "", auth, key("admin-key"))
	if kind := w.Header().Get("Content-Type"); kind != "application/x-ndjson" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("an export is %q, %q", kind, w.Header().Get("Cache-Control"))
	}
}

// An export that breaks off looks broken: the stream is cut, and there is no
// last line.
func TestClientExportBreaksOff(t *testing.T) {
	r := newRig(t)
	w := r.serve("POST", "/v1/events?client=other", `{"client":"other","events":[{"event":"page","identities":["browser:b1"]}]}`, auth, key("admin-key"))
	if w.Code != http.StatusOK {
		t.Fatal(w.Body)
	}
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("the stream was ended in peace: %v", p)
		}
	}()
	w = r.serve("GET", "/v1/clients/other/export", "", auth, key("admin-key"))
	if strings.Contains(w.Body.String(), `"end"`) {
		t.Error("it says that it is whole")
	}
}
