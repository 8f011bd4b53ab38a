package engine_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
)

// sizes are a segment's as "day:count" for all of the script's time.
func (s *script) sizes(n *engine.Node, c proto.ClientInfo, id proto.SegmentID, from, to proto.Day) (out []string) {
	s.t.Helper()
	list, err := n.Sizes(c, id, from, to)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range list {
		x := fmt.Sprintf("%s:%d", d.Day, *d.Identities)
		if d.SoFar {
			x += " so far"
		}
		if d.Partitions != nil {
			x += " in part"
		}
		out = append(out, x)
	}
	return out
}

// threeDays is a log in which a segment grows, shrinks by time, and is defined
// anew; a day without a beat in it leaves no size.
func threeDays(t *testing.T) (*script, proto.ClientInfo) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "auto", `count(event.section == "auto", "36h") >= 1`)
	s.beat(0)
	s.events(s.event(acme, "a", "auto"), s.event(acme, "b", "auto"))
	s.beat(23 * time.Hour)
	s.events(s.event(acme, "c", "auto"))
	s.beat(2 * time.Hour) // 01-02 01:00: 01-01 ended with three
	s.events(s.event(acme, "d", "news"))
	s.beat(13 * time.Hour) // a and b leave
	s.beat(11 * time.Hour) // 01-03 01:00: 01-02 ended with one
	s.swap(acme, "auto", s.define(acme, "auto", `count(event.section == "news", "300d") >= 1`))
	s.define(acme, "other", `count(event.section == "auto", "300d") >= 1`)
	s.events(s.event(acme, "e", "news"))
	s.beat(72 * time.Hour) // 01-06 01:00: 01-03 ended with one that is new
	s.beat(time.Hour)
	return s, acme
}

func TestSizesOverTime(t *testing.T) {
	s, acme := threeDays(t)
	st := store.NewMemory()
	n := s.run(st)
	defer closeNode(t, n)
	today := s.now.Day()
	want := []string{"2026-01-01:3", "2026-01-02:1", "2026-01-03:1", "2026-01-06:1 so far"}
	if d := cmp.Diff(want, s.sizes(n, acme, "auto", 0, today)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want[1:2], s.sizes(n, acme, "auto", scriptStart.Day()+1, scriptStart.Day()+1)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"2026-01-03:0", "2026-01-06:1 so far"}, s.sizes(n, acme, "other", 0, today)); d != "" {
		t.Error(d)
	}
	if _, err := n.Sizes(acme, "never", 0, today); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("sizes of what never was: %v", err)
	}
	other := acme
	other.ID++
	if _, err := n.Sizes(other, "auto", 0, today); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("sizes of another client's: %v", err)
	}
}

// Sizes are what the log says: however it is cut into commits, and with restarts
// between, the state is the same.
func TestSizesAreTheLogs(t *testing.T) {
	s, _ := threeDays(t)
	whole := s.apply(store.NewMemory())
	s.lump = func() int { return 1 }
	st := store.NewMemory()
	pieces := s.apply(st)
	if whole.Lanes[0].StateHash != pieces.Lanes[0].StateHash {
		t.Error("applied one by one the state differs")
	}
	s.beat(24 * time.Hour)
	s.beat(time.Minute)
	again := s.apply(st) // goes on after a restart
	s.lump = nil
	if anew := s.apply(store.NewMemory()); anew.Lanes[0].StateHash != again.Lanes[0].StateHash {
		t.Error("after a restart the state differs")
	}
}

// What came a moment before midnight is in, though it is not committed yet.
func TestSizesAtMidnight(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "auto", `count(event.section == "auto", "300d") >= 1`)
	s.beat(0)
	s.beat(24*time.Hour - 10*time.Second)
	for i := range 5 {
		s.events(s.event(acme, fmt.Sprint("v", i), "auto"))
	}
	s.beat(20 * time.Second)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	if got := s.sizes(n, acme, "auto", 0, scriptStart.Day()); len(got) != 1 || got[0] != "2026-01-01:5" {
		t.Errorf("%v", got)
	}
}

// Sizes are kept for five years.
func TestSizesAreBounded(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "auto", `count(event.section == "auto", "36h") >= 1`)
	s.beat(0)
	for _, days := range []int{1, 1, 1, 1000, 1000, 1} {
		s.beat(time.Duration(days) * 24 * time.Hour)
	}
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	want := []string{"2028-09-30:0", "2031-06-27:0"}
	if d := cmp.Diff(want, s.sizes(n, acme, "auto", 0, s.now.Day()-1)); d != "" {
		t.Error(d)
	}
}

func TestSizesCodec(t *testing.T) {
	list := []engine.SegmentSize{{Key: 3, Size: 0}, {Key: 4, Size: 1 << 31}, {Key: 1 << 31, Size: 7}}
	b := engine.AppendSizes(nil, list)
	if want := []byte("\x01\x03\x00\x01\x80\x80\x80\x80\x08\xfc\xff\xff\xff\x07\x07"); !bytes.Equal(b, want) {
		t.Errorf("%q is written, want %q", b, want)
	}
	got, err := engine.ReadSizes(b)
	if d := cmp.Diff(list, got); d != "" || err != nil {
		t.Error(d, err)
	}
	moved := []engine.SegmentSize{{Key: 3, Size: 0, Partitions: 64}, {Key: 5, Size: 9, Partitions: 48}}
	b = engine.AppendSizes(nil, moved)
	if want := []byte("\x02\x03\x00\x40\x02\x09\x30"); !bytes.Equal(b, want) {
		t.Errorf("with partitions %q is written, want %q", b, want)
	}
	got, err = engine.ReadSizes(b)
	if d := cmp.Diff(moved, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, bad := range []string{"", "\x03", "\x02\x03\x00", "\x02\x03\x00\x00", "\x02\x03\x00\x41", "\x01\x03", "\x01\x00\x00", "\x01\xff\xff\xff\xff\xff\x01\x00", "\x01\x01\x80"} {
		if _, err := engine.ReadSizes([]byte(bad)); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%q is read: %v", bad, err)
		}
	}
}

func FuzzReadSizes(f *testing.F) {
	f.Add([]byte("\x01\x03\x00\x01\x05"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := engine.ReadSizes(b)
		if err != nil {
			return
		}
		again, err := engine.ReadSizes(engine.AppendSizes(nil, list))
		if d := cmp.Diff(list, again); d != "" || err != nil {
			t.Error(d, err)
		}
	})
}
