package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"kith/proto"
)

// linkRequest is the body of POST /v1/links.
type linkRequest struct {
	A          string   `json:"a"`
	B          string   `json:"b"`
	Method     string   `json:"method"`
	Confidence *float64 `json:"confidence"` // nil: 1 of a deterministic link
}

// The methods of a link.
const (
	deterministic = "deterministic"
	inferred      = "inferred"
)

// Reasons that the gateway gives by itself; the others are the engine's.
const (
	reasonBlocked    = "blocked"
	reasonConfidence = "confidence"
	reasonSelf       = "self"
)

// linkConfidenceMin is what an inferred link needs where the client has no
// threshold of its own.
const linkConfidenceMin = 0.8

// link checks the form of x; barred is why a well-formed one is never made.
func (g *Gateway) link(client proto.ClientInfo, x linkRequest) (l proto.Link, barred string, err error) {
	var junkA, junkB bool
	if l.A, junkA, err = linkEnd("a", x.A); err != nil {
		return l, "", err
	}
	if l.B, junkB, err = linkEnd("b", x.B); err != nil {
		return l, "", err
	}
	if l.Inferred, l.Confidence, err = confidenceOf(x); err != nil {
		return l, "", err
	}
	switch {
	case junkA || junkB || g.isBlocked(l.A) || g.isBlocked(l.B):
		return l, reasonBlocked, nil
	case l.A == l.B:
		return l, reasonSelf, nil
	case l.Inferred && l.Confidence < g.confidenceMin(client):
		return l, reasonConfidence, nil
	}
	return l, "", nil
}

// linkEnd reads one end of a link. A value that names nobody is well-formed:
// whoever sends links need not know our list.
func linkEnd(field, s string) (id proto.Identity, junk bool, err error) {
	if s == "" {
		return "", false, proto.Errorf(proto.CodeIdentity, `the link has no %s: send {"a":"browser:…","b":"account:…"}`, field)
	}
	id, err = parseIdentity(s)
	switch {
	case err == nil && findPersonal(s) != noPersonal:
		return "", false, errPersonalIdentity
	case err != nil && namesNobody(s), err == nil && placeholder(s):
		return "", true, nil
	}
	return id, false, err
}

var errPersonalIdentity = proto.Errorf(proto.CodePII, "the identity holds personal data, such as an e-mail address: send a keyed hash as account: instead")

// namesNobody reports whether s is no identity for one reason only: its value
// is one of those that never name anybody. None of these ends in x, so that
// with an x they are identities.
func namesNobody(s string) bool {
	if _, err := proto.ParseIdentity(s); err == nil {
		return false
	}
	_, err := proto.ParseIdentity(s + "x")
	return err == nil
}

func confidenceOf(x linkRequest) (isInferred bool, confidence float64, err error) {
	switch x.Method {
	case "", deterministic:
		if x.Confidence != nil && *x.Confidence != 1 {
			return false, 0, proto.Errorf(proto.CodeInvalid, `a deterministic link has confidence 1: leave confidence out, or send "method":"inferred"`)
		}
		return false, 1, nil
	case inferred:
		if x.Confidence == nil || *x.Confidence <= 0 || *x.Confidence > 1 {
			return false, 0, proto.Errorf(proto.CodeInvalid, "an inferred link needs a confidence above 0, of at most 1")
		}
		return true, *x.Confidence, nil
	}
	return false, 0, proto.Errorf(proto.CodeInvalid, "method %q is unknown: use deterministic or inferred", clip(x.Method))
}

func (g *Gateway) confidenceMin(client proto.ClientInfo) float64 {
	if v, ok := g.c.LinkConfidenceMin[client.Name]; ok {
		return v
	}
	return linkConfidenceMin
}

// isBlocked reports whether the operator blocks id, or kith made it from what many
// share: it never becomes a part of anybody.
func (g *Gateway) isBlocked(id proto.Identity) bool {
	_, ok := g.blocked[id]
	return ok || proto.Made(id)
}

func (g *Gateway) postLink(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	var x linkRequest
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	l, barred, err := g.link(client, x)
	if err != nil {
		return err
	}
	answer := proto.Linked{Reason: barred}
	if barred == "" {
		ctx, cancel := context.WithTimeout(r.Context(), g.c.WaitMax)
		defer cancel()
		if answer, err = g.deps.Graph.Link(ctx, client, l); err != nil {
			return err
		}
	}
	g.metrics.countLink(answer)
	return writeValue(w, http.StatusOK, answer)
}

