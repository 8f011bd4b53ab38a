package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	gproto "google.golang.org/protobuf/proto"

	"kith/proto"
)

// Bounds of what waits in the NATS client for a worker.
const (
	natsPendingMax      = 1 << 16
	natsPendingBytesMax = 64 << 20
	natsSlotWait        = 500 * time.Millisecond

	natsAwaitingMax         = 4096 // questions that wait for a position or for their client's others
	natsAwaitingOfClientMax = natsAwaitingMax / 4
	natsTurnWait            = 20 * time.Second

	natsReadyMax = 5 * time.Second
)

// messages is the NATS side in work.
type messages struct {
	g   *Gateway
	ctx context.Context
	nc  *nats.Conn

	// One slot for each message in work. Each kind has its own: questions that take
	// long hold up neither events nor opt-outs.
	events, lookups, counts, optOuts chan struct{}

	countTurns sync.Map // of chan struct{} by proto.ClientID: a slot for each of a client's counts in work

	handed, handing atomic.Int64 // messages of the service: so far, and that wait for a slot

	mu         sync.Mutex
	awaiting   map[proto.ClientID]int     // guarded by mu: questions that wait for a position, without a slot
	waitMany   int                        // guarded by mu: all of them
	waitBytes  int                        // guarded by mu
	closed     bool                       // guarded by mu: no message is begun any more
	given      bool                       // guarded by mu: what waits is given up
	later      map[*clientCuts][]laterCut // guarded by mu: of who works on them now
	laterMany  int                        // guarded by mu
	laterBytes int                        // guarded by mu
	dropping   map[*nats.Subscription]int // guarded by mu: those that dropped messages, and how many are counted
	busy       sync.WaitGroup
}

// ServeNATS answers events, look-ups, counts and opt-outs over nc until ctx is done;
// then it drains what it took. nc stays open. It calls ready once nothing that is
// published any more finds nobody. While it runs nc's errors go through it, to the
// handler that nc has.
func (g *Gateway) ServeNATS(ctx context.Context, nc *nats.Conn, ready func()) error {
	slots := func() chan struct{} { return make(chan struct{}, g.c.NATSConcurrency) }
	m := &messages{g: g, ctx: ctx, nc: nc, events: slots(), lookups: slots(), counts: slots(), optOuts: slots(), later: map[*clientCuts][]laterCut{}, awaiting: map[proto.ClientID]int{}, dropping: map[*nats.Subscription]int{}}
	sub, err := nc.QueueSubscribe("kith.in.*", "kith", func(msg *nats.Msg) {
		if m.answerable(msg.Reply) {
			m.dispatch(m.events, msg.Reply != "", func() { m.intake(msg) }, func(e error) { m.refuse(msg.Reply, e) })
		}
	})
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "subscribe to kith.in.*: %w", err)
	}
	if err := sub.SetPendingLimits(natsPendingMax, natsPendingBytesMax); err != nil {
		return proto.Errorf(proto.CodeInternal, "bound the NATS subscription: %w", err)
	}
	defer m.hearDrops(nc)()
	svc, err := m.addService(nc)
	if err != nil {
		_ = sub.Unsubscribe()
		return err
	}
	if err := nc.FlushTimeout(natsReadyMax); err != nil { // a connection that is lost asks for them again as it comes back
		g.log.Warn("the NATS server does not say that it passes requests on", "error", err)
	}
	ready()
	m.watch()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownMax)
	defer cancel()
	_ = svc.Stop() // drains its endpoints
	drain(sub, end.Done())
	m.close(end.Done())
	return nil
}

// close lets the service's endpoints hand out what they hold, then refuses what
// still comes and waits for what is in work; from end on without what waits to be
// let in.
func (m *messages) close(end <-chan struct{}) {
	m.handedOut(end)
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	over := make(chan struct{})
	go func() {
		m.busy.Wait()
		close(over)
	}()
	select {
	case <-over:
		return
	case <-end:
	}
	m.mu.Lock()
	m.given = true
	m.mu.Unlock()
	<-over // what was begun has bounds of its own
}

