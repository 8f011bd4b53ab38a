package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"kith/gateway"
	"kith/internal/config"
	"kith/internal/porttest"
)

// What a route does with people.
const (
	doesStore  = "stores"
	doesTell   = "tells"
	doesBoth   = "stores, tells"
	doesShow   = "shows"  // what is held, to those whose right that is
	doesCut    = "cuts"   // takes away, or lifts that
	doesState  = "states" // whether somebody is opted out
	doesCount  = "counts" // many people, by number
	doesList   = "lists"  // many people, by identity
	doesNobody = ""       // concerns nobody
)

// privacyRoute is what the test must know of a route.
type privacyRoute struct {
	does   string
	target string // with {browser} and {value} for the person; the path if empty
	body   string
	form   bool                          // a page's own
	marker string                        // what the answer has in it if something is told; "private" if empty
	bid    func(s *privacySignal) string // the body, where signals are in it
}

// privacySignal is one way to say no.
type privacySignal struct {
	name          string
	header, query string // header is NAME: VALUE
	cookie, cut   bool
	user, device  string // in a bid request
	regs          string
}

// refusedTC is a TC string that consents to no purpose.
const refusedTC = "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA"

var privacySignals = []*privacySignal{
	{name: "GPC", header: "Sec-GPC: 1"},
	{name: "DNT", header: "DNT: 1"},
	{name: "opt-out cookie", cookie: true},
	{name: "opted-out id", cut: true},
	{name: "lmt", query: "lmt=1", device: `"lmt":1`},
	{name: "coppa", query: "coppa=1", regs: `"coppa":1`},
	{name: "TCF refused", query: "gdpr=1&gdpr_consent=" + refusedTC, user: `,"consent":"` + refusedTC + `"`, regs: `"gdpr":1`},
}

