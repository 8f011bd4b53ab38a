package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
)

// One entry may give the graph more to do than a store's value can carry over to the
// next: the lane goes on, over a restart in between too.
func TestCarriesOverMoreThanAValueTakes(t *testing.T) {
	if testing.Short() {
		t.Skip("links tens of thousands of identities: not in short runs")
	}
	for what, write := range map[string]func(s *script, c proto.ClientInfo){
		"events that name eight identities each": func(s *script, c proto.ClientInfo) {
			var list []*proto.Event
			for i := range 2_000 {
				e := s.event(c, fmt.Sprint("v", i), "x")
				for k := range 7 {
					e.Identities = append(e.Identities, proto.Identity(fmt.Sprintf("browser:v%d-%d", i, k)))
				}
				list = append(list, e)
			}
			s.events(list...)
		},
		"opt-outs everywhere of users of thirty": func(s *script, c proto.ClientInfo) {
			s.crowds(c, 512, 30)
			var b proto.Batch
			for i := range 512 {
				b.AddCut(&proto.CutCommand{Hash: s.hasher.Hash(proto.Identity(fmt.Sprint("browser:v", i))), Kind: proto.CutOptOut, Everywhere: true, Received: s.now, Command: uint64(i + 1)})
			}
			s.own(b.Bytes(), b.Len())
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newScript(t)
			c := s.client("acme", "")
			s.define(c, "any", `count(true) >= 1`)
			s.beat(0)
			write(s, c)
			halves := store.NewMemory()
			s.interrupted(halves) // in the middle of it: nobody beats
			for range 8 {
				s.beat(time.Second)
			}
			a, b := s.apply(halves), s.apply(store.NewMemory())
			if a.Lanes[0] != b.Lanes[0] || a.Identities != b.Identities {
				t.Errorf("with a restart in between %+v, else %+v", a, b)
			}
		})
	}
}

// crowds makes users of so many identities, in as many entries as that takes.
func (s *script) crowds(c proto.ClientInfo, users, size int) {
	for k := 1; k < size; k += 7 {
		var list []*proto.Event
		for i := range users {
			e := s.event(c, fmt.Sprint("v", i), "x")
			for j := k; j < min(k+7, size); j++ {
				e.Identities = append(e.Identities, proto.Identity(fmt.Sprintf("browser:v%d-%d", i, j)))
			}
			list = append(list, e)
		}
		s.events(list...)
		for range 3 {
			s.beat(time.Second)
		}
	}
}

// interrupted applies what the log has, which is not all that the graph has to do, and
// ends.
func (s *script) interrupted(st store.Store) {
	s.t.Helper()
	n, err := engine.NewOver(s.config(), s, st)
	if err != nil {
		s.t.Fatal(err)
	}
	s.node.Store(n)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := n.Start(ctx); proto.CodeOf(err) != proto.CodeTimeout {
		s.t.Errorf("nothing is left to do: %v", err)
	}
	if err := n.Close(); err != nil {
		s.t.Error(err)
	}
}