// handedQuiet is for how long nothing must have come from endpoints that drain: they
// do not say when they are empty.
const handedQuiet = 100 * time.Millisecond

// handedOut returns when the endpoints seem to hold nothing any more.
func (m *messages) handedOut(end <-chan struct{}) {
	tick := time.NewTicker(handedQuiet)
	defer tick.Stop()
	for last := int64(-1); ; {
		now := m.handed.Load()
		if now == last && m.handing.Load() == 0 {
			return
		}
		last = now
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

// begin counts a message in work, unless it is too late.
func (m *messages) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.busy.Add(1)
	}
	return !m.closed
}

// drain lets what the subscription holds be handed out, until end.
func drain(sub *nats.Subscription, end <-chan struct{}) {
	closed := sub.StatusChanged(nats.SubscriptionClosed)
	if err := sub.Drain(); err != nil {
		return // the connection is gone
	}
	select {
	case <-closed:
	case <-end:
	}
}

// natsQueues are the subjects whose messages wait in the NATS client.
var natsQueues = []string{"kith.in.*", "kith.query.lookup", "kith.query.count", "kith.optout"}

// hearDrops has the connection say which of our subscriptions drop messages: those of
// the service's endpoints are nowhere else to be had. It must be called before the
// service is added, which passes errors on; undo once that is stopped.
func (m *messages) hearDrops(nc *nats.Conn) (undo func()) {
	before := nc.ErrorHandler()
	nc.SetErrorHandler(func(c *nats.Conn, sub *nats.Subscription, err error) {
		if sub != nil && errors.Is(err, nats.ErrSlowConsumer) && slices.Contains(natsQueues, sub.Subject) {
			m.mu.Lock()
			if _, ok := m.dropping[sub]; !ok {
				m.dropping[sub] = 0
			}
			m.mu.Unlock()
		}
		if before != nil {
			before(c, sub, err)
		}
	})
	return func() { nc.SetErrorHandler(before) }
}

// watch counts dropped messages until ctx is done.
func (m *messages) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			m.countDrops()
			return
		case <-tick.C:
			m.countDrops()
		}
	}
}

// countDrops counts what was dropped since the last time.
func (m *messages) countDrops() {
	more := map[string]int{}
	m.mu.Lock()
	for sub, last := range m.dropping {
		if n, err := sub.Dropped(); err == nil && n > last {
			m.dropping[sub], more[sub.Subject] = n, n-last
		}
	}
	m.mu.Unlock()
	for subject, n := range more {
		m.g.metrics.natsDropped.Add(float64(n))
		m.g.log.Error("NATS messages were dropped because more came than are worked on", "subject", subject, "messages", n)
	}
}

// answerable reports whether a message may be worked on. The connection may
// publish to the log itself, so the sender must not choose freely where the
// answer goes: a message that names anything but an inbox is dropped.
func (m *messages) answerable(reply string) bool {
	if reply == "" || strings.HasPrefix(reply, "_INBOX") && !strings.ContainsAny(reply, "*> \t\r\n\f\v") {
		return true
	}
	m.g.metrics.natsRefused.Inc()
	return false
}

// dispatch runs work on a goroutine of its own when a slot is free. Whoever
// waits for a reply is told after a while that there is none; a message
// without a reply holds the subscription back instead.
func (m *messages) dispatch(slots chan struct{}, reply bool, work func(), refuse func(error)) {
	select {
	case slots <- struct{}{}:
	default:
		if !waitSlot(slots, reply) {
			refuse(proto.Errorf(proto.CodeOverloaded, "all %d workers are busy: try again later", cap(slots)))
			return
		}
	}
	if !m.begin() {
		<-slots
		refuse(proto.Errorf(proto.CodeUnavailable, "the node is stopping: ask another, or try again"))
		return
	}
	go func() {
		defer m.busy.Done()
		defer func() { <-slots }()
		work()
	}()
}

func waitSlot(slots chan struct{}, reply bool) bool {
	var timeout <-chan time.Time
	if reply {
		t := time.NewTimer(natsSlotWait)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case slots <- struct{}{}:
		return true
	case <-timeout:
		return false
	}
}

