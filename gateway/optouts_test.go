package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/micro"
	gproto "google.golang.org/protobuf/proto"

	"kith/gateway"
	"kith/proto"
	"kith/proto/pb"
)

// cut is what matters in the answer to a cut.
type cut struct {
	Identity proto.Identity
	OptedOut bool `json:"opted_out"`
	Final    bool
	Status   string
	Erased   bool
	Receipt  *proto.Receipt
}

func cutOf(t *testing.T, body []byte) (x cut) {
	t.Helper()
	if err := json.Unmarshal(body, &x); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return x
}

// What a receipt counts is for who asks: a key's client, that which an admin key names, or
// the operator; and all of it for the people themselves.
func TestReceiptsAreForWhoAsks(t *testing.T) {
	r := newRig(t)
	nc := natsRig(t, r)
	list := `{"identities":["browser:x","browser:y"]}`
	for _, x := range []struct {
		what string
		ask  func()
		want proto.ClientName
	}{
		{"a client's", func() { r.serve("POST", "/v1/optouts", `{"identity":"browser:x"}`, auth, key("acme-key")) }, "acme"},
		{"a client's opt-in", func() { r.serve("POST", "/v1/optins", `{"identity":"browser:x"}`, auth, key("demo-key")) }, "demo"},
		{"a client's list", func() { r.serve("POST", "/v1/optouts", list, auth, key("acme-key")) }, "acme"},
		{"an operator's", func() { r.serve("POST", "/v1/optouts", `{"identity":"browser:x"}`, auth, key("admin-key")) }, ""},
		{"an operator's for a client", func() { r.serve("POST", "/v1/optouts?client=demo", `{"identity":"browser:x"}`, auth, key("admin-key")) }, "demo"},
		{"a client's message", func() { ask(t, nc, "kith.optout", `{"identity":"browser:x"}`, auth, key("acme-key")) }, "acme"},
		{"a browser's", func() { r.visit("POST", "/v1/optout", "", "Cookie", cookieOf(1)) }, ""},
		{"a client's list by a message", func() { ask(t, nc, "kith.optout", list, auth, key("demo-key")) }, "demo"},
	} {
		before := len(r.graph.cuts)
		r.graph.told = proto.ClientInfo{Name: "nobody"}
		if x.ask(); r.graph.told.Name != x.want || len(r.graph.cuts) == before || x.want != "" && r.graph.told.ID == 0 {
			t.Errorf("%s receipt is for %q, want %q; cuts: %v", x.what, r.graph.told.Name, x.want, r.graph.cuts[before:])
		}
	}
}

