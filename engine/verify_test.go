package engine_test

import (
	"testing"

	"kith/proto"
)

// A node verifies once at a time: each one holds much of the data in memory.
func TestOneVerificationAtATime(t *testing.T) {
	n := testNode(t, t.TempDir())
	release := n.HoldVerifying()
	if _, err := n.Verify(t.Context()); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("beside another one: %v", err)
	}
	release()
	for range 2 {
		verifyClean(t, n)
	}
	closeNode(t, n)
}
