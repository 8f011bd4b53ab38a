package log_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine/log"
	"kith/proto"
)

// openers are all implementations of log.Logs.
func openers() map[string]func(t *testing.T) log.Logs {
	return map[string]func(t *testing.T) log.Logs{
		"memory":    func(t *testing.T) log.Logs { return closed(t, log.NewMemory(2, nil)) },
		"jetstream": func(t *testing.T) log.Logs { return closed(t, open(t, config(t.TempDir()))) },
		"cluster":   func(t *testing.T) log.Logs { return closed(t, openTrio(t)) },
	}
}

func config(dir string) log.Config {
	return log.Config{Dir: dir, Lanes: 2, MaxBytes: 64 << 20, Name: "test"}
}

func open(t testing.TB, c log.Config) *log.Log {
	t.Helper()
	l, err := log.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closed(t testing.TB, l log.Logs) log.Logs {
	t.Cleanup(func() { l.Close() })
	return l
}

// each runs a conformance test on every implementation.
func each(t *testing.T, test func(t *testing.T, l log.Logs)) {
	for name, opener := range openers() {
		t.Run(name, func(t *testing.T) {
			if name == "cluster" && testing.Short() {
				t.Skip("three servers elect a leader for each test: not in short runs")
			}
			test(t, opener(t))
		})
	}
}

// entry is the seq-th entry of producer 7 for lane 1.
func entry(seq uint64, body string) *proto.Entry {
	cmd := proto.AppendCommand(nil, proto.CommandEvent, 3, []byte(body))
	return &proto.Entry{Lane: 1, Producer: 7, Seq: seq, Time: 1000, Count: 1, Commands: cmd}
}

func bodyOf(t testing.TB, data []byte) string {
	t.Helper()
	e, err := proto.DecodeEntry(data, 1)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := proto.NextCommand(e.Commands)
	if err != nil {
		t.Fatal(err)
	}
	return string(c.Body)
}

func appendAll(t testing.TB, s log.Stream, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		at, err := appended(t, s, entry(uint64(i), fmt.Sprint("body ", i)))
		if err != nil || at != proto.Offset(i) {
			t.Fatalf("append %d: at %d, %v", i, at, err)
		}
	}
}

// appended appends e and, as every owner does, settles what became of it
// while the answer is in doubt: a cluster's stream may lose its leader.
func appended(t testing.TB, s log.Stream, e *proto.Entry) (proto.Offset, error) {
	t.Helper()
	at, err := s.Append(t.Context(), e)
	for log.Ambiguous(err) && t.Context().Err() == nil {
		time.Sleep(20 * time.Millisecond)
		at, err = s.Settle(t.Context(), e, 0)
	}
	return at, err
}

var errEnough = errors.New("enough")

// read collects the bodies from from on until there are n.
func read(t testing.TB, s log.Source, from proto.Offset, n int) []string {
	t.Helper()
	var got []string
	err := s.Read(t.Context(), from, func(r log.Record) error {
		if want := from + proto.Offset(len(got)); r.Offset != want {
			t.Errorf("offset %d, want %d", r.Offset, want)
		}
		if time.Since(r.Stored) > time.Hour {
			t.Errorf("record %d was stored at %v", r.Offset, r.Stored)
		}
		if got = append(got, bodyOf(t, r.Data)); len(got) == n {
			return errEnough
		}
		return nil
	})
	if err != errEnough {
		t.Fatalf("read ended with %v after %d records", err, len(got))
	}
	return got
}

func bodies(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint("body ", i))
	}
	return out
}

func TestAppendGivesOffsetsAndReadStartsAnywhere(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s := l.Lane(1)
		appendAll(t, s, 1, 20)
		if diff := cmp.Diff(bodies(1, 20), read(t, s, 1, 20)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(bodies(13, 20), read(t, s, 13, 8)); diff != "" {
			t.Error(diff)
		}
		i, err := s.Info(t.Context())
		if err != nil || i.First != 1 || i.Last != 20 || i.Created.IsZero() || i.Bytes == 0 || i.BytesMax == 0 {
			t.Errorf("info %+v, %v", i, err)
		}
		if i, _ := l.Lane(0).Info(t.Context()); i.First != 1 || i.Last != 0 {
			t.Errorf("the other lane has %+v", i)
		}
	})
}

func TestReadFollowsTheTail(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s := l.Lane(1)
		appendAll(t, s, 1, 3)
		got := make(chan proto.Offset)
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() {
			end <- s.Read(ctx, 3, func(r log.Record) error { got <- r.Offset; return nil })
		}()
		for i := 3; i <= 10; i++ {
			if off := <-got; off != proto.Offset(i) {
				t.Fatalf("got %d, want %d", off, i)
			}
			appendAll(t, s, i+1, i+1)
		}
		<-got // the last one
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled read ended with %v", err)
		}
	})
}

