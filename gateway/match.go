package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"kith/proto"
)

// Partner is one that a client exchanges ids with, by GET /v1/match.
type Partner struct {
	// Name is that of its identities' kind, partner.NAME.
	Name string
	// Redirects are where browsers may be sent: "https://host/path".
	Redirects []string
	// Secret is the key of proofs that the partner itself gave an id out. Empty:
	// none is needed, and whoever knows somebody's id there can take it for their
	// own.
	Secret []byte
}

func (p Partner) validate(client proto.ClientName) error {
	if !proto.ValidName(p.Name) {
		return proto.Errorf(proto.CodeInvalid, "a partner of client %q has the name %q: use 1 to 64 of A-Z a-z 0-9 _ - and, not first, dots", client, clip(p.Name))
	}
	if len(p.Secret) != 0 && len(p.Secret) < 16 {
		return proto.Errorf(proto.CodeInvalid, "the proof secret of partner %q of client %q has %d bytes: use 16 or more", p.Name, client, len(p.Secret))
	}
	for _, s := range p.Redirects {
		if _, err := proto.ParseRedirectPrefix(s); err != nil {
			return err
		}
	}
	return nil
}

type partnerKey struct {
	client proto.ClientName
	name   string
}

// partner is a Partner as it is asked for.
type partner struct {
	redirects []proto.RedirectPrefix
	secret    []byte
}

func partnersOf(all map[proto.ClientName][]Partner) (map[partnerKey]partner, error) {
	out := map[partnerKey]partner{}
	for client, list := range all {
		for _, p := range list {
			x := partner{secret: p.Secret}
			for _, s := range p.Redirects {
				prefix, err := proto.ParseRedirectPrefix(s)
				if err != nil {
					return nil, err
				}
				x.redirects = append(x.redirects, prefix)
			}
			out[partnerKey{client, p.Name}] = x
		}
	}
	return out, nil
}

func (p *partner) allows(address string) bool {
	for _, prefix := range p.redirects {
		if prefix.Allows(address) {
			return true
		}
	}
	return false
}

// partnerProofMax is for how long a partner's proof may be good: it says nothing of
// the browser, so whoever gets hold of it may use it in another one until then.
const partnerProofMax = proto.Millis(10 * 60 * 1000)

// matchQueryMax bounds the query of a match.
const matchQueryMax = 8 << 10

// match is one call of a partner: its id of the browser.
type match struct {
	client, partner, uid, redirect, proof string
	signals                               signals // read again by visitOf: here to see what is there twice
	seen                                  uint    // parameters that were there
}

// parse reads the query. A parameter that matters may be there once: of two, a
// proxy might have checked the other one.
func (m *match) parse(query string) error {
	if len(query) > matchQueryMax {
		return proto.Errorf(proto.CodeTooLarge, "the query is over %d bytes: shorten the redirect", matchQueryMax)
	}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		key, err1 := url.QueryUnescape(key)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil {
			return proto.Errorf(proto.CodeInvalid, "the query has a broken %% escape")
		}
		bit := m.take(key, value)
		if m.seen&bit != 0 {
			return proto.Errorf(proto.CodeInvalid, "the query has %q twice: send it once", key)
		}
		m.seen |= bit
	}
	return nil
}

// take keeps a parameter; the bit tells them apart, 0 is for those that are not
// known. The signals have the names that partners' addresses have macros for.
func (m *match) take(key, value string) (bit uint) {
	texts := [...]struct {
		key  string
		text *string
	}{
		{"client", &m.client},
		{"partner", &m.partner},
		{"uid", &m.uid},
		{"redirect", &m.redirect},
		{"proof", &m.proof},
	}
	for i, t := range texts {
		if t.key == key {
			*t.text = value
			return 1 << i
		}
	}
	return m.signals.take(key, value) << len(texts)
}

// identity is the partner's id as an identity.
func (m *match) identity() (proto.Identity, error) {
	id := "partner." + m.partner + ":" + m.uid
	if m.uid == "" {
		return "", proto.Errorf(proto.CodeIdentity, "the query has no uid: add the partner's id of the browser")
	}
	if what := personalIdentity(id); what != "" {
		return "", proto.Errorf(proto.CodePII, "the uid looks like %s: send the partner's own id, or a keyed hash", what)
	}
	if proto.Placeholder(m.uid) {
		return "", proto.Errorf(proto.CodeIdentity, "the uid is a macro that was not filled in, zeros, or the hash of an empty text: send the partner's id of the browser")
	}
	return proto.ParseIdentity(id)
}

