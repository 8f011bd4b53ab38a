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
	"testing/synctest"
	"time"

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

// TestStartingAnswersToTheEnd: what was asked early may take long, until Stop, which
// gives it as long as it gives anybody.
func TestStartingAnswersToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := gateway.Start(l, l, slog.New(slog.DiscardHandler))
		ask := func(path string) (net.Conn, func() (*http.Response, error)) {
			return l.dial(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		_, early := ask("/45s")
		silent, late := l.dial(t, "")
		_, endless := ask("/8760h")
		s.Open(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			d, _ := time.ParseDuration(r.URL.Path[1:])
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}))
		time.Sleep(time.Second)
		if _, err := io.WriteString(silent, "GET /1s HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		for name, answer := range map[string]func() (*http.Response, error){"early": early, "connected early": late} {
			if resp, err := answer(); err != nil || resp.StatusCode != 200 || !resp.Close {
				t.Errorf("who came %s got %v %v", name, resp, err)
			}
		}
		before := time.Now()
		s.Stop()
		if took := time.Since(before); took != 10*time.Second {
			t.Errorf("Stop took %v", took)
		}
		if resp, err := endless(); err == nil {
			t.Errorf("after Stop: %v", resp)
		}
	})
}
