package gateway

import (
	"net/http"
	"runtime"
	"strings"

	"kith/proto"
	"kith/proto/pb"
)

// Names for the tests outside.
var (
	ParseTimestamp = parseTimestamp
	Personal       = personal
	ReadExactly    = readExactly
	PlainIdentity  = plainIdentity
	QueryValue     = queryValue
	CookiesNamed   = cookiesNamed
	Legible        = legible
	Unescaped      = unescaped
	StatusOf       = statusOf
	TagScript      = func() (zipped int) { t, _ := tagAsset(); return len(t.zipped) }
	AppendText     = appendText
	NamesNobody    = namesNobody
	TCAllows       = func(s string, vendor int) bool { return tcAllows(s, tcNeeded, vendor) }
)

// BrowserProof is the cookie that proves a browser's identity.
func (g *Gateway) BrowserProof(id proto.Identity) string { return g.browserProof(id) }

// Unheard is for whom a receipt is that counts nothing.
var Unheard = unheard

// BidSegmentsMax is how many segments an answer to a bid request holds.
const BidSegmentsMax = bidSegmentsMax

// PublicTurns is how many histories are read at once for the public plane.
func (g *Gateway) PublicTurns() int { return cap(g.records.public.reading) }

// PublicLines is how many lines there are of whom records are read for the public plane.
func (g *Gateway) PublicLines() int {
	g.records.public.lines.mu.Lock()
	defer g.records.public.lines.mu.Unlock()
	return len(g.records.public.lines.of)
}

// Bounds of long records that are sent at once on a plane.
const (
	LongRecordsMax = longRecordsMax
	LongNetworkMax = longNetworkMax
	LongProxyMax   = longProxyMax
	LongClientMax  = longClientMax
	MiddleTimes    = middleTimes
)

// ReadGPP reads a GPP string; list is gpp_sid as in a query, "" if there is none.
func ReadGPP(s, list string) (tc string, refused bool) {
	var x sections
	if list != "" {
		x.parse(list)
	}
	return readGPP(s, x)
}

// Refusal is one refused event.
type Refusal struct {
	Index   int
	Code    proto.Code
	Message string
}

// Parser runs the intake's parser on one body after another.
type Parser struct {
	p       post
	Resolve func(string) (proto.ClientInfo, error)
	Hasher  proto.Hasher
	Now     proto.Millis
}

// Parse reads a body of events for a client, nil if the body must name it.
func (x *Parser) Parse(body []byte, client *proto.ClientInfo) error {
	x.ready(client)
	return x.p.parseJSON(body)
}

func (x *Parser) ready(client *proto.ClientInfo) {
	x.p.reset()
	c := DefaultConfig()
	x.p.hasher, x.p.now, x.p.max, x.p.ages, x.p.resolve = x.Hasher, x.Now, c.EventsMax, ages{c.EventAgeMax, c.EventAheadMax}, x.Resolve
	if client != nil {
		x.p.client, x.p.known = *client, true
	}
}

// ParseProtobuf is Parse of an encoded pb.EventsRequest.
func (x *Parser) ParseProtobuf(body []byte, client *proto.ClientInfo) error {
	x.ready(client)
	return x.p.parseProtobuf(body)
}

// TakeProtobuf takes decoded events of a client.
func (x *Parser) TakeProtobuf(list []*pb.Event, client *proto.ClientInfo) {
	x.ready(client)
	for _, e := range list {
		x.p.draft.reset()
		x.p.draft.fromProtobuf(e)
		x.p.take()
	}
}

// Refused are the events that were not taken.
func (x *Parser) Refused() (out []Refusal) {
	for _, r := range x.p.refused {
		out = append(out, Refusal{r.index, r.code, r.message})
	}
	return out
}

// Batch and Indexes are what was taken.
func (x *Parser) Batch() *proto.Batch { return &x.p.batch }
func (x *Parser) Indexes() []int      { return x.p.indexes }

// DefaultConfig is the zero Config with its defaults in place.
func DefaultConfig() Config { return Config{}.withDefaults() }

