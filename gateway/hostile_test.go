package gateway_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/proto"
)

// TestHostileCookies: forged, doubled and oversized cookies name nobody else,
// and do not keep an opt-out from being seen.
func TestHostileCookies(t *testing.T) {
	r := newRig(t)
	r.members[member{1, "browser:abc123"}] = []proto.SegmentID{"auto"}
	const told = `{"opted_out":false,"segments":["auto"]}`
	const nothing = `{"opted_out":false,"segments":[]}`
	const out = `{"opted_out":true,"segments":[],"by":"cookie"}`
	for _, tt := range []struct{ name, cookie, want string }{
		{"its own", "kith_id=abc123", told},
		{"the same twice", "kith_id=abc123; kith_id=abc123", told},
		{"with one that is none", "kith_id=null; kith_id=abc123; kith_id=../x", told},
		{"two", "kith_id=abc123; kith_id=abc124", nothing},
		{"two, the other first", "kith_id=abc124; kith_id=abc123", nothing},
		{"many", "kith_id=abc123" + strings.Repeat("; kith_id=x1", 1) + "; kith_id=x2; kith_id=x3; kith_id=x4; kith_id=x5; kith_id=x6", `{"opted_out":true,"segments":[],"by":"opted_out"}`},
		{"another name", "Kith_id=abc123; kith_id2=abc123; xkith_id=abc123", nothing},
		{"oversized", "kith_id=abc123" + strings.Repeat("0", 5000), nothing},
		{"a kind of its own", "kith_id=account:a1", nothing},
		{"an attribute", "kith_id=abc123; Path=/; Domain=evil.example", told},
		{"CR and LF", "kith_id=abc123%0d%0aSet-Cookie:x=y", nothing},
		{"quoted", `kith_id="abc123"`, told},
		{"not opted out", "kith_optout=0; kith_id=abc123", told},
		{"not opted out in words", "kith_optout=true; kith_id=abc123", told},
		{"opted out, the other first", "kith_optout=0; kith_optout=1; kith_id=abc123", out},
		{"opted out, the other last", "kith_id=abc123; kith_optout=1; kith_optout=", out},
		{"opted out behind a large one", "a=" + strings.Repeat("x", 8000) + "; kith_id=abc123; kith_optout=1", out},
		{"opted out behind thousands", strings.Repeat("a=1; ", 4000) + "kith_id=abc123; kith_optout=1", out},
		{"thousands", strings.Repeat("a=1; ", 4000) + "kith_id=abc123", nothing},
		{"opted out behind many", strings.Repeat("a=1; ", 1000) + "kith_id=abc123; kith_optout=1", out},
	} {
		w := r.visit("GET", "/v1/me/segments?client=demo", "", "Cookie", tt.cookie)
		if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != tt.want {
			t.Errorf("%s: %d %s", tt.name, w.Code, got)
		}
		for _, c := range w.Result().Cookies() {
			if c.Name != "kith_optout" || strings.Contains(c.Raw, "evil") {
				t.Errorf("%s: sets %s", tt.name, c.Raw)
			}
		}
	}
	// An event of a browser with two is a new one's; what it is known by is cut all the same.
	const two = "kith_id=abc123; kith_id=abc124"
	w := r.visit("POST", "/v1/events", page, "Cookie", two)
	c := cookies(w)["kith_id"]
	if c == nil || c.Value == "abc123" || c.Value == "abc124" || r.taken()[0].Identities[0].Value() != c.Value {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	w = r.visit("POST", "/v1/optout", `{"everywhere":false}`, "Cookie", two)
	if x := cutOf(t, w.Body.Bytes()); w.Code != 200 || !x.Final || x.Receipt == nil || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = r.visit("DELETE", "/v1/me", "", "Cookie", "kith_id=abc125; kith_id=abc126")
	if x := cutOf(t, w.Body.Bytes()); w.Code != 200 || !x.Erased || !x.Final {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if d := cmp.Diff([]string{"erase browser:abc125 all", "erase browser:abc126 all", "optout browser:abc123 false", "optout browser:abc124 false"}, slices.Sorted(slices.Values(r.graph.cuts))); d != "" {
		t.Error(d)
	}
}

// TestCrowdedBrowserIsCut: of up to 32 identities all are cut, and until they are none
// is said to be; of more the answer is not final, and they stay named.
func TestCrowdedBrowserIsCut(t *testing.T) {
	for _, n := range []int{5, 32, 33} {
		for _, tt := range []struct{ method, target, what string }{{"POST", "/v1/optout", "optout"}, {"DELETE", "/v1/me", "erase"}} {
			r := newRig(t)
			var list []string
			for i := range n {
				list = append(list, cookieOf(i))
			}
			w := r.visit(tt.method, tt.target, "", "Cookie", strings.Join(list, "; "))
			x, all := cutOf(t, w.Body.Bytes()), n <= 32
			if w.Code != 200 || x.Final != all || (x.Receipt != nil) != all || (cookies(w)["kith_id"] != nil) != all {
				t.Errorf("%s of %d: %d %s, cookies %v", tt.what, n, w.Code, w.Body, cookies(w))
			}
			if got := slices.Compact(slices.Sorted(slices.Values(r.graph.cuts))); len(got) != min(n, 32) || !strings.HasPrefix(got[0], tt.what) {
				t.Errorf("%s of %d: cut %v", tt.what, n, got)
			}
		}
	}
}

// TestSeveralCookiesAreToldAlike: what a browser with several cookies is told of its opt-out is
// the same on every route.
func TestSeveralCookiesAreToldAlike(t *testing.T) {
	r := newRig(t)
	r.members[member{1, "browser:abc123"}] = []proto.SegmentID{"auto"}
	r.serve("POST", "/v1/optouts", `{"identity":"browser:gone1"}`, auth, key("demo-key"))
	for _, tt := range []struct {
		name, cookie string
		out          bool
	}{
		{"none is out", "kith_id=abc123; kith_id=abc124", false},
		{"one is out", "kith_id=abc123; kith_id=gone1", true},
		{"the first is out", "kith_id=gone1; kith_id=abc123", true},
		{"only one, which is out", "kith_id=gone1", true},
		{"too many, of which one might be", "kith_id=a1; kith_id=a2; kith_id=a3; kith_id=a4; kith_id=a5", true},
	} {
		want := fmt.Sprintf(`"opted_out":%t`, tt.out)
		for _, target := range []string{"/v1/optout/status?client=demo", "/v1/me?client=demo", "/v1/me/segments?client=demo"} {
			w := r.visit("GET", target, "", "Cookie", tt.cookie)
			if !strings.Contains(w.Body.String(), want) || strings.Contains(w.Body.String(), "auto") {
				t.Errorf("%s: %s: %d %s, want %s", tt.name, target, w.Code, w.Body, want)
			}
			if c := cookies(w)["kith_id"]; c != nil {
				t.Errorf("%s: %s sets %s", tt.name, target, c.Raw)
			}
		}
		w := r.visit("POST", "/v1/events", page, "Cookie", tt.cookie)
		if got := strings.Contains(w.Body.String(), `"opted_out"`); got != tt.out {
			t.Errorf("%s: an event: %d %s", tt.name, w.Code, w.Body)
		}
		if w = r.visit("POST", "/v1/optin", "", "Cookie", tt.cookie); !strings.Contains(w.Body.String(), `{"opted_out":false,`) {
			t.Errorf("%s: an opt-in: %d %s", tt.name, w.Code, w.Body)
		}
		r.serve("POST", "/v1/optouts", `{"identity":"browser:gone1"}`, auth, key("demo-key"))
	}
}

// TestAnothersOptOut: a browser cannot opt out, erase or declare for anybody but
// itself.
func TestAnothersOptOut(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct{ method, target, body string }{
		{"POST", "/v1/optout", `{"identity":"browser:victim1"}`},
		{"POST", "/v1/optout", `{"identities":["browser:victim1"]}`},
		{"POST", "/v1/optout?identity=browser:victim1", ""},
		{"POST", "/v1/optin", `{"identity":"browser:victim1"}`},
		{"DELETE", "/v1/me?identity=browser:victim1", `{"identity":"browser:victim1"}`},
		{"POST", "/v1/choices", `{"client":"acme","gender":"male","identity":"browser:victim1"}`},
		{"POST", "/v1/choices", `{"client":"acme","gender":"male","browser":"victim1"}`},
		{"POST", "/v1/optouts", `{"identity":"browser:victim1"}`},
		{"DELETE", "/v1/identities/browser:victim1", ""},
	} {
		for _, cookie := range []string{"kith_id=abc123", "x=1"} {
			r.visit(tt.method, tt.target, tt.body, "Cookie", cookie, "Content-Type", "application/json", "Sec-Fetch-Site", "same-origin", "X-Kith-Id", "victim1", "X-Forwarded-Cookie", "kith_id=victim1")
		}
	}
	for _, w := range []string{"do=out&identity=browser:victim1&kith_id=victim1&browser=victim1"} {
		r.submit("/optout?kith_id=victim1", w, "Cookie", "kith_id=abc123")
	}
	for _, c := range r.graph.cuts {
		if !strings.Contains(c, "browser:abc123") {
			t.Errorf("another's: %s", c)
		}
	}
	for _, x := range r.traits {
		t.Errorf("a trait of %s", x.Identity)
	}
	// Who gives no key cannot on the other plane either.
	for _, target := range []string{"/v1/optouts", "/v1/optins"} {
		if w := r.serve("POST", target, `{"identity":"browser:victim1"}`, "Cookie", "kith_id=victim1"); w.Code != 401 {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
}

// TestRedirectTricks: nothing but the partner's own address is ever led to.
func TestRedirectTricks(t *testing.T) {
	r := exchange(t)
	good := "https://sync.adx.example/match"
	if w := r.call(good+"?a={id}", ""); w.Code != 302 {
		t.Fatalf("the good one: %d %s", w.Code, w.Body)
	}
	var tricks []string
	for _, s := range []string{
		"//sync.adx.example/match", "//evil.example", "/\\evil.example", "\\\\evil.example", "https:/sync.adx.example/match", "https:///sync.adx.example/match",
		"https:\\\\sync.adx.example/match", "https://sync.adx.example\\@evil.example/match", "https://sync.adx.example@evil.example/match",
		"https://evil.example@sync.adx.example/match", "https://user:pass@sync.adx.example/match", "https://sync.adx.example:443/match", "https://sync.adx.example:8443/match",
		"https://sync.adx.example:@evil.example/match", "https://sync.adx.example.evil.example/match", "https://sync.adx.example./match", "https://evil.example/sync.adx.example/match",
		"https://evil.example?https://sync.adx.example/match", "https://evil.example#https://sync.adx.example/match", "http://sync.adx.example/match", "HTTPS://sync.adx.example/match",
		"https://SYNC.adx.example/match", "javascript:alert(1)", "javascript://sync.adx.example/match%0aalert(1)", "data:text/html,x", "vbscript:x", "blob:https://sync.adx.example/match",
		"https://sync。adx。example/match", "https://sync．adx．example/match", "https://sync.adx.exampⅼe/match", "https://sync.adx.example／match", "https://sync.adx.example\u200b/match",
		"https://sync.adx.example%2fmatch", "https://sync.adx.example%00/match", "https://sync.adx.example/match%2f..%2f..%2fevil", "https://sync.adx.example/match/../evil", "https://sync.adx.example/match/..;/evil",
		"https://sync.adx.example/./match", "https://sync.adx.example//match", "https://sync.adx.example/matches", "https://sync.adx.example/match\\..\\evil", "https://sync.adx.example/match#x",
		" https://sync.adx.example/match", "https://sync.adx.example/match ", "\thttps://sync.adx.example/match", "https://sync.adx\t.example/match", "https://sync.adx.example/match\r\nSet-Cookie: kith_optout=1",
		"https://sync.adx.example/match?x=%0d%0aSet-Cookie:a=b", "https://sync.adx.example/match?x=\r\nX: y", "https://sync.adx.example/match\x00", "https://[::1]/match", "https://2130706433/match", "https://0x7f.1/match",
		"https://sync.adx.example/match?next=https://x@evil.example", "https://xn--sync-adx.example/match", "https://sync.adx.example;evil.example/match", "https://sync.adx.example,evil.example/match",
	} {
		tricks = append(tricks, s)
		if once := url.QueryEscape(s); once != s {
			tricks = append(tricks, once) // escaped twice on its way
		}
	}
	before := len(r.matches())
	for _, s := range tricks {
		for _, headers := range [][]string{nil, {"Sec-GPC", "1"}} {
			w := r.call(s, "", headers...)
			if location, there := w.Header()["Location"]; w.Code != 403 || there || len(w.Result().Cookies()) != 0 || code(w) != "forbidden" {
				t.Errorf("%q: %d, led to %q, cookies %v", s, w.Code, location, w.Result().Cookies())
			}
		}
	}
	if n := len(r.matches()); n != before {
		t.Errorf("%d refused calls were stored", n-before)
	}
}

// answers reads the answers that come on one connection until it is closed.
func answers(t *testing.T, addr, request string) (list []int) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, request) }()
	b := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(b, nil)
		if err != nil {
			return list
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		list = append(list, resp.StatusCode)
	}
}

// TestRequestSmuggling: where a proxy and this server could see the end of a
// request in two places, what comes after is no request.
func TestRequestSmuggling(t *testing.T) {
	r := newRig(t)
	public, service := listen(t, r)
	const smuggled = "POST /v1/optout HTTP/1.1\r\nHost: example.com\r\nCookie: kith_id=victim1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	head := "POST /v1/events HTTP/1.1\r\nHost: example.com\r\n"
	for _, tt := range []struct {
		name, request string
		first         int // status of the first answer, 0 for none
	}{
		{"both lengths", head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 5+len(smuggled)) + smuggled, 400},
		{"both lengths, the other order", head + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, 400},
		{"chunks alone", head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 400},
		{"two lengths", head + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + smuggled, 400},
		{"two lengths in one line", head + "Content-Length: 0, 5\r\n\r\n" + smuggled, 400},
		{"a length with a sign", head + "Content-Length: +0\r\n\r\n" + smuggled, 400},
		{"a length with a blank in it", head + "Content-Length: 1 0\r\n\r\n" + smuggled, 400},
		{"chunked twice", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 501},
		{"chunked and identity", head + "Transfer-Encoding: chunked, identity\r\nContent-Length: 0\r\n\r\n" + smuggled, 501},
		{"chunked, misspelt", head + "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + smuggled, 501},
		{"a blank before the colon", head + "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + smuggled, 400},
		{"a bare LF in the chunk's size", head + "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n" + smuggled, 400},
		{"a chunk's size beyond all", head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + smuggled, 400},
		{"two hosts", "POST /v1/events HTTP/1.1\r\nHost: example.com\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n" + smuggled, 400},
	} {
		for name, addr := range map[string]string{"public": public, "service": service} {
			got := answers(t, addr, tt.request)
			if len(got) != 1 || name == "public" && got[0] != tt.first {
				t.Errorf("%s, %s plane: answers %v", tt.name, name, got)
			}
		}
	}
	if len(r.graph.cuts) != 0 {
		t.Errorf("a smuggled request was done: %v", r.graph.cuts)
	}
	// Requests that are sound may follow one another.
	if got := answers(t, public, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); len(got) != 2 || got[0] != 200 || got[1] != 200 {
		t.Errorf("sound ones: %v", got)
	}
}

// TestTooLargeIsTold: a client that sends all before it reads learns that its
// body is too large, and not only that its connection is gone.
func TestTooLargeIsTold(t *testing.T) {
	r := newRig(t)
	public, service := listen(t, r)
	const size = 16 << 20
	part := strings.Repeat(" ", 1<<20)
	for _, tt := range []struct{ name, head, part, end string }{
		{"a length", fmt.Sprintf("Content-Length: %d\r\n\r\n", size), part, ""},
		{"chunks", "Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n%s\r\n", len(part), part), "0\r\n\r\n"},
	} {
		for name, addr := range map[string]string{"public": public, "service": service} {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, err = io.WriteString(c, "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: "+key("acme-key")+"\r\n"+tt.head)
			for i := 0; i < size>>20 && err == nil; i++ {
				_, err = io.WriteString(c, tt.part)
			}
			if err == nil {
				_, err = io.WriteString(c, tt.end)
			}
			if err != nil {
				t.Errorf("%s, %s plane: %v", tt.name, name, err)
			} else if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
				t.Errorf("%s, %s plane: %v", tt.name, name, err)
			} else if resp.StatusCode != 413 {
				t.Errorf("%s, %s plane: %s", tt.name, name, resp.Status)
			}
			c.Close()
		}
	}
}

