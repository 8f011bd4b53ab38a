package engine_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kith/engine"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
)

// canary is an identity that must be nowhere once it is opted out.
const canary = proto.Identity("browser:canary-7f3a9d51c2")

// holds lists the files below dir that have the canary's bytes.
func holds(t *testing.T, dir string) (files []string) {
	t.Helper()
	return holding(t, dir, canary.Value())
}

// holding lists the files below dir that have a text's bytes.
func holding(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		if bytes.Contains(b, []byte(text)) {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// canaryPage is an event of the canary with others.
func canaryPage(c proto.ClientInfo, section string, others ...proto.Identity) *proto.Event {
	e := page(c, "x", section, time.Now())
	e.Identities = append([]proto.Identity{canary}, others...)
	return e
}

// flock gives the canary a life: events, a trait, two siblings over an account.
func flock(t *testing.T, n *engine.Node, c proto.ClientInfo) {
	t.Helper()
	defineUser(t, n, c, "auto", `count(event.section == "auto", "30d") >= 3`)
	define(t, n, "own", `count(true) >= 1`)
	for i := range 200 { // more than stays in a history's tail
		submit(t, n, canaryPage(c, fmt.Sprint("auto", i%3*0)), page(c, fmt.Sprint("other", i), "auto", time.Now()))
	}
	submit(t, n, canaryPage(c, "auto", "account:shared"), page(c, "sibling", "auto", time.Now()))
	link(t, n, c, "account:shared", "browser:sibling", yes())
	settle(t, n) // an event's own links cross lanes after its position is applied
	if got := membersOf(t, n, c, "browser:sibling"); len(got) != 3 {
		t.Fatalf("the flock is %v", got)
	}
}

func shownNowhere(t *testing.T, n *engine.Node, c proto.ClientInfo, said *bytes.Buffer) {
	t.Helper()
	if seen, list := lookup(t, n, c, canary); !seen.OptedOut || seen.Known || len(list) > 0 {
		t.Errorf("look-up: %+v %v", seen, list)
	}
	if got := membersOf(t, n, c, "browser:sibling"); len(got) != 2 {
		t.Errorf("its sibling is with %v", got)
	}
	if x, err := n.Explain(t.Context(), c, canary, "auto", time.Time{}); err != nil || x.In || len(x.Facts) > 0 {
		t.Errorf("explained: %+v %v", x, err)
	}
	if r, err := n.Record(t.Context(), c, canary); err != nil || r.Known || !r.OptedOut || len(r.Events)+len(r.Segments) > 0 {
		t.Errorf("record: %+v %v", r, err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.Collector())
	families, err := registry.Gather()
	if err != nil || strings.Contains(fmt.Sprint(families), canary.Value()) {
		t.Errorf("metrics name it: %v", err)
	}
	if strings.Contains(said.String(), canary.Value()) {
		t.Error("the process log names it")
	}
}

// After an acknowledged opt-out nothing shows the canary: not look-ups, counts,
// users, explanations, metrics, logs or live keys; late and replayed events, a
// third party's link, a restart and a restored older backup do not bring it
// back; and after an erasure of bytes no file has it.
func TestCanary(t *testing.T) {
	for _, k := range []int{1, 4} {
		t.Run(fmt.Sprint(k, "lanes"), func(t *testing.T) {
			var said bytes.Buffer
			dir := t.TempDir()
			config := func(c *engine.Config) {
				c.Lanes = k
				c.Logger = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
			}
			n := testNode(t, dir, config)
			c := acme(t, n)
			flock(t, n, c)
			before := count(t, n, c, "own")
			var old bytes.Buffer
			if err := n.Backup(t.Context(), &old); err != nil {
				t.Fatal(err)
			}
			r := optOut(t, n, canary, false)
			shownNowhere(t, n, c, &said)
			if got := count(t, n, c, "own"); got != before-1 {
				t.Errorf("own counts %d, want %d", got, before-1)
			}
			wantClean(t, n, r)
			// It comes late, again, and by way of others.
			submit(t, n, canaryPage(c, "auto"), canaryPage(c, "auto", "account:shared", "browser:sibling"))
			late := page(c, "third", "auto", time.Now())
			late.Identities = append(late.Identities, canary)
			submit(t, n, late)
			link(t, n, c, "browser:third", canary, proto.Linked{Reason: "opted_out"})
			settle(t, n)
			shownNowhere(t, n, c, &said)
			wantClean(t, n, r)
			if _, err := n.EraseBytes(t.Context()); err != nil {
				t.Fatal(err)
			}
			if files := holds(t, dir); len(files) > 0 {
				t.Errorf("after the erasure these files still have it: %v", files)
			}
			if check := wantClean(t, n, r); !check.LogClear {
				t.Errorf("the log begins at %d, the receipt is of %d", check.LogFirst, r.Offset)
			}
			shownNowhere(t, n, c, &said)
			closeNode(t, n)
			check, err := engine.CheckReceipt(t.Context(), engine.Config{Dir: dir, LogBytesMax: 64 << 20}, r)
			if err != nil || !check.Clean || !check.Signature {
				t.Errorf("receipt against the directory: %+v %v", check, err)
			}
			n = testNode(t, dir, config)
			shownNowhere(t, n, c, &said)
			closeNode(t, n)
			restoreOld(t, old.Bytes(), dir, k, &said)
		})
	}
}

// While an export reads the store as it was before an opt-out, the bytes of it cannot
// go, and an erasure of bytes says so.
func TestEraseBesideExport(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	define(t, n, "one", `count(true) >= 1`)
	c := acme(t, n)
	submit(t, n, canaryPage(c, "auto"))
	if err := n.Backup(t.Context(), io.Discard); err != nil { // the store has it then
		t.Fatal(err)
	}
	a, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: "one"})
	if err != nil {
		t.Fatal(err)
	}
	optOut(t, n, canary, false)
	if x, err := n.EraseBytesNow(t.Context()); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("beside an export: %+v, %v", x, err)
	}
	if len(holds(t, dir)) == 0 {
		t.Error("nothing was kept for the export: the test sees nothing")
	}
	a.Names.Close()
	submit(t, n, page(c, "v", "auto", time.Now()))
	if s, err := n.Erase(t.Context(), nil, "browser:v"); err != nil || !s.Final {
		t.Fatalf("erase: %+v, %v", s, err)
	}
	if x, err := n.EraseBytes(t.Context()); err != nil || x.Identities != 2 {
		t.Fatalf("the erasure is of %d identities, %v, want the one that was refused and the one after it", x.Identities, err)
	}
	if files := holds(t, dir); len(files) > 0 {
		t.Errorf("after the erasure these files still have it: %v", files)
	}
	if x, err := n.EraseBytes(t.Context()); err != nil || x.Identities != 0 {
		t.Errorf("asked again it is of %d identities, %v", x.Identities, err)
	}
	closeNode(t, n)
}