func TestOptOuts(t *testing.T) {
	r := newRig(t)
	post := func(path, body, k string) (int, cut) {
		w := r.serve("POST", path, body, auth, key(k))
		return w.Code, cutOf(t, w.Body.Bytes())
	}
	r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["account:a/1","browser:b1"]}]}`, auth, key("acme-key"))
	status, x := post("/v1/optouts", `{"identity":"account:a/1"}`, "demo-key")
	if status != 200 || !x.Final || !x.OptedOut || x.Status != "/v1/optouts/account:a%2F1" || x.Identity != "account:a/1" || x.Receipt == nil || x.Receipt.CopiesRetracted != 2 {
		t.Errorf("%d %+v", status, x)
	}
	w := r.serve("POST", "/v1/optouts", `{"identities":["browser:l1","browser:l2"]}`, auth, key("acme-key"))
	var list struct{ Results []cut }
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 || len(list.Results) != 2 || list.Results[1].Identity != "browser:l2" || list.Results[1].Receipt == nil {
		t.Errorf("a list: %d %s %v", w.Code, w.Body, err)
	}
	r.graph.slow = true
	status, x = post("/v1/optouts", `{"identity":"browser:b1","everywhere":true}`, "admin-key")
	if status != 202 || x.Final || !x.OptedOut || x.Receipt != nil || x.Status != "/v1/optouts/browser:b1" {
		t.Errorf("slow: %d %+v", status, x)
	}
	if d := cmp.Diff([]string{"optout account:a/1 false", "optout browser:l1 false", "optout browser:l2 false", "optout browser:b1 true"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
	state := func() cut { return cutOf(t, r.serve("GET", x.Status, "", auth, key("acme-key")).Body.Bytes()) }
	if s := state(); s.Final || !s.OptedOut || s.Status != x.Status {
		t.Errorf("status: %+v", s)
	}
	r.graph.slow = false
	if s := state(); !s.Final || s.Receipt == nil {
		t.Errorf("status, when final: %+v", s)
	}
	r.tell([]step{
		{"no link any more", "acme-key", "POST", "/v1/links", `{"a":"browser:b1","b":"browser:c1"}`, 200, notLinked("opted_out")},
		{"in again", "acme-key", "POST", "/v1/optins", `{"identity":"browser:b1"}`, 200, `{"identity":"browser:b1","opted_out":false,"final":false,"status":"/v1/optouts/browser:b1"}`},
		{"in twice", "acme-key", "POST", "/v1/optins", `{"identity":"browser:b1"}`, 409, "conflict"},
		{"the status of nobody special", "acme-key", "GET", "/v1/optouts/browser:b1", "", 200, `{"identity":"browser:b1","opted_out":false,"final":false,"status":"/v1/optouts/browser:b1"}`},
		{"status, later", "acme-key", "GET", "/v1/optouts/browser:b1?after=0:99", "", 504, "timeout"},
		{"in, everywhere", "acme-key", "POST", "/v1/optins", `{"identity":"browser:b1","everywhere":true}`, 400, "json"},
		{"report key", "acme-report", "POST", "/v1/optouts", `{"identity":"browser:b1"}`, 403, "forbidden"},
		{"in, report key", "acme-report", "POST", "/v1/optins", `{"identity":"browser:b1"}`, 403, "forbidden"},
		{"status, report key", "acme-report", "GET", "/v1/optouts/browser:b1", "", 403, "forbidden"},
		{"another client", "acme-key", "POST", "/v1/optouts?client=demo", `{"identity":"browser:b1"}`, 403, "forbidden"},
		{"nobody", "acme-key", "POST", "/v1/optouts", `{}`, 400, "identity"},
		{"junk", "acme-key", "POST", "/v1/optouts", `{"identity":"browser:null"}`, 400, "identity"},
		{"an e-mail address", "acme-key", "POST", "/v1/optouts", `{"identity":"account:jo@example.com"}`, 400, "pii"},
		{"not JSON", "acme-key", "POST", "/v1/optouts", `browser:b1`, 400, "json"},
		{"half a letter", "acme-key", "POST", "/v1/optouts", `{"identity":"browser:\ud800"}`, 400, "json"},
		{"half a letter, and more", "acme-key", "POST", "/v1/optouts", `{"identity":"browser:\ud800\u0061"}`, 400, "json"},
		{"no UTF-8", "acme-key", "POST", "/v1/optouts", "{\"identity\":\"browser:\xff\"}", 400, "json"},
		{"a letter of two halves", "acme-key", "POST", "/v1/optins", `{"identity":"browser:\ud83d\ude00"}`, 409, "conflict"},
		{"look-up of half a letter", "acme-key", "POST", "/v1/lookup", `{"identities":["browser:\ud800"]}`, 200, `{"results":[{"identity":"browser:�","known":false,"opted_out":false,"segments":[],"error":"identity"}]}`},
		{"an empty list", "acme-key", "POST", "/v1/optouts", `{"identities":[]}`, 400, "invalid"},
		{"one and a list", "acme-key", "POST", "/v1/optouts", `{"identity":"browser:b1","identities":["browser:b2"]}`, 400, "identity"},
		{"a list with junk", "acme-key", "POST", "/v1/optouts", `{"identities":["browser:l1","browser:null"]}`, 400, "identity"},
		{"two for one", "acme-key", "POST", "/v1/optouts", `{"identity":"browser:b1","identity":"browser:b2"}`, 400, "json"},
		{"two by case", "acme-key", "POST", "/v1/optouts", `{"identity":"browser:b1","Identity":"browser:b2"}`, 400, "json"},
		{"no UTF-8", "acme-key", "POST", "/v1/optouts", "{\"identity\":\"browser:\xff\"}", 400, "json"},
		{"half a surrogate pair", "acme-key", "POST", "/v1/optouts", `{"identities":["browser:\ud800"]}`, 400, "json"},
		{"the ledger", "admin-key", "GET", "/v1/optouts", "", 200, "ledger"},
		{"the ledger, a client", "acme-key", "GET", "/v1/optouts", "", 403, "forbidden"},
		{"bytes, a client", "acme-key", "POST", "/v1/erase", "", 403, "forbidden"},
		{"bytes", "admin-key", "POST", "/v1/erase", "", 200, `{"identities":4,"log_entries":0,"time":"2026-11-22T12:00:00Z"}`},
	})
	if len(r.graph.cuts) != 5 {
		t.Errorf("a refused request cut: %v", r.graph.cuts)
	}
}

// TestOptedOutIsDark: nothing is told of an opted-out identity, on any way.
func TestOptedOutIsDark(t *testing.T) {
	r := newRig(t)
	r.counts["all"] = 1
	r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:b1"]}]}`, auth, key("acme-key"))
	r.serve("POST", "/v1/optouts", `{"identity":"browser:b1"}`, auth, key("acme-key"))
	const dark = `{"identity":"browser:b1","known":false,"opted_out":true,"segments":[]}`
	r.tell([]step{
		{"look-up", "acme-key", "GET", "/v1/identities/browser:b1/segments", "", 200, dark},
		{"look-up of several", "acme-key", "POST", "/v1/lookup", `{"identities":["browser:b1"]}`, 200, `{"results":[` + dark + `]}`},
		{"record", "acme-key", "GET", "/v1/identities/browser:b1", "", 200, `{"identity":"browser:b1","known":false,"opted_out":true,"segments":[],"events":[],"truncated":false}`},
	})
	b, err := gproto.Marshal(&pb.LookupRequest{Identities: []string{"browser:b1"}})
	if err != nil {
		t.Fatal(err)
	}
	w := r.serve("POST", "/v1/lookup", string(b), auth, key("acme-key"), "Content-Type", "application/x-protobuf")
	var found pb.LookupResponse
	if err := gproto.Unmarshal(w.Body.Bytes(), &found); err != nil || len(found.Results) != 1 {
		t.Fatal(err, &found)
	}
	if x := found.Results[0]; x.Known || !x.OptedOut || len(x.Segments) != 0 {
		t.Error(x)
	}
	nc := natsRig(t, r)
	if m := ask(t, nc, "kith.query.lookup", `{"identities":["browser:b1"]}`, auth, key("acme-key")); strings.TrimSpace(string(m.Data)) != `{"results":[`+dark+`]}` {
		t.Errorf("NATS: %s", m.Data)
	}
	w = r.visit("GET", "/v1/me/segments?client=acme", "", "Cookie", "kith_id=b1")
	if got := strings.TrimSpace(w.Body.String()); got != `{"opted_out":true,"segments":[],"by":"opted_out"}` {
		t.Error("public:", got)
	}
}