// principal checks a message's key. Where messages need none, one without a
// key may do what an admin key may.
func (m *messages) principal(header []string, roles ...proto.Role) (proto.Principal, error) {
	if len(header) == 0 && m.g.c.NATSOpen {
		return proto.Principal{Role: proto.RoleAdmin}, nil
	}
	return m.g.authenticate(keyOf(header), roles...)
}

func (m *messages) intake(msg *nats.Msg) {
	p := m.g.newPost()
	defer m.g.freePost(p)
	kind := mediaType(msg.Header.Get("Content-Type"))
	pos, err := m.take(p, kind, msg)
	if err != nil {
		m.refuse(msg.Reply, err)
		return
	}
	if msg.Reply == "" {
		return
	}
	if kind == protobufType {
		b, err := gproto.Marshal(p.response(pos))
		if err != nil {
			m.refuse(msg.Reply, err)
			return
		}
		m.reply(msg.Reply, b)
		return
	}
	p.answer = p.appendAnswer(p.answer, pos, len(p.refused), 0)
	m.reply(msg.Reply, p.answer)
}

// consentHeader is a message's header with what a consent platform said, as it stands in
// a query over HTTP.
const consentHeader = "Kith-Consent"

// withheldFrom is Gateway.withheldFrom for a message.
func (m *messages) withheldFrom(h map[string][]string, client proto.ClientName) string {
	said := saidTo(h)
	var query []string
	for _, line := range said[consentHeader] {
		query = append(query, strings.TrimPrefix(line, "?")) // as a browser's location.search has it
	}
	return m.g.withheldFrom(said, strings.Join(query, "&"), client)
}

// saidTo are a message's headers, such as those that a browser sent, by the names
// that HTTP has for them: NATS takes names as they are written.
func saidTo(h map[string][]string) http.Header {
	out := make(http.Header, len(h))
	for name, lines := range h {
		name = http.CanonicalHeaderKey(name)
		out[name] = append(out[name], lines...)
	}
	return out
}

// take makes a message's events durable.
func (m *messages) take(p *post, kind string, msg *nats.Msg) (_ proto.Position, err error) {
	name := strings.TrimPrefix(msg.Subject, "kith.in.")
	who, err := m.principal(msg.Header["Authorization"], proto.RoleClient, proto.RoleAdmin)
	if err != nil {
		return nil, err
	}
	defer func() { m.g.countCall(who, "NATS kith.in", err) }()
	if err := m.g.ownClient(p, who, name); err != nil {
		return nil, err
	}
	if why := m.withheldFrom(msg.Header, p.client.Name); why != "" {
		p.withhold(why)
	}
	if len(msg.Data) > m.g.c.BodyBytesMax {
		return nil, tooLarge(m.g.c.BodyBytesMax)
	}
	if err := p.parseAs(kind, msg.Data); err != nil {
		return nil, err
	}
	// What was taken is finished even while the node shuts down.
	return m.g.submit(context.WithoutCancel(m.ctx), false, p)
}

// reply answers a message, if somebody waits for it. Endpoints of the service
// answer by it too: the service reads what a request's own Respond and Error
// note as soon as its handler has returned, and ours go on working.
func (m *messages) reply(to string, b []byte) {
	if to == "" {
		return
	}
	// A requester that went away is no error of ours.
	if err := m.nc.Publish(to, b); errors.Is(err, nats.ErrMaxPayload) {
		m.refuse(to, proto.Errorf(proto.CodeTooLarge, "what was asked is done, but the answer is over the %d bytes that NATS takes: send several smaller ones", m.nc.MaxPayload()))
	}
}

// refuse answers a message with an error, by the conventions of NATS services
// and with the body that HTTP has.
func (m *messages) refuse(to string, err error) {
	m.g.metrics.natsRefused.Inc()
	if to == "" {
		return
	}
	e := asError(err)
	out := nats.NewMsg(to)
	out.Header.Set(micro.ErrorHeader, e.Message)
	out.Header.Set(micro.ErrorCodeHeader, strconv.Itoa(statusOf(e.Code)))
	out.Data = appendError(nil, e)
	_ = m.nc.PublishMsg(out)
}