func TestReadRefusesWhatIsNotThere(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s := l.Lane(1)
		appendAll(t, s, 1, 6)
		if err := s.Purge(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		for _, from := range []proto.Offset{4, 8} { // purged; beyond the end
			err := s.Read(t.Context(), from, func(log.Record) error { return nil })
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Errorf("read from %d: %v", from, err)
			}
		}
		if diff := cmp.Diff(bodies(5, 6), read(t, s, 5, 2)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPurgeAndGet(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s := l.Lane(1)
		appendAll(t, s, 1, 6)
		r, err := s.Get(t.Context(), 4)
		if err != nil || r.Offset != 4 || bodyOf(t, r.Data) != "body 4" {
			t.Errorf("get 4: %+v, %v", r, err)
		}
		if err := s.Purge(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		for at, want := range map[proto.Offset]proto.Code{4: proto.CodeNotFound, 5: "", 6: "", 7: proto.CodeNotFound} {
			if _, err := s.Get(t.Context(), at); proto.CodeOf(err) != want {
				t.Errorf("get %d after purge: %v", at, err)
			}
		}
		if err := s.Purge(t.Context(), 6); err != nil {
			t.Fatal(err)
		}
		if i, _ := s.Info(t.Context()); i.First != 7 || i.Last != 6 {
			t.Errorf("emptied: %+v", i)
		}
		appendAll(t, s, 7, 7)
	})
}

// A stream says from which offset of a store it goes on, which is settled once.
func TestFollow(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		if err := l.Follow(t.Context(), 0, 7, false); err != nil {
			t.Fatal(err)
		}
		if err := l.Follow(t.Context(), 0, 7, false); err != nil {
			t.Errorf("the same again: %v", err)
		}
		if err := l.Follow(t.Context(), 0, 8, true); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("another offset: %v", err)
		}
		appendAll(t, l.Lane(1), 1, 1)
		if err := l.Follow(t.Context(), 1, 7, false); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("a stream that is not new: %v", err)
		}
		if err := l.Follow(t.Context(), 1, 9, true); err != nil {
			t.Errorf("a stream that is known to go on: %v", err)
		}
		for id, want := range []proto.Offset{7, 9} {
			if info, err := l.Lane(proto.LaneID(id)).Info(t.Context()); err != nil || info.Follows != want {
				t.Errorf("lane %d goes on from %d, want %d: %v", id, info.Follows, want, err)
			}
		}
	})
}

func TestRepeatedAppendIsStoredOnce(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s := l.Lane(1)
		appendAll(t, s, 1, 3)
		at, err := appended(t, s, entry(2, "body 2"))
		if err != nil || at != 2 {
			t.Errorf("repeated append: at %d, %v", at, err)
		}
		if i, _ := s.Info(t.Context()); i.Last != 3 {
			t.Errorf("the log has %d records", i.Last)
		}
	})
}

func TestSettle(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s := l.Lane(1)
		appendAll(t, s, 1, 3)
		if at, err := s.Settle(t.Context(), entry(2, "body 2"), 1); err != nil || at != 2 {
			t.Errorf("settling a stored entry: at %d, %v", at, err)
		}
		if at, err := s.Settle(t.Context(), entry(4, "body 4"), 3); err != nil || at != 4 {
			t.Errorf("settling a lost entry: at %d, %v", at, err)
		}
		if at, err := appended(t, s, entry(6, "body 6")); err != nil || at != 5 {
			t.Errorf("append after a hole: at %d, %v", at, err)
		}
		_, err := s.Settle(t.Context(), entry(5, "body 5"), 4)
		if proto.CodeOf(err) != proto.CodeConflict || log.Ambiguous(err) {
			t.Errorf("settling an overtaken entry: %v", err)
		}
		if i, _ := s.Info(t.Context()); i.Last != 5 {
			t.Errorf("the log has %d records", i.Last)
		}
	})
}

// An entry that was lost must not come to lie behind a later one that is on
// its way while the first is settled.
func TestSettleNeverReorders(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s, known := l.Lane(1), 0
		for seq := uint64(1); seq < 200; seq += 2 {
			later := make(chan proto.Offset, 1)
			err := s.AppendAsync(entry(seq+1, "later"), func(at proto.Offset, err error) {
				if err != nil && !log.Ambiguous(err) { // as while a cluster's stream has no leader
					t.Error(err)
				}
				later <- at
			})
			if err != nil {
				t.Fatal(err)
			}
			before, _ := s.Info(t.Context())
			at, err := s.Settle(t.Context(), entry(seq, "lost"), 0)
			for log.Ambiguous(err) && t.Context().Err() == nil { // as where the other is on its way between a cluster's servers
				time.Sleep(20 * time.Millisecond)
				at, err = s.Settle(t.Context(), entry(seq, "lost"), 0)
			}
			behind := <-later
			if behind == 0 {
				continue
			}
			known++
			if err == nil && at > behind {
				t.Fatalf("entry %d lies at %d, behind entry %d at %d (the log ended at %d)", seq, at, seq+1, behind, before.Last)
			} else if err != nil && proto.CodeOf(err) != proto.CodeConflict {
				t.Fatal(err)
			}
		}
		if known < 50 {
			t.Errorf("of the later entries only %d are known to be there", known)
		}
	})
}

