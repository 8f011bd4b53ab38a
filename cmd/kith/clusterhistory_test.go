package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What a cluster promises of one identity, as a model for a checker of
// linearizability. Writes (events, opt-outs, opt-ins) have one order. Each node
// shows what some beginning of it comes to, and never goes back. An answer says
// how far nodes are: a receipt or an opt-in that all have come to it, an opt-out
// that is not final yet (202) that the answering node has, a position only
// those that are asked for it. Before that some nodes may show a write and others not.

// shown is what a look-up says of an identity.
type shown byte

const (
	isStranger shown = 1 << iota
	isKnown
	isOut
)

func (s shown) String() string {
	var list []string
	for i, name := range []string{"stranger", "known", "opted out"} {
		if s&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, " or ")
}

// deed is what a write asks for.
type deed byte

const (
	toVisit deed = iota
	toOptOut
	toOptIn
)

func (d deed) String() string { return [...]string{"visit", "opt-out", "opt-in"}[d] }

// after is what an identity is shown as once d was done to it.
func (d deed) after(s shown) shown {
	switch {
	case d == toOptOut:
		return isOut
	case d == toVisit && s == isStranger:
		return isKnown
	case d == toOptIn && s == isOut:
		return isStranger
	}
	return s
}

// writeID numbers the writes of one identity that had a definite answer, from
// 1. Nothing refers to others: they are 0.
type writeID byte

// writesMax bounds the numbered writes of an identity.
const writesMax = 63

type stepKind byte

const (
	stepWrite stepKind = iota // the write takes its place in the order
	stepSeen                  // a node, or all, have come to the write
	stepRead                  // a node shows something
)

// nodesAll stands for all nodes.
const nodesAll = -1

// historyStep is one step of the model: a request makes one or two, all within
// the time from its call to its answer.
type historyStep struct {
	kind  stepKind
	deed  deed
	write writeID // of stepRead: the position that was asked for, 0 if none
	node  int
	shows shown // of stepRead: one of them
	final bool  // of stepRead: and the node said that the opt-out is final
	loose bool  // of a visit: it may be too close to an opt-in to be kept
}

func (s historyStep) String() string {
	switch s.kind {
	case stepWrite:
		if s.loose {
			return fmt.Sprintf("%s %d, perhaps dropped", s.deed, s.write)
		}
		return fmt.Sprintf("%s %d", s.deed, s.write)
	case stepSeen:
		if s.node == nodesAll {
			return fmt.Sprintf("all nodes have seen %d", s.write)
		}
		return fmt.Sprintf("node %d has seen %d", s.node+1, s.write)
	}
	text := fmt.Sprintf("node %d shows %s", s.node+1, s.shows)
	if s.write > 0 {
		text += fmt.Sprintf(" after %d", s.write)
	}
	if s.final {
		text += ", final"
	}
	return text
}

// historyState is the order of writes so far. What all nodes have seen is left
// out of it, so that equal states are equal.
type historyState struct {
	done uint64 // numbered writes that have their place
	base shown
	tail string // after base: two bytes for each write, its number and what it comes to
	at   [3]uint8
}

func (s historyState) len() int { return len(s.tail) / 2 }

// value is what is shown after i writes of the tail.
func (s historyState) value(i int) shown {
	if i == 0 {
		return s.base
	}
	return shown(s.tail[2*i-1])
}

// index is how many writes of the tail a node has seen that has seen w.
func (s historyState) index(w writeID) int {
	for i := range s.len() {
		if writeID(s.tail[2*i]) == w {
			return i + 1
		}
	}
	return 0 // all have
}

func (s historyState) has(w writeID) bool { return s.done&(1<<w) != 0 }

func (s *historyState) reach(node, i int) {
	for k := range s.at {
		if node == nodesAll || node == k {
			s.at[k] = max(s.at[k], uint8(i))
		}
	}
}

// trim leaves out what all nodes have seen.
func (s historyState) trim() historyState {
	if least := slices.Min(s.at[:]); least > 0 {
		s.base = s.value(int(least))
		s.tail = s.tail[2*least:]
		for k := range s.at {
			s.at[k] -= least
		}
	}
	return s
}

// step gives the states that may follow, none if the step cannot be the next.
func (s historyState) step(x historyStep) []historyState {
	switch x.kind {
	case stepWrite:
		before := s.value(s.len())
		if x.write > 0 && x.deed == toOptIn && before != isOut {
			return nil // it was answered as done
		}
		list := []historyState{s.put(x.write, x.deed.after(before))}
		if x.loose && before == isStranger {
			list = append(list, s.put(x.write, before))
		}
		return list
	case stepSeen:
		if !s.has(x.write) {
			return nil
		}
		s.reach(x.node, s.index(x.write))
		return []historyState{s.trim()}
	}
	if x.write > 0 {
		if !s.has(x.write) {
			return nil
		}
		s.reach(x.node, s.index(x.write))
	}
	// A node is taken to be as far back as what it shows allows: whatever it may
	// show from further on it may show from there.
	for i := int(s.at[x.node]); i <= s.len(); i++ {
		if s.value(i)&x.shows == 0 {
			continue
		}
		s.reach(x.node, i)
		if x.final {
			s.reach(nodesAll, i)
		}
		return []historyState{s.trim()}
	}
	return nil
}