// An event lies in the lane of its first identity: as long as another lane's log names
// the receipt's, the log is not said to be clear, though the identity's own lane is.
func TestReceiptLogOfOtherLanes(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(4))
	defer closeNode(t, n)
	c := acme(t, n)
	first := proto.Identity("browser:first")
	for i := 0; n.LaneOf(first) == n.LaneOf(canary); i++ {
		first = proto.Identity(fmt.Sprint("browser:first", i))
	}
	e := page(c, "x", "auto", time.Now())
	e.Identities = []proto.Identity{first, canary}
	submit(t, n, e)
	settle(t, n)
	submit(t, n, e) // of those who are linked already: their lanes need not hear of it
	r := optOut(t, n, canary, false)
	if err := n.PurgeHomeLog(t.Context(), canary); err != nil {
		t.Fatal(err)
	}
	if x := wantClean(t, n, r); x.LogClear {
		t.Error("the log is said to be clear while another lane's names the identity")
	}
	if _, err := n.EraseBytes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x := wantClean(t, n, r); !x.LogClear {
		t.Error("after an erasure of bytes the log is not said to be clear")
	}
}

// Checks of receipts wait for one another: whoever has one under way again and again, as
// each reads everything, has no other client's refused. What nobody signed does not wait.
func TestReceiptChecksWait(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	submit(t, n, page(acme(t, n), "x", "auto", time.Now()))
	r := optOut(t, n, "browser:x", false)
	end, ok := n.CheckTurn(t.Context(), 7)
	if !ok {
		t.Fatal("no turn on an idle node")
	}
	forged := r
	forged.CopiesRetracted++
	if x, err := n.CheckReceipt(t.Context(), 8, forged); err != nil || x.Signature {
		t.Errorf("what nobody signed: %+v %v", x, err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := n.CheckReceipt(short, 8, r); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("who does not wait: %v", err)
	}
	done := make(chan error)
	go func() {
		x, err := n.CheckReceipt(t.Context(), 8, r)
		if err == nil && !x.Clean {
			err = fmt.Errorf("%+v", x)
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("beside another client's it does not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func wantClean(t *testing.T, n *engine.Node, r proto.Receipt) proto.ReceiptCheck {
	t.Helper()
	check, err := n.CheckReceipt(t.Context(), 0, r)
	if err != nil || !check.Clean || !check.Signature {
		t.Errorf("receipt: %+v %v", check, err)
	}
	return check
}

// What a node that is killed had applied last is not in its store. Where that is
// the opt-out, a receipt held against the directory does not look broken; and the
// node makes it good once it is started.
func TestReceiptAfterKill(t *testing.T) {
	dir, killed := t.TempDir(), filepath.Join(t.TempDir(), "killed")
	n := testNode(t, dir)
	flock(t, n, acme(t, n))
	if err := n.Backup(t.Context(), io.Discard); err != nil { // the store has it then
		t.Fatal(err)
	}
	r := optOut(t, n, canary, false)
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)
	c := engine.Config{Dir: killed, LogBytesMax: 64 << 20}
	if x, err := engine.CheckReceipt(t.Context(), c, r); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Fatalf("before a start: %+v %v", x, err)
	}
	plant(t, filepath.Join(killed, "store"), filepath.Join(dir, "store"), r)
	c.Dir = dir
	if x, err := engine.CheckReceipt(t.Context(), c, r); err != nil || x.Clean {
		t.Errorf("what is left after the opt-out is not found: %+v %v", x, err)
	}
	c.Dir = killed
	n = testNode(t, killed)
	shownNowhere(t, n, acme(t, n), &bytes.Buffer{})
	closeNode(t, n)
	if x, err := engine.CheckReceipt(t.Context(), c, r); err != nil || !x.Clean || !x.Signature {
		t.Errorf("after a start: %+v %v", x, err)
	}
}

// A receipt from after a backup that was restored without the ledger is held against
// what is there: the store will never come to where the receipt is of.
func TestReceiptAfterRestore(t *testing.T) {
	dir := t.TempDir()
	a := testNode(t, filepath.Join(dir, "a"), func(c *engine.Config) { c.Lanes = 4 })
	flock(t, a, acme(t, a))
	var file bytes.Buffer
	if err := a.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		submit(t, a, page(acme(t, a), "other", "auto", time.Now()))
	}
	r := optOut(t, a, canary, false)
	closeNode(t, a)
	for _, lanes := range []int{4, 2} {
		c := engine.Config{Dir: filepath.Join(dir, fmt.Sprint(lanes)), LogBytesMax: 64 << 20, SmallStore: true, DiskReserve: 1 << 20, RestoreLanes: lanes, AcceptLostOptOuts: true}
		if err := engine.Restore(t.Context(), c, bytes.NewReader(file.Bytes())); err != nil {
			t.Fatal(err)
		}
		if x, err := engine.CheckReceipt(t.Context(), c, r); err != nil || x.Clean || !x.Signature {
			t.Errorf("%d lanes, not started: %+v %v", lanes, x, err)
		}
		closeNode(t, testNode(t, c.Dir, func(c *engine.Config) { c.Lanes = lanes }))
		if x, err := engine.CheckReceipt(t.Context(), c, r); err != nil || x.Clean || !x.Signature {
			t.Errorf("%d lanes, started once: %+v %v", lanes, x, err)
		}
	}
}

// A node that was killed before its store had anything is not taken for no node.
func TestReceiptOfYoungNode(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	flock(t, n, acme(t, n))
	r := optOut(t, n, canary, false)
	closeNode(t, n)
	if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	c := engine.Config{Dir: dir, LogBytesMax: 64 << 20}
	if _, err := engine.CheckReceipt(t.Context(), c, r); proto.CodeOf(err) != proto.CodeUnavailable || !strings.Contains(err.Error(), "Start it, stop it") {
		t.Errorf("before a start: %v", err)
	}
	closeNode(t, testNode(t, dir))
	if x, err := engine.CheckReceipt(t.Context(), c, r); err != nil || !x.Clean {
		t.Errorf("after a start: %+v %v", x, err)
	}
	c.Dir = t.TempDir()
	if _, err := engine.CheckReceipt(t.Context(), c, r); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("a directory of no node: %v", err)
	}
}

