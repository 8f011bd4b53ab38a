package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/proto"
)

// eventsOf is a history of so many events with many small properties; read, unless
// nil, counts those that were asked for.
func eventsOf(n int, read *int) func() proto.NextEvents {
	body := proto.EventBody{Name: `pa"ge`, URL: "https://a.example/?x=<1>", Props: []proto.Prop{
		{Key: "z", Value: proto.NumberOf(0.1)}, {Key: "a", Value: proto.FlagOf(true)}, {Key: "big", Value: proto.NumberOf(1e300)},
		{Key: "small", Value: proto.NumberOf(-1e-9)}, {Key: "no", Value: proto.FlagOf(false)}, {Key: "t\u2028", Value: proto.TextOf("\x01ü\t\\")},
	}}
	for i := range 34 {
		body.Props = append(body.Props, proto.Prop{Key: fmt.Sprint("p", i), Value: proto.NumberOf(float64(i))})
	}
	return func() proto.NextEvents {
		at := 0
		return func(tell func(proto.Millis, *proto.EventBody) bool) (bool, error) {
			for ; at < n; at++ {
				e := body
				if at%2 == 1 {
					e = proto.EventBody{Name: "bare", Ref: "https://b.example/"}
				}
				if read != nil {
					*read++
				}
				if tell(proto.Millis(1_700_000_000_000+at*1500), &e) {
					at++
					return true, nil
				}
			}
			return false, nil
		}
	}
}

// sentPieces are what an answer is sent in.
type sentPieces struct {
	*httptest.ResponseRecorder
	count, largest int
	stall          chan struct{} // nil: nothing stalls
	here           chan struct{}
}

func (p *sentPieces) Write(b []byte) (int, error) {
	p.count, p.largest = p.count+1, max(p.largest, len(b))
	if p.stall != nil {
		p.here <- struct{}{}
		<-p.stall
	}
	return p.ResponseRecorder.Write(b)
}

const ofDemo = "/v1/me?client=demo"

func askRecord(w http.ResponseWriter, h http.Handler, method, target string) {
	q := httptest.NewRequest(method, target, nil)
	q.Header.Set("Cookie", "kith_id=abc123")
	q.Header.Set(auth, key("demo-key"))
	h.ServeHTTP(w, q)
}

// A record is sent as it is read, in pieces that are small, in the form that it has
// whole; a HEAD reads nothing.
func TestRecordsAreSentInPieces(t *testing.T) {
	r := newRig(t)
	r.visit("POST", "/v1/events", page, "Cookie", "kith_id=abc123")
	read := 0
	for _, n := range []int{0, 1, 2, 3, 8_000} {
		r.twin.history = eventsOf(n, &read)
		for h, target := range map[http.Handler]string{r.g.Public(): ofDemo, r.g.Service(): "/v1/identities/browser:abc123"} {
			w := &sentPieces{ResponseRecorder: httptest.NewRecorder()}
			askRecord(w, h, "GET", target)
			var got, want proto.IdentityRecord
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
				t.Fatalf("%s of %d events: %d %v", target, n, w.Code, err)
			}
			want = proto.IdentityRecord{Identity: "browser:abc123", Known: true, Segments: []proto.SegmentID{"all", "auto"}, Events: []proto.HistoryEvent{}}
			_, _ = eventsOf(n, nil)()(func(at proto.Millis, e *proto.EventBody) bool {
				x := proto.HistoryEvent{Time: at.Time(), Event: e.Name, URL: e.URL, Ref: e.Ref}
				for _, p := range e.Props {
					if x.Props == nil {
						x.Props = map[string]any{}
					}
					x.Props[p.Key] = p.Value.Text
					switch p.Value.Kind {
					case proto.NumberValue:
						x.Props[p.Key] = p.Value.Number
					case proto.TrueValue, proto.FalseValue:
						x.Props[p.Key] = p.Value.Kind == proto.TrueValue
					}
				}
				want.Events = append(want.Events, x)
				return false
			})
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("%s of %d events (-want +got):\n%.2000s", target, n, d)
			}
			if w.largest > 260<<10 || n > 1000 && w.count < 8 || n < 10 && w.count != 1 {
				t.Errorf("%s of %d events: %d pieces, up to %d bytes", target, n, w.count, w.largest)
			}
			if whole := w.Header().Get("Content-Length") != ""; whole != (n < 10) {
				t.Errorf("%s of %d events: a length %v", target, n, w.Header())
			}
			read = 0
			head := httptest.NewRecorder()
			if askRecord(head, h, "HEAD", target); head.Code != 200 || read != 0 || head.Header().Get("Content-Type") != "application/json" {
				t.Errorf("HEAD %s: %d, %d events were read", target, head.Code, read)
			}
		}
	}
}

