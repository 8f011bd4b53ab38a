package graph_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"kith/graph"
	"kith/proto"
)

// TestStories runs testdata/*.txt. A story's commands are:
//
//	town lanes=N edges=N members=N   a new town, with caps
//	event WHO [ago=MS]               something happened; each is another event
//	link WHO WHO [ago=MS] [inferred] [client=N] [unasked]
//	remove WHO WHO                   undo a link
//	withdraw WHO client=N            undo that client's links
//	cut WHO [everywhere] [id=N] · optin WHO [gen=N] · erase WHO
//	refresh WHO                      time passed, rules changed
//	tick                             an entry with no command
//	show WHO...                      what their homes know
//
// "trace" prints the messages, "steps=N" ends the entry after N supersteps and
// leaves the rest to the next one. What a command led to is printed, then the
// users: a name in braces is in that user, "(out)" is opted out.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		s := story{town: newTown(1)}
		datadriven.RunTest(t, path, s.do)
	})
}

type story struct {
	*town
	events  int
	command uint64
}

func (s *story) do(t *testing.T, d *datadriven.TestData) string {
	var who []string
	opts := map[string]int{}
	words := map[string]bool{}
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 1 {
			var n int
			if _, err := fmt.Sscan(a.Vals[0], &n); err != nil {
				d.Fatalf(t, "%s: %v", a.Key, err)
			}
			opts[a.Key] = n
		} else if a.Key == "trace" || a.Key == "everywhere" || a.Key == "inferred" || a.Key == "unasked" {
			words[a.Key] = true
		} else {
			who = append(who, a.Key)
		}
	}
	switch d.Cmd {
	case "town":
		s.found(opts)
		return ""
	case "show":
		var b strings.Builder
		for _, w := range who {
			b.WriteString(s.view(named(w)))
		}
		return b.String()
	}
	return s.tale(t, d, who, opts, words)
}

func (s *story) found(opts map[string]int) {
	s.town = newTown(max(opts["lanes"], 1))
	if n := opts["edges"]; n > 0 {
		s.config.EdgesMax = n
	}
	if n := opts["members"]; n > 0 {
		s.config.MembersMax = n
	}
	if n := opts["links"]; n > 0 {
		s.config.LinksMax = n
	}
}

// tale runs one command and tells what came of it.
func (s *story) tale(t *testing.T, d *datadriven.TestData, who []string, opts map[string]int, words map[string]bool) string {
	s.log.Reset()
	s.trace = words["trace"]
	s.steps = graph.SuperstepsMax
	if n, ok := opts["steps"]; ok {
		s.steps = n
	}
	if d.Cmd == "tick" {
		for l := range s.lanes {
			s.entry(proto.LaneID(l), nil)
		}
		s.settle()
		return s.log.String() + s.users(1)
	}
	m := s.message(t, d, who, opts, words)
	s.send(m)
	return s.log.String() + s.users(m.To.Space)
}

func (s *story) message(t *testing.T, d *datadriven.TestData, who []string, opts map[string]int, words map[string]bool) graph.Message {
	kinds := map[string]graph.Kind{
		"event": graph.Event, "link": graph.Link, "remove": graph.Remove, "withdraw": graph.Withdraw,
		"cut": graph.Cut, "optin": graph.OptIn, "erase": graph.Erase, "refresh": graph.Refresh,
	}
	kind, ok := kinds[d.Cmd]
	if !ok || len(who) == 0 {
		d.Fatalf(t, "unknown command")
	}
	m := graph.Message{Kind: kind, To: named(who[0]), All: words["everywhere"]}
	m.Client = proto.ClientID(opts["client"])
	if ago, ok := opts["ago"]; ok {
		m.Time = s.clock + 1000 - proto.Millis(ago)
	}
	if words["inferred"] {
		m.Method, m.Confidence = graph.Inferred, 700
	}
	if len(who) > 1 {
		m.About = named(who[1]).Hash
	}
	s.command++
	m.Command = s.command
	if n, ok := opts["id"]; ok {
		m.Command = uint64(n) + 1000
	}
	if words["unasked"] {
		m.Command = 0
	}
	switch kind {
	case graph.Event:
		s.events++
		m.Body = eventBody(s.events)
	case graph.OptIn:
		m.ToGen = s.node(m.To).state.Gen
		if n, ok := opts["gen"]; ok {
			m.ToGen = uint32(n)
		}
	}
	return m
}