// unlinked is the answer to a removed link.
type unlinked struct {
	Removed  bool   `json:"removed"`
	Position string `json:"position"`
}

// deleteLink removes an edge, or without b all of a's that the client vouches
// for. Proxies may drop the body of a DELETE: the query says the same.
func (g *Gateway) deleteLink(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	a, b, err := g.unlinkRequest(w, r)
	if err != nil {
		return err
	}
	noteIdentities(w, a)
	pos, err := g.deps.Graph.Unlink(r.Context(), client, a, b)
	if err != nil {
		return err
	}
	g.metrics.unlinks.Inc()
	return writeValue(w, http.StatusOK, unlinked{true, pos.String()})
}

// unlinkRequest is the body of DELETE /v1/links.
type unlinkRequest struct {
	A string          `json:"a"`
	B json.RawMessage `json:"b"` // missing: every link of A; null or an empty text is a mistake
}

func (x unlinkRequest) empty() bool { return x.A == "" && x.B == nil }

// unlinkRequest reads what goes, of the query or the body. Where both say it they must
// agree: else one of them would be passed over, which may say that less goes.
func (g *Gateway) unlinkRequest(w http.ResponseWriter, r *http.Request) (a, b proto.Identity, err error) {
	query, err := unlinkQuery(r.URL.RawQuery)
	var body unlinkRequest
	if err == nil && !bodyless(r) {
		err = g.readValue(w, r, &body)
	}
	switch {
	case err != nil:
		return "", "", err
	case query.empty():
		return body.ends()
	}
	if a, b, err = query.ends(); err != nil || body.empty() {
		return a, b, err
	}
	bodyA, bodyB, err := body.ends()
	if err == nil && (bodyA != a || bodyB != b) {
		err = proto.Errorf(proto.CodeInvalid, "the query and the body do not name the same: nothing is done; leave one of them out")
	}
	return a, b, err
}

// bodyless reports whether a request has no body. A proxy that drops bodies may leave an
// empty one of unknown length.
func bodyless(r *http.Request) bool {
	if r.ContentLength >= 0 {
		return r.ContentLength == 0
	}
	first := make([]byte, 1)
	n, err := io.ReadFull(r.Body, first)
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(first[:n]), r.Body), r.Body}
	return n == 0 && errors.Is(err, io.EOF)
}

// ends are the identities that x names, b empty if it names one.
func (x unlinkRequest) ends() (a, b proto.Identity, err error) {
	if x.A == "" {
		return "", "", proto.Errorf(proto.CodeIdentity, `name the identity whose link goes: ?a=…&b=…, or {"a":"…","b":"…"} as the body`)
	}
	if a, err = parseIdentity(x.A); err != nil || x.B == nil {
		return a, "", err
	}
	var text string
	if json.Unmarshal(x.B, &text) != nil || text == "" {
		return "", "", proto.Errorf(proto.CodeIdentity, "b is not an identity: leave it out to remove every link of a that this client vouches for")
	}
	b, err = parseIdentity(text)
	return a, b, err
}

func unlinkQuery(raw string) (x unlinkRequest, err error) {
	q, err := parseQuery(raw, "a", "b")
	if err != nil {
		return x, err
	}
	for _, name := range []string{"a", "b"} {
		if len(q[name]) > 1 {
			return x, proto.Errorf(proto.CodeInvalid, "%s is in the query twice: nothing is done", name)
		}
	}
	x.A = q.Get("a")
	if q.Has("b") {
		x.B, err = json.Marshal(q.Get("b"))
	}
	return x, err
}

func (g *Gateway) getUser(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.subject(r, who)
	if err != nil {
		return err
	}
	u, err := g.deps.Graph.User(r.Context(), client, id)
	if err != nil {
		return err
	}
	if u.Members == nil {
		u.Members = []proto.Identity{}
	}
	if u.Edges == nil {
		u.Edges = []proto.UserEdge{}
	}
	if rule, on := g.inferring.households[client.Name]; on {
		if u.Household, err = g.deps.Graph.Household(r.Context(), client, u.Members, rule); err != nil {
			return err
		}
	}
	return writeValue(w, http.StatusOK, u)
}