func TestErasure(t *testing.T) {
	r := newRig(t)
	for _, k := range []string{"acme-key", "demo-key"} {
		r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:b1"]}]}`, auth, key(k))
	}
	erase := func(target, k string) cut {
		w := r.serve("DELETE", target, "", auth, key(k))
		if w.Code != 200 {
			t.Errorf("%s by %s: %d %s", target, k, w.Code, w.Body)
		}
		return cutOf(t, w.Body.Bytes())
	}
	if x := erase("/v1/identities/browser:b1", "acme-key"); x.OptedOut || !x.Final || x.Receipt == nil || x.Receipt.Action != "erase" {
		t.Errorf("%+v", x)
	}
	erase("/v1/identities/browser%3Ab1?client=demo", "admin-key")
	erase("/v1/identities/browser:b1", "admin-key")
	if d := cmp.Diff([]string{"erase browser:b1 acme", "erase browser:b1 demo", "erase browser:b1 all"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
	r.graph.slow = true
	slow := func(target, k, status string) {
		w := r.serve("DELETE", target, "", auth, key(k))
		if x := cutOf(t, w.Body.Bytes()); w.Code != 202 || x.Status != status {
			t.Errorf("slow: %d %s", w.Code, w.Body)
		}
	}
	slow("/v1/identities/browser:b2", "acme-key", "/v1/optouts/browser:b2")
	slow("/v1/identities/browser:b4?client=demo", "admin-key", "/v1/optouts/browser:b4?client=demo")
	const open = `{"identity":"browser:b2","opted_out":false,"final":false,"status":"/v1/optouts/browser:b2"}`
	r.tell([]step{{"slow, its status", "acme-key", "GET", "/v1/optouts/browser:b2", "", 200, open}})
	// Whoever asked for it is told by the route that it names, and nobody else.
	r.graph.slow = false
	for _, x := range []struct {
		target, key string
		final       bool
	}{
		{"/v1/optouts/browser:b2", "acme-key", true},
		{"/v1/optouts/browser:b2", "demo-key", false},
		{"/v1/optouts/browser:b4", "admin-key", false},
		{"/v1/optouts/browser:b4?client=demo", "admin-key", true},
		{"/v1/optouts/browser:b3", "acme-key", false},
	} {
		w := r.serve("GET", x.target, "", auth, key(x.key))
		if s := cutOf(t, w.Body.Bytes()); w.Code != 200 || s.Final != x.final || (s.Receipt != nil) != x.final {
			t.Errorf("%s by %s: %d %s", x.target, x.key, w.Code, w.Body)
		}
	}
	erased := len(r.graph.cuts)
	r.tell([]step{
		{"another client's", "acme-key", "DELETE", "/v1/identities/browser:b1?client=demo", "", 403, "forbidden"},
		{"an unknown client's", "admin-key", "DELETE", "/v1/identities/browser:b1?client=nobody", "", 400, "client"},
		{"a client whose name was lost", "admin-key", "DELETE", "/v1/identities/browser:b1?client=", "", 400, "client"},
		{"likewise, without its sign", "admin-key", "DELETE", "/v1/identities/browser:b1?client", "", 400, "client"},
		{"a broken name", "admin-key", "DELETE", "/v1/identities/browser:b1?client=%zz", "", 400, "invalid"},
		{"an escaped parameter, of an unknown client", "admin-key", "DELETE", "/v1/identities/browser:b1?%63lient=nobody", "", 400, "client"},
		{"a client behind a semicolon", "admin-key", "DELETE", "/v1/identities/browser:b1?after=0:1;client=demo", "", 400, "invalid"},
		{"an empty client's status", "admin-key", "GET", "/v1/optouts/browser:b2?client=", "", 400, "client"},
		{"two clients", "admin-key", "DELETE", "/v1/identities/browser:b1?client=acme&client=demo", "", 400, "client"},
		{"a client in capitals", "admin-key", "DELETE", "/v1/identities/browser:b1?Client=acme", "", 400, "invalid"},
		{"another client's status", "acme-key", "GET", "/v1/optouts/browser:b2?client=demo", "", 403, "forbidden"},
		{"report key", "acme-report", "DELETE", "/v1/identities/browser:b1", "", 403, "forbidden"},
		{"nobody", "acme-key", "DELETE", "/v1/identities/browser:0", "", 400, "identity"},
	})
	if n := len(r.graph.cuts); n != erased {
		t.Errorf("what was refused is done: %v", r.graph.cuts[erased:])
	}
}

func TestReceipts(t *testing.T) {
	r := newRig(t)
	w := r.serve("POST", "/v1/optouts", `{"identity":"browser:b1"}`, auth, key("acme-key"))
	answer := w.Body.String()
	receipt, err := gateway.ParseReceipt([]byte(answer))
	if err != nil {
		t.Fatal(err)
	}
	alone, err := json.Marshal(receipt)
	if err != nil {
		t.Fatal(err)
	}
	receipt.CopiesRetracted++
	forged, err := json.Marshal(receipt)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(alone), `"version":1`, `"version":2`, 1)
	const clean = `{"signature":true,"clean":true,"places":[{"place":"members","found":0}],"log_clear":false,"log_first":0}`
	r.tell([]step{
		{"alone", "acme-key", "POST", "/v1/receipts/verify", string(alone), 200, clean},
		{"wrapped", "demo-key", "POST", "/v1/receipts/verify", `{"receipt":` + string(alone) + `}`, 200, clean},
		{"in its answer", "admin-key", "POST", "/v1/receipts/verify", answer, 200, strings.Replace(clean, `"log_first":0`, `"log_first":0,"identity":true`, 1)},
		{"in another's answer", "admin-key", "POST", "/v1/receipts/verify", strings.Replace(answer, "browser:b1", "browser:b2", 1), 200, strings.Replace(clean, `"log_first":0`, `"log_first":0,"identity":false`, 1)},
		{"forged, in an answer", "acme-key", "POST", "/v1/receipts/verify", `{"identity":"browser:b1","receipt":` + string(forged) + `}`, 200, strings.Replace(clean, `"signature":true`, `"signature":false`, 1)},
		{"forged", "acme-key", "POST", "/v1/receipts/verify", string(forged), 200, strings.Replace(clean, `"signature":true`, `"signature":false`, 1)},
		{"newer", "acme-key", "POST", "/v1/receipts/verify", newer, 400, "invalid"},
		{"with more in it", "acme-key", "POST", "/v1/receipts/verify", strings.Replace(string(alone), `{`, `{"x":1,`, 1), 400, "json"},
		{"with a line twice", "acme-key", "POST", "/v1/receipts/verify", strings.Replace(string(alone), `{`, `{"also":7,`, 1), 400, "json"},
		{"with a line twice, by case", "acme-key", "POST", "/v1/receipts/verify", strings.Replace(string(alone), `{`, `{"ALSO":7,`, 1), 400, "json"},
		{"beside two identities", "acme-key", "POST", "/v1/receipts/verify", strings.Replace(answer, `{`, `{"identity":"browser:b2",`, 1), 400, "json"},
		{"an answer without one", "acme-key", "POST", "/v1/receipts/verify", `{"identity":"browser:b1","opted_out":true,"final":false}`, 400, "invalid"},
		{"nothing", "acme-key", "POST", "/v1/receipts/verify", `{}`, 400, "invalid"},
		{"no JSON", "acme-key", "POST", "/v1/receipts/verify", ``, 400, "json"},
		{"report key", "acme-report", "POST", "/v1/receipts/verify", string(alone), 403, "forbidden"},
		{"no key", "", "POST", "/v1/receipts/verify", string(alone), 401, "unauthorized"},
		{"the public key", "", "GET", "/v1/receipts/key", "", 200, `{"public_key":"` + r.ReceiptKey() + `","algorithm":"ed25519"}`},
	})
	demo, _ := r.Client("demo")
	acme, _ := r.Client("acme")
	if got, want := r.graph.checkedBy, []proto.ClientID{acme.ID, demo.ID, 0, 0, acme.ID, acme.ID}; !slices.Equal(got, want) {
		t.Errorf("the checks are of clients %v, want %v", got, want)
	}
	if w := r.serve("POST", "/v1/receipts/verify", string(alone), auth, key("acme-key"), "Content-Type", "image/png"); w.Code != 415 {
		t.Errorf("a picture: %d", w.Code)
	}
	w = r.visit("GET", "/v1/receipts/key", "", "Origin", "https://x.example")
	if w.Code != 200 || !strings.Contains(w.Body.String(), r.ReceiptKey()) || w.Header().Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("on the public plane: %d %s", w.Code, w.Body)
	}
	r.members[member{2, "browser:b1"}] = []proto.SegmentID{"left"}
	w = r.serve("POST", "/v1/receipts/verify", string(alone), auth, key("acme-key"))
	if !strings.Contains(w.Body.String(), `"clean":false,"places":[{"place":"members","found":1}]`) {
		t.Errorf("what is left is not told: %s", w.Body)
	}
}

