package gateway

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	gproto "google.golang.org/protobuf/proto"

	"kith/proto"
	"kith/proto/pb"
)

// pooledBytesMax is the largest buffer that goes back into a pool.
const pooledBytesMax = 1 << 20

func (g *Gateway) newPost() *post {
	p := g.posts.Get().(*post)
	p.hasher, p.now, p.max = g.deps.Intake.Hasher(), g.millis(), g.c.EventsMax
	p.ages = ages{g.c.EventAgeMax, g.c.EventAheadMax}
	p.blocked, p.sessions, p.rules = g.blocked, g.sessions, &g.rules
	return p
}

// freePost gives p back. Nothing may alias its buffers any more.
func (g *Gateway) freePost(p *post) {
	p.reset()
	p.scan.b, p.scan.err = nil, nil
	if cap(p.body) <= pooledBytesMax && cap(p.scan.text) <= pooledBytesMax {
		g.posts.Put(p)
	}
}

// submit makes p's batch durable and notes what was not. An error means that
// nothing of it is.
func (g *Gateway) submit(ctx context.Context, public bool, p *post) (proto.Position, error) {
	return g.submitTo(ctx, public, p, func(ctx context.Context, b *proto.Batch) (proto.Submitted, error) {
		return g.deps.Intake.Submit(ctx, b), nil
	})
}

// submitTo is submit by way of take, whose error is the caller's affair.
func (g *Gateway) submitTo(ctx context.Context, public bool, p *post, take func(context.Context, *proto.Batch) (proto.Submitted, error)) (proto.Position, error) {
	admitted, day := 0, proto.Day(0)
	if n := p.batch.Len() - len(p.free); n > 0 { // what is refused uses up nobody's allowance
		var err error
		if day, err = g.admitRate(public, p.client, n); err != nil {
			return nil, err
		}
		admitted = n
	}
	g.metrics.blocked.Add(float64(p.left))
	g.metrics.countPersonal(&p.personal)
	g.metrics.robots.Add(float64(p.robots))
	g.metrics.countKept(p)
	if p.batch.Len() == 0 {
		g.metrics.countPost(0, p.refused)
		return nil, nil
	}
	res, err := take(ctx, &p.batch)
	if err != nil {
		g.giveBackDay(p.client, day, admitted)
		return nil, err
	}
	g.giveBackDay(p.client, day, p.paid(res.Failed))
	if len(res.Failed) == p.batch.Len() {
		g.metrics.refused[proto.CodeUnavailable].Add(float64(len(res.Failed)))
		return nil, unavailable(res.Err)
	}
	for _, i := range res.Failed {
		p.refused = append(p.refused, refusal{p.indexes[i], proto.CodeUnavailable, messageOf(unavailable(res.Err))})
	}
	g.metrics.countPost(p.batch.Len()-len(res.Failed), p.refused)
	g.live.offer(g.c.Now, p.client.ID, &p.batch, res.Failed)
	return res.Position, nil
}

// paid is how many of the batch's commands use up the client's allowance.
func (p *post) paid(list []int) (n int) {
	for _, i := range list {
		if _, free := slices.BinarySearch(p.free, i); !free {
			n++
		}
	}
	return n
}

// unavailable is err as an error of the log's: nothing was promised.
func unavailable(err error) error {
	switch e := asError(err); statusOf(e.Code) {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return e
	}
	return proto.Errorf(proto.CodeUnavailable, "the events could not be made durable: send them again: %w", err)
}

