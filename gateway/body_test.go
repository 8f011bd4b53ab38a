package gateway_test

import (
	"bytes"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

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
