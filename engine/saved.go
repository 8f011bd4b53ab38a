package engine

import (
	"context"
	"maps"
	"slices"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// Limits of saved audiences: they are in memory on every node.
const (
	savedMax            = 1000 // of one client
	savedExprMax        = 8 << 10
	savedDescriptionMax = 1 << 10
)

// savedAudience is a saved audience with what is asked of it while the registry's lock
// is held: nobody's many audiences are read again for each edit of one.
type savedAudience struct {
	proto.AudienceSpec
	segments []proto.SegmentID // that it names itself
	names    []segments.Mention
	own      segments.Extent // without names
	broken   bool            // it cannot be read
}

func newSavedAudience(s proto.AudienceSpec) *savedAudience {
	a, err := segments.ParseAudience(s.Expr)
	if err != nil {
		return &savedAudience{AudienceSpec: s, broken: true}
	}
	return savedAs(s, a)
}

// savedAs is newSavedAudience of an expression that was read.
func savedAs(s proto.AudienceSpec, a *segments.Audience) *savedAudience {
	x := &savedAudience{AudienceSpec: s, segments: a.Segments()}
	x.own, x.names = a.Own()
	return x
}

// mentions reports whether its expression names a saved audience.
func (x *savedAudience) mentions(id proto.AudienceID) bool {
	return slices.ContainsFunc(x.names, func(m segments.Mention) bool { return m.ID == id })
}

func (r *registry) obeySave(b *pb.SaveAudience) {
	client := proto.ClientID(b.Client)
	of := r.saved[client]
	if of == nil {
		of = map[proto.AudienceID]*savedAudience{}
		r.saved[client] = of
	}
	id := proto.AudienceID(b.Id)
	of[id] = newSavedAudience(proto.AudienceSpec{ID: id, Expr: b.Expr, Description: b.Description})
}

// savedAudience reads a saved audience's expression.
func (r *registry) savedAudience(c proto.ClientID, id proto.AudienceID) (*segments.Audience, error) {
	r.mu.Lock()
	s, ok := r.saved[c][id]
	r.mu.Unlock()
	if !ok {
		return nil, errNotSaved(id)
	}
	return segments.ParseAudience(s.Expr)
}

func errNotSaved(id proto.AudienceID) error {
	return proto.Errorf(proto.CodeNotFound, "there is no saved audience @%s: save it, or see GET /v1/audiences (`kith audience list`)", id)
}

// savedWith is the first saved audience of which uses holds, empty if there is
// none. The registry's lock is held.
func (r *registry) savedWith(c proto.ClientID, uses func(*savedAudience) bool) (first proto.AudienceID) {
	for id, x := range r.saved[c] {
		if (first == "" || id < first) && uses(x) {
			first = id
		}
	}
	return first
}

// checkSaved says whether the expression may be saved under the name: what it
// names must be there, it must not come to name itself, and neither its name nor
// a saved audience that names it may come to stand for more than can be counted.
// written is how many had to be written out for that. The registry's lock is held.
func (r *registry) checkSaved(c proto.ClientID, id proto.AudienceID, a *segments.Audience) (written int, err error) {
	shelf := newShelf(r.saved[c])
	full, err := a.Expand(func(name proto.AudienceID) (*segments.Audience, error) {
		if name == id {
			return nil, proto.Errorf(proto.CodeExpr, "saved audience @%s would name itself: write out what it is", id)
		}
		return shelf.open(name)
	})
	if err != nil {
		return 0, err
	}
	for _, s := range full.Segments() {
		if _, ok := r.specs[c][s]; !ok {
			return 0, notDefined(s)
		}
	}
	return checkNaming(shelf, id, a)
}

// checkNaming is checkSaved of the name and of those that name it, directly or by
// way of others. One that stood for too much before does not matter.
func checkNaming(old *shelf, id proto.AudienceID, a *segments.Audience) (written int, err error) {
	saved := newShelf(maps.Clone(old.saved))
	if saved.saved == nil {
		saved.saved = map[proto.AudienceID]*savedAudience{}
	}
	saved.saved[id], saved.read[id] = savedAs(proto.AudienceSpec{ID: id, Expr: a.String()}, a), a
	for _, name := range saved.naming(id, old.saved[id] != nil) {
		if saved.extent(name).Fits() {
			continue
		}
		written++
		err := saved.standsFor(name)
		switch {
		case err == nil:
		case name == id:
			return written, err
		case old.extent(name).Fits() || old.standsFor(name) == nil:
			return written, proto.Errorf(proto.CodeExpr, "saved audience @%s, which names @%s, could no longer be counted: %w", name, id, err)
		}
	}
	return written, nil
}

// shelf is a client's saved audiences, with what was asked of them.
type shelf struct {
	saved   map[proto.AudienceID]*savedAudience
	read    map[proto.AudienceID]*segments.Audience
	extents map[proto.AudienceID]segments.Extent
}

func newShelf(saved map[proto.AudienceID]*savedAudience) *shelf {
	return &shelf{saved: saved, read: map[proto.AudienceID]*segments.Audience{}, extents: map[proto.AudienceID]segments.Extent{}}
}

// open reads a saved audience's expression.
func (x *shelf) open(id proto.AudienceID) (*segments.Audience, error) {
	if a := x.read[id]; a != nil {
		return a, nil
	}
	s, ok := x.saved[id]
	if !ok {
		return nil, errNotSaved(id)
	}
	a, err := segments.ParseAudience(s.Expr)
	if err == nil {
		x.read[id] = a
	}
	return a, err
}

// noExtent is of what cannot be written out, or is not known to.
var noExtent = segments.Extent{Nesting: segments.AudienceNestingMax + 1}

// extent bounds what a saved audience stands for.
func (x *shelf) extent(id proto.AudienceID) segments.Extent {
	if e, ok := x.extents[id]; ok {
		return e
	}
	x.extents[id] = noExtent // of one in a circle
	if s := x.saved[id]; s != nil && !s.broken {
		x.extents[id] = s.own.With(s.names, x.extent)
	}
	return x.extents[id]
}

// naming are the saved audiences that name id, directly or by way of others, and
// before them id. One that is new is named by none.
func (x *shelf) naming(id proto.AudienceID, known bool) []proto.AudienceID {
	list, seen := []proto.AudienceID{id}, map[proto.AudienceID]bool{id: true}
	if !known {
		return list
	}
	by := map[proto.AudienceID][]proto.AudienceID{}
	for _, name := range slices.Sorted(maps.Keys(x.saved)) {
		for _, m := range x.saved[name].names {
			by[m.ID] = append(by[m.ID], name)
		}
	}
	for i := 0; i < len(list); i++ {
		for _, name := range by[list[i]] {
			if !seen[name] {
				seen[name] = true
				list = append(list, name)
			}
		}
	}
	return list
}

// standsFor says whether a saved audience's name can be written out.
func (x *shelf) standsFor(name proto.AudienceID) error {
	a, err := segments.ParseAudience("@" + string(name))
	if err == nil {
		_, err = a.Expand(x.open)
	}
	return err
}

// SaveAudience keeps an expression under a name, or replaces it; it returns when
// that is durable.
func (n *Node) SaveAudience(ctx context.Context, client proto.ClientInfo, s proto.AudienceSpec) (proto.AudienceSpec, error) {
	a, err := segments.ParseAudience(s.Expr)
	switch {
	case err != nil:
		return s, err
	case len(s.Expr) > savedExprMax:
		return s, proto.Errorf(proto.CodeExpr, "the expression has %d bytes: at most %d can be saved, but it may name other saved audiences", len(s.Expr), savedExprMax)
	case len(s.Description) > savedDescriptionMax:
		return s, proto.Errorf(proto.CodeInvalid, "the description has %d bytes: at most %d are kept", len(s.Description), savedDescriptionMax)
	}
	s.Expr = a.String()
	share := n.registry.share(ctx, client.ID)
	_, err = n.registry.propose(ctx, func() (*pb.Control, error) {
		if !n.registry.living(client) {
			return nil, errNoClient(client.Name)
		}
		old, ok := n.registry.saved[client.ID][s.ID]
		if ok && old.AudienceSpec == s {
			return nil, nil
		}
		if !ok && len(n.registry.saved[client.ID]) >= savedMax {
			return nil, proto.Errorf(proto.CodeTooLarge, "the client has %d saved audiences, the most there may be: delete some", savedMax)
		}
		if err := share.open(); err != nil {
			return nil, err
		}
		work, err := n.registry.checkSaved(client.ID, s.ID, a)
		c := &pb.Control{Body: &pb.Control_SaveAudience{SaveAudience: &pb.SaveAudience{
			Client: uint32(client.ID), Id: string(s.ID), Expr: s.Expr, Description: s.Description,
		}}}
		if err != nil {
			share.take(work + 1) // as much as if it were saved
			return nil, err
		}
		share.take(work + countOf(c))
		return c, nil
	})
	return s, err
}

// DropAudience forgets a saved audience that no other names.
func (n *Node) DropAudience(ctx context.Context, client proto.ClientInfo, id proto.AudienceID) error {
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if _, ok := n.registry.saved[client.ID][id]; !ok {
			return nil, proto.Errorf(proto.CodeNotFound, "there is no saved audience %q: GET /v1/audiences (`kith audience list`) lists them", id)
		}
		if by := n.registry.savedWith(client.ID, func(x *savedAudience) bool { return x.mentions(id) }); by != "" {
			share := n.registry.share(ctx, client.ID)
			if err := share.left(); err != nil {
				return nil, err
			}
			share.take(1)
			return nil, proto.Errorf(proto.CodeConflict, "saved audience @%s is used by @%s: change or delete that first", id, by)
		}
		return &pb.Control{Body: &pb.Control_DropAudience{DropAudience: &pb.DropAudience{Client: uint32(client.ID), Id: string(id)}}}, nil
	})
	return err
}

// SavedAudience is one by its name.
func (n *Node) SavedAudience(client proto.ClientInfo, id proto.AudienceID) (proto.AudienceSpec, bool) {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	s, ok := n.registry.saved[client.ID][id]
	if !ok {
		return proto.AudienceSpec{}, false
	}
	return s.AudienceSpec, true
}

// SavedAudiences are all of the client's, by id.
func (n *Node) SavedAudiences(client proto.ClientInfo) []proto.AudienceSpec {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	var list []proto.AudienceSpec
	for _, id := range slices.Sorted(maps.Keys(n.registry.saved[client.ID])) {
		list = append(list, n.registry.saved[client.ID][id].AudienceSpec)
	}
	return list
}
