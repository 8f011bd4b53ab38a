package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// The bare pipeline is the yardstick of ingest: an embedded JetStream that
// syncs always, packs of events of the same size as ours, a consumer that
// decodes them, and counters for each visitor in a synced Badger, with the
// offset in the same transaction. It has no rules, views, actors or HTTP.

const (
	pipelinePack     = 256 // events in a message
	pipelineInFlight = 16  // messages published and not acknowledged
	pipelineBatch    = 16  // messages of a transaction, at most
	pipelineStream   = "BARE"
	pipelineSubject  = "bare.events"
)

// pipeline is the driver's side: a child that runs it.
type pipeline struct{ *child }

func (s *session) startPipeline(ctx context.Context) (*pipeline, error) {
	dir, err := s.folder("pipeline")
	if err != nil {
		return nil, err
	}
	c, err := s.start(ctx, "yardstick", "pipeline", "--dir", dir)
	if err != nil {
		return nil, err
	}
	if _, err := c.answer(); err != nil {
		_ = c.close()
		return nil, err
	}
	return &pipeline{c}, nil
}

// pipelineRun is what the child answers.
type pipelineRun struct {
	Events  int
	Seconds float64
}

func (p *pipeline) run(d time.Duration) (sample, error) {
	before := p.usage()
	text, err := p.ask("run %s", d)
	if err != nil {
		return sample{}, err
	}
	var r pipelineRun
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return sample{}, proto.Errorf(proto.CodeInternal, "the bare pipeline answered %q: %w", text, err)
	}
	return sample{units: r.Events, seconds: r.Seconds, cpu: p.usage().cpu - before.cpu}, nil
}

// barePipeline is the child's side.
type barePipeline struct {
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
	db     *badger.DB
	tape   []uint32
	at     int
}

// ServePipeline runs the bare pipeline in dir and obeys in until it ends.
func ServePipeline(dir string, in io.Reader, out io.Writer) error {
	p, err := openPipeline(dir)
	if err != nil {
		return err
	}
	defer p.close()
	fmt.Fprintf(out, "%sready\n", answerMark)
	Obey(in, out, func(line string) (string, error) {
		var text string
		if _, err := fmt.Sscanf(line, "run %s", &text); err != nil {
			return "", err
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return "", err
		}
		r, err := p.run(d)
		if err != nil {
			return "", err
		}
		b, err := json.Marshal(r)
		return string(b), err
	})
	return nil
}

func openPipeline(dir string) (p *barePipeline, err error) {
	p = &barePipeline{tape: newTape()}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.server, err = server.NewServer(&server.Options{DontListen: true, NoSigs: true, JetStream: true, StoreDir: dir, SyncAlways: true, MaxPayload: 1 << 20}); err != nil {
		return nil, err
	}
	p.server.Start()
	if !p.server.ReadyForConnections(30 * time.Second) {
		return nil, proto.Errorf(proto.CodeUnavailable, "the embedded NATS server did not start")
	}
	if p.conn, err = nats.Connect("", nats.InProcessServer(p.server)); err != nil {
		return nil, err
	}
	if p.js, err = jetstream.New(p.conn, jetstream.WithPublishAsyncMaxPending(pipelineInFlight)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), exchangeMax)
	defer cancel()
	if _, err = p.js.CreateStream(ctx, jetstream.StreamConfig{Name: pipelineStream, Subjects: []string{pipelineSubject}, Storage: jetstream.FileStorage}); err != nil {
		return nil, err
	}
	// The settings of the store of ours, as far as they matter for writing.
	p.db, err = badger.Open(badger.DefaultOptions(dir + "/badger").WithSyncWrites(true).WithLogger(nil).
		WithCompression(0).WithBlockCacheSize(0).WithDetectConflicts(false).WithNumMemtables(3).WithNumCompactors(2).WithValueLogFileSize(128 << 20))
	return p, err
}

func (p *barePipeline) close() {
	if p.conn != nil {
		p.conn.Close()
	}
	if p.db != nil {
		_ = p.db.Close()
	}
	if p.server != nil {
		p.server.Shutdown()
		p.server.WaitForShutdown()
	}
}