// SkipJSON reports whether the scanner takes b as one JSON value.
func SkipJSON(b []byte) error {
	var s scanner
	s.reset(b)
	if s.skip() && s.end() {
		return nil
	}
	return s.err
}

// ScanString and ScanNumber read b as one such value.
func ScanString(b []byte) (string, bool, error) {
	var s scanner
	s.reset(b)
	if s.peek() != '"' {
		s.fail("no string")
	}
	if s.err == nil {
		if v, ok := s.str(); ok && s.end() {
			return v, s.odd, nil
		}
	}
	return "", false, s.err
}

// ScanNumber reads b as one number.
func ScanNumber(b []byte) (float64, error) {
	var s scanner
	s.reset(b)
	s.peek()
	f, ok := s.number()
	if ok && s.end() {
		return f, nil
	}
	return 0, s.err
}

// ParseLookup reads the body of a look-up.
func ParseLookup(b []byte) ([]string, string, error) {
	var l lookup
	err := l.parseJSON(b, 1000)
	return l.identities, l.after, err
}

// CountBody is a count's request as its quick reading and as encoding/json give it.
func CountBody(body []byte) (quick, strict any, taken bool, err error) {
	var x, y countRequest
	taken = x.scan(body)
	err = decodeStrict(body, &y)
	return x, y, taken, err
}

// EncodeCount and EncodeValue write an answer.
func EncodeCount(v any) ([]byte, error) { return encodeCount(v) }
func EncodeValue(v any) ([]byte, error) { return encodeValue(v) }

// ParsePixel reads the query of a pixel.
func (x *Parser) ParsePixel(query string) error {
	x.p.reset()
	c := DefaultConfig()
	x.p.hasher, x.p.now, x.p.max, x.p.ages, x.p.resolve = x.Hasher, x.Now, 1, ages{c.EventAgeMax, c.EventAheadMax}, x.Resolve
	x.p.draft.reset()
	x.p.draft.event.Name = "page"
	x.p.draft.addIdentity("browser:pixel1")
	if err := x.p.parseQuery(query); err != nil {
		return err
	}
	x.p.take()
	return nil
}

// DefaultConfigOf is c with its defaults in place.
func DefaultConfigOf(c Config) Config { return c.withDefaults() }

// Limits of live feeds.
const (
	LivePerSecond = livePerSecond
	LiveBuffer    = liveBuffer
	LivePerClient = livePerClient
	LivePerNode   = livePerNode
)

// StopLive ends the live feeds as a server that stops does.
func (g *Gateway) StopLive() { g.live.stop() }

// WaitLive returns when n feeds are open.
func (g *Gateway) WaitLive(n int) {
	for {
		g.live.mu.Lock()
		have := g.live.count
		g.live.mu.Unlock()
		if have == n {
			return
		}
		runtime.Gosched()
	}
}

// LiveTally is what the first watcher of a client has.
func (g *Gateway) LiveTally(client proto.ClientName) (seen, skipped, lost uint64) {
	w := g.watcherOf(client)
	return w.seen.Load(), w.skipped.Load(), w.lost.Load()
}

// WaitLiveDrained returns when nothing waits for the first watcher of a client.
func (g *Gateway) WaitLiveDrained(client proto.ClientName) {
	for len(g.watcherOf(client).events) > 0 {
		runtime.Gosched()
	}
}

func (g *Gateway) watcherOf(name proto.ClientName) *watcher {
	client, _ := g.deps.Accounts.Client(name)
	return g.live.watching()[client.ID][0]
}

// Languages are the words of each.
func Languages() (list []words) {
	for _, w := range languages {
		list = append(list, *w)
	}
	return list
}

// ConsoleFiles are the console's, as they are embedded.
var ConsoleFiles = consoleFiles

// FlushAudit writes what was counted.
func (g *Gateway) FlushAudit() error {
	g.audit.later.Wait()
	return g.audit.flush(g.c.Now())
}

// AuditWaits is how many lines wait for the next round.
func (g *Gateway) AuditWaits() int {
	g.audit.mu.Lock()
	defer g.audit.mu.Unlock()
	return len(g.audit.pending)
}

// FindPersonal is the label of the personal data that s holds, "none" if none.
func FindPersonal(s string) string { return personalLabels[findPersonal(s)] }

