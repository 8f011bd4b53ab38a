package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"sort"
	"strconv"
	"sync"
	"time"

	"kith/engine/log"
	"kith/proto"
)

// This file is the audit log: who asked for what of whom, as the gateway writes it.
// It is a stream that the nodes of a cluster write to; a message is lines of JSON
// (proto.AuditRecord). Messages go when they are older than Config.AuditRetention,
// and the oldest when the stream is full.

const (
	auditScan       = 20_000    // messages that one answer goes through
	auditMessageMax = 512 << 10 // bytes of lines that are one message
	auditTries      = 100       // how often other nodes may write first
	auditTry        = time.Second
	auditPause      = 50 * time.Millisecond // before what nobody answered is sent again
	auditCleanup    = time.Hour
)

// auditDoubt is for how long the stream must end before a record that it had until it
// counts as lost: a leader that was just elected may not have taken in all yet.
var auditDoubt = 30 * time.Second // tests change it

type audit struct {
	mu     sync.Mutex
	stream log.Outlet
	last   uint64 // of the stream, as far as is known
	writer string // no other process has it
	sent   uint64 // messages of this writer
}

// next is what the next message is called, and behind which record it is sent.
func (a *audit) next() (id string, behind uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.writer == "" {
		a.writer = rand.Text()
	}
	a.sent++
	return a.writer + "-" + strconv.FormatUint(a.sent, 10), a.last
}

// ends notes that the stream has come to a record.
func (a *audit) ends(at uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = max(a.last, at)
}

// moved takes the stream's end from who refused a record for it: it may be before what
// was known, where a server lost what it had not synced, or the stream was made again.
func (a *audit) moved(end uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = end
}

// auditStream gives the stream, made at the first use.
func (n *Node) auditStream(ctx context.Context) (log.Outlet, error) {
	n.audit.mu.Lock()
	defer n.audit.mu.Unlock()
	if n.audit.stream != nil {
		return n.audit.stream, nil
	}
	s, err := n.log.Audit(ctx)
	n.audit.stream = s
	return s, err
}

// AppendAudit implements gateway.Audit.
func (n *Node) AppendAudit(ctx context.Context, b *proto.AuditBatch) error {
	s, err := n.auditStream(ctx)
	if err != nil {
		return err
	}
	for b.Stored < len(b.Records) {
		lines, many, err := auditMessage(b.Records[b.Stored:])
		if err != nil {
			return err
		}
		if err := n.appendAudit(ctx, s, b, lines); err != nil {
			return err
		}
		b.Stored += many
	}
	return nil
}

// auditMessage is the message of as many records as it holds, from the first: for
// the same records always the same.
func auditMessage(list []proto.AuditRecord) (lines []byte, many int, err error) {
	var b bytes.Buffer
	for i := range list {
		line, err := json.Marshal(&list[i])
		if err != nil {
			return nil, 0, proto.Errorf(proto.CodeInternal, "encode a line of the audit log: %w", err)
		}
		if b.Len() > 0 && b.Len()+len(line) >= auditMessageMax {
			break
		}
		b.Write(append(line, '\n'))
		many++
	}
	return b.Bytes(), many, nil
}

// appendAudit appends the batch's next message, whatever other nodes write meanwhile.
// Each try is behind a record that is known, and so for one place in the stream: what
// is there tells what became of a try without an answer.
func (n *Node) appendAudit(ctx context.Context, s log.Outlet, b *proto.AuditBatch, lines []byte) error {
	for tries := 0; ; tries++ {
		if !b.Unsure {
			b.ID, b.Behind = n.audit.next()
			b.Short = time.Time{}
		}
		try, cancel := context.WithTimeout(ctx, auditTry)
		seq, err := s.Append(try, lines, b.ID, b.Behind)
		cancel()
		if err == nil {
			b.Unsure = false
			n.audit.ends(seq)
			return nil
		}
		conflict := proto.CodeOf(err) == proto.CodeConflict
		b.Unsure = b.Unsure || log.Ambiguous(err)
		switch {
		case !b.Unsure && !conflict, tries == auditTries:
			return err
		case b.Unsure:
			if n.settleAudit(ctx, s, b) {
				return nil
			}
			if b.Unsure && !pause(ctx, auditPause) {
				return err
			}
		default:
			info, err := s.Info(ctx)
			if err != nil {
				return err
			}
			n.audit.moved(uint64(info.Last))
		}
	}
}

// settleAudit looks at the place of a message of which it is not known whether it is
// stored. The batch stays unsure if that does not tell: what is not there may come.
func (n *Node) settleAudit(ctx context.Context, s log.Outlet, b *proto.AuditBatch) (stored bool) {
	place := proto.Offset(b.Behind + 1)
	r, err := s.Get(ctx, place)
	switch {
	case err == nil:
		b.Unsure = false
		n.audit.ends(uint64(place))
		return r.ID == b.ID
	case proto.CodeOf(err) == proto.CodeNotFound: // by a replica, perhaps, that has less than the leader
		info, err := s.Info(ctx)
		switch {
		case err != nil:
		case info.First > place: // whichever it was, it went
			b.Unsure = false
			n.audit.ends(uint64(info.Last))
		case uint64(info.Last) >= b.Behind:
			b.Short = time.Time{}
		case b.Short.IsZero():
			b.Short = time.Now()
		case time.Since(b.Short) > auditDoubt: // the record before it is lost: nothing comes behind it
			b.Unsure = false
			n.audit.moved(uint64(info.Last))
		}
	}
	return false
}

