package gateway_test

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"

	"kith/gateway"
)

func TestConsoleFiles(t *testing.T) {
	r := newRig(t)
	page := r.serve("GET", "/console", "")
	if page.Code != 200 || page.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("/console: %d, %v", page.Code, page.Header())
	}
	// The page names files of its own only, and they are there.
	named := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page.Body.String(), -1)
	if len(named) < 3 {
		t.Fatalf("the page names %d files", len(named))
	}
	for _, m := range named {
		if w := r.serve("GET", m[1], ""); w.Code != 200 || w.Body.Len() == 0 {
			t.Errorf("the page names %s: %d", m[1], w.Code)
		}
	}
	imports := regexp.MustCompile(`from "([^"]+)"`)
	types := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".html": "text/html; charset=utf-8"}
	files, err := fs.ReadDir(gateway.ConsoleFiles, "console")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		w := r.serve("GET", "/console/"+f.Name(), "")
		h := w.Header()
		if w.Code != 200 || h.Get("Content-Type") != types[path.Ext(f.Name())] {
			t.Errorf("%s: %d %s", f.Name(), w.Code, h.Get("Content-Type"))
		}
		policy := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: policy %q", f.Name(), policy)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-cache"} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", f.Name(), name, h.Get(name))
			}
		}
		if h.Get("Set-Cookie") != "" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", f.Name(), h)
		}
		text := w.Body.String()
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "style=\"", " onclick=", "https://", "@import", "url(", "document.cookie"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s holds %q", f.Name(), bad)
			}
		}
		for _, m := range imports.FindAllStringSubmatch(text, -1) {
			if path.Ext(f.Name()) == ".js" && r.serve("GET", "/console/"+path.Base(m[1]), "").Code != 200 {
				t.Errorf("%s imports %s, which is not there", f.Name(), m[1])
			}
		}
		if again := r.serve("GET", "/console/"+f.Name(), "", "If-None-Match", h.Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s, known already: %d with %d bytes", f.Name(), again.Code, again.Body.Len())
		}
		if z := r.serve("GET", "/console/"+f.Name(), "", "Accept-Encoding", "gzip"); z.Header().Get("Content-Encoding") != "gzip" || z.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s is not compressed: %v", f.Name(), z.Header())
		}
	}
	for _, none := range []string{"/console/nothing.js", "/console/", "/console/../console.go", "/console/a/b", "/console/%2e%2e/gateway.go", "/console/index.html/"} {
		if w := r.serve("GET", none, ""); w.Code != 404 {
			t.Errorf("%s: %d", none, w.Code)
		}
	}
	if w := r.serve("POST", "/console", ""); w.Code != 405 {
		t.Errorf("POST /console: %d", w.Code)
	}
	if w := r.visit("GET", "/console", ""); w.Code != 404 {
		t.Errorf("the public plane has a console: %d", w.Code)
	}
}

func TestKeyAboutItself(t *testing.T) {
	r := newRig(t)
	for key, want := range map[string]string{
		"acme-key":    `{"role":"client","client":"acme","floor":50,"cluster":true}`,
		"acme-report": `{"role":"report","client":"acme","floor":50,"cluster":true}`,
		"admin-key":   `{"role":"admin","cluster":true}`,
	} {
		w := r.serve("GET", "/v1/key", "", auth, "Bearer "+key)
		if got := strings.TrimSpace(w.Body.String()); got != want || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s, %v", key, got, w.Header())
		}
	}
	for _, key := range []string{"", "guess"} {
		if w := r.serve("GET", "/v1/key", "", auth, "Bearer "+key); w.Code != 401 {
			t.Errorf("key %q: %d", key, w.Code)
		}
	}
}

// What the console does not offer to a key, the routes refuse to it.
func TestConsoleRoutesRefuse(t *testing.T) {
	r := newRig(t)
	ask := func(key, method, target, body string) *httptest.ResponseRecorder {
		return r.serve(method, target, body, auth, "Bearer "+key)
	}
	type request struct{ method, target, body string }
	admins := []request{
		{"GET", "/v1/clients", ""}, {"GET", "/v1/partitions", ""}, {"GET", "/v1/cluster", ""}, {"GET", "/v1/deadletters", ""}, {"POST", "/v1/deadletters/0:1:0/replay", ""},
		{"POST", "/v1/cluster/nodes/n1/drain", ""}, {"DELETE", "/v1/cluster/nodes/n1/drain", ""},
	}
	clients := []request{
		{"GET", "/v1/live", ""}, {"GET", "/v1/segments", ""}, {"GET", "/v1/segments/auto", ""}, {"PUT", "/v1/segments/auto", `{"when":"x"}`}, {"PUT", "/v1/segments/auto?dry_run=true", `{"when":"x"}`},
		{"DELETE", "/v1/segments/auto", ""}, {"GET", "/v1/segments/auto/sizes", ""}, {"POST", "/v1/audiences/overlap", `{"segments":["auto"]}`}, {"GET", "/v1/users/browser:seen1", ""},
		{"GET", "/v1/identities/browser:seen1/segments", ""}, {"GET", "/v1/identities/browser:seen1/explain?segment=all", ""}, {"DELETE", "/v1/links?a=browser:seen1&b=browser:seen2", ""},
		{"POST", "/v1/optouts", `{"identity":"browser:seen1"}`}, {"GET", "/v1/optouts/browser:seen1", ""}, {"POST", "/v1/optins", `{"identity":"browser:seen1"}`}, {"POST", "/v1/receipts/verify", `{}`},
	}
	for _, q := range admins {
		for _, key := range []string{"acme-key", "acme-report"} {
			if w := ask(key, q.method, q.target, q.body); w.Code != 403 || code(w) != "forbidden" {
				t.Errorf("%s, %s %s: %d %s", key, q.method, q.target, w.Code, w.Body)
			}
		}
	}
	for _, q := range clients {
		if w := ask("acme-report", q.method, q.target, q.body); w.Code != 403 || code(w) != "forbidden" {
			t.Errorf("a report key, %s %s: %d %s", q.method, q.target, w.Code, w.Body)
		}
		sep := "?"
		if strings.Contains(q.target, "?") {
			sep = "&"
		}
		if w := ask("acme-key", q.method, q.target+sep+"client=other", q.body); w.Code != 403 || code(w) != "forbidden" {
			t.Errorf("another client's, %s %s: %d %s", q.method, q.target, w.Code, w.Body)
		}
	}
	for _, q := range []request{{"GET", "/v1/aggregates?client=other", ""}, {"POST", "/v1/audiences/count?client=other", `{"expr":"auto"}`}} {
		for _, key := range []string{"acme-key", "acme-report"} {
			if w := ask(key, q.method, q.target, q.body); w.Code != 403 || code(w) != "forbidden" {
				t.Errorf("%s, another client's %s: %d %s", key, q.target, w.Code, w.Body)
			}
		}
	}
	for _, q := range append(admins, clients...) {
		if w := ask("", q.method, q.target, q.body); w.Code != 401 {
			t.Errorf("no key, %s %s: %d", q.method, q.target, w.Code)
		}
	}
}
