package log

import (
	"context"
	"errors"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// Outlet is the stream of what one client's programs are told. Of it the oldest
// records go when it is full, and those that Purge names. What is stored is then
// published on the subject that those programs listen to, with the header
// Nats-Sequence: never what was refused, and in the stream's order.
//
// Append is as ControlStream's: a record that is stored is the one behind last. id is
// its own, so that the server knows one that comes twice within two minutes, and Get
// tells whose it is.
type Outlet interface {
	Append(ctx context.Context, record []byte, id string, last uint64) (uint64, error)
	Read(ctx context.Context, from uint64, fn func(Record) error) error
	Get(ctx context.Context, at proto.Offset) (Record, error)
	Info(ctx context.Context) (Info, error)
	Purge(ctx context.Context, upTo proto.Offset) error
}

// outletBytesMax bounds an outlet.
const outletBytesMax = 256 << 20

// OutletSubject is where a client's programs hear what its outlet stores.
func OutletSubject(name proto.ClientName) string { return "kith.out.segments." + string(name) }

// Names of the streams that are made when they are needed.
const (
	auditName    = "KITH_AUDIT"
	outletPrefix = "KITH_OUT_SEGMENTS_"
)

func outletName(c proto.ClientID) string {
	return outletPrefix + strconv.FormatUint(uint64(c), 10)
}

type outlet struct{ control }

// Outlet opens the outlet of a client, and makes it if it is missing.
func (l *Log) Outlet(ctx context.Context, c proto.ClientID, name proto.ClientName) (Outlet, error) {
	want := streamConfig(outletName(c), "kith.feed."+strconv.FormatUint(uint64(c), 10), outletBytesMax)
	want.Discard = jetstream.DiscardOld
	want.RePublish = &jetstream.RePublish{Source: want.Subjects[0], Destination: OutletSubject(name)}
	s, err := l.await(ctx, want)
	if err != nil {
		return nil, err
	}
	if got := s.CachedInfo().Config.RePublish; got == nil || got.Destination != want.RePublish.Destination {
		return nil, proto.Errorf(proto.CodeConflict, "stream %s was changed from outside: it does not publish to %s; delete it with `nats stream rm %s`, then start again", want.Name, want.RePublish.Destination, want.Name)
	}
	return &outlet{control{stream{log: l, name: want.Name, subject: want.Subjects[0], js: s}}}, nil
}

// DropOutlet deletes the outlet of a client, if there is one.
func (l *Log) DropOutlet(ctx context.Context, c proto.ClientID) error {
	err := l.js.DeleteStream(ctx, outletName(c))
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return proto.Errorf(proto.CodeUnavailable, "stream %s cannot be deleted: %w", outletName(c), err)
	}
	return nil
}

// auditBytesMax bounds the audit log: some ten million lines.
const auditBytesMax = 2 << 30

// Audit opens the stream of the audit log, and makes it if it is missing.
func (l *Log) Audit(ctx context.Context) (Outlet, error) {
	want := streamConfig(auditName, "kith.audit", auditBytesMax)
	want.Discard = jetstream.DiscardOld
	s, err := l.await(ctx, want)
	if err != nil {
		return nil, err
	}
	return &outlet{control{stream{log: l, name: want.Name, subject: want.Subjects[0], js: s}}}, nil
}

// Audit is the stream of the audit log.
func (m *Memory) Audit(ctx context.Context) (Outlet, error) { return m.Outlet(ctx, 0, "") }

// Append implements Outlet.
func (o *outlet) Append(ctx context.Context, record []byte, id string, last uint64) (uint64, error) {
	return o.append(ctx, record, last, id)
}

// Purge implements Outlet.
func (o *outlet) Purge(ctx context.Context, upTo proto.Offset) error {
	return o.purge(ctx, upTo)
}

type memoryOutlet struct{ *memoryControl }

// Outlet opens the outlet of a client.
func (m *Memory) Outlet(_ context.Context, c proto.ClientID, _ proto.ClientName) (Outlet, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.outlets[c]
	if s == nil {
		s = newMemoryStream(outletName(c), m.now)
		m.outlets[c] = s
	}
	return &memoryOutlet{&memoryControl{s}}, nil
}

// DropOutlet deletes it.
func (m *Memory) DropOutlet(_ context.Context, c proto.ClientID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.outlets[c]; s != nil {
		s.close()
		delete(m.outlets, c)
	}
	return nil
}

// Append implements Outlet.
func (o *memoryOutlet) Append(_ context.Context, record []byte, id string, last uint64) (uint64, error) {
	return o.append(record, last, id)
}

// Purge implements Outlet.
func (o *memoryOutlet) Purge(_ context.Context, upTo proto.Offset) error {
	o.purge(upTo)
	return nil
}
