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
	defines  map[proto.SegmentKey]defined
	gone     map[proto.ClientID]bool // clients that were ended
}

type defined struct {
	client proto.ClientID
	id     proto.SegmentID
}

func newLaneRules() *laneRules {
	return &laneRules{programs: map[proto.ClientID]*segments.Program{}, defines: map[proto.SegmentKey]defined{}, gone: map[proto.ClientID]bool{}}
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
			ch.dropped = append(ch.dropped, key)
			delete(r.defines, key)
		}
	}
	slices.Sort(ch.dropped)
	r.programs[client] = segments.NewProgram()
	r.programs[client].SetVersion(seq)
	r.gone[client] = true
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
	same    bool // the rule was in force already: nobody enters or leaves
}

// apply obeys one control record. It fails only if whoever wrote the record
// did not check it: the lane must be quarantined.
func (r *laneRules) apply(seq uint64, c *pb.Control) (rulesChange, error) {
	switch body := c.Body.(type) {
	case *pb.Control_Define:
		d := body.Define
		def, err := definitionOf(seq, d)
		if err != nil {
			return rulesChange{}, err
		}
		client := proto.ClientID(d.Client)
		g := r.program(client)
		if old, ok := g.Get(def.ID); ok && old.Scope == def.Scope && old.Rule.String() == def.Rule.String() {
			return rulesChange{client: client, defined: old.Key, fill: d.Backfill, same: true}, nil
		}
		ch := rulesChange{client: client, defined: def.Key, fill: d.Backfill}
		if old, ok := g.Get(def.ID); ok {
			ch.dropped = append(ch.dropped, old.Key)
			delete(r.defines, old.Key)
		}
		if err := g.Define(def); err != nil {
			return rulesChange{}, err
		}
		r.defines[def.Key] = defined{client, def.ID}
		return ch, nil
	case *pb.Control_Undefine:
		client, id := proto.ClientID(body.Undefine.Client), proto.SegmentID(body.Undefine.Id)
		g := r.programs[client]
		if g == nil {
			return rulesChange{}, nil
		}
		old, ok := g.Get(id)
		if !ok {
			return rulesChange{}, nil
		}
		delete(r.defines, old.Key)
		return rulesChange{client: client, dropped: []proto.SegmentKey{old.Key}}, g.Undefine(id, proto.SegmentKey(seq))
	case *pb.Control_EraseClient:
		return r.end(proto.ClientID(body.EraseClient.Client), proto.SegmentKey(seq)), nil
	}
	return rulesChange{}, nil // clients and keys are the node's affair
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

// restore obeys the definitions in force, given by sequence. A rule may refer
// to a segment that was replaced after it, so those referred to come first.
func (r *laneRules) restore(records map[uint64]*pb.Control) error {
	byName := map[defined]uint64{}
	for seq, c := range records {
		d := c.GetDefine()
		if d == nil {
			return proto.Errorf(proto.CodeCorrupt, "the record of definition %d is not one", seq)
		}
		byName[defined{proto.ClientID(d.Client), proto.SegmentID(d.Id)}] = seq
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
		for _, id := range def.Rule.Refers() {
			if err := visit(byName[defined{proto.ClientID(d.Client), id}]); err != nil {
				return err
			}
		}
		_, err = r.apply(seq, records[seq])
		return err
	}
	for _, seq := range slices.Sorted(maps.Keys(records)) {
		if err := visit(seq); err != nil {
			return err
		}
	}
	return nil
}
