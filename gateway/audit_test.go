package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// auditTwin keeps lines in memory, unless its disk is full.
type auditTwin struct {
	mu    sync.Mutex
	full  bool
	lines []proto.AuditRecord
}

func (a *auditTwin) AppendAudit(_ context.Context, b *proto.AuditBatch) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.full {
		return errors.New("the disk is full")
	}
	a.lines = append(a.lines, b.Records[b.Stored:]...)
	b.Stored, b.Unsure = len(b.Records), false
	return nil
}

func (a *auditTwin) AuditPage(context.Context, proto.AuditQuery) (proto.AuditPage, error) {
	return proto.AuditPage{Records: a.lines}, nil
}

// Without a line nothing is told of a person; what only takes away is done and
// answered all the same. Counts are not lost when they cannot be written.
func TestAuditThatCannotBeWritten(t *testing.T) {
	r := newRig(t)
	a := &auditTwin{full: true}
	deps := r.behind()
	deps.Audit = a
	g, err := gateway.New(gateway.Config{}, deps)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string) (int, string) {
		w := send(g.Service(), method, path, body, auth, key("acme-key"), "Content-Type", "application/json")
		return w.Code, w.Body.String()
	}
	if code, answer := ask("GET", "/v1/identities/browser:x", ""); code != http.StatusServiceUnavailable {
		t.Errorf("a person's record without a line: %d %s", code, answer)
	}
	if code, answer := ask("GET", "/v1/users/browser:x", ""); code != http.StatusServiceUnavailable {
		t.Errorf("a person's user without a line: %d %s", code, answer)
	}
	// Who changes something is told that it is done; who is refused, or asks only, is not.
	const done = "the call is done, but its line cannot be written"
	if code, answer := ask("PATCH", "/v1/identities/browser:x/traits", `{"plan":"gold"}`); code != http.StatusServiceUnavailable || !strings.Contains(answer, done) || len(r.twin.traits) != 1 {
		t.Errorf("a correction without a line: %d %s, %d are done", code, answer, len(r.twin.traits))
	}
	if code, answer := ask("PATCH", "/v1/identities/browser:x/traits", `{}`); code != http.StatusServiceUnavailable || strings.Contains(answer, done) {
		t.Errorf("a correction that is refused, without a line: %d %s", code, answer)
	}
	if code, answer := ask("GET", "/v1/users/browser:x", ""); strings.Contains(answer, done) {
		t.Errorf("a question without a line: %d %s", code, answer)
	}
	if code, answer := ask("POST", "/v1/optouts", `{"identity":"browser:x"}`); code != http.StatusOK && code != http.StatusAccepted {
		t.Errorf("an opt-out is held up: %d %s", code, answer)
	}
	ask("POST", "/v1/lookup", `{"identities":["browser:x"]}`)
	if g.FlushAudit() == nil {
		t.Error("counts were written to a full disk")
	}
	a.full = false
	ask("POST", "/v1/lookup", `{"identities":["browser:x"]}`)
	if err := g.FlushAudit(); err != nil {
		t.Fatal(err)
	}
	if len(a.lines) != 1 || a.lines[0].Requests != 2 {
		t.Errorf("lines: %+v, want one of two look-ups", a.lines)
	}
	var calls sync.WaitGroup
	for range 100 {
		calls.Go(func() { ask("GET", "/v1/identities/browser:x", "") })
	}
	calls.Wait()
	if len(a.lines) != 101 {
		t.Errorf("%d lines of 100 calls at once", len(a.lines)-1)
	}
	if code, _ := ask("GET", "/v1/identities/browser:x", ""); code != http.StatusOK {
		t.Errorf("with a line: %d", code)
	}
	if code, _ := func() (int, string) {
		w := send(g.Service(), "GET", "/v1/identities/browser:x", "", auth, key("nobody's"))
		return w.Code, ""
	}(); code != http.StatusUnauthorized || len(a.lines) != 102 {
		t.Errorf("a key that does not open is in the log: %d, %d lines", code, len(a.lines))
	}
}