// slowReaders read long records and stall at the first piece, until done.
type slowReaders struct {
	r     *rig
	stall chan struct{}
	here  chan struct{}
	over  sync.WaitGroup
}

func (r *rig) slowReaders() *slowReaders {
	return &slowReaders{r: r, stall: make(chan struct{}), here: make(chan struct{})}
}

// recordOf asks for one from an address, with headers in pairs.
func recordOf(address, target string, headers ...string) *http.Request {
	q := httptest.NewRequest("GET", target, nil)
	q.RemoteAddr = address + ":99"
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	return q
}

func recordCookie(i int) string { return fmt.Sprint("kith_id=abc", 100+i) }

func (s *slowReaders) add(h http.Handler, q *http.Request) {
	s.over.Go(func() {
		h.ServeHTTP(&sentPieces{ResponseRecorder: httptest.NewRecorder(), stall: s.stall, here: s.here}, q)
	})
	<-s.here
}

func (s *slowReaders) done() {
	go func() {
		for range s.here {
		}
	}()
	close(s.stall)
	s.over.Wait()
	close(s.here)
}

// status is that of a record; what is refused is so for the load.
func (s *slowReaders) status(h http.Handler, q *http.Request) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	if w.Code != 200 && code(w) != "overloaded" {
		s.r.t.Errorf("%s: %s", q.URL, w.Body)
	}
	return w.Code
}

// Of long records few are sent at once on a plane, and those of strangers, who read as
// slowly as they like, hold nobody else back: short ones, nor those who have keys.
func TestLongRecordsAreBounded(t *testing.T) {
	r := newRig(t)
	r.twin.history = eventsOf(3000, nil)
	slow := r.slowReaders()
	from := func(i int) *http.Request {
		return recordOf(fmt.Sprintf("198.18.%d.1", i), ofDemo, "Cookie", recordCookie(i))
	}
	for i := range gateway.LongRecordsMax {
		r.visit("POST", "/v1/events", page, "Cookie", recordCookie(i))
		slow.add(r.g.Public(), from(i))
	}
	r.visit("POST", "/v1/events", page, "Cookie", recordCookie(gateway.LongRecordsMax))
	last := from(gateway.LongRecordsMax)
	if got := slow.status(r.g.Public(), last); got != 503 {
		t.Errorf("one more long record: %d", got)
	}
	if got := slow.status(r.g.Service(), recordOf("198.18.0.1", "/v1/identities/browser:abc100", auth, key("demo-key"))); got != 200 {
		t.Errorf("a long record for a key: %d", got)
	}
	if got := slow.status(r.g.Public(), recordOf("198.18.0.1", "/choices?client=demo", "Cookie", recordCookie(0))); got != 200 {
		t.Errorf("the page of choices: %d", got)
	}
	r.twin.history = nil
	if got := slow.status(r.g.Public(), last); got != 200 {
		t.Errorf("a short record: %d", got)
	}
	r.twin.history = eventsOf(3000, nil)
	slow.done()
	if got := slow.status(r.g.Public(), last); got != 200 {
		t.Errorf("after them: %d", got)
	}
}

