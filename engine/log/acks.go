package log

import (
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// acksWaitingMax bounds the appends that wait for an answer.
const acksWaitingMax = 1024

// acks publishes messages in the order of the calls and routes the server's
// answers to their callers. (nats.go has the same as futures; a callback
// saves a goroutine per append, and its close is awaited.)
type acks struct {
	conn    *nats.Conn
	prefix  string
	timeout time.Duration
	health  *lastText

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*waiting
	closed  bool

	calls sync.WaitGroup // callbacks still owed
}

type waiting struct {
	stream string
	done   func(uint64, error)
	timer  *time.Timer
}

func newAcks(conn *nats.Conn, timeout time.Duration, health *lastText) (*acks, error) {
	a := &acks{conn: conn, prefix: conn.NewInbox() + ".", timeout: timeout, health: health, waiting: map[uint64]*waiting{}}
	sub, err := conn.Subscribe(a.prefix+"*", a.answer)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // bounded by acksWaitingMax
	}
	if err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "subscribe to acknowledgements: %w", err)
	}
	return a, nil
}

// publish sends m; done is called exactly once unless publish fails.
func (a *acks) publish(stream string, m *nats.Msg, done func(uint64, error)) error {
	id, err := a.register(stream, done)
	if err != nil {
		return err
	}
	m.Reply = a.prefix + strconv.FormatUint(id, 36)
	if err := a.conn.PublishMsg(m); err != nil {
		if a.take(id) == nil {
			return nil // done was called already, by the timeout or by close
		}
		a.calls.Done()
		err = proto.Errorf(proto.CodeUnavailable, "%s cannot be reached: %w", stream, err)
		a.health.set(err.Error())
		return err
	}
	return nil
}

func (a *acks) register(stream string, done func(uint64, error)) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return 0, proto.Errorf(proto.CodeUnavailable, "the log is closed")
	}
	if len(a.waiting) >= acksWaitingMax {
		return 0, proto.Errorf(proto.CodeOverloaded, "%d appends wait for the disk: try again later", len(a.waiting))
	}
	a.next++
	id := a.next
	a.waiting[id] = &waiting{stream: stream, done: done, timer: time.AfterFunc(a.timeout, func() {
		a.finish(id, 0, ambiguous("no acknowledgement within "+a.timeout.String()))
	})}
	a.calls.Add(1)
	return id, nil
}

func (a *acks) take(id uint64) *waiting {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waiting[id]
	delete(a.waiting, id)
	if w != nil {
		w.timer.Stop()
	}
	return w
}

func (a *acks) finish(id, seq uint64, err error) {
	w := a.take(id)
	if w == nil {
		return // answered before, or given up
	}
	defer a.calls.Done()
	a.note(err)
	w.done(seq, err)
}

// note keeps what Healthy reports. A refusal that is the caller's affair says
// nothing about health.
func (a *acks) note(err error) {
	switch code := proto.CodeOf(err); code {
	case proto.CodeConflict, proto.CodeTooLarge:
	case "":
		a.health.set("")
	default:
		a.health.set(err.Error())
	}
}

// answer is called by the connection for each acknowledgement.
func (a *acks) answer(m *nats.Msg) {
	id, err := strconv.ParseUint(m.Subject[len(a.prefix):], 36, 64)
	if err != nil {
		return
	}
	if len(m.Data) == 0 {
		a.finish(id, 0, ambiguous("JetStream is not there: status "+m.Header.Get("Status")))
		return
	}
	var r struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		a.finish(id, 0, ambiguous("the acknowledgement is malformed"))
		return
	}
	if r.Error != nil {
		a.finish(id, 0, refusalOf(a.streamOf(id), r.Error))
		return
	}
	if r.Sequence == 0 {
		a.finish(id, 0, ambiguous("the acknowledgement has no sequence"))
		return
	}
	a.finish(id, r.Sequence, nil)
}

func (a *acks) streamOf(id uint64) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.waiting[id]; w != nil {
		return w.stream
	}
	return ""
}

// close ends what still waits, ambiguously, and waits for the callbacks.
func (a *acks) close() {
	a.mu.Lock()
	a.closed = true
	var ids []uint64
	for id := range a.waiting {
		ids = append(ids, id)
	}
	a.mu.Unlock()
	for _, id := range ids {
		a.finish(id, 0, ambiguous("the log was closed"))
	}
	a.calls.Wait()
}
