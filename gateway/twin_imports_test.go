package gateway_test

import (
	"context"
	"slices"
	"strings"

	"kith/proto"
)

// twinImport is an import of the twin: those of whom it took events are known.
type twinImport struct {
	proto.Import
	client proto.ClientID
	rows   map[proto.Identity]bool
}

func (t *twin) importOf(c proto.ClientInfo, number uint64) (*twinImport, error) {
	if i := t.imports[number]; i != nil && i.client == c.ID {
		return i, nil
	}
	return nil, proto.Errorf(proto.CodeNotFound, "no such import")
}

func (t *twin) BeginImport(ctx context.Context, c proto.ClientInfo, x proto.ImportSpec) (proto.Import, error) {
	if err := t.pay(ctx); err != nil {
		return proto.Import{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.Segment == "own" {
		return proto.Import{}, proto.Errorf(proto.CodeConflict, "it has a rule of its own")
	}
	number := uint64(len(t.imports) + 1)
	i := &twinImport{proto.Import{Number: number, Segment: x.Segment, Mode: x.Mode, Scope: x.Scope, State: proto.ImportOpen, Opened: now}, c.ID, map[proto.Identity]bool{}}
	t.imports[number] = i
	return i.Import, nil
}

func (t *twin) AddToImport(ctx context.Context, c proto.ClientInfo, number uint64, b *proto.Batch) (proto.Submitted, error) {
	before := len(t.traits)
	i, err := t.importOf(c, number)
	if err != nil || i.State != proto.ImportOpen {
		return proto.Submitted{}, cmpErr(err, proto.Errorf(proto.CodeConflict, "it takes no rows"))
	}
	r := t.Submit(ctx, b)
	for _, x := range t.traits[before:] {
		if len(x.Set) == 1 && x.Set[0].Key == proto.StagedTrait(number) {
			i.rows[x.Identity] = true
		}
	}
	return r, nil
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (t *twin) CommitImport(_ context.Context, c proto.ClientInfo, number uint64, floor int) (proto.Import, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, err := t.importOf(c, number)
	if err != nil {
		return proto.Import{}, err
	}
	for id := range i.rows {
		i.Identities++
		if _, known := t.members[member{c.ID, id}]; known {
			i.Matched++
		}
	}
	switch i.Floor = floor; {
	case strings.HasPrefix(string(i.Segment), "slow"):
		i.State = proto.ImportSealed
	case i.Matched < uint64(floor):
		i.State = proto.ImportBelow
	default:
		i.State = proto.ImportDone
		if i.Matched >= 2 && i.Identities-i.Matched >= 2 { // a floor for tests
			i.ToldIdentities, i.ToldMatched, i.Rounded = 30, 20, 10
		}
	}
	return i.Import, nil
}

func (t *twin) EndImport(_ context.Context, c proto.ClientInfo, number uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, err := t.importOf(c, number)
	if err == nil && i.State == proto.ImportDone {
		return proto.Errorf(proto.CodeConflict, "it was activated")
	}
	if err == nil && !i.State.Final() {
		i.State, i.Reason = proto.ImportEnded, "it was deleted"
	}
	return err
}

func (t *twin) Imports(c proto.ClientInfo) (list []proto.Import) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.imports {
		if i.client == c.ID {
			list = append(list, i.Import)
		}
	}
	slices.SortFunc(list, func(a, b proto.Import) int { return int(b.Number) - int(a.Number) })
	return list
}
