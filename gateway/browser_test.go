package gateway_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"kith/proto"
)

// browser starts a real one, or skips the test.
func browser(t *testing.T, options ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no browser")
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on the PATH: apt-get install chromium to run this")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(opts, options...)...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// site serves one page with the tag on it, on a port of its own.
func site(t *testing.T, public, head string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	page := fmt.Sprintf(`<!doctype html><script>window.kith = function () { (kith.q = kith.q || []).push(arguments) };
kith("event", "early", {n: 1});%s</script><script async src="http://%s/kith.js" data-client="demo" data-section="auto"></script>`, head, public)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(page))
	})}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return "http://localhost:" + port + "/?token=secret#x"
}

// onLocalhost makes an address one that browsers treat as secure.
func onLocalhost(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return "localhost:" + port
}

// segmentsIn asks the tag until want is among the browser's segments.
func segmentsIn(ctx context.Context, want string) error {
	_, err := chromedp.Run(ctx, chromedp.Poll[bool](fmt.Sprintf(`(() => {
		if (window.kith.v && !window.asked) { window.asked = true; kith("segments", s => { window.asked = false; window.found = s.includes(%q) }) }
		return window.found === true })()`, want), chromedp.WithPollingInterval(50*time.Millisecond)))
	return err
}

// run evaluates a script that gives a promise and waits for it.
func run[T any](ctx context.Context, script string) (T, error) {
	return chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// ready is a promise that the tag has loaded.
const ready = `new Promise(done => { const i = setInterval(() => { if (window.kith.v) { clearInterval(i); done() } }, 10) })`

// TestTagInABrowser has a real browser load the tag from another origin: it
// keeps one identity over page views, and after an opt-out sends nothing.
func TestTagInABrowser(t *testing.T) {
	ctx := browser(t)
	r := newRig(t)
	public, _ := listen(t, r)
	public = onLocalhost(public)
	url := site(t, public, "")
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	if err := segmentsIn(ctx, "auto"); err != nil {
		t.Fatal(err, r.taken())
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(strings.Replace(url, "#", "&page=2#", 1))); err != nil {
		t.Fatal(err)
	}
	if _, err := run[bool](ctx, ready+`.then(() => { kith("identify", "account", "abc1"); kith("event", "click", {section: "moto"}); return true })`); err != nil {
		t.Fatal(err)
	}
	if err := segmentsIn(ctx, "moto"); err != nil {
		t.Fatal(err, r.taken())
	}
	names := map[string]int{}
	first := r.taken()[0].Identities[0]
	for _, e := range r.taken() {
		names[e.Name]++
		if e.Identities[0] != first || len(e.Identities[0].Value()) != 32 {
			t.Errorf("%s is of %s, the first of %s", e.Name, e.Identities[0], first)
		}
		if strings.Contains(e.URL, "secret") || !strings.HasPrefix(e.URL, "http://localhost:") {
			t.Errorf("url %q", e.URL)
		}
		if e.Name == "identify" && (len(e.Identities) != 2 || e.Identities[1] != proto.Identity("account:abc1")) {
			t.Errorf("identify: %v", e.Identities)
		}
	}
	if names["page"] < 2 || names["early"] < 2 || names["click"] != 1 || names["identify"] != 1 {
		t.Errorf("events %v", names)
	}
	if out, err := run[bool](ctx, `new Promise(done => kith("optout", x => done(x.opted_out === true)))`); err != nil || !out {
		t.Fatalf("opt-out: %v, %v", out, err)
	}
	before := len(r.taken())
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	segments, err := run[[]string](ctx, ready+`.then(() => new Promise(done => { kith("event", "late"); setTimeout(() => kith("segments", done), 200) }))`)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.taken()); n != before || len(segments) != 0 {
		t.Errorf("after the opt-out: %d new events, segments %v", n-before, segments)
	}
}
