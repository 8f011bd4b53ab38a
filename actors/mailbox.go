package actors

import (
	"sync"

	"github.com/asynkron/protoactor-go/actor"
)

// slotMailbox is a mailbox for an actor that is sent one message at a time
// and runs on its sender's goroutine: no ring, no lock-free queue, about a
// hundred bytes. It keeps protoactor's semantics in full: system messages
// first, a suspended mailbox takes system messages only, a message posted
// while one runs is run after it.
type slotMailbox struct {
	invoker    actor.MessageInvoker
	dispatcher actor.Dispatcher

	mu        sync.Mutex
	user      any   // the slot
	rest      []any // user messages beyond the slot; rare
	system    []any
	running   bool
	suspended bool
	runs      func() // run, made once: a method value costs an allocation
}

func newSlotMailbox() actor.Mailbox {
	m := &slotMailbox{}
	m.runs = m.run
	return m
}

// PostUserMessage implements actor.Mailbox.
func (m *slotMailbox) PostUserMessage(message any) {
	m.mu.Lock()
	if m.user == nil && len(m.rest) == 0 {
		m.user = message
	} else {
		m.rest = append(m.rest, message)
	}
	m.schedule()
}

// PostSystemMessage implements actor.Mailbox.
func (m *slotMailbox) PostSystemMessage(message any) {
	m.mu.Lock()
	m.system = append(m.system, message)
	m.schedule()
}

// schedule starts a run if none is under way and there is something to run.
// It is called with m.mu held and releases it.
func (m *slotMailbox) schedule() {
	start := !m.running && m.invoker != nil && (len(m.system) > 0 || !m.suspended && m.user != nil)
	if start {
		m.running = true
	}
	m.mu.Unlock()
	if start {
		m.dispatcher.Schedule(m.runs)
	}
}

// RegisterHandlers implements actor.Mailbox.
func (m *slotMailbox) RegisterHandlers(invoker actor.MessageInvoker, dispatcher actor.Dispatcher) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.invoker, m.dispatcher = invoker, dispatcher
}

// Start implements actor.Mailbox: what was posted before runs now.
func (m *slotMailbox) Start() {
	m.mu.Lock()
	m.schedule()
}

// UserMessageCount implements actor.Mailbox.
func (m *slotMailbox) UserMessageCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.rest)
	if m.user != nil {
		n++
	}
	return n
}

func (m *slotMailbox) run() {
	for m.step() {
	}
}

// step runs messages until none is left, or until one panicked: then the
// failure is escalated and step must be called again.
func (m *slotMailbox) step() (again bool) {
	var message any
	defer func() {
		if r := recover(); r != nil {
			m.invoker.EscalateFailure(r, message)
			again = true
		}
	}()
	for {
		next, system := m.pop()
		if message = next; message == nil {
			return false
		}
		if !system {
			m.invoker.InvokeUserMessage(message)
			continue
		}
		switch message.(type) {
		case *actor.SuspendMailbox:
			m.suspend(true)
		case *actor.ResumeMailbox:
			m.suspend(false)
		default:
			m.invoker.InvokeSystemMessage(message)
		}
	}
}

func (m *slotMailbox) suspend(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.suspended = on
}

// pop takes the next message; with none left it ends the run.
func (m *slotMailbox) pop() (message any, system bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.system) > 0 {
		message = m.system[0]
		m.system[0] = nil
		if m.system = m.system[1:]; len(m.system) == 0 {
			m.system = nil
		}
		return message, true
	}
	if m.suspended || m.user == nil {
		m.running = false
		return nil, false
	}
	message, m.user = m.user, nil
	if len(m.rest) > 0 {
		m.user = m.rest[0]
		m.rest[0] = nil
		if m.rest = m.rest[1:]; len(m.rest) == 0 {
			m.rest = nil
		}
	}
	return message, false
}
