package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// readOnly answers look-ups from a map that nobody writes.
type readOnly struct {
	*twin
	known map[proto.Identity][]proto.SegmentID
}

func (r readOnly) Lookup(_ proto.ClientInfo, id proto.Identity, _ proto.Millis, dst []proto.SegmentID) (gateway.View, []proto.SegmentID, error) {
	s, ok := r.known[id]
	return gateway.View{Known: ok}, append(dst, s...), nil
}

// BenchmarkHTTPLookup looks one identity up in each request over loopback:
// the gateway, and beside it the least that net/http can do.
func BenchmarkHTTPLookup(b *testing.B) {
	known := map[proto.Identity][]proto.SegmentID{"browser:3f0c9a": {"auto", "owners"}}
	tw := newTwin()
	g, err := gateway.New(gateway.Config{}, gateway.Dependencies{Intake: tw, Memberships: readOnly{tw, known}, Definitions: tw, Audiences: tw, Saved: tw, Accounts: tw, Holdings: tw, Operations: tw, Graph: tw, OptOuts: tw})
	if err != nil {
		b.Fatal(err)
	}
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v1/identities/"), "/segments")
		segments, ok := known[proto.Identity(id)]
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"identity": id, "known": ok, "opted_out": false, "segments": segments})
	})
	request := []byte("GET /v1/identities/browser:3f0c9a/segments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n\r\n")
	b.Run("bare", func(b *testing.B) { benchHTTP(b, bare, request) })
	b.Run("kith", func(b *testing.B) { benchHTTP(b, g.Service(), request) })
}

// bidRequest is what an exchange sends for one place on a page: 2 KiB.
const bidRequest = `{"id":"80ce30c53c16e6ede735f123ef6e32361bfc7b22","at":1,"cur":["USD"],"tmax":120,"imp":[{"id":"1","bidfloor":0.03,"bidfloorcur":"USD","secure":1,"tagid":"agltb3B1Yi1pbmNyDQsSBFNpdGUY7fD0FAw",` +
	`"banner":{"h":250,"w":300,"pos":0,"format":[{"w":300,"h":250},{"w":300,"h":600},{"w":320,"h":50}],"btype":[4],"battr":[1,3,14],"api":[3,5,6]},"pmp":{"private_auction":1,"deals":[{"id":"AB-Agency1-0001","at":1,"bidfloor":2.5,"wseat":["Agency1"]},{"id":"XY-Agency2-0001","at":2,"bidfloor":2,"wseat":["Agency2"]}]},"ext":{"gpid":"/1111/homepage#div-1","data":{"pbadslot":"/1111/homepage"}}}],` +
	`"site":{"id":"102855","name":"News of the day","cat":["IAB3-1","IAB12"],"domain":"www.news.example","page":"https://www.news.example/economy/2026/11/27/markets-open-lower-after-a-long-week-1234.html","ref":"https://search.example/","publisher":{"id":"8953","name":"news.example","cat":["IAB3-1"],"domain":"news.example"},"content":{"keywords":"economy,markets,shares","language":"en"}},` +
	`"device":{"ua":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36","sua":{"browsers":[{"brand":"Chromium","version":["142","0","7444","59"]},{"brand":"Not A Brand","version":["99"]}],"platform":{"brand":"Linux","version":["6"]},"mobile":0},"ip":"192.0.2.0","language":"en","devicetype":2,"dnt":0,"lmt":0,"geo":{"country":"CHE","region":"BE","type":2}},` +
	`"user":{"id":"55816b39711f9b5acf3b90e313ed29e51665623f","buyeruid":"3f0c9a","consent":"COzTVhaOzTVhaGvAAAENAiCIAP_AAH_AAAAAAEEUACCKAAA","data":[{"id":"6","name":"another.example","segment":[{"id":"12341318394918"},{"id":"23849302"}],"ext":{"segtax":4}}],"eids":[{"source":"another.example","uids":[{"id":"gTAIAOAAAA4cZxJpF4TZ0000000000","atype":1}]}]},` +
	`"regs":{"coppa":0,"gdpr":1,"us_privacy":"1---","gpp":"DBACNYA~COzTVhaOzTVhaGvAAAENAiCIAP_AAH_AAAAAAEEUACCKAAA~1YNN","gpp_sid":[2],"ext":{"gdpr":1}},"source":{"tid":"f3a1c9e2-4f1f-4a3d-a5be-7a3f6a9e8f11","schain":{"ver":"1.0","complete":1,"nodes":[{"asi":"exchange.example","sid":"1234","hp":1,"rid":"bid-1"}]}}}`