// Who was erased may come back, and what it does then is not what was erased: a
// receipt's check finds each thing of before that is put back, and nothing else.
func TestReceiptOfErasure(t *testing.T) {
	dir, before := t.TempDir(), filepath.Join(t.TempDir(), "before")
	lanes := func(c *engine.Config) { c.Lanes = 4 }
	n := testNode(t, dir, lanes)
	c := acme(t, n)
	onNetwork := func(k proto.NetworkKey) *proto.Event {
		e := canaryPage(c, "auto")
		e.Network = k
		return e
	}
	submit(t, n, onNetwork(7), onNetwork(8))
	flock(t, n, c)
	if err := n.Backup(t.Context(), io.Discard); err != nil { // the store has it then
		t.Fatal(err)
	}
	if err := os.CopyFS(before, os.DirFS(filepath.Join(dir, "store"))); err != nil {
		t.Fatal(err)
	}
	s, err := n.Erase(t.Context(), nil, canary)
	if err != nil || !s.Final || s.Receipt == nil {
		t.Fatalf("erased: %+v %v", s, err)
	}
	r := *s.Receipt
	wantClean(t, n, r)
	until(t, n, 20*time.Second, "nobody comes back", func() bool { // within the skew of clocks it would be from before
		submit(t, n, onNetwork(8), canaryPage(c, "auto", "account:shared"))
		settle(t, n)
		return len(membersOf(t, n, c, "browser:sibling")) == 3
	})
	wantClean(t, n, r)
	closeNode(t, n)
	check := func(dir string) proto.ReceiptCheck {
		x, err := engine.CheckReceipt(t.Context(), engine.Config{Dir: dir, LogBytesMax: 64 << 20, Lanes: 4}, r)
		if err != nil || !x.Signature {
			t.Fatalf("%+v %v", x, err)
		}
		return x
	}
	if x := check(dir); !x.Clean {
		t.Errorf("who came back is taken for who was erased: %+v", x)
	}
	hash, err := hex.DecodeString(r.IdentityHash)
	if err != nil {
		t.Fatal(err)
	}
	for place, is := range map[string]func(k, v []byte) bool{
		"names": func(k, v []byte) bool { return k[0] == 'L' && k[2] == 'o' && bytes.Contains(v, []byte(canary)) },
		"networks": func(k, _ []byte) bool {
			return k[0] == 'H' && bytes.Contains(k, hash) && bytes.Contains(k, []byte{7, 0})
		},
		"facts":   func(k, _ []byte) bool { return k[0] == 'N' && k[24] == 'f' && bytes.Contains(k, hash) },
		"history": func(k, _ []byte) bool { return k[0] == 'N' && k[24] == 'h' && bytes.Contains(k, hash) },
	} {
		to := filepath.Join(t.TempDir(), place)
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		plantRows(t, before, filepath.Join(to, "store"), is)
		found := 0
		for _, p := range check(to).Places {
			if p.Place == place {
				found = p.Found
			}
		}
		if found == 0 {
			t.Errorf("what was put back of %s is not found", place)
		}
	}
}