// run publishes for a time, and ends when all of it is counted and synced.
func (p *barePipeline) run(d time.Duration) (r pipelineRun, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	stream, err := p.js.Stream(ctx, pipelineStream)
	if err != nil {
		return r, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return r, err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: info.State.LastSeq + 1})
	if err != nil {
		return r, err
	}
	arrived := make(chan jetstream.Msg, 256)
	feed, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case arrived <- m:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxMessages(256))
	if err != nil {
		return r, err
	}
	defer feed.Stop()
	target := make(chan uint64, 1)
	var counting sync.WaitGroup
	counting.Go(func() { cancel(p.count(ctx, arrived, target)) })
	start := time.Now()
	last, events, err := p.publish(ctx, d)
	if err != nil {
		cancel(err)
	}
	target <- last
	counting.Wait()
	if cause := context.Cause(ctx); cause != nil && cause != errCounted {
		return r, cause
	}
	return pipelineRun{events, time.Since(start).Seconds()}, nil
}

// errCounted ends a run well.
var errCounted = proto.Errorf(proto.CodeInternal, "all is counted")

// publish sends packs for a time and gives the sequence of the last.
func (p *barePipeline) publish(ctx context.Context, d time.Duration) (last uint64, events int, err error) {
	model := packedEvent(proto.MillisOf(time.Now()), visit{})
	at := slotOf(model, 0)
	var window []jetstream.PubAckFuture
	wait := func(f jetstream.PubAckFuture) error {
		select {
		case ack := <-f.Ok():
			last = max(last, ack.Sequence)
			return nil
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for start := time.Now(); time.Since(start) < d; {
		f, err := p.js.PublishAsync(pipelineSubject, p.pack(model, at))
		if err != nil {
			return last, events, err
		}
		events += pipelinePack
		if window = append(window, f); len(window) == pipelineInFlight {
			if err := wait(window[0]); err != nil {
				return last, events, err
			}
			window = window[1:]
		}
	}
	for _, f := range window {
		if err := wait(f); err != nil {
			return last, events, err
		}
	}
	return last, events, nil
}

// pack makes a message: events, each with its length.
func (p *barePipeline) pack(model []byte, at slot) []byte {
	b := make([]byte, 0, pipelinePack*(len(model)+2))
	for range pipelinePack {
		p.at = (p.at + 1) % len(p.tape)
		at.put(model, visitOf(p.tape[p.at], uint32(p.at)))
		b = binary.AppendUvarint(b, uint64(len(model)))
		b = append(b, model...)
	}
	return b
}

// count takes messages in until the one that target names.
func (p *barePipeline) count(ctx context.Context, arrived <-chan jetstream.Msg, target <-chan uint64) error {
	var seq, until uint64
	counts := map[string]uint64{}
	var e proto.Event
	for until == 0 || seq < until {
		var m jetstream.Msg
		select {
		case m = <-arrived:
		case until = <-target:
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for n := 1; m != nil; n++ {
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			seq = meta.Sequence.Stream
			if err := p.take(m.Data(), &e, counts); err != nil {
				return err
			}
			m = nil
			if n < pipelineBatch {
				select {
				case m = <-arrived:
				default:
				}
			}
		}
		if err := p.commit(seq, counts); err != nil {
			return err
		}
	}
	return errCounted
}

func (p *barePipeline) take(data []byte, e *proto.Event, counts map[string]uint64) error {
	for len(data) > 0 {
		n, size := binary.Uvarint(data)
		if size <= 0 || n > uint64(len(data)-size) {
			return proto.Errorf(proto.CodeCorrupt, "a pack is malformed")
		}
		if err := proto.DecodeEvent(data[size:size+int(n)], e); err != nil {
			return err
		}
		counts[string(e.Identities[0])]++ // an alias of the message, which lives until the commit
		data = data[size+int(n):]
	}
	return nil
}

// commit adds to the visitors' counters and moves the offset, synced.
func (p *barePipeline) commit(seq uint64, counts map[string]uint64) error {
	txn := p.db.NewTransaction(true)
	defer txn.Discard()
	for id, n := range counts {
		old, err := counterOf(txn, []byte(id))
		if err != nil {
			return err
		}
		if err := txn.Set([]byte(id), binary.AppendUvarint(nil, old+n)); err != nil {
			return err
		}
	}
	clear(counts)
	if err := txn.Set([]byte("offset"), binary.AppendUvarint(nil, seq)); err != nil {
		return err
	}
	return txn.Commit()
}

func counterOf(txn *badger.Txn, key []byte) (n uint64, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	err = item.Value(func(v []byte) error {
		n, _ = binary.Uvarint(v)
		return nil
	})
	return n, err
}
