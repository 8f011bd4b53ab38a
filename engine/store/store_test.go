package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/engine/store"
	"kith/proto"
)

// TestMain lets the test binary be another process that opens a store.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KITH_TEST_OPEN"); dir != "" {
		_, err := store.Open(store.Config{Dir: dir, MemTables: 1})
		fmt.Println(proto.CodeOf(err), err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string) *store.Badger {
	t.Helper()
	s, err := store.Open(store.Config{Dir: dir, MemTables: 1})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

// openSmall has small transactions.
func openSmall(t testing.TB, dir string) *store.Badger {
	t.Helper()
	s, err := store.Open(store.Config{Dir: dir, Small: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// each runs a conformance test on every implementation.
func each(t *testing.T, test func(t *testing.T, s store.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, store.NewMemory()) })
	t.Run("badger", func(t *testing.T) {
		s := open(t, t.TempDir())
		t.Cleanup(func() { s.Close() })
		test(t, s)
	})
}

func commit(t testing.TB, s store.Store, pairs ...string) {
	t.Helper()
	b := s.NewBatch()
	for i := 0; i < len(pairs); i += 2 {
		var err error
		if pairs[i+1] == "-" {
			err = b.Delete([]byte(pairs[i]))
		} else {
			err = b.Set([]byte(pairs[i]), []byte(pairs[i+1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, r store.Snapshot, key string) string {
	t.Helper()
	out := "none"
	found, err := r.Get([]byte(key), func(v []byte) error { out = string(v); return nil })
	if err != nil || found == (out == "none") {
		t.Fatalf("get %s: %v, %v", key, found, err)
	}
	return out
}

func scan(t testing.TB, r store.Snapshot, prefix, start string) (list []string) {
	t.Helper()
	err := r.Scan([]byte(prefix), []byte(start), func(k, v []byte) (bool, error) {
		list = append(list, string(k)+"="+string(v))
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func want(t testing.TB, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestBatchIsWhole(t *testing.T) {
	each(t, func(t *testing.T, s store.Store) {
		b := s.NewBatch()
		b.Set([]byte("a"), []byte("1"))
		b.Set([]byte("b"), []byte("2"))
		before := s.Snapshot()
		defer before.Release()
		want(t, "before the commit", "none", get(t, before, "a"))
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		after := s.Snapshot()
		defer after.Release()
		want(t, "a snapshot of before", "none", get(t, before, "b"))
		want(t, "after the commit", []string{"a=1", "b=2"}, scan(t, after, "", "a"))

		d := s.NewBatch()
		d.Set([]byte("a"), []byte("discarded"))
		d.Discard()
		commit(t, s, "a", "-", "b", "3", "c", "")
		later := s.Snapshot()
		defer later.Release()
		want(t, "after a deletion", []string{"b=3", "c="}, scan(t, later, "", "a"))
		want(t, "the snapshot of before it", []string{"a=1", "b=2"}, scan(t, after, "", "a"))
	})
}

// Of several writes of one key in a batch the last counts.
func TestBatchOrder(t *testing.T) {
	each(t, func(t *testing.T, s store.Store) {
		commit(t, s, "a", "1", "a", "-", "a", "2", "b", "1", "b", "-", "c", "-", "c", "5")
		r := s.Snapshot()
		defer r.Release()
		want(t, "keys", []string{"a=2", "c=5"}, scan(t, r, "", "a"))
	})
}

func TestScan(t *testing.T) {
	each(t, func(t *testing.T, s store.Store) {
		commit(t, s, "b\xff", "5", "b", "1", "b\x00", "2", "ba", "3", "bb", "4", "c", "6", "a", "0")
		r := s.Snapshot()
		defer r.Release()
		want(t, "a prefix", []string{"b=1", "b\x00=2", "ba=3", "bb=4", "b\xff=5"}, scan(t, r, "b", "b"))
		want(t, "from the middle", []string{"bb=4", "b\xff=5"}, scan(t, r, "b", "baa"))
		want(t, "from before the prefix", 5, len(scan(t, r, "b", "a")))
		want(t, "from behind the prefix", 0, len(scan(t, r, "b", "c")))
		n := 0
		err := r.Scan([]byte("b"), []byte("b"), func(k, _ []byte) (bool, error) { n++; return n < 2, nil })
		if err != nil || n != 2 {
			t.Errorf("a scan that ends at the second key: %d keys, %v", n, err)
		}
		stop := errors.New("stop")
		if err := r.Scan([]byte("b"), []byte("b"), func(k, _ []byte) (bool, error) { return true, stop }); !errors.Is(err, stop) {
			t.Errorf("a scan whose function fails: %v", err)
		}
		if _, err := r.Get([]byte("a"), func([]byte) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("a get whose function fails: %v", err)
		}
	})
}

// Both implementations do what a plain map does, under any batches and old
// snapshots.
func TestModel(t *testing.T) {
	each(t, func(t *testing.T, s store.Store) {
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			prefix := fmt.Sprintf("%06d/", round) // each check in a corner of its own
			model := map[string]string{}
			type old struct {
				r    store.Snapshot
				want map[string]string
			}
			var olds []old
			for range rapid.IntRange(1, 6).Draw(rt, "batches") {
				b := s.NewBatch()
				next := map[string]string{}
				for k, v := range model {
					next[k] = v
				}
				for range rapid.IntRange(0, 6).Draw(rt, "writes") {
					k := prefix + rapid.SampledFrom([]string{"a", "b", "c", "d\x00", "d\xff"}).Draw(rt, "key")
					if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
						b.Delete([]byte(k))
						delete(next, k)
						continue
					}
					v := rapid.String().Draw(rt, "value")
					b.Set([]byte(k), []byte(v))
					next[k] = v
				}
				if rapid.IntRange(0, 4).Draw(rt, "discard") == 0 {
					b.Discard()
				} else if err := [](func() error){b.Commit, b.Apply}[rapid.IntRange(0, 1).Draw(rt, "durable")](); err != nil {
					rt.Fatal(err)
				} else {
					model = next
				}
				olds = append(olds, old{s.Snapshot(), model})
			}
			for i, o := range olds {
				got := map[string]string{}
				last := ""
				err := o.r.Scan([]byte(prefix), []byte(prefix), func(k, v []byte) (bool, error) {
					if string(k) <= last {
						rt.Fatalf("key %q comes after %q", k, last)
					}
					last = string(k)
					got[last] = string(v)
					return true, nil
				})
				if diff := cmp.Diff(o.want, got); err != nil || diff != "" {
					rt.Fatalf("snapshot %d: %v (-want +got):\n%s", i, err, diff)
				}
				o.r.Release()
			}
		})
	})
}

// Writers with keys of their own, readers beside them: a snapshot that a
// writer takes has all that it committed, and shows each of its batches whole.
func TestConcurrentWriters(t *testing.T) {
	each(t, func(t *testing.T, s store.Store) {
		const writers, batches = 4, 25
		var wait sync.WaitGroup
		for w := range writers {
			wait.Go(func() {
				for n := range batches {
					v := fmt.Sprint(n)
					b := s.NewBatch()
					for _, k := range []string{"x", "y", "z"} {
						if err := b.Set([]byte(fmt.Sprint(w, k)), []byte(v)); err != nil {
							t.Error(err)
						}
					}
					if err := b.Commit(); err != nil {
						t.Error(err)
						return
					}
					r := s.Snapshot()
					for _, k := range []string{"x", "y", "z"} {
						if got := get(t, r, fmt.Sprint(w, k)); got != v {
							t.Errorf("writer %d sees %s where it committed %s", w, got, v)
						}
					}
					r.Release()
					r.Release() // twice is once
				}
			})
		}
		wait.Wait()
		r := s.Snapshot()
		defer r.Release()
		want(t, "keys in the end", writers*3, len(scan(t, r, "", "\x01")))
	})
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	commit(t, s, "a", "1", "b", "2")
	commit(t, s, "a", "-", "c", "3")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	r := s.Snapshot()
	want(t, "keys after a restart", []string{"b=2", "c=3"}, scan(t, r, "", "a"))
	r.Release()
	commit(t, s, "b", "4") // newer than what was there
	r = s.Snapshot()
	defer r.Release()
	want(t, "keys after a commit", []string{"b=4", "c=3"}, scan(t, r, "", "a"))
	if err := s.Check(); err != nil {
		t.Errorf("check: %v", err)
	}
}

// largeBatch is a batch several times what fits into one of Badger's
// transactions, over old values of the same keys.
func largeBatch(t *testing.T, s store.Store) store.Batch {
	t.Helper()
	old := s.NewBatch()
	for i := range 40 {
		if err := old.Set(fmt.Appendf(nil, "big%02d", i), []byte("old")); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Commit(); err != nil {
		t.Fatal(err)
	}
	b := s.NewBatch()
	for i := range 40 {
		key := fmt.Appendf(nil, "big%02d", i)
		if err := errors.Join(b.Set(key, []byte("overwritten below")), b.Set(key, bytes.Repeat([]byte{byte(i)}, 1<<20-64))); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete([]byte("big07")); err != nil {
		t.Fatal(err)
	}
	return b
}

// largeIs reports what is seen of largeBatch.
func largeIs(t *testing.T, s store.Store) string {
	t.Helper()
	r := s.Snapshot()
	defer r.Release()
	rows := scan(t, r, "big", "")
	full := 0
	for _, row := range rows {
		key, value, _ := strings.Cut(row, "=")
		if len(value) == 1<<20-64 && key != "big07" {
			full++
		}
	}
	switch {
	case len(rows) == 39 && full == 39:
		return "new"
	case len(rows) == 40 && full == 0:
		return "old"
	}
	return fmt.Sprintf("%d rows, %d of them new", len(rows), full)
}

// A batch that is too large for one transaction is whole too.
func TestLargeBatch(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	b := largeBatch(t, s)
	before := s.Snapshot()
	defer before.Release()
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	want(t, "after the commit", "new", largeIs(t, s))
	want(t, "a row of a snapshot from before", "big01=old", scan(t, before, "big", "")[1])
	r := s.Snapshot()
	defer r.Release()
	want(t, "the store's own keys", 2, len(scan(t, r, "\x00", "")))
	c := s.NewBatch()
	if err := c.Set([]byte("k"), make([]byte, store.OpBytesMax)); err == nil {
		t.Error("a value over the bound was taken")
	}
	c.Discard()
}

// crashed is what another process would find on the disk now.
func crashed(t *testing.T, dir string) (copied string) {
	t.Helper()
	copied = t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(copied, "LOCK")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return copied
}

// A crash while a large batch is committed leaves nothing of it, or all of it once
// all was written.
func TestLargeBatchCrash(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprint("whole=", whole), func(t *testing.T) {
			dir, copied := t.TempDir(), ""
			s := open(t, dir)
			b := largeBatch(t, s)
			store.AtCrashPoint(s, func(left int) {
				if copied == "" && (left == 0) == whole {
					copied = crashed(t, dir)
				}
			})
			if err := b.Commit(); err != nil {
				t.Fatal(err)
			}
			store.AtCrashPoint(s, nil)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 { // what was taken back stays so
				s = open(t, copied)
				want(t, "after the crash", map[bool]string{false: "old", true: "new"}[whole], largeIs(t, s))
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// After a crash, whenever it is, the store is as it was after some batch, none that
// was durable is missing, and what is applied then goes on from there.
func TestCrash(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	s := openSmall(t, dir)
	type crash struct {
		dir      string
		from, to int // the batches that it may have
	}
	var mu sync.Mutex
	var crashes []crash
	states, durable := []map[string]string{{}}, 0 // after each batch, and how many of them are durable
	crashNow := func() {
		mu.Lock()
		defer mu.Unlock()
		crashes = append(crashes, crash{crashed(t, dir), durable, len(states) - 1})
	}
	store.AtCrashPoint(s, func(int) { crashNow() })
	for n := 1; n <= 60; n++ {
		b, next := s.NewBatch(), maps.Clone(states[n-1])
		set := func(k, v string) {
			next[k] = v
			if err := b.Set([]byte(k), []byte(v)); err != nil {
				t.Fatal(err)
			}
		}
		set("number", fmt.Sprint(n))
		for range 1 + r.IntN(8) {
			k := fmt.Sprintf("key %d", r.IntN(100))
			if r.IntN(3) > 0 {
				set(k, fmt.Sprint(n, strings.Repeat("x", r.IntN(100_000))))
				continue
			}
			delete(next, k)
			if err := b.Delete([]byte(k)); err != nil {
				t.Fatal(err)
			}
		}
		mu.Lock()
		states = append(states, next)
		mu.Unlock()
		if err := b.Apply(); err != nil {
			t.Fatal(err)
		}
		if n%20 == 0 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			durable = n
			mu.Unlock()
		}
		if n%7 == 0 {
			store.BetweenRounds(s, crashNow)
		}
	}
	store.AtCrashPoint(s, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	crashes = append(crashes, crash{dir, 60, 60})
	between, lost := 0, 0
	for _, c := range crashes {
		s := openSmall(t, c.dir)
		at := 0
		snap := s.Snapshot()
		_, err := snap.Get([]byte("number"), func(v []byte) (err error) {
			at, err = strconv.Atoi(string(v))
			return err
		})
		if err != nil || at < c.from || at > c.to {
			t.Errorf("the store is as after batch %d, %v; want %d to %d", at, err, c.from, c.to)
		}
		got := map[string]string{}
		for _, row := range append(scan(t, snap, "key", ""), scan(t, snap, "number", "")...) {
			k, v, _ := strings.Cut(row, "=")
			got[k] = v
		}
		snap.Release()
		if !maps.Equal(got, states[at]) {
			t.Errorf("the store is not as it was after batch %d", at)
		}
		if at < c.to {
			lost++
		}
		if at > 0 && at < 60 {
			between++
		}
		commit(t, s, "number", "1000")
		after := s.Snapshot()
		want(t, "what was committed after the crash", "1000", get(t, after, "number"))
		after.Release()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(crashes) < 12 || between < 8 || lost < 8 {
		t.Errorf("%d crashes, %d in the middle, %d that took something along: too few to show anything", len(crashes), between, lost)
	}
}

// What builds that staged large batches left of one is carried out if it has its
// marker, and removed if not.
func TestStagedByOlderBuild(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	commit(t, s, "gone", "1", "kept", "1")
	staged := func(id byte, value string) (key, val string) {
		return "\x00s" + strings.Repeat("\x00", 7) + string(id) + "\x00\x00\x00\x00", value
	}
	k1, v1 := staged(5, "\x00\x04gone\x01\x03new\x012")
	k2, v2 := staged(6, "\x00\x04kept")
	commit(t, s, k1, v1, k2, v2, "\x00c"+strings.Repeat("\x00", 7)+"\x05", "\x00\x00\x00\x01")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = open(t, dir)
		r := s.Snapshot()
		want(t, "keys", []string{"kept=1", "new=2"}, scan(t, r, "", "a"))
		want(t, "the store's own keys", 2, len(scan(t, r, "\x00", "")))
		r.Release()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	db, err := badger.OpenManaged(badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	txn := db.NewTransactionAt(1<<40, true)
	if err := errors.Join(txn.Set([]byte{0, 'f'}, []byte{store.Format + 1}), txn.CommitAt(1<<40, nil), db.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(store.Config{Dir: dir})
	if proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "format 3") {
		t.Errorf("a store of a newer format: %v", err)
	}
	// The refusal has let go of the directory.
	db, err = badger.OpenManaged(badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
}

func TestSecondOpener(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	if _, err := store.Open(store.Config{Dir: dir}); proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second opener in this process: %v", err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KITH_TEST_OPEN="+dir)
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(out), string(proto.CodeConflict)) {
		t.Errorf("a second process: %s %v", out, err)
	}
	commit(t, s, "a", "1") // the first is none the worse
}

func TestBackupAndLoad(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	for i := range 50 {
		commit(t, s, fmt.Sprintf("k%02d", i), strings.Repeat("v", i))
	}
	commit(t, s, "k00", "-", "k01", "new")
	var file bytes.Buffer
	// Writers go on meanwhile; what they write may be in it or not, whole.
	var wait sync.WaitGroup
	wait.Go(func() {
		for i := range 50 {
			commit(t, s, "pair-a", fmt.Sprint(i), "pair-b", fmt.Sprint(i))
		}
	})
	refused := errors.New("not now")
	if err := s.Backup(&file, func(store.Snapshot) error { return refused }); err != refused || file.Len() > 0 {
		t.Errorf("refused: %v after %d bytes", err, file.Len())
	}
	var begun []string
	if err := s.Backup(&file, func(r store.Snapshot) error { begun = scan(t, r, "pair", "pair"); return nil }); err != nil {
		t.Fatal(err)
	}
	wait.Wait()
	twin := open(t, t.TempDir())
	defer twin.Close()
	if err := twin.Load(bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	r, copied := s.Snapshot(), twin.Snapshot()
	defer r.Release()
	want(t, "keys", scan(t, r, "k", "k"), scan(t, copied, "k", "k"))
	pair := scan(t, copied, "pair", "pair")
	want(t, "what it began with", begun, pair)
	if len(pair) == 1 || len(pair) == 2 && pair[0][len("pair-a="):] != pair[1][len("pair-b="):] {
		t.Errorf("a batch was torn: %v", pair)
	}
	copied.Release()
	commit(t, twin, "k01", "newer") // goes over what was loaded
	copied = twin.Snapshot()
	defer copied.Release()
	want(t, "a key written after the load", "newer", get(t, copied, "k01"))

	cut := open(t, t.TempDir())
	defer cut.Close()
	if err := cut.Load(bytes.NewReader(file.Bytes()[:file.Len()-5])); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("a cut backup: %v", err)
	}
	if err := store.NewMemory().Backup(&file, func(store.Snapshot) error { return nil }); err == nil {
		t.Error("the store in memory wrote a backup")
	}
}

// A backup has the newest value of each key, and nothing of what was replaced or
// deleted before.
func TestBackupHoldsNothingOld(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range 20 {
		commit(t, s, "hot", fmt.Sprint("MARK", i), "gone", fmt.Sprint("MARK", i))
	}
	commit(t, s, "gone", "-", "empty", "")
	var file bytes.Buffer
	if err := s.Backup(&file, func(store.Snapshot) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(file.Bytes(), []byte("MARK")); got != 1 {
		t.Errorf("%d values are in the backup of one live key", got)
	}
	if bytes.Contains(file.Bytes(), []byte("gone")) {
		t.Error("a deleted key is in the backup")
	}
	twin := open(t, t.TempDir())
	defer twin.Close()
	if err := twin.Load(&file); err != nil {
		t.Fatal(err)
	}
	r := twin.Snapshot()
	defer r.Release()
	want(t, "a key that changed", []string{"hot=MARK19"}, scan(t, r, "hot", "hot"))
	want(t, "a key without a value", []string{"empty="}, scan(t, r, "empty", "empty"))
	if got := scan(t, r, "gone", "gone"); len(got) > 0 {
		t.Errorf("what was deleted is back: %v", got)
	}
}

// Whoever reads what was there before a mark is known until it has ended.
func TestSnapshotsBefore(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	commit(t, s, "a", "1")
	old, older := s.Snapshot(), s.Durable()
	commit(t, s, "a", "2")
	mark, young := s.Durable(), s.Snapshot()
	defer young.Release()
	if mark <= older {
		t.Errorf("the marks are %d and then %d", older, mark)
	}
	if a, b := s.SnapshotsBefore(older), s.SnapshotsBefore(mark); a != 0 || b != 1 {
		t.Errorf("%d and %d snapshots are from before, want 0 and 1", a, b)
	}
	old.Release()
	if n := s.SnapshotsBefore(mark); n != 0 {
		t.Errorf("%d snapshots are from before, and none is in use", n)
	}
}

// filled is a directory with tables and a write-ahead log, and what it holds.
func filled(t *testing.T) (dir string, batches int) {
	dir = t.TempDir()
	for range 3 {
		s := open(t, dir)
		for range 4 {
			batches++
			b := s.NewBatch()
			for k := range 40 {
				if err := b.Set(fmt.Appendf(nil, "key%02d", k), fmt.Appendf(nil, "%d:%0200d", batches, k)); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir, batches
}

// running is a copy of the files of a store that was not closed.
func running(t *testing.T) (dir string, batches int) {
	from, batches := filled(t)
	s := open(t, from)
	for range 5 {
		batches++
		b := s.NewBatch()
		for k := range 40 {
			b.Set(fmt.Appendf(nil, "key%02d", k), fmt.Appendf(nil, "%d:%0200d", batches, k))
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	copyDir(t, from, dir)
	s.Close()
	return dir, batches
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	list, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.Name() == "LOCK" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		// Write-ahead logs are mapped files, mostly zero: what is behind the
		// data stays sparse.
		out, err := os.Create(filepath.Join(to, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.TrimRight(b, "\x00")
		_, err = out.Write(data)
		if err := errors.Join(err, out.Truncate(int64(len(b))), out.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// A table whose making a kill cut short, which no manifest names, is no damage;
// tables without a manifest are.
func TestUnfinishedTable(t *testing.T) {
	dir, batches := running(t)
	for i, size := range []int{0, 10, 5000} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d.sst", 900+i)), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	r := s.Snapshot()
	want(t, "the newest batch", fmt.Sprintf("%d:%0200d", batches, 7), get(t, r, "key07"))
	r.Release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "MANIFEST")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(store.Config{Dir: dir}); proto.CodeOf(err) != proto.CodeCorrupt || !strings.Contains(err.Error(), "no manifest") {
		t.Errorf("tables without a manifest: %v", err)
	}
}

// damages of a file by name.
func damages(size int) map[string]func([]byte) []byte {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0x10; return b }
	}
	return map[string]func([]byte) []byte{
		"empty":        func(b []byte) []byte { return nil },
		"cut to 10":    func(b []byte) []byte { return b[:min(10, len(b))] },
		"cut in half":  func(b []byte) []byte { return b[:len(b)/2] },
		"cut by 1":     func(b []byte) []byte { return b[:len(b)-1] },
		"flip start":   flip(2),
		"flip quarter": flip(size / 4),
		"flip middle":  flip(size / 2),
		"flip end":     flip(size - 3),
	}
}

// Whatever is done to its files, a store opens with an error that says so, or
// gives an error when it is read, or gives a state that it once had: never a
// mixture, never a panic.
func TestDamagedFiles(t *testing.T) {
	for name, make := range map[string]func(*testing.T) (string, int){"closed": filled, "killed": running} {
		source, batches := make(t)
		for _, pattern := range []string{"*.sst", "MANIFEST", "*.mem", "*.vlog", "KEYREGISTRY", "DISCARD"} {
			files, _ := filepath.Glob(filepath.Join(source, pattern))
			if len(files) == 0 {
				continue
			}
			file := filepath.Base(files[0])
			whole, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			data := bytes.TrimRight(whole, "\x00")
			if len(data) < 4 {
				continue
			}
			for what, damage := range damages(len(data)) {
				t.Run(name+"/"+pattern+"/"+what, func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					copyDir(t, source, dir)
					if err := os.WriteFile(filepath.Join(dir, file), damage(bytes.Clone(data)), 0o600); err != nil {
						t.Fatal(err)
					}
					readDamaged(t, dir, batches)
				})
			}
		}
	}
}

// A store with a damaged block does not open, as nothing tells later that its keys are
// missing; one of a table that is too large for that fails once it is found.
func TestDamagedBlockIsTold(t *testing.T) {
	source, _ := filled(t)
	files, _ := filepath.Glob(filepath.Join(source, "*.sst"))
	if len(files) == 0 {
		t.Fatal("no table was written")
	}
	damage := func() string {
		dir := t.TempDir()
		copyDir(t, source, dir)
		name := filepath.Join(dir, filepath.Base(files[0]))
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/4] ^= 0x10
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if _, err := store.Open(store.Config{Dir: damage(), MemTables: 1}); proto.CodeOf(err) != proto.CodeCorrupt || !strings.Contains(err.Error(), "block") {
		t.Errorf("a damaged block: %v", err)
	}
	defer store.CheckedFirst(0)()
	s, err := store.Open(store.Config{Dir: damage(), MemTables: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		b := s.NewBatch()
		if err := b.Set([]byte("key"), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err = b.Apply(); err != nil || time.Since(began) > 10*time.Second {
			break
		}
	}
	if proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("a damaged block of a large table: %v", err)
	}
	if err := s.Backup(io.Discard, func(store.Snapshot) error { return nil }); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("its backup: %v", err)
	}
}

func readDamaged(t *testing.T, dir string, batches int) {
	s, err := store.Open(store.Config{Dir: dir, MemTables: 1, CheckTables: true})
	if err != nil {
		if code := proto.CodeOf(err); code != proto.CodeCorrupt {
			t.Errorf("open has code %s: %v", code, err)
		}
		return
	}
	defer s.Close()
	if err := s.Check(); err != nil {
		if proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("check: %v", err)
		}
		return
	}
	r := s.Snapshot()
	defer r.Release()
	states := map[string]int{}
	err = r.Scan([]byte("key"), []byte("key"), func(k, v []byte) (bool, error) {
		state, pad, _ := strings.Cut(string(v), ":")
		if fmt.Sprintf("key%s", pad[len(pad)-2:]) != string(k) || len(pad) != 200 {
			t.Errorf("key %s has the value %s", k, v)
		}
		states[state]++
		return true, nil
	})
	if err != nil {
		if proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("scan: %v", err)
		}
		return
	}
	if len(states) > 1 {
		t.Errorf("batches are mixed: %v of %d", states, batches)
	}
	for state, n := range states {
		if n != 40 {
			t.Errorf("batch %s of %d shows %d of its 40 keys", state, batches, n)
		}
		if state != fmt.Sprint(batches) {
			t.Logf("the state of batch %s of %d came back, with no error", state, batches)
		}
	}
	if len(states) == 0 {
		t.Logf("the store came back empty, with no error")
	}
}
