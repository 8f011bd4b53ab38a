package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"kith/proto"
)

func backupConfig(dir string) Config {
	return Config{
		Dir: dir, LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true, AcceptLostOptOuts: true,
		Boot: []BootKey{{Client: "acme", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("key"))}},
	}
}

func backupNode(t *testing.T) *Node {
	t.Helper()
	n, err := Open(t.Context(), backupConfig(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func backupOf(t *testing.T) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := backupNode(t).Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// sectionsOf are where the sections of a backup begin, and where the last ends.
func sectionsOf(t *testing.T, file []byte) []int {
	t.Helper()
	at := len(backupMagic)
	starts := []int{at}
	for at < len(file)-len(backupEnd) {
		n := int(binary.BigEndian.Uint32(file[at:]))
		at += 4
		if n == 0 {
			starts = append(starts, at)
			continue
		}
		at += 4 + n
	}
	if len(starts) != 7 || at != len(file)-len(backupEnd) {
		t.Fatalf("sections at %v of %d bytes, want six and the end mark", starts, len(file))
	}
	return starts
}

func hasMarker(t *testing.T, dir string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(dir, restoringName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// A directory counts only if the backup was read to its end mark.
func TestRestoreUnfinished(t *testing.T) {
	file := backupOf(t)
	starts := sectionsOf(t, file)
	cuts := map[string]int{"nothing": 0, "magic": 4, "half the end mark": len(file) - 4}
	for i, name := range []string{"manifest", "secret", "store", "control", "ledger", "receipts' key"} {
		from, to := starts[i], starts[i+1]
		cuts["before "+name] = from
		cuts["in a length of "+name] = from + 2
		cuts["in "+name] = (from + to) / 2
		cuts["before the end of "+name] = to - 4
		cuts["after "+name] = to // after the last: no end mark
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			c := backupConfig(filepath.Join(t.TempDir(), "data"))
			if err := Restore(t.Context(), c, bytes.NewReader(file[:cut])); proto.CodeOf(err) != proto.CodeCorrupt {
				t.Errorf("restored from %d of %d bytes: %v", cut, len(file), err)
			}
			if cut < starts[2] { // before the store nothing is made
				if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("something was made: %v", err)
				}
				return
			}
			if err := checkRestored(c); proto.CodeOf(err) != proto.CodeConflict {
				t.Errorf("the directory counts as restored: %v", err)
			}
			if err := Restore(t.Context(), c, bytes.NewReader(file)); proto.CodeOf(err) != proto.CodeConflict {
				t.Errorf("restored over an unfinished restore: %v", err)
			}
		})
	}
}

// A backup with another one behind it, of which nothing would be restored, is refused.
func TestRestoreOfTwo(t *testing.T) {
	file := backupOf(t)
	for name, more := range map[string][]byte{"a byte": {0}, "a backup": file} {
		t.Run(name, func(t *testing.T) {
			c := backupConfig(filepath.Join(t.TempDir(), "data"))
			if err := Restore(t.Context(), c, bytes.NewReader(slices.Concat(file, more))); proto.CodeOf(err) != proto.CodeCorrupt {
				t.Errorf("restored: %v", err)
			}
			if err := checkRestored(c); proto.CodeOf(err) != proto.CodeConflict {
				t.Errorf("the directory counts as restored: %v", err)
			}
		})
	}
}

// watcher gives little at once, and calls look at each read from some place on.
type watcher struct {
	*bytes.Reader
	from int
	look func()
}

func (w watcher) Read(b []byte) (int, error) {
	if int(w.Size())-w.Len() >= w.from {
		w.look()
	}
	return w.Reader.Read(b[:min(len(b), 100)])
}

func TestRestoreWhole(t *testing.T) {
	file := backupOf(t)
	starts := sectionsOf(t, file)
	secret, err := hex.DecodeString(string(file[starts[1]+8:][:32]))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, c := range map[string]Config{
		"one directory":     {Dir: filepath.Join(dir, "a")},
		"three directories": {Dir: filepath.Join(dir, "b"), LogDir: filepath.Join(dir, "b-log"), StoreDir: filepath.Join(dir, "b-store")},
		"no directory of its own": {
			LogDir: filepath.Join(dir, "c-log"), StoreDir: filepath.Join(dir, "c-store"), HashSecret: secret,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.LogBytesMax, c.DiskReserve, c.AcceptLostOptOuts = 64<<20, 1<<20, true
			r := watcher{bytes.NewReader(file), starts[2] + 200, func() {
				if !hasMarker(t, c.markerDir()) {
					t.Error("no marker while it is read")
				}
			}}
			if err := Restore(t.Context(), c, r); err != nil {
				t.Fatal(err)
			}
			if hasMarker(t, c.markerDir()) || checkRestored(c) != nil {
				t.Errorf("a whole restore does not count: %v", checkRestored(c))
			}
			n, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if who, ok := n.Authenticate("key"); !ok || who.Client != "acme" {
				t.Error("the client's key is lost")
			}
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRestoreStopped(t *testing.T) {
	file := backupOf(t)
	ctx, cancel := context.WithCancel(t.Context())
	c := backupConfig(t.TempDir())
	err := Restore(ctx, c, watcher{bytes.NewReader(file), sectionsOf(t, file)[2] + 200, cancel})
	if !errors.Is(err, context.Canceled) || proto.CodeOf(checkRestored(c)) != proto.CodeConflict {
		t.Errorf("stopped: %v, then %v", err, checkRestored(c))
	}
}

func TestRestoreIntoOtherNATS(t *testing.T) {
	c := backupConfig(filepath.Join(t.TempDir(), "data"))
	c.NATSURL = "nats://localhost:1"
	if err := Restore(t.Context(), c, bytes.NewReader(nil)); proto.CodeOf(err) != proto.CodeInvalid {
		t.Errorf("restored beside the log of another NATS: %v", err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it left %s: %v", c.Dir, err)
	}
}

// writes counts, and ends a context at the first.
type writes struct {
	n    int
	stop func()
}

func (w *writes) Write(b []byte) (int, error) {
	w.stop()
	w.n++
	return len(b), nil
}

func TestBackupStopped(t *testing.T) {
	n := backupNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := writes{stop: func() {}}
	if err := n.Backup(ctx, &w); !errors.Is(err, context.Canceled) || w.n > 0 {
		t.Errorf("with a context that is done: %v after %d writes", err, w.n)
	}
	b := n.store.NewBatch() // more than the writer's buffer
	for i := range 40 {
		if err := b.Set(fmt.Appendf(nil, "~filler%d", i), make([]byte, 8<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	ctx, w.stop = context.WithCancel(t.Context())
	if err := n.Backup(ctx, &w); !errors.Is(err, context.Canceled) || w.n != 1 {
		t.Errorf("stopped at the first write: %v after %d writes", err, w.n)
	}
	if left, err := filepath.Glob(filepath.Join(n.config.Dir, "backup-*")); err != nil || len(left) > 0 {
		t.Errorf("left in the data directory: %v %v", left, err)
	}
}

// TestRestoreLooksFirst: what can be seen to be wrong before the store is read leaves
// nothing behind, so that the same directory may be given again.
func TestRestoreLooksFirst(t *testing.T) {
	n := backupNode(t)
	var file, ledger, other bytes.Buffer
	if err := n.WriteLedger(t.Context(), &other); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond) // in the same one it would not be from before
	if err := errors.Join(n.Backup(t.Context(), &file), n.WriteLedger(t.Context(), &ledger)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	c := backupConfig(filepath.Join(dir, "data"))
	for name, change := range map[string]func(*Config){
		"no ledger there":      func(c *Config) { c.Ledger = filepath.Join(dir, "nosuch") },
		"a ledger from before": func(c *Config) { c.Ledger = put("old", other.Bytes()) },
		"a damaged ledger":     func(c *Config) { c.Ledger = put("damaged", ledger.Bytes()[:ledger.Len()-2]) },
		"two ledgers in one":   func(c *Config) { c.Ledger = put("two", bytes.Repeat(ledger.Bytes(), 2)) },
		"another secret":       func(c *Config) { c.HashSecret = bytes.Repeat([]byte{7}, 16) },
	} {
		wrong := c
		change(&wrong)
		err := Restore(t.Context(), wrong, bytes.NewReader(file.Bytes()))
		if err == nil || errors.Is(err, errBackup) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: something was made: %v", name, err)
		}
	}
	c.Ledger = put("ledger", ledger.Bytes())
	if err := Restore(t.Context(), c, bytes.NewReader(file.Bytes())); err != nil {
		t.Error(err)
	}
}

// A ledger has its time in milliseconds, a backup in nanoseconds: one that was written
// right after the other is not from before it.
func TestLedgerOfTheBackupsMillisecond(t *testing.T) {
	n := backupNode(t)
	var ledger bytes.Buffer
	if err := n.WriteLedger(t.Context(), &ledger); err != nil {
		t.Fatal(err)
	}
	at := len(ledgerMagic) + len(n.mark())
	written := proto.Millis(binary.BigEndian.Uint64(ledger.Bytes()[at:])).Time()
	c := backupConfig(t.TempDir())
	c.Ledger = filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(c.Ledger, ledger.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	secret, err := hashSecret(n.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := givenLedger(t.Context(), c, written.Add(999*time.Microsecond), secret); err != nil {
		t.Errorf("of a backup in its millisecond: %v", err)
	}
	if _, err := givenLedger(t.Context(), c, written.Add(time.Millisecond), secret); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("of a later backup: %v", err)
	}
}

// A backup holds the control records that its store obeys, or is none: in a cluster a
// lane may have them from the owner before the node has read them.
func TestBackupHoldsWhatLanesObey(t *testing.T) {
	n := backupNode(t)
	ended, end := context.WithCancel(t.Context())
	end() // it does not wait for them
	r := n.registry
	r.seq--
	if _, err := n.backupStore(ended, io.Discard); err != errBehind {
		t.Errorf("a backup of a store that obeys a record more than there are: %v", err)
	}
	r.seq++
	if last, err := n.backupStore(ended, io.Discard); err != nil || last != r.last() {
		t.Errorf("with that record it has %d of %d: %v", last, r.last(), err)
	}
}

// A backup holds no more of an import than its store does: neither a commit's record
// without the rows, nor a merge's end without the merge, in whatever lane.
func TestBackupHoldsWhatImportsAreOf(t *testing.T) {
	n := backupNode(t)
	client := n.registry.current().clients["acme"]
	i, err := n.BeginImport(t.Context(), client, proto.ImportSpec{Segment: "crm", Mode: proto.ImportCreate})
	if err != nil {
		t.Fatal(err)
	}
	var b proto.Batch
	b.AddTraits(n.hasher, &proto.Traits{
		Client: client.ID, Space: client.Space, Identity: "account:00112233445566778899", Received: n.now(),
		Set: []proto.Prop{{Key: proto.StagedTrait(i.Number), Value: proto.FlagOf(true)}},
	})
	if r, err := n.AddToImport(t.Context(), client, i.Number, &b); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	before := n.store.Snapshot() // as a round of writing that was under way
	n.swapping.Lock()            // and the backup has begun
	committed := make(chan error, 1)
	go func() {
		_, err := n.CommitImport(t.Context(), client, i.Number, 0)
		committed <- err
	}()
	select {
	case <-committed:
		t.Error("an import was committed between a backup's store and its control records")
		committed <- nil
	case <-time.After(500 * time.Millisecond):
	}
	n.swapping.Unlock()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if i, err = n.importOf(client, i.Number); err != nil || i.State != proto.ImportDone {
		t.Fatalf("the import is %v: %v", i.State, err)
	}
	if err := n.lookWhole(before); err != errBehind {
		t.Errorf("a backup without what an import did, but with its records: %v", err)
	}
	if err := n.obeyed(t.Context(), n.registry.last()); err != nil {
		t.Fatal(err)
	}
	if err := n.lookWhole(n.store.Snapshot()); err != nil {
		t.Errorf("a backup with both: %v", err)
	}
}