// put adds a write that comes to a value. One to which nothing refers and that
// changes nothing is left out.
func (s historyState) put(w writeID, value shown) historyState {
	if w == 0 && value == s.value(s.len()) {
		return s
	}
	if w > 0 {
		s.done |= 1 << w
	}
	s.tail += string([]byte{byte(w), byte(value)})
	return s.trim()
}

// historyModel is of one identity.
var historyModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{historyState{base: isStranger}} },
	Step: func(state, input, _ any) (list []any) {
		for _, s := range state.(historyState).step(input.(historyStep)) {
			list = append(list, s)
		}
		return list
	},
}).ToModel()

// history is what was asked and answered of one identity.
type history struct {
	id string

	mu     sync.Mutex
	list   []porcupine.Operation
	writes writeID
	visits []acknowledged
	unsure int // writes without a definite answer
}

// acknowledged is a write with the position that its answer named.
type acknowledged struct {
	write    writeID
	position string
}

// openEnd is when a request without answer ends: it may take effect at any time.
const openEnd = int64(1) << 62

func (h *history) add(began, ended time.Duration, steps ...historyStep) {
	for _, s := range steps {
		h.list = append(h.list, porcupine.Operation{Input: s, Call: int64(began), Return: int64(ended)})
	}
}

// read notes what a node showed.
func (h *history) read(began, ended time.Duration, node int, after writeID, shows shown, final bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(began, ended, historyStep{kind: stepRead, node: node, write: after, shows: shows, final: final})
}

// wrote notes a write that took effect; seen tells which nodes have come to it.
func (h *history) wrote(began, ended time.Duration, d deed, position string, seen ...int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.writes == writesMax {
		h.add(began, time.Duration(openEnd), historyStep{kind: stepWrite, deed: d}) // less than is known
		return
	}
	h.writes++
	h.add(began, ended, historyStep{kind: stepWrite, deed: d, write: h.writes})
	for _, node := range seen {
		h.add(began, ended, historyStep{kind: stepSeen, node: node, write: h.writes})
	}
	if position != "" {
		h.visits = append(h.visits, acknowledged{h.writes, position})
	}
}

// mayHave notes a write of which nobody knows whether it takes effect.
func (h *history) mayHave(began time.Duration, d deed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unsure++
	h.add(began, time.Duration(openEnd), historyStep{kind: stepWrite, deed: d})
}

// newest is an acknowledged event with its position, if there is one.
func (h *history) newest() acknowledged {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.visits) == 0 {
		return acknowledged{}
	}
	return h.visits[len(h.visits)-1]
}

const (
	stepsMax  = 600 // of one identity; the checker's time grows with it
	unsureMax = 3   // each doubles what the checker must try
)

// full reports whether another identity should take this one's place.
func (h *history) full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.list) >= stepsMax || h.unsure >= unsureMax || h.writes > writesMax-32
}

// checkMax bounds the search for an order of one identity's steps.
const checkMax = time.Minute

// check fails the test if no order of the steps explains all answers.
func (h *history) check(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loosen()
	result, info := porcupine.CheckOperationsVerbose(historyModel, h.list, checkMax)
	switch result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Errorf("%s: whether its %d steps can be explained was not found out within %v", h.id, len(h.list), checkMax)
	default:
		t.Errorf("%s: no order of requests explains the answers:\n%s", h.id, h.tale(info))
	}
}

// fence is how much newer than an opt-in an event must be to be kept: twice
// 250 ms, and something for a slow machine.
const fence = 700 * time.Millisecond

// loosen marks the events that an opt-in may have had dropped.
func (h *history) loosen() {
	for i := range h.list {
		v := h.list[i].Input.(historyStep)
		if v.kind != stepWrite || v.deed != toVisit {
			continue
		}
		for _, o := range h.list {
			if s := o.Input.(historyStep); s.kind == stepWrite && s.deed == toOptIn && o.Call <= h.list[i].Return && h.list[i].Call <= o.Return+int64(fence) {
				v.loose = true
			}
		}
		h.list[i].Input = v
	}
}

// tale is the history around the first step that no order explains.
func (h *history) tale(info porcupine.LinearizationInfo) string {
	explained := 0
	for _, list := range info.PartialLinearizations()[0] {
		explained = max(explained, len(list))
	}
	list := slices.Clone(h.list)
	slices.SortStableFunc(list, func(a, b porcupine.Operation) int { return int(a.Return - b.Return) })
	var b strings.Builder
	fmt.Fprintf(&b, "\t%d of %d steps can be put in order; writes, and other steps near the end of those:\n", explained, len(list))
	for i, o := range list {
		s := o.Input.(historyStep)
		if s.kind == stepRead && (i < explained-25 || i > explained+25) {
			continue
		}
		ended := "no answer"
		if o.Return < openEnd {
			ended = fmt.Sprintf("%8.3f", time.Duration(o.Return).Seconds())
		}
		fmt.Fprintf(&b, "\t%8.3f to %s  %s\n", time.Duration(o.Call).Seconds(), ended, s)
	}
	return b.String()
}