// A call that an admin makes for a client is in the log as that client's, however the
// query spells it.
func TestAuditOfAnEscapedName(t *testing.T) {
	r := newRig(t)
	a := &auditTwin{}
	deps := r.behind()
	deps.Audit = a
	g, err := gateway.New(gateway.Config{}, deps)
	if err != nil {
		t.Fatal(err)
	}
	w := send(g.Service(), "DELETE", "/v1/identities/browser:x?cl%69ent=acme", "", auth, key("admin-key"))
	if err := g.FlushAudit(); w.Code/100 != 2 || err != nil {
		t.Fatal(w.Code, w.Body, err)
	}
	if len(a.lines) != 1 || a.lines[0].Client != "acme" {
		t.Errorf("%+v, want one line of acme", a.lines)
	}
}

// Of a query that is broken the audit log gives nothing, rather than everybody's lines.
func TestAuditQuery(t *testing.T) {
	r := newRig(t)
	deps := r.behind()
	deps.Audit = &auditTwin{}
	g, err := gateway.New(gateway.Config{}, deps)
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]int{
		"identity=browser%3Aa": 200, "identity=browser%3Aa%": 400, "identity=browser:a;limit=9": 400, "Identity=browser:a": 400,
		"since=2026-11-22T10:00:00Z": 200, "until=0001-01-01T00:00:00Z": 400, "until=noon": 400,
	} {
		if w := send(g.Service(), "GET", "/v1/audit?"+query, "", auth, key("admin-key")); w.Code != want {
			t.Errorf("%s: %d, want %d: %s", query, w.Code, want, w.Body)
		}
	}
}

// Each identity that a bid request is about counts as looked up.
func TestQuotaOfBidRequests(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.LookupMax = 10
		c.Quotas = map[proto.ClientName]gateway.Quota{"acme": {LookupsPerSecond: 1}}
	})
	bid := func(source string, uids ...string) string {
		for i := range uids {
			uids[i] = `{"id":"` + uids[i] + `"}`
		}
		return `{"id":"1","user":{"eids":[{"source":"` + source + `","uids":[` + strings.Join(uids, ",") + `]}]}}`
	}
	var many []string
	for i := range 16 {
		many = append(many, fmt.Sprint("browser:b", i))
	}
	const source = "kith" // without a cookie domain
	for _, x := range []struct {
		what, body string
		want       int
	}{
		{"four of ten", bid(source, "browser:b1", "browser:b2", "browser:b3", "browser:b4"), 200},
		{"nobody of ours", bid("other.example", "browser:b1"), 200},
		{"four more", bid(source, "browser:b1", "browser:b2", "browser:b3", "browser:b4"), 200},
		{"more than the two left", bid(source, many...), 429},
		{"one, and a device in two spellings", `{"id":"1","device":{"os":"iOS","ifa":"AAAAAAAA-4F89-11D3-9A0C-0305E82C3301"},"user":{"eids":[{"source":"` + source + `","uids":[{"id":"browser:b1"}]}]}}`, 200},
		{"none left", bid(source, "browser:b1"), 429},
	} {
		if w := r.serve("POST", "/v1/openrtb", x.body, auth, key("acme-key")); w.Code != x.want {
			t.Errorf("%s: %d, want %d: %s", x.what, w.Code, x.want, w.Body)
		}
	}
}

