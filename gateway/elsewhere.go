package gateway

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"time"

	"kith/proto"
)

// Others are the nodes of a cluster that can answer in this one's place.
type Others interface {
	// Behind reports whether this node may not answer now. It is on every
	// question's way: it must be cheap.
	Behind() bool
	// CatchUp returns once this node has come to what answers of Ask showed, or says
	// that it does not within a bound. It must be cheap likewise.
	CatchUp(ctx context.Context) error
	// Ask passes a question on to a node that answers. CodeUnavailable if there is
	// none, or none did before ctx ended.
	Ask(ctx context.Context, q *proto.Question) (*proto.Reply, error)
	// AnswerOthers has do answer what other nodes pass on, several at a time, until
	// ctx ends.
	AnswerOthers(ctx context.Context, do func(context.Context, *proto.Question) *proto.Reply) error
}

const (
	// elsewhereMax is how long a node is given for another's question, beside the
	// wait for a position.
	elsewhereMax = 2 * time.Second
	// elsewhereBytesMax bounds an answer that goes through another node.
	elsewhereBytesMax = 1 << 20
)

// elsewhere has another node answer when this one may not: one hop, never two. It
// is for questions, which may be asked twice; h writes nothing before it fails. The
// node that the caller asked keeps the call as auditKinds says, whoever answers it:
// it is the one that tells the caller.
func (g *Gateway) elsewhere(route string, h handler) handler {
	asked := g.audited(route, g.orElsewhere(route, h))
	unaudited := g.audited(route, h)
	return func(w http.ResponseWriter, r *http.Request) error {
		switch by, passed := r.Context().Value(passedOn{}).(*proto.Question); {
		case !passed:
			return asked(w, r)
		case by.Audited:
			return h(w, r)
		}
		return unaudited(w, r)
	}
}

// orElsewhere has this node answer, or if it may not another one.
func (g *Gateway) orElsewhere(route string, h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if g.deps.Others.Behind() {
			return g.passOn(route, w, r)
		}
		if err := g.deps.Others.CatchUp(r.Context()); err != nil {
			return g.passOn(route, w, r)
		}
		err := h(w, r)
		if err != nil && r.Body == http.NoBody && proto.CodeOf(err) == proto.CodeUnavailable && g.deps.Others.Behind() {
			return g.passOn(route, w, r) // it fell behind meanwhile
		}
		return err
	}
}

// passedOn is where the context of a question has it that another node passed on.
type passedOn struct{}

// ofConnection are headers that say nothing of the question.
var ofConnection = [...]string{"Connection", "Content-Length", "Cookie", "Expect", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// passOn gives another node's answer to a request with a key that is known; the
// key goes along, and whoever answers goes by its rights.
func (g *Gateway) passOn(route string, w http.ResponseWriter, r *http.Request) error {
	who, err := g.authenticate(keyOf(r.Header["Authorization"]), proto.RoleClient, proto.RoleReport, proto.RoleAdmin)
	if err != nil {
		return err
	}
	noteWho(w, who)
	q := &proto.Question{Method: r.Method, Target: r.URL.RequestURI(), Header: r.Header.Clone(), Audited: g.audit != nil}
	for _, h := range ofConnection {
		delete(q.Header, h)
	}
	if q.Body, err = g.readSent(&g.bodies, w, r, nil, g.c.BodyBytesMax); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.c.WaitMax+elsewhereMax)
	defer cancel()
	a, err := g.deps.Others.Ask(ctx, q)
	g.metrics.passedOn[err == nil].Inc()
	if err != nil {
		countInstead(w, err)
		return err
	}
	if a.Status >= http.StatusBadRequest {
		g.countRefused(who, route)
	}
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
	return nil
}

// ServeOthers answers what other nodes pass on, until ctx is done.
func (g *Gateway) ServeOthers(ctx context.Context) error {
	if g.deps.Others == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return g.deps.Others.AnswerOthers(ctx, g.answerPassedOn)
}

// answerPassedOn answers as this node's service plane does, but for routes that
// are no questions: another node has no business with them.
func (g *Gateway) answerPassedOn(ctx context.Context, q *proto.Question) *proto.Reply {
	r, err := http.NewRequestWithContext(context.WithValue(ctx, passedOn{}, q), q.Method, q.Target, bytes.NewReader(q.Body))
	if err != nil || len(q.Target) == 0 || q.Target[0] != '/' {
		return failed(proto.Errorf(proto.CodeInvalid, "another node passed on what is no request"))
	}
	if len(q.Body) == 0 {
		r.Body = http.NoBody
	}
	r.Header = q.Header
	if !g.service.passedOn(r) {
		return failed(proto.Errorf(proto.CodeForbidden, "%s %s is not passed on between nodes: ask the node itself", clip(q.Method), clip(r.URL.Path)))
	}
	a := &answer{header: http.Header{}}
	whole := g.answerWhole(a, r)
	switch {
	case a.over:
		return failed(proto.Errorf(proto.CodeUnavailable, "the answer is too large to be passed on: ask another node"))
	case !whole:
		return failed(proto.Errorf(proto.CodeUnavailable, "the answer broke off: ask again"))
	}
	return &proto.Reply{Status: max(a.status, http.StatusOK), Header: a.header, Body: a.body}
}

// answerWhole answers into a, or reports that the handler broke the answer off, where
// net/http would have the reader see a cut one.
func (g *Gateway) answerWhole(a *answer, r *http.Request) (whole bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			panic(p)
		}
	}()
	g.service.ServeHTTP(a, r)
	return true
}

func failed(err error) *proto.Reply {
	e := asError(err)
	return &proto.Reply{Status: statusOf(e.Code), Header: http.Header{"Content-Type": {"application/json"}}, Body: appendError(nil, e)}
}

// answer keeps what a handler writes, within elsewhereBytesMax.
type answer struct {
	header http.Header
	status int
	body   []byte
	over   bool
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.over = a.over || len(a.body)+len(b) > elsewhereBytesMax; a.over {
		return 0, proto.Errorf(proto.CodeTooLarge, "the answer is too large to be passed on")
	}
	a.body = append(a.body, b...)
	return len(b), nil
}
