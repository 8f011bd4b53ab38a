package engine

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kith/proto"
)

// This file is the hop: a question that came to a node which may not answer it
// goes to one that may, over the log's NATS, whose servers know one another.
// Nobody else reaches its subject.

const (
	askSubject = "_KITH.ask" // followed by the node's name; out of network clients' reach
	// askNext is after how long the next node is asked too.
	askNext = 50 * time.Millisecond
	// catchUpMax bounds the wait for what another node's answer showed.
	catchUpMax = 2 * time.Second
	// askNodesMax bounds how many are asked one question.
	askNodesMax = 3
	// answerersMax bounds the questions of others in work.
	answerersMax = 256
	// askBytesMax bounds a question and its answer, below what a message may have.
	askBytesMax = 1 << 20
)

// Names of a message's headers.
const (
	askMethod = "Kith-Method"
	askTarget = "Kith-Target"
	askStatus = "Kith-Status"
	askBudget = "Kith-Budget" // milliseconds that the asker waits at most
	// askAudited says that the asker keeps the question in the audit log. A node of an
	// earlier version does not say so: who answers it does.
	askAudited = "Kith-Audited"
	// askApplied is how far a node is: who answers must have come as far as the
	// asker, which must come as far before it answers by itself again. So nobody
	// sees a node go back.
	askApplied = "Kith-Applied"
	// askHeader begins the names of those that belong to the question or answer
	// itself, so that none is taken for one of NATS.
	askHeader = "Kith-H-"
)

// Behind reports whether this node may not answer, since what it has is older
// than what others may have shown.
func (n *Node) Behind() bool {
	if n.config.Peers == nil {
		return false
	}
	if n.clock.wrong() {
		return true
	}
	now := n.lanes[0].leases.now()
	return slices.ContainsFunc(n.lanes, func(l *lane) bool { return !l.leases.heldAt(now) })
}

// shown is how far answers of other nodes went that this one gave.
type shown struct {
	some atomic.Bool // far is to be looked at

	mu  sync.Mutex
	far proto.Position // guarded by mu
}

// took notes an answer's position, before the answer is given.
func (x *shown) took(p proto.Position) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.far == nil {
		x.far = proto.Position{}
	}
	for id, at := range p {
		x.far[id] = max(x.far[id], at)
	}
	x.some.Store(true)
}

// CatchUp returns once this node has applied what other nodes' answers showed that
// it gave, so that it does not go back behind them.
func (n *Node) CatchUp(ctx context.Context) error {
	if !n.shown.some.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpMax)
	defer cancel()
	n.shown.mu.Lock()
	far := maps.Clone(n.shown.far)
	n.shown.mu.Unlock()
	if err := n.reach(ctx, far); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "this node is behind what it showed of another one: try again: %w", err)
	}
	n.shown.mu.Lock()
	defer n.shown.mu.Unlock()
	n.shown.some.Store(!maps.Equal(far, n.shown.far))
	return nil
}

// position is how far all lanes are, or have been shown to be.
func (n *Node) position() proto.Position {
	p := proto.Position{}
	for _, l := range n.lanes {
		applied, _, _, _ := l.progress.get()
		p[l.id] = applied
	}
	n.shown.mu.Lock()
	defer n.shown.mu.Unlock()
	for id, at := range n.shown.far {
		p[id] = max(p[id], at)
	}
	return p
}

// positionShown is how far what was read until now may have been: a batch is seen a
// moment before it counts as applied.
func (n *Node) positionShown() proto.Position {
	for _, l := range n.lanes {
		l.awaitPublished()
	}
	return n.position()
}

// awaitPublished returns when what is being published now is.
func (l *lane) awaitPublished() {
	l.visible.RLock()
	defer l.visible.RUnlock()
}

