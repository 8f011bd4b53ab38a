package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// The unions of many audiences may be too long together: the command says so, and what
// to do, rather than ask for what it did not get from whoever calls it.
func TestReachIsBounded(t *testing.T) {
	list, err := reachExprs(slices.Repeat([]string{strings.Repeat("x", 40)}, reachMax))
	if err != nil || len(list) != 3*reachMax {
		t.Errorf("of short audiences: %d, %v", len(list), err)
	}
	_, err = reachExprs(slices.Repeat([]string{strings.Repeat("x", 60)}, reachMax))
	if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), "use @names") {
		t.Errorf("of long audiences: %v", err)
	}
}
