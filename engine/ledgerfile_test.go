package engine_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"kith/engine"
	"kith/proto"
)

// A directory that was begun after the backup is not the lost node's, though it has its
// secret: it knows of none of the opt-outs in between. One that a restore made has them.
func TestRestoreWithLedgerOfAnother(t *testing.T) {
	dir, secret := t.TempDir(), bytes.Repeat([]byte{3}, 16)
	at := func(name string) string { return filepath.Join(dir, name) }
	node := func(name string, secret []byte) *engine.Node {
		return testNode(t, at(name), func(c *engine.Config) { c.HashSecret = secret })
	}
	closeNode(t, node("another", bytes.Repeat([]byte{4}, 16)))
	n := node("lost", secret)
	var backup bytes.Buffer
	if err := n.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	optOut(t, n, "browser:gone", false)
	closeNode(t, n)
	closeNode(t, node("fresh", secret))
	for _, tt := range []struct {
		ledger, to string
		code       proto.Code
	}{
		{"fresh", "", proto.CodeConflict},
		{"another", "", proto.CodeConflict},
		{"lost", "restored", ""},
		{"restored", "again", ""}, // begun after the backup, by a restore
	} {
		c := engine.Config{Dir: at(tt.to), LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true, HashSecret: secret, Ledger: at(tt.ledger)}
		if tt.to == "" {
			c.Dir = at("refused-" + tt.ledger)
		}
		if err := engine.Restore(t.Context(), c, bytes.NewReader(backup.Bytes())); proto.CodeOf(err) != tt.code {
			t.Fatalf("with the ledger of %s: %v", tt.ledger, err)
		}
		if tt.code != "" {
			continue
		}
		n := node(tt.to, secret)
		if s, err := n.OptOutState(t.Context(), "browser:gone"); err != nil || !s.OptedOut {
			t.Errorf("with the ledger of %s: %+v %v", tt.ledger, s, err)
		}
		closeNode(t, n)
	}
}
