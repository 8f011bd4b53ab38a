package proto_test

import (
	"testing"

	"kith/proto"
)

func TestReservedTraits(t *testing.T) {
	for key, want := range map[string]struct {
		reserved bool
		list     proto.SegmentID
		staged   uint64
	}{
		"city": {}, "import": {}, "imported": {}, "Import.x": {},
		"import.crm": {true, "crm", 0}, "import.a.7": {true, "a.7", 0}, "import.": {true, "", 0},
		"import#7": {true, "", 7}, "import#x": {true, "", 0},
		proto.ListTrait("crm"): {true, "crm", 0}, proto.StagedTrait(4711): {true, "", 4711},
	} {
		list, staged := proto.ParseReserved(key)
		if got := proto.ReservedTrait(key); got != want.reserved || list != want.list || staged != want.staged {
			t.Errorf("%q: %v, list %q, import %d, want %+v", key, got, list, staged, want)
		}
	}
}

// A command without a trait that it needs has the bytes that it always had.
func TestTraitsWithoutNeeds(t *testing.T) {
	x := goldenTraits()
	plain := x.Append(nil)
	x.Needs = "import#7"
	needs := x.Append(nil)
	if string(needs[:len(plain)]) != string(plain) {
		t.Error("what a command needs is not behind the rest")
	}
	if got, err := proto.DecodeTraits(needs); err != nil || got.Needs != "import#7" {
		t.Errorf("decoded: %+v, %v", got, err)
	}
	for name, bad := range map[string][]byte{"empty": append(plain[:len(plain):len(plain)], 0), "cut": needs[:len(needs)-1], "longer": append(needs, 1)} {
		if _, err := proto.DecodeTraits(bad); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}