// Nobody has all places for long records: no browser, network or proxy, nor the keys of a
// client.
func TestLongRecordsAreShared(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		r.visit("POST", "/v1/events", page, "Cookie", recordCookie(i))
	}
	r.twin.history = eventsOf(3000, nil)
	public, keyed := r.g.Public(), r.g.Service()
	forKey := func(k, client string) *http.Request {
		return recordOf("198.18.0.1", "/v1/identities/browser:seen1"+client, auth, key(k))
	}
	for _, c := range []struct {
		name  string
		h     http.Handler
		most  int
		of    func(i int) *http.Request
		other *http.Request
	}{
		{"a browser", public, 1, func(i int) *http.Request {
			return recordOf(fmt.Sprintf("198.18.%d.1", i), ofDemo, "Cookie", recordCookie(0))
		}, recordOf("198.18.0.1", ofDemo, "Cookie", recordCookie(1))},
		{"a network", public, gateway.LongNetworkMax, func(i int) *http.Request {
			return recordOf(fmt.Sprintf("198.18.0.%d", i), ofDemo, "Cookie", recordCookie(i))
		}, recordOf("198.18.1.1", ofDemo, "Cookie", recordCookie(19))},
		{"a proxy", public, gateway.LongProxyMax, func(i int) *http.Request {
			return recordOf(fmt.Sprintf("198.18.0.%d", i), ofDemo, "Cookie", recordCookie(i), "X-Forwarded-For", fmt.Sprintf("198.19.%d.1", i))
		}, recordOf("198.18.0.1", ofDemo, "Cookie", recordCookie(19))},
		{"a client", keyed, gateway.LongClientMax, func(int) *http.Request { return forKey("acme-key", "") }, forKey("admin-key", "?client=acme")},
	} {
		slow := r.slowReaders()
		for i := range c.most {
			slow.add(c.h, c.of(i))
		}
		if got := slow.status(c.h, c.of(c.most)); got != 503 {
			t.Errorf("one more of %s: %d", c.name, got)
		}
		if got := slow.status(c.h, c.other); got != 200 {
			t.Errorf("another than %s: %d", c.name, got)
		}
		slow.done()
		if got := slow.status(c.h, c.of(c.most)); got != 200 {
			t.Errorf("after those of %s: %d", c.name, got)
		}
	}
}

// Records that are sent whole, but are more than a socket takes in, are bounded too; what is
// short is not.
func TestMiddleRecordsAreBounded(t *testing.T) {
	r := newRig(t)
	const most = gateway.MiddleTimes
	network, client := most*gateway.LongNetworkMax, most*gateway.LongClientMax
	for i := range network + 1 {
		r.visit("POST", "/v1/events", page, "Cookie", recordCookie(i))
	}
	r.twin.history = eventsOf(300, nil)
	public, keyed := r.g.Public(), r.g.Service()
	of := func(net, i int) *http.Request {
		return recordOf(fmt.Sprintf("198.18.%d.1", net), ofDemo, "Cookie", recordCookie(i))
	}
	forKey := recordOf("198.18.0.1", "/v1/identities/browser:seen1", auth, key("acme-key"))
	slow := r.slowReaders()
	for range most {
		slow.add(public, of(1, 0))
	}
	if got := slow.status(public, of(2, 0)); got != 503 {
		t.Errorf("one more of a browser: %d", got)
	}
	for i := range network - most {
		slow.add(public, of(1, 1+i))
	}
	if got := slow.status(public, of(1, network)); got != 503 {
		t.Errorf("one more to a network: %d", got)
	}
	if got := slow.status(public, of(2, network)); got != 200 {
		t.Errorf("one to another network: %d", got)
	}
	for range client {
		slow.add(keyed, forKey)
	}
	if got := slow.status(keyed, forKey); got != 503 {
		t.Errorf("one more for keys of a client: %d", got)
	}
	r.twin.history = eventsOf(20, nil)
	if a, b := slow.status(public, of(1, 0)), slow.status(keyed, forKey); a != 200 || b != 200 {
		t.Errorf("short ones: %d %d", a, b)
	}
	r.twin.history = eventsOf(300, nil)
	slow.done()
	if a, b := slow.status(public, of(1, 0)), slow.status(keyed, forKey); a != 200 || b != 200 {
		t.Errorf("after them: %d %d", a, b)
	}
}

