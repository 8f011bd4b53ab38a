package main

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/internal/config"
	"kith/proto"
)

const inferringYAML = `consent: {country_header: CF-IPCountry}
limits: {address_header: X-Real-IP}
inference: {rotate_days: 7, never: [BR]}
clients:
  - name: demo
    statistical_ids: true
    household: {days: 3}
  - name: acme
`

// What kith.yaml says of inference is what the gateway goes by, and by default there is
// none.
func TestGatewayConfigOfInference(t *testing.T) {
	c, err := config.Parse([]byte(inferringYAML))
	if err != nil {
		t.Fatal(err)
	}
	g := gatewayConfig(c)
	if d := cmp.Diff(gateway.Inference{Never: []string{"BR"}, RotateDays: 7}, g.Inference); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]proto.ClientName{"demo"}, g.Statistical); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[proto.ClientName]proto.HouseholdRule{"demo": {DaysMin: 3, IdentitiesMax: 16}}, g.Households); d != "" {
		t.Error(d)
	}
	g = gatewayConfig(config.Default())
	if len(g.Statistical)+len(g.Households) != 0 || len(g.Inference.Never) != 38 || g.Inference.RotateDays != 1 {
		t.Errorf("by default: %v %v %+v", g.Statistical, g.Households, g.Inference)
	}
}

// inferred is a node that infers, and a way to ask it.
type inferred struct {
	*liveNode
	t *testing.T
}

// visit is a request of a browser; pairs are headers beside the usual ones.
func (n *inferred) visit(method, path, body string, pairs ...string) string {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), method, n.public+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	usual := []string{"CF-IPCountry", "US", "X-Real-IP", "203.0.113.77", "User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Accept-Language", "en-US"}
	for pairs = append(usual, pairs...); len(pairs) > 0; pairs = pairs[2:] {
		r.Header.Set(pairs[0], pairs[1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatalf("%s %s: %d %s %v", method, path, resp.StatusCode, b, err)
	}
	return string(b)
}

var statID = regexp.MustCompile(`stat:r\d+\.([a-p]{32})`)

// A whole node: who sends no cookie is known by a statistical id, an opt-out without a
// cookie cuts it with a receipt and keeps it from coming back, and neither an address
// nor, after an erasure, the id is in any file.
func TestInference(t *testing.T) {
	data := t.TempDir()
	file := filepath.Join(t.TempDir(), "kith.yaml")
	writeFile(t, file, inferringYAML)
	n := &inferred{startNode(t, data, "--config", file), t}
	const page = `{"client":"demo","events":[{"event":"page"}]}`
	all := func() string { return n.kith(t, "client", "export", "demo") }
	applied := func(answer string) {
		var x struct{ Position string }
		if err := json.Unmarshal([]byte(answer), &x); err != nil || x.Position == "" {
			t.Fatalf("answered %s", answer)
		}
		n.kith(t, "user", "browser:home1", "--after", x.Position)
	}

	n.visit("POST", "/v1/events", page)
	n.visit("POST", "/v1/events", page, "Cookie", "kith_id=home1")
	applied(n.visit("POST", "/v1/events", page, "CF-IPCountry", "BR", "Cookie", "kith_id=away1"))
	held := all()
	m := statID.FindStringSubmatch(held)
	if m == nil {
		t.Fatalf("no statistical id is held:\n%s", held)
	}
	if got := n.visit("GET", "/v1/me?client=demo", "", "Cookie", "kith_id=home1", "Sec-Fetch-Site", "same-origin"); !strings.Contains(got, `"networks":[{"network":"`) {
		t.Errorf("what is held of a browser shows no network: %s", got)
	}
	if got := n.visit("GET", "/v1/me?client=demo", "", "Cookie", "kith_id=away1", "Sec-Fetch-Site", "same-origin"); strings.Contains(got, "networks") {
		t.Errorf("a network is remembered where nothing is inferred: %s", got)
	}
	if got := n.kith(t, "user", m[0]); !strings.Contains(got, "user of 1,") {
		t.Errorf("the id is with somebody: %s", got)
	}

	var out struct {
		Final   bool
		Receipt json.RawMessage
	}
	answer := n.visit("POST", "/v1/optout", "", "Sec-Fetch-Site", "same-origin")
	if err := json.Unmarshal([]byte(answer), &out); err != nil || !out.Final || len(out.Receipt) == 0 {
		t.Fatalf("the opt-out was answered %s", answer)
	}
	receipt := filepath.Join(t.TempDir(), "receipt.json")
	writeFile(t, receipt, string(out.Receipt))
	n.kith(t, "receipt", "verify", receipt)
	applied(n.visit("POST", "/v1/events", page))
	if held := all(); statID.MatchString(held) {
		t.Errorf("after the opt-out there is one still, or again:\n%s", held)
	}
	if got := n.visit("GET", "/v1/optout/status?client=demo", ""); !strings.Contains(got, `"statistical_id":"suppressed"`) {
		t.Errorf("status: %s", got)
	}
	n.kith(t, "erase", "--now")
	for _, gone := range []string{m[1], "203.0.113", "rv:128.0"} {
		if files := filesHaving(t, data, gone); len(files) > 0 {
			t.Errorf("%q is in %v", gone, files)
		}
	}
	if files := filesHaving(t, data, "home1"); len(files) == 0 {
		t.Error("what was not cut is in no file: this looks in the wrong place")
	}
	if code := n.stop(); code != 0 {
		t.Errorf("the node ended with exit code %d", code)
	}
}

// filesHaving lists the files below dir that have a text.
func filesHaving(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, f fs.DirEntry, err error) error {
		if err != nil || f.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		if bytes.Contains(b, []byte(text)) {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
