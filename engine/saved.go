package engine

import (
	"context"
	"maps"
	"slices"
	"strings"

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

func (r *registry) obeySave(b *pb.SaveAudience) {
	client := proto.ClientID(b.Client)
	of := r.saved[client]
	if of == nil {
		of = map[proto.AudienceID]proto.AudienceSpec{}
		r.saved[client] = of
	}
	id := proto.AudienceID(b.Id)
	of[id] = proto.AudienceSpec{ID: id, Expr: b.Expr, Description: b.Description}
}

// savedAudience reads a saved audience's expression.
func (r *registry) savedAudience(c proto.ClientID, id proto.AudienceID) (*segments.Audience, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.openSaved(c, id)
}

// openSaved is savedAudience with the registry's lock held.
func (r *registry) openSaved(c proto.ClientID, id proto.AudienceID) (*segments.Audience, error) {
	s, ok := r.saved[c][id]
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
func (r *registry) savedWith(c proto.ClientID, uses func(*segments.Audience) bool) proto.AudienceID {
	for _, id := range slices.Sorted(maps.Keys(r.saved[c])) {
		if a, err := r.openSaved(c, id); err == nil && uses(a) {
			return id
		}
	}
	return ""
}

// checkSaved says whether the expression may be saved under the name: what it
// names must be there, it must not come to name itself, and neither its name nor
// a saved audience that names it may come to stand for more than can be counted.
// The registry's lock is held.
func (r *registry) checkSaved(c proto.ClientID, id proto.AudienceID, a *segments.Audience) error {
	full, err := a.Expand(func(name proto.AudienceID) (*segments.Audience, error) {
		if name == id {
			return nil, proto.Errorf(proto.CodeExpr, "saved audience @%s would name itself: write out what it is", id)
		}
		return r.openSaved(c, name)
	})
	if err != nil {
		return err
	}
	for _, s := range full.Segments() {
		if _, ok := r.specs[c][s]; !ok {
			return notDefined(s)
		}
	}
	return r.checkNaming(c, id, a)
}

// checkNaming is checkSaved of the name and of those that name it, directly or by
// way of others. One that stood for too much before does not matter. The registry's
// lock is held.
func (r *registry) checkNaming(c proto.ClientID, id proto.AudienceID, a *segments.Audience) error {
	old := map[proto.AudienceID]*segments.Audience{}
	for name := range r.saved[c] {
		if x, err := r.openSaved(c, name); err == nil {
			old[name] = x
		}
	}
	saved := maps.Clone(old)
	saved[id] = a
	for _, name := range naming(saved, id) {
		err := standsFor(name, saved)
		switch {
		case err == nil:
		case name == id:
			return err
		case standsFor(name, old) == nil:
			return proto.Errorf(proto.CodeExpr, "saved audience @%s, which names @%s, could no longer be counted: %w", name, id, err)
		}
	}
	return nil
}

// naming are the saved audiences that name id, directly or by way of others, and
// before them id.
func naming(saved map[proto.AudienceID]*segments.Audience, id proto.AudienceID) []proto.AudienceID {
	by := map[proto.AudienceID][]proto.AudienceID{}
	for _, name := range slices.Sorted(maps.Keys(saved)) {
		for _, x := range saved[name].Saved() {
			by[x] = append(by[x], name)
		}
	}
	list, seen := []proto.AudienceID{id}, map[proto.AudienceID]bool{id: true}
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
func standsFor(name proto.AudienceID, saved map[proto.AudienceID]*segments.Audience) error {
	a, err := segments.ParseAudience("@" + string(name))
	if err == nil {
		_, err = a.Expand(func(x proto.AudienceID) (*segments.Audience, error) {
			if a := saved[x]; a != nil {
				return a, nil
			}
			return nil, errNotSaved(x)
		})
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
	_, err = n.registry.proposeFor(ctx, client.ID, func() (*pb.Control, error) {
		if !n.registry.living(client) {
			return nil, errNoClient(client.Name)
		}
		old, ok := n.registry.saved[client.ID][s.ID]
		if ok && old == s {
			return nil, nil
		}
		if !ok && len(n.registry.saved[client.ID]) >= savedMax {
			return nil, proto.Errorf(proto.CodeTooLarge, "the client has %d saved audiences, the most there may be: delete some", savedMax)
		}
		if err := n.registry.checkSaved(client.ID, s.ID, a); err != nil {
			return nil, err
		}
		return &pb.Control{Body: &pb.Control_SaveAudience{SaveAudience: &pb.SaveAudience{
			Client: uint32(client.ID), Id: string(s.ID), Expr: s.Expr, Description: s.Description,
		}}}, nil
	})
	return s, err
}

// DropAudience forgets a saved audience that no other names.
func (n *Node) DropAudience(ctx context.Context, client proto.ClientInfo, id proto.AudienceID) error {
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if _, ok := n.registry.saved[client.ID][id]; !ok {
			return nil, proto.Errorf(proto.CodeNotFound, "there is no saved audience %q: GET /v1/audiences (`kith audience list`) lists them", id)
		}
		if by := n.registry.savedWith(client.ID, func(a *segments.Audience) bool { return slices.Contains(a.Saved(), id) }); by != "" {
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
	return s, ok
}

// SavedAudiences are all of the client's, by id.
func (n *Node) SavedAudiences(client proto.ClientInfo) []proto.AudienceSpec {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.registry.saved[client.ID]), func(a, b proto.AudienceSpec) int {
		return strings.Compare(string(a.ID), string(b.ID))
	})
}
