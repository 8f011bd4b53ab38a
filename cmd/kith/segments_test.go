package main

import (
	"fmt"
	"strings"
	"testing"

	"kith/proto"
)

// A file's segments come in an order in which they can be defined, else as they stand.
func TestSegmentsInOrder(t *testing.T) {
	source := func(lines ...string) []byte {
		var b strings.Builder
		b.WriteString("segments:\n")
		for _, l := range lines {
			id, when, _ := strings.Cut(l, " ")
			fmt.Fprintf(&b, "  - id: %s\n    when: '%s'\n", id, when)
		}
		return []byte(b.String())
	}
	for want, lines := range map[string][]string{
		"a b c":   {"a true", "b true", "c true"},
		"c b a d": {`a member("b") && member("elsewhere")`, `b !member("c")`, "c true", `d member("a")`},
		"b a":     {`a member("b")`, `b member("a")`}, // in a circle: the node refuses it
		"x a":     {"x coun(", "a true"},
	} {
		list, err := parseSegments("f", source(lines...))
		var got []string
		for _, s := range list {
			got = append(got, s.ID)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q are taken as %v, %v, want %s", lines, got, err, want)
		}
	}
	if _, err := parseSegments("f", source("a true", "b true", "a false")); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), "f:7: segment a is in the file already, at line 3") {
		t.Errorf("a segment that is there twice: %v", err)
	}
}
