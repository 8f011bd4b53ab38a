package engine

import (
	"maps"
	"slices"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// laneRules are the segments that a lane's log has defined so far. They
// belong to the lane's stepper; identities read them while it waits for them.
type laneRules struct {
	programs map[proto.ClientID]*segments.Program
	defines  map[proto.SegmentKey]defined // those that wait among them
	filled   map[proto.SegmentKey]bool    // of those: history was asked for
	gone     map[proto.ClientID]bool      // clients that were ended
	keep     retentions
	feeds    map[proto.ClientID]bool // clients that asked at some time to be told of members; false: no more
}

type defined struct {
	client proto.ClientID
	id     proto.SegmentID
}

func newLaneRules() *laneRules {
	return &laneRules{programs: map[proto.ClientID]*segments.Program{}, defines: map[proto.SegmentKey]defined{}, filled: map[proto.SegmentKey]bool{}, gone: map[proto.ClientID]bool{}, keep: retentions{}, feeds: map[proto.ClientID]bool{}}
}

// Program implements identity.Rules.
func (r *laneRules) Program(c proto.ClientID) *segments.Program { return r.programs[c] }

// ended reports whether a client was ended.
func (r *laneRules) ended(c proto.ClientID) bool { return r.gone[c] }

// end drops a client's rules. Its program stays, empty and of this version: a
// root whose lane is behind may still speak of its segments.
func (r *laneRules) end(client proto.ClientID, seq proto.SegmentKey) rulesChange {
	ch := rulesChange{client: client}
	for key, d := range r.defines {
		if d.client == client {
			ch.dropped = append(ch.dropped, r.drop(key)...)
		}
	}
	slices.Sort(ch.dropped)
	r.programs[client] = segments.NewProgram()
	r.programs[client].SetVersion(seq)
	r.gone[client] = true
	delete(r.keep, client)
	if r.feeds[client] {
		r.feeds[client] = false
	}
	return ch
}

// program finds or makes a client's.
func (r *laneRules) program(c proto.ClientID) *segments.Program {
	g := r.programs[c]
	if g == nil {
		g = segments.NewProgram()
		r.programs[c] = g
	}
	return g
}

// rulesChange is what a control record changed.
type rulesChange struct {
	dropped []proto.SegmentKey // definitions no longer in force
	client  proto.ClientID
	defined proto.SegmentKey // 0: none
	fill    bool
	same    bool               // the rule was in force already: nobody enters or leaves
	waits   bool               // it is filled before it answers
	kept    bool               // its fill goes on as it is
	swapped proto.SegmentKey   // what waited and answers now; 0: none
	refers  []proto.SegmentKey // those whose rules refer to what answers anew
	unmet   bool               // nobody meets its rule yet: an imported list's, whose marks come after it
}

// apply obeys one control record. It fails only if whoever wrote the record
// did not check it: the lane must be quarantined.
func (r *laneRules) apply(seq uint64, c *pb.Control) (rulesChange, error) {
	switch body := c.Body.(type) {
	case *pb.Control_Define:
		return r.define(seq, body.Define)
	case *pb.Control_Swap:
		return r.swap(seq, body.Swap), nil
	case *pb.Control_Undefine:
		client, id := proto.ClientID(body.Undefine.Client), proto.SegmentID(body.Undefine.Id)
		g := r.programs[client]
		if g == nil {
			return rulesChange{}, nil
		}
		ch := rulesChange{client: client, dropped: r.versions(g, id)}
		if len(ch.dropped) == 0 {
			return rulesChange{}, nil
		}
		return ch, g.Undefine(id, proto.SegmentKey(seq))
	case *pb.Control_EraseClient:
		return r.end(proto.ClientID(body.EraseClient.Client), proto.SegmentKey(seq)), nil
	case *pb.Control_Retain:
		r.keep[proto.ClientID(body.Retain.Client)] = retentionOf(body.Retain)
	case *pb.Control_Feed:
		r.feeds[proto.ClientID(body.Feed.Client)] = body.Feed.On
	}
	return rulesChange{}, nil // clients and keys are the node's affair
}

// versions takes those of a segment out of defines: the one that answers and
// the one that waits.
func (r *laneRules) versions(g *segments.Program, id proto.SegmentID) (keys []proto.SegmentKey) {
	for _, get := range []func(proto.SegmentID) (segments.Definition, bool){g.Get, g.Waiting} {
		if d, ok := get(id); ok {
			keys = append(keys, r.drop(d.Key)...)
		}
	}
	return keys
}

// define makes or replaces a segment. One that is to be filled and replaces
// another waits beside it.
func (r *laneRules) define(seq uint64, d *pb.Define) (rulesChange, error) {
	def, err := definitionOf(seq, d)
	if err != nil {
		return rulesChange{}, err
	}
	client := proto.ClientID(d.Client)
	g := r.program(client)
	old, ok := g.Get(def.ID)
	next, waits := g.Waiting(def.ID)
	ch := rulesChange{client: client, defined: def.Key, fill: d.Backfill}
	switch {
	case ok && sameRule(old, def): // what waits, if anything does, is given up
		ch.defined, ch.same = old.Key, !waits
		ch.kept = !d.Backfill || waits && r.filled[old.Key]
		if waits {
			ch.dropped = r.drop(next.Key)
			g.Cancel(def.ID, proto.SegmentKey(seq))
		}
		r.filled[old.Key] = d.Backfill // as the record says that is kept from now on
		return ch, nil
	case waits && d.Backfill && sameRule(next, def):
		ch.defined, ch.same, ch.waits, ch.kept = next.Key, true, true, true
		return ch, nil
	case ok && d.Backfill:
		if ch.waits = true; waits {
			ch.dropped = r.drop(next.Key)
		}
		err = g.DefineBeside(def)
	default:
		ch.dropped, ch.unmet = r.versions(g, def.ID), def.Rule.Reserved() != ""
		err = g.Define(def)
		ch.refers = referring(g, def.ID)
	}
	if err != nil {
		return rulesChange{}, err
	}
	r.defines[def.Key], r.filled[def.Key] = defined{client, def.ID}, d.Backfill
	return ch, nil
}

// drop forgets a definition, and gives it as what was dropped.
func (r *laneRules) drop(key proto.SegmentKey) []proto.SegmentKey {
	delete(r.defines, key)
	delete(r.filled, key)
	return []proto.SegmentKey{key}
}

func sameRule(a, b segments.Definition) bool {
	return a.Scope == b.Scope && a.Rule.String() == b.Rule.String()
}

// swap has a version that waits answer. One that is gone, or answers already,
// changes nothing: whoever saw it filled may say so twice.
func (r *laneRules) swap(seq uint64, x *pb.Swap) rulesChange {
	client, id, key := proto.ClientID(x.Client), proto.SegmentID(x.Id), proto.SegmentKey(x.Version)
	g := r.programs[client]
	if g == nil {
		return rulesChange{}
	}
	old, _ := g.Get(id)
	if !g.Swap(id, key, proto.SegmentKey(seq)) {
		return rulesChange{}
	}
	ch := rulesChange{client: client, dropped: r.drop(old.Key), swapped: key}
	ch.refers = referring(g, id)
	return ch
}

// referring are the versions whose rules refer to a segment, however indirectly.
func referring(g *segments.Program, id proto.SegmentID) (keys []proto.SegmentKey) {
	for _, d := range g.Dependents(id) {
		keys = append(keys, d.Key)
	}
	return keys
}

// definitionOf reads the compiled form, never the text: a library upgrade
// must not change what a rule means.
func definitionOf(seq uint64, d *pb.Define) (segments.Definition, error) {
	rule, err := segments.DecodeRule(d.Compiled)
	if err != nil {
		return segments.Definition{}, err
	}
	scope, err := segments.ParseScope(d.Scope)
	if err != nil {
		return segments.Definition{}, err
	}
	return segments.Definition{Key: proto.SegmentKey(seq), ID: proto.SegmentID(d.Id), Scope: scope, Rule: rule}, nil
}

// restore takes in the definitions that a lane had, given by sequence, and the
// sequences of the Swaps by which some answer. A rule may refer to a segment
// that was replaced after it, so those referred to come first. Of two of a name
// the newer one waits.
func (r *laneRules) restore(records map[uint64]*pb.Control, swapped map[proto.SegmentKey]proto.SegmentKey) error {
	byName := map[defined]uint64{} // those that answer
	for _, seq := range slices.Sorted(maps.Keys(records)) {
		d := records[seq].GetDefine()
		if d == nil {
			return proto.Errorf(proto.CodeCorrupt, "the record of definition %d is not one", seq)
		}
		name := defined{proto.ClientID(d.Client), proto.SegmentID(d.Id)}
		if _, waits := byName[name]; !waits {
			byName[name] = seq
		}
	}
	done := map[uint64]bool{}
	var visit func(seq uint64) error
	visit = func(seq uint64) error {
		if done[seq] {
			return nil
		}
		done[seq] = true
		d := records[seq].GetDefine()
		def, err := definitionOf(seq, d)
		if err != nil {
			return err
		}
		client := proto.ClientID(d.Client)
		for _, id := range append(def.Rule.Refers(), def.ID) {
			if first, ok := byName[defined{client, id}]; ok {
				if err := visit(first); err != nil {
					return err
				}
			}
		}
		r.defines[def.Key], r.filled[def.Key] = defined{client, def.ID}, d.Backfill
		return r.program(client).Restore(def, swapped[def.Key])
	}
	for _, seq := range slices.Sorted(maps.Keys(records)) {
		if err := visit(seq); err != nil {
			return err
		}
	}
	return nil
}