// askable are the other nodes that say they answer, those that stay before
// those that drain, in no order beside that.
func (n *Node) askable() []string {
	var stay, drain []string
	for _, x := range n.nodes() {
		switch {
		case x.Name == n.config.Node || !x.Ready:
		case x.Draining:
			drain = append(drain, x.Name)
		default:
			stay = append(stay, x.Name)
		}
	}
	for _, list := range [][]string{stay, drain} {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	list := slices.Concat(stay, drain)
	return list[:min(len(list), askNodesMax)]
}

// Ask passes a question on to another node that answers, and after 50 ms to a
// second one too: the first that answers counts. The caller bounds ctx.
// CodeUnavailable if nobody answered.
func (n *Node) Ask(ctx context.Context, q *proto.Question) (*proto.Reply, error) {
	nodes := n.askable()
	if len(nodes) == 0 {
		return nil, proto.Errorf(proto.CodeUnavailable, "this node is behind the log, and no other one says that it answers: try again")
	}
	if len(q.Body)+len(q.Target) > askBytesMax {
		return nil, proto.Errorf(proto.CodeUnavailable, "this node is behind the log, and the question is too large to be passed on: ask another node")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()                              // ends the other requests
	answers := make(chan *nats.Msg, len(nodes)) // nil: none
	next := time.NewTimer(0)
	defer next.Stop()
	for open := 0; ; {
		select {
		case <-next.C:
			if len(nodes) == 0 {
				continue
			}
			m := questionMsg(ctx, askSubject+"."+nodes[0], q)
			m.Header.Set(askApplied, n.position().String())
			go func() {
				answer, err := n.conn().RequestMsgWithContext(ctx, m)
				if err != nil {
					answer = nil
				}
				answers <- answer
			}()
			nodes, open = nodes[1:], open+1
			next.Reset(askNext)
		case m := <-answers:
			open--
			if r, ok := readReply(m); ok {
				far, err := proto.ParsePosition(m.Header.Get(askApplied))
				if err != nil {
					return nil, proto.Errorf(proto.CodeUnavailable, "another node answered and did not say how far it is: run the same kith on all: %w", err)
				}
				n.shown.took(far)
				return r, nil
			}
			if len(nodes) > 0 {
				next.Reset(0)
			} else if open == 0 {
				return nil, proto.Errorf(proto.CodeUnavailable, "no node answers at the moment: try again")
			}
		case <-ctx.Done():
			return nil, proto.Errorf(proto.CodeUnavailable, "no other node answered in time: try again: %w", ctx.Err())
		}
	}
}

func questionMsg(ctx context.Context, subject string, q *proto.Question) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = q.Body
	m.Header.Set(askMethod, q.Method)
	m.Header.Set(askTarget, q.Target)
	addHeaders(m.Header, q.Header)
	if q.Audited {
		m.Header.Set(askAudited, "1")
	}
	if end, ok := ctx.Deadline(); ok {
		m.Header.Set(askBudget, strconv.FormatInt(max(1, time.Until(end).Milliseconds()), 10))
	}
	return m
}

// readReply reads an answer; false where it is none, or says that its node
// cannot answer either.
func readReply(m *nats.Msg) (*proto.Reply, bool) {
	if m == nil {
		return nil, false
	}
	status, err := strconv.Atoi(m.Header.Get(askStatus))
	if err != nil || status < 200 || status > 599 || status == http.StatusServiceUnavailable {
		return nil, false
	}
	return &proto.Reply{Status: status, Header: headersOf(m.Header), Body: m.Data}, true
}

func addHeaders(to nats.Header, from map[string][]string) {
	for name, values := range from {
		to[askHeader+name] = values
	}
}

func headersOf(h nats.Header) map[string][]string {
	out := map[string][]string{}
	for name, values := range h {
		if name, ok := strings.CutPrefix(name, askHeader); ok {
			out[name] = values
		}
	}
	return out
}

// AnswerOthers has do answer what other nodes ask, until ctx ends; then it
// returns when none is in work any more.
func (n *Node) AnswerOthers(ctx context.Context, do func(context.Context, *proto.Question) *proto.Reply) error {
	if n.config.Peers == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	slots := make(chan struct{}, answerersMax)
	sub, err := n.conn().Subscribe(askSubject+"."+n.config.Node, func(m *nats.Msg) {
		if m.Reply == "" {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = n.conn().PublishMsg(replyMsg(m.Reply, &proto.Reply{Status: http.StatusServiceUnavailable}))
			return
		}
		go func() {
			defer func() { <-slots }()
			defer func() { // net/http would have kept a panic to itself
				if p := recover(); p != nil {
					n.logger.Error("another node's question made a handler panic", "panic", p)
					_ = n.conn().PublishMsg(replyMsg(m.Reply, &proto.Reply{Status: http.StatusInternalServerError}))
				}
			}()
			q, budget := readQuestion(m)
			within, cancel := context.WithTimeout(ctx, budget)
			defer cancel()
			reply := &proto.Reply{Status: http.StatusServiceUnavailable}
			if far, err := proto.ParsePosition(m.Header.Get(askApplied)); err == nil && n.reach(within, far) == nil {
				reply = do(within, q)
			}
			answer := replyMsg(m.Reply, reply)
			answer.Header.Set(askApplied, n.positionShown().String())
			_ = n.conn().PublishMsg(answer)
		}()
	})
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "other nodes' questions cannot be taken: %w", err)
	}
	<-ctx.Done()
	err = sub.Unsubscribe()
	for range answerersMax {
		slots <- struct{}{}
	}
	if err != nil && n.conn().IsConnected() {
		return proto.Errorf(proto.CodeUnavailable, "stop taking other nodes' questions: %w", err)
	}
	return ctx.Err()
}

// askBudgetMax is the longest that a question is worked on.
const askBudgetMax = 30 * time.Second

func readQuestion(m *nats.Msg) (*proto.Question, time.Duration) {
	q := &proto.Question{Method: m.Header.Get(askMethod), Target: m.Header.Get(askTarget), Header: headersOf(m.Header), Body: m.Data, Audited: m.Header.Get(askAudited) != ""}
	budget := askBudgetMax
	if ms, err := strconv.ParseUint(m.Header.Get(askBudget), 10, 32); err == nil {
		budget = min(budget, time.Duration(ms)*time.Millisecond)
	}
	return q, budget
}

func replyMsg(to string, r *proto.Reply) *nats.Msg {
	m := nats.NewMsg(to)
	if len(r.Body) > askBytesMax {
		r = &proto.Reply{Status: http.StatusServiceUnavailable}
	}
	m.Header.Set(askStatus, strconv.Itoa(r.Status))
	addHeaders(m.Header, r.Header)
	m.Data = r.Body
	return m
}