// alive asks the gateway at addr something.
func alive(t *testing.T, client *http.Client, url string) {
	t.Helper()
	resp, err := client.Get(url + "/healthz")
	if err != nil {
		t.Fatalf("the gateway does not answer: %v", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatalf("the gateway answers %s, %v", resp.Status, err)
	}
}

// TestSlowloris: connections that send a header byte by byte, or nothing, are
// closed, and others are answered meanwhile.
func TestSlowloris(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: waits for the server's own time limit for headers")
	}
	r := newRig(t)
	public, _ := listen(t, r)
	const slow = 300
	conns := make([]net.Conn, slow)
	for i := range conns {
		c, err := net.Dial("tcp", public)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		if i%3 > 0 {
			if _, err := io.WriteString(c, "POST /v1/events HTTP/1.1\r\nHost: x\r\nX-A: "); err != nil {
				t.Fatal(err)
			}
		}
	}
	alive(t, http.DefaultClient, "http://"+public)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // a byte now and then keeps nothing open
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				for i, c := range conns {
					if i%3 == 2 {
						_, _ = c.Write([]byte("a"))
					}
				}
			}
		}
	}()
	defer func() { close(stop); <-done }()
	for i, c := range conns {
		// Long enough for any machine: without a limit none of them would end.
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			if n, ok := err.(net.Error); ok && n.Timeout() {
				t.Fatalf("connection %d is still open", i)
			}
		}
	}
	alive(t, http.DefaultClient, "http://"+public)
	if len(r.taken()) != 0 {
		t.Error("something was stored")
	}
}

