package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// This file is how a node of a cluster gets what another one's store holds: one
// that is new, or was away for longer than the log reaches back. It asks all,
// and the first of those that answer queries gives the copy, in chunks that are
// asked for one by one, over the log's NATS. What was applied since comes from
// the log, as after any restart.

const (
	copySubject  = "_KITH.copy" // out of network clients' reach
	copyChunkMax = 512 << 10
	copiesMax    = 2                // given at a time
	copyIdle     = 30 * time.Second // a copy that nobody wants any more is given up
	copyWanted   = 5 * time.Second  // so often it is said to be wanted
	copyStall    = 15 * time.Minute // but not while the store takes nothing of it for so long
	copyTry      = 2 * time.Second  // then a question is asked again
	copyLost     = time.Minute      // then another node is asked
	copyingMark  = "copy\n"         // in the marker of an unfinished restore
)

// Kinds of a chunk, its first byte.
const (
	chunkData  = 'd'
	chunkEnd   = 'e' // then the CRC-32C of all data
	chunkError = 'x' // then why
)

// copyRequest asks for a chunk, from 1 on, of a copy that the asker named. To ask
// for one after the last says that all have come; chunk 0, which is none, that the copy
// is still wanted: the asker's store may take minutes before it takes the next.
type copyRequest struct {
	Copy  string `json:"copy"`
	Chunk uint64 `json:"chunk"`
}

// copies are those that a node gives.
type copies struct {
	mu    sync.Mutex
	given map[string]chan<- copyQuestion // guarded by mu; by name
	idle  time.Duration                  // guarded by mu: copyIdle, but in tests
}

type copyQuestion struct {
	chunk uint64
	reply string
}

// giveCopies gives other nodes what the store holds, until ctx ends.
func (n *Node) giveCopies(ctx context.Context) error {
	offers, err1 := n.conn().Subscribe(copySubject, func(m *nats.Msg) {
		n.copies.mu.Lock()
		busy := len(n.copies.given) >= copiesMax
		n.copies.mu.Unlock()
		if !busy && m.Reply != "" && n.ready.Load() && n.fault() == nil && n.mayAnswerAll() == nil && !n.differs() {
			_ = n.conn().Publish(m.Reply, []byte(n.config.Node))
		}
	})
	chunks, err2 := n.conn().Subscribe(copySubject+"."+n.config.Node, func(m *nats.Msg) {
		var x copyRequest
		if json.Unmarshal(m.Data, &x) != nil || len(x.Copy) > 2*proto.NameBytesMax {
			return
		}
		n.copies.mu.Lock()
		defer n.copies.mu.Unlock()
		asked := n.copies.given[x.Copy]
		if asked == nil && x.Chunk == 1 && len(n.copies.given) < copiesMax {
			asked = n.beginCopy(ctx, x.Copy)
		}
		if asked == nil {
			_ = n.conn().Publish(m.Reply, []byte("xthis node does not give that copy (any more)"))
			return
		}
		select {
		case asked <- copyQuestion{x.Chunk, m.Reply}:
		default: // it is asked again
		}
	})
	if err := errors.Join(err1, err2); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "other nodes' questions cannot be taken: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = errors.Join(offers.Unsubscribe(), chunks.Unsubscribe()) })
	return nil
}

// differs reports whether another node came to another state: it is not known
// which of them is right, and a copy would be a voice for this one.
func (n *Node) differs() bool {
	for _, l := range n.lanes {
		if l.agreement.differing(bootTime()) > 0 {
			return true
		}
	}
	return false
}

// beginCopy gives a copy beside; nil if the node does not answer. The lock of
// copies is held.
func (n *Node) beginCopy(ctx context.Context, name string) chan<- copyQuestion {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return nil
	}
	asked := make(chan copyQuestion, 4)
	n.copies.given[name] = asked
	idle := n.copies.idle
	go func() {
		defer done()
		defer func() {
			n.copies.mu.Lock()
			defer n.copies.mu.Unlock()
			delete(n.copies.given, name)
		}()
		n.giveCopy(ctx, asked, idle)
	}()
	return asked
}

// giveCopy answers with the chunks of one copy of the store as it is now, until nobody
// has wanted it for a while.
func (n *Node) giveCopy(ctx context.Context, asked <-chan copyQuestion, while time.Duration) {
	out, in := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() { in.CloseWithError(n.store.Backup(in, func(store.Snapshot) error { return nil })) })
	defer writing.Wait()
	defer out.Close()
	c := copyChunks{in: out, sum: crc32.New(crcTable)}
	for {
		idle := time.NewTimer(while)
		select {
		case q := <-asked:
			idle.Stop()
			if q.chunk > c.number && c.ended() {
				return
			}
			if chunk := c.get(q.chunk); chunk != nil {
				_ = n.conn().Publish(q.reply, chunk)
			}
		case <-idle.C:
			return
		case <-ctx.Done():
			idle.Stop()
			return
		}
	}
}

