package engine_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kith/engine"
)

// A node that has served and lost its key of receipts says so; a new one does not.
func TestLostReceiptKeyIsTold(t *testing.T) {
	dir := t.TempDir()
	for _, lost := range []bool{false, true} {
		var said bytes.Buffer
		n := testNode(t, dir, func(c *engine.Config) { c.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
		closeNode(t, n)
		if got := strings.Contains(said.String(), "key of receipts is lost"); got != lost {
			t.Errorf("told: %v, want %v", got, lost)
		}
		if err := os.Remove(filepath.Join(dir, "secrets", "receipt.key")); err != nil {
			t.Fatal(err)
		}
	}
}
