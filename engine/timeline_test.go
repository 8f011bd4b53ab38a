package engine_test

import (
	"strings"
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
	var defined []*pb.Control
	for _, x := range [][2]string{
		{"recent", `count(event.section == "a", "2h") >= 1`},
		{"twice", `count(event.section == "a") >= 2`},
		{"never", `count(event.section == "b") == 0`},
		{"named", `member("recent") && trait("plan") == "gold"`},
	} {
		defined = append(defined, atOnce(defineRecord(t, acme, x[0], x[1])))
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

// Where since when would rest on what may have expired, or on which identity of a user is
// asked about, it is not told, and that is.
func TestExplainThenSinceUnknown(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	s.control(&pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{Client: uint32(acme.ID), SessionsMs: 10 * 86_400_000}}})
	daily := atOnce(defineRecord(t, acme, "daily", `count(event.section == "a", "3d") >= 1`))
	gold := defineRecord(t, acme, "gold", `trait("plan") == "gold" || count(event.section == "a", "3d") >= 1`)
	gold.GetDefine().Scope = "user"
	s.control(daily, atOnce(gold))
	for _, plan := range []string{"free", "gold"} {
		s.traits(acme, plan, proto.Prop{Key: "plan", Value: proto.TextOf(plan)})
		e := s.event(acme, plan, "c")
		e.Identities = append(e.Identities, "account:one")
		s.events(e)
	}
	for day := range 30 {
		s.beat(24 * time.Hour)
		s.events(s.event(acme, "v", "a"))
		if day >= 25 {
			s.events(s.event(acme, "w", "a"))
		}
	}
	s.beat(time.Hour)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	then := s.now.Time().Add(-30 * time.Minute)
	for _, c := range []struct {
		visitor string
		segment proto.SegmentID
		entered bool
		note    string
	}{
		{"w", "daily", true, ""},
		{"v", "daily", false, "may rest on events from before"},
		{"free", "gold", false, "different values of a trait"},
		{"gold", "gold", false, "different values of a trait"},
	} {
		x, err := n.Explain(t.Context(), acme, proto.Identity("browser:"+c.visitor), c.segment, then)
		notes := strings.Join(x.Notes, "; ")
		if err != nil || !x.In || (x.Entered != nil) != c.entered || !strings.Contains(notes, c.note) || c.note == "" && notes != "" {
			t.Errorf("%s in %s: %+v, %v", c.visitor, c.segment, x, err)
		}
	}
}