// copyChunks cuts what in gives into chunks, of which the newest may be asked for
// again.
type copyChunks struct {
	in     io.Reader
	sum    hash.Hash32
	number uint64
	chunk  []byte
}

func (c *copyChunks) ended() bool { return len(c.chunk) > 0 && c.chunk[0] != chunkData }

// get is the chunk of a number, nil if that is neither the newest nor the next.
func (c *copyChunks) get(number uint64) []byte {
	switch {
	case number == c.number && number > 0:
		return c.chunk
	case number != c.number+1 || c.ended():
		return nil
	}
	c.number = number
	c.chunk = make([]byte, 1+copyChunkMax)
	size, err := io.ReadFull(c.in, c.chunk[1:])
	switch {
	case size > 0: // else what ended it comes with the next
		c.chunk[0] = chunkData
		c.chunk = c.chunk[:1+size]
		_, _ = c.sum.Write(c.chunk[1:])
	case errors.Is(err, io.EOF):
		c.chunk = binary.BigEndian.AppendUint32([]byte{chunkEnd}, c.sum.Sum32())
	default:
		c.chunk = append([]byte{chunkError}, err.Error()...)
	}
	return c.chunk
}

// reopenStore opens the store, empty if a copy was begun: what there is of it may
// not be readable, and is nothing.
func reopenStore(c *Config) (*store.Badger, error) {
	half, err := halfCopied(c)
	if err == nil && half {
		err = errors.Join(removeAllIn(c.storeDir()), roomToOpen(c.storeDir()))
	}
	if err != nil {
		return nil, err
	}
	return openStore(c)
}

// patiently does something again for a while, in a cluster, as long as the log
// does not answer: whoever leads it may go.
func (c *Config) patiently(ctx context.Context, do func() error) error {
	for began := time.Now(); ; {
		err := do()
		if c.Peers == nil || proto.CodeOf(err) != proto.CodeUnavailable || time.Since(began) > electionMax || !pause(ctx, relayRetry) {
			return err
		}
	}
}

// withinReach gives a store from which the log leads on: st, or in a cluster,
// where the log does not reach back to it, one with what another node's holds.
// On an error st is closed.
func withinReach(ctx context.Context, c *Config, lg *log.Log, st *store.Badger) (*store.Badger, error) {
	if c.Peers == nil {
		return st, nil
	}
	for {
		var why string
		err := c.patiently(ctx, func() (err error) {
			why, err = outOfReach(ctx, c, lg, st)
			return err
		})
		if err != nil {
			return nil, errors.Join(err, st.Close())
		}
		if why == "" {
			return st, nil
		}
		c.Logger.Warn("the store is to be taken from another node", "because", why)
		if err = takeCopy(ctx, c, lg.Conn(), st); ctx.Err() != nil {
			return nil, errors.Join(err, proto.Errorf(proto.CodeTimeout, "no other node gave a copy of its store: %w", ctx.Err()))
		}
		if proto.CodeOf(err) == proto.CodeDiskFull { // nothing gets better by doing that again, and half a copy keeps the log from the disk
			return nil, errors.Join(err, removeAllIn(c.storeDir()))
		}
		if err != nil {
			c.Logger.Error("the store could not be taken from another node, trying again", "error", err)
		}
		if st, err = reopenStore(c); err != nil {
			return nil, err
		}
	}
}

// outOfReach says why the log does not lead on from the store, "" if it does.
func outOfReach(ctx context.Context, c *Config, lg *log.Log, st *store.Badger) (string, error) {
	if copying, err := halfCopied(c); err != nil || copying {
		return "the copy that was begun was not finished", err
	}
	snap := st.Snapshot()
	defer snap.Release()
	for i := range c.Lanes {
		l := &lane{id: proto.LaneID(i)}
		if err := l.loadRecord(snap); err != nil {
			return "", err
		}
		info, err := lg.Lane(l.id).Info(ctx)
		if err != nil {
			return "", err
		}
		at := proto.Offset(l.record.Offset - l.record.Base)
		switch r := l.record; {
		case r.Offset == 0 && info.Follows > 0:
			return fmt.Sprintf("it is new, and the log of lane %s goes on from a backup", l.id), nil
		case r.Offset == 0 && info.First > 1:
			return fmt.Sprintf("it is new, and the log of lane %s begins at entry %d", l.id, info.First), nil
		case r.Offset > 0 && r.StreamCreatedNs == info.Created.UnixNano() && at+1 < info.First:
			return fmt.Sprintf("it has lane %s up to entry %d, and the log begins at %d", l.id, at, info.First), nil
		}
	}
	return "", nil
}

