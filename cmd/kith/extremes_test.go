package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"kith/internal/config"
)

// request asks the service plane as the client demo's administrator.
func (n *liveNode) request(t *testing.T, method, path string, body any) (status int, answer string) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	at := n.service + path
	if strings.Contains(path, "?") {
		at += "&client=" + config.DevClient
	} else {
		at += "?client=" + config.DevClient
	}
	r, err := http.NewRequestWithContext(t.Context(), method, at, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+config.DevAdminKey)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(out)
}

type body = map[string]any

// What is asked for beyond all measure is answered, or refused with a reason,
// and the node goes on.
func TestExtremes(t *testing.T) {
	const terms = 500
	n := startNode(t, t.TempDir())
	var few sync.WaitGroup
	for part := range 16 {
		few.Go(func() {
			for i := part; i < terms; i += 16 {
				rule := fmt.Sprintf(`count(event.section == "t%d", "1d") >= 1`, i)
				if status, answer := n.request(t, "PUT", fmt.Sprint("/v1/segments/t", i), body{"when": rule, "scope": "identity"}); status != 200 {
					t.Errorf("segment %d: %d %s", i, status, answer)
				}
			}
		})
	}
	few.Wait()
	var events strings.Builder
	for i := range terms { // of number i two, and one who is in the next as well
		for _, v := range []string{"a", "b"} {
			fmt.Fprintf(&events, `{"event":"page","identities":["browser:%s%d"],"props":{"section":"t%d"}}`+"\n", v, i, i)
		}
		fmt.Fprintf(&events, `{"event":"page","identities":["browser:b%d"],"props":{"section":"t%d"}}`+"\n", i, (i+1)%terms)
	}
	file := t.TempDir() + "/events.ndjson"
	writeFile(t, file, events.String())
	n.ingest(t, "-f", file)

	// each gives 500 terms: the first, then op before each other one.
	each := func(op string, first int) string {
		list := make([]string, terms)
		for i := range list {
			list[i] = fmt.Sprint("t", (first+i)%terms)
		}
		return strings.Join(list, op)
	}
	deep := func(open, within, closed string) string {
		return strings.Repeat(open, 10_000) + within + strings.Repeat(closed, 10_000)
	}
	for _, x := range []struct {
		name, method, path string
		body               body
		status             int
		want               string // in the answer
	}{
		{"500 terms, any of", "POST", "/v1/audiences/count", body{"expr": each(" | ", 0)}, 200, `{"count":1000,"exact":true`},
		{"500 terms, all of", "POST", "/v1/audiences/count", body{"expr": each(" & ", 0)}, 200, `{"count":0,"exact":true`},
		{"500 terms, one but no other", "POST", "/v1/audiences/count", body{"expr": each(" & !", 7)}, 200, `{"count":1,"exact":true`},
		{"500 terms, by users", "POST", "/v1/audiences/count", body{"expr": each(" | ", 0), "unit": "users"}, 200, `{"count":1000,"exact":true`},
		{"500 terms, saved", "PUT", "/v1/audiences/any", body{"expr": each(" | ", 0)}, 200, `"id":"any"`},
		{"500 terms, by name", "POST", "/v1/audiences/count", body{"expr": "@any & !t0"}, 200, `{"count":997,"exact":true`},
		{"1500 terms", "POST", "/v1/audiences/count", body{"expr": each(" | ", 0) + " | " + each(" | ", 0) + " | " + each(" | ", 0)}, 400, "more than 1000 times: split it"},
		{"501 terms, of which one is no segment", "POST", "/v1/audiences/count", body{"expr": each(" | ", 0) + " | t500"}, 404, `segment \"t500\" is not defined`},

		{"an audience 10,000 deep", "POST", "/v1/audiences/count", body{"expr": deep("(", "t0", ")")}, 400, "nested more than 200 deep: split the expression"},
		{"an audience 10,000 deep, never closed", "POST", "/v1/audiences/count", body{"expr": deep("(", "", "")}, 400, "nested more than 200 deep: split the expression"},
		{"an audience 10,000 times not", "POST", "/v1/audiences/count", body{"expr": deep("!", "t0", "")}, 200, `{"count":3,"exact":true`},
		{"a rule 10,000 deep", "PUT", "/v1/segments/deep", body{"when": deep("(", "true", ")")}, 400, "at most 10000"},
		{"a rule 4,000 deep", "PUT", "/v1/segments/deep", body{"when": deep("(", "true", ")")[6000:14004]}, 400, "nested deeper than 100 levels"},
		{"a rule 2,000 times not", "PUT", "/v1/segments/deep", body{"when": deep("!(", "true", ")")[16_000:22_004]}, 400, "nested deeper than 100 levels"},
		{"a preview 10,000 deep", "PUT", "/v1/segments/deep?dry_run=true", body{"when": deep("(", "true", ")")}, 400, "at most 10000"},

		{"a segment of itself", "PUT", "/v1/segments/me", body{"when": `member("me")`}, 400, `segment \"me\" refers to itself`},
		{"a segment of itself, once it is there", "PUT", "/v1/segments/t0", body{"when": `!member("t0")`}, 400, `segment \"t0\" refers to itself`},
		{"a segment of another", "PUT", "/v1/segments/over", body{"when": `member("t1")`, "scope": "identity"}, 200, `"id":"over"`},
		{"and that one of the first", "PUT", "/v1/segments/t1", body{"when": `member("over")`, "scope": "identity"}, 400, `in a circle back to segment \"t1\"`},
		{"an audience of itself", "PUT", "/v1/audiences/any", body{"expr": "@any | t0"}, 400, "itself"},

		{"a window of minus one", "PUT", "/v1/segments/w", body{"when": `count(true, "-1d") >= 1`}, 400, `"line":1,"column":13`},
		{"a window of minus one, without a unit", "PUT", "/v1/segments/w", body{"when": `count(true, -1) >= 1`}, 400, `"line":1,"column":13`},
		{"a window of nothing", "PUT", "/v1/segments/w", body{"when": `count(true, "0d") >= 1`}, 400, "at least 1ms"},
		{"a window of a century", "PUT", "/v1/segments/w", body{"when": `count(true, "36525d") >= 1`}, 400, "the longest is ten years"},
		{"a time a century ago", "PUT", "/v1/segments/w", body{"when": `last(true) > now - "36525d"`}, 400, "the longest is ten years"},
		{"a window of more than any number", "PUT", "/v1/segments/w", body{"when": `count(true, "99999999999999999999999999d") >= 1`}, 400, `"code":"rule"`},
		{"a window of ten years", "PUT", "/v1/segments/decade", body{"when": `count(event.section == "t0", "3660d") >= 1`, "scope": "identity", "backfill": true}, 200, `"id":"decade"`},
		{"a window of a millisecond", "PUT", "/v1/segments/moment", body{"when": `count(true, "1ms") >= 1`, "scope": "identity", "backfill": true}, 200, `"id":"moment"`},
	} {
		status, answer := n.request(t, x.method, x.path, x.body)
		if status != x.status || !strings.Contains(answer, x.want) {
			t.Errorf("%s: status %d, want %d with %q:\n%.600s", x.name, status, x.status, x.want, answer)
		}
	}
	for _, id := range []string{"decade", "moment"} {
		n.kith(t, "segments", "backfill", id, "--wait")
	}
	for expr, want := range map[string]uint64{"decade": 3, "moment": 0, "over": 3, "t0": 3, "t0 & t1": 1} {
		if got := n.count(t, expr); got != want {
			t.Errorf("%s has %d members after all that, want %d", expr, got, want)
		}
	}
	n.kith(t, "verify")
}