// privacyRoutes is every route of the gateway. One that is new fails the test
// until it is here.
var privacyRoutes = map[string]privacyRoute{
	"public GET /v1/pixel.gif":                       {does: doesStore, target: "/v1/pixel.gif?client=demo&p.section=auto"},
	"public POST /v1/events":                         {does: doesStore, body: `{"client":"demo","events":[{"event":"page","props":{"section":"auto"}}]}`},
	"public POST /v1/choices":                        {does: doesStore, body: `{"client":"demo","age_band":"25-34"}`},
	"public POST /choices":                           {does: doesStore, target: "/choices?client=demo", body: "do=save&age_band=25-34", form: true, marker: "k1~"},
	"public GET /v1/match":                           {does: doesBoth, target: "/v1/match?client=demo&partner=demo&uid=p{value}&redirect=" + url.QueryEscape("https://partner.example/?k={id}"), marker: "k1~"},
	"public GET /v1/me/segments":                     {does: doesTell, target: "/v1/me/segments?client=demo"},
	"public GET /v1/me":                              {does: doesShow, target: "/v1/me?client=demo"},
	"public GET /choices":                            {does: doesShow, target: "/choices?client=demo"},
	"public DELETE /v1/me":                           {does: doesCut},
	"public POST /v1/optout":                         {does: doesCut},
	"public POST /optout":                            {does: doesCut, body: "do=out", form: true},
	"public POST /v1/optin":                          {does: doesCut},
	"public GET /optout":                             {does: doesState},
	"public GET /v1/optout/status":                   {does: doesState, target: "/v1/optout/status?client=demo"},
	"public GET /v1/receipts/key":                    {},
	"public GET /kith.js":                            {},
	"public GET /pages/people.css":                   {},
	"public GET /pages/people.js":                    {},
	"public GET /healthz":                            {},
	"service POST /v1/events":                        {does: doesStore, body: `{"events":[{"event":"page","identities":["{browser}"],"props":{"section":"auto"}}]}`},
	"service POST /v1/links":                         {does: doesStore, body: `{"a":"{browser}","b":"account:other{value}"}`},
	"service POST /v1/traits":                        {does: doesStore, body: `{"rows":[{"identity":"{browser}","traits":{"age":34}}]}`},
	"service POST /v1/lookup":                        {does: doesTell, body: `{"identities":["{browser}"]}`},
	"service POST /v1/openrtb":                       {does: doesTell, bid: privacyBid},
	"service POST /v1/optouts":                       {does: doesCut, body: `{"identity":"{browser}"}`},
	"service POST /v1/optins":                        {does: doesCut, body: `{"identity":"{browser}"}`},
	"service DELETE /v1/links":                       {does: doesCut, body: `{"a":"{browser}"}`},
	"service GET /v1/optouts":                        {},
	"service POST /v1/audiences/count":               {does: doesCount, body: `{"expr":"private"}`, marker: `"count":%d,`},
	"service POST /v1/audiences/overlap":             {does: doesCount, body: `{"segments":["private"]}`, marker: `"counts":[[%d]]`},
	"service POST /v1/audiences/export":              {does: doesList, body: `{"expr":"private","format":"ndjson"}`},
	"service GET /v1/clients/{name}/export":          {does: doesList, target: "/v1/clients/demo/export"},
	"service GET /v1/identities/{identity}/segments": {does: doesTell, target: "/v1/identities/{browser}/segments"},
	"service GET /v1/identities/{identity}":          {does: doesShow, target: "/v1/identities/{browser}"},
	"service DELETE /v1/identities/{identity}":       {does: doesCut, target: "/v1/identities/{browser}"},
	"service PATCH /v1/identities/{identity}/traits": {does: doesStore, target: "/v1/identities/{browser}/traits", body: `{"age":34}`},
	"service GET /v1/identities/{identity}/explain":  {does: doesTell, target: "/v1/identities/{browser}/explain?segment=private", marker: `"in":true`},
	"service GET /v1/users/{identity}":               {does: doesTell, target: "/v1/users/{browser}", marker: "account:"},
	"service GET /v1/optouts/{identity}":             {does: doesState, target: "/v1/optouts/{browser}"},
	"service POST /v1/imports/{id}/rows":             {does: doesStore, target: "/v1/imports/{import}/rows", body: `{"identities":["{browser}"]}`},
	"service GET /v1/segments":                       {},
	"service GET /v1/segments/{id}":                  {},
	"service PUT /v1/segments/{id}":                  {},
	"service DELETE /v1/segments/{id}":               {},
	"service GET /v1/segments/{id}/sizes":            {},
	"service GET /v1/receipts/key":                   {},
	"service POST /v1/receipts/verify":               {},
	"service POST /v1/erase":                         {},
	"service GET /v1/audiences":                      {},
	"service GET /v1/audiences/{id}":                 {},
	"service PUT /v1/audiences/{id}":                 {},
	"service DELETE /v1/audiences/{id}":              {},
	"service POST /v1/campaigns/report":              {},
	"service GET /v1/aggregates":                     {},
	"service GET /v1/imports":                        {},
	"service POST /v1/imports":                       {},
	"service POST /v1/imports/check":                 {},
	"service GET /v1/imports/{id}":                   {},
	"service DELETE /v1/imports/{id}":                {},
	"service POST /v1/imports/{id}/commit":           {},
	"service GET /v1/feed":                           {},
	"service POST /v1/feed/identities":               {},
	"service GET /v1/leakage":                        {},
	"service GET /v1/live":                           {target: "/v1/live?skip"},
	"service GET /v1/audit":                          {},
	"service GET /v1/key":                            {},
	"service GET /console":                           {},
	"service GET /console/{file}":                    {target: "/console/app.js"},
	"service POST /v1/keys":                          {},
	"service GET /v1/clients":                        {},
	"service DELETE /v1/clients/{name}":              {},
	"service GET /v1/clients/{name}/erasure":         {},
	"service GET /v1/deadletters":                    {},
	"service POST /v1/deadletters/{id}/replay":       {},
	"service GET /v1/partitions":                     {},
	"service GET /v1/cluster":                        {},
	"service DELETE /v1/cluster/nodes/{name}":        {},
	"service POST /v1/cluster/nodes/{name}/drain":    {},
	"service DELETE /v1/cluster/nodes/{name}/drain":  {},
	"service PUT /v1/cluster/lanes/{lane}/owner":     {},
	"service DELETE /v1/cluster/lanes/{lane}/owner":  {},
	"service GET /debug/pprof/{profile}":             {target: "/debug/pprof/heap"},
	"service POST /v1/backup":                        {target: "/v1/backup?skip"},
	"service GET /v1/verify":                         {},
	"service GET /healthz":                           {},
	"service GET /readyz":                            {},
	"service GET /metrics":                           {},
}

