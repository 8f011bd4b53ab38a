package gateway_test

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"kith/gateway"
	"kith/proto"
)

// twinGraph is the twin's edges and opt-outs: sets, and users by walking over
// them. twin.mu guards it.
type twinGraph struct {
	edges  map[twinEdge]proto.UserEdge
	out    map[proto.Identity]*proto.OptOutState
	own    map[twinErasure]*proto.OptOutState
	cuts   []string         // what was asked for, in order
	told   proto.ClientInfo // for whom the last opt-out or opt-in was
	looked proto.ClientInfo // for whom OptOutStateFor was asked last
	kept   []proto.Identity // something is kept of them, besides who has edges or memberships
	key    ed25519.PrivateKey
	slow   bool       // no cut is final at once
	cutErr error      // what cuts and questions fail with
	inErr  error      // what opt-ins fail with
	lifted bool       // what an opt-in fails at was lifted by another
	from   *time.Time // when events count of who begins anew
	purged int

	checkedBy []proto.ClientID // who had receipts checked
}

// twinErasure is of what one client knew.
type twinErasure struct {
	client proto.ClientID
	id     proto.Identity
}

// twinEdge is an edge in a space, the lesser identity first.
type twinEdge struct {
	space proto.SpaceID
	a, b  proto.Identity
}

// twinEdgesMax is the twin's cap of edges of an identity.
const twinEdgesMax = 3

func newTwinGraph() twinGraph {
	return twinGraph{
		edges: map[twinEdge]proto.UserEdge{}, out: map[proto.Identity]*proto.OptOutState{}, own: map[twinErasure]*proto.OptOutState{},
		key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize))),
	}
}

// behind is the twin as all rooms behind a gateway.
func (t *twin) behind() gateway.Dependencies {
	return gateway.Dependencies{
		Intake: t, Memberships: t, Definitions: t, Audiences: t, Saved: t, Campaigns: t, Accounts: t, Holdings: t, Operations: t, Graph: t, OptOuts: t, Maintenance: t, Exports: t, Imports: t, Cluster: t, Rules: t,
	}
}

func edgeOf(space proto.SpaceID, a, b proto.Identity) twinEdge {
	return twinEdge{space, min(a, b), max(a, b)}
}

// join makes an edge, or says why not.
func (t *twin) join(client proto.ClientID, space proto.SpaceID, l proto.Link) string {
	degree := map[proto.Identity]int{}
	for e := range t.graph.edges {
		if e.space == space {
			degree[e.a]++
			degree[e.b]++
		}
	}
	e := edgeOf(space, l.A, l.B)
	_, there := t.graph.edges[e]
	switch {
	case t.graph.out[l.A] != nil || t.graph.out[l.B] != nil:
		return "opted_out"
	case !there && (degree[l.A] >= twinEdgesMax || degree[l.B] >= twinEdgesMax):
		return "cap"
	}
	x := proto.UserEdge{A: e.a, B: e.b, Method: "deterministic", Confidence: l.Confidence, Time: now}
	if l.Inferred {
		x.Method = "inferred"
	}
	for name, c := range t.clients {
		if c.ID == client {
			x.Client = name
		}
	}
	t.graph.edges[e] = x
	return ""
}

func (t *twin) Link(_ context.Context, client proto.ClientInfo, l proto.Link) (proto.Linked, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	reason := t.join(client.ID, client.Space, l)
	return proto.Linked{Linked: reason == "", Reason: reason}, nil
}

func (t *twin) Unlink(_ context.Context, client proto.ClientInfo, a, b proto.Identity) (proto.Position, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.graph.edges, func(e twinEdge, x proto.UserEdge) bool {
		if b != "" {
			return e == edgeOf(client.Space, a, b)
		}
		return e.space == client.Space && (e.a == a || e.b == a) && x.Client == client.Name
	})
	t.offset++
	return proto.Position{0: t.offset}, nil
}

