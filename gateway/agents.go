package gateway

import (
	"container/list"
	"strings"
	"sync"
)

const (
	// agentBytesMax is how much of a user agent is read.
	agentBytesMax = 512
	// agentsMax bounds the user agents that are remembered, of agentBytesMax each.
	agentsMax = 4096
)

// agents remembers what was read of the user agents that came last. It is the
// only place in which a user agent outlives its request, and it is in memory.
type agents struct {
	mu    sync.Mutex
	known map[string]*list.Element // guarded by mu; of knownAgent
	order list.List                // guarded by mu; the one asked for last is first
}

type knownAgent struct {
	text string
	agent
}

// read is readAgent, from memory where it can be. text need not outlive the call.
func (x *agents) read(text string) agent {
	if text == "" {
		return agent{}
	}
	text = text[:min(len(text), agentBytesMax)]
	if a, ok := x.recall(text); ok {
		return a
	}
	a := readAgent(text)
	x.remember(knownAgent{strings.Clone(text), a})
	return a
}

func (x *agents) recall(text string) (agent, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.known[text]
	if e == nil {
		return agent{}, false
	}
	x.order.MoveToFront(e)
	return e.Value.(*knownAgent).agent, true
}

func (x *agents) remember(a knownAgent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.known[a.text] != nil { // another request was faster
		return
	}
	if x.known == nil {
		x.known = map[string]*list.Element{}
	}
	if len(x.known) < agentsMax {
		x.known[a.text] = x.order.PushFront(&a)
		return
	}
	e := x.order.Back()
	delete(x.known, e.Value.(*knownAgent).text)
	*e.Value.(*knownAgent) = a
	x.order.MoveToFront(e)
	x.known[a.text] = e
}
