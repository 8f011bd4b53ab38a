package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A report key of a real node: figures that stay over a restart, refusals where
// two would tell of one person.
func TestReportKey(t *testing.T) {
	data := t.TempDir()
	n := startNode(t, data)
	var events strings.Builder
	for i := range 130 {
		section := "auto"
		if i == 129 {
			section = "yacht"
		}
		fmt.Fprintf(&events, `{"event":"page","identities":["browser:r%d"],"props":{"section":%q}}`+"\n", i, section)
	}
	writeFile(t, data+"/segments.yaml", `segments:
  - {id: page, scope: user, when: 'count(event.name == "page", "30d") >= 1'}
  - {id: yacht, scope: user, when: 'count(event.section == "yacht", "30d") >= 1'}
`)
	writeFile(t, data+"/events.ndjson", events.String())
	n.kith(t, "segments", "apply", "-f", data+"/segments.yaml")
	n.ingest(t, "-f", data+"/events.ndjson")
	if got := n.count(t, "page & !yacht"); got != 129 {
		t.Fatalf("%d are in page and not in yacht", got)
	}
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(n.kith(t, "key", "create", "--role", "report", "--client", "demo", "--json")), &made); err != nil {
		t.Fatal(err)
	}
	ask := func(args ...string) string {
		_, out, errs := command(t, strings.TrimPrefix(n.service, "http://"), "", append(args, "--key", made.Key)...)
		return out + errs
	}
	first := ask("audience", "count", "page")
	if first != "120\n" && first != "130\n" {
		t.Errorf("a report of 130: %q", first)
	}
	for range 2 {
		for expr, want := range map[string]string{
			"page & !yacht": "fewer than 50 people", "yacht": "fewer than 50", "page | page & yacht": first, "nothing": "not defined",
		} {
			if got := ask("audience", "count", expr); !strings.Contains(got, want) {
				t.Errorf("a report of %s: %q, want %q", expr, got, want)
			}
		}
		for _, args := range [][]string{{"audience", "overlap", "page", "yacht"}, {"audience", "reach", "page", "yacht"}, {"audience", "list"}, {"segments", "sizes", "page"}} {
			if got := ask(args...); !strings.Contains(got, "report") {
				t.Errorf("%v: %q", args, got)
			}
		}
		if code := n.stop(); code != 0 {
			t.Fatalf("the node ended with %d", code)
		}
		n = startNode(t, data)
	}
}