// appendAnswer writes the answer to a body of events.
func (p *post) appendAnswer(b []byte, pos proto.Position, failed, unproven int) []byte {
	b = append(b, `{"accepted":`...)
	b = strconv.AppendInt(b, int64(p.events-failed), 10)
	b = append(b, `,"refused":[`...)
	for i := range p.refused {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(p.refused[i].index), 10)
		b = append(b, `,"code":`...)
		b = appendText(b, string(p.refused[i].code))
		b = append(b, `,"message":`...)
		b = appendText(b, p.refused[i].message)
		b = append(b, '}')
	}
	b = append(b, `],"position":`...)
	b = appendText(b, pos.String())
	if p.left > 0 {
		b = append(b, `,"blocked":`...)
		b = strconv.AppendInt(b, int64(p.left), 10)
	}
	if p.dropped > 0 {
		b = append(b, `,"dropped":`...)
		b = strconv.AppendInt(b, int64(p.dropped), 10)
	}
	if unproven > 0 {
		b = append(b, `,"unproven":`...)
		b = strconv.AppendInt(b, int64(unproven), 10)
	}
	if p.fresh {
		b = append(b, `,"new":true`...)
	}
	return append(appendSignal(b, p.signal), "}\n"...)
}

// appendSignal says why nothing is kept of the browser, if that is so.
func appendSignal(b []byte, signal string) []byte {
	if signal == "" {
		return b
	}
	return appendText(append(b, `,"by":`...), signal)
}

// serviceEvents takes events of any identities from a client's own servers.
func (g *Gateway) serviceEvents(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	p := g.newPost()
	defer g.freePost(p)
	if err := g.ownClient(p, who, queryValue(r.URL.RawQuery, "client")); err != nil {
		return err
	}
	var err error
	if p.bots, err = parseBotPolicy(queryValue(r.URL.RawQuery, "bots")); err != nil {
		return err
	}
	heed := func(client proto.ClientName) {
		if why := g.withheldFrom(r.Header, r.URL.RawQuery, client); why != "" {
			w.Header()[withheldHeader] = []string{why}
			p.withhold(why)
		}
	}
	if name := whose(r, who); name != "" {
		heed(name)
	}
	if named := p.resolve; named != nil { // an admin's body may name the client
		p.resolve = func(name string) (proto.ClientInfo, error) {
			client, err := named(name)
			if err == nil {
				heed(client.Name)
			}
			return client, err
		}
	}
	if p.body, err = g.readBody(w, r, p.body); err != nil {
		return err
	}
	kind := contentType(r)
	if err := p.parseAs(kind, p.body); err != nil {
		return err
	}
	pos, err := g.submit(r.Context(), false, p)
	if err != nil {
		return err
	}
	if kind == protobufType {
		return writeProtobuf(w, p.response(pos))
	}
	p.answer = p.appendAnswer(p.answer, pos, len(p.refused), 0)
	writeJSON(w, http.StatusOK, p.answer)
	return nil
}

// withhold has the body's events refused for a signal that was passed on.
func (p *post) withhold(why string) {
	p.admit = func(d *draft) { d.refuse(proto.CodeOptedOut, "nothing is stored: a signal was passed on ("+why+")") }
}

// ownClient lets p's body name only the client that the key is for.
func (g *Gateway) ownClient(p *post, who proto.Principal, wanted string) error {
	p.resolve = func(name string) (proto.ClientInfo, error) {
		if p.known {
			return p.client, proto.Errorf(proto.CodeForbidden, "the body names another client than the request: leave it out")
		}
		return g.clientFor(who, name)
	}
	if who.Role == proto.RoleAdmin && wanted == "" {
		return nil // the body names it
	}
	client, err := g.clientFor(who, wanted)
	p.client, p.known = client, err == nil
	return err
}

// parseAs reads a body of a media type.
func (p *post) parseAs(kind string, body []byte) error {
	switch kind {
	case "application/json", "text/plain":
		return p.parseJSON(body)
	case protobufType:
		return p.parseProtobuf(body)
	}
	return proto.Errorf(proto.CodeMediaType, "content type %q is not taken: use application/json", clip(kind))
}

// response is appendAnswer in protobuf.
func (p *post) response(pos proto.Position) *pb.EventsResponse {
	x := &pb.EventsResponse{
		Accepted: uint32(p.events - len(p.refused)), Position: pos.String(), Blocked: uint32(p.left), Dropped: uint32(p.dropped),
	}
	for i := range p.refused {
		f := &p.refused[i]
		x.Refused = append(x.Refused, &pb.Refused{Index: uint32(f.index), Code: string(f.code), Message: f.message})
	}
	return x
}