// addService makes the endpoints known to NATS.
func (m *messages) addService(nc *nats.Conn) (micro.Service, error) {
	svc, err := micro.AddService(nc, micro.Config{
		Name: "kith", Version: "1.0.0", Description: "identity graph and segmentation engine: look-ups, counts and opt-outs",
	})
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "add the NATS service: %w", err)
	}
	for subject, answer := range map[string]func(micro.Request) ([]byte, error){
		"kith.query.lookup": m.lookup, "kith.query.count": m.count, "kith.optout": m.optOut,
	} {
		slots := map[string]chan struct{}{"kith.query.lookup": m.lookups, "kith.query.count": m.counts, "kith.optout": m.optOuts}[subject]
		name := subject[strings.LastIndexByte(subject, '.')+1:]
		err := svc.AddEndpoint(name, micro.HandlerFunc(func(r micro.Request) {
			if m.answerable(r.Reply()) {
				// An opt-out that nobody waits for is not dropped either.
				reply := subject != "kith.optout" || r.Reply() != ""
				m.handed.Add(1)
				m.handing.Add(1)
				defer m.handing.Add(-1)
				m.dispatch(slots, reply, func() { m.respond(r, answer) }, func(e error) {
					if !reply {
						m.g.metrics.natsDropped.Inc()
					}
					m.refuse(r.Reply(), e)
				})
			}
		}), micro.WithEndpointSubject(subject), micro.WithEndpointPendingLimits(natsPendingMax, natsPendingBytesMax))
		if err != nil {
			_ = svc.Stop()
			return nil, proto.Errorf(proto.CodeUnavailable, "add the NATS endpoint %s: %w", name, err)
		}
	}
	return svc, nil
}

func (m *messages) respond(r micro.Request, answer func(micro.Request) ([]byte, error)) {
	b, err := answer(r)
	if err != nil {
		m.refuse(r.Reply(), err)
		return
	}
	m.reply(r.Reply(), b)
}

// lookup answers kith.query.lookup: the body of POST /v1/lookup.
func (m *messages) lookup(r micro.Request) (_ []byte, err error) {
	who, err := m.principal(r.Headers().Values("Authorization"), proto.RoleClient, proto.RoleAdmin)
	if err != nil {
		return nil, err
	}
	defer func() { m.g.countCall(who, "NATS kith.query.lookup", err) }()
	l := m.g.takeLookup()
	defer m.g.freeLookup(l)
	protobuf := mediaType(r.Headers().Get("Content-Type")) == protobufType
	if protobuf {
		err = l.parseProtobuf(r.Data(), m.g.c.LookupMax)
	} else {
		err = l.parseJSON(r.Data(), m.g.c.LookupMax)
	}
	if err != nil {
		return nil, err
	}
	client, err := m.g.clientFor(who, l.client)
	if err != nil {
		return nil, err
	}
	if err := m.wait(m.lookups, client.ID, l.after, len(r.Data())); err != nil {
		return nil, err
	}
	l.withheld = m.withheldFrom(r.Headers(), client.Name)
	if most := min(answerBytesMax, int(m.nc.MaxPayload())); protobuf {
		err = m.g.allProtobuf(l, client, most)
	} else {
		err = m.g.all(l, client, most)
	}
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), l.answer...), nil // l is reused before it is sent
}

// wait is the gateway's for a client's question of so many bytes, which gives its slot up
// meanwhile: one client's that wait take none of another's.
func (m *messages) wait(slots chan struct{}, client proto.ClientID, after string, size int) error {
	if after == "" {
		return nil
	}
	if err := m.await(client, size); err != nil {
		return err
	}
	defer m.awaited(client, size)
	<-slots
	defer func() { slots <- struct{}{} }()
	return m.g.wait(m.ctx, after)
}

