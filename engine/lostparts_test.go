package engine_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// A node of which one part is lost, with a backup from before browser:out opted out.
func lostParts(t *testing.T) (dir string, old []byte) {
	dir = t.TempDir()
	n := testNode(t, dir)
	var file bytes.Buffer
	if err := n.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	submit(t, n, page(acme(t, n), "early", "auto", time.Now()))
	for _, id := range []proto.Identity{"browser:first", "browser:out", "browser:last"} {
		optOut(t, n, id, false)
	}
	closeNode(t, n)
	return dir, file.Bytes()
}

func streamDir(dir, name string) string {
	return filepath.Join(dir, "log", "jetstream", "$G", "streams", name)
}

func isOut(t *testing.T, n *engine.Node, id proto.Identity) bool {
	t.Helper()
	s, err := n.OptOutState(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s.OptedOut
}

// The ledger of opt-outs is written anew if its stream is lost: a restore goes by it.
func TestLostLedgerIsWrittenAnew(t *testing.T) {
	dir, old := lostParts(t)
	if err := os.RemoveAll(streamDir(dir, "KITH_OPTOUT")); err != nil {
		t.Fatal(err)
	}
	n := testNode(t, dir)
	var ledger bytes.Buffer
	if err := n.WriteLedger(t.Context(), &ledger); err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)
	name := filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(name, ledger.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := engine.Config{Dir: filepath.Join(t.TempDir(), "data"), Lanes: 1, LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true, Ledger: name}
	if err := engine.Restore(t.Context(), c, bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, c.Dir)
	defer closeNode(t, n)
	if !isOut(t, n, "browser:out") {
		t.Error("who opted out is back")
	}
}

// A node whose store is to be made anew from the lanes' log does not go on with another
// control stream, nor with a log that lost opt-outs that the ledger has.
func TestLostPartsAreMissed(t *testing.T) {
	for what, x := range map[string]struct {
		lose func(dir string) error
		want string
	}{
		"control": {func(dir string) error { return os.RemoveAll(streamDir(dir, "KITH_CTL")) }, "control records"},
		"tail": {func(dir string) error {
			msgs := filepath.Join(streamDir(dir, "KITH_L00"), "msgs")
			blocks, _ := filepath.Glob(filepath.Join(msgs, "*.blk"))
			st, err := os.Stat(blocks[0])
			if err != nil {
				return err
			}
			return errors.Join(os.Truncate(blocks[0], st.Size()*2/3), os.Remove(filepath.Join(msgs, "index.db")))
		}, "lost its tail"},
	} {
		dir, _ := lostParts(t)
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, "store")), x.lose(dir)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			n, err := openNode(t, dir)
			if err == nil {
				closeNode(t, n)
			}
			if proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if what != "tail" {
			continue
		}
		n := testNode(t, dir, func(c *engine.Config) { c.RebaseLog = true })
		if !isOut(t, n, "browser:first") || !isOut(t, n, "browser:out") {
			t.Error("who opted out is back after --rebase-log")
		}
		if seen, _ := lookup(t, n, acme(t, n), "browser:early"); !seen.Known {
			t.Error("what the log still had was not applied with --rebase-log")
		}
		closeNode(t, n)
	}
}
