package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// This file takes a client's own lists in. What an import has come to is in the
// control stream; who is on it are traits (proto.StagedTrait, proto.ListTrait),
// set and removed by commands in the lanes' logs, so that opt-outs, erasures and
// retention take them along. An import's rows stand for nothing until it is
// committed: then the node counts what they match, and if those are
// enough turns them into the list's (importwork.go). The list's segment is an
// ordinary one, whose rule looks at the list's trait.

// importWait bounds how long a commit waits for what becomes of it.
const importWait = 10 * time.Second

// BeginImport opens an import and returns when that is durable.
func (n *Node) BeginImport(ctx context.Context, client proto.ClientInfo, x proto.ImportSpec) (proto.Import, error) {
	if len(x.Segment) > proto.ImportSegmentBytesMax {
		return proto.Import{}, proto.Errorf(proto.CodeSegment, "the id of an imported segment has at most %d bytes", proto.ImportSegmentBytesMax)
	}
	if _, err := segments.ParseScope(x.Scope); err != nil {
		return proto.Import{}, err
	}
	n.staging.Lock() // an older import of the segment may end by it
	defer n.staging.Unlock()
	seq, err := n.registry.proposeFor(ctx, client.ID, func() (*pb.Control, error) {
		r := n.registry
		if !r.living(client) {
			return nil, errNoClient(client.Name)
		}
		var spec *proto.SegmentSpec
		if s, ok := r.specs[client.ID][x.Segment]; ok {
			spec = &s
		} else if err := n.roomForSegment(client); err != nil {
			return nil, err
		}
		if err := r.imports(client.ID).checkOpen(x, proto.DayOf(n.config.Now()), spec); err != nil {
			return nil, err
		}
		return importRecord(client.ID, 0, proto.ImportOpen, func(p *pb.Import) {
			p.Segment, p.Mode, p.Scope = string(x.Segment), string(x.Mode), x.Scope
		}), nil
	})
	if err != nil {
		return proto.Import{}, err
	}
	return n.importOf(client, seq)
}

// importRecord is a record about an import.
func importRecord(c proto.ClientID, number uint64, state proto.ImportState, fill func(*pb.Import)) *pb.Control {
	x := &pb.Import{Client: uint32(c), Number: number, State: uint32(state)}
	if fill != nil {
		fill(x)
	}
	return &pb.Control{Body: &pb.Control_Import{Import: x}}
}

func errNoImport(number uint64) error {
	return proto.Errorf(proto.CodeNotFound, "there is no import %d: GET /v1/imports (`kith import list`) lists them", number)
}

func errGivenUp(i *proto.Import) error {
	return proto.Errorf(proto.CodeConflict, "import %d was given up: %s", i.Number, cmp.Or(i.Reason, "it was deleted"))
}

// importOf is what is known of an import.
func (n *Node) importOf(client proto.ClientInfo, number uint64) (out proto.Import, err error) {
	err = errNoImport(number)
	n.registry.withImports(client.ID, func(b *importBook) {
		if i := b.imports[number]; i != nil {
			out, err = *i, nil
		}
	})
	return out, err
}

// Imports are a client's, newest first; those that came to their end for a
// while only.
func (n *Node) Imports(client proto.ClientInfo) (list []proto.Import) {
	n.registry.withImports(client.ID, func(b *importBook) {
		for _, i := range b.imports {
			list = append(list, *i)
		}
	})
	slices.SortFunc(list, func(a, b proto.Import) int { return cmp.Compare(b.Number, a.Number) })
	return list
}

// AddToImport makes rows of an import durable, which are traits' commands for
// proto.StagedTrait. An import that takes none any more is CodeConflict.
func (n *Node) AddToImport(ctx context.Context, client proto.ClientInfo, number uint64, b *proto.Batch) (proto.Submitted, error) {
	n.staging.RLock() // what is taken here is in the log before a commit's record
	defer n.staging.RUnlock()
	i, err := n.importOf(client, number)
	switch {
	case err != nil:
		return proto.Submitted{}, err
	case i.State == proto.ImportEnded:
		return proto.Submitted{}, errGivenUp(&i)
	case i.State != proto.ImportOpen:
		return proto.Submitted{}, proto.Errorf(proto.CodeConflict, "import %d was committed: begin another one", number)
	}
	return n.Submit(ctx, b), nil
}