func writeProtobuf(w http.ResponseWriter, m gproto.Message) error {
	b, err := gproto.Marshal(m)
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode the answer: %w", err)
	}
	writeEncoded(w, b)
	return nil
}

// writeEncoded answers with an encoded message.
func writeEncoded(w http.ResponseWriter, b []byte) {
	h := w.Header()
	h["Content-Type"] = []string{protobufType}
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	_, _ = w.Write(b)
}

// publicEvents takes events of a browser or app about itself.
func (g *Gateway) publicEvents(w http.ResponseWriter, r *http.Request) error {
	p := g.newPost()
	defer g.freePost(p)
	a := g.admission(r, p)
	err := checkQuery(r.URL.RawQuery)
	if err == nil {
		err = g.takePublic(w, r, p)
	}
	g.allowOrigin(w, r, p.client.Name)
	if err != nil {
		return err
	}
	pos, err := g.submit(r.Context(), true, p)
	g.metrics.unproven.Add(float64(a.unproven))
	if err != nil {
		return err
	}
	g.keep(w, a.visit, a.stored)
	p.signal = a.visit.signal
	p.fresh = a.stat == "" && a.stored != "" && a.stored == a.minted
	p.answer = p.appendAnswer(p.answer, pos, len(p.refused), a.unproven)
	writeJSON(w, http.StatusOK, p.answer)
	return nil
}

func (g *Gateway) takePublic(w http.ResponseWriter, r *http.Request, p *post) (err error) {
	kind := contentType(r)
	if kind == protobufType {
		return proto.Errorf(proto.CodeMediaType, "protobuf is taken on the service plane: use application/json or text/plain here")
	}
	if p.body, err = g.readPublic(w, r, p.body, g.c.BodyBytesMax); err != nil {
		return err
	}
	return p.parseAs(kind, p.body)
}

// admission makes p take a public request's events by the rules for its
// visitor and whatever client it names.
func (g *Gateway) admission(r *http.Request, p *post) *admission {
	a := &p.visitor
	a.visit, a.now = g.visitOf(r), p.now
	p.admit = a.admit
	p.public = true
	p.resolve = func(name string) (proto.ClientInfo, error) {
		client, err := g.clientNamed(name)
		if err == nil && p.known {
			return p.client, proto.Errorf(proto.CodeClient, "the body names two clients")
		}
		a.exempt, a.secret = g.exempt(client), g.c.Secrets[client.Name]
		a.keyed = slices.Contains(g.c.DevicesKeyed, client.Name)
		if err == nil {
			g.judge(&a.visit, r, client.Name)
			g.judgeIdentity(&a.visit, client)
			a.memberships, a.client = g.deps.Memberships, client
			if a.visit.signal == "" { // of others nothing is read
				p.agent = g.sessions.ofRequest(r.Header)
			}
			a.stat, _ = g.statisticalID(&a.visit, r, client)
			a.network = g.networkKey(&a.visit, r, client)
		}
		return client, err
	}
	return a
}

// judgeIdentity heeds that the visit's browser is opted out by its identity alone,
// as after an opt-out in another place: its cookie is not renewed then.
func (g *Gateway) judgeIdentity(v *visit, client proto.ClientInfo) {
	claims := v.claims()
	if v.signal != "" || len(claims) == 0 {
		return
	}
	if v.crowded {
		v.signal = withheldOptedOut // one that is not looked at might be
		return
	}
	for _, id := range claims {
		seen, err := g.deps.Memberships.Seen(client, id)
		switch {
		case err == nil && seen.OptedOut:
			v.signal = withheldOptedOut
			if len(v.several) > 0 {
				v.dark = id
			}
			return
		case err != nil && len(v.several) > 0:
			// One alone the log decides on: it keeps nothing either. Several give way to
			// a new one, of which the log knows nothing.
			v.signal = withheldOptedOut
			return
		}
	}
}