// plant puts what a store has of a receipt's identity into another one.
func plant(t *testing.T, from, to string, r proto.Receipt) {
	t.Helper()
	hash, err := hex.DecodeString(r.IdentityHash)
	if err != nil {
		t.Fatal(err)
	}
	plantRows(t, from, to, func(k, _ []byte) bool { return k[0] == 'N' && bytes.Contains(k, hash) })
}

// plantRows puts those rows of a store into another one.
func plantRows(t *testing.T, from, to string, which func(k, v []byte) bool) {
	t.Helper()
	source, target := testStore(t, from), testStore(t, to)
	snap, batch, rows := source.Snapshot(), target.NewBatch(), 0
	err := snap.Scan(nil, nil, func(k, v []byte) (bool, error) {
		if !which(k, v) {
			return true, nil
		}
		rows++
		return true, batch.Set(bytes.Clone(k), bytes.Clone(v))
	})
	snap.Release()
	if err := errors.Join(err, batch.Commit(), source.Close(), target.Close()); err != nil || rows == 0 {
		t.Fatalf("%d rows planted: %v", rows, err)
	}
}

func testStore(t *testing.T, dir string) *store.Badger {
	t.Helper()
	s, err := store.Open(store.Config{Dir: dir, Small: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// restoreOld restores a backup from before the opt-out: refused without a
// ledger, and with it the canary stays away.
func restoreOld(t *testing.T, backup []byte, dir string, lanes int, said *bytes.Buffer) {
	t.Helper()
	to := engine.Config{Dir: filepath.Join(t.TempDir(), "restored"), LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true, Lanes: lanes}
	if err := engine.Restore(t.Context(), to, bytes.NewReader(backup)); proto.CodeOf(err) != proto.CodeInvalid {
		t.Fatalf("restored without a ledger: %v", err)
	}
	to.Ledger = dir
	if err := engine.Restore(t.Context(), to, bytes.NewReader(backup)); err != nil {
		t.Fatal(err)
	}
	n := testNode(t, to.Dir, func(c *engine.Config) { c.Lanes = lanes })
	c := acme(t, n)
	shownNowhere(t, n, c, said)
	settle(t, n)
	if _, err := n.EraseBytes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if files := holds(t, to.Dir); len(files) > 0 {
		t.Errorf("restored and erased, these files still have it: %v", files)
	}
	var ledger bytes.Buffer
	if err := n.WriteLedger(t.Context(), &ledger); err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)
	file := filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(file, ledger.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	to.Dir, to.Ledger = filepath.Join(t.TempDir(), "again"), file
	if err := engine.Restore(t.Context(), to, bytes.NewReader(backup)); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, to.Dir, func(c *engine.Config) { c.Lanes = lanes })
	shownNowhere(t, n, acme(t, n), said)
	closeNode(t, n)
}

// A directory is read by the secrets that its store was made with, and no secret is
// made for it.
func TestStoredByItsSecrets(t *testing.T) {
	dir, secret := t.TempDir(), bytes.Repeat([]byte{7}, 16)
	n := testNode(t, dir, func(c *engine.Config) { c.HashSecret = secret })
	flock(t, n, acme(t, n))
	r := optOut(t, n, canary, false)
	closeNode(t, n)
	if err := os.Remove(filepath.Join(dir, "secrets", "receipt.key")); err != nil {
		t.Fatal(err)
	}
	for what, wrong := range map[string][]byte{"no secret": nil, "another secret": bytes.Repeat([]byte{8}, 16)} {
		c := engine.Config{Dir: dir, LogBytesMax: 64 << 20, HashSecret: wrong}
		if v, err := engine.Verify(t.Context(), c); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("verify with %s: %v %v", what, err, v.Problems)
		}
	}
	c := engine.Config{Dir: dir, LogBytesMax: 64 << 20, HashSecret: secret}
	if v, err := engine.Verify(t.Context(), c); err != nil || len(v.Problems) > 0 {
		t.Errorf("verify with the node's secret: %v %v", err, v.Problems)
	}
	if x, err := engine.CheckReceipt(t.Context(), c, r); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("a receipt without the key of receipts: %+v %v", x, err)
	}
	c.HashSecret = nil
	if _, err := engine.HashOf(c, canary); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("an identity's hash without the secret: %v", err)
	}
	c.Dir = t.TempDir()
	if _, err := engine.Verify(t.Context(), c); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("verify of a directory of no node: %v", err)
	}
	for _, d := range []string{filepath.Join(dir, "secrets"), c.Dir} {
		if list, err := os.ReadDir(d); err != nil || len(list) > 0 {
			t.Errorf("%s has %v: %v", d, list, err)
		}
	}
}