// countTurn is when a client's count of so many bytes may begin: of one client a quarter
// of the slots are in work, as those that take long hold theirs for seconds. It gives
// its slot up while it waits.
func (m *messages) countTurn(client proto.ClientID, size int) (end func(), err error) {
	v, ok := m.countTurns.Load(client)
	if !ok {
		v, _ = m.countTurns.LoadOrStore(client, make(chan struct{}, max(cap(m.counts)/4, 1)))
	}
	turns := v.(chan struct{})
	end = func() { <-turns }
	select {
	case turns <- struct{}{}:
		return end, nil
	default:
	}
	if err := m.await(client, size); err != nil {
		return nil, err
	}
	defer m.awaited(client, size)
	<-m.counts
	defer func() { m.counts <- struct{}{} }()
	ctx, cancel := context.WithTimeout(m.ctx, natsTurnWait)
	defer cancel()
	select {
	case turns <- struct{}{}:
		return end, nil
	case <-ctx.Done():
		return nil, proto.Errorf(proto.CodeOverloaded, "%d counts of this client are in work, and were not done in time: ask again when one of them is answered", cap(turns))
	}
}

// await counts a question that waits, if there is room for it.
func (m *messages) await(client proto.ClientID, size int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.awaiting[client] >= natsAwaitingOfClientMax:
		return proto.Errorf(proto.CodeOverloaded, "%d questions of this client wait for a position, or for others of its own: try again later", natsAwaitingOfClientMax)
	case m.waitMany >= natsAwaitingMax || m.waitBytes+size > natsPendingBytesMax:
		return proto.Errorf(proto.CodeOverloaded, "%d questions, or %d MiB of them, wait for a position, or for others of their client: try again later", natsAwaitingMax, natsPendingBytesMax>>20)
	}
	m.awaiting[client]++
	m.waitMany, m.waitBytes = m.waitMany+1, m.waitBytes+size
	return nil
}

func (m *messages) awaited(client proto.ClientID, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.awaiting[client]--; m.awaiting[client] == 0 {
		delete(m.awaiting, client)
	}
	m.waitMany, m.waitBytes = m.waitMany-1, m.waitBytes-size
}

// count answers kith.query.count: the body of POST /v1/audiences/count.
func (m *messages) count(r micro.Request) ([]byte, error) {
	who, err := m.principal(r.Headers().Values("Authorization"), proto.RoleClient, proto.RoleReport, proto.RoleAdmin)
	if err != nil {
		return nil, err
	}
	x, err := readCount(r.Data())
	if err != nil {
		return nil, err
	}
	client, err := m.g.clientFor(who, x.Client)
	if err == nil {
		err = x.check()
	}
	if err == nil {
		err = m.wait(m.counts, client.ID, x.After, len(r.Data()))
	}
	if err != nil {
		return nil, err
	}
	x.After = ""
	end, err := m.countTurn(client.ID, len(r.Data()))
	if err != nil {
		return nil, err
	}
	defer end()
	n, err := m.g.count(m.ctx, who, x)
	if err != nil {
		return nil, err
	}
	return encodeCount(n)
}

// optOut answers kith.optout: the body of POST /v1/optouts. One that was begun
// is finished even while the node shuts down.
func (m *messages) optOut(r micro.Request) ([]byte, error) {
	who, err := m.principal(r.Headers().Values("Authorization"), proto.RoleClient, proto.RoleAdmin)
	if err != nil {
		return nil, err
	}
	x, ids, err := m.readOptOut(r.Data())
	if err != nil {
		m.g.countCall(who, natsOptOutRoute, err)
		return nil, err
	}
	var answer any
	err = m.cut(r, who, len(ids), func() (err error) {
		if x.Identities != nil {
			answer, err = m.g.cutList(m.ctx, who, m.g.keyOf(who), ids, x.Everywhere)
		} else {
			answer, err = m.g.cutOut(m.ctx, m.g.keyOf(who), x)
		}
		m.g.listOptOut(who, ids, err)
		return err
	})
	if err != nil || r.Reply() == "" { // then it may be done later
		return nil, err
	}
	return encodeValue(answer)
}