// Entries that are on their way together come to lie in the order of the
// calls, each behind the one before. Of those whose answer is in doubt
// nothing is said, so it is tried until there are none: a cluster's stream
// may have no leader for a while.
func TestAppendAsyncKeepsOrder(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		s := l.Lane(1)
		const n = 50
		type ack struct {
			seq uint64
			at  proto.Offset
			err error
		}
		for first := uint64(1); ; first += n {
			acks := make(chan ack, n)
			for seq := first; seq < first+n; seq++ {
				err := s.AppendAsync(entry(seq, fmt.Sprint("body ", seq)), func(at proto.Offset, err error) {
					acks <- ack{seq, at, err}
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			at, doubts := map[uint64]proto.Offset{}, 0
			for range n {
				switch a := <-acks; {
				case a.err == nil:
					at[a.seq] = a.at
				case log.Ambiguous(a.err):
					doubts++
				default:
					t.Fatalf("entry %d: %v", a.seq, a.err)
				}
			}
			last := proto.Offset(0)
			for seq := first; seq < first+n; seq++ {
				if here := at[seq]; here != 0 && (here <= last || doubts == 0 && last != 0 && here != last+1) {
					t.Errorf("entry %d lies at %d, the one before it at %d", seq, here, last)
				} else if here != 0 {
					last = here
				}
			}
			if doubts == 0 {
				return
			}
			t.Logf("%d of %d entries in doubt", doubts, n)
			if first > 100*n {
				t.Fatal("the stream never had a leader for long enough")
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestAppendRefusesBadEntries(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		big := entry(1, string(bytes.Repeat([]byte("x"), proto.EntryBytesMax)))
		if _, err := l.Lane(1).Append(t.Context(), big); proto.CodeOf(err) != proto.CodeTooLarge {
			t.Errorf("too large: %v", err)
		}
		if _, err := l.Lane(0).Append(t.Context(), entry(1, "x")); proto.CodeOf(err) != proto.CodeInternal {
			t.Errorf("wrong lane: %v", err)
		}
	})
}

func TestControlStreamIsConditional(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		c := l.Control()
		for i := range uint64(3) {
			seq, err := c.Append(t.Context(), []byte{byte(i)}, i)
			for log.Ambiguous(err) && t.Context().Err() == nil { // as while a cluster's stream has no leader
				time.Sleep(20 * time.Millisecond)
				if seq, err = c.Append(t.Context(), []byte{byte(i)}, i); proto.CodeOf(err) == proto.CodeConflict {
					seq, err = c.Last(t.Context()) // it lies there since the first time
				}
			}
			if err != nil || seq != i+1 {
				t.Fatalf("append: %d, %v", seq, err)
			}
		}
		_, err := c.Append(t.Context(), []byte("late"), 2)
		for log.Ambiguous(err) && t.Context().Err() == nil {
			time.Sleep(20 * time.Millisecond)
			_, err = c.Append(t.Context(), []byte("late"), 2)
		}
		if proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("append behind the times: %v", err)
		}
		if last, err := c.Last(t.Context()); err != nil || last != 3 {
			t.Errorf("last %d, %v", last, err)
		}
		var got []byte
		err = c.Read(t.Context(), 2, func(r log.Record) error {
			if got = append(got, r.Data...); r.Offset == 3 {
				return errEnough
			}
			return nil
		})
		if err != errEnough || !bytes.Equal(got, []byte{1, 2}) {
			t.Errorf("read %v, %v", got, err)
		}
	})
}

func TestClosedLogRefuses(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		appendAll(t, l.Lane(1), 1, 1)
		if err := l.Healthy(); err != nil {
			t.Error(err)
		}
		got := make(chan struct{}, 1)
		end := make(chan error, 1)
		go func() {
			end <- l.Lane(1).Read(t.Context(), 1, func(log.Record) error { got <- struct{}{}; return nil })
		}()
		<-got
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-end; proto.CodeOf(err) != proto.CodeUnavailable {
			t.Errorf("a read over a close ended with %v", err)
		}
		if _, err := l.Lane(1).Append(t.Context(), entry(2, "x")); proto.CodeOf(err) != proto.CodeUnavailable {
			t.Errorf("append after close: %v", err)
		}
	})
}