// Records that strangers have read take none of the turns of those who have keys, and
// whoever waits for a turn, for the first or again, waits no longer than it may.
func TestRecordsWaitForTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.visit("POST", "/v1/events", page, "Cookie", recordCookie(0))
		own := func(target string) *httptest.ResponseRecorder {
			return r.visit("GET", target, "", "Cookie", recordCookie(0))
		}
		entered, leave := make(chan struct{}, r.g.PublicTurns()), make(chan struct{})
		stall := func() proto.NextEvents {
			return func(func(proto.Millis, *proto.EventBody) bool) (bool, error) {
				entered <- struct{}{}
				<-leave
				return false, nil
			}
		}
		r.twin.history = func() proto.NextEvents {
			return func(tell func(proto.Millis, *proto.EventBody) bool) (bool, error) {
				r.twin.history = stall
				for i := range r.g.PublicTurns() {
					go r.g.Public().ServeHTTP(httptest.NewRecorder(), recordOf(fmt.Sprintf("198.18.%d.1", i), ofDemo, "Cookie", recordCookie(1+i)))
				}
				synctest.Wait()
				for !tell(1, &proto.EventBody{Name: "page"}) {
				}
				return true, nil
			}
		}
		began := time.Now()
		if w := own("/choices?client=demo&lang=en"); w.Code != 503 || time.Since(began) != 30*time.Second {
			t.Errorf("the page of choices, which had its turn and waits again: %d after %v", w.Code, time.Since(began))
		}
		for range r.g.PublicTurns() {
			<-entered
		}
		r.twin.history = nil
		began = time.Now()
		if w := own(ofDemo); w.Code != 503 || code(w) != "overloaded" || time.Since(began) != 10*time.Second {
			t.Errorf("a record that waits: %d %s after %v", w.Code, w.Body, time.Since(began))
		}
		began = time.Now()
		if w := r.serve("GET", "/v1/identities/browser:abc100", "", auth, key("demo-key")); w.Code != 200 || time.Since(began) > 0 {
			t.Errorf("a record for a key: %d %s after %v", w.Code, w.Body, time.Since(began))
		}
		close(leave)
		synctest.Wait()
		if w := own(ofDemo); w.Code != 200 {
			t.Errorf("after them: %d %s", w.Code, w.Body)
		}
	})
}

// Who asks for many records at once waits for their own: another network's are read as ever.
func TestRecordsWaitForTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.twin.history = func() proto.NextEvents {
			return func(func(proto.Millis, *proto.EventBody) bool) (bool, error) {
				time.Sleep(time.Second)
				return false, nil
			}
		}
		for i := range 300 {
			go r.g.Public().ServeHTTP(httptest.NewRecorder(), recordOf(fmt.Sprintf("198.18.1.%d", i%250), ofDemo, "Cookie", recordCookie(i)))
		}
		synctest.Wait()
		began, w := time.Now(), httptest.NewRecorder()
		if r.g.Public().ServeHTTP(w, recordOf("198.18.2.1", ofDemo, "Cookie", recordCookie(300))); w.Code != 200 || time.Since(began) > 3*time.Second {
			t.Errorf("for another network: %d after %v", w.Code, time.Since(began))
		}
		time.Sleep(time.Minute)
		if n := r.g.PublicLines(); n != 0 {
			t.Errorf("%d lines are left", n)
		}
	})
}

// A long record keeps its place for ten minutes, however slow its reader was before it has
// to wait for a turn; and the page of choices ends before the server cuts it, however
// often it has one.
func TestRecordsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.visit("POST", "/v1/events", page, "Cookie", recordCookie(0))
		leave := make(chan struct{})
		stall := func() proto.NextEvents {
			return func(func(proto.Millis, *proto.EventBody) bool) (bool, error) {
				<-leave
				return false, nil
			}
		}
		r.twin.history = eventsOf(30_000, nil)
		began, pieces := time.Now(), 0
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler || time.Since(began) != 10*time.Minute || pieces != 10 {
					t.Errorf("a record that is read slowly and waits: %v after %v and %d pieces", p, time.Since(began), pieces)
				}
			}()
			askRecord(&pacedPieces{httptest.NewRecorder(), func() {
				if pieces++; pieces == 10 {
					r.twin.history = stall
					for i := range r.g.PublicTurns() {
						go r.g.Public().ServeHTTP(httptest.NewRecorder(), recordOf(fmt.Sprintf("198.18.%d.1", i), ofDemo, "Cookie", recordCookie(i)))
					}
				}
				time.Sleep(50 * time.Second)
			}}, r.g.Public(), "GET", ofDemo)
		}()
		close(leave)
		synctest.Wait()
		turns := 0
		r.twin.history = func() proto.NextEvents {
			return func(func(proto.Millis, *proto.EventBody) bool) (bool, error) {
				time.Sleep(7 * time.Second)
				turns++
				return turns < 20, nil
			}
		}
		began = time.Now()
		if w := r.visit("GET", "/choices?client=demo", "", "Cookie", recordCookie(0)); w.Code != 503 || time.Since(began) != 35*time.Second {
			t.Errorf("the page of choices: %d after %v", w.Code, time.Since(began))
		}
	})
}

