package bench_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/internal/bench"
)

func TestReadHead(t *testing.T) {
	const good = "HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 3\r\nDate: y\r\n\r\nabc"
	for _, c := range []struct {
		in                 string
		status, size, body int
		ok, bad            bool
	}{
		{in: good, status: 200, size: len(good) - 3, body: 3, ok: true},
		{in: "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", status: 503, size: 55, ok: true},
		{in: good[:40]},
		{in: ""},
		{in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", bad: true},
		{in: "HTTP/1.1 xyz OK\r\nContent-Length: 1\r\n\r\n", bad: true},
		{in: "SSH-2.0\r\n\r\n", bad: true},
		{in: strings.Repeat("x", 70<<10), bad: true},
	} {
		status, size, body, ok, err := bench.ReadHead([]byte(c.in))
		if (err != nil) != c.bad || ok != c.ok {
			t.Errorf("%.40q: ok %v, error %v", c.in, ok, err)
		}
		if c.ok && (status != c.status || size != c.size || body != c.body) {
			t.Errorf("%.40q: %d %d %d, want %d %d %d", c.in, status, size, body, c.status, c.size, c.body)
		}
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, size, body, ok, err := bench.ReadHead(b)
		if ok && (err != nil || size > len(b) || size < 4 || body < 0) {
			t.Fatalf("size %d, body %d of %d bytes, error %v", size, body, len(b), err)
		}
	})
}

// A connection is used again, for answers of any size.
func TestExchanges(t *testing.T) {
	large := strings.Repeat("0123456789", 20_000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		answer := r.Method + " " + string(b)
		if r.URL.Path == "/large" {
			w.Header().Set("Content-Length", "200000")
			answer = large
		}
		if r.URL.Path == "/full" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if _, err := io.WriteString(w, answer); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	post := func(path, body string) []byte {
		return []byte("POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + string(rune('0'+len(body))) + "\r\n\r\n" + body)
	}
	statuses, bodies, err := bench.Exchanges(context.Background(), s.Listener.Addr().String(), post("/", "one"), post("/large", ""), post("/full", ""), post("/", "two"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]int{200, 200, 503, 200}, statuses); d != "" {
		t.Errorf("statuses (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"POST one", large, "", "POST two"}, bodies); d != "" {
		t.Errorf("bodies (-want +got):\n%s", d)
	}
}

func TestReply(t *testing.T) {
	for in, want := range map[string]int{
		"+OK\r\n": 5, ":12\r\nrest": 5, "$3\r\nabc\r\nx": 9, "$-1\r\n": 5, "*-1\r\n": 5, "*0\r\n": 4,
		"*2\r\n$1\r\na\r\n:5\r\n": 15, "*2\r\n$1\r\na\r\n": 0, "$3\r\nab": 0, "$3": 0, "": 0,
	} {
		if got, err := bench.Reply([]byte(in)); got != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"-ERR no\r\n", "?3\r\n", "$x\r\n", "$-2\r\n", "*9999999\r\n", "\r\n"} {
		if n, err := bench.Reply([]byte(in)); err == nil {
			t.Errorf("%q: no error but %d", in, n)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("*2\r\n$1\r\na\r\n:5\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := bench.Reply(b); n < 0 || n > len(b) || err != nil && n != 0 {
			t.Fatalf("%d of %d bytes, error %v", n, len(b), err)
		}
	})
}