// What the model allows and what not: the tests of clusters are worth no more
// than it is.
func TestHistoryModel(t *testing.T) {
	type request struct {
		began, ended int64
		steps        []historyStep
	}
	write := func(began, ended int64, d deed, id writeID, seen ...int) request {
		r := request{began, ended, []historyStep{{kind: stepWrite, deed: d, write: id}}}
		for _, node := range seen {
			r.steps = append(r.steps, historyStep{kind: stepSeen, node: node, write: id})
		}
		return r
	}
	read := func(began, ended int64, node int, shows shown, after writeID) request {
		return request{began, ended, []historyStep{{kind: stepRead, node: node, shows: shows, write: after}}}
	}
	final := func(began, ended int64, node int) request {
		return request{began, ended, []historyStep{{kind: stepRead, node: node, shows: isOut, final: true}}}
	}
	visited := write(0, 1, toVisit, 1)
	for _, x := range []struct {
		name string
		list []request
		want bool
	}{
		{"an event is seen later elsewhere", []request{visited, read(2, 3, 0, isKnown, 0), read(4, 5, 1, isStranger, 0), read(6, 7, 1, isKnown, 0)}, true},
		{"a node goes back", []request{visited, read(2, 3, 0, isKnown, 0), read(4, 5, 0, isStranger, 0)}, false},
		{"by position it is seen at once", []request{visited, read(2, 3, 1, isKnown, 1)}, true},
		{"a node answers without what the position holds", []request{visited, read(2, 3, 1, isStranger, 1)}, false},
		{"out before anybody asked for it", []request{visited, read(2, 3, 0, isOut, 0), write(4, 5, toOptOut, 2, nodesAll)}, false},
		{"final, and shown elsewhere", []request{visited, write(2, 3, toOptOut, 2, nodesAll), read(4, 5, 1, isKnown, 0)}, false},
		{"final, and shown by what was asked before", []request{visited, write(2, 6, toOptOut, 2, nodesAll), read(5, 8, 1, isKnown, 0)}, true},
		{"under way, and shown at one node only", []request{visited, write(2, 9, toOptOut, 2, nodesAll), read(3, 4, 0, isOut, 0), read(5, 6, 1, isKnown, 0)}, true},
		{"not final, and shown elsewhere", []request{visited, write(2, 3, toOptOut, 2, 0), read(4, 5, 1, isKnown, 0)}, true},
		{"not final, and shown where it was asked for", []request{visited, write(2, 3, toOptOut, 2, 0), read(4, 5, 0, isKnown, 0)}, false},
		{"final by its status, and shown elsewhere", []request{visited, write(2, 3, toOptOut, 2, 0), final(4, 5, 2), read(6, 7, 1, isKnown, 0)}, false},
		{"final before anybody asked for it", []request{visited, final(2, 3, 2)}, false},
		{"in again, and out elsewhere", []request{write(0, 1, toOptOut, 1, nodesAll), write(2, 3, toOptIn, 2, nodesAll), read(4, 5, 1, isOut, 0)}, false},
		{"in again without having been out", []request{visited, write(2, 3, toOptIn, 2, nodesAll)}, false},
		{"in again, and still known", []request{visited, write(2, 3, toOptOut, 2, nodesAll), write(4, 5, toOptIn, 3, nodesAll), read(6, 7, 1, isKnown, 0)}, false},
		{"an event of who is out is not kept", []request{write(0, 1, toOptOut, 1, nodesAll), write(2, 3, toVisit, 2), read(4, 5, 1, isOut, 2)}, true},
		{"an event of who is out is kept", []request{write(0, 1, toOptOut, 1, nodesAll), write(2, 3, toVisit, 2), read(4, 5, 1, isKnown, 2)}, false},
		{"no answer, and done late", []request{visited, write(2, openEnd, toOptOut, 0), read(4, 5, 0, isKnown, 0), read(6, 7, 1, isOut, 0)}, true},
		{"no answer, and never done", []request{visited, write(2, openEnd, toOptOut, 0), read(4, 5, 0, isKnown, 0)}, true},
		{"no answer, and undone by itself", []request{visited, write(2, openEnd, toOptOut, 0), read(4, 5, 0, isOut, 0), read(6, 7, 0, isKnown, 0)}, false},
		{"no answer to an opt-in, and out afterwards", []request{write(0, 1, toOptOut, 1, nodesAll), write(2, openEnd, toOptIn, 0), read(4, 5, 0, isStranger, 0), read(6, 7, 1, isOut, 0), write(8, 9, toOptOut, 2, nodesAll), read(10, 11, 2, isStranger, 0)}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			var h history
			for _, r := range x.list {
				h.add(time.Duration(r.began), time.Duration(r.ended), r.steps...)
			}
			if got := porcupine.CheckOperations(historyModel, h.list); got != x.want {
				t.Errorf("the model allows it: %v, want %v", got, x.want)
			}
		})
	}
}
