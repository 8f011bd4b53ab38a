package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	gproto "google.golang.org/protobuf/proto"

	"kith/gateway"
	"kith/proto"
	"kith/proto/pb"
)

// natsRig runs a NATS server in process, with r's gateway on it over a connection that
// has the options.
func natsRig(t *testing.T, r *rig, options ...nats.Option) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	connect := func(options ...nats.Option) *nats.Conn {
		nc, err := nats.Connect("", append(options, nats.InProcessServer(s))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	server, client := connect(options...), connect()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- r.g.ServeNATS(ctx, server, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
		return client
	case <-time.After(10 * time.Second):
		t.Fatal("the service is not ready")
		return nil
	}
}

func ask(t *testing.T, nc *nats.Conn, subject, body string, headers ...string) *nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	answer, err := nc.RequestMsg(m, 10*time.Second)
	if err != nil {
		t.Fatal(subject, err)
	}
	return answer
}

func TestNATS(t *testing.T) {
	r := newRig(t)
	r.counts["big"], r.counts["small"] = 1234, 49
	nc := natsRig(t, r)
	event := `{"events":[{"event":"page","identities":["browser:n1"],"props":{"section":"auto"}}]}`
	for _, tt := range []struct {
		name, subject, body string
		headers             []string
		want                string // the answer, or the code of its error
	}{
		{"intake", "kith.in.acme", event, []string{auth, key("acme-key")}, `{"accepted":1,"refused":[],"position":"0:1"}`},
		{"intake by an admin", "kith.in.acme", event, []string{auth, key("admin-key")}, `{"accepted":1,"refused":[],"position":"0:2"}`},
		{"intake, JSON with a charset", "kith.in.acme", `{"events":[]}`, []string{auth, key("acme-key"), "Content-Type", "application/json; charset=utf-8"}, `{"accepted":0,"refused":[],"position":""}`},
		{"intake, XML", "kith.in.acme", `{"events":[]}`, []string{auth, key("acme-key"), "Content-Type", "text/xml"}, "media_type"},
		{"intake, refused event", "kith.in.acme", `{"client":"acme","events":[{"event":"page","identities":["a@b.com:x"]}]}`, []string{auth, key("acme-key")}, `{"accepted":0,"refused":[{"index":0,"code":"identity","message":"identity kind \"a@b.com\" is unknown: use browser, aaid, idfa, account, stat or partner.NAME"}],"position":""}`},
		{"intake, GPC", "kith.in.acme", event, []string{auth, key("acme-key"), "sec-gpc", "1"}, `{"accepted":0,"refused":[{"index":0,"code":"opted_out","message":"nothing is stored: a signal was passed on (gpc)"}],"position":""}`},
		{"intake, DNT", "kith.in.acme", event, []string{auth, key("acme-key"), "DNT", "1"}, `{"accepted":0,"refused":[{"index":0,"code":"opted_out","message":"nothing is stored: a signal was passed on (dnt)"}],"position":""}`},
		{"lookup, GPC", "kith.query.lookup", `{"identities":["browser:n1"],"after":"0:1"}`, []string{auth, key("acme-key"), "Sec-GPC", "1"}, `{"results":[{"identity":"browser:n1","known":false,"opted_out":true,"segments":[]}]}`},
		{"intake, US privacy", "kith.in.acme", event, []string{auth, key("acme-key"), "Kith-Consent", "?us_privacy=1YYN"}, `{"accepted":0,"refused":[{"index":0,"code":"opted_out","message":"nothing is stored: a signal was passed on (us_privacy)"}],"position":""}`},
		{"intake, TCF without a string", "kith.in.acme", event, []string{auth, key("acme-key"), "kith-consent", "gdpr=1"}, `{"accepted":0,"refused":[{"index":0,"code":"opted_out","message":"nothing is stored: a signal was passed on (gdpr)"}],"position":""}`},
		{"lookup, GPP in the second of two", "kith.query.lookup", `{"identities":["browser:n1"],"after":"0:1"}`, []string{auth, key("acme-key"), "Kith-Consent", "gdpr=0", "Kith-Consent", "gpp=no&gpp_sid=7"}, `{"results":[{"identity":"browser:n1","known":false,"opted_out":true,"segments":[]}]}`},
		{"lookup, nothing against it", "kith.query.lookup", `{"identities":["browser:n1"],"after":"0:1"}`, []string{auth, key("acme-key"), "Kith-Consent", "gdpr=0&us_privacy=1YNN"}, `{"results":[{"identity":"browser:n1","known":true,"opted_out":false,"segments":["all","auto"]}]}`},
		{"intake, no key", "kith.in.acme", event, nil, "unauthorized"},
		{"intake, wrong key", "kith.in.acme", event, []string{auth, key("x")}, "unauthorized"},
		{"intake, another client", "kith.in.other", event, []string{auth, key("acme-key")}, "forbidden"},
		{"intake, unknown client", "kith.in.nobody", event, []string{auth, key("acme-key")}, "forbidden"},
		{"intake, another client in the body", "kith.in.acme", `{"client":"other","events":[]}`, []string{auth, key("acme-key")}, "forbidden"},
		{"intake, report key", "kith.in.acme", event, []string{auth, key("acme-report")}, "forbidden"},
		{"intake, broken", "kith.in.acme", `{`, []string{auth, key("acme-key")}, "json"},
		{"lookup", "kith.query.lookup", `{"identities":["browser:n1"],"after":"0:1"}`, []string{auth, key("acme-key")}, `{"results":[{"identity":"browser:n1","known":true,"opted_out":false,"segments":["all","auto"]}]}`},
		{"lookup, no key", "kith.query.lookup", `{"identities":[]}`, nil, "unauthorized"},
		{"lookup, too late", "kith.query.lookup", `{"identities":[],"after":"0:99"}`, []string{auth, key("acme-key")}, "timeout"},
		{"count", "kith.query.count", `{"expr":"big"}`, []string{auth, key("acme-report")}, `{"count":1234,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"count under the floor", "kith.query.count", `{"expr":"small"}`, []string{auth, key("acme-key")}, `{"count":null,"below":50,"exact":true,"partitions":{"answered":64,"of":64}}`},
		{"count, broken", "kith.query.count", `{"expr":5}`, []string{auth, key("acme-key")}, "json"},
	} {
		m := ask(t, nc, tt.subject, tt.body, tt.headers...)
		got := strings.TrimSpace(string(m.Data))
		if m.Header.Get(micro.ErrorCodeHeader) != "" {
			_, rest, _ := strings.Cut(got, `{"error":{"code":"`)
			got, _, _ = strings.Cut(rest, `"`)
		}
		if got != tt.want {
			t.Errorf("%s: %s %v\nwant %s", tt.name, m.Data, m.Header, tt.want)
		}
	}
	b, err := gproto.Marshal(&pb.EventsRequest{Events: []*pb.Event{{Event: "page", Identities: []string{"browser:n2"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var x pb.EventsResponse
	m := ask(t, nc, "kith.in.acme", string(b), auth, key("acme-key"), "Content-Type", "Application/x-protobuf; v=1")
	if err := gproto.Unmarshal(m.Data, &x); err != nil || x.Accepted != 1 {
		t.Errorf("%v %v", &x, err)
	}
}

func TestNATSOpen(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Dev = true })
	nc := natsRig(t, r)
	m := ask(t, nc, "kith.in.demo", `{"events":[{"event":"page","identities":["browser:n1"]}]}`)
	if !strings.HasPrefix(string(m.Data), `{"accepted":1`) {
		t.Error(string(m.Data))
	}
	m = ask(t, nc, "kith.query.lookup", `{"client":"demo","identities":["browser:n1"]}`)
	if !strings.Contains(string(m.Data), `"known":true`) {
		t.Error(string(m.Data))
	}
	if m = ask(t, nc, "kith.in.demo", `{"events":[]}`, auth, key("guess")); m.Header.Get(micro.ErrorCodeHeader) != "401" {
		t.Error("a wrong key passes where none is needed:", m.Header)
	}
}

// TestNATSReplySubject: a sender that aims the answer at the log, at
// JetStream or at anything else but an inbox gets none, and nothing is done.
func TestNATSReplySubject(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Dev = true })
	r.counts["big"] = 1234
	nc := natsRig(t, r)
	aimed := []string{
		"kith.log.00", "kith.ctl", "kith.in.demo", "kith.query.count", "$JS.API.STREAM.DELETE.KITH", "$SRV.PING", "_KITH.x",
		"inbox", "_inbox.x", "x._INBOX.y", "_INBOX.*", "_INBOX.>",
	}
	requests := map[string]string{
		"kith.query.count":  `{"client":"demo","expr":"big"}`,
		"kith.query.lookup": `{"client":"demo","identities":["browser:n1"]}`,
		"kith.in.demo":      `{"events":[{"event":"page","identities":["browser:n1"]}]}`,
	}
	watch := func(subject string) *nats.Subscription {
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	all := watch(">")
	sent := map[string]bool{}
	for subject, body := range requests {
		for _, good := range []bool{true, false} { // answers, and errors
			if !good {
				body = "{"
			}
			for _, reply := range aimed {
				if err := nc.PublishRequest(subject, reply, []byte(body)); err != nil {
					t.Fatal(err)
				}
				sent[subject+" "+reply+" "+body] = true
			}
		}
		// Messages of one subject are handed out in order.
		ask(t, nc, subject, "{")
		for _, inbox := range []string{"_INBOX.x." + subject, "_INBOX_demo.x." + subject} {
			sub := watch(inbox)
			if err := nc.PublishRequest(subject, inbox, []byte("{")); err != nil {
				t.Fatal(err)
			}
			if _, err := sub.NextMsg(10 * time.Second); err != nil {
				t.Errorf("%s: no answer to %s: %v", subject, inbox, err)
			}
		}
	}
	for n, _, _ := all.Pending(); n > 0; n-- {
		m, err := all.NextMsg(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if !sent[m.Subject+" "+m.Reply+" "+string(m.Data)] && m.Reply == "" && !strings.HasPrefix(m.Subject, "_INBOX") {
			t.Errorf("an answer arrived at %s: %s", m.Subject, m.Data)
		}
	}
	if n := len(r.taken()); n != 0 {
		t.Errorf("%d events of dropped messages were taken", n)
	}
	if s := send(r.g.Service(), "GET", "/metrics", "").Body.String(); !strings.Contains(s, "kith_gateway_nats_refused_total 81\n") {
		t.Errorf("the dropped messages are not counted:\n%s", s)
	}
}

// TestNATSOverload holds every worker: whoever waits for a reply is told.
func TestNATSOverload(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Dev, c.NATSConcurrency = true, 1 })
	held, release := make(chan struct{}), make(chan struct{})
	r.fail = func(_ int, e *proto.Event) bool {
		if e.Name == "hold" {
			close(held)
			<-release
		}
		return false
	}
	nc := natsRig(t, r)
	if err := nc.Publish("kith.in.demo", []byte(`{"events":[{"event":"hold","identities":["browser:n1"]}]}`)); err != nil {
		t.Fatal(err)
	}
	<-held
	m := ask(t, nc, "kith.in.demo", `{"events":[]}`)
	if m.Header.Get(micro.ErrorCodeHeader) != "503" || !strings.Contains(string(m.Data), "overloaded") {
		t.Errorf("%s %v", m.Data, m.Header)
	}
	close(release)
}

// TestNATSFloodOfOneClient: neither opt-outs over a client's allowance that nobody
// waits for nor questions that wait for a position keep others waiting.
func TestNATSFloodOfOneClient(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.NATSConcurrency, c.OptOutsPerSecond, c.WaitMax = 1, 0.001, 30*time.Second })
	nc := natsRig(t, r)
	all := `{"identities":["browser:x1"` + strings.Repeat(`,"browser:x1"`, 999) + `]}`
	if m := ask(t, nc, "kith.optout", all, auth, key("acme-key")); m.Header.Get(micro.ErrorCodeHeader) != "" {
		t.Fatal(string(m.Data), m.Header)
	}
	send := func(subject, reply, body string) {
		t.Helper()
		m := &nats.Msg{Subject: subject, Reply: reply, Header: nats.Header{auth: {key("acme-key")}}, Data: []byte(body)}
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		send("kith.optout", "", `{"identity":"browser:x2"}`)
		send("kith.query.lookup", "_INBOX.x", `{"identities":[],"after":"0:99"}`)
		send("kith.query.count", "_INBOX.x", `{"expr":"auto","after":"0:99"}`)
	}
	for _, tt := range []struct{ subject, body, key, want string }{
		{"kith.optout", `{"identity":"browser:x3"}`, "demo-key", `"opted_out":true`},
		{"kith.optout", `{"identity":"browser:x3"}`, "acme-key", "rate_limited"},
		{"kith.query.lookup", `{"identities":["browser:x4"]}`, "demo-key", `"identity":"browser:x4"`},
		{"kith.in.demo", `{"events":[{"event":"page","identities":["browser:x4"]}]}`, "demo-key", `"accepted":1`},
	} {
		if m := ask(t, nc, tt.subject, tt.body, auth, key(tt.key)); !strings.Contains(string(m.Data), tt.want) {
			t.Errorf("%s with %s: %s", tt.subject, tt.key, m.Data)
		}
	}
}

// TestNATSOptOutsThatWaitAreDone: those over the allowance that nobody waits for are
// done before the node ends.
func TestNATSOptOutsThatWaitAreDone(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.OptOutsPerSecond = 0.001 })
	t.Run("node", func(t *testing.T) {
		nc := natsRig(t, r)
		ask(t, nc, "kith.optout", `{"identities":["browser:x1"`+strings.Repeat(`,"browser:x1"`, 999)+`]}`, auth, key("acme-key"))
		for i := range 300 { // more than are in work at once
			m := &nats.Msg{Subject: "kith.optout", Header: nats.Header{auth: {key("acme-key")}}, Data: fmt.Appendf(nil, `{"identity":"browser:wait%d"}`, i)}
			if err := nc.PublishMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		ask(t, nc, "kith.optout", `{"identity":"browser:last"}`, auth, key("acme-key")) // they were handed out before
	})
	n := 0
	for _, c := range r.graph.cuts {
		if strings.HasPrefix(c, "optout browser:wait") {
			n++
		}
	}
	if n != 300 {
		t.Errorf("%d of 300 were done", n)
	}
}