// BenchmarkHTTPOpenRTB fills one bid request in each request over loopback, and
// beside it the least that net/http can do with the same: read it and send it
// back.
func BenchmarkHTTPOpenRTB(b *testing.B) {
	known := map[proto.Identity][]proto.SegmentID{"browser:3f0c9a": {"auto", "owners", "news-readers", "s4", "s5", "s6", "s7", "s8"}}
	tw := newTwin()
	g, err := gateway.New(gateway.Config{OpenRTB: map[proto.ClientName]gateway.OpenRTB{"acme": {BuyerUID: "browser", UserID: "partner.adx"}}},
		gateway.Dependencies{Intake: tw, Memberships: readOnly{tw, known}, Definitions: tw, Audiences: tw, Saved: tw, Accounts: tw, Holdings: tw, Operations: tw, Graph: tw, OptOuts: tw})
	if err != nil {
		b.Fatal(err)
	}
	if w := send(g.Service(), "POST", "/v1/openrtb", bidRequest, auth, key("acme-key")); w.Code != 200 || !strings.Contains(w.Body.String(), `"owners"`) {
		b.Fatal(w.Code, w.Header(), w.Body)
	}
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
	request := []byte("POST /v1/openrtb HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(bidRequest)) + "\r\n\r\n" + bidRequest)
	b.Run("bare", func(b *testing.B) { benchHTTP(b, bare, request) })
	b.Run("kith", func(b *testing.B) { benchHTTP(b, g.Service(), request) })
}

// benchHTTP sends h a request over 16 connections of its own, with as little
// work on the asking side as there can be.
func benchHTTP(b *testing.B, h http.Handler, request []byte) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for pb.Next() {
			if _, err := c.Write(request); err != nil {
				b.Error(err)
				return
			}
			if err := readAnswer(r); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	_ = s.Shutdown(context.Background())
	<-done
}

// readAnswer reads one answer that has a Content-Length.
func readAnswer(r *bufio.Reader) error {
	n := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if v, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if n, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
				return err
			}
		}
		if len(line) == 2 {
			_, err := io.CopyN(io.Discard, r, int64(n))
			return err
		}
	}
}

// sink takes all batches and keeps none.
type sink struct{ readOnly }

func (sink) Submit(context.Context, *proto.Batch) proto.Submitted {
	return proto.Submitted{Position: proto.Position{0: 1}}
}

// blank is an answer that nobody reads.
type blank struct{ header http.Header }

func (w blank) Header() http.Header         { return w.header }
func (w blank) Write(b []byte) (int, error) { return len(b), nil }
func (w blank) WriteHeader(int)             {}

// BenchmarkIntake is what the gateway does with events before the log has them,
// and for the answer: without a server, without the log.
func BenchmarkIntake(b *testing.B) {
	tw := newTwin()
	s := sink{readOnly{tw, map[proto.Identity][]proto.SegmentID{"browser:3f0c9a4be81d4c0fa3f1c9e24f1f4a3d": {"auto"}}}}
	deps := tw.behind()
	deps.Intake, deps.Memberships = s, s
	g, err := gateway.New(gateway.Config{}, deps)
	if err != nil {
		b.Fatal(err)
	}
	const url, ref = "https://news.example.com/cars/2026/a-long-enough-name-of-an-article-x012345.html", "https://search.example/?q=used+cars"
	const event = `{"event":"page_view","identities":["browser:v00000012"],"props":{"section":"s00","author":"a00","country":"DE","price":12.5},"url":"` + url + `","ref":"` + ref + `"}`
	const cookie = "kith_id=3f0c9a4be81d4c0fa3f1c9e24f1f4a3d"
	twenty := `{"client":"demo","events":[` + strings.TrimSuffix(strings.Repeat(event+",", 20), ",") + `]}`
	run := func(name string, h http.Handler, method, target, body string, headers ...string) {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(method, target, nil)
			for i := 0; i < len(headers); i += 2 {
				r.Header.Set(headers[i], headers[i+1])
			}
			r.ContentLength = int64(len(body))
			w := blank{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				r.Body = io.NopCloser(strings.NewReader(body))
				h.ServeHTTP(w, r)
			}
			if w.header.Get("X-Kith-Error") != "" || w.header.Get("Retry-After") != "" {
				b.Fatal(w.header)
			}
		})
	}
	run("pixel", g.Public(), "GET", "/v1/pixel.gif?client=demo&event=page_view&url=https%3A%2F%2Fnews.example.com%2Fcars%2F2026%2Fa-long-enough-name-of-an-article-x012345.html&ref=https%3A%2F%2Fsearch.example%2F%3Fq%3Dused%2Bcars&p.section=s00&p.author=a00&p.country=DE&p.price=12.5", "", "Cookie", cookie)
	run("20 of a browser", g.Public(), "POST", "/v1/events", twenty, "Cookie", cookie, "Content-Type", "text/plain")
	run("20 of a server", g.Service(), "POST", "/v1/events", twenty, auth, key("demo-key"), "Content-Type", "application/json")
}
