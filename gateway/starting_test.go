package gateway_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"kith/gateway"
)

// TestStarting: a node that is starting says so, and who asks something else meanwhile
// is answered by it once it is there.
func TestStarting(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := gateway.Start(l, l.(*net.TCPListener), slog.New(slog.DiscardHandler))
	get := func(path string) (int, string) {
		q, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+l.Addr().String()+path, http.NoBody)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		q.Header.Set(auth, key("acme-key"))
		a, err := http.DefaultClient.Do(q)
		if err != nil {
			return 0, err.Error()
		}
		defer a.Body.Close()
		b, _ := io.ReadAll(a.Body)
		return a.StatusCode, string(b)
	}
	for range 3 {
		if status, body := get("/healthz"); status != 200 {
			t.Errorf("/healthz: %d %s", status, body)
		}
		if status, body := get("/readyz"); status != 503 {
			t.Errorf("/readyz: %d %s", status, body)
		}
	}
	const lookup = "/v1/identities/browser:seen1/segments"
	early := make(chan string)
	for range 4 {
		go func() {
			status, body := get(lookup)
			early <- fmt.Sprint(status, " ", body)
		}()
	}
	s.Open(r.g.Service())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.g.Serve(ctx, nil, l) }()
	for range 4 {
		if answer := <-early; !strings.HasPrefix(answer, "200 ") {
			t.Errorf("who asked early is answered with %s", answer)
		}
	}
	for path, want := range map[string]int{"/readyz": 200, lookup: 200} {
		if status, body := get(path); status != want {
			t.Errorf("%s of the node: %d %s", path, status, body)
		}
	}
	s.Stop()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