// pacedPieces is an answer of which each piece takes its time.
type pacedPieces struct {
	*httptest.ResponseRecorder
	pace func()
}

func (p *pacedPieces) Write(b []byte) (int, error) {
	p.pace()
	return len(b), nil
}

// A record that breaks off looks broken, once something of it is sent; before it is
// an error like others.
func TestRecordBreaksOff(t *testing.T) {
	r := newRig(t)
	r.visit("POST", "/v1/events", page, "Cookie", "kith_id=abc123")
	for n, want := range map[int]any{10: nil, 3000: http.ErrAbortHandler} {
		r.twin.history = func() proto.NextEvents {
			next := eventsOf(n, nil)()
			return func(tell func(proto.Millis, *proto.EventBody) bool) (bool, error) {
				more, err := next(tell)
				if !more {
					err = proto.Errorf(proto.CodeUnavailable, "it was cut: ask again")
				}
				return more, err
			}
		}
		w := httptest.NewRecorder()
		func() {
			defer func() {
				if p := recover(); p != want {
					t.Errorf("of %d events: %v, want %v", n, p, want)
				}
			}()
			askRecord(w, r.g.Public(), "GET", ofDemo)
		}()
		if want == nil && (w.Code != 503 || code(w) != "unavailable") || want != nil && strings.Contains(w.Body.String(), `"truncated"`) {
			t.Errorf("of %d events: %d, %d bytes", n, w.Code, w.Body.Len())
		}
	}
}

// Of a client that was ended nothing is told that was not read before, also where another
// has its name.
func TestRecordEndsWithItsClient(t *testing.T) {
	for _, again := range []bool{false, true} {
		r := newRig(t)
		r.visit("POST", "/v1/events", page, "Cookie", "kith_id=abc123")
		read, before := 0, 0
		r.twin.history = eventsOf(8_000, &read)
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler || read != before {
					t.Errorf("%v after %d events, of them %d before the end", p, read, before)
				}
			}()
			askRecord(&pacedPieces{httptest.NewRecorder(), func() {
				before = read
				old := r.clients["demo"]
				delete(r.clients, "demo")
				if again {
					r.clients["demo"] = proto.ClientInfo{ID: old.ID + 100, Name: "demo", Space: old.Space}
				}
			}}, r.g.Public(), "GET", ofDemo)
		}()
	}
}

// The page of choices shows the newest twenty of a long history, and how many there are.
func TestChoicesShowsTheNewest(t *testing.T) {
	r := newRig(t)
	r.visit("POST", "/v1/events", page, "Cookie", "kith_id=abc123")
	const all = 25_000
	r.twin.history = func() proto.NextEvents {
		at := 0
		return func(tell func(proto.Millis, *proto.EventBody) bool) (bool, error) {
			for at < all {
				i := at * 7 % all // not in the order of their times
				at++
				t := proto.MillisOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) + proto.Millis(i/2*60_000)
				if tell(t, &proto.EventBody{Name: "page", URL: fmt.Sprint("https://a.example/n", i)}) {
					return true, nil
				}
			}
			return false, nil
		}
	}
	w := r.visit("GET", "/choices?client=demo&lang=en", "", "Cookie", "kith_id=abc123")
	shown := w.Body.String()
	if w.Code != 200 || !strings.Contains(shown, "(25000)") || strings.Count(shown, "https://a.example/n") != 20 {
		t.Fatalf("%d: %d urls\n%.3000s", w.Code, strings.Count(shown, "https://a.example/n"), shown)
	}
	last := len(shown)
	for i := all - 20; i < all; i += 2 {
		a, b := strings.Index(shown, fmt.Sprint("/n", i, "<")), strings.Index(shown, fmt.Sprint("/n", i+1, "<"))
		if a < 0 || b < 0 || max(a, b) > last {
			t.Errorf("event %d is at %d and %d, before that of later times at %d", i, a, b, last)
		}
		last = min(a, b)
	}
}
