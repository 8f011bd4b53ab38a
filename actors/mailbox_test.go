package actors_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/google/go-cmp/cmp"

	"kith/actors"
)

// recorder is what a mailbox invokes.
type recorder struct {
	mu     sync.Mutex
	got    []any
	fails  []any
	during func(m any) // in the run
}

func (r *recorder) note(m any) {
	r.mu.Lock()
	r.got = append(r.got, m)
	during := r.during
	r.mu.Unlock()
	if during != nil {
		during(m)
	}
}

func (r *recorder) InvokeSystemMessage(m any) { r.note(m) }
func (r *recorder) InvokeUserMessage(m any)   { r.note(m) }

func (r *recorder) EscalateFailure(reason, m any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fails = append(r.fails, m)
}

func (r *recorder) want(t *testing.T, what string, want ...any) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func mailbox(d actor.Dispatcher) (actor.Mailbox, *recorder) {
	m, r := actors.NewSlotMailbox(), &recorder{}
	m.RegisterHandlers(r, d)
	return m, r
}

// later runs what was scheduled when it is told to.
type later struct{ fns []func() }

func (l *later) Schedule(fn func()) { l.fns = append(l.fns, fn) }
func (l *later) Throughput() int    { return 1 }

func (l *later) run() {
	fns := l.fns
	l.fns = nil
	for _, fn := range fns {
		fn()
	}
}

func TestMailboxSystemFirst(t *testing.T) {
	l := &later{}
	m, r := mailbox(l)
	m.PostUserMessage("u1")
	m.PostUserMessage("u2")
	m.PostSystemMessage("s1")
	m.PostUserMessage("u3")
	m.PostSystemMessage("s2")
	if n := m.UserMessageCount(); n != 3 {
		t.Errorf("%d user messages wait, want 3", n)
	}
	if len(l.fns) != 1 {
		t.Fatalf("%d runs are scheduled, want one", len(l.fns))
	}
	l.run()
	r.want(t, "order", "s1", "s2", "u1", "u2", "u3")
	if n := m.UserMessageCount(); n != 0 || len(l.fns) != 0 {
		t.Errorf("%d messages and %d runs are left", n, len(l.fns))
	}
}

func TestMailboxStart(t *testing.T) {
	l := &later{}
	m, r := actors.NewSlotMailbox(), &recorder{}
	m.PostUserMessage("early")
	m.RegisterHandlers(r, l)
	l.run()
	r.want(t, "before the start")
	m.Start()
	l.run()
	r.want(t, "after the start", "early")
}

func TestMailboxSuspended(t *testing.T) {
	l := &later{}
	m, r := mailbox(l)
	m.PostSystemMessage(&actor.SuspendMailbox{})
	l.run()
	m.PostUserMessage("u1")
	m.PostUserMessage("u2")
	l.run()
	r.want(t, "suspended")
	m.PostSystemMessage("s1")
	l.run()
	r.want(t, "suspended, after a system message", "s1")
	m.PostSystemMessage(&actor.ResumeMailbox{})
	l.run()
	r.want(t, "resumed", "s1", "u1", "u2")
}

// A message that suspends holds back what was posted before.
func TestMailboxSuspendedInRun(t *testing.T) {
	l := &later{}
	m, r := mailbox(l)
	r.during = func(x any) {
		if x == "u1" {
			m.PostSystemMessage(&actor.SuspendMailbox{})
		}
	}
	m.PostUserMessage("u1")
	m.PostUserMessage("u2")
	l.run()
	r.want(t, "suspended by the first", "u1")
	m.PostSystemMessage(&actor.ResumeMailbox{})
	l.run()
	r.want(t, "resumed", "u1", "u2")
}