func TestOwnOptOut(t *testing.T) {
	r := newRig(t)
	const cookie = "kith_id=abc123"
	w := r.visit("POST", "/v1/optout", "", "Cookie", cookie)
	if x := cutOf(t, w.Body.Bytes()); w.Code != 200 || !x.OptedOut || !x.Final || x.Receipt == nil || x.Identity != "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if c := cookies(w); c["kith_optout"].Value != "1" || c["kith_id"].MaxAge >= 0 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%v", w.Header())
	}
	r.graph.slow = true
	w = r.visit("POST", "/v1/optout", `{"everywhere":true}`, "Cookie", "kith_id=abc124", "Content-Type", "text/plain")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"opted_out":true,"final":false}` {
		t.Errorf("slow: %d %s", w.Code, got)
	}
	w = r.visit("POST", "/v1/optout", `{"everywhere":true}`, "Cookie", cookie)
	if x := cutOf(t, w.Body.Bytes()); w.Code != 200 || !x.OptedOut || !x.Final || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("one that is out already: %d %s", w.Code, w.Body)
	}
	w = r.visit("POST", "/v1/optout", "{}")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"opted_out":true}` || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("without a cookie: %d %s", w.Code, got)
	}
	w = r.visit("POST", "/v1/optout", "{}", "Cookie", "kith_id=null")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"opted_out":true}` {
		t.Errorf("with a cookie of nobody: %d %s", w.Code, got)
	}
	if w = r.visit("POST", "/v1/optout", "", "Cookie", cookie, "Sec-Fetch-Site", "cross-site"); w.Code != 403 || len(cookies(w)) != 0 {
		t.Errorf("from another site: %d %v", w.Code, w.Header())
	}
	if d := cmp.Diff([]string{"optout browser:abc123 false", "optout browser:abc124 true"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
}

// TestOwnOptOutIsNotLost: whatever happens to the cut, from then on nothing is
// stored, and the identity stays at hand until it is cut.
func TestOwnOptOutIsNotLost(t *testing.T) {
	for name, err := range map[string]error{
		"busy": proto.Errorf(proto.CodeOverloaded, "full"), "late": proto.Errorf(proto.CodeTimeout, "late"), "broken": proto.Errorf(proto.CodeCorrupt, "/secret/path"),
	} {
		r := newRig(t)
		r.graph.cutErr = err
		w := r.visit("POST", "/v1/optout", "", "Cookie", "kith_id=abc123")
		if w.Code != 503 || code(w) == "" || strings.Contains(w.Body.String(), "secret") || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if c := cookies(w); c["kith_optout"] == nil || c["kith_optout"].Value != "1" || c["kith_id"] != nil {
			t.Errorf("%s: cookies %v", name, c)
		}
		both := []string{"Cookie", "kith_id=abc123; kith_optout=1"}
		if w := r.visit("POST", "/v1/events", page, both...); !strings.Contains(w.Body.String(), "opted_out") || len(r.taken()) != 0 {
			t.Errorf("%s: an event afterwards: %s", name, w.Body)
		}
		r.graph.cutErr = nil
		if w = r.visit("POST", "/v1/optout", "", both...); w.Code != 200 || cookies(w)["kith_id"].MaxAge >= 0 {
			t.Errorf("%s: again: %d %s", name, w.Code, w.Body)
		}
	}
	r := newRig(t)
	w := r.visit("POST", "/v1/optout", `{"evrywhere":true}`, "Cookie", "kith_id=abc123")
	if c := cookies(w); w.Code != 400 || code(w) != "json" || c["kith_optout"] == nil || c["kith_id"] != nil || len(r.graph.cuts) != 0 {
		t.Errorf("a broken body: %d %s %v", w.Code, w.Body, c)
	}
}

// TestOwnOptIn: a browser whose identity was cut is known again by it, or if that
// cannot be, or it was not cut yet, by another.
func TestOwnOptIn(t *testing.T) {
	const both = "kith_id=abc123; kith_optout=1"
	for _, tt := range []struct {
		name       string
		out        bool
		err, inErr error
		cuts       []string
		gone       bool   // its cookie
		answer     string // opted_out
	}{
		{"never cut", false, nil, nil, nil, true, "false"},
		{"cut", true, nil, nil, []string{"optin browser:abc123"}, false, "false"},
		{"nobody knows", true, proto.Errorf(proto.CodeUnavailable, "no"), nil, nil, true, "false"},
		{"cut, and not lifted", true, nil, proto.Errorf(proto.CodeOverloaded, "full"), nil, true, "false"},
		{"lifted meanwhile", true, nil, proto.Errorf(proto.CodeConflict, "is not"), nil, false, "false"},
		{"opted out again meanwhile", true, nil, proto.Errorf(proto.CodeConflict, "again"), nil, true, "false"},
	} {
		r := newRig(t)
		if tt.out {
			r.graph.out["browser:abc123"] = &proto.OptOutState{OptedOut: true, Final: true}
		}
		r.graph.cutErr, r.graph.inErr, r.graph.lifted = tt.err, tt.inErr, tt.name == "lifted meanwhile"
		w := r.visit("POST", "/v1/optin", "", "Cookie", both)
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"opted_out":`+tt.answer) || cookies(w)["kith_optout"].MaxAge >= 0 {
			t.Errorf("%s: %d %s %v", tt.name, w.Code, w.Body, w.Header())
		}
		if c := cookies(w)["kith_id"]; (c != nil) != tt.gone || !slices.Equal(r.graph.cuts, tt.cuts) {
			t.Errorf("%s: cookie %v, cuts %v", tt.name, c, r.graph.cuts)
		}
	}
}

