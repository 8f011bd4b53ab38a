package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	gproto "google.golang.org/protobuf/proto"

	"kith/gateway"
	"kith/proto"
	"kith/proto/pb"
)

// rig is a gateway in front of a twin.
type rig struct {
	t testing.TB
	*twin
	g *gateway.Gateway
}

func newRig(t testing.TB, edit ...func(*gateway.Config)) *rig {
	t.Helper()
	tw := newTwin()
	c := gateway.Config{
		Now: func() time.Time { return now }, WaitMax: 20 * time.Millisecond, RefusalPause: -1, FinalWait: -1, Unproven: []proto.ClientName{"demo"},
		Secrets: map[proto.ClientName][]byte{"acme": secret},
	}
	for _, e := range edit {
		e(&c)
	}
	g, err := gateway.New(c, tw.behind())
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, tw, g}
}

var secret = []byte("0123456789abcdef")

// send asks one plane; headers are pairs.
func send(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func (r *rig) serve(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	return send(r.g.Service(), method, target, body, headers...)
}

func (r *rig) visit(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	return send(r.g.Public(), method, target, body, headers...)
}

// code is the error code of an answer.
func code(w *httptest.ResponseRecorder) string {
	var x struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal(w.Body.Bytes(), &x) != nil || x.Error.Message == "" {
		return ""
	}
	return x.Error.Code
}

const auth = "Authorization"

func key(k string) string { return "Bearer " + k }

func TestServiceRoutes(t *testing.T) {
	tests := []struct {
		name, key, method, target, body string
		status                          int
		want                            string // the answer, or the error's code
	}{
		{"look-up", "acme-key", "GET", "/v1/identities/browser:seen1/segments", "", 200, `{"identity":"browser:seen1","known":true,"opted_out":false,"segments":["all","auto"]}`},
		{"look-up, escaped", "acme-key", "GET", "/v1/identities/browser%3Aseen1/segments", "", 200, `{"identity":"browser:seen1","known":true,"opted_out":false,"segments":["all","auto"]}`},
		{"look-up, with a slash in the identity", "acme-key", "GET", "/v1/identities/account:a%2Fb%22/segments", "", 200, `{"identity":"account:a/b\"","known":false,"opted_out":false,"segments":[]}`},
		{"look-up of an unknown", "acme-key", "GET", "/v1/identities/browser:new1/segments", "", 200, `{"identity":"browser:new1","known":false,"opted_out":false,"segments":[]}`},
		{"look-up, other client's data", "demo-key", "GET", "/v1/identities/browser:seen1/segments", "", 200, `{"identity":"browser:seen1","known":false,"opted_out":false,"segments":[]}`},
		{"look-up by an admin", "admin-key", "GET", "/v1/identities/browser:seen1/segments?client=acme", "", 200, `{"identity":"browser:seen1","known":true,"opted_out":false,"segments":["all","auto"]}`},
		{"look-up by an admin, no client", "admin-key", "GET", "/v1/identities/browser:seen1/segments", "", 400, "client"},
		{"look-up by an admin, no such client", "admin-key", "GET", "/v1/identities/browser:seen1/segments?client=nobody", "", 400, "client"},
		{"look-up, another client named", "acme-key", "GET", "/v1/identities/browser:seen1/segments?client=other", "", 403, "forbidden"},
		{"look-up, a client that is not named", "acme-key", "GET", "/v1/identities/browser:seen1/segments?client=nobody", "", 403, "forbidden"},
		{"look-up, bad identity", "acme-key", "GET", "/v1/identities/fax:1/segments", "", 400, "identity"},
		{"look-up, CRLF", "acme-key", "GET", "/v1/identities/browser:a%0d%0ab/segments", "", 400, "identity"},
		{"look-up, NUL", "acme-key", "GET", "/v1/identities/browser:a%00/segments", "", 400, "identity"},
		{"look-up, no key", "", "GET", "/v1/identities/browser:seen1/segments", "", 401, "unauthorized"},
		{"look-up, wrong key", "guess", "GET", "/v1/identities/browser:seen1/segments", "", 401, "unauthorized"},
		{"look-up by a report key", "acme-report", "GET", "/v1/identities/browser:seen1/segments", "", 403, "forbidden"},
		{"look-up after", "acme-key", "GET", "/v1/identities/browser:new1/segments?after=0:1", "", 200, `{"identity":"browser:new1","known":false,"opted_out":false,"segments":[]}`},
		{"look-up after what never comes", "acme-key", "GET", "/v1/identities/browser:new1/segments?after=0:99", "", 504, "timeout"},
		{"look-up after nonsense", "acme-key", "GET", "/v1/identities/browser:new1/segments?after=x", "", 400, "invalid"},
		{"look-up, wrong method", "acme-key", "POST", "/v1/identities/browser:seen1/segments", "", 405, "method"},

		{"lookup", "acme-key", "POST", "/v1/lookup", `{"identities":["browser:seen1","browser:new1","junk","\u0062rowser:seen1"]}`, 200, `{"results":[{"identity":"browser:seen1","known":true,"opted_out":false,"segments":["all","auto"]},{"identity":"browser:new1","known":false,"opted_out":false,"segments":[]},{"identity":"junk","known":false,"opted_out":false,"segments":[],"error":"identity"},{"identity":"browser:seen1","known":true,"opted_out":false,"segments":["all","auto"]}]}`},
		{"lookup of none", "acme-key", "POST", "/v1/lookup", `{"identities":[]}`, 200, `{"results":[]}`},
		{"lookup, admin's client in the body", "admin-key", "POST", "/v1/lookup", `{"identities":[],"client":"acme"}`, 200, `{"results":[]}`},
		{"lookup, null is nothing", "acme-key", "POST", "/v1/lookup", `{"identities":[],"client":null,"after":null}`, 200, `{"results":[]}`},
		{"lookup, null cut off", "acme-key", "POST", "/v1/lookup", `{"identities":[],"after":nul}`, 400, "json"},
		{"events, null is nothing", "acme-key", "POST", "/v1/events", `{"client":null,"events":[]}`, 200, `{"accepted":0,"refused":[],"position":""}`},
		{"events, null cut off", "acme-key", "POST", "/v1/events", `{"client":nope,"events":[]}`, 400, "json"},
		{"events, an admin's null", "admin-key", "POST", "/v1/events", `{"client":null,"events":[]}`, 400, "client"},
		{"lookup, not JSON", "acme-key", "POST", "/v1/lookup", `{"identities":[NaN]}`, 400, "json"},
		{"lookup, no list", "acme-key", "POST", "/v1/lookup", `{}`, 400, "json"},
		{"lookup of 1001", "acme-key", "POST", "/v1/lookup", `{"identities":["a"` + strings.Repeat(`,"a"`, 1000) + `]}`, 413, "too_large"},
		{"lookup, deep", "acme-key", "POST", "/v1/lookup", `{"x":` + strings.Repeat(`{"a":`, 100_000), 400, "json"},
		{"lookup, GET", "acme-key", "GET", "/v1/lookup", "", 405, "method"},
		{"lookup by a report key", "acme-report", "POST", "/v1/lookup", `{"identities":[]}`, 403, "forbidden"},

		{"record", "acme-key", "GET", "/v1/identities/browser:seen1", "", 200, `{"identity":"browser:seen1","known":true,"opted_out":false,"segments":["all","auto"],"events":[],"truncated":false}`},
		{"record of an unknown", "acme-key", "GET", "/v1/identities/browser:new1", "", 200, `{"identity":"browser:new1","known":false,"opted_out":false,"segments":[],"events":[],"truncated":false}`},
		{"record, POST", "acme-key", "POST", "/v1/identities/browser:seen1", "", 405, "method"},
		{"explain", "acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=all&at=2026-11-22T10:00:00Z", "", 200, `{"identity":"browser:seen1","segment":"all","when":"","in":true,"at":"2026-11-22T10:00:00Z","facts":[]}`},
		{"explain, no segment", "acme-key", "GET", "/v1/identities/browser:seen1/explain", "", 400, "segment"},
		{"explain, no such segment", "acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=x", "", 404, "not_found"},
		{"explain, broken time", "acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=all&at=2026-11-22T12%3", "", 400, "invalid"},
		{"look-up, broken position", "acme-key", "GET", "/v1/identities/browser:seen1/segments?after=0%3", "", 400, "invalid"},
		{"look-up, broken and not ours", "acme-key", "GET", "/v1/identities/browser:seen1/segments?x=100%&after=", "", 400, "invalid"},
		{"look-up, a broken signal refuses", "acme-key", "GET", "/v1/identities/browser:seen1/segments?us_privacy=%zz", "", 200, `{"identity":"browser:seen1","known":false,"opted_out":true,"segments":[]}`},
		{"look-up, an escaped name", "acme-key", "GET", "/v1/identities/browser:seen1/segments?cl%69ent=demo", "", 403, "forbidden"},
		{"look-up, an escaped name, by an admin", "admin-key", "GET", "/v1/identities/browser:new1/segments?cl%69ent=acme&%61fter=0:1", "", 200, `{"identity":"browser:new1","known":false,"opted_out":false,"segments":[]}`},
		{"look-up, a broken name", "acme-key", "GET", "/v1/identities/browser:seen1/segments?cl%6ient=acme", "", 400, "invalid"},
		{"look-up, an escaped signal", "acme-key", "GET", "/v1/identities/browser:seen1/segments?%67pc=1", "", 200, `{"identity":"browser:seen1","known":false,"opted_out":true,"segments":[]}`},
		{"look-up, an escaped signal that is broken", "acme-key", "GET", "/v1/identities/browser:seen1/segments?u%73_privacy=%zz", "", 200, `{"identity":"browser:seen1","known":false,"opted_out":true,"segments":[]}`},
		{"explain, in small letters", "acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=all&at=2026-11-22t10:00:00z", "", 200, `{"identity":"browser:seen1","segment":"all","when":"","in":true,"at":"2026-11-22T10:00:00Z","facts":[]}`},
		{"explain, zero time", "acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=all&at=0001-01-01T00:00:00Z", "", 400, "time"},
		{"explain, bad time", "acme-key", "GET", "/v1/identities/browser:seen1/explain?segment=all&at=noon", "", 400, "time"},
		{"traits", "acme-key", "PATCH", "/v1/identities/browser:seen1/traits", `{"age":34,"vip":true,"gender":null}`, 200, `{"position":"0:2"}`},
		{"traits, nested", "acme-key", "PATCH", "/v1/identities/browser:seen1/traits", `{"a":[]}`, 400, "event"},
		{"traits, none", "acme-key", "PATCH", "/v1/identities/browser:seen1/traits", `{}`, 400, "event"},
		{"traits, pii", "acme-key", "PATCH", "/v1/identities/browser:seen1/traits", `{"mail":"a@b.com"}`, 400, "pii"},
		{"traits, not JSON", "acme-key", "PATCH", "/v1/identities/browser:seen1/traits", `[]`, 400, "json"},
		{"traits, NUL", "acme-key", "PATCH", "/v1/identities/browser:seen1/traits", `{"a":"\u0000"}`, 400, "event"},

		{"segments", "acme-key", "GET", "/v1/segments", "", 200, `{"segments":[{"id":"small","when":"","backfill":false}]}`},
		{"define", "acme-key", "PUT", "/v1/segments/auto", `{"when":"count(true, \"1d\") >= 1 && 1<2","scope":"identity","backfill":true}`, 200, `{"id":"auto","scope":"identity","when":"count(true, \"1d\") >= 1 && 1<2","backfill":true,"version":12,"below":50}`},
		{"define by an admin shows the size", "admin-key", "PUT", "/v1/segments/auto?client=acme", `{"id":"auto","when":"x"}`, 200, `{"id":"auto","when":"x","backfill":false,"version":12,"size":7}`},
		{"preview under the floor", "acme-key", "PUT", "/v1/segments/auto?dry_run=true", `{"when":"x"}`, 200, `{"id":"auto","identities":900,"before":100,"after":120,"entering":null,"leaving":null,"below":50,"judged":900,"exact":true,"cost":4}`},
		{"preview, misspelt", "acme-key", "PUT", "/v1/segments/auto?dry_run=yes", `{"when":"x"}`, 400, "invalid"},
		{"preview, in capitals", "acme-key", "PUT", "/v1/segments/auto?Dry_Run=true", `{"when":"x"}`, 400, "invalid"},
		{"preview, broken", "acme-key", "PUT", "/v1/segments/auto?dry_run=%zz", `{"when":"x"}`, 400, "invalid"},
		{"preview by an admin", "admin-key", "PUT", "/v1/segments/auto?client=acme&dry_run=true", `{"when":"x"}`, 200, `{"id":"auto","identities":900,"before":100,"after":120,"entering":50,"leaving":30,"judged":900,"exact":true,"cost":4}`},
		{"preview of a broken rule", "acme-key", "PUT", "/v1/segments/auto?dry_run=true", `{"when":"BROKEN"}`, 400, "rule"},
		{"define, id differs", "acme-key", "PUT", "/v1/segments/auto", `{"id":"b","when":"x"}`, 400, "segment"},
		{"define, no rule", "acme-key", "PUT", "/v1/segments/auto", `{}`, 400, "rule"},
		{"define, unknown field", "acme-key", "PUT", "/v1/segments/auto", `{"whan":"x"}`, 400, "json"},
		{"define, two values", "acme-key", "PUT", "/v1/segments/auto", `{"when":"x"} {}`, 400, "json"},
		{"define, bad id", "acme-key", "PUT", "/v1/segments/a%20b", `{"when":"x"}`, 400, "segment"},
		{"define, wildcard id", "acme-key", "PUT", "/v1/segments/%3E", `{"when":"x"}`, 400, "segment"},
		{"segment, none", "acme-key", "GET", "/v1/segments/none", "", 404, "not_found"},
		{"undefine, none", "acme-key", "DELETE", "/v1/segments/none", "", 404, "not_found"},
		{"segments by a report key", "acme-report", "GET", "/v1/segments", "", 403, "forbidden"},

		{"count", "acme-key", "POST", "/v1/audiences/count", `{"expr":"big"}`, 200, `{"count":1234,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"count under the floor", "acme-key", "POST", "/v1/audiences/count", `{"expr":"small","unit":"identities"}`, 200, `{"count":null,"below":50,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"count at the floor", "acme-key", "POST", "/v1/audiences/count", `{"expr":"floor"}`, 200, `{"count":50,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"count under the floor, report key", "acme-report", "POST", "/v1/audiences/count", `{"expr":"small"}`, 200, `{"count":null,"below":50,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"count under the floor, admin", "admin-key", "POST", "/v1/audiences/count?client=acme", `{"expr":"small"}`, 200, `{"count":49,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"count, bad expression", "acme-key", "POST", "/v1/audiences/count", `{"expr":"&&"}`, 400, "expr"},
		{"count, no expression", "acme-key", "POST", "/v1/audiences/count", `{}`, 400, "expr"},
		{"counts", "acme-key", "POST", "/v1/audiences/count", `{"exprs":["big","small"]}`, 200, `{"counts":[{"expr":"big","count":1234},{"expr":"small","count":null,"below":50}],"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"counts, admin", "admin-key", "POST", "/v1/audiences/count?client=acme", `{"exprs":["small"]}`, 200, `{"counts":[{"expr":"small","count":49}],"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"counts by a report key", "acme-report", "POST", "/v1/audiences/count", `{"exprs":["big"]}`, 403, "forbidden"},
		{"counts, too many", "acme-key", "POST", "/v1/audiences/count", `{"exprs":["big"` + strings.Repeat(`,"big"`, 100) + `]}`, 413, "too_large"},
		{"counts, none", "acme-key", "POST", "/v1/audiences/count", `{"exprs":[]}`, 400, "invalid"},
		{"counts, both", "acme-key", "POST", "/v1/audiences/count", `{"expr":"big","exprs":["big"]}`, 400, "invalid"},
		{"counts, an empty one", "acme-key", "POST", "/v1/audiences/count", `{"exprs":["big",""]}`, 400, "expr"},

		{"overlap", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["big","small"]}`, 200, `{"segments":["big","small"],"counts":[[1234,null],[null,null]],"below":50,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"overlap, admin", "admin-key", "POST", "/v1/audiences/overlap", `{"segments":["big","small"],"client":"acme"}`, 200, `{"segments":["big","small"],"counts":[[1234,7],[7,49]],"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"overlap against some", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["big"],"against":["big","small"]}`, 200, `{"segments":["big"],"against":["big","small"],"counts":[[1234,null]],"below":50,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"overlap against all", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["big"],"against":"*"}`, 200, `{"segments":["big"],"against":["small"],"counts":[[null]],"below":50,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"overlap of none", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":[]}`, 400, "invalid"},
		{"overlap of many", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["a"` + strings.Repeat(`,"a"`, 100) + `]}`, 413, "too_large"},
		{"overlap, no such against", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["a"],"against":"some"}`, 400, "json"},
		{"overlap, bad segment", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["a b"]}`, 400, "segment"},
		{"overlap, unit", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["a"],"unit":"cats"}`, 400, "invalid"},
		{"overlap by a report key", "acme-report", "POST", "/v1/audiences/overlap", `{"segments":["big"]}`, 403, "forbidden"},

		{"saved audiences", "acme-key", "GET", "/v1/audiences", "", 200, `{"audiences":[{"id":"kept","expr":"auto & !owners"}]}`},
		{"save", "acme-key", "PUT", "/v1/audiences/buyers", `{"expr":"auto & !owners","description":"x"}`, 200, `{"id":"buyers","expr":"auto & !owners","description":"x"}`},
		{"saved", "acme-key", "GET", "/v1/audiences/kept", "", 200, `{"id":"kept","expr":"auto & !owners"}`},
		{"save, itself", "acme-key", "PUT", "/v1/audiences/buyers", `{"expr":"@buyers"}`, 400, "expr"},
		{"save, id differs", "acme-key", "PUT", "/v1/audiences/buyers", `{"id":"b","expr":"a"}`, 400, "invalid"},
		{"save, a route's name", "acme-key", "PUT", "/v1/audiences/export", `{"expr":"a"}`, 400, "invalid"},
		{"save, a route's name", "acme-key", "PUT", "/v1/audiences/count", `{"expr":"a"}`, 400, "invalid"},
		{"save, a route's name", "acme-key", "PUT", "/v1/audiences/%6fverlap", `{"expr":"a"}`, 400, "invalid"},
		{"save, a route's name, by a report key", "acme-report", "PUT", "/v1/audiences/count", `{"expr":"a"}`, 403, "forbidden"},
		{"delete, a route's name", "acme-key", "DELETE", "/v1/audiences/count", "", 405, "method"},
		{"save, no expression", "acme-key", "PUT", "/v1/audiences/buyers", `{}`, 400, "expr"},
		{"save, bad name", "acme-key", "PUT", "/v1/audiences/a%20b", `{"expr":"a"}`, 400, "expr"},
		{"save by a report key", "acme-report", "PUT", "/v1/audiences/buyers", `{"expr":"a"}`, 403, "forbidden"},
		{"drop", "acme-key", "DELETE", "/v1/audiences/kept", "", 200, `{"deleted":true}`},
		{"drop, none", "acme-key", "DELETE", "/v1/audiences/buyers", "", 404, "not_found"},
		{"saved, none", "acme-key", "GET", "/v1/audiences/buyers", "", 404, "not_found"},

		{"sizes", "acme-key", "GET", "/v1/segments/all/sizes?from=2026-11-20&to=2026-11-22", "", 200, `{"id":"all","sizes":[{"day":"2026-11-20","identities":60},{"day":"2026-11-21","identities":null,"below":50},{"day":"2026-11-22","identities":null,"below":50}]}`},
		{"sizes, admin", "admin-key", "GET", "/v1/segments/all/sizes?from=2026-11-21&to=2026-11-22&client=acme", "", 200, `{"id":"all","sizes":[{"day":"2026-11-21","identities":30},{"day":"2026-11-22","identities":0}]}`},
		{"sizes, later", "acme-key", "GET", "/v1/segments/all/sizes?after=0:99", "", 504, "timeout"},
		{"segments, later", "acme-key", "GET", "/v1/segments?after=0:99", "", 504, "timeout"},
		{"segment, later", "acme-key", "GET", "/v1/segments/small?after=0:99", "", 504, "timeout"},
		{"preview, later", "acme-key", "PUT", "/v1/segments/auto?dry_run=true&after=0:99", `{"when":"x"}`, 504, "timeout"},
		{"totals, later", "acme-key", "GET", "/v1/aggregates?after=0:99", "", 504, "timeout"},
		{"overlap, later", "acme-key", "POST", "/v1/audiences/overlap?after=0:99", `{"segments":["big"]}`, 504, "timeout"},
		{"overlap, later by its body", "acme-key", "POST", "/v1/audiences/overlap", `{"segments":["big"],"after":"0:99"}`, 504, "timeout"},
		{"sizes, no such segment", "acme-key", "GET", "/v1/segments/none/sizes", "", 404, "not_found"},
		{"sizes, no such day", "acme-key", "GET", "/v1/segments/all/sizes?from=monday", "", 400, "time"},
		{"sizes, backwards", "acme-key", "GET", "/v1/segments/all/sizes?from=2026-11-20&to=2026-11-19", "", 400, "invalid"},
		{"sizes by a report key", "acme-report", "GET", "/v1/segments/all/sizes", "", 403, "forbidden"},
		{"count, unit", "acme-key", "POST", "/v1/audiences/count", `{"expr":"big","unit":"cats"}`, 400, "invalid"},

		{"key by a client", "acme-key", "POST", "/v1/keys", `{"client":"new"}`, 403, "forbidden"},
		{"key", "admin-key", "POST", "/v1/keys", `{"client":"new"}`, 201, `{"key":"new-new","client":"new","role":"client"}`},
		{"key, role", "admin-key", "POST", "/v1/keys", `{"client":"new","role":"king"}`, 400, "invalid"},
		{"key, wildcard name", "admin-key", "POST", "/v1/keys", `{"client":"a.*"}`, 400, "client"},
		{"key, admin with a client", "admin-key", "POST", "/v1/keys", `{"client":"new","role":"admin"}`, 400, "invalid"},
		{"key, space", "admin-key", "POST", "/v1/keys", `{"client":"new","space":"a b"}`, 400, "invalid"},
		{"clients", "admin-key", "GET", "/v1/clients", "", 200, `{"clients":[{"name":"acme","floor":50},{"name":"demo","floor":50},{"name":"other","floor":50}]}`},
		{"clients by a client", "acme-key", "GET", "/v1/clients", "", 403, "forbidden"},
		{"dead letters", "admin-key", "GET", "/v1/deadletters?limit=5", "", 200, `{"deadletters":[{"id":"0:1:2","offset":0,"index":0,"lane":0,"time":"0001-01-01T00:00:00Z","reason":"boom","replayed":false}]}`},
		{"dead letters, limit", "admin-key", "GET", "/v1/deadletters?limit=-1", "", 400, "invalid"},
		{"replay", "admin-key", "POST", "/v1/deadletters/0:1:2/replay", "", 200, `{"replayed":true}`},
		{"replay, none", "admin-key", "POST", "/v1/deadletters/9/replay", "", 404, "not_found"},
		{"drain, by a client", "acme-key", "POST", "/v1/cluster/nodes/n1/drain", "", 403, "forbidden"},
		{"drain, no such node", "admin-key", "POST", "/v1/cluster/nodes/n9/drain", "", 404, "not_found"},
		{"drain", "admin-key", "POST", "/v1/cluster/nodes/n2/drain", "", 200, `{"draining":true,"node":"n2"}`},
		{"drain, the last", "admin-key", "POST", "/v1/cluster/nodes/n1/drain", "", 409, "conflict"},
		{"drain, undone", "admin-key", "DELETE", "/v1/cluster/nodes/n1/drain", "", 200, `{"draining":false,"node":"n1"}`},
		{"move", "admin-key", "PUT", "/v1/cluster/lanes/0/owner", `{"node":"n2"}`, 200, `{"lane":0,"node":"n2"}`},
		{"move to nobody", "admin-key", "PUT", "/v1/cluster/lanes/0/owner", `{}`, 400, "invalid"},
		{"move, no number", "admin-key", "PUT", "/v1/cluster/lanes/x/owner", `{"node":"n2"}`, 400, "invalid"},
		{"move, no such lane", "admin-key", "PUT", "/v1/cluster/lanes/7/owner", `{"node":"n2"}`, 404, "not_found"},
		{"move by a client", "acme-key", "PUT", "/v1/cluster/lanes/0/owner", `{"node":"n2"}`, 403, "forbidden"},
		{"cluster", "admin-key", "GET", "/v1/cluster", "", 200, `{"nodes":[{"name":"n1","ready":true,"started":"1970-01-01T00:00:00Z","lanes":[0],"owns":[0],"states":[{"lane":0,"applied":12,"lag_seconds":1.5,"lease_seconds":14}]}],"log":[{"stream":"KITH_L00","leader":"n1","others":[{"node":"n2","current":true,"lag":0}]}],"placed":{"0":"n2"},"partitions":64}`},
		{"move back", "admin-key", "DELETE", "/v1/cluster/lanes/0/owner", "", 200, `{"lane":0,"node":""}`},
		{"cluster by a client", "acme-key", "GET", "/v1/cluster", "", 403, "forbidden"},
		{"forget", "admin-key", "DELETE", "/v1/cluster/nodes/n3", "", 200, `{"forgotten":true,"node":"n3"}`},
		{"forget one that runs", "admin-key", "DELETE", "/v1/cluster/nodes/n1", "", 409, "conflict"},
		{"no such profile", "admin-key", "GET", "/debug/pprof/cmdline", "", 404, "not_found"},
		{"profile without a right to it", "acme-key", "GET", "/debug/pprof/heap", "", 403, "forbidden"},
		{"backup", "admin-key", "POST", "/v1/backup", "", 200, `backup`},
		{"verify", "admin-key", "GET", "/v1/verify", "", 200, `{"clean":true}`},
		{"verify by a client", "acme-key", "GET", "/v1/verify", "", 403, "forbidden"},

		{"no route", "admin-key", "GET", "/v1/nothing", "", 404, "not_found"},
		{"no clean path", "admin-key", "GET", "/v1//segments/../x", "", 404, "not_found"},
		{"health", "", "GET", "/healthz", "", 200, `{"ok":true}`},
		{"readiness", "", "GET", "/readyz", "", 200, `{"ready":true}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.counts["big"], r.counts["small"], r.counts["floor"], r.counts["big & small"] = 1234, 49, 50, 7
			r.saved["kept"] = proto.AudienceSpec{ID: "kept", Expr: "auto & !owners"}
			r.specs["small"] = proto.SegmentSpec{ID: "small"}
			if w := r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:seen1"],"props":{"section":"auto"}}]}`, auth, key("acme-key")); w.Code != 200 {
				t.Fatal(w.Body)
			}
			var headers []string
			if tt.key != "" {
				headers = []string{auth, key(tt.key)}
			}
			w := r.serve(tt.method, tt.target, tt.body, headers...)
			got := strings.TrimSpace(w.Body.String())
			if w.Code >= 400 {
				got = code(w)
			}
			if w.Code != tt.status || got != tt.want {
				t.Errorf("%d %s\nwant %d %s\n%s", w.Code, got, tt.status, tt.want, w.Body)
			}
			if n := w.Header().Get("Content-Length"); n != "" && n != strconv.Itoa(w.Body.Len()) {
				t.Errorf("Content-Length %s, %d bytes", n, w.Body.Len())
			}
			if w.Code == 405 && w.Header().Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
}

// What is refused says what to do, over HTTP and by the command line.
func TestRefusalsSayWhatToDo(t *testing.T) {
	for _, tt := range []struct{ key, method, target, body, want string }{
		{"acme-key", "GET", "/v1/deadletters", "", "a key with role client may not do this: use one with role admin"},
		{"acme-report", "GET", "/v1/segments", "", "a key with role report may not do this: use one with role client or admin"},
		{"admin-key", "GET", "/v1/segments", "", "an admin key must name the client: add ?client=NAME, or --client NAME to a command"},
		{"acme-key", "GET", "/v1/segments/none", "", `there is no segment "none": GET /v1/segments (` + "`kith segments list`) lists them"},
		{"acme-key", "POST", "/v1/campaigns/report", `{"from":"x"}`, `the body is not the JSON that this route takes: "x" is not a day: write it as 2026-11-27`},
		{"acme-key", "PUT", "/v1/segments/auto", `{"backfill":"yes"}`, `the body is not the JSON that this route takes: backfill must be true or false`},
		{"acme-key", "POST", "/v1/links", `{"a":7}`, `the body is not the JSON that this route takes: a must be a text in quotes`},
		{"acme-key", "POST", "/v1/campaigns/report", `{"campaign":"c1","from":20261127}`, `the body is not the JSON that this route takes: from must be a text in quotes`},
		{"acme-key", "POST", "/v1/links", `[]`, `the body is not the JSON that this route takes: the body must be an object`},
		{"acme-key", "PUT", "/v1/segments/auto", `{"whan":"x"}`, `the body is not the JSON that this route takes: unknown field "whan"`},
	} {
		w := newRig(t).serve(tt.method, tt.target, tt.body, auth, key(tt.key))
		var said struct{ Error struct{ Message string } }
		if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil || said.Error.Message != tt.want {
			t.Errorf("%s %s: %v, %s\nwant %s", tt.method, tt.target, err, w.Body, tt.want)
		}
	}
}

func TestTraitsReachTheIntake(t *testing.T) {
	r := newRig(t)
	r.serve("PATCH", "/v1/identities/browser:b1/traits", `{"age":34,"gone":null,"vip":true,"city":""}`, auth, key("acme-key"))
	// What is removed comes first: what is set may take its room.
	want := []proto.Traits{{Client: 2, Space: 2, Identity: "browser:b1", Received: proto.MillisOf(now), Set: []proto.Prop{
		{Key: "gone"}, {Key: "city"}, {Key: "age", Value: proto.NumberOf(34)}, {Key: "vip", Value: proto.FlagOf(true)},
	}}}
	if d := cmp.Diff(want, r.traits); d != "" {
		t.Error(d)
	}
}

// The text of -0 is not that of 0: nothing of it comes in.
func TestNoMinusZero(t *testing.T) {
	r := newRig(t)
	packed, err := gproto.Marshal(&pb.EventsRequest{Events: []*pb.Event{{
		Event: "page", Identities: []string{"browser:a1"}, Props: map[string]*pb.Value{"n": {Kind: &pb.Value_Number{Number: math.Copysign(0, -1)}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{
		{"POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:a1"],"props":{"n":-0}},{"event":"page","identities":["browser:a1"],"props":{"n":-0.0e1}}]}`, "application/json"},
		{"POST", "/v1/events", string(packed), "application/x-protobuf"},
		{"PATCH", "/v1/identities/browser:a1/traits", `{"n":-0.0}`, "application/json"},
		{"POST", "/v1/traits", `{"rows":[{"identity":"account:5e884898da28047151d0e56f8dc62927","traits":{"n":-0}}]}`, "application/json"},
	} {
		if w := r.serve(c[0], c[1], c[2], auth, key("acme-key"), "Content-Type", c[3]); w.Code != 200 {
			t.Fatal(c, w.Code, w.Body)
		}
	}
	var props []proto.Prop
	for _, e := range r.taken() {
		props = append(props, e.Props...)
	}
	for _, x := range r.traits {
		props = append(props, x.Set...)
	}
	if len(props) != 5 {
		t.Fatal("taken were", props)
	}
	for _, p := range props {
		if p.Value.String() != "0" {
			t.Errorf("%s is %s", p.Key, p.Value)
		}
	}
}

func TestNotReady(t *testing.T) {
	r := newRig(t)
	r.ready = proto.Errorf(proto.CodeCorrupt, "lane 00 is quarantined: look at /v1/partitions")
	if w := r.serve("GET", "/healthz", ""); w.Code != 200 {
		t.Errorf("alive and not ready: %d %s", w.Code, w.Body)
	}
	r.dead = proto.Errorf(proto.CodeQuarantined, "restart this node")
	if w := r.serve("GET", "/healthz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "restart this node") {
		t.Errorf("to be restarted: %d %s", w.Code, w.Body)
	}
	if w := r.serve("GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "quarantined") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestMetrics(t *testing.T) {
	r := newRig(t)
	r.serve("POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:a1"]},{}]}`, auth, key("acme-key"))
	body := r.serve("GET", "/metrics", "").Body.String()
	for _, line := range []string{
		"kith_gateway_events_accepted_total 1", `kith_gateway_events_refused_total{code="identity"} 1`,
		`kith_gateway_requests_total{outcome="2xx",plane="service",route="/v1/events"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %s in\n%s", line, body)
		}
	}
	if strings.Contains(body, "acme") {
		t.Error("the metrics name a client")
	}
}

func TestServiceEvents(t *testing.T) {
	r := newRig(t)
	body := `{"client":"acme","events":[{"event":"page","identities":["partner.x:1","account:y1"]},{"event":"page","identities":["bad"]}]}`
	w := r.serve("POST", "/v1/events", body, auth, key("acme-key"), "Content-Type", "application/json; charset=utf-8")
	want := `{"accepted":1,"refused":[{"index":1,"code":"identity","message":"identity \"bad\" has no kind: write kind:value, such as browser:abc"}],"position":"0:1"}` + "\n"
	if w.Code != 200 || w.Body.String() != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if e := r.taken(); len(e) != 1 || e[0].Client != 2 || len(e[0].Identities) != 2 {
		t.Errorf("%+v", e)
	}
	for _, tt := range []struct {
		name, body string
		status     int
		code       string
		headers    []string
	}{
		{"another client", `{"client":"other","events":[]}`, 403, "forbidden", nil},
		{"a client that is not there", `{"client":"nobody","events":[]}`, 403, "forbidden", nil},
		{"broken", `{"events":[`, 400, "json", nil},
		{"media type", `{}`, 415, "media_type", []string{"Content-Type", "application/xml"}},
		{"encoding", `{}`, 415, "media_type", []string{"Content-Encoding", "br"}},
		{"no gzip", `{}`, 400, "invalid", []string{"Content-Encoding", "gzip"}},
		{"no zstd", `{}`, 400, "invalid", []string{"Content-Encoding", "zstd"}},
		{"no protobuf", `{}`, 400, "invalid", []string{"Content-Type", "application/x-protobuf"}},
		{"oversize", `{"events":[` + strings.Repeat(" ", 4<<20) + `]}`, 413, "too_large", nil},
	} {
		w := r.serve("POST", "/v1/events", tt.body, append([]string{auth, key("acme-key")}, tt.headers...)...)
		if w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
	if len(r.taken()) != 1 {
		t.Error("a body that was refused left events")
	}
}

func TestJSONByAnyUsualName(t *testing.T) {
	r := newRig(t)
	for _, kind := range []string{"", "application/json", "application/json; charset=utf-8", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"} {
		for _, path := range []string{"/v1/events", "/v1/lookup"} {
			if w := r.serve("POST", path, `{"events":[],"identities":[]}`, auth, key("acme-key"), "Content-Type", kind); w.Code != 200 {
				t.Errorf("%s as %q: %d %s", path, kind, w.Code, w.Body)
			}
		}
		if w := r.serve("PUT", "/v1/segments/a", `{"when":"true"}`, auth, key("acme-key"), "Content-Type", kind); w.Code != 200 {
			t.Errorf("definition as %q: %d %s", kind, w.Code, w.Body)
		}
	}
}

func TestAdminEvents(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		target, body string
		status       int
	}{
		{"/v1/events", `{"client":"acme","events":[{"event":"a","identities":["browser:a1"]}]}`, 200},
		{"/v1/events", `{"events":[{"event":"a","identities":["browser:a1"]}],"client":"acme"}`, 200},
		{"/v1/events?client=acme", `{"events":[{"event":"a","identities":["browser:a1"]}]}`, 200},
		{"/v1/events?client=acme", `{"client":"demo","events":[]}`, 403},
		{"/v1/events", `{"events":[]}`, 400},
		{"/v1/events", `{"client":"nobody","events":[]}`, 400},
	} {
		if w := r.serve("POST", tt.target, tt.body, auth, key("admin-key")); w.Code != tt.status {
			t.Errorf("%s %s: %d %s", tt.target, tt.body, w.Code, w.Body)
		}
	}
	if n := len(r.taken()); n != 3 {
		t.Errorf("%d events", n)
	}
}

func zip(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func zst(t *testing.T, b []byte) string {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(z.EncodeAll(b, nil))
}

func TestCompressedBodies(t *testing.T) {
	r := newRig(t)
	body := []byte(`{"events":[{"event":"page","identities":["browser:a1"]}]}`)
	bomb := append(append([]byte(`{"x":"`), bytes.Repeat([]byte("a"), 64<<20)...), []byte(`","events":[]}`)...)
	for range 3 { // readers are reused
		for _, tt := range []struct {
			encoding, body string
			status         int
		}{
			{"GZip", zip(t, body), 200}, {"zstd", zst(t, body), 200},
			{"gzip", zip(t, bomb), 413}, {"zstd", zst(t, bomb), 413},
			{"gzip", zip(t, body)[:20], 400}, {"zstd", zst(t, body)[:20], 400},
		} {
			w := r.serve("POST", "/v1/events", tt.body, auth, key("acme-key"), "Content-Encoding", tt.encoding)
			if w.Code != tt.status {
				t.Errorf("%s of %d bytes: %d %s", tt.encoding, len(tt.body), w.Code, w.Body)
			}
		}
	}
	if n := len(r.taken()); n != 6 {
		t.Errorf("%d events", n)
	}
}

func TestPartlyDurable(t *testing.T) {
	r := newRig(t)
	r.failErr = proto.Errorf(proto.CodeOverloaded, "the log's queue is full: try again later")
	r.fail = func(i int, _ *proto.Event) bool { return i == 1 }
	event := `{"event":"page","identities":["browser:a1"]}`
	w := r.serve("POST", "/v1/events", `{"events":[{},`+event+`,`+event+`,`+event+`]}`, auth, key("acme-key"))
	var x struct {
		Accepted int
		Refused  []struct {
			Index int
			Code  string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &x); err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || x.Accepted != 2 || len(x.Refused) != 2 || x.Refused[1].Index != 2 || x.Refused[1].Code != "unavailable" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	r.fail = func(int, *proto.Event) bool { return true }
	w = r.serve("POST", "/v1/events", `{"events":[`+event+`]}`, auth, key("acme-key"))
	if w.Code != 503 || code(w) != "overloaded" || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// A day's budget that is spent says when the next one is.
	w = r.serve("POST", "/v1/audiences/count", `{"expr":"spent"}`, auth, key("acme-report"))
	if w.Code != 429 || w.Header().Get("Retry-After") != "5401" {
		t.Errorf("%d, again after %s", w.Code, w.Header().Get("Retry-After"))
	}
	r.failErr = fmt.Errorf("secret path /x")
	w = r.serve("POST", "/v1/events", `{"events":[`+event+`]}`, auth, key("acme-key"))
	if w.Code != 503 || code(w) != "unavailable" || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestRateLimit(t *testing.T) {
	clock := now
	r := newRig(t, func(c *gateway.Config) {
		c.EventsPerSecond, c.EventsMax, c.Now = 10, 10, func() time.Time { return clock }
	})
	body := `{"events":[` + strings.Repeat(`{"event":"page","identities":["browser:a1"]},`, 9) + oneEvent + `]}`
	post := func(k string) int { return r.serve("POST", "/v1/events", body, auth, key(k)).Code }
	if a, b, c := post("acme-key"), post("acme-key"), post("demo-key"); a != 200 || b != 429 || c != 200 {
		t.Errorf("%d, %d, another client %d", a, b, c)
	}
	if w := r.serve("POST", "/v1/events", `{"events":[{},{}]}`, auth, key("acme-key")); w.Code != 200 {
		t.Errorf("of what is refused nothing counts, but it is answered with %d", w.Code)
	}
	if w := r.serve("PATCH", "/v1/identities/browser:a1/traits", `{"plan":null}`, auth, key("acme-key")); w.Code != 200 {
		t.Errorf("what only takes back is answered with %d", w.Code)
	}
	clock = clock.Add(time.Second)
	if a := post("acme-key"); a != 200 {
		t.Errorf("a second later %d", a)
	}
	if w := r.serve("POST", "/v1/imports/check", rows(someHash), auth, key("acme-key")); w.Code != 429 {
		t.Errorf("a check of rows, of a client over its rate: %d %s", w.Code, w.Body)
	}
}

func TestProtobuf(t *testing.T) {
	r := newRig(t)
	encode := func(m gproto.Message) string {
		b, err := gproto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	text := func(s string) *pb.Value { return &pb.Value{Kind: &pb.Value_Text{Text: s}} }
	w := r.serve("POST", "/v1/events", encode(&pb.EventsRequest{Events: []*pb.Event{
		{Event: "page", TimeMs: now.UnixMilli() - 5, Identities: []string{"browser:a1"}, Props: map[string]*pb.Value{"section": text("auto"), "n": {Kind: &pb.Value_Number{Number: 2}}, "f": {Kind: &pb.Value_Flag{Flag: true}}}, Url: "u", Ref: "r", Id: "i"},
		{Event: "a\x00b", Identities: []string{"browser:a1"}},
		{Event: "page", Identities: []string{"browser:a1"}, Props: map[string]*pb.Value{"m": text("a@b.com")}},
	}}), auth, key("acme-key"), "Content-Type", "application/x-protobuf")
	var got pb.EventsResponse
	if err := gproto.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Accepted != 1 || len(got.Refused) != 2 || got.Refused[0].Code != "event" || got.Refused[1].Code != "pii" || got.Position != "0:1" {
		t.Error(&got)
	}
	want := []proto.Event{{
		Client: 2, Space: 2, Time: proto.MillisOf(now) - 5, Received: proto.MillisOf(now), ID: "i", Identities: []proto.Identity{"browser:a1"},
		EventBody: proto.EventBody{Name: "page", URL: "u", Ref: "r", Props: []proto.Prop{{Key: "f", Value: proto.FlagOf(true)}, {Key: "n", Value: proto.NumberOf(2)}, {Key: "section", Value: proto.TextOf("auto")}}},
	}}
	if d := cmp.Diff(want, r.taken()); d != "" {
		t.Error(d)
	}
	w = r.serve("POST", "/v1/events", encode(&pb.EventsRequest{Events: []*pb.Event{
		{Event: "page", Lmt: true, Identities: []string{"aaid:a1b2c3", "account:5e884898da28047151d0e56f8dc62927"}},
		{Event: "page", Lmt: true, Identities: []string{"aaid:a1b2c3"}},
	}}), auth, key("acme-key"), "Content-Type", "application/x-protobuf")
	got.Reset()
	if err := gproto.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Accepted != 1 || len(got.Refused) != 1 || got.Refused[0].Code != "opted_out" {
		t.Error("of devices that limit ad tracking:", &got, err)
	}
	if list := r.taken(); len(list) != 2 || !slices.Equal(list[1].Identities, []proto.Identity{"account:5e884898da28047151d0e56f8dc62927"}) {
		t.Error("the device is stored:", list)
	}
	w = r.serve("POST", "/v1/lookup", encode(&pb.LookupRequest{Identities: []string{"browser:a1", "junk"}, After: "0:1"}), auth, key("acme-key"), "Content-Type", "application/x-protobuf")
	var found pb.LookupResponse
	if err := gproto.Unmarshal(w.Body.Bytes(), &found); err != nil {
		t.Fatal(err)
	}
	if x := found.Results; len(x) != 2 || !x[0].Known || strings.Join(x[0].Segments, " ") != "all auto" || x[1].Known || x[1].Error != "identity" {
		t.Error(&found)
	}
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]gateway.Config{
		"body": {BodyBytesMax: 1}, "events": {EventsMax: -1}, "age": {EventAgeMax: -1}, "wait": {WaitMax: time.Hour}, "rate": {EventsPerSecond: 5, EventsBurst: 5},
		"secret": {Secrets: map[proto.ClientName][]byte{"a": []byte("short")}}, "look-up": {LookupMax: -4}, "nats": {NATSConcurrency: -1},
		"cookies": {CookieDomain: "https://kith.example"},
	} {
		if proto.CodeOf(c.Validate()) != proto.CodeInvalid {
			t.Errorf("%s: %v", name, c.Validate())
		}
	}
	if err := (gateway.Config{}).Validate(); err != nil {
		t.Error(err)
	}
	if _, err := gateway.New(gateway.Config{}, gateway.Dependencies{}); err == nil {
		t.Error("a gateway without rooms behind it")
	}
}

func TestQueryValue(t *testing.T) {
	for _, tt := range []struct{ raw, name, want string }{
		{"a=1&client=x%20y&client=z", "client", "x y"}, {"", "a", ""}, {"a", "a", ""}, {"xa=1", "a", ""}, {"a=%zz", "a", ""},
		{"cl%69ent=x&client=y", "client", "x"}, {"%63%6C%69%65%6e%74=x", "client", "x"}, {"cl%69ent%3D=x", "client", ""}, {"cl%6ient=x&a%=1", "client", ""},
	} {
		if got := gateway.QueryValue(tt.raw, tt.name); got != tt.want {
			t.Errorf("%s: %q", tt.raw, got)
		}
	}
}

// BenchmarkLookup100 looks 100 identities up in one request.
func BenchmarkLookup100(b *testing.B) {
	tw := newTwin()
	g, err := gateway.New(gateway.Config{}, tw.behind())
	if err != nil {
		b.Fatal(err)
	}
	var ids []string
	for i := range 100 {
		id := fmt.Sprintf("browser:3f0c9a%026x", i)
		ids = append(ids, id)
		tw.members[member{2, proto.Identity(id)}] = []proto.SegmentID{"auto", "owners"}
	}
	body, err := json.Marshal(map[string]any{"identities": ids})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	r := httptest.NewRequest("POST", "/v1/lookup", nil)
	r.Header.Set(auth, key("acme-key"))
	r.ContentLength = int64(len(body))
	for b.Loop() {
		r.Body = io.NopCloser(bytes.NewReader(body))
		w := httptest.NewRecorder()
		g.Service().ServeHTTP(w, r)
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "identities/s")
}

// BenchmarkLookup1 looks one up.
func BenchmarkLookup1(b *testing.B) {
	tw := newTwin()
	g, err := gateway.New(gateway.Config{}, tw.behind())
	if err != nil {
		b.Fatal(err)
	}
	tw.members[member{2, "browser:3f0c9a"}] = []proto.SegmentID{"auto", "owners"}
	b.ReportAllocs()
	r := httptest.NewRequest("GET", "/v1/identities/"+url.PathEscape("browser:3f0c9a")+"/segments", nil)
	r.Header.Set(auth, key("acme-key"))
	for b.Loop() {
		w := httptest.NewRecorder()
		g.Service().ServeHTTP(w, r)
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}

// BenchmarkPixel takes one event in a query, as kith bench asks for the picture.
func BenchmarkPixel(b *testing.B) {
	tw := newTwin()
	g, err := gateway.New(gateway.Config{}, gateway.Dependencies{Intake: swallow{tw}, Memberships: tw, Definitions: tw, Audiences: tw, Saved: tw, Accounts: tw, Holdings: tw, Operations: tw, Graph: tw, OptOuts: tw})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	r := httptest.NewRequest("GET", "/v1/pixel.gif?client=acme&event=page_view"+
		"&url="+url.QueryEscape("https://news.example.com/cars/2026/a-long-enough-name-of-an-article-00000017.html")+
		"&ref="+url.QueryEscape("https://search.example/?q=used+cars")+"&p.section=s07&p.author=a11&p.country=DE&p.price=12.5", nil)
	r.Header.Set("Cookie", "kith_id=v00004711")
	for b.Loop() {
		w := pixelWriter{}
		g.Public().ServeHTTP(w, r)
		if http.Header(w).Get("X-Kith-Position") == "" {
			b.Fatal(w)
		}
	}
}

// pixelWriter is an answer's header; its body goes nowhere.
type pixelWriter http.Header

func (w pixelWriter) Header() http.Header       { return http.Header(w) }
func (pixelWriter) Write(b []byte) (int, error) { return len(b), nil }
func (pixelWriter) WriteHeader(int)             {}
