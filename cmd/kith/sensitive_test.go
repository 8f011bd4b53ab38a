package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"kith/internal/config"
	"kith/internal/porttest"
)

// TestNoSensitiveCategoryIsKept: on a whole node no segment can be made of what names
// a sensitive category, and a property that does is not in the record.
func TestNoSensitiveCategoryIsKept(t *testing.T) {
	n := campaignNode(t, t.TempDir(), porttest.Free(t))
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, n.service+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+config.DevKey)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for id, c := range map[string]struct{ when, holds string }{
		"a1":        {`count(event.section == "diabetes", "30d") >= 2`, `looks at event.section with \"diabetes\"`},
		"a2":        {`count(event.url.contains("/krankheiten/")) >= 1`, "(health)"},
		"a3":        {`!(trait("Religion") == "x")`, "(religion)"},
		"a4":        {`distinct(event.ethnicity, "3d") >= 2`, "(ethnicity)"},
		"a5":        {`sequence(event.name == "page", event.ref.matches("gay|lesbian"), "1h")`, "(sexuality)"},
		"a6":        {`count(event.iab_cat == "286") >= 1`, "(health)"},
		"a7":        {`member("pregnant") || count(true) >= 1`, "(health)"},
		"lgbt-fans": {`count(true) >= 1`, "the segment's id"},
	} {
		for _, query := range []string{"", "?dry_run=true"} {
			status, body := ask("PUT", "/v1/segments/"+id+query, asJSON(t, map[string]any{"when": c.when}))
			if status != http.StatusBadRequest || !strings.Contains(body, `"code":"sensitive"`) || !strings.Contains(body, c.holds) {
				t.Errorf("%s%s: %d %s", id, query, status, body)
			}
		}
	}
	if status, body := ask("PUT", "/v1/segments/essex", `{"when":"count(event.section == \"essex\") >= 1"}`); status != http.StatusOK {
		t.Fatalf("a harmless segment: %d %s", status, body)
	}
	if _, body := ask("GET", "/v1/segments", ""); strings.Contains(body, "a1") || !strings.Contains(body, "essex") {
		t.Errorf("the segments are %s", body)
	}
	status, body := ask("POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:s1"],"props":{"section":"essex","interest":"Scientology","religion":"x"}}]}`)
	if status != http.StatusOK || !strings.Contains(body, `"dropped":2`) {
		t.Fatalf("%d %s", status, body)
	}
	position := body[strings.Index(body, `"position":"`)+len(`"position":"`):]
	position = position[:strings.IndexByte(position, '"')]
	if _, body = ask("GET", "/v1/identities/browser:s1?after="+position, ""); strings.Contains(body, "Scientology") || strings.Contains(body, "religion") || !strings.Contains(body, "essex") {
		t.Errorf("the record holds %s", body)
	}
}