// selfSigned is a certificate for localhost.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// listenTLS serves the public plane behind TLS that offers the protocols.
func listenTLS(t *testing.T, g *gateway.Gateway, protocols ...string) (addr string, client *http.Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	secure := tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, MinVersion: tls.VersionTLS12, NextProtos: protocols})
	go func() { done <- g.Serve(ctx, secure, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // our own certificate
	t.Cleanup(transport.CloseIdleConnections)
	return l.Addr().String(), &http.Client{Transport: transport}
}

// TestHTTP2ResetFlood: a client that begins requests and takes them back at once,
// faster than they are answered (CVE-2023-44487), ends up without a connection, and
// nobody else does.
func TestHTTP2ResetFlood(t *testing.T) {
	r := newRig(t)
	addr, client := listenTLS(t, r.g, "h2", "http/1.1")
	r.mu.Lock() // no look-up ends meanwhile
	defer r.mu.Unlock()
	const floods, streams = 4, 20_000
	ended := make(chan error, floods)
	for range floods {
		go func() { ended <- resetFlood(addr, streams) }()
	}
	for range 20 {
		alive(t, client, "https://"+addr)
	}
	for range floods {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	alive(t, client, "https://"+addr)
}

// http2Preface begins a connection of HTTP/2.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Types and flags of frames (RFC 9113).
const (
	frameHeaders, frameReset, frameSettings, frameGoAway = 1, 3, 4, 7
	endStream, endHeaders                                = 1, 4
	resetCancel, enhanceYourCalm                         = 8, 11
)

// http2Frame writes one frame.
func http2Frame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// readFrames reads frames until one is meant, and gives its payload.
func readFrames(in *bufio.Reader, meant func(kind byte, stream uint32) bool) ([]byte, error) {
	for {
		var head [9]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return nil, err
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(in, payload); err != nil {
			return nil, err
		}
		if meant(head[3], binary.BigEndian.Uint32(head[5:])) {
			return payload, nil
		}
	}
}

// resetFlood sends requests and resets until the server ends it, which it must.
func resetFlood(addr string, streams uint32) error {
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // our own certificate
	if err != nil {
		return err
	}
	defer c.Close()
	if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
		return fmt.Errorf("the server speaks %q", p)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	// GET, https, / and localhost, by numbers of HPACK's static table; then a look-up
	// with another path, and a cookie.
	get := append([]byte{0x82, 0x87, 0x84, 0x41, 9}, "localhost"...)
	const path, cookie = "/v1/me/segments?client=demo", "kith_id=abc123"
	lookup := append([]byte{0x82, 0x87, 0x01, 9}, "localhost"...)
	lookup = append(append(lookup, 0x04, byte(len(path))), path...)
	lookup = append(append(lookup, 0x0f, 0x11, byte(len(cookie))), cookie...)
	b := http2Frame([]byte(http2Preface), frameSettings, 0, 0, nil)
	b = http2Frame(b, frameHeaders, endStream|endHeaders, 1, get)
	if _, err := c.Write(b); err != nil {
		return err
	}
	// The first one is meant, and answered: what follows is refused for what it is.
	in := bufio.NewReader(c)
	if _, err := readFrames(in, func(kind byte, stream uint32) bool { return kind == frameHeaders && stream == 1 }); err != nil {
		return fmt.Errorf("no answer to a sound request: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		why, err := readFrames(in, func(kind byte, _ uint32) bool { return kind == frameGoAway })
		if err == nil && (len(why) < 8 || binary.BigEndian.Uint32(why[4:]) != enhanceYourCalm) {
			err = fmt.Errorf("it is ended with %x, and not for the flood", why)
		}
		ended <- err
	}()
	b = b[:0]
	for i := range streams {
		id := 2*i + 3
		b = http2Frame(b, frameHeaders, endStream|endHeaders, id, lookup)
		b = http2Frame(b, frameReset, 0, id, []byte{0, 0, 0, resetCancel})
		if len(b) < 32<<10 {
			continue
		}
		if _, err := c.Write(b); err != nil {
			break // the server had enough
		}
		b = b[:0]
	}
	_, _ = c.Write(b)
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	err = <-ended
	var broken net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%d requests were begun and taken back, and the connection is still open", streams)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &broken):
		return nil // the reason was lost with what was still on its way
	}
	return err
}

// TestNoHTTP2InTheClear: who speaks HTTP/2 unasked, or over TLS as `kith serve`
// opens it, is told no, and the gateway goes on.
func TestNoHTTP2InTheClear(t *testing.T) {
	r := newRig(t)
	public, _ := listen(t, r)
	got := answers(t, public, http2Preface+strings.Repeat("\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08", 1000))
	if len(got) == 0 {
		t.Error("the preface is not answered")
	}
	for _, status := range got {
		if status < 400 {
			t.Errorf("the preface is answered %d", status)
		}
	}
	alive(t, http.DefaultClient, "http://"+public)
	addr, client := listenTLS(t, r.g)
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}) // our own certificate
	if err == nil {
		if p := c.ConnectionState().NegotiatedProtocol; p == "h2" {
			t.Error("HTTP/2 is spoken where it is not offered")
		}
		_ = c.Close()
	}
	alive(t, client, "https://"+addr)
}