// A client's own limits hold for it alone; a day's is over until the next.
func TestQuotas(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.LookupMax = 2
		c.Quotas = map[proto.ClientName]gateway.Quota{"acme": {EventsPerDay: 2, LookupsPerSecond: 1}}
	})
	event := `{"events":[{"event":"page","identities":["browser:b1"]}]}`
	for _, x := range []struct {
		key, method, path, body string
		want                    int
	}{
		{"acme-key", "POST", "/v1/events", event, 200},
		{"acme-key", "POST", "/v1/events", event, 200},
		{"acme-key", "POST", "/v1/events", event, 429},
		{"demo-key", "POST", "/v1/events", event, 200},
		{"acme-key", "POST", "/v1/lookup", `{"identities":["browser:b1","browser:b2"]}`, 200},
		{"acme-key", "GET", "/v1/identities/browser:b1/segments", "", 429},
		{"demo-key", "GET", "/v1/identities/browser:b1/segments", "", 200},
	} {
		if w := r.serve(x.method, x.path, x.body, auth, key(x.key)); w.Code != x.want {
			t.Errorf("%s %s with %s: %d, want %d: %s", x.method, x.path, x.key, w.Code, x.want, w.Body)
		}
	}
	w := r.serve("POST", "/v1/events", event, auth, key("acme-key"))
	if w.Header().Get("Retry-After") == "" {
		t.Error("nothing says when the day is over")
	}
	if h := w.Header(); h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") == "" {
		t.Errorf("headers of an answer: %v", h)
	}
}

// heldAudit is an audit log whose answer to each batch a test gives.
type heldAudit struct {
	auditTwin
	batches chan *proto.AuditBatch
	answers chan error
}

func (a *heldAudit) AppendAudit(_ context.Context, b *proto.AuditBatch) error {
	a.batches <- b
	return <-a.answers
}

// Whoever's line is durable is told, though lines that were to be written with it are
// not; and counts that may be written are given again as they are, not added to others.
func TestAuditInPart(t *testing.T) {
	r := newRig(t)
	a := &heldAudit{batches: make(chan *proto.AuditBatch), answers: make(chan error)}
	deps := r.behind()
	deps.Audit = a
	g, err := gateway.New(gateway.Config{}, deps)
	if err != nil {
		t.Fatal(err)
	}
	codes := make(chan int)
	ask := func() {
		codes <- send(g.Service(), "GET", "/v1/identities/browser:x", "", auth, key("acme-key")).Code
	}
	go ask()
	first := <-a.batches
	const calls = 10
	for range calls {
		go ask()
	}
	for g.AuditWaits() < calls {
		runtime.Gosched()
	}
	first.Stored = 1
	a.answers <- nil
	(<-a.batches).Stored = 4
	a.answers <- errors.New("the disk is full")
	told := 0
	for range 1 + calls {
		if <-codes == http.StatusOK {
			told++
		}
	}
	if told != 1+4 {
		t.Errorf("%d calls are told, of 5 with a line", told)
	}

	flushed := make(chan error)
	flush := func() { flushed <- g.FlushAudit() }
	look := func() {
		send(g.Service(), "POST", "/v1/lookup", `{"identities":["browser:x"]}`, auth, key("acme-key"), "Content-Type", "application/json")
	}
	look()
	go flush()
	unsure := <-a.batches
	unsure.Unsure = true
	a.answers <- errors.New("no answer")
	if <-flushed == nil {
		t.Error("nobody says that counts may not be written")
	}
	look()
	for _, answer := range []error{errors.New("no answer"), nil} {
		go flush()
		if b := <-a.batches; b != unsure || len(b.Records) != 1 || b.Records[0].Requests != 1 {
			t.Fatalf("what may be written is given again as %+v", b)
		}
		if answer == nil {
			unsure.Unsure, unsure.Stored = false, 1
		}
		a.answers <- answer
		if answer != nil && <-flushed == nil {
			t.Error("nobody says that counts may not be written")
		}
	}
	b := <-a.batches
	if b == unsure || len(b.Records) != 1 || b.Records[0].Requests != 1 {
		t.Errorf("then comes %+v", b)
	}
	a.answers <- errors.New("the disk is full") // and it is not written
	if <-flushed == nil {
		t.Error("nobody says that counts are not written")
	}
	look()
	go flush()
	if b := <-a.batches; len(b.Records) != 1 || b.Records[0].Requests != 2 {
		t.Errorf("counted on: %+v", b)
	}
	a.answers <- nil
	<-flushed
}