// A receipt of a cluster is held against the directory of one of its nodes, by the key
// that all of them have or, from before it was in a cluster, by that of its directory;
// the log that they keep together is left alone.
func TestReceiptOfCluster(t *testing.T) {
	dir, secret := t.TempDir(), make([]byte, 16)
	n := testNode(t, dir, func(c *engine.Config) { c.HashSecret = secret })
	flock(t, n, acme(t, n))
	r := optOut(t, n, canary, false)
	closeNode(t, n)
	c := engine.Config{Dir: dir, LogBytesMax: 64 << 20, HashSecret: secret, ForCluster: true}
	for _, name := range []string{"receipt.key", "lost.key"} {
		if err := os.Rename(filepath.Join(dir, "secrets", "receipt.key"), filepath.Join(dir, "secrets", name)); err != nil {
			t.Fatal(err)
		}
		if x, err := engine.CheckReceipt(t.Context(), c, r); err != nil || x.Signature != (name == "receipt.key") {
			t.Errorf("of before, with its key as %s: %+v %v", name, x, err)
		}
	}
	key := ed25519.NewKeyFromSeed(engine.CommonKey(secret, "key of receipts"))
	r.PublicKey = hex.EncodeToString(key.Public().(ed25519.PublicKey))
	r.Signature = hex.EncodeToString(ed25519.Sign(key, r.SignedBytes()))
	for _, name := range []string{"log", "secrets"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if x, err := engine.CheckReceipt(t.Context(), c, r); err != nil || !x.Signature || !x.Clean || !x.LogUnread || x.LogClear {
		t.Errorf("%+v %v", x, err)
	}
	for _, name := range []string{"log", "secrets"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made: %v", name, err)
		}
	}
}