// An opt-in or erasure after which events do not count yet, as the clock was set back,
// is not answered as done; a browser gets another identity instead.
func TestBeginsLater(t *testing.T) {
	const both = "kith_id=abc123; kith_optout=1"
	r := newRig(t)
	from := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	r.graph.from = &from
	for _, c := range [][3]string{
		{"POST", "/v1/optins", `{"identity":"browser:abc123"}`}, {"DELETE", "/v1/identities/browser:abc123", ""},
	} {
		r.graph.out["browser:abc123"] = &proto.OptOutState{OptedOut: true, Final: true}
		w := r.serve(c[0], c[1], c[2], "Authorization", "Bearer acme-key")
		if w.Code != 202 || !strings.Contains(w.Body.String(), `"counts_from":"2026-11-30T12:00:00Z"`) {
			t.Errorf("%s %s: %d %s", c[0], c[1], w.Code, w.Body)
		}
	}
	r.graph.out["browser:abc123"] = &proto.OptOutState{OptedOut: true, Final: true}
	if w := r.visit("POST", "/v1/optin", "", "Cookie", both); w.Code != 200 || cookies(w)["kith_id"] == nil || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("the browser keeps its identity: %d %s %v", w.Code, w.Body, w.Header())
	}
}

func TestMe(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Origins = map[proto.ClientName][]string{"acme": {"https://acme.example"}}
	})
	const cookie = "kith_id=abc123"
	r.visit("POST", "/v1/events", page, "Cookie", cookie)
	get := func(target string, headers ...string) string {
		w := r.visit("GET", target, "", headers...)
		if w.Code >= 400 {
			return code(w)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be kept: %v", target, w.Header())
		}
		return strings.TrimSpace(w.Body.String())
	}
	const own = `{"identity":"browser:abc123","known":true,"opted_out":false,"segments":["all","auto"],"events":[],"truncated":false}`
	for _, tt := range []struct {
		name, target, want string
		headers            []string
	}{
		{"own", "/v1/me?client=demo", own, []string{"Cookie", cookie}},
		{"under a signal", "/v1/me?client=demo", strings.Replace(own, `"opted_out":false`, `"opted_out":true`, 1), []string{"Cookie", cookie, "Sec-GPC", "1"}},
		{"another client", "/v1/me?client=acme", `{"identity":"browser:abc123","known":false,"opted_out":false,"segments":[],"events":[],"truncated":false}`, []string{"Cookie", cookie}},
		{"no cookie", "/v1/me?client=demo", `{"identity":"","known":false,"opted_out":false,"segments":[],"events":[],"truncated":false}`, nil},
		{"no client", "/v1/me", "client", []string{"Cookie", cookie}},
		{"another site", "/v1/me?client=demo", "forbidden", []string{"Cookie", cookie, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}},
		{"an origin not listed", "/v1/me?client=acme", "forbidden", []string{"Cookie", cookie, "Origin", "https://evil.example"}},
		{"an origin listed", "/v1/me?client=acme", `{"identity":"","known":false,"opted_out":false,"segments":[],"events":[],"truncated":false}`, []string{"Origin", "https://acme.example", "Sec-Fetch-Site", "cross-site"}},
	} {
		if got := get(tt.target, tt.headers...); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
	if w := r.visit("OPTIONS", "/v1/me", "", "Origin", "https://acme.example"); !strings.Contains(w.Header().Get("Access-Control-Allow-Methods"), "DELETE") {
		t.Errorf("preflight: %v", w.Header())
	}
	if w := r.visit("DELETE", "/v1/me", "", "Cookie", cookie, "Sec-Fetch-Site", "cross-site"); w.Code != 403 || len(r.graph.cuts) != 0 {
		t.Errorf("erasure from another site: %d", w.Code)
	}
	r.graph.cutErr = proto.Errorf(proto.CodeOverloaded, "full")
	if w := r.visit("DELETE", "/v1/me", "", "Cookie", cookie); w.Code != 503 || cookies(w)["kith_id"] != nil {
		t.Errorf("erasure that fails: %d %v", w.Code, w.Header())
	}
	r.graph.cutErr = nil
	w := r.visit("DELETE", "/v1/me", "", "Cookie", cookie, "Sec-Fetch-Site", "same-origin")
	if x := cutOf(t, w.Body.Bytes()); w.Code != 200 || !x.Erased || !x.Final || x.Receipt == nil || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("erasure: %d %s", w.Code, w.Body)
	}
	if got := get("/v1/me?client=demo", "Cookie", cookie); !strings.Contains(got, `"known":false`) {
		t.Error("after the erasure:", got)
	}
	w = r.visit("DELETE", "/v1/me", "")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"erased":false,"final":true}` {
		t.Errorf("erasure of nobody: %d %s", w.Code, got)
	}
	if d := cmp.Diff([]string{"erase browser:abc123 all"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
}

func TestNATSOptOut(t *testing.T) {
	r := newRig(t)
	nc := natsRig(t, r)
	optOut := func(body string, headers ...string) string {
		m := ask(t, nc, "kith.optout", body, headers...)
		var x struct{ Error struct{ Code string } }
		if json.Unmarshal(m.Data, &x) == nil && x.Error.Code != "" {
			return x.Error.Code
		}
		var list struct{ Results []cut }
		if json.Unmarshal(m.Data, &list) == nil && len(list.Results) > 0 {
			all := ""
			for _, c := range list.Results {
				all += fmt.Sprint(c.Identity, " ", c.Final && c.Receipt != nil && c.Status == "/v1/optouts/"+string(c.Identity), ", ")
			}
			return all
		}
		if c := cutOf(t, m.Data); c.Final && c.Receipt != nil && c.Status != "" {
			return string(c.Identity)
		}
		return string(m.Data)
	}
	for _, tt := range []struct{ body, key, want string }{
		{`{"identity":"browser:b1","everywhere":true}`, "acme-key", "browser:b1"},
		{`{"identity":"browser:b2"}`, "admin-key", "browser:b2"},
		{`{"identity":"browser:b3"}`, "acme-report", "forbidden"},
		{`{"identity":"browser:b3"}`, "guess", "unauthorized"},
		{`{"identity":"browser:0"}`, "acme-key", "identity"},
		{`{"identities":["browser:l1","browser:l2"],"everywhere":true}`, "acme-key", "browser:l1 true, browser:l2 true, "},
		{`{"identities":["browser:l3"]}`, "acme-key", "browser:l3 true, "},
		{`{"identities":["browser:l4","browser:0"]}`, "acme-key", "identity"},
		{`{"identities":["browser:l4"],"identity":"browser:l5"}`, "acme-key", "identity"},
		{`{"identities":[]}`, "acme-key", "invalid"},
		{`{"identities":["` + strings.Repeat(`browser:x","`, 1000) + `browser:x"]}`, "acme-key", "too_large"},
		{`{"identity":`, "acme-key", "json"},
	} {
		if got := optOut(tt.body, auth, key(tt.key)); got != tt.want {
			t.Errorf("%.80s by %s: %s, want %s", tt.body, tt.key, got, tt.want)
		}
	}
	if got := optOut(`{"identity":"browser:b3"}`); got != "unauthorized" {
		t.Errorf("without a key: %s", got)
	}
	if d := cmp.Diff([]string{"optout browser:b1 true", "optout browser:b2 false", "optout browser:l1 true", "optout browser:l2 true", "optout browser:l3 false"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
}

// An answer that NATS does not take is not lost without a word.
func TestNATSAnswerTooLarge(t *testing.T) {
	r := newRig(t)
	nc := natsRig(t, r)
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf(`"account:%d%s"`, i, strings.Repeat("/", 240)) // three bytes each in the status
	}
	m := ask(t, nc, "kith.optout", `{"identities":[`+strings.Join(ids, ",")+`]}`, auth, key("acme-key"))
	if m.Header.Get(micro.ErrorCodeHeader) != "413" || !strings.Contains(string(m.Data), "is done") || len(r.graph.cuts) != len(ids) {
		t.Errorf("%d cuts, %v %s", len(r.graph.cuts), m.Header, m.Data)
	}
}

func TestGraphConfig(t *testing.T) {
	for name, c := range map[string]gateway.Config{
		"confidence": {LinkConfidenceMin: map[proto.ClientName]float64{"a": 1.1}}, "negative": {LinkConfidenceMin: map[proto.ClientName]float64{"a": -1}},
		"block list": {Blocked: []proto.Identity{"kiosk"}}, "junk": {Blocked: []proto.Identity{"account:null"}},
	} {
		if proto.CodeOf(c.Validate()) != proto.CodeInvalid {
			t.Errorf("%s: %v", name, c.Validate())
		}
	}
}

// FuzzParseReceipt: what is taken is a receipt that JSON brings back unchanged.
func FuzzParseReceipt(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"signature":"ab","public_key":"cd","time":"2026-11-22T12:00:00Z","log_clear_by":"2026-11-22T12:00:00Z"}`,
		`{"receipt":{"version":1,"signature":"ab","public_key":"cd"},"final":true}`, `{"receipt":null,"final":false}`, `{}`, `[]`, `{"receipt":{"receipt":{}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := gateway.ParseReceipt(b)
		if err != nil {
			if c := proto.CodeOf(err); c != proto.CodeJSON && c != proto.CodeInvalid {
				t.Fatalf("code %s: %v", c, err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		second, err := gateway.ParseReceipt(again)
		if err != nil || string(second.SignedBytes()) != string(r.SignedBytes()) {
			t.Fatalf("%v\n%s\n%s", err, b, again)
		}
	})
}

// FuzzNamesNobody: a value that names nobody is told from one that is malformed.
func FuzzNamesNobody(f *testing.F) {
	f.Add("browser:a1", "account:null")
	f.Add("account:", "x")
	f.Add("partner.x:0", "browser:a@b.com")
	f.Fuzz(func(t *testing.T, a, b string) {
		junk := func(s string) bool {
			_, err := proto.ParseIdentity(s)
			return err != nil && strings.Contains(err.Error(), "names nobody")
		}
		if got := gateway.NamesNobody(a); got != junk(a) {
			t.Fatalf("%q names nobody: %t", a, got)
		}
		if got := gateway.NamesNobody(b); got != junk(b) {
			t.Fatalf("%q names nobody: %t", b, got)
		}
	})
}

// TestCutOutlivesItsRequest: a page that is closed does not take the opt-out
// back.
func TestCutOutlivesItsRequest(t *testing.T) {
	r := newRig(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, target := range []string{"/v1/me", "/v1/optout"} {
		method := map[string]string{"/v1/optout": "POST", "/v1/me": "DELETE"}[target]
		q := httptest.NewRequest(method, target, nil).WithContext(gone)
		q.Header.Set("Cookie", "kith_id=abc123")
		r.g.Public().ServeHTTP(httptest.NewRecorder(), q)
	}
	q := httptest.NewRequest("POST", "/v1/optouts", strings.NewReader(`{"identity":"browser:b1"}`)).WithContext(gone)
	q.Header.Set(auth, key("acme-key"))
	r.g.Service().ServeHTTP(httptest.NewRecorder(), q)
	if d := cmp.Diff([]string{"erase browser:abc123 all", "optout browser:abc123 false", "optout browser:b1 false"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
}

// TestNATSOptOutWithoutReply: nobody waits, and it is done all the same.
func TestNATSOptOutWithoutReply(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Dev = true })
	nc := natsRig(t, r)
	if err := nc.Publish("kith.optout", []byte(`{"identity":"browser:b1"}`)); err != nil {
		t.Fatal(err)
	}
	// Messages of one subject are begun in order, so this one waits for the
	// other's lock at most.
	for range 100 {
		ask(t, nc, "kith.optout", `{"identity":"browser:b2"}`)
		r.mu.Lock()
		done := slices.Contains(r.graph.cuts, "optout browser:b1 false")
		r.mu.Unlock()
		if done {
			return
		}
	}
	t.Error("an opt-out without a reply subject was dropped")
}
