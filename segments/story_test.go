package segments_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"kith/proto"
	"kith/segments"
)

// TestStories tells what happens to one visitor. Time starts at midnight and
// moves by wait, and by at=… of an event only for that event.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		s := &story{world: newWorld()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
	})
}

type story struct {
	*world
}

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "define", "check":
		return s.define(d)
	case "undefine":
		s.key++
		if err := s.program.Undefine(proto.SegmentID(d.CmdArgs[0].Key), s.key); err != nil {
			return complaint(err)
		}
		s.update()
	case "event":
		s.event(t, d)
	case "traits":
		var set []proto.Prop
		for _, a := range d.CmdArgs {
			set = append(set, proto.Prop{Key: a.Key, Value: proto.TextOf(strings.Join(a.Vals, ""))})
		}
		s.ev.SetTraits(s.program, s.memory, set, s.now, &s.delta)
	case "wait":
		w, err := segments.ParseWindow(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.now = s.now.Add(w)
		s.ev.Advance(s.program, s.memory, s.now, &s.delta)
	case "members":
		return s.members()
	case "explain":
		return s.explain(proto.SegmentID(d.CmdArgs[0].Key))
	default:
		d.Fatalf(t, "no command %s", d.Cmd)
	}
	return s.told()
}

func (s *story) define(d *datadriven.TestData) string {
	r, err := segments.Compile(strings.TrimSpace(d.Input))
	if err != nil {
		return complaint(err)
	}
	s.key++
	def := segments.Definition{Key: s.key, ID: proto.SegmentID(d.CmdArgs[0].Key), Rule: r}
	if d.Cmd == "check" {
		if err := s.program.Check(def); err != nil {
			return complaint(err)
		}
		return "fine\n"
	}
	if err := s.program.Define(def); err != nil {
		return complaint(err)
	}
	reads := ""
	if len(s.history) > 0 && s.program.NeedsHistory(s.memory) {
		reads = "reads the history\n"
	}
	if s.memory.Version() != 0 {
		s.update()
	}
	return reads + s.told()
}

func (s *story) event(t *testing.T, d *datadriven.TestData) {
	e, at := proto.EventBody{}, s.now
	for _, a := range d.CmdArgs {
		v := strings.Join(a.Vals, "")
		switch a.Key {
		case "name":
			e.Name = v
		case "url":
			e.URL = v
		case "late":
			w, err := segments.ParseWindow(v)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			at = at.Add(-w)
		default:
			e.Props = append(e.Props, proto.Prop{Key: a.Key, Value: proto.TextOf(v)})
		}
	}
	s.history = append(s.history, happened{at, e})
	s.ev.Observe(s.program, s.memory, &e, at, s.now, &s.delta)
}

func complaint(err error) string {
	var e *proto.Error
	errors.As(err, &e)
	return e.Error() + "\n"
}

func (s *story) name(k proto.SegmentKey) string {
	if d, ok := s.program.ByKey(k); ok {
		return string(d.ID)
	}
	return fmt.Sprintf("key %d", k)
}

func (s *story) told() string {
	var b strings.Builder
	for _, k := range s.delta.Left {
		fmt.Fprintf(&b, "left %s\n", s.name(k))
	}
	for _, k := range s.delta.Entered {
		fmt.Fprintf(&b, "entered %s\n", s.name(k))
	}
	s.delta.Reset()
	if b.Len() == 0 {
		return "nothing changed\n"
	}
	return b.String()
}

func clock(m proto.Millis) string { return m.Time().Format("Jan 2 15:04:05.000") }

func (s *story) members() string {
	var b strings.Builder
	for _, ms := range s.memory.Memberships() {
		fmt.Fprintf(&b, "%s:", s.name(ms.Key))
		if ms.In {
			fmt.Fprintf(&b, " in since %s", clock(ms.Since))
		}
		if ms.Next != 0 {
			fmt.Fprintf(&b, " changes %s", clock(ms.Next))
		}
		b.WriteByte('\n')
	}
	if b.Len() == 0 {
		return "none\n"
	}
	return b.String()
}

func (s *story) explain(id proto.SegmentID) string {
	facts, err := s.program.Explain(id, s.memory, s.now)
	if err != nil {
		return complaint(err)
	}
	var b strings.Builder
	for _, f := range facts {
		fmt.Fprintf(&b, "%v: %s is %v", f.Holds, f.Expr, f.Value)
		for _, e := range f.Events {
			fmt.Fprintf(&b, ", %s", e.Format(time.TimeOnly))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
