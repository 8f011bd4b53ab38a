package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kith/gateway"
)

// listen serves r's planes on loopback until the test ends.
func listen(t *testing.T, r *rig) (public, service string) {
	t.Helper()
	var ls [2]net.Listener
	for i := range ls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls[i] = l
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.g.Serve(ctx, ls[0], ls[1]) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ls[0].Addr().String(), ls[1].Addr().String()
}

// raw sends bytes and reads one answer.
func raw(t *testing.T, addr, request string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() { _, _ = io.WriteString(c, request) }() // the server may answer before it read all
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// An explanation may wait for its turn and read for longer than a server gives a request,
// and its caller may still go away.
func TestExplanationTakesItsTime(t *testing.T) {
	r := newRig(t)
	gone := make(chan struct{}, 2)
	r.explaining = func(ctx context.Context) error {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			gone <- struct{}{}
		}
		return ctx.Err()
	}
	s := httptest.NewUnstartedServer(r.g.Service())
	s.Config.ReadTimeout, s.Config.WriteTimeout = 100*time.Millisecond, 200*time.Millisecond
	s.Start()
	defer s.Close()
	ask := func(ctx context.Context) (int, error) {
		q, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/identities/browser:seen1/explain?segment=all", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer acme-key")
		a, err := s.Client().Do(q)
		if err != nil {
			return 0, err
		}
		return a.StatusCode, a.Body.Close()
	}
	if code, err := ask(t.Context()); err != nil || code != http.StatusOK {
		t.Errorf("answered with %d, %v", code, err)
	}
	soon, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer leave()
	if code, err := ask(soon); err == nil {
		t.Errorf("who went is answered with %d", code)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("an explanation goes on for who went")
	}
}

// With --dev, whose keys everybody knows, a web page cannot use them by giving this
// machine its own name.
func TestDevKeysStayAtHome(t *testing.T) {
	for _, dev := range []bool{true, false} {
		_, service := listen(t, newRig(t, func(c *gateway.Config) { c.Dev = dev }))
		for host, home := range map[string]bool{
			"127.0.0.1:8081": true, "[::1]:8081": true, "localhost": true, "LOCALHOST.:8081": true, "kith.localhost:8081": true, "kith": true, "": true,
			"evil.example:8081": false, "127.0.0.1.evil.example": false, "evil.example.": false, "localhost.evil.example": false,
		} {
			for key, want := range map[string]int{"": 401, "Authorization: Bearer admin-key\r\n": 200} {
				if dev && !home && key != "" {
					want = 403
				}
				got := raw(t, service, "GET /v1/clients HTTP/1.1\r\nHost: "+host+"\r\n"+key+"Connection: close\r\n\r\n").StatusCode
				if got != want {
					t.Errorf("dev %t, host %q, key %t: %d, want %d", dev, host, key != "", got, want)
				}
			}
		}
	}
}

// TestEveryAnswerIsWhatItSays: on both planes no browser may take an answer for
// something else, and with TLS none comes back without.
func TestEveryAnswerIsWhatItSays(t *testing.T) {
	r := newRig(t)
	planes := map[string]http.Handler{"public": r.g.Public(), "service": r.g.Service()}
	routes := append(r.g.Routes(), gateway.Route{Plane: "public", Method: "GET", Path: "/none"}, gateway.Route{Plane: "service", Method: "GET", Path: "//none"})
	for _, x := range routes {
		for _, secure := range []bool{false, true} {
			q := httptest.NewRequest(x.Method, "http://kith.example"+strings.NewReplacer("{", "", "}", "").Replace(x.Path), nil)
			if secure {
				q.TLS = &tls.ConnectionState{}
			}
			w := httptest.NewRecorder()
			planes[x.Plane].ServeHTTP(w, q)
			if h := w.Header(); h.Get("X-Content-Type-Options") != "nosniff" || secure != (h.Get("Strict-Transport-Security") != "") {
				t.Errorf("%s %s %s, TLS %t: %d %v", x.Plane, x.Method, x.Path, secure, w.Code, h)
			}
		}
	}
}

// TestPathsThatAreNotClean: none is answered with a redirect and a page of HTML, and
// each is counted.
func TestPathsThatAreNotClean(t *testing.T) {
	r := newRig(t)
	paths := []string{"//", "///", "//none", "/.", "/./", "/..", "/v1//events", "/v1/events/", "/v1/events//", "/v1/../v1/events", "/v1/clients//export"}
	for name, plane := range map[string]http.Handler{"public": r.g.Public(), "service": r.g.Service()} {
		for _, path := range paths {
			if w := send(plane, "GET", path, ""); w.Code != 404 || code(w) != "not_found" {
				t.Errorf("%s plane, %s: %d %v %s", name, path, w.Code, w.Header(), w.Body)
			}
		}
		counted := fmt.Sprintf("kith_gateway_requests_total{outcome=\"4xx\",plane=%q,route=\"unknown\"} %d\n", name, len(paths))
		if body := r.serve("GET", "/metrics", "").Body.String(); !strings.Contains(body, counted) {
			t.Errorf("%s plane: not %s", name, counted)
		}
	}
}

