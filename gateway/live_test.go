package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/gateway"
	"kith/proto"
)

// feed is a live feed over a real connection.
type feed struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// openFeed opens one and reads its first tally, after which events are shown.
func openFeed(t *testing.T, service, key, query string) *feed {
	t.Helper()
	f, resp := tryFeed(t, service, key, query)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("the feed answers %s with %v", resp.Status, resp.Header)
	}
	if kind, _ := f.next(); kind != "tally" {
		t.Fatalf("the feed begins with %q", kind)
	}
	return f
}

func tryFeed(t *testing.T, service, key, query string) (*feed, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+service+"/v1/live"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(auth, "Bearer "+key)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return &feed{t, bufio.NewScanner(resp.Body), cancel}, resp
}

// next is the next message; "" at the end.
func (f *feed) next() (kind, data string) {
	for f.lines.Scan() {
		switch line := f.lines.Text(); {
		case strings.HasPrefix(line, "event: "):
			kind = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			data = line[len("data: "):]
		case line == "":
			return kind, data
		}
	}
	return "", ""
}

type shownEvent struct {
	Event, URL string
	Identities []string
	Props      map[string]any
	More       int `json:"more_props"`
}

// events are the next n events.
func (f *feed) events(n int) []shownEvent {
	f.t.Helper()
	var list []shownEvent
	for len(list) < n {
		kind, data := f.next()
		switch kind {
		case "":
			f.t.Fatalf("the feed ended after %d of %d events", len(list), n)
		case "event":
			var e shownEvent
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				f.t.Fatalf("%q: %v", data, err)
			}
			list = append(list, e)
		}
	}
	return list
}

func eventsBody(n int, fields string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`{"event":"page","identities":["browser:seen1"]%s}`, fields)
	}
	return `{"events":[` + strings.Join(list, ",") + `]}`
}

func (r *rig) post(key, body string) {
	r.t.Helper()
	if w := r.serve("POST", "/v1/events", body, auth, "Bearer "+key); w.Code != 200 || !strings.Contains(w.Body.String(), `"refused":[]`) {
		r.t.Fatalf("events: %d %s", w.Code, w.Body)
	}
}

func TestLiveFeedShowsOwnEvents(t *testing.T) {
	r := newRig(t)
	_, service := listen(t, r)
	f := openFeed(t, service, "acme-key", "")
	admin := openFeed(t, service, "admin-key", "?client=acme")
	r.post("demo-key", `{"events":[{"event":"theirs","identities":["browser:seen2"]}]}`)
	props := `"a":1,"b":true,"c":"` + strings.Repeat("é", 100) + `","d":4,"e":5,"f":6,"g":7,"h":8,"i":9`
	r.post("acme-key", `{"events":[{"event":"page","identities":["browser:seen1","account:7d2f"],"url":"https://a.example/x?token=secret#y","props":{`+props+`}}]}`)
	e := f.events(1)[0]
	if e.Event != "page" {
		t.Errorf("event %q: another client's?", e.Event)
	}
	if e.URL != "https://a.example/x" {
		t.Errorf("url %q", e.URL)
	}
	// Left out are i and the section, which is derived.
	if len(e.Props) != 8 || e.More != 2 || e.Props["a"] != 1.0 || e.Props["b"] != true {
		t.Errorf("props %v and %d more", e.Props, e.More)
	}
	if c, _ := e.Props["c"].(string); c != strings.Repeat("é", 40)+"…" {
		t.Errorf("a long text is shown as %q", c)
	}
	if len(e.Identities) != 2 || !strings.HasPrefix(e.Identities[0], "browser~") || !strings.HasPrefix(e.Identities[1], "account~") || strings.Contains(fmt.Sprint(e), "seen1") {
		t.Errorf("a client's key is shown %v", e.Identities)
	}
	full := admin.events(1)[0]
	if fmt.Sprint(full.Identities) != "[browser:seen1 account:7d2f]" {
		t.Errorf("an admin key is shown %v", full.Identities)
	}
	r.post("acme-key", eventsBody(1, ""))
	if again := f.events(1)[0]; again.Identities[0] != e.Identities[0] {
		t.Errorf("the same person is %s, then %s", e.Identities[0], again.Identities[0])
	}
}