// cleanAudits deletes what is too old at the start and every hour, whether or not
// anything is written, until ctx ends.
func (n *Node) cleanAudits(ctx context.Context) {
	for again := auditCleanup; ctx.Err() == nil; pause(ctx, again) {
		again = auditCleanup
		if err := n.cleanAudit(ctx); err != nil && ctx.Err() == nil {
			n.logger.Warn("old lines of the audit log cannot be deleted, trying again in a minute", "error", err)
			again = time.Minute
		}
	}
}

func (n *Node) cleanAudit(ctx context.Context) error {
	s, err := n.auditStream(ctx) // which gets the cluster's number of copies by that
	if err != nil || n.config.AuditRetention == 0 {
		return err
	}
	info, err := s.Info(ctx)
	if err != nil {
		return err
	}
	first, err := firstSince(ctx, s, info, n.config.Now().Add(-n.config.AuditRetention))
	if err != nil || first == info.First {
		return err
	}
	return s.Purge(ctx, first-1)
}

// firstSince is the first message of a stream that is not older than a time, the one
// behind the last if all are.
func firstSince(ctx context.Context, s log.Outlet, info log.Info, since time.Time) (first proto.Offset, err error) {
	if info.First > info.Last {
		return info.First, nil
	}
	n := sort.Search(int(info.Last-info.First+1), func(i int) bool {
		r, e := s.Get(ctx, info.First+proto.Offset(i))
		if e != nil && proto.CodeOf(e) != proto.CodeNotFound {
			err = e
		}
		return e == nil && !r.Stored.Before(since)
	})
	return info.First + proto.Offset(n), err
}

// AuditPage implements gateway.Audit.
func (n *Node) AuditPage(ctx context.Context, q proto.AuditQuery) (proto.AuditPage, error) {
	page := proto.AuditPage{Records: []proto.AuditRecord{}, Next: q.After}
	s, err := n.auditStream(ctx)
	if err != nil {
		return page, err
	}
	// A line is written after the call, or with the minute that it counts.
	info, err := s.Info(ctx)
	if err != nil {
		return page, err
	}
	first, err := firstSince(ctx, s, info, q.Since)
	if err != nil {
		return page, err
	}
	at, line := auditPlace(q.After)
	if at < first {
		at, line = first, 0
	}
	for scanned := 0; at <= info.Last; at, line = at+1, 0 {
		page.Next = auditCursor(at, line)
		if scanned++; scanned > auditScan || len(page.Records) >= q.Limit {
			page.More = true
			return page, nil
		}
		r, err := s.Get(ctx, at)
		if proto.CodeOf(err) == proto.CodeNotFound {
			continue
		}
		if err != nil {
			return page, err
		}
		rest, err := takeAudit(&q, &page, r.Data, line)
		if err != nil {
			return page, err
		}
		if rest > 0 {
			page.More, page.Next = true, auditCursor(at, rest)
			return page, nil
		}
	}
	page.Next = auditCursor(at, line)
	return page, nil
}

// auditLineBits are those of a cursor that count lines of a message: more than
// auditMessageMax bytes can hold.
const auditLineBits = 16

// auditCursor is where a page begins: at a line, from 0, of a message. JSON holds it
// exactly for the first 2^37 messages.
func auditCursor(at proto.Offset, line int) uint64 { return uint64(at)<<auditLineBits | uint64(line) }

func auditPlace(cursor uint64) (at proto.Offset, line int) {
	return proto.Offset(cursor >> auditLineBits), int(cursor & (1<<auditLineBits - 1))
}

// takeAudit adds the lines of a message that are asked for, from one on, until the
// page is full: rest is the line to go on with then, else 0.
func takeAudit(q *proto.AuditQuery, page *proto.AuditPage, raw []byte, from int) (rest int, err error) {
	at := -1
	for line := range bytes.Lines(raw) {
		if at++; at < from {
			continue
		}
		if len(page.Records) >= q.Limit {
			return at, nil
		}
		var r proto.AuditRecord
		if err := json.Unmarshal(line, &r); err != nil {
			return 0, proto.Errorf(proto.CodeCorrupt, "a line of the audit log is not what kith writes: %w", err)
		}
		switch {
		case q.Client != "" && r.Client != q.Client,
			q.Identity != "" && r.Identity != q.Identity,
			r.Time.Before(q.Since), !q.Until.IsZero() && !r.Time.Before(q.Until):
			continue
		}
		page.Records = append(page.Records, r)
	}
	return 0, nil
}
