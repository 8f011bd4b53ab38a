package segments

import (
	"slices"

	"kith/proto"
)

// AudienceNestingMax bounds how deep saved audiences may name one another.
const AudienceNestingMax = 16

// Saved are the saved audiences that a names, each once.
func (a *Audience) Saved() []proto.AudienceID { return slices.Clone(a.saved) }

// Expand puts, for each saved audience that a names, what saved gives for it,
// and so on. CodeExpr if they go in a circle, lie too deep or become too long: what is
// written out can be read again.
func (a *Audience) Expand(saved func(proto.AudienceID) (*Audience, error)) (*Audience, error) {
	if len(a.saved) == 0 {
		return a, nil
	}
	x := expander{saved: saved}
	root, err := x.node(a.root)
	if err != nil {
		return nil, err
	}
	out := &Audience{root: root, ids: x.segments.ids}
	if _, err := ParseAudience(out.String()); err != nil {
		return nil, proto.Errorf(proto.CodeExpr, "with its saved audiences the expression cannot be written out: %w", err)
	}
	return out, nil
}

type expander struct {
	saved    func(proto.AudienceID) (*Audience, error)
	path     []proto.AudienceID // those under way, outermost first
	terms    int
	segments segmentSet
}

func (x *expander) node(n *audienceNode) (*audienceNode, error) {
	switch n.op {
	case audienceName:
		return n, x.name(n.id)
	case audienceSaved:
		return x.open(n.saved)
	}
	kids := make([]*audienceNode, 0, len(n.kids))
	for _, kid := range n.kids {
		k, err := x.node(kid)
		switch {
		case err != nil:
			return nil, err
		case k.op == n.op && n.op != audienceNot:
			kids = append(kids, k.kids...)
		default:
			kids = append(kids, k)
		}
	}
	if n.op == audienceNot {
		return negated(kids[0]), nil
	}
	return joined(n.op, kids), nil
}

func (x *expander) name(id proto.SegmentID) error {
	if x.terms++; x.terms > AudienceTermsMax {
		return proto.Errorf(proto.CodeExpr, "with its saved audiences the expression names segments more than %d times: split it", AudienceTermsMax)
	}
	x.segments.add(id)
	return nil
}

func (x *expander) open(id proto.AudienceID) (*audienceNode, error) {
	switch {
	case slices.Contains(x.path, id):
		return nil, proto.Errorf(proto.CodeExpr, "saved audience @%s names itself, by way of others: take it out of one of them", id)
	case len(x.path) == AudienceNestingMax:
		return nil, proto.Errorf(proto.CodeExpr, "saved audiences name one another more than %d deep, at @%s: write some of them out", AudienceNestingMax, id)
	}
	a, err := x.saved(id)
	if err != nil {
		return nil, err
	}
	x.path = append(x.path, id)
	defer func() { x.path = x.path[:len(x.path)-1] }()
	return x.node(a.root)
}

// Extent bounds what an audience comes to when it is written out. What Fits can be
// expanded; of what does not only Expand knows.
type Extent struct {
	Terms   int // mentions of segments
	Bytes   int // of the canonical form
	Depth   int // of parentheses
	Nesting int // of saved audiences
}

// extentMost is more than any limit, and is not passed.
const extentMost = 1 << 20

// Fits reports whether e is within the limits of one audience.
func (e Extent) Fits() bool {
	return e.Terms <= AudienceTermsMax && e.Bytes <= AudienceBytesMax && e.Depth <= AudienceDepthMax && e.Nesting <= AudienceNestingMax
}

// Mention is a saved audience with how often an expression names it.
type Mention struct {
	ID    proto.AudienceID
	Times int
}

// Own is the extent of a without the saved audiences that it names, and these.
func (a *Audience) Own() (Extent, []Mention) {
	e := Extent{Bytes: len(a.String())}
	list := make([]Mention, len(a.saved))
	at := make(map[proto.AudienceID]int, len(a.saved))
	for i, id := range a.saved {
		list[i].ID, at[id] = id, i
	}
	var walk func(n *audienceNode, depth int)
	walk = func(n *audienceNode, depth int) {
		e.Depth = max(e.Depth, depth)
		switch n.op {
		case audienceName:
			e.Terms++
		case audienceSaved:
			list[at[n.saved]].Times++
		}
		for _, kid := range n.kids {
			walk(kid, depth+1) // as if each stood in parentheses
		}
	}
	walk(a.root, 0)
	return e, list
}

// With is e with the extents of what is named beside it.
func (e Extent) With(names []Mention, of func(proto.AudienceID) Extent) Extent {
	inner := Extent{}
	for _, m := range names {
		x := of(m.ID)
		e.Terms = min(e.Terms+m.Times*x.Terms, extentMost)
		e.Bytes = min(e.Bytes+m.Times*(x.Bytes+len("()")), extentMost)
		inner.Depth, inner.Nesting = max(inner.Depth, x.Depth+1), max(inner.Nesting, x.Nesting)
	}
	e.Depth = min(e.Depth+inner.Depth, extentMost)
	e.Nesting = inner.Nesting + 1
	return e
}