// On the caller's goroutine a message that is posted while one runs comes
// after it, not inside it.
func TestMailboxPostInRun(t *testing.T) {
	m, r := mailbox(actor.NewSynchronizedDispatcher(1))
	depth := 0
	r.during = func(x any) {
		if depth++; depth > 1 {
			t.Error("a message runs inside another")
		}
		defer func() { depth-- }()
		switch x {
		case "u1":
			m.PostUserMessage("u2")
			m.PostUserMessage("u3")
			m.PostSystemMessage("s1")
		case "s1":
			m.PostUserMessage("u4")
		}
	}
	m.PostUserMessage("u1")
	r.want(t, "order", "u1", "s1", "u2", "u3", "u4")
}

// A message that panics is escalated, and the next ones run.
func TestMailboxPanic(t *testing.T) {
	m, r := mailbox(actor.NewSynchronizedDispatcher(1))
	r.during = func(x any) {
		if x == "bad" {
			panic(x)
		}
	}
	m.PostUserMessage("bad")
	m.PostUserMessage("good")
	r.want(t, "messages", "bad", "good")
	if diff := cmp.Diff([]any{"bad"}, r.fails); diff != "" {
		t.Errorf("escalated (-want +got):\n%s", diff)
	}
}

// Posters on many goroutines: every message runs once, each poster's in its
// order, never two at a time, also over suspensions.
func TestMailboxConcurrent(t *testing.T) {
	const posters, each = 8, 500
	type message struct{ poster, n int }
	dispatcher := actor.NewDefaultDispatcher(16)
	m, r := mailbox(dispatcher)
	var running sync.Mutex
	all := make(chan struct{})
	left := posters * each
	r.during = func(x any) {
		if !running.TryLock() {
			t.Error("two messages run at a time")
			return
		}
		defer running.Unlock()
		if _, ok := x.(message); ok {
			if left--; left == 0 {
				close(all)
			}
		}
	}
	var wait sync.WaitGroup
	for p := range posters {
		wait.Go(func() {
			for n := range each {
				m.PostUserMessage(message{p, n})
				if n%50 == p {
					m.PostSystemMessage(&actor.SuspendMailbox{})
					m.PostSystemMessage("s")
					m.PostSystemMessage(&actor.ResumeMailbox{})
				}
			}
		})
	}
	wait.Wait()
	<-all
	running.Lock() // the last has ended
	next := make([]int, posters)
	for _, x := range r.got {
		if x, ok := x.(message); ok {
			if x.n != next[x.poster] {
				t.Fatalf("message %d of poster %d came when %d was due", x.n, x.poster, next[x.poster])
			}
			next[x.poster]++
		}
	}
	if slices.Contains(next, 0) {
		t.Errorf("posters' counts are %v", next)
	}
}

// An actor with this mailbox stops, and what was sent to it before is done.
func TestMailboxStop(t *testing.T) {
	system := actor.NewActorSystem()
	defer system.Shutdown()
	var got []any
	props := actor.PropsFromFunc(func(c actor.Context) {
		switch c.Message().(type) {
		case string, *actor.Started, *actor.Stopping, *actor.Stopped:
			got = append(got, c.Message())
		}
	}, actor.WithMailbox(actors.NewSlotMailbox), actor.WithDispatcher(actor.NewSynchronizedDispatcher(10)))
	pid := system.Root.Spawn(props)
	system.Root.Send(pid, "one")
	system.Root.Send(pid, "two")
	if err := system.Root.StopFuture(pid).Wait(); err != nil {
		t.Fatal(err)
	}
	system.Root.Send(pid, "late")
	var kinds []string
	for _, m := range got {
		switch m := m.(type) {
		case string:
			kinds = append(kinds, m)
		case *actor.Started:
			kinds = append(kinds, "started")
		case *actor.Stopping:
			kinds = append(kinds, "stopping")
		case *actor.Stopped:
			kinds = append(kinds, "stopped")
		}
	}
	if diff := cmp.Diff([]string{"started", "one", "two", "stopping", "stopped"}, kinds); diff != "" {
		t.Errorf("life of an actor (-want +got):\n%s", diff)
	}
}