// user is who id is one person with, by walking.
func (t *twin) user(space proto.SpaceID, id proto.Identity) []proto.Identity {
	seen := map[proto.Identity]bool{id: true}
	for grown := true; grown; {
		grown = false
		for e := range t.graph.edges {
			if e.space == space && seen[e.a] != seen[e.b] {
				seen[e.a], seen[e.b], grown = true, true, true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

func (t *twin) User(_ context.Context, client proto.ClientInfo, id proto.Identity) (proto.User, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := proto.User{Members: t.user(client.Space, id)}
	u.Root = u.Members[0]
	for e, x := range t.graph.edges {
		if e.space == client.Space && slices.Contains(u.Members, e.a) {
			u.Edges = append(u.Edges, x)
		}
	}
	slices.SortFunc(u.Edges, func(x, y proto.UserEdge) int { return strings.Compare(string(x.A+" "+x.B), string(y.A+" "+y.B)) })
	return u, nil
}

// Household is the twin's networks: whoever was seen on one often enough, unless it is
// too many.
func (t *twin) Household(_ context.Context, client proto.ClientInfo, members []proto.Identity, rule proto.HouseholdRule) (list []proto.HouseholdEdge, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := map[proto.NetworkKey]map[proto.Identity]map[proto.Day]bool{}
	for i := range t.events {
		e := &t.events[i]
		if e.Network == 0 || e.Client != client.ID || t.graph.out[e.Identities[0]] != nil {
			continue
		}
		if seen[e.Network] == nil {
			seen[e.Network] = map[proto.Identity]map[proto.Day]bool{}
		}
		if seen[e.Network][e.Identities[0]] == nil {
			seen[e.Network][e.Identities[0]] = map[proto.Day]bool{}
		}
		seen[e.Network][e.Identities[0]][e.Received.Day()] = true
	}
	for _, home := range seen {
		for a, on := range home {
			for b, also := range home {
				days := 0
				for d := range on {
					if also[d] {
						days++
					}
				}
				if len(home) <= rule.IdentitiesMax && days >= rule.DaysMin && slices.Contains(members, a) && !slices.Contains(members, b) {
					list = append(list, proto.HouseholdEdge{A: a, B: b, Kind: proto.HouseholdKind, Method: "inferred", Confidence: 0.5, Days: days})
				}
			}
		}
	}
	return list, nil
}

// forget drops what is known of id, of one client or of all, and counts it.
func (t *twin) forget(client *proto.ClientInfo, id proto.Identity) (n int) {
	before := len(t.members) + len(t.graph.edges)
	maps.DeleteFunc(t.members, func(m member, _ []proto.SegmentID) bool {
		return m.id == id && (client == nil || m.client == client.ID)
	})
	maps.DeleteFunc(t.graph.edges, func(e twinEdge, x proto.UserEdge) bool {
		return (e.a == id || e.b == id) && (client == nil || x.Client == client.Name)
	})
	t.graph.purged++
	return before - len(t.members) - len(t.graph.edges)
}

func (t *twin) OptOut(ctx context.Context, by proto.ClientInfo, id proto.Identity, everywhere bool) (proto.OptOutState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.cutFails(ctx); err != nil {
		return proto.OptOutState{}, err
	}
	t.graph.cuts = append(t.graph.cuts, fmt.Sprintf("optout %s %t", id, everywhere))
	t.graph.told = by
	also := map[proto.Identity]bool{}
	for _, c := range t.clients {
		for _, other := range t.user(c.Space, id) {
			also[other] = everywhere
		}
	}
	also[id] = true
	at, found := now, 0
	for other, cut := range also {
		if cut {
			found += t.forget(nil, other)
			t.graph.out[other] = &proto.OptOutState{OptedOut: true, Final: true, Since: &at}
		}
	}
	s := proto.OptOutState{OptedOut: true, Final: !t.graph.slow, Since: &at}
	if s.Final {
		s.Receipt = t.sign("optout", id, found, everywhere)
	}
	t.graph.out[id] = &s
	return s, nil
}

func (t *twin) cutFails(ctx context.Context) error {
	if t.graph.cutErr != nil {
		return t.graph.cutErr
	}
	return ctx.Err()
}

func (t *twin) sign(action string, id proto.Identity, found int, everywhere bool) *proto.Receipt {
	r := &proto.Receipt{
		Version: proto.ReceiptVersion, ID: "1", Node: "n1", Action: action, IdentityHash: t.Hasher().Hash(id).String(), Everywhere: everywhere,
		CopiesRetracted: found, Time: now, LogClearBy: now.Add(24 * time.Hour), PublicKey: t.ReceiptKey(),
	}
	r.Signature = hex.EncodeToString(ed25519.Sign(t.graph.key, r.SignedBytes()))
	return r
}

// OptOutAll implements OptOuts.
func (t *twin) OptOutAll(ctx context.Context, by proto.ClientInfo, ids []proto.Identity, everywhere bool) (list []proto.OptOutState, err error) {
	for _, id := range ids {
		s, err := t.OptOut(ctx, by, id, everywhere)
		if err != nil {
			return nil, err
		}
		s.Identity = id
		list = append(list, s)
	}
	return list, nil
}

func (t *twin) OptIn(ctx context.Context, by proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.cutFails(ctx); err != nil {
		return proto.OptOutState{}, err
	}
	if t.graph.lifted {
		delete(t.graph.out, id)
	}
	if t.graph.inErr != nil {
		return proto.OptOutState{}, t.graph.inErr
	}
	if t.graph.out[id] == nil {
		return proto.OptOutState{}, proto.Errorf(proto.CodeConflict, "the identity is not opted out")
	}
	t.graph.cuts = append(t.graph.cuts, "optin "+string(id))
	t.graph.told = by
	delete(t.graph.out, id)
	return proto.OptOutState{CountsFrom: t.graph.from}, nil
}

func (t *twin) OptOutState(_ context.Context, id proto.Identity) (proto.OptOutState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.graph.cutErr != nil {
		return proto.OptOutState{}, t.graph.cutErr
	}
	s, kind := t.graph.out[id], "optout"
	if s == nil {
		s, kind = t.graph.own[twinErasure{0, id}], "erase"
	}
	if s == nil {
		return proto.OptOutState{}, nil
	}
	if !s.Final && !t.graph.slow {
		s.Final, s.Receipt = true, t.sign(kind, id, 0, false)
	}
	return *s, nil
}

// Keeps implements OptOuts.
func (t *twin) Keeps(id proto.Identity) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.graph.out[id] != nil || slices.Contains(t.graph.cuts, "optin "+string(id)) || slices.Contains(t.graph.kept, id) // a tombstone stays
	for m := range t.members {
		kept = kept || m.id == id
	}
	for e := range t.graph.edges {
		kept = kept || e.a == id || e.b == id
	}
	return kept, nil
}

func (t *twin) Erase(ctx context.Context, client *proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.cutFails(ctx); err != nil {
		return proto.OptOutState{}, err
	}
	name := "all"
	if client != nil {
		name = string(client.Name)
	}
	t.graph.cuts = append(t.graph.cuts, "erase "+string(id)+" "+name)
	s := proto.OptOutState{Final: !t.graph.slow, CountsFrom: t.graph.from}
	if n := t.forget(client, id); s.Final {
		s.Receipt = t.sign("erase", id, n, false)
	}
	who := proto.ClientID(0) // all
	if client != nil {
		who = client.ID
	}
	t.graph.own[twinErasure{who, id}] = &s
	return s, nil
}

func (t *twin) OptOutStateFor(ctx context.Context, client proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	s0, err := t.OptOutState(ctx, id)
	t.mu.Lock()
	t.graph.looked = client
	t.mu.Unlock()
	if err != nil || s0.OptedOut {
		return s0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.graph.own[twinErasure{client.ID, id}]
	if s == nil {
		return proto.OptOutState{}, nil
	}
	if !s.Final && !t.graph.slow {
		s.Final, s.Receipt = true, t.sign("erase", id, 0, false)
	}
	return *s, nil
}

func (t *twin) ReceiptKey() string {
	return hex.EncodeToString(t.graph.key.Public().(ed25519.PublicKey))
}

func (t *twin) CheckReceipt(_ context.Context, by proto.ClientID, r proto.Receipt) (proto.ReceiptCheck, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.graph.checkedBy = append(t.graph.checkedBy, by)
	sig, err := hex.DecodeString(r.Signature)
	x := proto.ReceiptCheck{Signature: err == nil && r.PublicKey == t.ReceiptKey() && ed25519.Verify(t.graph.key.Public().(ed25519.PublicKey), r.SignedBytes(), sig)}
	found := proto.ReceiptFind{Place: "members"}
	for m := range t.members {
		if t.Hasher().Hash(m.id).String() == r.IdentityHash {
			found.Found++
		}
	}
	x.Places, x.Clean = []proto.ReceiptFind{found}, found.Found == 0
	return x, nil
}

func (t *twin) EraseBytes(context.Context) (proto.Erased, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.graph.purged
	t.graph.purged = 0
	return proto.Erased{Identities: n, Time: now}, nil
}

func (t *twin) WriteLedger(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "ledger")
	return err
}