// CommitImport ends the taking of rows and has the import judged: floor is how
// many people its list must come to. It returns with what became of it, or with
// how far that is if it takes longer. Of one that was committed it says that.
func (n *Node) CommitImport(ctx context.Context, client proto.ClientInfo, number uint64, floor int) (proto.Import, error) {
	if err := n.sealImport(ctx, client, number, floor); err != nil {
		return proto.Import{}, err
	}
	limit, cancel := context.WithTimeout(ctx, importWait)
	defer cancel()
	var i proto.Import
	err := await(limit, "", func() (bool, <-chan struct{}, error) {
		n.registry.mu.Lock()
		defer n.registry.mu.Unlock()
		x := n.registry.imports(client.ID).imports[number]
		if x == nil { // its client was ended
			return false, n.registry.changed, errNoImport(number)
		}
		i = *x
		return i.State.Final(), n.registry.changed, n.registry.fault
	})
	if proto.CodeOf(err) == proto.CodeTimeout {
		err = nil
	}
	return i, err
}

func (n *Node) sealImport(ctx context.Context, client proto.ClientInfo, number uint64, floor int) error {
	n.swapping.Lock() // not between a backup's store and its control records
	defer n.swapping.Unlock()
	n.staging.Lock()
	defer n.staging.Unlock()
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		i := n.registry.imports(client.ID).imports[number]
		switch {
		case i == nil:
			return nil, errNoImport(number)
		case i.State == proto.ImportEnded:
			return nil, errGivenUp(i)
		case i.State != proto.ImportOpen:
			return nil, nil
		}
		return importRecord(client.ID, number, proto.ImportSealed, func(x *pb.Import) { x.Floor = uint32(max(floor, 0)) }), nil
	})
	return err
}

// EndImport gives an import up that was not committed. Of one that ended without an
// effect it is true already; one that took effect is CodeConflict.
func (n *Node) EndImport(ctx context.Context, client proto.ClientInfo, number uint64) error {
	n.staging.Lock()
	defer n.staging.Unlock()
	return n.endImport(ctx, client.ID, number, proto.ImportOpen, "it was deleted")
}

// endImport gives an import up that is in a state. One that came to its end without
// an effect stays as it is.
func (n *Node) endImport(ctx context.Context, client proto.ClientID, number uint64, in proto.ImportState, reason string) error {
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		i := n.registry.imports(client).imports[number]
		switch {
		case i == nil:
			return nil, errNoImport(number)
		case i.State == proto.ImportDone:
			return nil, proto.Errorf(proto.CodeConflict, "import %d was activated: delete segment %q, or import the list anew", number, i.Segment)
		case i.State.Final():
			return nil, nil
		case i.State != in:
			return nil, proto.Errorf(proto.CodeConflict, "import %d was committed, and goes on by itself", number)
		}
		return importRecord(client, number, proto.ImportEnded, func(x *pb.Import) { x.Reason = reason }), nil
	})
	return err
}

// checkImported says whether a client may define a segment by a rule of its own.
// The registry's lock is held.
func (r *registry) checkImported(c proto.ClientID, id proto.SegmentID, rule *segments.Rule) error {
	if err := rule.CheckTraits(); err != nil {
		return err
	}
	b := r.imports(c)
	switch {
	case b.lists[id] != nil:
		return proto.Errorf(proto.CodeConflict, "segment %q is an imported list: delete it first, or choose another id", id)
	case b.underWay(id, true) != nil:
		return proto.Errorf(proto.CodeConflict, "segment %q is being imported: wait for it, or choose another id", id)
	}
	return nil
}

// listRule is the rule of a list's segment: marks of older lists that had its
// name are no longer true.
func listRule(id proto.SegmentID, number uint64) string {
	return fmt.Sprintf("trait(%q) >= %d", proto.ListTrait(id), number)
}

// withImports calls fn with a client's book, which must not be kept.
func (r *registry) withImports(c proto.ClientID, fn func(*importBook)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r.imports(c))
}
