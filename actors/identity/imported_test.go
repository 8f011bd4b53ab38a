package identity_test

import (
	"testing"

	"kith/actors/identity"
	"kith/proto"
)

// set has a client set a trait; "" removes.
func (w *world) set(c proto.ClientID, key string, v proto.Value) {
	w.t.Helper()
	w.step(&identity.Input{Kind: identity.InputTraits, Client: c, Traits: []proto.Prop{{Key: key, Value: v}}})
}

// An import that names an identity says that it is not idle; that it leaves one, or
// what a client declares, does not. What facts say beside imports is told apart.
func TestImportedIsNotIdle(t *testing.T) {
	w := newWorld(t)
	staged, list, gone := proto.StagedTrait(7), proto.ListTrait("crm"), proto.TextOf("")
	facts := func() *identity.Facts { return w.state.Client(acme) }
	for i, x := range []struct {
		key              string
		value            proto.Value
		seen             bool
		hollow, eventful bool
		other            bool
	}{
		{staged, proto.FlagOf(true), true, false, false, false},
		{"city", proto.TextOf("Bern"), false, false, false, true},
		{list, proto.NumberOf(7), true, false, false, true},
		{"city", gone, false, false, false, false},
		{staged, gone, false, false, false, false},
		{list, gone, false, true, false, false},
	} {
		w.now += minute
		w.set(acme, x.key, x.value)
		f := facts()
		if (f.Last == w.now) != x.seen || f.Hollow() != x.hollow || f.Eventful() != x.eventful || f.KnownOtherwise() != x.other {
			t.Errorf("step %d: seen %v, hollow %v, eventful %v, known otherwise %v, want %+v", i, f.Last == w.now, f.Hollow(), f.Eventful(), f.KnownOtherwise(), x)
		}
	}
	w.now += minute
	w.event(acme, "", w.now, proto.EventBody{Name: "page"})
	if f := facts(); f.Hollow() || !f.Eventful() || !f.KnownOtherwise() {
		t.Errorf("with an event: hollow %v, eventful %v, known otherwise %v", f.Hollow(), f.Eventful(), f.KnownOtherwise())
	}
	if w.state.HasTrait(zeta, list) || w.state.HasTrait(acme, list) {
		t.Error("it has a trait that nobody set")
	}
}
