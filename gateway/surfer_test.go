package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"kith/gateway"
	"kith/proto"
)

// front is a rig's public plane as browsers reach it, and what they asked for.
type front struct {
	rig  *rig
	host string // localhost:port

	mu      sync.Mutex
	seen    []asked
	instead func(http.ResponseWriter, *http.Request) bool // answers in the gateway's place if it returns true
}

// asked is one request that came.
type asked struct {
	method, path, query, cookie, body string
	mode                              string    // Sec-Fetch-Mode: cors of fetch, no-cors of beacons
	access                            string    // Sec-Fetch-Storage-Access
	came, left                        time.Time // left is zero until it is answered
}

func (a asked) String() string {
	return fmt.Sprintf("\n%s %s?%s by %s with %q: %s", a.method, a.path, a.query, a.mode, a.cookie, a.body)
}

func newFront(t *testing.T, r *rig) *front {
	f := &front{rig: r}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.host = onLocalhost(strings.TrimPrefix(s.URL, "http://"))
	return f
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.mu.Lock()
	i, instead := len(f.seen), f.instead
	f.seen = append(f.seen, asked{
		method: r.Method, path: r.URL.Path, query: r.URL.RawQuery, body: string(body), cookie: strings.Join(r.Header["Cookie"], "; "),
		mode: r.Header.Get("Sec-Fetch-Mode"), access: r.Header.Get("Sec-Fetch-Storage-Access"), came: time.Now(),
	})
	f.mu.Unlock()
	if instead == nil || !instead(w, r) {
		f.rig.g.Public().ServeHTTP(w, r)
	}
	f.mu.Lock()
	f.seen[i].left = time.Now()
	f.mu.Unlock()
}

// all are the requests so far.
func (f *front) all() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

// to are the requests for a path so far.
func (f *front) to(path string) (out []asked) {
	for _, a := range f.all() {
		if a.path == path {
			out = append(out, a)
		}
	}
	return out
}

// answers makes f answer in the gateway's place; nil: no more.
func (f *front) answers(instead func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	f.instead = instead
	f.mu.Unlock()
}

// surfer is a person with a browser of their own, without cookies and storage at
// first, and a publisher's site with the tag on it.
type surfer struct {
	t     *testing.T
	ctx   context.Context
	front *front
	rig   *rig
	port  string // of the site

	mu    sync.Mutex
	docs  map[string]string // of the site by path; any other path gives that of "/"
	csp   string            // the site's Content-Security-Policy
	timed bool              // pages are in sight
}

func newSurfer(t *testing.T, shared context.Context) *surfer {
	ctx, cancel := chromedp.NewContext(shared, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 40*time.Second)
	t.Cleanup(cancel)
	s := &surfer{t: t, ctx: ctx, docs: map[string]string{}}
	site := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(site.Close)
	_, s.port, _ = net.SplitHostPort(strings.TrimPrefix(site.URL, "http://"))
	s.rig = newRig(t, func(c *gateway.Config) {
		c.Now = time.Now
		c.Origins = map[proto.ClientName][]string{"demo": {s.at("localhost"), s.at("a.test"), s.at("www.a.test"), s.at("b.test")}}
	})
	s.front = newFront(t, s.rig)
	s.page("", "", "")
	return s
}

func (s *surfer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, ok := s.docs[r.URL.Path]
	if !ok {
		doc = s.docs["/"]
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if strings.HasSuffix(r.URL.Path, ".js") {
		w.Header().Set("Content-Type", "text/javascript")
	}
	if s.csp != "" {
		w.Header().Set("Content-Security-Policy", s.csp)
	}
	_, _ = io.WriteString(w, doc)
}

// at is the site by one of its names.
func (s *surfer) at(host string) string { return "http://" + host + ":" + s.port }

// stub is what publishers put before the tag, and what notes what the page comes
// to see of it. What only takes away from storage does not touch it.
const stub = unseen + `window.kith = window.kith || function () { (kith.q = kith.q || []).push(arguments) };
window.errors = []; addEventListener("error", e => errors.push(e.message)); addEventListener("unhandledrejection", e => errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", e => errors.push(e.violatedDirective + " " + e.blockedURI));
window.warned = []; console.warn = text => warned.push(text);
window.touched = [];
for (const k of ["getItem", "setItem"]) { const f = Storage.prototype[k]; Storage.prototype[k] = function () { touched.push(k + " " + arguments[0]); return f.apply(this, arguments) } }
`

// unseen makes a page say that it is out of sight, so that the tag does not report
// for how long it was not: most tests count events.
const unseen = `Object.defineProperty(document, "hidden", {value: true, configurable: true});
`

// put makes one of the site's documents.
func (s *surfer) put(path, doc string) {
	s.mu.Lock()
	s.docs[path] = doc
	s.mu.Unlock()
}

// page makes the site's page: attributes of the tag, a script before it, and the
// body.
func (s *surfer) page(attributes, head, body string) {
	stub := stub
	if s.timed {
		stub = strings.TrimPrefix(stub, unseen)
	}
	s.put("/", fmt.Sprintf(`<!doctype html><title>site</title><link rel="icon" href="data:,"><script>%s%s</script><script async src="http://%s/kith.js" data-client="demo" %s></script>%s`,
		stub, head, s.front.host, attributes, body))
}

// open goes to a path of the site, and to a whole address if it is one. It waits
// for load, which the tag is part of.
func (s *surfer) open(path string) {
	s.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = s.at("localhost") + path
	}
	if err := chromedp.Do(s.ctx, chromedp.Navigate(path)); err != nil {
		s.t.Fatalf("open %s: %v", path, err)
	}
}