func TestLiveFeedNeverShowsOptedOut(t *testing.T) {
	r := newRig(t)
	_, service := listen(t, r)
	f := openFeed(t, service, "admin-key", "?client=acme")
	if w := r.serve("POST", "/v1/optouts", `{"identity":"browser:gone1"}`, auth, key("acme-key")); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	r.post("acme-key", `{"events":[
		{"event":"first","identities":["browser:gone1","browser:seen1"]},
		{"event":"second","identities":["browser:seen1","browser:gone1"]},
		{"event":"last","identities":["browser:seen1"]}]}`)
	list := f.events(2)
	if list[0].Event != "second" || list[1].Event != "last" {
		t.Errorf("shown: %+v", list)
	}
	if strings.Contains(fmt.Sprint(list), "gone1") {
		t.Errorf("an opted-out identity is shown: %+v", list)
	}
}

func TestLiveFeedRights(t *testing.T) {
	r := newRig(t)
	_, service := listen(t, r)
	for _, c := range []struct {
		key, query, code string
		status           int
	}{
		{"", "", "unauthorized", 401},
		{"guess", "", "unauthorized", 401},
		{"acme-report", "", "forbidden", 403},
		{"acme-key", "?client=other", "forbidden", 403},
		{"acme-key", "?client=nobody", "forbidden", 403},
		{"admin-key", "", "client", 400},
		{"admin-key", "?client=nobody", "client", 400},
	} {
		w := r.serve("GET", "/v1/live"+c.query, "", auth, key(c.key))
		if w.Code != c.status || code(w) != c.code {
			t.Errorf("key %q%s: %d %s, not %d %s", c.key, c.query, w.Code, w.Body, c.status, c.code)
		}
	}
	if w := r.serve("POST", "/v1/live", "", auth, key("acme-key")); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	resp, err := http.DefaultClient.Do(withKey(t, "HEAD", "http://"+service+"/v1/live", "acme-key"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("HEAD: %s", resp.Status)
	}
}

func withKey(t *testing.T, method, url, key string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(auth, "Bearer "+key)
	return r
}

// A key that opens nothing any more closes its feed; so does a node that stops.
func TestLiveFeedEnds(t *testing.T) {
	r := newRig(t)
	_, service := listen(t, r) // its cleanup waits for all requests
	revoked := openFeed(t, service, "demo-key", "")
	stopped := openFeed(t, service, "acme-key", "")
	r.mu.Lock()
	delete(r.keys, "demo-key")
	r.mu.Unlock()
	for kind := "?"; kind != ""; {
		kind, _ = revoked.next()
	}
	r.g.StopLive()
	for kind := "?"; kind != ""; {
		kind, _ = stopped.next()
	}
	if _, resp := tryFeed(t, service, "acme-key", ""); resp.StatusCode != 503 {
		t.Errorf("a feed of a node that stops: %s", resp.Status)
	}
}

// A server that stops ends its feeds as answers end, not as connections break.
func TestLiveFeedEndsWithTheServer(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.g.Serve(ctx, nil, l) }()
	f := openFeed(t, l.Addr().String(), "acme-key", "")
	cancel()
	for kind := "?"; kind != ""; {
		kind, _ = f.next()
	}
	if err := f.lines.Err(); err != nil {
		t.Errorf("the feed broke off: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLiveFeedsAreBounded(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		name := proto.ClientName(fmt.Sprintf("c%d", i))
		r.clients[name] = proto.ClientInfo{ID: proto.ClientID(100 + i), Name: name, Space: 9, Floor: 50}
	}
	_, service := listen(t, r)
	var first *feed
	for i := range gateway.LivePerClient {
		f := openFeed(t, service, "acme-key", "")
		if i == 0 {
			first = f
		}
	}
	if w := r.serve("GET", "/v1/live", "", auth, key("acme-key")); w.Code != 429 || code(w) != "rate_limited" {
		t.Errorf("one feed too many of a client: %d %s", w.Code, w.Body)
	}
	for i := range gateway.LivePerNode - gateway.LivePerClient {
		openFeed(t, service, "admin-key", fmt.Sprintf("?client=c%d", i%20))
	}
	if w := r.serve("GET", "/v1/live", "", auth, key("demo-key")); w.Code != 503 || code(w) != "overloaded" {
		t.Errorf("one feed too many of a node: %d %s", w.Code, w.Body)
	}
	first.cancel()
	r.g.WaitLive(gateway.LivePerNode - 1)
	openFeed(t, service, "demo-key", "")
}

// stuckWriter takes nothing until it is released.
type stuckWriter struct {
	*httptest.ResponseRecorder
	stuck   chan struct{} // closed by the first write of an event
	release chan struct{}
	once    sync.Once
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	if strings.HasPrefix(string(b), "event: event") {
		w.once.Do(func() { close(w.stuck) })
		<-w.release
	}
	return w.ResponseRecorder.Write(b)
}

// A reader that takes nothing costs intake nothing: it loses events, and is told
// how many.
func TestLiveFeedSlowReader(t *testing.T) {
	var clock atomic.Int64
	r := newRig(t, func(c *gateway.Config) {
		c.Now = func() time.Time { return now.Add(time.Duration(clock.Load()) * time.Second) }
	})
	ctx, cancel := context.WithCancel(t.Context())
	request := httptest.NewRequestWithContext(ctx, "GET", "/v1/live", nil)
	request.Header.Set(auth, key("acme-key"))
	w := &stuckWriter{ResponseRecorder: httptest.NewRecorder(), stuck: make(chan struct{}), release: make(chan struct{})}
	done := make(chan struct{})
	go func() { r.g.Service().ServeHTTP(w, request); close(done) }()
	r.g.WaitLive(1)
	const posts, perPost = 8, 30
	for i := range posts { // each returns although nobody reads
		r.post("acme-key", eventsBody(perPost, ""))
		clock.Add(1)
		if i == 0 {
			<-w.stuck
		}
	}
	seen, skipped, lost := r.g.LiveTally("acme")
	if seen != posts*perPost || skipped != posts*(perPost-gateway.LivePerSecond) {
		t.Errorf("of %d events %d are seen and %d skipped", posts*perPost, seen, skipped)
	}
	// The reader has at most what waits and the one in its hands.
	if least := uint64(posts*gateway.LivePerSecond - gateway.LiveBuffer - 1); lost != least {
		t.Errorf("lost %d, not %d", lost, least)
	}
	close(w.release)
	r.g.WaitLiveDrained("acme")
	r.g.StopLive()
	<-done
	cancel()
	told := strings.Count(w.Body.String(), "event: event\n")
	if uint64(told)+skipped+lost != seen {
		t.Errorf("%d told, %d skipped, %d lost of %d", told, skipped, lost, seen)
	}
}

// Samples come from the whole of a body, and what failed is not among them.
func TestLiveFeedSamples(t *testing.T) {
	r := newRig(t)
	_, service := listen(t, r)
	f := openFeed(t, service, "acme-key", "")
	list := make([]string, 200)
	for i := range list {
		list[i] = fmt.Sprintf(`{"event":"e%d","identities":["browser:seen1"]}`, i)
	}
	r.fail = func(_ int, e *proto.Event) bool { return strings.HasSuffix(e.Name, "0") }
	r.serve("POST", "/v1/events", `{"events":[`+strings.Join(list, ",")+`]}`, auth, key("acme-key"))
	got := f.events(gateway.LivePerSecond)
	for _, e := range got {
		if strings.HasSuffix(e.Event, "0") {
			t.Errorf("%s was not taken in", e.Event)
		}
	}
	var n int
	if _, err := fmt.Sscanf(got[len(got)-1].Event, "e%d", &n); err != nil || n < 180 {
		t.Errorf("the last sample of 200 is %q", got[len(got)-1].Event)
	}
	if seen, skipped, _ := r.g.LiveTally("acme"); seen != 180 || skipped != 160 {
		t.Errorf("%d seen, %d skipped", seen, skipped)
	}
	// Traits are no events.
	if w := r.serve("PATCH", "/v1/identities/browser:seen1/traits", `{"age":34}`, auth, key("acme-key")); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	if seen, _, _ := r.g.LiveTally("acme"); seen != 180 {
		t.Errorf("%d seen after a trait", seen)
	}
}
