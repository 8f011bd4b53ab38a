package gateway

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"kith/proto"
)

// cutWait bounds a cut. The caller's going away does not end it: a person
// closes the page, and the opt-out must hold all the same.
const cutWait = 10 * time.Second

func cutContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cutWait)
}

// optOutRequest is the body of an opt-out, and without everywhere that of an
// opt-in.
type optOutRequest struct {
	Identity   string   `json:"identity"`
	Identities []string `json:"identities"` // instead of Identity: many at once
	Everywhere bool     `json:"everywhere"`
}

// optOutsMax bounds the identities of one request.
const optOutsMax = 1000

// identity reads whom the request is about.
func (x optOutRequest) identity() (proto.Identity, error) {
	if x.Identity == "" {
		return "", proto.Errorf(proto.CodeIdentity, `the body names no identity: send {"identity":"browser:…"}`)
	}
	if personal(x.Identity) {
		return "", errPersonalIdentity // nothing is kept under it: the opt-out would be of nobody
	}
	return parseIdentity(x.Identity)
}

// list reads whom a request that names many is about.
func (x optOutRequest) list() ([]proto.Identity, error) {
	switch {
	case x.Identity != "":
		return nil, proto.Errorf(proto.CodeIdentity, "the body has identity and identities: send one of them")
	case len(x.Identities) == 0:
		return nil, proto.Errorf(proto.CodeInvalid, "identities is empty: send 1 to %d", optOutsMax)
	case len(x.Identities) > optOutsMax:
		return nil, proto.Errorf(proto.CodeTooLarge, "the body names %d identities: send 1 to %d", len(x.Identities), optOutsMax)
	}
	ids := make([]proto.Identity, len(x.Identities))
	for i, s := range x.Identities {
		var err error
		if ids[i], err = (optOutRequest{Identity: s}).identity(); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// cutOut opts an identity out; the receipt is for by.
func (g *Gateway) cutOut(ctx context.Context, by proto.ClientInfo, x optOutRequest) (proto.OptOutState, error) {
	id, err := x.identity()
	if err != nil {
		return proto.OptOutState{}, err
	}
	ctx, cancel := cutContext(ctx)
	defer cancel()
	s, err := g.deps.OptOuts.OptOut(ctx, by, id, x.Everywhere)
	if err != nil {
		return s, err
	}
	g.metrics.optOuts.Inc()
	return stateOf(s, id), nil
}

// stateOf completes s: where more can be asked is the gateway's to say.
func stateOf(s proto.OptOutState, id proto.Identity) proto.OptOutState {
	s.Identity = id
	s.Status = "/v1/optouts/" + url.PathEscape(string(id))
	return s
}

// writeState answers 202 while something is left to do, or to wait for.
func writeState(w http.ResponseWriter, s proto.OptOutState) error {
	status := http.StatusOK
	if !s.Final || s.CountsFrom != nil {
		status = http.StatusAccepted
	}
	return writeValue(w, status, s)
}

// unheard is a client that this node does not know yet: it is told of no space.
var unheard = proto.ClientInfo{ID: math.MaxUint32, Space: math.MaxUint32}

// askedBy is for whom an opt-out or opt-in is answered: the key's client, that which an
// admin key names, or nobody of them, the operator. It refuses one in the query that the
// key is not for. An opt-out itself is everybody's, and waits for no client to be known.
func (g *Gateway) askedBy(r *http.Request, who proto.Principal) (proto.ClientInfo, error) {
	if name := queryValue(r.URL.RawQuery, "client"); name != "" {
		return g.clientFor(who, name)
	}
	return g.keyOf(who), nil
}

// keyOf is the client of a key, none of an admin's.
func (g *Gateway) keyOf(who proto.Principal) proto.ClientInfo {
	if who.Role == proto.RoleAdmin {
		return proto.ClientInfo{}
	}
	if client, known := g.deps.Accounts.Client(who.Client); known {
		return client
	}
	return unheard
}

func (g *Gateway) postOptOut(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	by, err := g.askedBy(r, who)
	if err != nil {
		return err
	}
	var x optOutRequest
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	if x.Identities != nil {
		return g.postOptOuts(w, r, who, by, x)
	}
	id, err := x.identity()
	if err != nil {
		return err
	}
	noteIdentities(w, id)
	done, err := g.admitRequest(r, who, 1)
	if err != nil {
		return err
	}
	defer done()
	s, err := g.cutOut(r.Context(), by, x)
	if err != nil {
		return err
	}
	return writeState(w, s)
}

// postOptOuts opts a list out: all of it is checked before any of it is done.
func (g *Gateway) postOptOuts(w http.ResponseWriter, r *http.Request, who proto.Principal, by proto.ClientInfo, x optOutRequest) error {
	ids, err := x.list()
	if err != nil {
		return err
	}
	noteIdentities(w, ids...)
	done, err := g.admitRequest(r, who, len(ids))
	if err != nil {
		return err
	}
	defer done()
	list, err := g.cutList(r.Context(), who, by, ids, x.Everywhere)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if slices.ContainsFunc(list.Results, func(s proto.OptOutState) bool { return !s.Final }) {
		status = http.StatusAccepted
	}
	return writeValue(w, status, list)
}

// optedOut is the answer to a list of opt-outs.
type optedOut struct {
	Results []proto.OptOutState `json:"results"` // in the order of the list
}

// cutList opts identities out that were admitted: all at once, or while others are
// looked up some at a time, none of which waits for those before to be final. Who
// is there several times is cut once.
func (g *Gateway) cutList(ctx context.Context, who proto.Principal, by proto.ClientInfo, ids []proto.Identity, everywhere bool) (optedOut, error) {
	var distinct []proto.Identity // here, as those of one part know nothing of the others
	at := make(map[proto.Identity]int, len(ids))
	for _, id := range ids {
		if _, there := at[id]; !there {
			at[id] = len(distinct)
			distinct = append(distinct, id)
		}
	}
	parts := [][]proto.Identity{distinct}
	if g.besideLookups() {
		parts = slices.Collect(slices.Chunk(distinct, spreadList))
	}
	turns := &g.clientCuts(who).spread
	lists, errs := make([][]proto.OptOutState, len(parts)), make([]error, len(parts))
	var going sync.WaitGroup
	for i, part := range parts {
		if i > 0 {
			wait, _ := g.turn(turns, len(part), time.Hour) // the first was let in with all
			time.Sleep(wait)
		}
		going.Go(func() {
			ctx, cancel := cutContext(ctx)
			defer cancel()
			lists[i], errs[i] = g.deps.OptOuts.OptOutAll(ctx, by, part, everywhere)
			g.metrics.optOuts.Add(float64(len(lists[i])))
		})
	}
	going.Wait()
	if err := errors.Join(errs...); err != nil {
		return optedOut{}, err
	}
	states, x := slices.Concat(lists...), optedOut{make([]proto.OptOutState, len(ids))}
	for i, id := range ids {
		x.Results[i] = stateOf(states[at[id]], id)
	}
	return x, nil
}

func (g *Gateway) postOptIn(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	by, err := g.askedBy(r, who)
	if err != nil {
		return err
	}
	var x struct {
		Identity string `json:"identity"`
	}
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	id, err := optOutRequest{Identity: x.Identity}.identity()
	if err != nil {
		return err
	}
	noteIdentities(w, id)
	done, err := g.admitRequest(r, who, 1)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := cutContext(r.Context())
	defer cancel()
	s, err := g.deps.OptOuts.OptIn(ctx, by, id)
	if err != nil {
		return err
	}
	g.metrics.optIns.Inc()
	status := http.StatusOK
	if s.CountsFrom != nil {
		status = http.StatusAccepted
	}
	return writeValue(w, status, stateOf(s, id))
}

// getOptOut tells how far the newest opt-out or erasure is; a client also of those
// that it asked for itself.
func (g *Gateway) getOptOut(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.asking(r, who)
	if err != nil {
		return err
	}
	id, err := parseIdentity(r.PathValue("identity"))
	if err != nil {
		return err
	}
	if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
		return err
	}
	var s proto.OptOutState
	if client == nil {
		s, err = g.deps.OptOuts.OptOutState(r.Context(), id)
	} else {
		s, err = g.deps.OptOuts.OptOutStateFor(r.Context(), *client, id)
	}
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, withStatus(stateOf(s, id), r))
}