// check finds the client and the partner, and refuses what is wrong with the
// call, whatever the browser says.
func (g *Gateway) check(m *match) (proto.ClientInfo, proto.Identity, error) {
	client, err := g.clientNamed(m.client)
	if err != nil {
		return client, "", err
	}
	p, ok := g.partners[partnerKey{client.Name, m.partner}]
	if !ok {
		return client, "", proto.Errorf(proto.CodeNotFound, "client %q has no partner %q: clients[].partners of kith.yaml lists them", client.Name, clip(m.partner))
	}
	id, err := m.identity()
	if err != nil {
		return client, "", err
	}
	if _, many := g.blocked[id]; many {
		return client, "", proto.Errorf(proto.CodeIdentity, "the uid is on the block list: many people share it")
	}
	if m.redirect != "" && !p.allows(m.redirect) {
		return client, "", proto.Errorf(proto.CodeForbidden, "the partner's browsers may not be sent there: use an address under one of its redirects in kith.yaml")
	}
	until, ok := provenUntil(p.secret, string(id), m.proof)
	if now := g.millis(); len(p.secret) > 0 && (!ok || until < now || until >= now+partnerProofMax) {
		return client, "", proto.Errorf(proto.CodeUnproven, "the uid has no valid proof, or one for longer than ten minutes: the partner's server makes one, as docs/api.md says")
	}
	return client, id, nil
}

// getMatch links a partner's id of a browser to the browser, and sends it back
// with ours if that is asked for. Nothing is stored and no id given where the
// browser or the partner's call says no; the way goes on without.
func (g *Gateway) getMatch(w http.ResponseWriter, r *http.Request) error {
	w.Header()["Cache-Control"] = noStore
	var m match
	if err := m.parse(r.URL.RawQuery); err != nil {
		return err
	}
	client, id, err := g.check(&m)
	if err != nil {
		return err
	}
	v := g.visitOf(r)
	g.judge(&v, r, client.Name)
	why, err := g.mayMatch(client, v, id)
	if err != nil {
		return err
	}
	if why != "" {
		g.metrics.matches[why].Inc()
		g.keep(w, v, "")
		w.Header()[withheldHeader] = []string{why}
		sendOn(w, m.redirect, "")
		return nil
	}
	browser := v.browser
	if browser == "" {
		browser = newBrowser()
	}
	pos, err := g.storeMatch(r, client, browser, id, m.partner)
	if proto.CodeOf(err) == proto.CodeBot { // nothing of it is stored, and it goes on
		sendOn(w, m.redirect, "")
		return nil
	}
	if err != nil {
		return err
	}
	g.metrics.matches[""].Inc()
	g.keep(w, v, browser)
	w.Header().Set("X-Kith-Position", pos.String())
	sendOn(w, m.redirect, string(g.appendPseudonym(nil, client, browser)))
	return nil
}

// mayMatch is why nothing may be stored, "" if it may.
func (g *Gateway) mayMatch(client proto.ClientInfo, v visit, id proto.Identity) (why string, err error) {
	if v.signal != "" {
		return v.signal, nil
	}
	if v.crowded {
		return withheldOptedOut, nil
	}
	for _, id := range slices.Concat(v.claims(), []proto.Identity{id}) {
		if id == "" {
			continue
		}
		seen, err := g.deps.Memberships.Seen(client, id)
		if err != nil {
			return "", err
		}
		if seen.OptedOut {
			return withheldOptedOut, nil
		}
	}
	return "", nil
}

// storeMatch stores an event "match" of the browser, which links the partner's id
// to it as any event links its identities.
func (g *Gateway) storeMatch(r *http.Request, client proto.ClientInfo, browser, id proto.Identity, partner string) (proto.Position, error) {
	p := g.newPost()
	defer g.freePost(p)
	p.client, p.known = client, true
	p.public, p.agent = true, g.sessions.ofRequest(r.Header)
	d := &p.draft
	d.reset()
	d.setName("match")
	d.addIdentity(string(browser))
	d.addIdentity(string(id))
	d.addProp("partner", proto.TextOf(partner))
	// A page that asks at each view is not worth an event each time.
	name := "match " + string(id)
	if len(name) > proto.EventIDBytesMax {
		hash := p.hasher.Hash(id)
		name = "match " + spellHash(hash[:])
	}
	d.setID(name)
	p.take()
	pos, err := g.submit(r.Context(), true, p)
	if err == nil && len(p.refused) > 0 {
		err = &proto.Error{Code: p.refused[0].code, Message: p.refused[0].message}
	}
	return pos, err
}

// sendOn answers with the picture, or sends the browser to an address that was
// checked, with id in place of the macro. An id needs no escaping there.
func sendOn(w http.ResponseWriter, address, id string) {
	h := w.Header()
	if address == "" {
		h["Content-Type"] = gifType
		_, _ = w.Write(gif)
		return
	}
	h["Location"] = []string{strings.ReplaceAll(address, proto.RedirectMacro, id)}
	h["Content-Length"] = []string{"0"}
	w.WriteHeader(http.StatusFound)
}