// readOptOut reads whom a message opts out: of a list all is checked before any of
// it is done.
func (m *messages) readOptOut(body []byte) (x optOutRequest, ids []proto.Identity, err error) {
	if len(body) > m.g.c.BodyBytesMax {
		return x, nil, tooLarge(m.g.c.BodyBytesMax)
	}
	if err := decodeStrict(body, &x); err != nil {
		return x, nil, err
	}
	if x.Identities != nil {
		ids, err = x.list()
		return x, ids, err
	}
	id, err := x.identity()
	return x, []proto.Identity{id}, err
}

// natsOptOutRoute is what the audit log calls kith.optout.
const natsOptOutRoute = "NATS kith.optout"

// natsOptOutPause is after how long opt-outs that nobody waits for ask again
// whether they may be done.
const natsOptOutPause = 100 * time.Millisecond

// laterCut is opt-outs of one message that wait to be let in.
type laterCut struct {
	n, size int
	do      func() error
}

// cut does n opt-outs, if they are let in. Whoever waits for no reply could not be
// told that they are not: they wait for it, beside what other clients send.
func (m *messages) cut(r micro.Request, who proto.Principal, n int, do func() error) error {
	key, c := m.g.clientCuts(who), laterCut{n, len(r.Data()), do}
	if r.Reply() == "" && m.postpone(key, c, true) {
		return nil // behind those that wait
	}
	done, err := m.g.admitCutsOf(key, n)
	if err == nil {
		defer done()
		return do()
	}
	if r.Reply() == "" {
		m.postpone(key, c, false)
		return nil
	}
	m.g.countCall(who, natsOptOutRoute, err)
	return err
}

// postpone has opt-outs wait behind those of the same client, within the bounds of
// what waits in the NATS client, of which one client may have a quarter; behind: if
// there are such, else false.
func (m *messages) postpone(key *clientCuts, c laterCut, behind bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	list, going := m.later[key]
	if behind && !going {
		return false
	}
	if len(list) >= natsPendingMax/4 || m.laterMany == natsPendingMax || m.laterBytes+c.size > natsPendingBytesMax {
		m.g.metrics.natsDropped.Inc()
		m.g.log.Error("opt-outs over NATS were dropped: too many wait that nobody waits for; send them with a reply subject, or raise limits.rate_optouts_max", "identities", c.n)
		return true
	}
	m.laterMany++
	m.laterBytes += c.size
	m.later[key] = append(list, c)
	if !going {
		m.busy.Go(func() { m.cutLater(key) })
	}
	return true
}

// cutLater does a client's opt-outs that wait, in their order, until none is left.
func (m *messages) cutLater(key *clientCuts) {
	for {
		m.mu.Lock()
		list := m.later[key]
		if len(list) > 0 && m.given {
			m.g.metrics.natsDropped.Add(float64(len(list)))
			m.g.log.Error("opt-outs over NATS that nobody waits for were dropped: the node stops, and they were not let in in time", "messages", len(list))
			list = nil
		}
		if len(list) == 0 {
			delete(m.later, key)
			m.mu.Unlock()
			return
		}
		c := list[0]
		list[0] = laterCut{}
		m.later[key] = list[1:]
		m.mu.Unlock()
		done := m.admitLater(key, c.n)
		m.optOuts <- struct{}{}
		m.busy.Go(func() {
			defer func() { <-m.optOuts }()
			defer done()
			_ = c.do() // it is in the audit log, and nobody waits for it
		})
		m.mu.Lock()
		m.laterMany--
		m.laterBytes -= c.size
		m.mu.Unlock()
	}
}

// admitLater is admitCutsOf, again and again until it lets them in.
func (m *messages) admitLater(key *clientCuts, n int) (done func()) {
	for {
		if done, err := m.g.admitCutsOf(key, n); err == nil {
			return done
		}
		t := time.NewTimer(natsOptOutPause)
		select {
		case <-t.C:
		case <-m.ctx.Done(): // there is no later
			t.Stop()
			return func() {}
		}
	}
}