// halfCopied reports whether a copy was begun in the directory and not finished.
func halfCopied(c *Config) (bool, error) {
	text, err := os.ReadFile(filepath.Join(c.markerDir(), restoringName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, proto.Errorf(proto.CodeUnavailable, "see whether the store is whole: %w", err)
	}
	return string(text) == copyingMark, nil
}

// takeCopy closes st and puts what another node's store holds in its place. From
// before anything is removed until all is there the directory is marked as not
// whole.
func takeCopy(ctx context.Context, c *Config, nc *nats.Conn, st *store.Badger) error {
	began := time.Now()
	r, err := askForCopy(ctx, c, nc)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	c.Logger.Info("the store is being taken from another node", "from", r.node)
	if err := st.Close(); err != nil {
		return err
	}
	if err := markRestoring(c.markerDir(), copyingMark); err != nil {
		return err
	}
	if err := removeAllIn(c.storeDir()); err != nil {
		return err
	}
	stop := r.keepWanted(copyWanted)
	defer stop()
	if err := loadStore(c, r); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // to the end, which has the sum
		return err
	}
	c.Logger.Info("the store was taken from another node", "from", r.node, "bytes", r.bytes, "took", time.Since(began))
	return unmarkRestoring(c.markerDir())
}

// removeAllIn empties a directory but for the marker.
func removeAllIn(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, x := range list {
		if x.Name() != restoringName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, x.Name())))
		}
	}
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "empty %s: %w", dir, err)
	}
	return nil
}

// askForCopy waits for a node that gives a copy and for the copy's first chunk.
func askForCopy(ctx context.Context, c *Config, nc *nats.Conn) (*copyReader, error) {
	var told time.Time
	for {
		try, cancel := context.WithTimeout(ctx, copyTry)
		m, err := nc.RequestWithContext(try, copySubject, nil)
		cancel()
		if err == nil {
			r := &copyReader{ctx: ctx, nc: nc, node: string(m.Data), name: c.Node + "/" + rand.Text(), sum: crc32.New(crcTable)}
			if err = r.next(); err == nil {
				return r, nil
			}
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			c.Logger.Warn("waiting for another node that answers and gives a copy of its store", "error", err)
		}
		if !pause(ctx, copyTry/4) {
			return nil, ctx.Err()
		}
	}
}

// copyReader reads a copy that another node gives.
type copyReader struct {
	ctx        context.Context
	nc         *nats.Conn
	node, name string
	sum        hash.Hash32
	number     uint64
	left       []byte
	bytes      int64
	end        bool
	came       atomic.Int64 // when the newest chunk did, in Unix nanoseconds
}

// Read implements io.Reader.
func (r *copyReader) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		if r.end {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// next asks for the next chunk, again and again for a while.
func (r *copyReader) next() error {
	body, err := json.Marshal(copyRequest{r.name, r.number + 1})
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode a question to another node: %w", err)
	}
	for began := time.Now(); ; {
		try, cancel := context.WithTimeout(r.ctx, copyTry)
		m, err := r.nc.RequestWithContext(try, copySubject+"."+r.node, body)
		cancel()
		switch {
		case err == nil:
			err := r.take(m.Data)
			if r.end {
				r.thank()
			}
			return err
		case r.ctx.Err() != nil:
			return proto.Errorf(proto.CodeTimeout, "the copy was broken off: %w", r.ctx.Err())
		case time.Since(began) > copyLost:
			return proto.Errorf(proto.CodeUnavailable, "node %s gives no more of its copy: %w", r.node, err)
		case errors.Is(err, nats.ErrNoResponders): // at once
			pause(r.ctx, copyTry/4)
		}
	}
}

// keepWanted has the other node not give the copy up while the store does not take what
// has come of it, until stop.
func (r *copyReader) keepWanted(every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	var done sync.WaitGroup
	done.Go(func() {
		body, err := json.Marshal(copyRequest{Copy: r.name})
		for err == nil && pause(ctx, every) && time.Since(time.Unix(0, r.came.Load())) < copyStall {
			err = r.nc.Publish(copySubject+"."+r.node, body)
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// thank lets the other node forget the copy.
func (r *copyReader) thank() {
	if body, err := json.Marshal(copyRequest{r.name, r.number + 1}); err == nil {
		_ = r.nc.Publish(copySubject+"."+r.node, body) // else it does so after a while
	}
}

func (r *copyReader) take(chunk []byte) error {
	r.number++
	r.came.Store(time.Now().UnixNano())
	switch {
	case len(chunk) > 1 && chunk[0] == chunkData:
		r.left = chunk[1:]
		r.bytes += int64(len(r.left))
		_, _ = r.sum.Write(r.left)
		return nil
	case len(chunk) == 5 && chunk[0] == chunkEnd && bytes.Equal(chunk[1:], r.sum.Sum(nil)):
		r.end = true
		return nil
	case len(chunk) > 0 && chunk[0] == chunkError:
		return proto.Errorf(proto.CodeUnavailable, "node %s cannot give its copy: %s", r.node, chunk[1:])
	}
	return proto.Errorf(proto.CodeCorrupt, "node %s gave a copy that is not whole", r.node)
}
