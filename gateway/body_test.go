package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"kith/gateway"
)

const oneEvent = `{"event":"page","identities":["browser:a1"]}`

// TestLengthsAloneTakeNoMemory: who announces 4 MiB and sends a byte holds little.
func TestLengthsAloneTakeNoMemory(t *testing.T) {
	for sent, most := range map[int]int{1: 64 << 10, 100_000: 512 << 10, 1 << 20: 4 << 20} {
		b, err := gateway.ReadExactly(strings.NewReader(strings.Repeat("x", sent)), nil, 4<<20)
		if err == nil || cap(b) > most {
			t.Errorf("of %d bytes sent %d are held: %v", sent, cap(b), err)
		}
	}
	want := bytes.Repeat([]byte("0123456789"), 30_000)
	if b, err := gateway.ReadExactly(bytes.NewReader(want), []byte("before"), len(want)); err != nil || string(b) != "before"+string(want) {
		t.Errorf("%d bytes: %v", len(b), err)
	}
}

// stalled sends what it has and then nothing until it is told.
type stalled struct {
	io.Reader
	at   sync.Once
	here chan struct{}
	on   chan struct{}
}

func (s *stalled) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if err == io.EOF {
		s.at.Do(func() { close(s.here) })
		<-s.on
	}
	return n, err
}

// TestBodiesUnderWayAreBounded: what slow senders hold together has a bound, beyond
// which large bodies are refused and small ones are not.
func TestBodiesUnderWayAreBounded(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.BodiesBytesMax = 256 << 10 })
	post := func(n int) int {
		body := `{"events":[` + strings.Repeat(" ", n) + oneEvent + `]}`
		return r.serve("POST", "/v1/events", body, auth, key("acme-key")).Code
	}
	if post(200<<10) != 200 {
		t.Fatal("alone it is refused")
	}
	slow := &stalled{Reader: strings.NewReader(strings.Repeat(" ", 200<<10)), here: make(chan struct{}), on: make(chan struct{})}
	done := make(chan int)
	go func() {
		q := httptest.NewRequest("POST", "/v1/events", slow)
		q.Header.Set(auth, key("acme-key"))
		w := httptest.NewRecorder()
		r.g.Service().ServeHTTP(w, q)
		done <- w.Code
	}()
	<-slow.here
	if got := post(200 << 10); got != 503 {
		t.Errorf("beside a slow one a large body is answered with %d", got)
	}
	if got := post(10 << 10); got != 200 {
		t.Errorf("beside a slow one a small body is answered with %d", got)
	}
	close(slow.on)
	if got := <-done; got != 400 {
		t.Errorf("spaces are answered with %d", got)
	}
	if got := post(200 << 10); got != 200 {
		t.Errorf("after the slow one a large body is answered with %d", got)
	}
}

// TestStrangersBodiesHoldNoKeysBack: what the public plane has under way takes nothing of
// the service plane's room, nor the other way.
func TestStrangersBodiesHoldNoKeysBack(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.BodiesBytesMax = 256 << 10 })
	public := `{"client":"acme","events":[{"event":"page"}]` + strings.Repeat(" ", 200<<10) + `}`
	service := `{"events":[` + strings.Repeat(" ", 200<<10) + oneEvent + `]}`
	hold := func(h http.Handler, path string) (leave func()) {
		slow := &stalled{Reader: strings.NewReader(strings.Repeat(" ", 200<<10)), here: make(chan struct{}), on: make(chan struct{})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			q := httptest.NewRequest("POST", path, slow)
			q.Header.Set(auth, key("acme-key"))
			h.ServeHTTP(httptest.NewRecorder(), q)
		}()
		<-slow.here
		return func() { close(slow.on); <-done }
	}
	want := func(when string, ofPublic, ofService int) {
		t.Helper()
		if got := r.visit("POST", "/v1/events", public).Code; got != ofPublic {
			t.Errorf("%s the public plane answers %d, want %d", when, got, ofPublic)
		}
		if got := r.serve("POST", "/v1/events", service, auth, key("acme-key")).Code; got != ofService {
			t.Errorf("%s the service plane answers %d, want %d", when, got, ofService)
		}
	}
	for _, path := range []string{"/v1/events", "/v1/optout"} {
		leave := hold(r.g.Public(), path)
		want("beside a stranger's body to "+path, 503, 200)
		leave()
	}
	leave := hold(r.g.Service(), "/v1/lookup")
	want("beside a key's body", 200, 503)
	leave()
	want("beside none", 200, 200)
}

// TestSmallBodiesStaySmall: of a body whose parts would be many times its bytes as
// objects they are counted before they are made.
func TestSmallBodiesStaySmall(t *testing.T) {
	r := newRig(t)
	const protobuf = "application/x-protobuf"
	full := func(before, part, after string) string {
		return before + strings.Repeat(part, (4<<20-len(before)-len(after))/len(part)) + after
	}
	event := func(parts string) string { // one of a request
		return string(protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), parts))
	}
	most := int(4<<20) - 16
	for _, tt := range []struct{ name, path, kind, body, want string }{
		{"events", "/v1/events", protobuf, full("", "\x12\x00", ""), "too_large"},
		{"identities of an event", "/v1/events", protobuf, event(full("", "\x22\x00", "")[:most]), "at most 8 identities"},
		{"properties of an event", "/v1/events", protobuf, event(full("", "\x2a\x00", "")[:most]), "at most 64 properties"},
		{"identities of a look-up", "/v1/lookup", protobuf, full("", "\x0a\x00", ""), "too_large"},
		{"tables that are there", "/v1/audiences/export", "", full(`{"expr":"auto","format":"csv","have":[`, "{},", "{}]}"), "too_large"},
		{"lanes of an earlier export", "/v1/audiences/export", "", full(`{"expr":"auto","since":{"lanes":[`, "{},", "{}]}}"), "too_large"},
		{"behind members that are none", "/v1/audiences/export", "", full(`{`+unknown(100)+`"have":[`, "{},", "{}]}"), "too_large"},
		{"behind what is deep", "/v1/audiences/export", "", full(`{"expr":`+strings.Repeat("[", 65)+strings.Repeat("]", 65)+`,"have":[`, "{},", "{}]}"), "json"},
		{"rows", "/v1/traits", "", full(`{"rows":[`, "{},", "{}]}"), "too_large"},
		{"rows of an import", "/v1/imports/check", "", full(`{"identities":[`, `"",`, `""]}`), "too_large"},
	} {
		var before, after runtime.MemStats
		packed := zip(t, []byte(tt.body))
		runtime.ReadMemStats(&before)
		w := r.serve("POST", tt.path, packed, auth, key("acme-key"), "Content-Type", tt.kind, "Content-Encoding", "gzip")
		runtime.ReadMemStats(&after)
		if !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: %d %.200q, want %s", tt.name, w.Code, w.Body, tt.want)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 40<<20 { // up to 24 MiB, and 32 with the race detector; the parts would be 100 and more
			t.Errorf("%s: %d bytes as %d take %d MiB", tt.name, len(packed), len(tt.body), got>>20)
		}
	}
}

// unknown are members that no form has.
func unknown(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"m%d":1,`, i)
	}
	return b.String()
}
