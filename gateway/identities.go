package gateway

import (
	"net/http"
	"slices"
	"time"

	"kith/proto"
)

// subject is the identity of the path and the client of the key.
func (g *Gateway) subject(r *http.Request, who proto.Principal) (proto.ClientInfo, proto.Identity, error) {
	id, err := parseIdentity(r.PathValue("identity"))
	if err != nil {
		return proto.ClientInfo{}, "", err
	}
	client, err := g.clientOf(who, r)
	if err != nil {
		return proto.ClientInfo{}, "", err
	}
	return client, id, g.wait(r.Context(), queryValue(r.URL.RawQuery, "after"))
}

func (g *Gateway) getRecord(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.subject(r, who)
	if err != nil {
		return err
	}
	var shares []share
	if who.Client != "" { // operators have no bound of their own
		shares = []share{{client: who.Client}}
	}
	return g.tellRecord(w, r, &g.records.keyed, shares, client, id, false)
}

// explanationFor is in what time an explanation is sent, of which the wait for a turn and
// the reading of histories may take 50 seconds.
const explanationFor = time.Minute

func (g *Gateway) getExplanation(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.subject(r, who)
	if err != nil {
		return err
	}
	q, err := parseQuery(r.URL.RawQuery, "client", "after", "segment", "at")
	if err != nil {
		return err
	}
	segment, err := proto.ParseSegmentID(q.Get("segment"))
	if err != nil {
		return err
	}
	at := g.c.Now()
	if s := q.Get("at"); s != "" {
		if at, err = queryTime("at", s); err != nil {
			return err
		}
	}
	// A server's own bounds would have the wait for a turn take of the time to read.
	unhurried(w)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(explanationFor)) // not every writer has deadlines
	x, err := g.deps.Memberships.Explain(r.Context(), client, id, segment, at)
	if err != nil {
		return err
	}
	if x.Facts == nil {
		x.Facts = []proto.ExplanationFact{}
	}
	return writeValue(w, http.StatusOK, x)
}

// patchTraits sets traits from an object of scalars; null removes one.
func (g *Gateway) patchTraits(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.subject(r, who)
	if err != nil {
		return err
	}
	p := g.newPost()
	defer g.freePost(p)
	p.client, p.known = client, true
	if p.body, err = g.readBody(w, r, p.body); err != nil {
		return err
	}
	traits := proto.Traits{Client: client.ID, Space: client.Space, Identity: id, Received: p.now}
	if findPersonal(string(id)) != noPersonal {
		return errPersonalIdentity
	}
	if placeholder(string(id)) {
		return &proto.Error{Code: proto.CodeIdentity, Message: placeholderText}
	}
	if err := p.parseTraits(p.body, &traits); err != nil {
		g.metrics.countPersonal(&p.personal)
		g.metrics.countKept(p)
		return err
	}
	if seen, err := g.deps.Memberships.Seen(client, id); err != nil {
		return err
	} else if seen.OptedOut {
		return errWithheld(withheldOptedOut)
	}
	p.events = 1
	p.addTraits(&traits, 0)
	pos, err := g.submit(r.Context(), false, p)
	if err != nil {
		return err
	}
	p.answer = append(p.answer, `{"position":`...)
	p.answer = append(appendText(p.answer, pos.String()), "}\n"...)
	writeJSON(w, http.StatusOK, p.answer)
	return nil
}

// parseTraits reads the body into x by the rules of properties.
func (p *post) parseTraits(body []byte, x *proto.Traits) error {
	s, d := &p.scan, &p.draft
	d.reset()
	s.reset(body)
	if !s.open('{') {
		return s.err
	}
	for first := true; s.more(&first, '}'); {
		key, ok := s.key()
		if !ok {
			break
		}
		v, kind, ok := s.value()
		if !ok {
			break
		}
		switch kind {
		case nullValue:
			d.addProp(key, proto.TextOf(""))
		case nestedValue:
			d.refuse(proto.CodeEvent, "a trait must be a string, a number, true, false or null")
		default:
			d.addProp(key, v)
		}
	}
	if !s.end() {
		return s.err
	}
	x.Set = d.event.Props
	switch {
	case s.odd:
		d.refuse(proto.CodeEvent, "a text holds control characters or invalid UTF-8: clean it")
	case len(x.Set) == 0:
		d.refuse(proto.CodeEvent, `the body sets no trait: send {"age":34}`)
	}
	d.checkPersonal()
	p.countPersonal(d)
	for i := range x.Set {
		if proto.ReservedTrait(x.Set[i].Key) {
			d.refuse(proto.CodeEvent, "traits whose names begin with import. are kept for imported lists: choose another name")
		}
	}
	if d.code != "" {
		return &proto.Error{Code: d.code, Message: d.why}
	}
	removalsFirst(x.Set)
	return p.refuseTraits(x.Set)
}

// addTraits puts the traits of the body's row at index into the batch.
func (p *post) addTraits(x *proto.Traits, index int) {
	if !slices.ContainsFunc(x.Set, sets) {
		p.free = append(p.free, p.batch.Len())
	}
	p.batch.AddTraits(p.hasher, x)
	p.indexes = append(p.indexes, index)
}

// sets reports whether a trait is set, and not removed.
func sets(x proto.Prop) bool { return x.Value != proto.TextOf("") }

// removalsFirst puts what removes a trait before what sets one: of an identity that has
// as many as are kept, what is set takes the room of what is removed.
func removalsFirst(set []proto.Prop) {
	last := func(x proto.Prop) int {
		if sets(x) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(set, func(a, b proto.Prop) int { return last(a) - last(b) })
}