// Agent is what a user agent, or a request's headers, say.
type Agent struct {
	Browser, OS, Device string
	Bot                 bool
}

func (a agent) told() Agent { return Agent{a.browser, a.os, a.device, a.bot} }

// ReadAgent reads a user agent.
func ReadAgent(s string) Agent { return readAgent(s).told() }

// Sessions derives session data as a gateway does.
type Sessions struct{ x *sessions }

// NewSessions makes one with a memory of its own.
func NewSessions() *Sessions {
	x, err := newSessions(nil)
	if err != nil {
		panic(err)
	}
	return &Sessions{x}
}

// OfRequest is what headers say.
func (s *Sessions) OfRequest(h http.Header) Agent { return s.x.ofRequest(h).told() }

// Read is a user agent's reading, from memory where it can be.
func (s *Sessions) Read(agent string) Agent { return s.x.agents.read(agent).told() }

// Known is how many user agents are remembered.
func (s *Sessions) Known() int { return len(s.x.agents.known) }

// AgentsMax and AgentBytesMax are the bounds of that memory.
const (
	AgentsMax     = agentsMax
	AgentBytesMax = agentBytesMax
)

// Search is the search engine of a referrer, and the terms; Network its social
// network.
func (s *Sessions) Search(ref string) (engine, terms string) {
	return s.x.places.search(splitAddress(ref))
}

// Network is a referrer's social network.
func (s *Sessions) Network(ref string) string { return s.x.places.network(splitAddress(ref).host) }

// Derive adds session data to an event that somebody with the user agent sent.
func (s *Sessions) Derive(e *proto.Event, agent string) {
	d := draft{event: *e, agent: s.x.agents.read(agent)}
	s.x.derive(&d)
	*e = d.event
}

// SectionOf and RefHost are the section of a url and the host of one.
var (
	SectionOf = sectionOf
	RefHost   = func(s string) string { return splitAddress(s).host }
)

// ShortNumber and LongNumber find the end of the number at i, the first for few
// digits, or 0; the second reports personal data too.
func ShortNumber(s string, i int) int { return shortNumber(s, i) }
func LongNumber(s string, i int) (personal bool, end int) {
	kind, end := longNumber(s, i)
	return kind != noPersonal, end
}

// BrowserClass sorts a User-Agent.
func BrowserClass(agent string) (family, version, system string) { return browserClass(agent) }

// FindSensitive is what a property names by its name or text, for a client without
// settings.
func FindSensitive(name string, v proto.Value) string {
	j := mustJudge(Sensitive{})
	kind, _ := j.prop(nil, name, v, false)
	return kind.String()
}

// FindSensitiveFor is FindSensitive for a client with settings.
func FindSensitiveFor(c Sensitive, name string, v proto.Value) string {
	kind, _ := mustJudge(c).prop(nil, name, v, false)
	return kind.String()
}

// FindSensitiveID is what the id of a segment names.
func FindSensitiveID(id string) string { return mustJudge(Sensitive{}).label(id).String() }

func mustJudge(c Sensitive) *judge {
	j, err := newJudge(c)
	if err != nil {
		panic(err)
	}
	return j
}

// SensitiveIDs are the ids of a taxonomy ("content", "audience") on the list.
func SensitiveIDs(taxonomy string) map[string]string {
	v, err := builtIn()
	if err != nil {
		panic(err)
	}
	m := map[string]string{}
	for key, kind := range v.ids {
		if id, ok := strings.CutPrefix(key, "iab-"+taxonomy+":"); ok {
			m[id] = kind.String()
		}
	}
	return m
}

// SensitiveFinder judges one property after another with a buffer of its own.
func SensitiveFinder() func(proto.Prop) string {
	j, buf := mustJudge(Sensitive{}), make([]byte, 0, 256)
	return func(p proto.Prop) string {
		var kind sensitiveKind
		kind, buf = j.prop(buf, p.Key, p.Value, false)
		return kind.String()
	}
}

// Words are the words of a text, each with a space behind it.
func Words(s string) string { return string(appendWords(nil, s)) }

// About is about.
var About = about