func TestHostileRequests(t *testing.T) {
	r := newRig(t)
	public, service := listen(t, r)
	var many, small strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&many, "X-Header-%d: value\r\n", i)
		if i < 5000 {
			fmt.Fprintf(&small, "a%d:\r\n", i)
		}
	}
	for _, tt := range []struct {
		name, request string
		status        int
	}{
		{"10,000 headers", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + many.String() + "\r\n", 431},
		{"5,000 short headers", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + small.String() + "\r\n", 431},
		{"long line", "GET /" + strings.Repeat("a", 100_000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400},
		{"header with NUL", "GET /healthz HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400},
		{"two lengths", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400},
		{"a length that lies", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{}", 413},
		{"chunks without end", "POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+strings.Repeat(" ", 0x10000)+"\r\n", 100), 413},
		{"sound", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	} {
		if resp := raw(t, public, tt.request); resp.StatusCode != tt.status {
			t.Errorf("%s: %s", tt.name, resp.Status)
		}
	}
	if resp := raw(t, service, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

// A picture comes with its length, in one piece, and the connection is used again.
func TestPictureHasALength(t *testing.T) {
	public, _ := listen(t, exchange(t))
	for _, path := range []string{"/v1/pixel.gif?client=acme", "/v1/pixel.gif", "/v1/match?client=acme&partner=adx&uid=4711a"} {
		resp := raw(t, public, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "image/gif" || resp.Header.Get("Content-Length") != "43" || resp.Close || len(resp.TransferEncoding) > 0 {
			t.Errorf("%s: %s %v %v", path, resp.Status, resp.TransferEncoding, resp.Header)
		}
	}
}

func TestServeStopsWhenAListenerFails(t *testing.T) {
	r := newRig(t)
	var ls [2]net.Listener
	for i := range ls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls[i] = l
	}
	done := make(chan error, 1)
	go func() { done <- r.g.Serve(context.Background(), ls[0], ls[1]) }()
	if err := ls[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("Serve ended without an error")
	}
	if _, err := net.Dial("tcp", ls[1].Addr().String()); err == nil {
		t.Error("the other listener is still open")
	}
}

func TestOpenNATSDefault(t *testing.T) {
	if c := (gateway.Config{}); c.NATSOpen || !gateway.DefaultConfigOf(gateway.Config{Dev: true}).NATSOpen {
		t.Error("NATS needs keys unless Dev")
	}
}

// A query that is too long is refused wherever signals are read from it, but for an
// opt-out, which is taken.
func TestLongQueries(t *testing.T) {
	r := newRig(t)
	long := "client=acme&x=" + strings.Repeat("x", 17<<10)
	for _, x := range []struct {
		method, path string
		want         int
	}{
		{"POST", "/v1/events", 413}, {"GET", "/v1/me/segments", 413}, {"GET", "/v1/me", 413}, {"DELETE", "/v1/me", 413},
		{"POST", "/v1/optin", 413}, {"GET", "/v1/optout/status", 413}, {"POST", "/v1/choices", 413},
		{"GET", "/optout", 413}, {"GET", "/choices", 413}, {"POST", "/choices", 413}, {"GET", "/v1/match", 413},
		{"POST", "/v1/optout", 200}, {"GET", "/v1/pixel.gif", 200},
	} {
		w := r.visit(x.method, x.path+"?"+long, "{}", "Content-Type", "application/json")
		if w.Code != x.want {
			t.Errorf("%s %s: %d, want %d: %s", x.method, x.path, w.Code, x.want, w.Body)
		}
	}
}

// TestPlanesStopTogether: a browser that never sends its body takes no time from what
// the service plane has in work.
func TestPlanesStopTogether(t *testing.T) {
	r := newRig(t)
	synctest.Test(t, func(t *testing.T) {
		public, service := newPipeListener(), newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.g.Serve(ctx, public, service) }()
		const body = `{"identities":["browser:seen1"]}`
		stalled, _ := public.dial(t, "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
		defer stalled.Close()
		c, answer := service.dial(t, fmt.Sprintf("POST /v1/lookup HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n{", key("acme-key"), len(body)))
		defer c.Close()
		synctest.Wait()
		cancel()
		synctest.Wait()
		select {
		case <-service.closed:
		default:
			t.Error("the service plane takes requests that it has no time left to answer")
		}
		time.Sleep(9 * time.Second)
		if _, err := c.Write([]byte(body[1:])); err != nil {
			t.Fatal(err)
		}
		if resp, err := answer(); err != nil || resp.StatusCode != 200 {
			t.Errorf("a look-up in work when the node stops: %v %v", resp, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