// slowCounts is memberships of which one client's counts take as long as they are let.
type slowCounts struct {
	*twin
	of  proto.ClientName
	let chan struct{}
}

func (x slowCounts) Count(ctx context.Context, c proto.ClientInfo, expr, unit string) (proto.Count, error) {
	if c.Name == x.of {
		<-x.let
	}
	return x.twin.Count(ctx, c, expr, unit)
}

// TestNATSCountsOfOneClient: those that take long leave other clients' a slot, and
// wait for one another.
func TestNATSCountsOfOneClient(t *testing.T) {
	tw := newTwin()
	tw.counts["big"] = 1234
	x := slowCounts{tw, "acme", make(chan struct{})}
	d := tw.behind()
	d.Memberships = x
	g, err := gateway.New(gateway.Config{NATSConcurrency: 8}, d)
	if err != nil {
		t.Fatal(err)
	}
	nc := natsRig(t, &rig{g: g})
	answers := make(chan *nats.Msg, 20)
	inbox := nats.NewInbox()
	if _, err := nc.ChanSubscribe(inbox, answers); err != nil {
		t.Fatal(err)
	}
	for range cap(answers) {
		m := &nats.Msg{Subject: "kith.query.count", Reply: inbox, Header: nats.Header{auth: {key("acme-key")}}, Data: []byte(`{"expr":"big"}`)}
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if m := ask(t, nc, "kith.query.count", `{"expr":"big"}`, auth, key("demo-key")); !strings.Contains(string(m.Data), `"count":1234`) {
		t.Errorf("another client is told %s", m.Data)
	}
	close(x.let)
	for range cap(answers) {
		if m := <-answers; !strings.Contains(string(m.Data), `"count":1234`) {
			t.Errorf("one that waited is told %s", m.Data)
		}
	}
}

// TestNATSRefusalsAreCounted: the audit log tells what was refused over NATS.
func TestNATSRefusalsAreCounted(t *testing.T) {
	a := &auditTwin{}
	d := newTwin().behind()
	d.Audit = a
	g, err := gateway.New(gateway.Config{OptOutsPerSecond: 0.001}, d)
	if err != nil {
		t.Fatal(err)
	}
	nc := natsRig(t, &rig{g: g})
	for _, x := range [][2]string{
		{"kith.in.acme", `{"events":[]}`},
		{"kith.in.acme", `{`},
		{"kith.query.lookup", `{"identities":[]}`},
		{"kith.query.lookup", `{"identities":[],"client":"other"}`},
		{"kith.optout", `{"identities":["browser:x1"` + strings.Repeat(`,"browser:x1"`, 999) + `]}`},
		{"kith.optout", `{"identity":"browser:x2"}`},
		{"kith.optout", `{"identity":"x"}`},
	} {
		ask(t, nc, x[0], x[1], auth, key("acme-key"))
	}
	if err := g.FlushAudit(); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	got := map[string][2]uint64{}
	for _, x := range a.lines {
		if x.Requests > 0 {
			got[x.Route] = [2]uint64{x.Requests, x.Refused}
		}
	}
	want := map[string][2]uint64{"NATS kith.in": {2, 1}, "NATS kith.query.lookup": {2, 1}, "NATS kith.optout": {2, 2}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// heldOptOuts is opt-outs that take as long as they are let.
type heldOptOuts struct {
	*twin
	began, let chan struct{}
}

func (x heldOptOuts) OptOut(ctx context.Context, by proto.ClientInfo, id proto.Identity, everywhere bool) (proto.OptOutState, error) {
	x.began <- struct{}{}
	<-x.let
	return x.twin.OptOut(ctx, by, id, everywhere)
}

// TestNATSDropsAreCounted: what comes to a full queue of the service is counted as what
// comes to that of events is, and the connection's own handler hears of it too.
func TestNATSDropsAreCounted(t *testing.T) {
	tw := newTwin()
	x := heldOptOuts{tw, make(chan struct{}, 1), make(chan struct{})}
	d := tw.behind()
	d.OptOuts = x
	g, err := gateway.New(gateway.Config{NATSConcurrency: 1}, d)
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 100)
	nc := natsRig(t, &rig{g: g}, nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, _ error) { heard <- sub.Subject }))
	let := sync.OnceFunc(func() { close(x.let) })
	t.Cleanup(let)
	m := &nats.Msg{Subject: "kith.optout", Header: nats.Header{auth: {key("acme-key")}}, Data: []byte(`{"identity":"browser:x1"}`)}
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	<-x.began
	const more, queue = 1000, 1 << 16
	for range queue + more {
		if err := nc.Publish("kith.optout", nil); err != nil { // it is refused, once it is looked at
			t.Fatal(err)
		}
	}
	dropped := func() (n float64) {
		for line := range strings.Lines(send(g.Service(), "GET", "/metrics", "").Body.String()) {
			if _, err := fmt.Sscanf(line, "kith_gateway_nats_dropped_total %g\n", &n); err == nil {
				return n
			}
		}
		return -1
	}
	until(t, func() bool { return dropped() >= more-2 }) // one or two wait beside the queue
	if n := dropped(); n > more {
		t.Errorf("%v are counted, %d more came than there is room for", n, more)
	}
	if s := <-heard; s != "kith.optout" {
		t.Errorf("the connection's handler hears of %s", s)
	}
	let()
}
