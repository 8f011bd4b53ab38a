package engine_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// An explanation of a past time tells since when it was so, by what is kept, and when time
// alone would have changed it, whatever came later and whatever came late.
func TestExplainThenSince(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	begin := s.now
	rules := map[proto.SegmentID]string{
		"recent": `count(event.section == "a", "2h") >= 1`,
		"twice":  `count(event.section == "a") >= 2`,
		"never":  `count(event.section == "b") == 0`,
		"named":  `member("recent") && trait("plan") == "gold"`,
	}
	var defined []*pb.Control
	for id, when := range rules {
		defined = append(defined, atOnce(defineRecord(t, acme, string(id), when)))
	}
	user := defineRecord(t, acme, "user", `count(event.section == "a") >= 3`)
	user.GetDefine().Scope = "user"
	s.control(append(defined, atOnce(user))...)
	at := func(hours float64) proto.Millis { return begin.Add(time.Duration(hours * float64(time.Hour))) }
	s.beat(time.Hour) // 1
	s.events(s.event(acme, "v", "a"))
	s.traits(acme, "v", proto.Prop{Key: "plan", Value: proto.TextOf("gold")})
	s.beat(4 * time.Hour) // 5
	s.events(s.event(acme, "v", "a"))
	late := s.event(acme, "v", "a") // that happened when it was two
	late.Time = at(2)
	s.events(late)
	s.beat(time.Hour) // 6
	other := s.event(acme, "w", "a")
	for _, e := range []*proto.Event{s.event(acme, "v", "c"), other} {
		e.Identities = append(e.Identities, "account:one")
		s.events(e)
	}
	s.beat(14 * time.Hour) // 20
	s.events(s.event(acme, "v", "b"))
	s.beat(time.Hour)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	type told struct {
		In               bool
		Entered, Changes float64 // hours; 0: not told
	}
	for _, c := range []struct {
		segment proto.SegmentID
		at      float64
		want    told
	}{
		{"recent", 0.5, told{}},
		{"recent", 1, told{true, 1, 3}},
		{"recent", 2.5, told{true, 1, 4}}, // the late one kept it in
		{"recent", 4.5, told{}},
		{"recent", 5.5, told{true, 5, 7}}, // and not since the first time
		{"recent", 19, told{}},
		{"twice", 1.5, told{}},
		{"twice", 3, told{true, 2, 0}},
		{"twice", 19, told{true, 2, 0}},
		{"never", 3, told{true, 1, 0}}, // since something is known of it
		{"never", 20.5, told{}},
		{"named", 5.5, told{true, 5, 7}},
		{"user", 5, told{true, 5, 0}}, // over what is the user's now
		{"user", 1.5, told{}},
	} {
		x, err := n.Explain(t.Context(), acme, "browser:v", c.segment, at(c.at).Time())
		if err != nil {
			t.Fatal(err)
		}
		hours := func(t *time.Time) float64 {
			if t == nil {
				return 0
			}
			return t.Sub(begin.Time()).Hours()
		}
		if diff := cmp.Diff(c.want, told{x.In, hours(x.Entered), hours(x.Changes)}); diff != "" {
			t.Errorf("%s at %v h (-want +got):\n%s%+v", c.segment, c.at, diff, x)
		}
	}
}