// asking is the client of the key, or that which an admin key names; nil of one
// that names none. As that is for all clients, a name that is lost on the way is
// refused.
func (g *Gateway) asking(r *http.Request, who proto.Principal) (*proto.ClientInfo, error) {
	if who.Role == proto.RoleAdmin {
		q, err := parseQuery(r.URL.RawQuery, "client")
		names, named := q["client"]
		switch {
		case err != nil:
			return nil, err
		case !named:
			return nil, nil
		case len(names) > 1 || names[0] == "":
			return nil, proto.Errorf(proto.CodeClient, "client is empty or there twice, and nothing is done: name one, or leave client out for all")
		}
		client, err := g.clientFor(who, names[0])
		return &client, err
	}
	client, err := g.clientOf(who, r)
	return &client, err
}

// withStatus has the route in s name the client that r names: without it an admin
// key is not told of that client's erasures.
func withStatus(s proto.OptOutState, r *http.Request) proto.OptOutState {
	if name := queryValue(r.URL.RawQuery, "client"); name != "" {
		s.Status += "?client=" + url.QueryEscape(name)
	}
	return s
}

// deleteIdentity forgets an identity without an opt-out: for an admin that
// names no client everything, else what the client knows.
func (g *Gateway) deleteIdentity(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	id, err := parseIdentity(r.PathValue("identity"))
	if err != nil {
		return err
	}
	client, err := g.asking(r, who)
	if err != nil {
		return err
	}
	done, err := g.admitRequest(r, who, 1)
	if err != nil {
		return err
	}
	defer done()
	s, err := g.erase(r.Context(), client, id)
	if err != nil {
		return err
	}
	return writeState(w, withStatus(s, r))
}

func (g *Gateway) erase(ctx context.Context, client *proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	ctx, cancel := cutContext(ctx)
	defer cancel()
	return g.eraseWithin(ctx, client, id)
}

// eraseWithin is erase in the time that ctx has left.
func (g *Gateway) eraseWithin(ctx context.Context, client *proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	s, err := g.deps.OptOuts.Erase(ctx, client, id)
	if err != nil {
		return s, err
	}
	g.metrics.erasures.Inc()
	return stateOf(s, id), nil
}

// postErase removes the bytes of what was purged, log included.
func (g *Gateway) postErase(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	unhurried(w)
	x, err := g.deps.OptOuts.EraseBytes(r.Context())
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, x)
}

// getLedger streams the ledger of opt-outs, without which no backup may be
// restored.
func (g *Gateway) getLedger(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	return g.stream(w, "the ledger of opt-outs", func(out *begun) error { return g.deps.OptOuts.WriteLedger(r.Context(), out) })
}