// After a restore the log is another one, whose offsets go on from the backup's: nothing
// in it is from before a receipt of the node as it was, nor from before the opt-outs that
// the restore did again.
func TestReceiptsAfterRestore(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		dir := t.TempDir()
		past := func() time.Time { return time.Now().Add(-48 * time.Hour) } // its receipts are due
		n := testNode(t, dir+"/old", func(c *engine.Config) { c.Lanes, c.Now = 4, past })
		e := page(acme(t, n), "x", "auto", past())
		e.Identities = []proto.Identity{canary}
		submit(t, n, e)
		var backup bytes.Buffer
		if err := n.Backup(t.Context(), &backup); err != nil {
			t.Fatal(err)
		}
		r := optOut(t, n, canary, false)
		if check := wantClean(t, n, r); check.LogClear {
			t.Error("the log is clear before the restore: the test sees nothing")
		}
		var ledger bytes.Buffer
		if err := n.WriteLedger(t.Context(), &ledger); err != nil {
			t.Fatal(err)
		}
		closeNode(t, n)
		if err := os.WriteFile(dir+"/ledger", ledger.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		c := engine.Config{Dir: dir + "/new", LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true, Ledger: dir + "/ledger", RestoreLanes: lanes}
		if err := engine.Restore(t.Context(), c, &backup); err != nil {
			t.Fatal(err)
		}
		n = testNode(t, c.Dir, func(c *engine.Config) { c.Lanes = lanes })
		s, err := n.OptOutState(t.Context(), canary)
		for err == nil && s.Receipt == nil { // the restore's is carried out as the node goes on
			if err = n.AwaitChange(t.Context()); err == nil {
				s, err = n.OptOutState(t.Context(), canary)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, r := range map[string]proto.Receipt{"from before": r, "done again": *s.Receipt} {
			if check := wantClean(t, n, r); !check.LogClear {
				t.Errorf("%d lanes, %s: the log begins at %d, the receipt is of %d", lanes, name, check.LogFirst, r.Offset)
			}
		}
		closeNode(t, n)
	}
}

// Of messages under way those count that name a generation which was erased: the number
// in a message is the sender's, or by its kind the receiver's.
func TestReceiptOfErasureAndMessages(t *testing.T) {
	x, other := proto.IdentityHash{1}, proto.IdentityHash{2}
	from := func(m graph.Message) graph.Message { m.From, m.To = x, proto.Node{Hash: other, Space: 1}; return m }
	to := func(m graph.Message) graph.Message { m.From, m.To = other, proto.Node{Hash: x, Space: 1}; return m }
	copyOf := func(gen uint32, edges ...graph.Edge) *graph.Contribution {
		return &graph.Contribution{Gen: gen, Edges: edges}
	}
	for _, tt := range []struct {
		m   graph.Message
		old int
	}{
		{from(graph.Message{Kind: graph.Half, Gen: 1}), 1},
		{from(graph.Message{Kind: graph.Half, Gen: 3}), 0},
		{from(graph.Message{Kind: graph.Release, Gen: 1}), 0}, // of whom it is for
		{from(graph.Message{Kind: graph.UnlinkAck, Gen: 1}), 0},
		{from(graph.Message{Kind: graph.CutDone, Gen: 1, AboutGen: 3}), 0},
		{from(graph.Message{Kind: graph.CutDone, Gen: 3, AboutGen: 1}), 1},
		{from(graph.Message{Kind: graph.Contrib, Copy: copyOf(1)}), 1},
		{from(graph.Message{Kind: graph.Contrib, Copy: copyOf(3)}), 0},
		{to(graph.Message{Kind: graph.HalfOK, Gen: 1, ToGen: 3}), 0},
		{to(graph.Message{Kind: graph.HalfOK, Gen: 1, ToGen: 1}), 1},
		{to(graph.Message{Kind: graph.Release, Gen: 1}), 1},
		{to(graph.Message{Kind: graph.Release, Gen: 3}), 0},
		{to(graph.Message{Kind: graph.Contrib, Copy: copyOf(1, graph.Edge{Peer: x, Gen: 1})}), 1},
		{to(graph.Message{Kind: graph.Contrib, Copy: copyOf(1, graph.Edge{Peer: x, Gen: 3})}), 0},
		{to(graph.Message{Kind: graph.Invite, List: []graph.Ref{{Peer: x, Gen: 1}}}), 1},
		{graph.Message{Kind: graph.Refuse, From: other, To: proto.Node{Hash: other, Space: 1}, About: x, AboutGen: 1, ToGen: 1}, 1},
		{graph.Message{Kind: graph.Half, From: other, To: proto.Node{Hash: other, Space: 1}, Gen: 1}, 0},
	} {
		if got := engine.OldMessages(x, 3, []graph.Message{tt.m}); got != tt.old {
			t.Errorf("%v of generation %d for %d: %d count, want %d", tt.m.Kind, tt.m.Gen, tt.m.ToGen, got, tt.old)
		}
	}
}

// The check of what a client had erased finds each thing of before that is put back: its
// links at either end and, of a node that nobody else knew, the name; and nothing else,
// be it what others know or what the client has learnt since.
func TestReceiptOfClientsErasure(t *testing.T) {
	for what, shared := range map[string]bool{"others know it too": true, "nobody else does": false} {
		t.Run(what, func(t *testing.T) {
			dir, before := t.TempDir(), filepath.Join(t.TempDir(), "before")
			lanes := func(c *engine.Config) { c.Lanes = 4 }
			n := testNode(t, dir, lanes)
			mine, _ := grouped(t, n, "alpha")
			other, _ := grouped(t, n, "beta")
			join := func(c proto.ClientInfo, id proto.Identity) *proto.Event {
				e := page(c, "v", "auto", time.Now())
				e.Identities = append(e.Identities, id)
				return e
			}
			submit(t, n, join(mine, "account:y"))
			if shared {
				submit(t, n, join(other, "account:z"))
			}
			settle(t, n)
			if err := n.Backup(t.Context(), io.Discard); err != nil { // the store has it then
				t.Fatal(err)
			}
			if err := os.CopyFS(before, os.DirFS(filepath.Join(dir, "store"))); err != nil {
				t.Fatal(err)
			}
			s, err := n.Erase(t.Context(), &mine, "browser:v")
			if err != nil || !s.Final || s.Receipt == nil {
				t.Fatalf("erased: %+v %v", s, err)
			}
			r := *s.Receipt
			wantClean(t, n, r)
			until(t, n, 20*time.Second, "it is not linked again", func() bool {
				submit(t, n, join(mine, "account:y"), join(other, "account:z"))
				settle(t, n)
				return len(membersOf(t, n, mine, "browser:v")) == 3
			})
			wantClean(t, n, r)
			hash, err := hex.DecodeString(r.IdentityHash)
			if err != nil {
				t.Fatal(err)
			}
			neighbour := n.Hasher().Hash("account:y")
			closeNode(t, n)
			rows := map[string]func(k, v []byte) bool{
				"edges": func(k, _ []byte) bool { return k[0] == 'N' && k[24] == 'f' && bytes.Contains(k, neighbour[:]) },
				"facts": func(k, _ []byte) bool { return k[0] == 'N' && k[24] == 'f' && bytes.Contains(k, hash) },
			}
			if !shared {
				rows["names"] = func(k, v []byte) bool { return k[0] == 'L' && k[2] == 'o' && bytes.Contains(v, []byte("browser:v")) }
			}
			for place, is := range rows {
				to := filepath.Join(t.TempDir(), place)
				if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				plantRows(t, before, filepath.Join(to, "store"), is)
				n := testNode(t, to, lanes)
				x, err := n.CheckReceipt(t.Context(), 0, r)
				found := 0
				for _, p := range x.Places {
					if p.Place == place {
						found = p.Found
					}
				}
				if err != nil || found == 0 || x.Clean {
					t.Errorf("what was put back of %s is not found: %+v %v", place, x, err)
				}
				closeNode(t, n)
			}
		})
	}
}

// A link to who came back that is proposed, or removed, and not agreed to yet names no
// generation: it is of what came back if it is newer than the erasure.
func TestReceiptOfErasureAndProposals(t *testing.T) {
	const at = proto.Millis(1_800_000_000_000)
	proposed := func(gen uint32, t proto.Millis) graph.Neighbour {
		l := graph.Neighbour{Peer: proto.IdentityHash{1}, Stage: graph.Pending, Gen: gen, Evidence: graph.Evidence{Time: t, Confidence: 1000, Client: 1}}
		if gen > 0 {
			l.Stage = graph.Established
		}
		return l
	}
	removed := func(gen uint32, t proto.Millis) graph.Neighbour {
		return graph.Neighbour{Peer: proto.IdentityHash{1}, Mark: graph.RemovedMark, MarkGen: gen, MarkTime: t, Told: 1}
	}
	for what, x := range map[string]struct {
		gen  uint32
		link graph.Neighbour
		old  bool
	}{
		"proposed since":              {3, proposed(0, at+600), false},
		"removed since":               {3, removed(0, at+600), false},
		"agreed since":                {3, proposed(3, at+600), false},
		"proposed before":             {3, proposed(0, at), true},
		"removed before":              {3, removed(0, at), true},
		"agreed before":               {3, proposed(1, at), true},
		"proposed to who is not back": {0, proposed(0, at+600), true},
	} {
		if got := engine.OldEdge(at, x.gen, x.link); got != x.old {
			t.Errorf("%s: old is %v", what, got)
		}
	}
}