// do runs a script in the page and waits for its promise, if it gives one.
func (s *surfer) do(script string) {
	s.t.Helper()
	value[any](s, "(async () => { "+script+"; return null })()")
}

// value is what a script in the page gives.
func value[T any](s *surfer, script string) T {
	s.t.Helper()
	v, err := run[T](s.ctx, script)
	if err != nil {
		s.t.Fatalf("%s: %v", script, err)
	}
	return v
}

// until waits for what has to come.
func (s *surfer) until(what string, done func() bool) {
	s.t.Helper()
	for !done() {
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("this never came: %s; events %v; asked %v", what, s.names(), s.front.all())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// quiet gives the page the time in which it would have sent something.
func (s *surfer) quiet() {
	s.t.Helper()
	s.do("await new Promise(done => setTimeout(done, 120))")
}

// names are those of the events that the gateway took.
func (s *surfer) names() (out []string) {
	for _, e := range s.rig.taken() {
		out = append(out, e.Name)
	}
	return out
}

// took waits until the gateway has taken just these events, in this order.
func (s *surfer) took(names ...string) []proto.Event {
	s.t.Helper()
	s.until(fmt.Sprint("the events ", names), func() bool { return len(s.rig.taken()) >= len(names) })
	if got := s.names(); !slices.Equal(got, names) {
		s.t.Fatalf("events %v, want %v", got, names)
	}
	return s.rig.taken()
}

// segments asks the tag; more are further arguments of the call.
func (s *surfer) segments(more string) []string {
	s.t.Helper()
	return value[[]string](s, `new Promise(done => kith("segments", done`+more+`))`)
}

// stored is a value of the page's storage, "" if there is none.
func (s *surfer) stored(key string) string {
	s.t.Helper()
	return value[string](s, fmt.Sprintf("localStorage[%q] || ''", key))
}

// optOut has the tag opt out.
func (s *surfer) optOut() {
	s.t.Helper()
	s.quiet() // the answer to events that were taken came
	type answer struct {
		OptedOut bool `json:"opted_out"`
		Final    bool `json:"final"`
	}
	if a := value[answer](s, `new Promise(done => kith("optout", done))`); !a.OptedOut || !a.Final {
		s.t.Fatalf("opt-out: %+v", a)
	}
	if got := s.stored("kith_optout"); got != "1" {
		s.t.Fatalf("the tag remembers %q", got)
	}
}

// clearCookies takes the gateway's cookies away, as a person may.
func (s *surfer) clearCookies() {
	s.t.Helper()
	s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/clear" {
			return false
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("Access-Control-Allow-Credentials", "true")
		for _, name := range []string{"kith_id", "kith_optout", "kith_optin"} {
			h.Add("Set-Cookie", name+"=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None")
			h.Add("Set-Cookie", name+"=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None; Partitioned")
		}
		return true
	})
	for range 2 {
		s.do(`await fetch("http://` + s.front.host + `/clear", {credentials: "include"})`)
	}
	s.front.answers(nil)
	if left := s.front.to("/clear")[1].cookie; strings.Contains(left, "kith_") {
		s.t.Fatalf("cookies that are left: %s", left)
	}
}

// calm checks that the page saw no error.
func (s *surfer) calm() {
	s.t.Helper()
	if errors := value[[]string](s, "errors"); len(errors) > 0 {
		s.t.Errorf("the page saw %q", errors)
	}
}