// privacySubjects are the subjects of NATS on which something is asked or told of people,
// in the order of the table.
var privacySubjects = []struct {
	subject string
	privacyRoute
}{
	{"kith.in.demo", privacyRoute{does: doesStore, body: `{"events":[{"event":"page","identities":["{browser}"],"props":{"section":"auto"}}]}`}},
	{"kith.query.lookup", privacyRoute{does: doesTell, body: `{"client":"demo","identities":["{browser}"]}`}},
	{"kith.query.count", privacyRoute{does: doesCount, body: `{"client":"demo","expr":"private"}`, marker: `"count":%d,`}},
	{"kith.optout", privacyRoute{does: doesCut, body: `{"identity":"{browser}"}`}},
}

func privacyBid(s *privacySignal) string {
	if s == nil {
		s = &privacySignal{}
	}
	return `{"id":"1","user":{"id":"{value}"` + s.user + `},"device":{` + s.device + `},"regs":{` + s.regs + `}}`
}

// privacyNode is a real node behind its gateway.
type privacyNode struct {
	t    *testing.T
	g    *gateway.Gateway
	nats *nats.Conn
	last int // person
}

func newPrivacyNode(t *testing.T, edit ...func(*config.Config)) *privacyNode {
	t.Helper()
	c := config.Default()
	c.Data = t.TempDir()
	c.UseDev()
	c.NATS.Listen = porttest.Free(t)
	for _, e := range edit {
		e(&c)
	}
	log := slog.New(slog.DiscardHandler)
	n, m, err := openNode(t.Context(), c, nil, false, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	g, err := newGateway(c, n, nil, m, log)
	if err != nil {
		t.Fatal(err)
	}
	p := &privacyNode{t: t, g: g, nats: natsOf(t, g, n, c)}
	p.must("PUT", "/v1/segments/private?client=demo", `{"scope":"identity","when":"count(event.section == \"auto\", \"30d\") >= 1"}`)
	p.must("POST", "/v1/keys", `{"client":"beat","role":"client"}`)
	return p
}

// natsOf has the gateway answer messages, and connects to the node's NATS as others do.
func natsOf(t *testing.T, g *gateway.Gateway, n node, c config.Config) *nats.Conn {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- g.ServeNATS(ctx, n.Conn(), func() { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-ready
	nc, err := nats.Connect("nats://"+c.NATS.Listen, nats.Token(config.DevAdminKey))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// message asks by NATS; status is as over HTTP.
func (p *privacyNode) message(subject, body string, header http.Header) (status int, answer string) {
	p.t.Helper()
	m := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{"Authorization": {"Bearer " + config.DevAdminKey}}}
	for name, values := range header {
		m.Header[name] = values
	}
	r, err := p.nats.RequestMsg(m, time.Minute)
	if err != nil {
		p.t.Fatalf("%s: %v", subject, err)
	}
	status = http.StatusOK
	if r.Header.Get(micro.ErrorCodeHeader) != "" {
		status = http.StatusBadRequest
	}
	return status, string(r.Data)
}

// must asks the service plane as an admin.
func (p *privacyNode) must(method, target, body string) string {
	p.t.Helper()
	w := p.send("service", method, target, body, nil)
	if w.Code > 299 {
		p.t.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
	}
	return w.Body.String()
}

func (p *privacyNode) send(plane, method, target, body string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for name, values := range header {
		r.Header[name] = values
	}
	h := p.g.Public()
	if plane == "service" {
		h = p.g.Service()
		r.Header.Set("Authorization", "Bearer "+config.DevAdminKey)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// settled waits until all that was taken so far is to be seen.
func (p *privacyNode) settled() {
	p.t.Helper()
	var x struct{ Position string }
	if err := json.Unmarshal([]byte(p.must("POST", "/v1/events?client=beat", `{"events":[{"event":"beat","identities":["browser:beat1"]}]}`)), &x); err != nil {
		p.t.Fatal(err)
	}
	p.must("GET", "/v1/identities/browser:beat1/segments?client=beat&after="+x.Position, "")
}

// held is all that the client demo holds of people.
func (p *privacyNode) held() []string {
	p.t.Helper()
	p.settled()
	var lines []string
	for line := range strings.Lines(p.must("GET", "/v1/clients/demo/export", "")) {
		for _, kind := range []string{"identity", "event", "link", "aggregate"} {
			if strings.HasPrefix(line, `{"kind":"`+kind+`"`) {
				lines = append(lines, line)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// person is a new one, who is in the segment private and linked with an account.
func (p *privacyNode) person(known bool) (value string) {
	p.t.Helper()
	p.last++
	value = fmt.Sprintf("b%031x", p.last)
	if known {
		p.must("POST", "/v1/events?client=demo", `{"events":[{"event":"page","identities":["browser:`+value+`","account:a`+value+`"],"props":{"section":"auto"}}]}`)
		p.settled()
	}
	return value
}

// seen is what came of one request.
type seen struct {
	status       int
	stored, told bool
	cookie       bool // a browser's identity was set
	answer       string
}

// ask sends a route's request about a person, with a signal or none.
func (p *privacyNode) ask(name string, route privacyRoute, value string, s *privacySignal) seen {
	p.t.Helper()
	plane, rest, _ := strings.Cut(name, " ")
	method, target, _ := strings.Cut(rest, " ")
	if route.target != "" {
		target = route.target
	}
	body := route.body
	if route.bid != nil {
		body = route.bid(s)
	}
	header := http.Header{}
	if plane == "NATS" {
		return p.askMessage(rest, strings.ReplaceAll(body, "{browser}", "browser:"+value), route.marker, s)
	}
	if route.form {
		header.Set("Content-Type", "application/x-www-form-urlencoded")
		header.Set("Sec-Fetch-Site", "same-origin")
	} else if body != "" {
		header.Set("Content-Type", "application/json")
	}
	if strings.Contains(target, "{import}") {
		var x struct{ ID string }
		if err := json.Unmarshal([]byte(p.must("POST", "/v1/imports?client=demo", fmt.Sprintf(`{"segment":"crm%d","mode":"create"}`, p.last))), &x); err != nil {
			p.t.Fatal(err)
		}
		target = strings.ReplaceAll(target, "{import}", x.ID)
	}
	cookies := []string{}
	if plane == "public" {
		cookies = append(cookies, "kith_id="+value)
	} else if strings.HasPrefix(target, "/v1/") {
		target = withQuery(target, "client=demo")
	}
	if s != nil {
		if h, v, ok := strings.Cut(s.header, ": "); ok {
			header.Set(h, v)
		}
		if s.query != "" && route.bid == nil {
			target = withQuery(target, s.query)
		}
		if s.cookie {
			cookies = append(cookies, "kith_optout=1")
		}
	}
	if len(cookies) > 0 {
		header.Set("Cookie", strings.Join(cookies, "; "))
	}
	fill := strings.NewReplacer("{browser}", "browser:"+value, "{value}", value, "{name}", "nobody", "{id}", "nobody", "{lane}", "99", "{identity}", "browser:"+value)
	if method != "GET" || !strings.Contains(target, "redirect=") {
		target = fill.Replace(target)
	} else {
		target = strings.ReplaceAll(target, "{value}", value)
	}
	before := p.held()
	w := p.send(plane, method, target, fill.Replace(body), header)
	x := seen{status: w.Code, answer: w.Body.String() + w.Header().Get("Location"), stored: !slices.Equal(before, p.held())}
	marker := route.marker
	if marker == "" {
		marker = "private"
	}
	x.told = strings.Contains(x.answer, marker)
	for _, c := range w.Result().Cookies() {
		x.cookie = x.cookie || c.Name == "kith_id" && c.MaxAge >= 0
	}
	return x
}

// askMessage is ask by NATS: what a browser says goes along as its header, what a query
// says in one of its own.
func (p *privacyNode) askMessage(subject, body, marker string, s *privacySignal) (x seen) {
	p.t.Helper()
	if marker == "" {
		marker = "private"
	}
	header := http.Header{}
	if s != nil {
		if h, v, ok := strings.Cut(s.header, ": "); ok {
			header[h] = []string{v}
		}
		if s.query != "" {
			header["Kith-Consent"] = []string{s.query}
		}
	}
	before := p.held()
	x.status, x.answer = p.message(subject, body, header)
	x.stored, x.told = !slices.Equal(before, p.held()), strings.Contains(x.answer, marker)
	return x
}

func withQuery(target, query string) string {
	if strings.Contains(target, "?") {
		return target + "&" + query
	}
	return target + "?" + query
}

// cell asks a route with a signal and gives what the table says of it.
func (p *privacyNode) cell(name string, route privacyRoute, s *privacySignal) string {
	p.t.Helper()
	if s.cookie && !strings.HasPrefix(name, "public ") {
		return "–" // a server has no cookie of a person's
	}
	value := p.person(true)
	if s.cut {
		p.must("POST", "/v1/optouts", `{"identity":"browser:`+value+`"}`)
	}
	x := p.ask(name, route, value, s)
	if x.cookie {
		p.t.Errorf("%s, %s: a kith_id was set", name, s.name)
	}
	if route.does != doesCut && x.stored {
		p.t.Errorf("%s, %s: something was stored: %d %s", name, s.name, x.status, x.answer)
	}
	switch route.does {
	case doesStore, doesTell, doesBoth:
		if x.told {
			p.t.Errorf("%s, %s: something was told: %d %s", name, s.name, x.status, x.answer)
		}
		return map[string]string{doesStore: "nothing stored", doesTell: "nothing told", doesBoth: "nothing stored or told"}[route.does]
	case doesShow:
		if x.told == s.cut {
			p.t.Errorf("%s, %s: %d, what is held is shown: %v\n%s", name, s.name, x.status, x.told, x.answer)
		}
		if s.cut {
			return "nothing is left"
		}
		return "shown"
	case doesCut:
		if x.told || x.status > 299 && !(s.cut && x.status == http.StatusConflict) && !strings.HasSuffix(name, "optins") {
			p.t.Errorf("%s, %s: %d %s", name, s.name, x.status, x.answer)
		}
		return "done"
	case doesState:
		if x.told || x.status > 299 {
			p.t.Errorf("%s, %s: %d %s", name, s.name, x.status, x.answer)
		}
		return "said"
	}
	p.t.Fatalf("%s has no cells", name)
	return ""
}

// control asks without a signal: what the signals keep away must be there.
func (p *privacyNode) control(name string, route privacyRoute) {
	p.t.Helper()
	stores := route.does == doesStore || route.does == doesBoth
	tells := route.does == doesTell || route.does == doesBoth || route.does == doesShow
	x := p.ask(name, route, p.person(true), nil)
	if stores && !x.stored {
		p.t.Errorf("%s stores nothing even without a signal: %d %s", name, x.status, x.answer)
	}
	if tells && !x.told {
		p.t.Errorf("%s tells nothing even without a signal: %d %s", name, x.status, x.answer)
	}
}

// many asks a route about many with somebody among them, and when they are out.
func (p *privacyNode) many(name string, route privacyRoute) string {
	p.t.Helper()
	value := p.person(true)
	count := func() (n int) {
		x := p.ask(name, privacyRoute{target: route.target, body: route.body}, value, nil)
		if route.does == doesList {
			return strings.Count(x.answer, `"browser:`+value+`"`)
		}
		for n = range 10_000 {
			if strings.Contains(x.answer, fmt.Sprintf(route.marker, n)) {
				return n
			}
		}
		p.t.Errorf("%s: %d %s", name, x.status, x.answer)
		return 0
	}
	before := count()
	p.must("POST", "/v1/optouts", `{"identity":"browser:`+value+`"}`)
	after := count()
	if before == 0 || route.does == doesList && after != 0 || route.does == doesCount && after != before-1 {
		p.t.Errorf("%s: of somebody there was %d before the opt-out, and after it %d", name, before, after)
	}
	return "not in it"
}

// TestPrivacyTable asks every route of a real node with every signal, and
// compares the table of docs/privacy.md with what was seen; -update writes it.
func TestPrivacyTable(t *testing.T) {
	p := newPrivacyNode(t)
	listed := map[string]bool{}
	var table, nobody strings.Builder
	table.WriteString("| route | does |")
	for _, s := range privacySignals {
		table.WriteString(" " + s.name + " |")
	}
	table.WriteString("\n|---|---|" + strings.Repeat("---|", len(privacySignals)) + "\n")
	for _, r := range p.g.Routes() {
		if r.Method == http.MethodHead || r.Method == http.MethodOptions {
			continue // a GET without its body; a browser's question before it asks
		}
		name := r.Plane + " " + r.Method + " " + r.Path
		route, ok := privacyRoutes[name]
		if !ok {
			t.Errorf("%s is new: say in privacyRoutes what it does with people", name)
			continue
		}
		listed[name] = true
		if route.does == doesNobody {
			p.nobody(name, route)
			fmt.Fprintf(&nobody, "- %s: `%s %s`\n", r.Plane, r.Method, r.Path)
			continue
		}
		p.row(&table, name, fmt.Sprintf("%s `%s %s`", r.Plane, r.Method, r.Path), route)
	}
	for _, x := range privacySubjects {
		p.row(&table, "NATS "+x.subject, "NATS `"+x.subject+"`", x.privacyRoute)
	}
	for name := range privacyRoutes {
		if !listed[name] {
			t.Errorf("%s is no route any more: take it off privacyRoutes", name)
		}
	}
	compareTable(t, "../../docs/privacy.md", table.String()+"\nThese concern nobody, or nobody in particular:\n\n"+nobody.String())
}

// row asks a route with every signal and writes its row.
func (p *privacyNode) row(table *strings.Builder, name, shown string, route privacyRoute) {
	p.t.Helper()
	fmt.Fprintf(table, "| %s | %s |", shown, route.does)
	many := route.does == doesCount || route.does == doesList
	if !many {
		p.control(name, route)
	}
	for _, s := range privacySignals {
		switch {
		case !many:
			table.WriteString(" " + p.cell(name, route, s) + " |")
		case s.cut:
			table.WriteString(" " + p.many(name, route) + " |")
		default:
			table.WriteString(" – |")
		}
	}
	table.WriteString("\n")
}

// nobody asks a route that concerns nobody with the browser's own signals.
func (p *privacyNode) nobody(name string, route privacyRoute) {
	p.t.Helper()
	value := p.person(true)
	if strings.HasSuffix(route.target, "?skip") {
		return // a backup is for the operator's eyes and takes seconds; a live feed does not end, and has a test of its own
	}
	for _, s := range privacySignals[:2] {
		if x := p.ask(name, route, value, s); x.stored || x.cookie || strings.Contains(x.answer, value) {
			p.t.Errorf("%s, %s: it concerns somebody after all: %+v", name, s.name, x)
		}
	}
}

const (
	tableBegins = "<!-- The table below is written by a test: go test ./cmd/kith -run TestPrivacyTable -update -->\n"
	tableEnds   = "<!-- End of the table. -->\n"
)

// compareTable compares the part of a page between two marks, or writes it.
func compareTable(t *testing.T, file, want string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(b), tableBegins)
	got, tail, ok2 := strings.Cut(rest, tableEnds)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no marks for the table", file)
	}
	if d := cmp.Diff(want, got); d != "" && !*update {
		t.Errorf("%s is not what was seen: go test ./cmd/kith -run TestPrivacyTable -update, and look at the change\n%s", file, d)
	}
	if *update && !t.Failed() {
		writeFile(t, file, head+tableBegins+want+tableEnds+tail)
	}
}
